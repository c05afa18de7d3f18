//! The events per second that one core of the listener processes, from the socket to the body of
//! the SQS message, against a relay on loopback that sends as fast as it is read. The relay is this
//! program in another process. For comparison: the signatures per second that the same core
//! verifies, and the events per second of a client on a public relay-pool library.
//!
//! `cargo bench -p listener --bench flood -- soak` watches the memory for ten minutes at full load
//! instead.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use listener::{
    Listener, Options, Ports, budget::Budgets, counter::ListenerCounter, shutdown::Shutdown,
};
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_core::{
    Millis, Seconds,
    app::App,
    capacity::Usage,
    message::{ContentMessage, ControlMessage, encode},
    ports::{
        AllApps, ChangeFeed, FeedPage, FeedPosition, Inbox, Members, PortResult, ProfileWriter,
        Queue, Received, RelayCursor, Relays, Usages,
    },
    profile::{ProfileRequest, ProfileUpdate},
};
use nostr_push_testkit::{event, owner, subscription};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};

/// The variable that makes this program the relay. Its value is the text of a [`Load`].
const RELAY_LOAD: &str = "NOSTR_PUSH_BENCH_RELAY";

/// The pubkey to whose mentions the interest subscribes.
const MENTIONED: &str = "abababababababababababababababababababababababababababababababab";

/// How long the client on the relay-pool library waits for an event.
const POOL_TIMEOUT: Duration = Duration::from_secs(60);

static FORWARDED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The bytes of all bodies. The sum keeps the compiler from removing the encoding.
static BODY_BYTES: AtomicU64 = AtomicU64::new(0);
/// Microseconds from the relay to the queue, of each event in a paced load.
static LATENCIES: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn main() -> anyhow::Result<()> {
    if let Ok(load) = std::env::var(RELAY_LOAD) {
        return serve(&Load::parse(&load)?);
    }
    let is_bench = std::env::args().any(|word| word == "--bench");
    if std::env::args().any(|word| word == "soak") {
        return soak();
    }
    // `cargo test --benches` only checks that the program runs.
    let count: u64 = if is_bench { 100_000 } else { 500 };
    let signatures = signatures_per_second(20_000.min(count));
    println!("signatures verified by one core: {signatures:.0}/s");

    let repeats = if is_bench { 20 } else { 1 };
    let dropped = || DROPPED.load(Ordering::Relaxed);
    let not_matching = listen(
        &format!("other {count} {repeats}"),
        dropped,
        count * repeats,
    )?;
    println!(
        "non-matching events: {not_matching:.0}/s, {:.1} times as many as signatures (goal: 15)",
        not_matching / signatures
    );
    let forwarded = || FORWARDED.load(Ordering::Relaxed);
    let matching = listen(&format!("matching {count} 1"), forwarded, count)?;
    println!(
        "matching events: {matching:.0}/s, {:.2} times as many as signatures (goal: 0.7)",
        matching / signatures
    );
    let pool = pool(&format!("other {count} 1"), count)?;
    println!(
        "the same non-matching events through a client on nostr-relay-pool 0.44: {pool:.0}/s; \
         the listener processes {:.1} times as many",
        not_matching / pool
    );
    measure_latency(if is_bench { 5_000 } else { 100 })
}

/// Measures the latency of `count` events at 500 events per second.
fn measure_latency(count: u64) -> anyhow::Result<()> {
    let latencies = || LATENCIES.lock().map_err(|_| anyhow::anyhow!("poisoned"));
    latencies()?.clear();
    listen(
        &format!("paced {count} 1"),
        || FORWARDED.load(Ordering::Relaxed),
        count,
    )?;
    let mut latencies = latencies()?.clone();
    latencies.sort_unstable();
    let percentile = |p: usize| {
        let micros = latencies.get((latencies.len() - 1) * p / 100).copied();
        Duration::from_micros(micros.unwrap_or_default())
    };
    println!(
        "from the relay's frame to the SQS call at 500 events/s: p50 {:.1?}, p99 {:.1?} \
         (20 ms of it are the wait for a batch)",
        percentile(50),
        percentile(99)
    );
    Ok(())
}

/// The signatures that this core verifies per second.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn signatures_per_second(count: u64) -> f64 {
    let keys = Keys::generate();
    let content = "a note of the usual length, more or less";
    let events: Vec<Event> = (0..count)
        .map(|n| event(&keys, 1, n, &[&["p", MENTIONED]], content))
        .collect();
    let started = Instant::now();
    assert!(events.iter().all(|event| event.verify().is_ok()));
    count as f64 / started.elapsed().as_secs_f64()
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Runs a listener on this thread alone until `progress` has grown by `count`. Returns the growth
/// per second.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn listen(load: &str, progress: fn() -> u64, count: u64) -> anyhow::Result<f64> {
    let (mut relay, url) = start_relay(load)?;
    let rate = runtime()?.block_on(async {
        let (stop, shutdown) = Shutdown::channel();
        let listening = tokio::spawn(listener(url).run(shutdown));
        let before = progress();
        let mut first = None;
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let so_far = progress() - before;
            if so_far > 0 && first.is_none() {
                first = Some((Instant::now(), so_far));
            }
            if let Some((started, already)) = first.filter(|_| so_far >= count) {
                stop.stop();
                listening.await??;
                return anyhow::Ok((so_far - already) as f64 / started.elapsed().as_secs_f64());
            }
            anyhow::ensure!(!listening.is_finished(), "the listener ended");
        }
    });
    relay.kill()?;
    relay.wait()?;
    rate
}

fn listener(
    url: String,
) -> Listener<MemoryPorts, MemoryPorts, MemoryPorts, MemoryPorts, MemoryPorts> {
    let ports = Ports {
        feed: MemoryPorts,
        store: MemoryPorts,
        control: MemoryPorts,
        content: MemoryPorts,
        profiles: MemoryPorts,
        count: Arc::new(|counter, n| {
            if matches!(counter, ListenerCounter::Dropped(_)) {
                DROPPED.fetch_add(n, Ordering::Relaxed);
            }
        }),
        clock: || Millis(now_micros() / 1000),
    };
    let options = Options {
        relays: vec![url],
        max_owners_relays: 0,
        allow_private: true,
        budgets: Budgets::unlimited(),
        heartbeat_app: None,
        member: "one".to_owned(),
    };
    Listener::new(Keys::generate(), options, ports)
}

/// Reads the same load with a client on a public library. Returns the events per second that the
/// library returns.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn pool(load: &str, count: u64) -> anyhow::Result<f64> {
    use nostr_relay_pool::{
        RelayPool, RelayPoolNotification,
        prelude::{Filter, Kind, SubscribeOptions, SubscriptionId},
        relay::RelayOptions,
    };
    use tokio::sync::broadcast::error::RecvError;

    let (mut relay, url) = start_relay(load)?;
    let rate = runtime()?.block_on(async {
        let pool = RelayPool::default();
        pool.add_relay(url.as_str(), RelayOptions::default())
            .await?;
        let mut notifications = pool.notifications();
        pool.connect().await;
        pool.subscribe_with_id(
            SubscriptionId::new("content"),
            Filter::new().kind(Kind::TextNote),
            SubscribeOptions::default(),
        )
        .await?;
        let (mut first, mut events) = (None, 0);
        while events < count {
            let received = tokio::time::timeout(POOL_TIMEOUT, notifications.recv()).await?;
            let notification = match received {
                Ok(notification) => notification,
                // The channel drops notifications that are not received in time.
                Err(RecvError::Lagged(n)) => {
                    events += n;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if matches!(notification, RelayPoolNotification::Event { .. }) {
                first.get_or_insert_with(Instant::now);
                events += 1;
            }
        }
        let elapsed = first.context("no event")?.elapsed();
        pool.shutdown().await;
        anyhow::Ok(events as f64 / elapsed.as_secs_f64())
    });
    relay.kill()?;
    relay.wait()?;
    rate
}

/// Runs for ten minutes with matching events, and prints the memory every minute.
fn soak() -> anyhow::Result<()> {
    let (mut relay, url) = start_relay("matching 200000 1000000")?;
    runtime()?.block_on(async {
        let (stop, shutdown) = Shutdown::channel();
        let listening = tokio::spawn(listener(url).run(shutdown));
        for minute in 0..=10 {
            let status = std::fs::read_to_string("/proc/self/status")?;
            let resident = status
                .lines()
                .find(|line| line.starts_with("VmRSS"))
                .unwrap_or_default();
            println!(
                "minute {minute}: {resident}, {} forwarded, {} dropped",
                FORWARDED.load(Ordering::Relaxed),
                DROPPED.load(Ordering::Relaxed)
            );
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        stop.stop();
        anyhow::Ok(listening.await??)
    })?;
    relay.kill()?;
    relay.wait()?;
    Ok(())
}

/// Starts the relay. Returns its process and its URL.
fn start_relay(load: &str) -> anyhow::Result<(Child, String)> {
    let mut relay = Command::new(std::env::current_exe()?)
        .env(RELAY_LOAD, load)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = relay.stdout.take().context("no output")?;
    let url = BufReader::new(output)
        .lines()
        .next()
        .context("no relay")??;
    Ok((relay, url))
}

/// The events that the relay sends. As text: `KIND COUNT REPEATS`.
struct Load {
    kind: LoadKind,
    count: usize,
    /// How many times all events are sent.
    repeats: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LoadKind {
    /// Events that match no subscription, as fast as they are read.
    Other,
    /// Events that match, as fast as they are read.
    Matching,
    /// Events that match, 500 per second. Their content is the time at which they are sent.
    Paced,
}

impl Load {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [kind, count, repeats] = words.as_slice() else {
            anyhow::bail!("not a load: {text}")
        };
        let kind = match *kind {
            "other" => LoadKind::Other,
            "matching" => LoadKind::Matching,
            "paced" => LoadKind::Paced,
            _ => anyhow::bail!("not a load: {text}"),
        };
        Ok(Self {
            kind,
            count: count.parse()?,
            repeats: repeats.parse()?,
        })
    }
}

/// The authors of the relay's events.
struct Authors {
    keys: Vec<Keys>,
    created_at: u64,
    /// A pubkey to whose mentions the interest does not subscribe.
    other: String,
    /// The pubkey that the events mention.
    mentioned: String,
}

impl Authors {
    fn new(kind: LoadKind) -> Self {
        let other = Keys::generate().public_key().to_hex();
        let mentioned = if kind == LoadKind::Other {
            other.clone()
        } else {
            MENTIONED.to_owned()
        };
        Self {
            keys: (0..64).map(|_| Keys::generate()).collect(),
            created_at: now_micros() / 1_000_000,
            other,
            mentioned,
        }
    }

    /// The note number `n`.
    fn note(&self, n: usize, content: &str) -> Event {
        let tags: &[&[&str]] = &[
            &["e", &self.other],
            &["p", &self.mentioned],
            &["t", "nostr"],
        ];
        let author = &self.keys[n % self.keys.len()];
        event(author, 1, self.created_at, tags, content)
    }
}

/// Runs the relay. It sends the load on each REQ for content.
fn serve(load: &Load) -> anyhow::Result<()> {
    let authors = Authors::new(load.kind);
    let notes: Vec<Event> = if load.kind == LoadKind::Paced {
        Vec::new()
    } else {
        let content = "a note of the usual length, more or less, as they come by";
        (0..load.count)
            .map(|n| authors.note(n, &format!("{n}: {content}")))
            .collect()
    };
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("ws://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept()?;
        let raw = stream.try_clone()?;
        let Ok(mut socket) = accept(stream) else {
            continue;
        };
        let id = next_content_req(&mut socket)?;
        if load.kind == LoadKind::Paced {
            for n in 0..load.count {
                std::thread::sleep(Duration::from_millis(2));
                let note = authors.note(n, &now_micros().to_string());
                socket.send(Message::text(json!(["EVENT", id, note]).to_string()))?;
            }
        } else {
            let bytes: Vec<u8> = notes
                .iter()
                .flat_map(|note| text_frame(&json!(["EVENT", id, note]).to_string()))
                .collect();
            let sent = (0..load.repeats).try_for_each(|_| (&raw).write_all(&bytes));
            // The listener may disconnect before it has read everything.
            drop::<Result<(), std::io::Error>>(sent);
        }
        read_to_end(&raw);
    }
}

/// Responds to every REQ with EOSE until one for content comes. Returns its subscription id.
fn next_content_req(socket: &mut WebSocket<TcpStream>) -> anyhow::Result<String> {
    loop {
        let Message::Text(text) = socket.read()? else {
            continue;
        };
        let request: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let id = request[1].as_str().unwrap_or_default().to_owned();
        if request[0] == "REQ" {
            socket.send(Message::text(json!(["EOSE", id]).to_string()))?;
        }
        if id.starts_with("content") {
            return Ok(id);
        }
    }
}

/// Reads until the other side disconnects.
fn read_to_end(mut stream: &TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
}

/// A text frame from a server (RFC 6455, <https://www.rfc-editor.org/rfc/rfc6455>).
fn text_frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&[0x81, 126], &length.to_be_bytes()[..], text.as_bytes()].concat()
}

/// The current time in microseconds.
fn now_micros() -> u64 {
    u64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros(),
    )
    .unwrap_or_default()
}

/// Tables and queues that cost no time.
#[derive(Clone)]
struct MemoryPorts;

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
        let mut rows = Vec::new();
        if since == Millis(0) {
            let owner = owner(Keys::generate().public_key());
            rows.extend((0..10_000).map(|n| {
                let filter = json!({"kinds": [1], "#p": [format!("{n:064x}")]});
                subscription(&owner, &filter)
            }));
            let filter = json!({"kinds": [1, 7], "#p": [MENTIONED]});
            rows.push(subscription(&owner, &filter));
        }
        Ok(FeedPage { rows, next: None })
    }
}

impl Relays for MemoryPorts {
    async fn cursor(&self, _relay: &str) -> PortResult<Option<RelayCursor>> {
        Ok(None)
    }

    async fn checkpoint(
        &self,
        _relay: &str,
        _cursor: RelayCursor,
        _status: &str,
        _now: Seconds,
    ) -> PortResult<()> {
        Ok(())
    }
}

impl Usages for MemoryPorts {
    async fn usage(&self) -> PortResult<Option<Usage>> {
        Ok(None)
    }

    async fn record_usage(&self, _usage: &Usage) -> PortResult<()> {
        Ok(())
    }
}

impl AllApps for MemoryPorts {
    async fn all_apps(&self) -> PortResult<Vec<App>> {
        Ok(Vec::new())
    }

    async fn all_blocked(&self) -> PortResult<BTreeSet<PublicKey>> {
        Ok(BTreeSet::new())
    }
}

impl Members for MemoryPorts {
    async fn join(&self, member: &str, _now: Seconds, _until: Seconds) -> PortResult<Vec<String>> {
        Ok(vec![member.to_owned()])
    }

    async fn leave(&self, _member: &str) -> PortResult<()> {
        Ok(())
    }
}

impl Inbox<ProfileRequest> for MemoryPorts {
    async fn receive(&self) -> PortResult<Vec<Received<ProfileRequest>>> {
        Ok(Vec::new())
    }

    async fn delete(&self, _receipts: &[String]) -> PortResult<()> {
        Ok(())
    }
}

impl ProfileWriter for MemoryPorts {
    async fn put_profile(&self, _update: &ProfileUpdate, _now: Seconds) -> PortResult<bool> {
        Ok(true)
    }
}

impl Queue<ControlMessage> for MemoryPorts {
    async fn send(&self, _messages: &[ControlMessage]) -> PortResult<()> {
        Ok(())
    }
}

impl Queue<ContentMessage> for MemoryPorts {
    async fn send(&self, messages: &[ContentMessage]) -> PortResult<()> {
        let now = now_micros();
        for message in messages {
            BODY_BYTES.fetch_add(
                encode(message).map_or(0, |body| body.len() as u64),
                Ordering::Relaxed,
            );
            if let (Ok(sent_at), Ok(mut latencies)) =
                (message.event.content.parse::<u64>(), LATENCIES.lock())
            {
                latencies.push(now.saturating_sub(sent_at));
            }
        }
        FORWARDED.fetch_add(messages.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
