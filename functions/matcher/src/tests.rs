//! The stage as a whole, on the ports in memory; and the filter index against brute force.

use std::collections::{BTreeMap, BTreeSet};

use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    interest::Interest,
    message::{self, Content, Delivery, MAX_DELIVERED_CONTENT, Outgoing},
    order::Order,
    owner::Owner,
    ports::{IndexWriter, Subscriptions},
    subscription::{MUTE_LIST, Subscription},
};
use nostr_push_testkit::{event, memory::Memory};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::handler::{MAX_AGE, Matched, handle};

const NOW: u64 = 1_800_000_000;

fn subscription(owner: &Owner, filter: &Value) -> Subscription {
    Subscription {
        since: NOW - 100,
        ..nostr_push_testkit::subscription(owner, filter)
    }
}

async fn store(memory: &Memory, interest: &mut Interest, row: &Subscription) {
    memory.put_index(row.index_rows().collect()).await.unwrap();
    memory.put(row).await.unwrap();
    interest.apply(row, NOW);
}

fn content(interest: &Interest, event: &Event) -> Content {
    Content {
        relay: "wss://relay".to_owned(),
        received_at: NOW * 1000,
        backfill: false,
        hits: interest.hits(event),
        position: None,
        event: event.clone(),
    }
}

fn deliveries(memory: &Memory) -> Vec<Delivery> {
    let sent = memory.state().sent.clone();
    let outgoing = sent.iter().filter_map(|body| message::decode(body).ok());
    outgoing
        .filter_map(|outgoing| {
            if let Outgoing::Event(delivery) = outgoing {
                Some(*delivery)
            } else {
                None
            }
        })
        .collect()
}

struct World {
    memory: Memory,
    interest: Interest,
}

impl World {
    async fn with(rows: &[Subscription]) -> Self {
        let (memory, mut interest) = (Memory::default(), Interest::default());
        for row in rows {
            store(&memory, &mut interest, row).await;
        }
        Self { memory, interest }
    }

    async fn handle(&self, event: &Event, backfill: bool) -> Matched {
        handle(
            &self.memory,
            &self.memory,
            Content {
                backfill,
                ..content(&self.interest, event)
            },
            NOW,
        )
        .await
        .unwrap()
    }
}

fn owner(app: &str) -> Owner {
    Owner {
        app: app.to_owned(),
        pubkey: Keys::generate().public_key(),
    }
}

#[tokio::test]
async fn all_matching_subscriptions_of_a_recipient_make_one_delivery() {
    let (alice, author) = (owner("demo"), Keys::generate());
    let (p, a) = (alice.pubkey.to_hex(), author.public_key().to_hex());
    let other_app = Owner {
        app: "other".to_owned(),
        ..alice.clone()
    };
    let world = World::with(&[
        subscription(&alice, &json!({"kinds": [1], "#p": [p]})),
        subscription(&alice, &json!({"authors": [a]})),
        subscription(&alice, &json!({"kinds": [7], "#p": [p]})),
        subscription(&other_app, &json!({"#p": [p]})),
    ])
    .await;
    let matched = world
        .handle(&event(&author, 1, NOW, &[&["p", &p]], "hi"), false)
        .await;
    assert_eq!(
        matched,
        Matched {
            recipients: 2,
            ..Matched::default()
        }
    );
    let reasons: BTreeMap<String, Vec<String>> = deliveries(&world.memory)
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
async fn what_must_not_notify_is_dropped_by_its_reason() {
    let (keys, author) = (Keys::generate(), Keys::generate());
    let alice = Owner {
        app: "demo".to_owned(),
        pubkey: keys.public_key(),
    };
    let p = alice.pubkey.to_hex();
    let world = World::with(&[
        subscription(&alice, &json!({"#p": [p]})),
        subscription(&alice, &json!({"authors": [author.public_key().to_hex()]})),
    ])
    .await;
    let tag: &[&str] = &["p", &p];
    let dropped = async |event: Event, backfill| world.handle(&event, backfill).await;
    assert_eq!(
        dropped(
            event(
                &author,
                1,
                NOW,
                &[tag, &["expiration", &NOW.to_string()]],
                ""
            ),
            false
        )
        .await
        .dropped,
        Some("expired")
    );
    assert_eq!(
        dropped(event(&author, 1, NOW - MAX_AGE - 1, &[tag], ""), false)
            .await
            .dropped,
        Some("too_old")
    );
    assert_eq!(
        dropped(event(&keys, 1, NOW, &[tag], ""), false).await,
        Matched {
            own_event: 1,
            ..Matched::default()
        }
    );
    assert_eq!(
        dropped(event(&author, 1, NOW - 101, &[tag], ""), true).await,
        Matched {
            before_subscription: 2,
            ..Matched::default()
        }
    );
    // A private kind reaches only whom it names, whatever else matches.
    assert_eq!(
        dropped(
            event(&author, 4, NOW, &[&["p", &"ab".repeat(32)]], ""),
            false
        )
        .await
        .dropped,
        Some("no_match")
    );
    assert!(deliveries(&world.memory).is_empty());
    // Wraps are backdated on purpose.
    assert_eq!(
        dropped(event(&author, 1059, NOW - 50 * MAX_AGE, &[tag], ""), false)
            .await
            .recipients,
        1
    );
    // Live, an old time alone is no reason.
    assert_eq!(
        dropped(event(&author, 1, NOW - 101, &[tag], ""), false)
            .await
            .recipients,
        1
    );
}

#[tokio::test]
async fn a_mute_list_is_stored_however_old_and_the_newest_wins() {
    let keys = Keys::generate();
    let alice = Owner {
        app: "demo".to_owned(),
        pubkey: keys.public_key(),
    };
    let filter = json!({"kinds": [10_000], "authors": [alice.pubkey.to_hex()]});
    let row = Subscription {
        subscription: format!("{MUTE_LIST}x"),
        ..subscription(&alice, &filter)
    };
    let follower = owner("demo");
    let world = World::with(&[row, subscription(&follower, &filter)]).await;
    let muted = |world: &World| {
        world.memory.state().mute_lists[&alice.pubkey]
            .entries
            .iter()
            .cloned()
            .collect::<Vec<_>>()
    };
    let list = |at, word: &str| event(&keys, 10_000, at, &[&["word", word]], "");
    let matched = world.handle(&list(NOW - 400 * MAX_AGE, "Old"), true).await;
    assert_eq!(
        matched,
        Matched {
            mute_list: true,
            ..Matched::default()
        }
    );
    assert_eq!(muted(&world), ["word:old"]);
    // Whoever asked for such lists by a filter of their own gets a push.
    assert_eq!(
        world.handle(&list(NOW, "new"), false).await,
        Matched {
            mute_list: true,
            recipients: 1,
            ..Matched::default()
        }
    );
    world.handle(&list(NOW - 1, "late"), true).await;
    assert_eq!(muted(&world), ["word:new"]);
    // Nothing else that the owner writes is of any interest.
    assert!(
        world
            .interest
            .hits(&event(&keys, 1, NOW, &[], "hello"))
            .is_empty()
    );
}

#[tokio::test]
async fn an_ended_subscription_does_not_match() {
    let alice = owner("demo");
    let row = subscription(&alice, &json!({"#t": ["a"]}));
    let world = World::with(std::slice::from_ref(&row)).await;
    world
        .memory
        .put_index(
            Subscription {
                valid_until: NOW,
                order: Order::counter(2),
                ..row
            }
            .index_rows()
            .collect(),
        )
        .await
        .unwrap();
    assert_eq!(
        world
            .handle(&event(&Keys::generate(), 1, NOW, &[&["t", "a"]], ""), false)
            .await
            .dropped,
        Some("no_match")
    );
}

#[tokio::test]
async fn a_large_fan_out_is_done_in_parts_and_reaches_everybody_once() {
    let rows: Vec<Subscription> = (0..2_500)
        .map(|_| subscription(&owner("demo"), &json!({"#t": ["a"]})))
        .collect();
    let world = World::with(&rows).await;
    let note = event(&Keys::generate(), 1, NOW, &[&["t", "a"]], "");
    let mut rounds = 0;
    let mut next = Some(content(&world.interest, &note));
    while let Some(content) = next.take() {
        rounds += 1;
        let before = world.memory.state().sent.len();
        let matched = handle(&world.memory, &world.memory, content, NOW)
            .await
            .unwrap();
        assert!(
            matched.recipients <= 1_500,
            "no invocation grows with the fan-out"
        );
        next = world.memory.state().sent[before..]
            .iter()
            .find_map(|body| message::decode::<Content>(body).ok());
    }
    assert_eq!(rounds, 3);
    let recipients: Vec<_> = deliveries(&world.memory)
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
async fn long_content_travels_cut() {
    let alice = owner("demo");
    let world = World::with(&[subscription(&alice, &json!({"#t": ["a"]}))]).await;
    world
        .handle(
            &event(
                &Keys::generate(),
                1,
                NOW,
                &[&["t", "a"]],
                &"é".repeat(100_000),
            ),
            false,
        )
        .await;
    let delivery = deliveries(&world.memory).pop().unwrap();
    assert!(delivery.cut && delivery.event.content == "é".repeat(MAX_DELIVERED_CONTENT / 2));
}

#[tokio::test]
async fn reads_depend_on_the_hits_alone() {
    let mut pages = Vec::new();
    for others in [10, 2_000] {
        let mut rows: Vec<Subscription> = (0..others)
            .map(|n| subscription(&owner("demo"), &json!({"#t": [format!("t{n}")]})))
            .collect();
        rows.push(subscription(&owner("demo"), &json!({"#t": ["a"]})));
        let world = World::with(&rows).await;
        world
            .handle(
                &event(
                    &Keys::generate(),
                    1,
                    NOW,
                    &[&["t", "a"], &["t", "nobody's"]],
                    "",
                ),
                false,
            )
            .await;
        pages.push(world.memory.state().pages_read);
    }
    assert_eq!(pages, [1, 1]);
}

/// Filters and events over so few values that they often meet.
fn any_filter() -> impl Strategy<Value = Value> {
    let key = (0..4u8).prop_map(hex);
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

fn people() -> Vec<Keys> {
    (1..=4u8)
        .map(|n| Keys::parse(&format!("{n:064x}")).unwrap())
        .collect()
}

fn hex(n: u8) -> String {
    people()[usize::from(n)].public_key().to_hex()
}

fn any_event() -> impl Strategy<Value = Event> {
    let tag = prop_oneof![
        (0..4u8).prop_map(|n| ["p".to_owned(), hex(n)]),
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

/// What NIP-01 says, and design §4 of private kinds, written down once more without any index.
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_index_finds_what_brute_force_finds(filters in prop::collection::vec((0..4usize, any_filter()), 1..12), events in prop::collection::vec(any_event(), 1..6), page_size in 1..4usize) {
        let people = people();
        let owner_of = |n: usize| Owner { app: "demo".to_owned(), pubkey: people[n].public_key() };
        // The empty filter is in no dimension; control refuses it.
        let filters: Vec<_> = filters.into_iter().filter(|(_, filter)| *filter != json!({})).collect();
        let rows: Vec<Subscription> = filters.iter().map(|(n, filter)| subscription(&owner_of(*n), filter)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::with(&rows).await;
            world.memory.state().page_size = Some(page_size);
            for event in &events {
                world.memory.state().sent.clear();
                world.handle(event, false).await;
                let found: BTreeSet<Owner> = deliveries(&world.memory).into_iter().map(|d| Owner { app: d.app, pubkey: d.recipient }).collect();
                let expected: BTreeSet<Owner> = filters.iter().map(|(n, filter)| (owner_of(*n), filter)).filter(|(owner, filter)| brute_force(filter, event, owner)).map(|(owner, _)| owner).collect();
                assert_eq!(found, expected, "{event:?}");
            }
        });
    }
}
