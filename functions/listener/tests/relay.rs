//! The listener against a real relay, with queues in memory: what it requests, what it forwards,
//! and how it stops.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod support;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use listener::{ListenerError, counter::RelayReason};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Seconds, ports::RelayCursor, service_keys::ServiceKeys, subscription::SubscriptionState,
};
use nostr_push_testkit::{control_event, dialect_h_event, event};
use nostr_relay_builder::prelude::{RelayBuilderNip42, RelayBuilderNip42Mode};
use serde_json::json;
use support::{
    MemoryPorts, Running, builder, free_address, now, publish, publish_all, relay, relay_counter,
    run_relay, start, start_as, until, url,
};
use tokio::time::sleep;

/// A note by `author` that mentions `p`.
fn mention(author: &Keys, p: &str, content: &str) -> Event {
    event(author, 1, now(), &[&["p", p]], content)
}

/// The ports with one owner's mention subscription, and that owner's pubkey in hex.
fn mentions() -> (String, MemoryPorts) {
    let (owner, ports) = (Keys::generate(), MemoryPorts::default());
    let p = owner.public_key().to_hex();
    ports.subscribe(&owner, &json!({"#p": [p]}));
    (p, ports)
}

#[tokio::test(flavor = "multi_thread")]
async fn forwards_control_events_for_the_service_once() {
    let (first, second) = (free_address(), free_address());
    let _relays = (relay(first).await, relay(second).await);
    let alice = Keys::generate();
    // There are no subscriptions.
    let listening = start(&[first, second], MemoryPorts::default());
    let ports = listening.ports.clone();
    let register_at = |service| control_event(&alice, service, 3079, now(), &[], "{}");

    let to_another_service = register_at(Keys::generate().public_key());
    publish(first, &to_another_service).await;
    let register = register_at(listening.service.public_key());
    publish(first, &register).await;
    publish(second, &register).await;
    until("the control event", || {
        !ports.controls.lock().unwrap().is_empty()
    })
    .await;

    // Clients publish a heartbeat to all relays, and no relay stores it.
    let heartbeats: Vec<Event> = (0..5)
        .map(|n| dialect_h_event(&alice, listening.service.public_key(), now() - n, &[], "{}"))
        .collect();
    for heartbeat in &heartbeats {
        publish(first, heartbeat).await;
        publish(second, heartbeat).await;
    }
    until("the heartbeats", || {
        ports.controls.lock().unwrap().len() > heartbeats.len()
    })
    .await;
    listening.stop().await;
    let controls: Vec<Event> = ports
        .controls
        .lock()
        .unwrap()
        .iter()
        .map(|json| serde_json::from_str(json).unwrap())
        .collect();
    let expected: Vec<Event> = std::iter::once(register).chain(heartbeats).collect();
    assert_eq!(controls, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_control_events_for_both_keys_during_a_rotation() {
    let address = free_address();
    let _relay = relay(address).await;
    let [old, new, alice] = [(); 3].map(|()| Keys::generate());
    let rotated = |until| ServiceKeys::from(old.clone()).rotated(new.clone(), Some(until));
    for (until, expected) in [
        (Seconds(now() + 3_600), vec![&old, &new]),
        (Seconds(now() - 1), vec![&new]),
    ] {
        let ports = MemoryPorts::default();
        let keys = rotated(until);
        let listening = start_as("one", keys, vec![url(&address)], true, ports.clone());
        let mut published = Vec::new();
        for service in [&old, &new] {
            // The content differs from that of the other listener.
            let content = format!("until {until}");
            let event = control_event(&alice, service.public_key(), 3079, now(), &[], &content);
            publish(address, &event).await;
            published.push((service, event.id.to_hex()));
        }
        let ids = || -> Vec<String> {
            let controls = ports.controls.lock().unwrap();
            let events = controls
                .iter()
                .map(|json| serde_json::from_str(json).unwrap());
            events.map(|event: Event| event.id.to_hex()).collect()
        };
        let (_, to_new) = &published[1];
        until_forwarded(&ids, to_new).await;
        listening.stop().await;
        for (service, id) in &published {
            let is_expected = expected.contains(service);
            assert_eq!(ids().contains(id), is_expected);
        }
    }
}

async fn until_forwarded(ids: &impl Fn() -> Vec<String>, id: &String) {
    until("the event to the new key", || ids().contains(id)).await;
}

/// Publishes notes until one is forwarded as a live event.
async fn until_live(ports: &MemoryPorts, address: SocketAddr, author: &Keys, p: &str) {
    for attempt in 0.. {
        let content = format!("at {address}, {attempt}");
        publish(address, &mention(author, p, &content)).await;
        until(&content, || ports.has(&content)).await;
        if ports.has_live(&content) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forwards_copies_from_two_relays_once() {
    let (first, second) = (free_address(), free_address());
    let _relays = (relay(first).await, relay(second).await);
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let p = alice.public_key().to_hex();
    let listening = start(&[first, second], MemoryPorts::default());
    let ports = listening.ports.clone();
    ports.subscribe(&alice, &json!({"kinds": [1], "#p": [p]}));
    let hello = mention(&bob, &p, "hello");
    publish(first, &hello).await;
    publish(second, &hello).await;
    until("hello", || ports.has("hello")).await;
    publish(first, &event(&bob, 7, now(), &[&["p", &p]], "another kind")).await;
    // A stored copy and a live copy may both be forwarded, so both relays must be live first.
    for address in [first, second] {
        until_live(&ports, address, &bob, &p).await;
    }
    let again = mention(&bob, &p, "again");
    publish(first, &again).await;
    publish(second, &again).await;
    publish(second, &mention(&bob, &p, "and on")).await;
    until("and on", || ports.has("and on")).await;
    assert_eq!(ports.copies("again"), 1);
    let hits = ports.contents.lock().unwrap()[0]
        .hits
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert_eq!(hits, [format!("#p:{p}")]);
    listening.stop().await;
    let contents: Vec<String> = ports
        .contents()
        .into_iter()
        .filter(|content| !content.starts_with("at "))
        .collect();
    assert_eq!(contents, ["hello", "again", "and on"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_new_and_removed_subscriptions() {
    let address = free_address();
    let _relay = relay(address).await;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let p = alice.public_key().to_hex();
    let listening = start(&[address], MemoryPorts::default());
    let ports = listening.ports.clone();
    let mentions = json!({"kinds": [1], "#p": [p]});
    ports.subscribe(&alice, &mentions);
    publish(address, &mention(&bob, &p, "hello")).await;
    until("hello", || ports.has("hello")).await;

    let thread = "cd".repeat(32);
    let reply = |content: &str| event(&bob, 1, now(), &[&["e", &thread]], content);
    ports.unsubscribe(&alice, &mentions);
    ports.subscribe(&alice, &json!({"kinds": [1], "#e": [thread]}));
    publish(address, &reply("marker")).await;
    until("marker", || ports.has("marker")).await;
    publish(address, &mention(&bob, &p, "unwanted")).await;
    publish(address, &reply("last")).await;
    until("last", || ports.has("last")).await;
    listening.stop().await;
    assert_eq!(ports.contents(), ["hello", "marker", "last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_subscriber_is_served_beside_hostile_filters() {
    let address = free_address();
    let _relay = relay(address).await;
    let (mallory, bob, ports) = (Keys::generate(), Keys::generate(), MemoryPorts::default());
    for (count, bytes) in [(200, 30), (100, 64), (12, 490)] {
        let kinds: Vec<usize> = (0..64).map(|n| 20_000 + count * 100 + n).collect();
        let values: Vec<String> = (0..count)
            .map(|n| format!("{n}{}", "\u{1}".repeat(bytes)))
            .collect();
        ports.subscribe(&mallory, &json!({"kinds": kinds, "#t": values}));
    }
    ports.subscribe(
        &mallory,
        &json!({"kinds": [1], "authors": [bob.public_key()]}),
    );
    let listening = start(&[address], ports.clone());
    let first = mention(&bob, &"ab".repeat(32), "first");
    publish(address, &first).await;
    until("first", || ports.has("first")).await;
    for n in 0..10 {
        let carol = Keys::generate();
        let p = carol.public_key().to_hex();
        // The note is published before the listener learns of the filter.
        let content = format!("to carol {n}");
        publish(address, &mention(&bob, &p, &content)).await;
        until(&content, || ports.has(&content)).await;
        ports.subscribe(&carol, &json!({"kinds": [1], "#p": [p]}));
        until("the note for carol", || {
            ports.hits(&content, &format!("#p:{p}"))
        })
        .await;
    }
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnects_and_receives_missed_events() {
    let address = free_address();
    let (p, ports) = mentions();
    // The relay is not running yet.
    let listening = start(&[address], ports.clone());
    sleep(Duration::from_millis(200)).await;
    let relay = relay(address).await;
    publish(address, &mention(&Keys::generate(), &p, "missed")).await;
    until("missed", || ports.has("missed")).await;
    publish(address, &mention(&Keys::generate(), &p, "live")).await;
    until("live", || ports.has_live("live")).await;
    listening.stop().await;
    relay.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_drains_buffers_while_queue_recovers() {
    let address = free_address();
    let _relay = relay(address).await;
    let (p, ports) = mentions();
    ports.queue_fails.store(true, Ordering::SeqCst);
    let listening = start(&[address], ports.clone());
    let bob = Keys::generate();
    for n in 0..20 {
        publish(address, &mention(&bob, &p, &n.to_string())).await;
    }
    // The stop is requested while the queue fails. The queue recovers while the listener drains.
    sleep(Duration::from_secs(1)).await;
    let queue_fails = Arc::clone(&ports.queue_fails);
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        queue_fails.store(false, Ordering::SeqCst);
    });
    listening.stop().await;
    let contents: BTreeSet<u32> = ports
        .contents()
        .iter()
        .map(|content| content.parse().unwrap())
        .collect();
    assert_eq!(contents, (0..20).collect());
}

/// Numbered notes that mention `p`, twenty in each of the last seconds. The relay returns at most
/// 500 events for a REQ, and a second with more events cannot be read completely.
fn numbered_notes(author: &Keys, p: &str, numbers: std::ops::Range<u64>) -> Vec<Event> {
    let now = now();
    numbers
        .map(|n| {
            let created_at = now - 40 + (n / 20) % 40;
            event(author, 1, created_at, &[&["p", p]], &n.to_string())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn misses_no_event_after_a_crash() {
    let address = free_address();
    let _relay = relay(address).await;
    let (p, ports) = mentions();
    let all = numbered_notes(&Keys::generate(), &p, 0..600);
    let service = Keys::generate();
    let start_task = |member| {
        start_as(
            member,
            service.clone(),
            vec![url(&address)],
            true,
            ports.clone(),
        )
    };
    let first = start_task("one");
    publish(address, &all[0]).await;
    until("the first event", || ports.has("0")).await;
    until("a cursor", || {
        ports.store.state().cursors.contains_key(&url(&address))
    })
    .await;
    // The queue fails, so the events in the buffer are lost in the crash.
    ports.queue_fails.store(true, Ordering::SeqCst);
    publish_all(address, &all[1..300]).await;
    first.kill().await;
    publish_all(address, &all[300..]).await;
    ports.queue_fails.store(false, Ordering::SeqCst);
    let second = start_task("two");
    let numbers = || {
        ports
            .contents()
            .iter()
            .map(|n| n.parse::<u64>().unwrap())
            .collect::<BTreeSet<_>>()
    };
    until("all events", || numbers().len() == 600).await;
    second.stop().await;
}

/// The cursor of a relay that has been read until this time.
fn read_until(time: u64) -> RelayCursor {
    RelayCursor {
        read_until: Seconds(time),
        ..RelayCursor::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_stored_events_page_by_page() {
    let address = free_address();
    // This relay returns at most 500 events for a filter.
    let _relay = relay(address).await;
    let (bob, (p, ports)) = (Keys::generate(), mentions());
    let from = now() - 1_000;
    let all: Vec<Event> = (0..1_300)
        .map(|n| event(&bob, 1, from + n / 2, &[&["p", &p]], &n.to_string()))
        .collect();
    publish_all(address, &all).await;
    ports
        .store
        .state()
        .cursors
        .insert(url(&address), read_until(from));
    let listening = start(&[address], ports.clone());
    until("all events", || ports.contents().len() >= 1_300).await;
    assert!(
        ports
            .contents
            .lock()
            .unwrap()
            .iter()
            .all(|content| content.backfill)
    );
    let live = mention(&bob, &p, "live");
    publish(address, &live).await;
    until("live", || ports.has_live("live")).await;
    until("the sweep is recorded", || {
        ports.store.state().cursors[&url(&address)].swept_at > Seconds(from)
    })
    .await;
    listening.stop().await;
    let cursor = ports.store.state().cursors[&url(&address)];
    assert!(cursor.read_until >= live.created_at.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticates_to_a_relay_that_requires_it() {
    let address = free_address();
    let nip42 = RelayBuilderNip42 {
        mode: RelayBuilderNip42Mode::Read,
    };
    let _relay = run_relay(builder(address).nip42(nip42)).await;
    let (p, ports) = mentions();
    let listening = start(&[address], ports.clone());
    until("authentication", || {
        relay_counter(RelayReason::Authenticated) > 0
    })
    .await;
    publish(address, &mention(&Keys::generate(), &p, "for members")).await;
    until("the event", || ports.has("for members")).await;
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_owners_relay_while_it_is_requested() {
    let (operators, owners) = (free_address(), free_address());
    let _relays = (relay(operators).await, relay(owners).await);
    let (alice, bob, ports) = (Keys::generate(), Keys::generate(), MemoryPorts::default());
    let p = alice.public_key().to_hex();
    let filter = json!({"#p": [p]});
    let subscribe = |order, relays: &[String]| {
        ports.subscribe_with(&alice, &filter, SubscriptionState::Active, order, relays);
    };
    subscribe(1, &[url(&owners)]);
    let listening = start(&[operators], ports.clone());
    publish(owners, &mention(&bob, &p, "over there")).await;
    until("over there", || ports.has("over there")).await;
    subscribe(2, &[]);
    until("only the operator's relay", || {
        listening.health.connected.load(Ordering::SeqCst) == 1
    })
    .await;
    publish(owners, &mention(&bob, &p, "too late")).await;
    publish(operators, &mention(&bob, &p, "here")).await;
    until("here", || ports.has("here")).await;
    assert!(!ports.has("too late"));
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_connect_to_owners_relay_with_private_address() {
    let (alice, ports) = (Keys::generate(), MemoryPorts::default());
    let filter = json!({"#p": [alice.public_key()]});
    let relays = [url(&free_address()), "wss://localhost:1".to_owned()];
    ports.subscribe_with(&alice, &filter, SubscriptionState::Active, 1, &relays);
    let listening = start_as("one", Keys::generate(), Vec::new(), false, ports);
    until("forbidden", || relay_counter(RelayReason::Forbidden) > 0).await;
    assert_eq!(
        listening.health.watched.load(Ordering::SeqCst),
        1,
        "the address is refused as a URL, and the name is refused once it is resolved"
    );
    listening.stop().await;
}

/// Publishes one note at each of these relays, and waits until all are forwarded.
async fn publish_everywhere(ports: &MemoryPorts, addresses: &[SocketAddr], p: &str, name: &str) {
    let author = Keys::generate();
    for (n, address) in addresses.iter().enumerate() {
        publish(*address, &mention(&author, p, &format!("{name} {n}"))).await;
    }
    until(name, || {
        (0..addresses.len()).all(|n| ports.has(&format!("{name} {n}")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_share_relays_and_take_over_those_of_a_dead_task() {
    let addresses: Vec<_> = (0..9).map(|_| free_address()).collect();
    let mut relays = Vec::new();
    for address in &addresses {
        relays.push(relay(*address).await);
    }
    let (service, (p, ports)) = (Keys::generate(), mentions());
    let urls: Vec<String> = addresses.iter().map(url).collect();
    let mut tasks: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|member| start_as(member, service.clone(), urls.clone(), true, ports.clone()))
        .collect();
    let watched = |tasks: &[Running]| {
        tasks
            .iter()
            .map(|task| task.health.watched.load(Ordering::SeqCst))
            .collect::<Vec<_>>()
    };
    until("each relay has one task", || {
        watched(&tasks).iter().sum::<usize>() == 9 && watched(&tasks).iter().all(|n| *n < 9)
    })
    .await;
    until("all relays are connected", || {
        tasks
            .iter()
            .map(|task| task.health.connected.load(Ordering::SeqCst))
            .sum::<usize>()
            == 9
    })
    .await;
    publish_everywhere(&ports, &addresses, &p, "before").await;
    let killed = tasks
        .iter()
        .position(|task| task.health.watched.load(Ordering::SeqCst) > 0)
        .unwrap();
    tasks.swap_remove(killed).kill().await;
    let started = std::time::Instant::now();
    publish_everywhere(&ports, &addresses, &p, "after").await;
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
    for task in tasks {
        task.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loses_nothing_while_queue_fails_for_a_minute() {
    let address = free_address();
    let _relay = relay(address).await;
    let (bob, (p, ports)) = (Keys::generate(), mentions());
    let listening = start(&[address], ports.clone());
    publish(address, &mention(&bob, &p, "first")).await;
    until("first", || ports.has("first")).await;
    ports.queue_fails.store(true, Ordering::SeqCst);
    // More than the 2,048 events that the buffer holds.
    let all = numbered_notes(&bob, &p, 0..4_000);
    publish_all(address, &all).await;
    let [_, content] = &listening.health.buffers;
    until("the buffer is full", || {
        content.entered() - content.accepted() >= 2_048
    })
    .await;
    sleep(Duration::from_secs(60)).await;
    assert!(
        content.entered() - content.accepted() < 2_500,
        "the buffer is bounded"
    );
    let is_ready = || listening.health.readiness(support::now_ms()).0;
    assert!(!is_ready(), "the health interface reports the failure");
    ports.queue_fails.store(false, Ordering::SeqCst);
    until("all events", || {
        ports
            .contents()
            .iter()
            .filter(|n| *n != "first")
            .collect::<BTreeSet<_>>()
            .len()
            == 4_000
    })
    .await;
    until("ready again", is_ready).await;
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_ends_if_a_task_panics() {
    let address = free_address();
    let _relay = relay(address).await;
    let (p, ports) = mentions();
    ports.queue_panics.store(true, Ordering::SeqCst);
    let listening = start(&[address], ports);
    publish(address, &mention(&Keys::generate(), &p, "poison")).await;
    assert!(matches!(
        listening.ended().await,
        Err(ListenerError::TaskEnded(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_old_mute_list_of_new_owner_and_follows_it() {
    const DAY: u64 = Seconds::from_days(1).0;
    // With many authors the plan is wide.
    for many_authors in [0, 20] {
        let address = free_address();
        let _relay = relay(address).await;
        let (alice, bob, ports) = (Keys::generate(), Keys::generate(), MemoryPorts::default());
        ports.subscribe_to_many_authors(&bob, many_authors);
        ports.subscribe(&bob, &json!({"kinds": [1], "#t": ["marker"]}));
        let list = |at, content: &str| event(&alice, 10_000, at, &[&["word", "casino"]], content);
        publish(address, &list(now() - 300 * DAY, "old")).await;
        let alices = alice.public_key().to_hex();
        let bobs_list = event(
            &bob,
            10_000,
            now() - DAY,
            &[&["p", &alices]],
            "another list",
        );
        publish(address, &bobs_list).await;
        let listening = start(&[address], ports.clone());
        let marker = event(&bob, 1, now(), &[&["t", "marker"]], "before");
        publish(address, &marker).await;
        until("before", || ports.has("before")).await;
        assert!(!ports.has("old"));
        ports.subscribe_to_mute_list(&alice);
        until("old", || ports.has("old")).await;
        publish(address, &event(&alice, 1, now(), &[], "own note")).await;
        publish(address, &list(now(), "new")).await;
        until("new", || ports.has("new")).await;
        listening.stop().await;
        assert_eq!(ports.contents(), ["before", "old", "new"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interest_beyond_relays_limits_is_watched_by_kinds() {
    let address = free_address();
    let _relay = relay(address).await;
    let (alice, author, ports) = (Keys::generate(), Keys::generate(), MemoryPorts::default());
    ports.subscribe_to_many_authors(&alice, 20);
    let wanted = json!({"kinds": [1], "authors": [author.public_key()]});
    ports.subscribe(&alice, &wanted);
    let listening = start(&[address], ports.clone());
    publish(
        address,
        &event(&Keys::generate(), 1, now(), &[], "of another author"),
    )
    .await;
    publish(address, &event(&author, 7, now(), &[], "another kind")).await;
    publish(address, &event(&author, 1, now(), &[], "wanted")).await;
    until("wanted", || ports.has("wanted")).await;
    listening.stop().await;
    assert_eq!(ports.contents(), ["wanted"]);
}
