//! The world around a listener in tests: tables and queues in memory, relays on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{SinkExt, StreamExt};
use listener::{Listener, Options, Ports, Stopped, health::Health};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Millis, Seconds,
    message::{Content, Control},
    order::Order,
    owner::Owner,
    ports::{Answer, ChangeFeed, Members, Queue, Relays, Unavailable},
    subscription::{MUTE_LIST, State, Subscription},
};
use nostr_push_testkit::{free_port, memory::Memory, subscription};
use nostr_relay_builder::{LocalRelay, RelayBuilder, prelude::RateLimit};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// The tables and queues, in memory. Clones share their state.
#[derive(Clone, Default)]
pub struct World {
    pub rows: Arc<Mutex<Vec<Subscription>>>,
    pub controls: Arc<Mutex<Vec<String>>>,
    pub contents: Arc<Mutex<Vec<Content>>>,
    pub refusing: Arc<AtomicBool>,
    pub panicking: Arc<AtomicBool>,
    pub store: Arc<Memory>,
}

impl ChangeFeed for World {
    async fn changes(&self, since: Millis, each: impl FnMut(Subscription) + Send) -> Answer<()> {
        let rows: Vec<Subscription> = self
            .rows
            .lock()
            .unwrap()
            .iter()
            .filter(|row| row.changed_at >= since)
            .cloned()
            .collect();
        rows.into_iter().for_each(each);
        Ok(())
    }
}

impl Relays for World {
    async fn cursor(&self, relay: &str) -> Answer<Option<Seconds>> {
        self.store.cursor(relay).await
    }

    async fn checkpoint(
        &self,
        relay: &str,
        cursor: Seconds,
        status: &str,
        now: Seconds,
    ) -> Answer<()> {
        self.store.checkpoint(relay, cursor, status, now).await
    }
}

impl Members for World {
    async fn join(&self, member: &str, now: Seconds, until: Seconds) -> Answer<Vec<String>> {
        self.store.join(member, now, until).await
    }

    async fn leave(&self, member: &str) -> Answer<()> {
        self.store.leave(member).await
    }
}

impl Queue<Control> for World {
    async fn send(&self, messages: &[Control]) -> Answer<()> {
        self.controls
            .lock()
            .unwrap()
            .extend(messages.iter().map(|m| m.event.get().to_owned()));
        Ok(())
    }
}

impl Queue<Content> for World {
    async fn send(&self, messages: &[Content]) -> Answer<()> {
        assert!(!self.panicking.load(Ordering::SeqCst), "a bug, on demand");
        if self.refusing.load(Ordering::SeqCst) {
            return Err(Unavailable {
                dependency: "queue",
                why: "refuses".to_owned(),
            });
        }
        self.contents.lock().unwrap().extend_from_slice(messages);
        Ok(())
    }
}

impl World {
    /// A subscription of somebody who is interested in this filter.
    pub fn subscribe(&self, owner: &Keys, filter: &Value, state: State, order: u64) {
        self.subscribe_with(owner, filter, state, order, &[]);
    }

    /// The same, with relays to watch.
    pub fn subscribe_with(
        &self,
        owner: &Keys,
        filter: &Value,
        state: State,
        order: u64,
        relays: &[String],
    ) {
        let owner = Owner {
            app: "demo".to_owned(),
            pubkey: owner.public_key(),
        };
        let row = subscription(&owner, filter);
        let row = Subscription {
            order: Order::counter(order),
            state,
            changed_at: now_ms(),
            relays: relays.to_vec(),
            ..row
        };
        self.rows.lock().unwrap().push(row);
    }

    /// What every owner with a device has.
    pub fn subscribe_to_mute_list(&self, owner: &Keys) {
        let owner = Owner {
            app: "demo".to_owned(),
            pubkey: owner.public_key(),
        };
        let row = subscription(
            &owner,
            &json!({"kinds": [10_000], "authors": [owner.pubkey]}),
        );
        let subscription = format!("{MUTE_LIST}{}", row.subscription);
        self.rows.lock().unwrap().push(Subscription {
            subscription,
            changed_at: now_ms(),
            ..row
        });
    }

    /// The contents of the events that were forwarded, in order. One may have come as stored and
    /// then live: in the whole service the claim makes that one push.
    pub fn contents(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let contents = self.contents.lock().unwrap();
        contents
            .iter()
            .map(|content| content.event.content.clone())
            .filter(|content| seen.insert(content.clone()))
            .collect()
    }

    /// How often an event with this content was forwarded.
    pub fn copies(&self, of: &str) -> usize {
        self.contents
            .lock()
            .unwrap()
            .iter()
            .filter(|content| content.event.content == of)
            .count()
    }

    /// Whether an event with this content came live.
    pub fn has_live(&self, of: &str) -> bool {
        self.contents
            .lock()
            .unwrap()
            .iter()
            .any(|content| content.event.content == of && !content.backfill)
    }

    pub fn has(&self, content: &str) -> bool {
        self.contents().iter().any(|forwarded| forwarded == content)
    }
}

pub fn now_ms() -> Millis {
    u64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis(),
    )
    .unwrap()
}

pub fn now() -> u64 {
    now_ms() / 1000
}

pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port(0)))
}

pub fn builder(address: SocketAddr) -> RelayBuilder {
    let limit = RateLimit {
        max_reqs: 500,
        notes_per_minute: 1_000_000,
    };
    RelayBuilder::default()
        .addr(address.ip())
        .port(address.port())
        .rate_limit(limit)
}

pub async fn relay(address: SocketAddr) -> LocalRelay {
    run_relay(builder(address)).await
}

pub async fn run_relay(builder: RelayBuilder) -> LocalRelay {
    let relay = LocalRelay::new(builder);
    relay.run().await.unwrap();
    relay
}

/// Publishes all over one connection.
pub async fn publish_all(address: SocketAddr, events: &[Event]) {
    let (mut socket, _) = connect_async(format!("ws://{address}")).await.unwrap();
    for event in events {
        socket
            .send(Message::text(json!(["EVENT", event]).to_string()))
            .await
            .unwrap();
        loop {
            let answer: Value =
                serde_json::from_str(socket.next().await.unwrap().unwrap().to_text().unwrap())
                    .unwrap_or_default();
            if answer[0] == "OK" {
                assert_eq!(answer[2], true, "{answer}");
                break;
            }
        }
    }
}

pub async fn publish(address: SocketAddr, event: &Event) {
    publish_all(address, std::slice::from_ref(event)).await;
}

/// What listeners of this test process have counted.
static COUNTED: Mutex<BTreeMap<(&str, &str), u64>> = Mutex::new(BTreeMap::new());

fn count(outcome: &'static str, reason: &'static str) {
    *COUNTED
        .lock()
        .unwrap()
        .entry((outcome, reason))
        .or_default() += 1;
}

/// How often this was counted so far.
pub fn counted(outcome: &'static str, reason: &'static str) -> u64 {
    COUNTED
        .lock()
        .unwrap()
        .get(&(outcome, reason))
        .copied()
        .unwrap_or_default()
}

pub struct Running {
    pub service: Keys,
    pub world: World,
    pub health: Arc<Health>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Stopped>>,
}

pub fn url(address: &SocketAddr) -> String {
    format!("ws://{address}")
}

pub fn start(addresses: &[SocketAddr], world: World) -> Running {
    start_as(
        "one",
        Keys::generate(),
        addresses.iter().map(url).collect(),
        true,
        world,
    )
}

pub fn start_as(
    member: &str,
    service: Keys,
    relays: Vec<String>,
    private: bool,
    world: World,
) -> Running {
    let (stop, stopping) = watch::channel(false);
    let ports = Ports {
        feed: world.clone(),
        store: world.clone(),
        control: world.clone(),
        content: world.clone(),
        count,
        clock: now_ms,
    };
    let options = Options {
        relays,
        owners_relays: 200,
        private,
        control_events: 60,
        member: member.to_owned(),
    };
    let listener = Listener::new(service.clone(), options, ports);
    let health = listener.health();
    let task = tokio::spawn(listener.run(stopping));
    Running {
        service,
        world,
        health,
        stop,
        task,
    }
}

impl Running {
    pub async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Result<(), Stopped> {
        self.task.await.unwrap()
    }

    /// What SIGKILL leaves: nothing is flushed, no cursor is stored, no membership ended.
    pub async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

/// Waits for a condition, with a limit that no working listener reaches.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_800 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("not after 90 s: {what}; {:?}", COUNTED.lock().unwrap());
}
