//! The listener against a real relay and queues in memory: what it asks for, what it forwards, and
//! how it stops.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

mod support;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use listener::Stopped;
use nostr::{event::Event, key::Keys};
use nostr_push_core::{DAY, subscription::State};
use nostr_push_testkit::{control_event, dialect_h_event, event};
use nostr_relay_builder::prelude::{RelayBuilderNip42, RelayBuilderNip42Mode};
use serde_json::json;
use support::{
    World, builder, counted, free_address, now, publish, publish_all, relay, run_relay, start,
    start_as, until, url,
};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread")]
async fn it_forwards_what_somebody_wants_once_and_follows_the_interest() {
    let (first, second) = (free_address(), free_address());
    let _relays = (relay(first).await, relay(second).await);
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let p = alice.public_key().to_hex();
    let note = |content: &str| event(&bob, 1, now(), &[&["p", &p]], content);
    let listening = start(&[first, second], World::default());
    let world = listening.world.clone();

    // Control events come without any interest, and only those for us.
    publish(
        first,
        &control_event(
            &alice,
            Keys::generate().public_key(),
            3079,
            now(),
            &[],
            "{}",
        ),
    )
    .await;
    let register = control_event(
        &alice,
        listening.service.public_key(),
        3079,
        now(),
        &[],
        "{}",
    );
    publish(first, &register).await;
    publish(second, &register).await;
    until("the control event", || {
        !world.controls.lock().unwrap().is_empty()
    })
    .await;

    // A heartbeat goes to all relays, is stored by none, and costs one message.
    let beats: Vec<Event> = (0..5)
        .map(|n| dialect_h_event(&alice, listening.service.public_key(), now() - n, &[], "{}"))
        .collect();
    for beat in &beats {
        publish(first, beat).await;
        publish(second, beat).await;
    }
    until("the heartbeats", || {
        world.controls.lock().unwrap().len() > beats.len()
    })
    .await;

    // A new subscription reaches the relay, and both relays' copies are one.
    world.subscribe(&alice, &json!({"kinds": [1], "#p": [p]}), State::Active, 1);
    let hello = note("hello");
    publish(first, &hello).await;
    publish(second, &hello).await;
    until("hello", || world.contents().contains(&"hello".to_owned())).await;
    publish(first, &event(&bob, 7, now(), &[&["p", &p]], "another kind")).await;
    // Once both are live, the copies of both are one.
    for (n, address) in [first, second].into_iter().enumerate() {
        for attempt in 0.. {
            let name = format!("at {n}, {attempt}");
            publish(address, &note(&name)).await;
            until(&name, || world.has(&name)).await;
            if world.has_live(&name) {
                break;
            }
        }
    }
    let again = note("again");
    publish(first, &again).await;
    publish(second, &again).await;
    publish(second, &note("and on")).await;
    until("and on", || world.has("and on")).await;
    assert_eq!(world.copies("again"), 1);
    let hits = world.contents.lock().unwrap()[0]
        .hits
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    assert_eq!(hits, [format!("#p:{p}")]);

    // A removed one goes out of it: the relay is no longer asked, and what it sends all the same is
    // dropped.
    let marker = "cd".repeat(32);
    world.subscribe(&alice, &json!({"kinds": [1], "#p": [p]}), State::Removed, 2);
    world.subscribe(
        &alice,
        &json!({"kinds": [1], "#e": [marker]}),
        State::Active,
        1,
    );
    publish(first, &event(&bob, 1, now(), &[&["e", &marker]], "marker")).await;
    until("marker", || world.contents().contains(&"marker".to_owned())).await;
    publish(first, &note("unwanted")).await;
    publish(first, &event(&bob, 1, now(), &[&["e", &marker]], "last")).await;
    until("last", || world.contents().contains(&"last".to_owned())).await;

    listening.stop().await;
    let contents: Vec<String> = world
        .contents()
        .into_iter()
        .filter(|content| !content.starts_with("at "))
        .collect();
    assert_eq!(contents, ["hello", "again", "and on", "marker", "last"]);
    let controls: Vec<Event> = world
        .controls
        .lock()
        .unwrap()
        .iter()
        .map(|json| serde_json::from_str(json).unwrap())
        .collect();
    assert_eq!(
        controls,
        std::iter::once(register).chain(beats).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reconnects_and_gets_what_it_missed() {
    let address = free_address();
    let world = World::default();
    let alice = Keys::generate();
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"#p": [p]}), State::Active, 1);
    // Nobody is there at first.
    let listening = start(&[address], world.clone());
    sleep(Duration::from_millis(200)).await;
    let relay = relay(address).await;
    publish(
        address,
        &event(&Keys::generate(), 1, now(), &[&["p", &p]], "missed"),
    )
    .await;
    until("missed", || world.contents().contains(&"missed".to_owned())).await;
    let live = || {
        world
            .contents
            .lock()
            .unwrap()
            .iter()
            .any(|content| content.event.content == "live" && !content.backfill)
    };
    publish(
        address,
        &event(&Keys::generate(), 1, now(), &[&["p", &p]], "live"),
    )
    .await;
    until("live", live).await;
    listening.stop().await;
    relay.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_refuses_loses_nothing_and_stopping_drains() {
    let address = free_address();
    let _relay = relay(address).await;
    let world = World::default();
    let alice = Keys::generate();
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"#p": [p]}), State::Active, 1);
    world.refusing.store(true, Ordering::SeqCst);
    let listening = start(&[address], world.clone());
    let bob = Keys::generate();
    for n in 0..20 {
        publish(
            address,
            &event(&bob, 1, now(), &[&["p", &p]], &n.to_string()),
        )
        .await;
    }
    // Told to stop while the queue still refuses; it recovers while the listener drains.
    sleep(Duration::from_secs(1)).await;
    let refusing = Arc::clone(&world.refusing);
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        refusing.store(false, Ordering::SeqCst);
    });
    listening.stop().await;
    // One may come as stored and then live: the claim in deliver makes it one push.
    let contents: BTreeSet<u32> = world
        .contents()
        .iter()
        .map(|content| content.parse().unwrap())
        .collect();
    assert_eq!(contents, (0..20).collect());
}

/// Numbered notes that mention somebody, twenty in each of the last seconds: a relay answers with
/// 500 at once, and a second that holds more cannot be gone through.
fn notes(author: &Keys, p: &str, numbers: std::ops::Range<u64>) -> Vec<Event> {
    let now = now();
    numbers
        .map(|n| {
            event(
                author,
                1,
                now - 40 + (n / 20) % 40,
                &[&["p", p]],
                &n.to_string(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_events_flow_it_misses_none_of_them() {
    let address = free_address();
    let _relay = relay(address).await;
    let (alice, bob, world) = (Keys::generate(), Keys::generate(), World::default());
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"#p": [p]}), State::Active, 1);
    let all = notes(&bob, &p, 0..600);
    let service = Keys::generate();
    let first = start_as(
        "one",
        service.clone(),
        vec![url(&address)],
        true,
        world.clone(),
    );
    publish(address, &all[0]).await;
    until("the first event", || world.has("0")).await;
    until("a cursor", || {
        world.store.state().cursors.contains_key(&url(&address))
    })
    .await;
    // The queue refuses, so that what it has read dies with it.
    world.refusing.store(true, Ordering::SeqCst);
    publish_all(address, &all[1..300]).await;
    first.kill().await;
    publish_all(address, &all[300..]).await;
    world.refusing.store(false, Ordering::SeqCst);
    let second = start_as("two", service, vec![url(&address)], true, world.clone());
    let numbers = || {
        world
            .contents()
            .iter()
            .map(|n| n.parse::<u64>().unwrap())
            .collect::<BTreeSet<_>>()
    };
    until("all of them", || numbers().len() == 600).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_stored_events_than_a_relay_answers_with_at_once_are_asked_for_page_by_page() {
    let address = free_address();
    // It answers a filter with 500 events at most.
    let _relay = relay(address).await;
    let (alice, bob, world) = (Keys::generate(), Keys::generate(), World::default());
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"#p": [p]}), State::Active, 1);
    let from = now() - 1_000;
    let all: Vec<Event> = (0..1_300)
        .map(|n| event(&bob, 1, from + n / 2, &[&["p", &p]], &n.to_string()))
        .collect();
    publish_all(address, &all).await;
    world.store.state().cursors.insert(url(&address), from);
    let listening = start(&[address], world.clone());
    until("all of them", || world.contents().len() >= 1_300).await;
    assert!(
        world
            .contents
            .lock()
            .unwrap()
            .iter()
            .all(|content| content.backfill)
    );
    let live = event(&bob, 1, now(), &[&["p", &p]], "live");
    publish(address, &live).await;
    until("live", || {
        world
            .contents
            .lock()
            .unwrap()
            .iter()
            .any(|content| content.event == live && !content.backfill)
    })
    .await;
    listening.stop().await;
    assert!(world.store.state().cursors[&url(&address)] >= live.created_at.as_secs());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_who_it_is_to_a_relay_that_asks() {
    let address = free_address();
    let nip42 = RelayBuilderNip42 {
        mode: RelayBuilderNip42Mode::Read,
    };
    let _relay = run_relay(builder(address).nip42(nip42)).await;
    let (alice, world) = (Keys::generate(), World::default());
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"#p": [p]}), State::Active, 1);
    let listening = start(&[address], world.clone());
    until("authentication", || counted("relay", "authenticated") > 0).await;
    publish(
        address,
        &event(&Keys::generate(), 1, now(), &[&["p", &p]], "for members"),
    )
    .await;
    until("the event", || world.has("for members")).await;
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_relay_is_watched_while_the_owner_wants_it() {
    let (operators, owners) = (free_address(), free_address());
    let _relays = (relay(operators).await, relay(owners).await);
    let (alice, bob, world) = (Keys::generate(), Keys::generate(), World::default());
    let p = alice.public_key().to_hex();
    let filter = json!({"#p": [p]});
    world.subscribe_with(&alice, &filter, State::Active, 1, &[url(&owners)]);
    let listening = start(&[operators], world.clone());
    publish(owners, &event(&bob, 1, now(), &[&["p", &p]], "over there")).await;
    until("over there", || world.has("over there")).await;
    world.subscribe(&alice, &filter, State::Active, 2);
    until("only the operator's", || {
        listening.health.connected.load(Ordering::SeqCst) == 1
    })
    .await;
    publish(owners, &event(&bob, 1, now(), &[&["p", &p]], "too late")).await;
    publish(operators, &event(&bob, 1, now(), &[&["p", &p]], "here")).await;
    until("here", || world.has("here")).await;
    assert!(!world.has("too late"));
    listening.stop().await;

    // Where private networks are not allowed, an owner's relay there is not even looked up.
    let world = World::default();
    world.subscribe_with(
        &alice,
        &filter,
        State::Active,
        1,
        &[url(&owners), "wss://localhost:1".to_owned()],
    );
    let listening = start_as("one", Keys::generate(), Vec::new(), false, world);
    until("forbidden", || counted("relay", "forbidden") > 0).await;
    assert_eq!(
        listening.health.watched.load(Ordering::SeqCst),
        1,
        "the name is watched, its address refused"
    );
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_tasks_share_the_relays_and_take_over_those_of_one_that_dies() {
    let addresses: Vec<_> = (0..9).map(|_| free_address()).collect();
    let mut relays = Vec::new();
    for address in &addresses {
        relays.push(relay(*address).await);
    }
    let (alice, bob, world, service) = (
        Keys::generate(),
        Keys::generate(),
        World::default(),
        Keys::generate(),
    );
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"#p": [p]}), State::Active, 1);
    let urls: Vec<String> = addresses.iter().map(url).collect();
    let mut tasks: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| start_as(name, service.clone(), urls.clone(), true, world.clone()))
        .collect();
    let watched = |tasks: &[support::Running]| {
        tasks
            .iter()
            .map(|task| task.health.watched.load(Ordering::SeqCst))
            .collect::<Vec<_>>()
    };
    until("each relay has one task", || {
        watched(&tasks).iter().sum::<usize>() == 9 && watched(&tasks).iter().all(|n| *n < 9)
    })
    .await;
    until("all are connected", || {
        tasks
            .iter()
            .map(|task| task.health.connected.load(Ordering::SeqCst))
            .sum::<usize>()
            == 9
    })
    .await;
    for (n, address) in addresses.iter().enumerate() {
        publish(
            *address,
            &event(&bob, 1, now(), &[&["p", &p]], &format!("before {n}")),
        )
        .await;
    }
    until("from everywhere", || {
        (0..9).all(|n| world.has(&format!("before {n}")))
    })
    .await;
    let killed = tasks
        .iter()
        .position(|task| task.health.watched.load(Ordering::SeqCst) > 0)
        .unwrap();
    tasks.swap_remove(killed).kill().await;
    for (n, address) in addresses.iter().enumerate() {
        publish(
            *address,
            &event(&bob, 1, now(), &[&["p", &p]], &format!("after {n}")),
        )
        .await;
    }
    let started = std::time::Instant::now();
    until("its relays have another", || {
        (0..9).all(|n| world.has(&format!("after {n}")))
    })
    .await;
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
async fn a_queue_that_is_away_for_long_under_load_costs_nothing_but_time() {
    let address = free_address();
    let _relay = relay(address).await;
    let (alice, bob, world) = (Keys::generate(), Keys::generate(), World::default());
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"#p": [p]}), State::Active, 1);
    let listening = start(&[address], world.clone());
    publish(address, &event(&bob, 1, now(), &[&["p", &p]], "first")).await;
    until("first", || world.has("first")).await;
    world.refusing.store(true, Ordering::SeqCst);
    // More than the buffer holds: 2,048 events.
    let all = notes(&bob, &p, 0..4_000);
    publish_all(address, &all).await;
    let [_, content] = &listening.health.buffers;
    until("the buffer is full", || {
        content.entered() - content.accepted() >= 2_048
    })
    .await;
    sleep(Duration::from_secs(60)).await;
    assert!(content.entered() - content.accepted() < 2_500, "it grows");
    assert!(!listening.health.ready(support::now_ms()).0, "and says so");
    world.refusing.store(false, Ordering::SeqCst);
    until("all of them", || {
        world
            .contents()
            .iter()
            .filter(|n| *n != "first")
            .collect::<BTreeSet<_>>()
            .len()
            == 4_000
    })
    .await;
    until("ready again", || {
        listening.health.ready(support::now_ms()).0
    })
    .await;
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_inside_that_dies_ends_the_process() {
    let address = free_address();
    let _relay = relay(address).await;
    let (alice, world) = (Keys::generate(), World::default());
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"#p": [p]}), State::Active, 1);
    world.panicking.store(true, Ordering::SeqCst);
    let listening = start(&[address], world);
    publish(
        address,
        &event(&Keys::generate(), 1, now(), &[&["p", &p]], "poison"),
    )
    .await;
    assert!(matches!(
        listening.ended().await,
        Err(Stopped::TaskEnded(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mute_list_of_an_owner_who_comes_is_fetched_however_old_and_followed() {
    for values in [0, 20] {
        let address = free_address();
        let _relay = relay(address).await;
        let (alice, bob, world) = (Keys::generate(), Keys::generate(), World::default());
        // Narrow, and wide: by the kinds in use.
        for n in 0..values {
            let authors: Vec<String> = (0..1_000)
                .map(|m| format!("{:064x}", n * 1_000 + m))
                .collect();
            world.subscribe(
                &bob,
                &json!({"kinds": [1], "authors": authors}),
                State::Active,
                1,
            );
        }
        world.subscribe(
            &bob,
            &json!({"kinds": [1], "#t": ["marker"]}),
            State::Active,
            1,
        );
        let list = |at, content: &str| event(&alice, 10_000, at, &[&["word", "casino"]], content);
        publish(address, &list(now() - 300 * DAY, "old")).await;
        publish(
            address,
            &event(
                &bob,
                10_000,
                now() - DAY,
                &[&["p", &alice.public_key().to_hex()]],
                "of nobody",
            ),
        )
        .await;
        let listening = start(&[address], world.clone());
        publish(
            address,
            &event(&bob, 1, now(), &[&["t", "marker"]], "before"),
        )
        .await;
        until("before", || world.has("before")).await;
        assert!(!world.has("old"));
        world.subscribe_to_mute_list(&alice);
        until("old", || world.has("old")).await;
        publish(address, &event(&alice, 1, now(), &[], "what she writes")).await;
        publish(address, &list(now(), "new")).await;
        until("new", || world.has("new")).await;
        listening.stop().await;
        assert_eq!(world.contents(), ["before", "old", "new"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interest_beyond_a_relays_limits_is_watched_by_kinds() {
    let address = free_address();
    let _relay = relay(address).await;
    let (alice, author, world) = (Keys::generate(), Keys::generate(), World::default());
    // 20 subscriptions of 1,000 authors each: no relay takes so many values.
    for n in 0..20 {
        let authors: Vec<String> = (0..1_000)
            .map(|m| format!("{:064x}", n * 1_000 + m))
            .collect();
        world.subscribe(
            &alice,
            &json!({"kinds": [1], "authors": authors}),
            State::Active,
            1,
        );
    }
    world.subscribe(
        &alice,
        &json!({"kinds": [1], "authors": [author.public_key()]}),
        State::Active,
        1,
    );
    let listening = start(&[address], world.clone());
    publish(
        address,
        &event(&Keys::generate(), 1, now(), &[], "of nobody"),
    )
    .await;
    publish(address, &event(&author, 7, now(), &[], "another kind")).await;
    publish(address, &event(&author, 1, now(), &[], "wanted")).await;
    until("wanted", || world.has("wanted")).await;
    listening.stop().await;
    assert_eq!(world.contents(), ["wanted"]);
}
