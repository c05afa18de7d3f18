//! What the listener's tests need: tables and queues in memory, and relays on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of this module"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{SinkExt, StreamExt};
use listener::{
    Listener, ListenerError, Options, Ports,
    budget::{Budgets, content::ContentRates},
    counter::{DropReason, ListenerCounter, ProfileReason, RelayReason},
    health::Health,
    shutdown::{Shutdown, StopHandle},
};
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_core::{
    Millis, Seconds,
    app::App,
    capacity::Usage,
    message::{ContentMessage, ControlMessage},
    order::Order,
    ports::{
        AllApps, ChangeFeed, FeedPage, FeedPosition, Inbox, Members, PortResult, ProfileWriter,
        Queue, Received, RelayCursor, Relays, Unavailable, Usages,
    },
    profile::{ProfileRequest, ProfileUpdate},
    service_keys::ServiceKeys,
    subscription::{MUTE_LIST_PREFIX, Subscription, SubscriptionState},
};
use nostr_push_testkit::{free_port, memory::Memory, owner, subscription};
use nostr_relay_builder::{LocalRelay, RelayBuilder, prelude::RateLimit};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::sleep};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// The tables and queues, in memory. Clones share their state.
#[derive(Clone, Default)]
pub struct MemoryPorts {
    /// The rows of the change feed.
    pub rows: Arc<Mutex<Vec<Subscription>>>,
    /// The events in the control queue.
    pub controls: Arc<Mutex<Vec<String>>>,
    /// The messages in the event queue.
    pub contents: Arc<Mutex<Vec<ContentMessage>>>,
    /// If `true`, the event queue fails.
    pub queue_fails: Arc<AtomicBool>,
    /// If `true`, sending to the event queue panics.
    pub queue_panics: Arc<AtomicBool>,
    /// The relays' cursors, the listener's tasks, and the profiles with their requests.
    pub store: Arc<Memory>,
    /// The number of writes of profiles that fail.
    pub failing_profiles: Arc<AtomicUsize>,
    /// When requests for profiles were returned, and how many.
    pub received: Arc<Mutex<Vec<(Instant, usize)>>>,
}

/// The stamp of a row is its `changed_at`.
impl ChangeFeed for MemoryPorts {
    fn partitions(&self) -> u64 {
        1
    }

    async fn page(
        &self,
        _partition: u64,
        since: Millis,
        _after: Option<&FeedPosition>,
    ) -> PortResult<FeedPage> {
        let rows = self.rows.lock().unwrap();
        let rows = rows.iter().filter(|row| row.changed_at >= since);
        Ok(FeedPage {
            rows: rows.cloned().collect(),
            next: None,
        })
    }
}

impl Relays for MemoryPorts {
    async fn cursor(&self, relay: &str) -> PortResult<Option<RelayCursor>> {
        self.store.cursor(relay).await
    }

    async fn checkpoint(
        &self,
        relay: &str,
        cursor: RelayCursor,
        status: &str,
        now: Seconds,
    ) -> PortResult<()> {
        self.store.checkpoint(relay, cursor, status, now).await
    }
}

impl Usages for MemoryPorts {
    async fn usage(&self) -> PortResult<Option<Usage>> {
        self.store.usage().await
    }

    async fn record_usage(&self, usage: &Usage) -> PortResult<()> {
        self.store.record_usage(usage).await
    }
}

impl AllApps for MemoryPorts {
    async fn all_apps(&self) -> PortResult<Vec<App>> {
        self.store.all_apps().await
    }

    async fn all_blocked(&self) -> PortResult<BTreeSet<PublicKey>> {
        self.store.all_blocked().await
    }
}

impl Members for MemoryPorts {
    async fn join(&self, member: &str, now: Seconds, until: Seconds) -> PortResult<Vec<String>> {
        self.store.join(member, now, until).await
    }

    async fn leave(&self, member: &str) -> PortResult<()> {
        self.store.leave(member).await
    }
}

impl Inbox<ProfileRequest> for MemoryPorts {
    async fn receive(&self) -> PortResult<Vec<Received<ProfileRequest>>> {
        let received = self.store.receive().await?;
        if !received.is_empty() {
            let batch = (Instant::now(), received.len());
            self.received.lock().unwrap().push(batch);
        }
        Ok(received)
    }

    async fn delete(&self, receipts: &[String]) -> PortResult<()> {
        Inbox::<ProfileRequest>::delete(&*self.store, receipts).await
    }
}

impl ProfileWriter for MemoryPorts {
    async fn put_profile(&self, update: &ProfileUpdate, now: Seconds) -> PortResult<bool> {
        let fails = |left: usize| left.checked_sub(1);
        if self
            .failing_profiles
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails)
            .is_ok()
        {
            return Err(Unavailable::new("profiles", "a failure on demand"));
        }
        self.store.put_profile(update, now).await
    }
}

impl Queue<ControlMessage> for MemoryPorts {
    async fn send(&self, messages: &[ControlMessage]) -> PortResult<()> {
        self.controls
            .lock()
            .unwrap()
            .extend(messages.iter().map(|m| m.event.get().to_owned()));
        Ok(())
    }
}

impl Queue<ContentMessage> for MemoryPorts {
    async fn send(&self, messages: &[ContentMessage]) -> PortResult<()> {
        assert!(
            !self.queue_panics.load(Ordering::SeqCst),
            "a panic on demand"
        );
        if self.queue_fails.load(Ordering::SeqCst) {
            return Err(Unavailable::new("queue", "a failure on demand"));
        }
        self.contents.lock().unwrap().extend_from_slice(messages);
        Ok(())
    }
}

impl MemoryPorts {
    /// Adds an active subscription of the lowest order.
    pub fn subscribe(&self, owner: &Keys, filter: &Value) {
        self.subscribe_with(owner, filter, SubscriptionState::Active, 1, &[]);
    }

    /// Removes a subscription, with the order after that of [`MemoryPorts::subscribe`].
    pub fn unsubscribe(&self, owner: &Keys, filter: &Value) {
        self.subscribe_with(owner, filter, SubscriptionState::Removed, 2, &[]);
    }

    /// Adds a row with this state, this order and these relays.
    pub fn subscribe_with(
        &self,
        keys: &Keys,
        filter: &Value,
        state: SubscriptionState,
        order: u64,
        relays: &[String],
    ) {
        self.rows.lock().unwrap().push(Subscription {
            order: Order::counter(order),
            state,
            changed_at: now_ms(),
            relays: relays.to_vec(),
            ..subscription(&owner(keys.public_key()), filter)
        });
    }

    /// Adds the subscription to the owner's own mute list that every owner with a device has.
    pub fn subscribe_to_mute_list(&self, keys: &Keys) {
        let row = subscription(
            &owner(keys.public_key()),
            &json!({"kinds": [10_000], "authors": [keys.public_key()]}),
        );
        self.rows.lock().unwrap().push(Subscription {
            identity: format!("{MUTE_LIST_PREFIX}{}", row.identity),
            changed_at: now_ms(),
            ..row
        });
    }

    /// Adds `count` active subscriptions to 1,000 authors each. 20 of them are more than fits into
    /// the REQs of any relay.
    pub fn subscribe_to_many_authors(&self, keys: &Keys, count: usize) {
        for n in 0..count {
            let authors: Vec<String> = (0..1_000)
                .map(|m| format!("{:064x}", n * 1_000 + m))
                .collect();
            self.subscribe(keys, &json!({"kinds": [1], "authors": authors}));
        }
    }

    /// The contents of the forwarded events, in order, each once. An event may be forwarded as a
    /// stored one and then as a live one. In the whole service the claim makes that one push.
    pub fn contents(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let contents = self.contents.lock().unwrap();
        contents
            .iter()
            .map(|content| content.event.content.clone())
            .filter(|content| seen.insert(content.clone()))
            .collect()
    }

    /// The number of times that an event with this content was forwarded.
    pub fn copies(&self, of: &str) -> usize {
        self.contents
            .lock()
            .unwrap()
            .iter()
            .filter(|content| content.event.content == of)
            .count()
    }

    /// Returns `true` if an event with this content was forwarded with this index key.
    pub fn hits(&self, of: &str, key: &str) -> bool {
        let contents = self.contents.lock().unwrap();
        let mut copies = contents
            .iter()
            .filter(|content| content.event.content == of);
        copies.any(|content| content.hits.iter().any(|hit| hit.to_string() == key))
    }

    /// Returns `true` if an event with this content was forwarded as a live one.
    pub fn has_live(&self, of: &str) -> bool {
        self.contents
            .lock()
            .unwrap()
            .iter()
            .any(|content| content.event.content == of && !content.backfill)
    }

    /// Returns `true` if an event with this content was forwarded.
    pub fn has(&self, content: &str) -> bool {
        self.contents().iter().any(|forwarded| forwarded == content)
    }
}

/// The current time.
pub fn now_ms() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Millis(u64::try_from(since.as_millis()).unwrap())
}

/// The current time as the `created_at` of an event.
pub fn now() -> u64 {
    now_ms().to_seconds().0
}

pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port(0)))
}

/// A relay that is not rate limited.
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

/// Starts a relay. It stops when the value is dropped.
pub async fn relay(address: SocketAddr) -> LocalRelay {
    run_relay(builder(address)).await
}

pub async fn run_relay(builder: RelayBuilder) -> LocalRelay {
    let relay = LocalRelay::new(builder);
    relay.run().await.unwrap();
    relay
}

/// Publishes all events over one connection.
pub async fn publish_all(address: SocketAddr, events: &[Event]) {
    let (mut socket, _) = connect_async(format!("ws://{address}")).await.unwrap();
    for event in events {
        socket
            .send(Message::text(json!(["EVENT", event]).to_string()))
            .await
            .unwrap();
        loop {
            let response = socket.next().await.unwrap().unwrap();
            let response: Value =
                serde_json::from_str(response.to_text().unwrap()).unwrap_or_default();
            if response[0] == "OK" {
                assert_eq!(response[2], true, "{response}");
                break;
            }
        }
    }
}

pub async fn publish(address: SocketAddr, event: &Event) {
    publish_all(address, std::slice::from_ref(event)).await;
}

/// The counters of all listeners of this test process.
static COUNTERS: Mutex<BTreeMap<ListenerCounter, u64>> = Mutex::new(BTreeMap::new());

fn count(counter: ListenerCounter, n: u64) {
    *COUNTERS.lock().unwrap().entry(counter).or_default() += n;
}

fn counted(counter: ListenerCounter) -> u64 {
    COUNTERS
        .lock()
        .unwrap()
        .get(&counter)
        .copied()
        .unwrap_or_default()
}

/// The counter of dropped events with this reason, of all listeners of this test process.
pub fn dropped(reason: DropReason) -> u64 {
    counted(ListenerCounter::Dropped(reason))
}

/// The counter of profiles with this reason, of all listeners of this test process.
pub fn profile_counter(reason: ProfileReason) -> u64 {
    counted(ListenerCounter::Profile(reason))
}

/// The counter of connections with this reason, of all listeners of this test process.
pub fn relay_counter(reason: RelayReason) -> u64 {
    counted(ListenerCounter::Relay(reason))
}

/// A running listener.
pub struct Running {
    pub service: Keys,
    pub ports: MemoryPorts,
    pub health: Arc<Health>,
    stop: StopHandle,
    task: JoinHandle<Result<(), ListenerError>>,
}

pub fn url(address: &SocketAddr) -> String {
    format!("ws://{address}")
}

/// Starts a listener for these relays.
pub fn start(addresses: &[SocketAddr], ports: MemoryPorts) -> Running {
    let relays = addresses.iter().map(url).collect();
    start_as("one", Keys::generate(), relays, true, ports)
}

/// Starts a listener as this member, for the service with these keys and these relays.
pub fn start_as(
    member: &str,
    service: impl Into<ServiceKeys>,
    relays: Vec<String>,
    allow_private: bool,
    ports: MemoryPorts,
) -> Running {
    let (stop, shutdown) = Shutdown::channel();
    let listener_ports = Ports {
        feed: ports.clone(),
        store: ports.clone(),
        control: ports.clone(),
        content: ports.clone(),
        profiles: ports.clone(),
        count: Arc::new(count),
        clock: now_ms,
    };
    let options = Options {
        relays,
        max_owners_relays: 200,
        allow_private,
        // Some tests send more content events than the default budgets allow.
        budgets: Budgets {
            content: ContentRates::unlimited(),
            ..Budgets::default()
        },
        heartbeat_app: None,
        member: member.to_owned(),
    };
    let keys = service.into();
    let service = keys.current().clone();
    let listener = Listener::new(keys, options, listener_ports);
    let health = listener.health();
    let task = tokio::spawn(listener.run(shutdown));
    Running {
        service,
        ports,
        health,
        stop,
        task,
    }
}

impl Running {
    /// Requests a stop, and waits until the listener has ended without an error.
    pub async fn stop(self) {
        self.stop.stop();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until the listener ends without a request.
    pub async fn ended(self) -> Result<(), ListenerError> {
        self.task.await.unwrap()
    }

    /// Ends the listener as SIGKILL does: no buffer is emptied, no cursor is stored, and the
    /// membership is not ended.
    pub async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

/// Waits until a condition is met.
///
/// # Panics
/// If the condition is not met within 90 s.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_800 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("not after 90 s: {what}; {:?}", COUNTERS.lock().unwrap());
}
