//! Owners without a device or without a proven one, mute lists, and what deliveries contain.

use nostr::{event::Tag, key::PublicKey};
use nostr_push_core::{message::MAX_DELIVERED_CONTENT, subscription::MUTE_LIST_PREFIX};

use super::*;
use crate::{limits::MAX_LARGE_FILTERS_OF_NEWCOMERS, newcomers::MAX_DELIVERIES_PER_NEWCOMER};

#[tokio::test]
async fn nothing_is_queued_for_owners_without_a_device() {
    let author = Keys::generate();
    let filter = json!({"authors": [author.public_key().to_hex()]});
    let rows: Vec<Subscription> = (0..30).map(|_| subscription(&anyone(), &filter)).collect();
    let fixture = Fixture::with(&rows).await;
    let (without_roster, ended) = (&rows[0].owner, &rows[1].owner);
    fixture.memory.state().rosters.remove(without_roster);
    for roster in fixture.memory.state().rosters.values_mut() {
        if roster.owner == *ended {
            roster.active_until = Seconds(NOW);
        }
    }
    let outcome = fixture.live(&event(&author, 1, NOW, &[], "hi")).await;
    let expected = MatchOutcome {
        recipients: 28,
        no_device: 2,
        ..MatchOutcome::default()
    };
    assert_eq!(outcome, expected);
    let reached: BTreeSet<_> = deliveries(&fixture.memory)
        .iter()
        .map(|d| d.recipient)
        .collect();
    assert_eq!(
        reached,
        rows[2..].iter().map(|row| row.owner.pubkey).collect()
    );
    fixture.memory.state().rosters.clear();
    let outcome = fixture.live(&event(&author, 1, NOW, &[], "again")).await;
    let nobody = MatchOutcome {
        no_device: 30,
        ..MatchOutcome::default()
    };
    assert_eq!(outcome, nobody);
}

#[tokio::test]
async fn proven_owners_are_not_limited_as_newcomers_are() {
    let author = Keys::generate();
    let filter = json!({"authors": [author.public_key().to_hex()]});
    let (newcomer, proven) = (anyone(), anyone());
    let rows = [
        subscription(&newcomer, &filter),
        subscription(&proven, &filter),
    ];
    for (budget, expected) in [(u64::MAX, MAX_DELIVERIES_PER_NEWCOMER), (100, 100), (0, 0)] {
        let mut fixture = Fixture::with(&rows).await;
        fixture.matcher = Matcher::new(budget);
        fixture
            .memory
            .state()
            .rosters
            .get_mut(&proven)
            .unwrap()
            .proven = true;
        let mut over_budget = 0;
        for n in 0..310 {
            let note = event(&author, 1, NOW, &[], &n.to_string());
            over_budget += fixture.live(&note).await.newcomers_over_budget;
        }
        let deliveries = deliveries(&fixture.memory);
        let to = |owner: &Owner| {
            deliveries
                .iter()
                .filter(|d| d.recipient == owner.pubkey)
                .count()
        };
        assert_eq!(to(&newcomer), expected as usize);
        assert_eq!(to(&proven), 310);
        assert_eq!(over_budget, 310 - u64::from(expected));
    }
}

/// A filter for the notes about `t` by this author and 100 others. It is too large for the index.
fn large_filter(author: &Keys) -> Value {
    let others = (0..100).map(|n| format!("{n:064x}"));
    let authors: Vec<String> = others.chain([author.public_key().to_hex()]).collect();
    json!({"#t": ["a"], "authors": authors})
}

#[tokio::test]
async fn few_large_filters_of_newcomers_are_read() {
    const NEWCOMERS: usize = 1_550;
    let author = Keys::generate();
    let filter = large_filter(&author);
    let mut rows: Vec<Subscription> = (0..NEWCOMERS)
        .map(|_| subscription(&anyone(), &filter))
        .collect();
    let known: Vec<Owner> = (0..20).map(|_| anyone()).collect();
    rows.extend(known[..10].iter().map(|owner| subscription(owner, &filter)));
    let small = json!({"#t": ["a"]});
    rows.extend(known[10..].iter().map(|owner| subscription(owner, &small)));
    let fixture = Fixture::with(&rows).await;
    for owner in &known {
        let mut state = fixture.memory.state();
        state.rosters.get_mut(owner).unwrap().proven = true;
    }
    let note = event(&author, 1, NOW, &[&["t", "a"]], "");
    let expected = MatchOutcome {
        recipients: (known.len() + MAX_LARGE_FILTERS_OF_NEWCOMERS) as u64,
        newcomers_over_budget: (NEWCOMERS - MAX_LARGE_FILTERS_OF_NEWCOMERS) as u64,
        ..MatchOutcome::default()
    };
    assert_eq!(fixture.live(&note).await, expected);
    let reached: BTreeSet<_> = deliveries(&fixture.memory)
        .iter()
        .map(|d| d.recipient)
        .collect();
    assert!(known.iter().all(|owner| reached.contains(&owner.pubkey)));
    let read = fixture.memory.state().subscriptions_read;
    assert_eq!(read, 10 + MAX_LARGE_FILTERS_OF_NEWCOMERS);
    // The next event has reads of its own.
    let note = event(&author, 1, NOW, &[&["t", "a"]], "again");
    assert_eq!(fixture.live(&note).await, expected);
}

#[tokio::test]
async fn large_filters_of_owners_without_a_device_are_not_read() {
    let author = Keys::generate();
    let filter = large_filter(&author);
    let rows: Vec<Subscription> = (0..30).map(|_| subscription(&anyone(), &filter)).collect();
    let fixture = Fixture::with(&rows).await;
    let (without_roster, ended) = (&rows[0].owner, &rows[1].owner);
    {
        let mut state = fixture.memory.state();
        state.rosters.remove(without_roster);
        for roster in state.rosters.values_mut() {
            roster.proven = true;
        }
        state.rosters.get_mut(ended).unwrap().active_until = Seconds(NOW);
    }
    let note = event(&author, 1, NOW, &[&["t", "a"]], "");
    assert_eq!(fixture.live(&note).await, pushed_to(28));
    assert_eq!(fixture.memory.state().subscriptions_read, 28);
    fixture.memory.state().rosters.clear();
    assert_eq!(fixture.live(&note).await, dropped(MatchDropReason::NoMatch));
    assert_eq!(fixture.memory.state().subscriptions_read, 28);
}

#[tokio::test]
async fn long_content_is_cut_in_deliveries() {
    let fixture = Fixture::with(&[subscription(&anyone(), &json!({"#t": ["a"]}))]).await;
    let content = "é".repeat(100_000);
    let note = event(&Keys::generate(), 1, NOW, &[&["t", "a"]], &content);
    fixture.live(&note).await;
    let delivery = deliveries(&fixture.memory).pop().unwrap();
    assert!(delivery.cut && delivery.event.content == "é".repeat(MAX_DELIVERED_CONTENT / 2));
}

#[tokio::test]
async fn long_tags_are_cut_in_deliveries() {
    let rows: Vec<Subscription> = (0..120)
        .map(|_| anyone())
        .map(|owner| subscription(&owner, &json!({"#p": [owner.pubkey.to_hex()]})))
        .collect();
    let fixture = Fixture::with(&rows).await;
    let people: Vec<String> = rows.iter().map(|row| row.owner.pubkey.to_hex()).collect();
    let tags: Vec<[&str; 2]> = people.iter().map(|pubkey| ["p", pubkey.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(<[&str; 2]>::as_slice).collect();
    let note = event(&Keys::generate(), 1, NOW, &tags, "hi");
    assert_eq!(fixture.live(&note).await, pushed_to(120));
    for delivery in deliveries(&fixture.memory) {
        assert_eq!((delivery.mentions, delivery.cut), (Some(120), false));
        let own = [["p".to_owned(), delivery.recipient.to_hex()]];
        let tags = delivery.event.tags.iter().map(Tag::as_slice);
        assert!(tags.eq(own.iter().map(<[String; 2]>::as_slice)));
    }
}

/// The subscription that fetches the owner's own mute list.
fn mute_list_subscription(owner: &Owner, filter: &Value) -> Subscription {
    Subscription {
        identity: format!("{MUTE_LIST_PREFIX}x"),
        ..subscription(owner, filter)
    }
}

fn muted(fixture: &Fixture, pubkey: PublicKey) -> Vec<String> {
    let entries = fixture.memory.state().mute_lists[&pubkey].entries.clone();
    entries.into_iter().collect()
}

#[tokio::test]
async fn stores_newest_mute_list_of_any_age() {
    let keys = Keys::generate();
    let alice = owner(keys.public_key());
    let filter = json!({"kinds": [10_000], "authors": [alice.pubkey.to_hex()]});
    let fixture = Fixture::with(&[
        mute_list_subscription(&alice, &filter),
        subscription(&anyone(), &filter),
    ])
    .await;
    let list = |at, word: &str| event(&keys, 10_000, at, &[&["word", word]], "");
    let stored = MatchOutcome {
        is_mute_list: true,
        ..MatchOutcome::default()
    };
    let old = list(NOW - 400 * MAX_PRIVATE_AGE.0, "Old");
    assert_eq!(fixture.backfilled(&old).await, stored);
    assert_eq!(muted(&fixture, alice.pubkey), ["word:old"]);
    // Another owner's own filter for such lists causes a push.
    let stored_and_pushed = MatchOutcome {
        recipients: 1,
        ..stored
    };
    assert_eq!(fixture.live(&list(NOW, "new")).await, stored_and_pushed);
    fixture.backfilled(&list(NOW - 1, "late")).await;
    assert_eq!(muted(&fixture, alice.pubkey), ["word:new"]);
    // Other events of the owner hit no index key.
    let note = event(&keys, 1, NOW, &[], "hello");
    assert!(fixture.interest.hits(&note).is_empty());
}

#[tokio::test]
async fn only_mute_lists_of_owners_are_stored() {
    let (keys, stranger) = (Keys::generate(), Keys::generate());
    let alice = owner(keys.public_key());
    let list_of = |pubkey: PublicKey| json!({"kinds": [10_000], "authors": [pubkey.to_hex()]});
    let filter = list_of(alice.pubkey);
    let own = mute_list_subscription(&alice, &filter);
    let other = subscription(&anyone(), &list_of(stranger.public_key()));
    let mut fixture = Fixture::with(&[own.clone(), other]).await;
    let list = |keys: &Keys| event(keys, 10_000, NOW, &[&["word", "x"]], "");
    // Somebody else's filter for the list of a stranger.
    assert_eq!(fixture.live(&list(&stranger)).await, pushed_to(1));
    // A list that hits another key.
    let content = ContentMessage {
        hits: vec!["kind:10000".parse().unwrap()],
        ..content(&fixture.interest, &list(&keys))
    };
    let no_match = dropped(MatchDropReason::NoMatch);
    assert_eq!(fixture.handle(&content).await, no_match);
    // A subscription that has ended.
    let index = fixture.memory.state().index.clone();
    for row in fixture.memory.state().index.values_mut() {
        row.valid_until = Seconds(NOW);
    }
    assert_eq!(fixture.live(&list(&keys)).await, no_match);
    assert!(fixture.memory.state().mute_lists.is_empty());
    // The rows of others do not hide the owner's own.
    fixture.memory.state().index = index;
    fixture.memory.state().page_size = Some(2);
    for _ in 0..20 {
        store(
            &fixture.memory,
            &mut fixture.interest,
            &subscription(&anyone(), &filter),
        )
        .await;
    }
    assert!(fixture.live(&list(&keys)).await.is_mute_list);
    assert_eq!(muted(&fixture, alice.pubkey), ["word:x"]);
}
