//! The stage as a whole, on the ports in memory, and the filter index against brute force.

mod limits;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};

use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    MAX_AHEAD, MAX_PRIVATE_AGE, MAX_PUBLIC_AGE, Millis, PRIVATE_KINDS, Seconds,
    interest::Interest,
    message::{self, ContentMessage, Delivery, DeliveryMessage},
    order::Order,
    owner::Owner,
    ports::{IndexWriter, Subscriptions},
    subscription::Subscription,
};
use nostr_push_testkit::{builders::roster, event, memory::Memory, owner};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    handler::{Matcher, notifies_until},
    outcome::{MatchDropReason, MatchOutcome},
};

const NOW: u64 = 1_800_000_000;

fn subscription(owner: &Owner, filter: &Value) -> Subscription {
    Subscription {
        since: Seconds(NOW - 100),
        ..nostr_push_testkit::subscription(owner, filter)
    }
}

async fn store(memory: &Memory, interest: &mut Interest, row: &Subscription) {
    memory.put_index(row.index_rows().collect()).await.unwrap();
    memory.put(row).await.unwrap();
    interest.apply(row, Seconds(NOW));
}

/// The message of a live event with these subscriptions stored.
fn content(interest: &Interest, event: &Event) -> ContentMessage {
    ContentMessage {
        relay: "wss://relay".to_owned(),
        received_at: Seconds(NOW).to_millis(),
        backfill: false,
        from_owners_relay: false,
        hits: interest.hits(event),
        position: None,
        event: event.clone(),
    }
}

/// The deliveries that were sent.
fn deliveries(memory: &Memory) -> Vec<Delivery> {
    let sent = memory.state().sent.clone();
    let messages = sent.iter().filter_map(|body| message::decode(body).ok());
    messages
        .filter_map(|message| match message {
            DeliveryMessage::Event(delivery) => Some(*delivery),
            DeliveryMessage::Summary(_) => None,
        })
        .collect()
}

/// The stage with stored subscriptions. Their owners have a device.
struct Fixture {
    matcher: Matcher,
    memory: Memory,
    interest: Interest,
}

impl Fixture {
    async fn with(rows: &[Subscription]) -> Self {
        let (memory, mut interest) = (Memory::default(), Interest::default());
        for row in rows {
            store(&memory, &mut interest, row).await;
            let roster = roster(&row.owner, &[]);
            memory.state().rosters.insert(row.owner.clone(), roster);
        }
        Self {
            matcher: Matcher::new(u64::MAX),
            memory,
            interest,
        }
    }

    async fn live(&self, event: &Event) -> MatchOutcome {
        self.handle(&content(&self.interest, event)).await
    }

    async fn backfilled(&self, event: &Event) -> MatchOutcome {
        let content = ContentMessage {
            backfill: true,
            ..content(&self.interest, event)
        };
        self.handle(&content).await
    }

    /// The event as only a relay of owners sent it.
    async fn live_from_owners_relay(&self, relay: &str, event: &Event) -> MatchOutcome {
        let content = ContentMessage {
            relay: relay.to_owned(),
            from_owners_relay: true,
            ..content(&self.interest, event)
        };
        self.handle(&content).await
    }

    async fn handle(&self, content: &ContentMessage) -> MatchOutcome {
        self.handle_with_clock(content, || Seconds(NOW).to_millis())
            .await
    }

    async fn handle_with_clock(
        &self,
        content: &ContentMessage,
        clock: impl Fn() -> Millis,
    ) -> MatchOutcome {
        self.matcher
            .handle(&self.memory, &self.memory, content, clock)
            .await
            .unwrap()
    }
}

fn anyone() -> Owner {
    owner(Keys::generate().public_key())
}

fn pushed_to(recipients: u64) -> MatchOutcome {
    MatchOutcome {
        recipients,
        ..MatchOutcome::default()
    }
}

fn dropped(reason: MatchDropReason) -> MatchOutcome {
    MatchOutcome {
        dropped: Some(reason),
        ..MatchOutcome::default()
    }
}

#[tokio::test]
async fn merges_subscriptions_of_a_recipient_into_one_delivery() {
    let (alice, author) = (anyone(), Keys::generate());
    let (p, a) = (alice.pubkey.to_hex(), author.public_key().to_hex());
    let other_app = Owner {
        app: "other".to_owned(),
        ..alice.clone()
    };
    let fixture = Fixture::with(&[
        subscription(&alice, &json!({"kinds": [1], "#p": [p]})),
        subscription(&alice, &json!({"authors": [a]})),
        subscription(&alice, &json!({"kinds": [7], "#p": [p]})),
        subscription(&other_app, &json!({"#p": [p]})),
    ])
    .await;
    let note = event(&author, 1, NOW, &[&["p", &p]], "hi");
    assert_eq!(fixture.live(&note).await, pushed_to(2));
    let reasons: BTreeMap<String, Vec<String>> = deliveries(&fixture.memory)
        .into_iter()
        .map(|d| (d.app, d.reasons))
        .collect();
    assert_eq!(
        reasons,
        BTreeMap::from([
            (
                "demo".to_owned(),
                vec!["#p".to_owned(), "author".to_owned()]
            ),
            ("other".to_owned(), vec!["#p".to_owned()])
        ])
    );
}

#[tokio::test]
async fn drops_events_that_must_not_notify_with_a_reason() {
    let (keys, author) = (Keys::generate(), Keys::generate());
    let alice = owner(keys.public_key());
    let p = alice.pubkey.to_hex();
    let fixture = Fixture::with(&[
        subscription(&alice, &json!({"#p": [p]})),
        subscription(&alice, &json!({"authors": [author.public_key().to_hex()]})),
    ])
    .await;
    let (tag, now): (&[&str], _) = (&["p", &p], NOW.to_string());
    let expired = event(&author, 1, NOW, &[tag, &["expiration", &now]], "");
    assert_eq!(
        fixture.live(&expired).await,
        dropped(MatchDropReason::Expired)
    );
    let own = event(&keys, 1, NOW, &[tag], "");
    let own_event = MatchOutcome {
        own_events: 1,
        ..MatchOutcome::default()
    };
    assert_eq!(fixture.live(&own).await, own_event);
    let before_subscription = MatchOutcome {
        before_subscription_matches: 2,
        ..MatchOutcome::default()
    };
    let stored = event(&author, 1, NOW - 101, &[tag], "");
    assert_eq!(fixture.backfilled(&stored).await, before_subscription);
    // An event of a private kind reaches only the recipients it names.
    let to_another: &[&str] = &["p", &"ab".repeat(32)];
    let private = event(&author, 4, NOW, &[to_another], "");
    assert_eq!(
        fixture.live(&private).await,
        dropped(MatchDropReason::NoMatch)
    );
    assert!(deliveries(&fixture.memory).is_empty());
    // A live event notifies even if it is older than the subscription.
    assert_eq!(fixture.live(&stored).await.recipients, 1);
}

#[tokio::test]
async fn owners_relay_serves_only_subscriptions_that_name_it() {
    const RELAY: &str = "wss://relay.of.alice.example";
    let (alice, bob, author) = (anyone(), anyone(), Keys::generate());
    let filter = json!({"#t": ["a"]});
    let fixture = Fixture::with(&[
        Subscription {
            relays: vec!["wss://other.example".to_owned(), RELAY.to_uppercase()],
            ..subscription(&alice, &filter)
        },
        subscription(&alice, &json!({"kinds": [1], "#t": ["a"]})),
        Subscription {
            relays: vec!["ws://relay.of.alice.example".to_owned()],
            ..subscription(&bob, &filter)
        },
    ])
    .await;
    let note = event(&author, 1, NOW, &[&["t", "a"]], "");
    let to_alice = MatchOutcome {
        recipients: 1,
        relay_not_named_matches: 2,
        ..MatchOutcome::default()
    };
    assert_eq!(fixture.live_from_owners_relay(RELAY, &note).await, to_alice);
    let sent: Vec<_> = deliveries(&fixture.memory)
        .into_iter()
        .map(|delivery| (delivery.recipient, delivery.relay))
        .collect();
    assert_eq!(sent, [(alice.pubkey, RELAY.to_owned())]);
    // A relay that nobody names any more, and a URL that no subscription can name.
    for relay in ["wss://unnamed.example", "", "https://relay"] {
        let nobody = MatchOutcome {
            relay_not_named_matches: 3,
            ..MatchOutcome::default()
        };
        assert_eq!(fixture.live_from_owners_relay(relay, &note).await, nobody);
    }
    // The operator's relay serves everybody.
    assert_eq!(fixture.live(&note).await, pushed_to(2));
}

#[tokio::test]
async fn events_notify_until_the_age_limit_of_their_kind() {
    let alice = anyone();
    let p = alice.pubkey.to_hex();
    let fixture = Fixture::with(&[subscription(&alice, &json!({"#p": [p]}))]).await;
    let (tag, author): (&[&str], _) = (&["p", &p], Keys::generate());
    let public = [0, 1, 7, 9735].map(|kind| (kind, MAX_PUBLIC_AGE));
    // Wraps are backdated on purpose.
    let private = PRIVATE_KINDS.map(|kind| match kind {
        4 => (kind, MAX_PUBLIC_AGE),
        _ => (kind, MAX_PRIVATE_AGE),
    });
    for (kind, limit) in public.into_iter().chain(private) {
        let last = event(&author, kind, NOW - limit.0, &[tag], "");
        assert_eq!(fixture.live(&last).await, pushed_to(1), "{kind}");
        assert_eq!(notifies_until(&last), Seconds(NOW));
        let old = event(&author, kind, NOW - limit.0 - 1, &[tag], "");
        let too_old = dropped(MatchDropReason::TooOld);
        assert_eq!(fixture.live(&old).await, too_old, "{kind}");
        assert_eq!(fixture.backfilled(&old).await, too_old, "{kind}");
    }
    let ahead = event(&author, 1, NOW + MAX_AHEAD.0, &[tag], "");
    assert_eq!(fixture.live(&ahead).await, pushed_to(1));
    for created_at in [NOW + MAX_AHEAD.0 + 1, u64::MAX] {
        let from_future = event(&author, 1, created_at, &[tag], "");
        let outcome = fixture.live(&from_future).await;
        assert_eq!(outcome, dropped(MatchDropReason::FromFuture));
    }
}

#[tokio::test]
async fn an_event_does_not_notify_from_its_expiration_on() {
    let alice = anyone();
    let p = alice.pubkey.to_hex();
    let fixture = Fixture::with(&[subscription(&alice, &json!({"#p": [p]}))]).await;
    for (expiration, until) in [(NOW + 1, NOW), (NOW, NOW - 1)] {
        let tags: &[&[&str]] = &[&["p", &p], &["expiration", &expiration.to_string()]];
        let note = event(&Keys::generate(), 1, NOW - 10, tags, "");
        assert_eq!(notifies_until(&note), Seconds(until));
        assert_eq!(
            fixture.live(&note).await.recipients,
            u64::from(until == NOW)
        );
    }
    let tags: &[&[&str]] = &[&["expiration", &(NOW + 1_000_000).to_string()]];
    let note = event(&Keys::generate(), 1, NOW, tags, "");
    assert_eq!(notifies_until(&note), Seconds(NOW) + MAX_PUBLIC_AGE);
}

#[tokio::test]
async fn ended_subscription_does_not_match() {
    let alice = anyone();
    let row = subscription(&alice, &json!({"#t": ["a"]}));
    let fixture = Fixture::with(std::slice::from_ref(&row)).await;
    let ended = Subscription {
        valid_until: Seconds(NOW),
        order: Order::counter(2),
        ..row
    };
    fixture
        .memory
        .put_index(ended.index_rows().collect())
        .await
        .unwrap();
    let note = event(&Keys::generate(), 1, NOW, &[&["t", "a"]], "");
    assert_eq!(fixture.live(&note).await, dropped(MatchDropReason::NoMatch));
}

/// A filter over few values, so that events often match it.
fn any_filter() -> impl Strategy<Value = Value> {
    let key = (0..4u8).prop_map(pubkey);
    let keys = prop::collection::vec(key, 1..3);
    let text = prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("")], 1..3);
    let kinds = prop::collection::vec(
        prop_oneof![Just(1u16), Just(4), Just(7), Just(1059), Just(10_000)],
        1..3,
    );
    (
        prop::option::of(keys.clone()),
        prop::option::of(kinds),
        prop::option::of(keys),
        prop::option::of(text),
    )
        .prop_map(|(authors, kinds, p, t)| {
            let mut filter = json!({});
            for (name, value) in [
                ("authors", authors.map(|v| json!(v))),
                ("kinds", kinds.map(|v| json!(v))),
                ("#p", p.map(|v| json!(v))),
                ("#t", t.map(|v| json!(v))),
            ] {
                if let Some(value) = value {
                    filter[name] = value;
                }
            }
            filter
        })
}

/// Four authors, who are also the owners.
fn people() -> Vec<Keys> {
    (1..=4u8)
        .map(|n| Keys::parse(&format!("{n:064x}")).unwrap())
        .collect()
}

/// The pubkey of the person with this number, in hex.
fn pubkey(n: u8) -> String {
    people()[usize::from(n)].public_key().to_hex()
}

/// An event over the same values.
fn any_event() -> impl Strategy<Value = Event> {
    let tag = prop_oneof![
        (0..4u8).prop_map(|n| ["p".to_owned(), pubkey(n)]),
        prop_oneof![Just("a"), Just("b"), Just("c"), Just("")]
            .prop_map(|t| ["t".to_owned(), t.to_owned()]),
        Just(["pp".to_owned(), "a".to_owned()]),
    ];
    let kind = prop_oneof![
        Just(1u16),
        Just(4),
        Just(7),
        Just(1059),
        Just(9),
        Just(10_000)
    ];
    (0..4usize, kind, prop::collection::vec(tag, 0..4)).prop_map(|(author, kind, tags)| {
        let tags: Vec<Vec<&str>> = tags
            .iter()
            .map(|tag| tag.iter().map(String::as_str).collect())
            .collect();
        event(
            &people()[author],
            kind,
            NOW,
            &tags.iter().map(Vec::as_slice).collect::<Vec<_>>(),
            "",
        )
    })
}

/// The rule of NIP-01 (<https://github.com/nostr-protocol/nips/blob/master/01.md>) and the one for
/// private kinds, without an index.
fn brute_force(filter: &Value, event: &Event, owner: &Owner) -> bool {
    let json = json!(event);
    let holds = |field: &str, value: &Value| {
        filter[field]
            .as_array()
            .is_none_or(|list| list.contains(value))
    };
    let tagged = |letter: &str| -> Vec<&Value> {
        json["tags"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|tag| tag[0] == letter)
            .map(|tag| &tag[1])
            .collect()
    };
    let tag = |letter: &str| {
        filter[format!("#{letter}")]
            .as_array()
            .is_none_or(|list| tagged(letter).iter().any(|value| list.contains(value)))
    };
    let private = [4, 1059].contains(&event.kind.as_u16());
    holds("authors", &json["pubkey"])
        && holds("kinds", &json["kind"])
        && tag("p")
        && tag("t")
        && (!private || filter.get("#p").is_some() || tagged("p").contains(&&json!(owner.pubkey)))
        && owner.pubkey != event.pubkey
}

/// The owners to whom the event was delivered.
async fn delivered_to(fixture: &Fixture, event: &Event) -> BTreeSet<Owner> {
    fixture.memory.state().sent.clear();
    fixture.live(event).await;
    deliveries(&fixture.memory)
        .into_iter()
        .map(|d| Owner {
            app: d.app,
            pubkey: d.recipient,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn index_matches_brute_force(
        filters in prop::collection::vec((0..4usize, any_filter()), 1..12),
        events in prop::collection::vec(any_event(), 1..6),
        page_size in 1..4usize,
    ) {
        let people = people();
        // The empty filter has no index key. Control refuses it.
        let filters: Vec<(Owner, Value)> = filters
            .into_iter()
            .filter(|(_, filter)| *filter != json!({}))
            .map(|(n, filter)| (owner(people[n].public_key()), filter))
            .collect();
        let rows: Vec<Subscription> =
            filters.iter().map(|(owner, filter)| subscription(owner, filter)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::with(&rows).await;
            fixture.memory.state().page_size = Some(page_size);
            for event in &events {
                let matching = filters
                    .iter()
                    .filter(|(owner, filter)| brute_force(filter, event, owner));
                let expected: BTreeSet<Owner> = matching.map(|(owner, _)| owner.clone()).collect();
                assert_eq!(delivered_to(&fixture, event).await, expected, "{event:?}");
            }
        });
    }
}
