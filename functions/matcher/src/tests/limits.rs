//! The limits of one invocation, and that the invocations together miss nobody.

use std::cell::Cell;

use nostr_push_core::message::FanOutPosition;

use super::*;
use crate::{
    large_filters::is_large,
    limits::{Limits, MAX_LARGE_FILTERS_OF_NEWCOMERS, MAX_ROWS_OF_OTHERS},
};

#[tokio::test]
async fn rows_of_one_invocation_are_limited() {
    const RELAY: &str = "wss://relay.example";
    let alice = anyone();
    let max_rows = 1_000;
    // Only the last of these rows names the relay.
    let row = |n: usize| Subscription {
        identity: format!("{n:05}"),
        ..subscription(&alice, &json!({"#t": ["a"]}))
    };
    let mut rows: Vec<Subscription> = (0..=max_rows).map(row).collect();
    rows[max_rows].relays = vec![RELAY.to_owned()];
    let mut fixture = Fixture::with(&rows).await;
    fixture.matcher.limits.rows = max_rows;
    fixture.memory.state().page_size = Some(300);
    let note = event(&Keys::generate(), 1, NOW, &[&["t", "a"]], "");
    let first = MatchOutcome {
        requeued: true,
        relay_not_named_matches: max_rows as u64,
        ..MatchOutcome::default()
    };
    assert_eq!(fixture.live_from_owners_relay(RELAY, &note).await, first);
    let rest = fixture.memory.state().sent.pop().unwrap();
    let rest: ContentMessage = message::decode(&rest).unwrap();
    assert!(rest.from_owners_relay);
    assert_eq!(fixture.handle(&rest).await, pushed_to(1));
}

#[tokio::test]
async fn splits_large_fan_out_and_reaches_each_recipient_once() {
    let rows: Vec<Subscription> = (0..2_500)
        .map(|_| subscription(&anyone(), &json!({"#t": ["a"]})))
        .collect();
    let fixture = Fixture::with(&rows).await;
    let note = event(&Keys::generate(), 1, NOW, &[&["t", "a"]], "");
    let mut rounds = 0;
    let mut next = Some(content(&fixture.interest, &note));
    while let Some(content) = next.take() {
        rounds += 1;
        let before = fixture.memory.state().sent.len();
        let outcome = fixture.handle(&content).await;
        assert!(
            outcome.recipients <= 1_000,
            "one invocation has a limited part"
        );
        next = fixture.memory.state().sent[before..]
            .iter()
            .find_map(|body| message::decode::<ContentMessage>(body).ok());
        assert_eq!(outcome.requeued, next.is_some());
    }
    assert_eq!(rounds, 3);
    let recipients: Vec<_> = deliveries(&fixture.memory)
        .into_iter()
        .map(|d| d.recipient)
        .collect();
    assert_eq!(recipients.len(), 2_500);
    assert_eq!(
        BTreeSet::from_iter(recipients),
        rows.iter().map(|row| row.owner.pubkey).collect()
    );
}

#[tokio::test]
async fn number_of_reads_depends_on_the_hits_alone() {
    let mut pages = Vec::new();
    for others in [10, 2_000] {
        let mut rows: Vec<Subscription> = (0..others)
            .map(|n| subscription(&anyone(), &json!({"#t": [format!("t{n}")]})))
            .collect();
        rows.push(subscription(&anyone(), &json!({"#t": ["a"]})));
        let fixture = Fixture::with(&rows).await;
        let tags: &[&[&str]] = &[&["t", "a"], &["t", "in no filter"]];
        fixture
            .live(&event(&Keys::generate(), 1, NOW, tags, ""))
            .await;
        pages.push(fixture.memory.state().pages_read);
    }
    assert_eq!(pages, [1, 1]);
}

/// The rest of the fan-out among the messages that were sent after the first `before`.
fn rest(fixture: &Fixture, before: usize) -> Option<ContentMessage> {
    let sent = &fixture.memory.state().sent[before..];
    sent.iter().find_map(|body| message::decode(body).ok())
}

/// The place of a message in the fan-out, as a value that grows from part to part.
fn place(content: &ContentMessage) -> (usize, Option<String>) {
    let position = content.position.clone().unwrap_or_default();
    (position.hit, position.after)
}

/// Handles the event and each rest of its fan-out, with a clock that advances by a millisecond
/// with each call. Returns the outcomes.
async fn handle_all(fixture: &Fixture, event: &Event) -> Vec<MatchOutcome> {
    let ticks = Cell::new(0);
    let clock = || Seconds(NOW).to_millis() + Millis(ticks.replace(ticks.get() + 1));
    let mut outcomes = Vec::new();
    let mut next = Some(content(&fixture.interest, event));
    while let Some(content) = next.take() {
        let before = fixture.memory.state().sent.len();
        let outcome = fixture.handle_with_clock(&content, clock).await;
        next = rest(fixture, before);
        assert_eq!(outcome.requeued, next.is_some());
        if let Some(rest) = &next {
            // Lambda does not stop the loop (`RecursiveLoop: Allow` in the template).
            assert!(place(rest) > place(&content), "the position moves on");
        }
        outcomes.push(outcome);
    }
    outcomes
}

#[tokio::test]
async fn invocation_without_matches_stops_by_queries() {
    let alice = anyone();
    let tags: Vec<String> = (0..1_200).map(|n| format!("{n}")).collect();
    let rows = tags
        .iter()
        .map(|tag| subscription(&alice, &json!({"#t": [tag]})));
    let rows: Vec<Subscription> = rows.collect();
    let fixture = Fixture::with(&rows).await;
    // All subscriptions end after the listener has sent the event.
    fixture.memory.state().index.clear();
    let tags: Vec<[&str; 2]> = tags.iter().map(|tag| ["t", tag.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(<[&str; 2]>::as_slice).collect();
    let note = event(&Keys::generate(), 1, NOW, &tags, "");
    let outcomes = handle_all(&fixture, &note).await;
    let requeued: Vec<bool> = outcomes.iter().map(|outcome| outcome.requeued).collect();
    assert_eq!(requeued, [true, true, false]);
    assert_eq!(fixture.memory.state().pages_read, 1_200);
}

#[tokio::test]
async fn invocation_without_matches_stops_by_time() {
    let filter = json!({"#t": ["a"], "authors": [anyone().pubkey.to_hex()]});
    let rows: Vec<Subscription> = (0..100).map(|_| subscription(&anyone(), &filter)).collect();
    let mut fixture = Fixture::with(&rows).await;
    fixture.matcher.limits.time = Millis(30);
    let note = event(&Keys::generate(), 1, NOW, &[&["t", "a"]], "");
    let outcomes = handle_all(&fixture, &note).await;
    assert!((3..10).contains(&outcomes.len()), "{}", outcomes.len());
    assert!(outcomes.iter().all(|outcome| outcome.recipients == 0));
}

#[tokio::test]
async fn rows_of_others_under_a_mention_are_limited() {
    let victim = anyone();
    let filter = |n: usize| json!({"#p": [victim.pubkey.to_hex()], "kinds": [1, n + 2]});
    let mut rows: Vec<Subscription> = (0..MAX_ROWS_OF_OTHERS + 200)
        .map(|n| subscription(&anyone(), &filter(n)))
        .collect();
    rows.extend((0..20).map(|n| subscription(&victim, &filter(n))));
    let p: &[&str] = &["p", &victim.pubkey.to_hex()];
    let note = event(&Keys::generate(), 1, NOW, &[p, &["t", "a"]], "");
    // The keys behind the mention are still read.
    let last = anyone();
    rows.push(subscription(&last, &json!({"#t": ["a"]})));
    let mut fixture = Fixture::with(&rows).await;
    for (rows, page_size) in [(20_000, 500), (300, 500), (7, 250)] {
        fixture.matcher.limits.rows = rows;
        fixture.memory.state().page_size = Some(page_size);
        fixture.memory.state().sent.clear();
        let outcomes = handle_all(&fixture, &note).await;
        let skipped: u64 = outcomes.iter().map(|outcome| outcome.too_many_rows).sum();
        assert_eq!(skipped, 1, "{rows}");
        let deliveries = deliveries(&fixture.memory);
        let to = |owner: &Owner| deliveries.iter().any(|d| d.recipient == owner.pubkey);
        assert!(to(&victim) && to(&last), "{rows}");
        let recipients: BTreeSet<_> = deliveries.iter().map(|d| d.recipient).collect();
        assert_eq!(recipients.len(), MAX_ROWS_OF_OTHERS + 2, "{rows}");
    }
}

#[tokio::test]
async fn position_of_an_earlier_version_is_valid() {
    let rows: Vec<Subscription> = (0..3)
        .map(|_| subscription(&anyone(), &json!({"#t": ["a"]})))
        .collect();
    let fixture = Fixture::with(&rows).await;
    let note = event(&Keys::generate(), 1, NOW, &[&["t", "a"]], "");
    let first = fixture
        .memory
        .state()
        .index
        .keys()
        .next()
        .unwrap()
        .1
        .clone();
    let position = json!({"hit": 0, "after": first});
    let position: FanOutPosition = serde_json::from_value(position).unwrap();
    let content = ContentMessage {
        position: Some(position),
        ..content(&fixture.interest, &note)
    };
    assert_eq!(fixture.handle(&content).await, pushed_to(2));
}

#[tokio::test]
async fn crash_at_any_call_misses_nobody() {
    let rows: Vec<Subscription> = (0..9)
        .map(|_| subscription(&anyone(), &json!({"#t": ["a"]})))
        .collect();
    let all: BTreeSet<_> = rows.iter().map(|row| row.owner.pubkey).collect();
    let note = event(&Keys::generate(), 1, NOW, &[&["t", "a"]], "");
    for crash in 0..30 {
        let mut fixture = Fixture::with(&rows).await;
        fixture.matcher.limits.recipients = 4;
        fixture.memory.state().page_size = Some(3);
        fixture.memory.state().fail_in = Some(crash);
        let mut next = Some(content(&fixture.interest, &note));
        while let Some(content) = next.take() {
            let before = fixture.memory.state().sent.len();
            let (memory, clock) = (&fixture.memory, || Seconds(NOW).to_millis());
            let result = fixture
                .matcher
                .handle(memory, memory, &content, clock)
                .await;
            next = match result {
                Ok(_) => rest(&fixture, before),
                Err(_) => Some(content),
            };
        }
        let reached: BTreeSet<_> = deliveries(&fixture.memory)
            .iter()
            .map(|d| d.recipient)
            .collect();
        assert_eq!(reached, all, "{crash}");
    }
}

#[tokio::test]
async fn large_filters_count_as_rows() {
    let author = Keys::generate();
    // 1,000 authors have about 65 KiB.
    let others = (0..999).map(|n| format!("{n:064x}"));
    let authors: Vec<String> = others.chain([author.public_key().to_hex()]).collect();
    let filter = json!({"#t": ["a"], "authors": authors});
    let rows: Vec<Subscription> = (0..40).map(|_| subscription(&anyone(), &filter)).collect();
    let mut fixture = Fixture::with(&rows).await;
    for roster in fixture.memory.state().rosters.values_mut() {
        roster.proven = true;
    }
    fixture.matcher.limits.rows = 200;
    let note = event(&author, 1, NOW, &[&["t", "a"]], "");
    let outcomes = handle_all(&fixture, &note).await;
    let recipients: Vec<u64> = outcomes.iter().map(|outcome| outcome.recipients).collect();
    // Each row counts as 1 + 17 rows.
    assert_eq!(recipients, [12, 12, 12, 4]);
    assert!(fixture.memory.state().subscriptions_read <= 40 + 3 * 8);
}

/// Limits so low that they apply to a few rows.
fn low_limits() -> impl Strategy<Value = Limits> {
    (1..5usize, 1..7usize, 1..5usize, 0..9u64).prop_map(|(recipients, rows, queries, time)| {
        Limits {
            recipients,
            rows,
            queries,
            time: Millis(time),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn limits_change_no_recipient(
        filters in prop::collection::vec((0..4usize, any_filter(), any::<bool>()), 1..30),
        event in any_event(),
        page_size in 1..9usize,
        limits in low_limits(),
        proven in prop::collection::vec(any::<bool>(), 4),
    ) {
        let people = people();
        let proven = people.iter().zip(proven).filter(|(_, is_proven)| *is_proven);
        let proven: BTreeSet<Owner> = proven.map(|(keys, _)| owner(keys.public_key())).collect();
        let filters = filters.iter().filter(|(_, filter, _)| *filter != json!({}));
        let rows: Vec<(Subscription, bool)> = filters
            .map(|(n, filter, is_large)| {
                (subscription(&owner(people[*n].public_key()), filter), *is_large)
            })
            .collect();
        let subscriptions: Vec<Subscription> = rows.iter().map(|(row, _)| row.clone()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut fixture = Fixture::with(&subscriptions).await;
            let expected = delivered_to(&fixture, &event).await;
            let large = rows.iter().filter(|(_, is_large)| *is_large);
            let large: BTreeSet<&String> = large.map(|(row, _)| &row.identity).collect();
            for row in fixture.memory.state().index.values_mut() {
                row.filter = row.filter.take().filter(|_| !large.contains(&row.identity));
            }
            for roster in fixture.memory.state().rosters.values_mut() {
                roster.proven = proven.contains(&roster.owner);
            }
            fixture.memory.state().sent.clear();
            fixture.memory.state().page_size = Some(page_size);
            fixture.matcher.limits = limits;
            handle_all(&fixture, &event).await;
            let reached = deliveries(&fixture.memory).into_iter().map(|delivery| Owner {
                app: delivery.app,
                pubkey: delivery.recipient,
            });
            let reached: BTreeSet<Owner> = reached.collect();
            assert!(reached.is_subset(&expected));
            // Newcomers may be left out, but only beyond their limit of large filters.
            let index = fixture.memory.state().index.clone();
            let large = index.values().filter(|row| is_large(row)).count();
            let is_within = large <= MAX_LARGE_FILTERS_OF_NEWCOMERS;
            let must_reach = |owner: &&Owner| is_within || proven.contains(*owner);
            assert!(expected.iter().filter(must_reach).all(|owner| reached.contains(owner)));
        });
    }
}
