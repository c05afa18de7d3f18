//! The listener against a real relay and queues in memory: what it asks for, what it forwards, and how it stops.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{SinkExt, StreamExt};
use listener::{Ports, Stopped, run};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Millis,
    message::{Content, Control},
    order::Order,
    owner::Owner,
    ports::{Answer, ChangeFeed, Queue, Unavailable},
    subscription::{State, Subscription},
};
use nostr_push_testkit::{control_event, dialect_h_event, event, free_port, subscription};
use nostr_relay_builder::{LocalRelay, RelayBuilder};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// The tables and queues, in memory. Clones share their state.
#[derive(Clone, Default)]
struct World {
    rows: Arc<Mutex<Vec<Subscription>>>,
    controls: Arc<Mutex<Vec<String>>>,
    contents: Arc<Mutex<Vec<Content>>>,
    refusing: Arc<AtomicBool>,
}

impl ChangeFeed for World {
    async fn changes(&self, since: Millis) -> Answer<Vec<Subscription>> {
        Ok(self.rows.lock().unwrap().iter().filter(|row| row.changed_at >= since).cloned().collect())
    }
}

impl Queue<Control> for World {
    async fn send(&self, messages: &[Control]) -> Answer<()> {
        self.controls.lock().unwrap().extend(messages.iter().map(|m| m.event.get().to_owned()));
        Ok(())
    }
}

impl Queue<Content> for World {
    async fn send(&self, messages: &[Content]) -> Answer<()> {
        if self.refusing.load(Ordering::SeqCst) {
            return Err(Unavailable { dependency: "queue", why: "refuses".to_owned() });
        }
        self.contents.lock().unwrap().extend_from_slice(messages);
        Ok(())
    }
}

impl World {
    fn subscribe(&self, owner: &Keys, filter: &Value, state: State, order: u64) {
        let owner = Owner { app: "demo".to_owned(), pubkey: owner.public_key() };
        let row = Subscription { order: Order::counter(order), state, changed_at: now_ms(), ..subscription(&owner, filter) };
        self.rows.lock().unwrap().push(row);
    }

    fn contents(&self) -> Vec<String> {
        self.contents.lock().unwrap().iter().map(|content| content.event.content.clone()).collect()
    }
}

fn now_ms() -> Millis {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn now() -> u64 {
    now_ms() / 1000
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port(0)))
}

async fn relay(address: SocketAddr) -> LocalRelay {
    let relay = LocalRelay::new(RelayBuilder::default().addr(address.ip()).port(address.port()));
    relay.run().await.unwrap();
    relay
}

async fn publish(address: SocketAddr, event: &Event) {
    let (mut socket, _) = connect_async(format!("ws://{address}")).await.unwrap();
    socket.send(Message::text(json!(["EVENT", event]).to_string())).await.unwrap();
    while let Some(frame) = socket.next().await {
        let answer: Value = serde_json::from_str(frame.unwrap().to_text().unwrap()).unwrap_or_default();
        if answer[0] == "OK" {
            assert_eq!(answer[2], true, "{answer}");
            return;
        }
    }
}

struct Running {
    service: Keys,
    world: World,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Stopped>>,
}

fn start(addresses: &[SocketAddr], world: World) -> Running {
    let service = Keys::generate();
    let (stop, stopping) = watch::channel(false);
    let ports = Ports { feed: world.clone(), control: world.clone(), content: world.clone(), count: |_, _| {}, clock: now_ms };
    let relays = addresses.iter().map(|address| format!("ws://{address}")).collect();
    let task = tokio::spawn(run(service.public_key(), relays, ports, stopping));
    Running { service, world, stop, task }
}

impl Running {
    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// Waits for a condition, with a limit that no working listener reaches.
async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_200 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("not after a minute: {what}");
}

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
    publish(first, &control_event(&alice, Keys::generate().public_key(), 3079, now(), &[], "{}")).await;
    let register = control_event(&alice, listening.service.public_key(), 3079, now(), &[], "{}");
    publish(first, &register).await;
    publish(second, &register).await;
    until("the control event", || !world.controls.lock().unwrap().is_empty()).await;

    // A heartbeat goes to all relays, is stored by none, and costs one message.
    let beats: Vec<Event> = (0..5).map(|n| dialect_h_event(&alice, listening.service.public_key(), now() - n, &[], "{}")).collect();
    for beat in &beats {
        publish(first, beat).await;
        publish(second, beat).await;
    }
    until("the heartbeats", || world.controls.lock().unwrap().len() > beats.len()).await;

    // A new subscription reaches the relay, and both relays' copies are one.
    world.subscribe(&alice, &json!({"kinds": [1], "#p": [p]}), State::Active, 1);
    let hello = note("hello");
    publish(first, &hello).await;
    publish(second, &hello).await;
    until("hello", || world.contents().contains(&"hello".to_owned())).await;
    publish(first, &event(&bob, 7, now(), &[&["p", &p]], "another kind")).await;
    publish(second, &note("again")).await;
    until("again", || world.contents().contains(&"again".to_owned())).await;
    let hits = world.contents.lock().unwrap()[0].hits.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(hits, [format!("#p:{p}")]);

    // A removed one goes out of it: the relay is no longer asked, and what it sends all the same is dropped.
    let marker = "cd".repeat(32);
    world.subscribe(&alice, &json!({"kinds": [1], "#p": [p]}), State::Removed, 2);
    world.subscribe(&alice, &json!({"kinds": [1], "#e": [marker]}), State::Active, 1);
    publish(first, &event(&bob, 1, now(), &[&["e", &marker]], "marker")).await;
    until("marker", || world.contents().contains(&"marker".to_owned())).await;
    publish(first, &note("unwanted")).await;
    publish(first, &event(&bob, 1, now(), &[&["e", &marker]], "last")).await;
    until("last", || world.contents().contains(&"last".to_owned())).await;

    listening.stop().await;
    assert_eq!(world.contents(), ["hello", "again", "marker", "last"]);
    let controls: Vec<Event> = world.controls.lock().unwrap().iter().map(|json| serde_json::from_str(json).unwrap()).collect();
    assert_eq!(controls, std::iter::once(register).chain(beats).collect::<Vec<_>>());
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
    publish(address, &event(&Keys::generate(), 1, now(), &[&["p", &p]], "missed")).await;
    until("missed", || world.contents().contains(&"missed".to_owned())).await;
    let live = || world.contents.lock().unwrap().iter().any(|content| content.event.content == "live" && !content.backfill);
    publish(address, &event(&Keys::generate(), 1, now(), &[&["p", &p]], "live")).await;
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
        publish(address, &event(&bob, 1, now(), &[&["p", &p]], &n.to_string())).await;
    }
    // Told to stop while the queue still refuses; it recovers while the listener drains.
    sleep(Duration::from_secs(1)).await;
    let refusing = Arc::clone(&world.refusing);
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        refusing.store(false, Ordering::SeqCst);
    });
    listening.stop().await;
    let mut contents: Vec<u32> = world.contents().iter().map(|content| content.parse().unwrap()).collect();
    contents.sort_unstable();
    assert_eq!(contents, (0..20).collect::<Vec<_>>());
}
