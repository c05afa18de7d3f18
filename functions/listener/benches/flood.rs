//! What one core of the listener takes in, from the socket to the body of the SQS message, against
//! a relay on loopback that sends as fast as it is read. The relay is this program once more, in
//! another process; beside each figure stands the rate at which the same core verifies signatures,
//! and that of a client on a public relay-pool library.
//!
//! `cargo bench -p listener --bench flood -- soak` instead watches the memory for ten minutes at
//! full load.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use listener::{Listener, Options, Ports};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Millis, Seconds,
    message::{Content, Control, encode},
    owner::Owner,
    ports::{Answer, ChangeFeed, Members, Queue, Relays},
    subscription::Subscription,
};
use nostr_push_testkit::{event, subscription};
use serde_json::json;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::{Message, accept};

/// Says to this program that it is the relay, and which events to send.
const RELAY: &str = "NOSTR_PUSH_BENCH_RELAY";

/// The pubkey that the interest is in.
const WANTED: &str = "abababababababababababababababababababababababababababababababab";

static FORWARDED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static LATENCIES: Mutex<Vec<u64>> = Mutex::new(Vec::new());

fn main() -> anyhow::Result<()> {
    if let Ok(what) = std::env::var(RELAY) {
        return serve(&what);
    }
    let benching = std::env::args().any(|word| word == "--bench");
    if std::env::args().any(|word| word == "soak") {
        return soak();
    }
    // `cargo test --benches` only wants to know that it runs.
    let count: u64 = if benching { 100_000 } else { 500 };
    let floor = floor(20_000.min(count));
    println!("signatures verified by one core: {floor:.0}/s");

    let repeats = if benching { 20 } else { 1 };
    let non_matching = listen(
        &format!("other {count} {repeats}"),
        || DROPPED.load(Ordering::Relaxed),
        count * repeats,
    )?;
    println!(
        "non-matching events: {non_matching:.0}/s, {:.1} times that (goal: 15)",
        non_matching / floor
    );
    let matching = listen(
        &format!("wanted {count} 1"),
        || FORWARDED.load(Ordering::Relaxed),
        count,
    )?;
    println!(
        "matching events: {matching:.0}/s, {:.2} of that (goal: 0.7)",
        matching / floor
    );
    let pool = pool(&format!("other {count} 1"), count)?;
    println!(
        "the same non-matching events through a client on nostr-relay-pool 0.44: {pool:.0}/s; ours {:.1} times that",
        non_matching / pool
    );

    LATENCIES
        .lock()
        .map_err(|_| anyhow::anyhow!("poisoned"))?
        .clear();
    let paced = if benching { 5_000 } else { 100 };
    listen(
        &format!("paced {paced} 1"),
        || FORWARDED.load(Ordering::Relaxed),
        paced,
    )?;
    let mut latencies = LATENCIES
        .lock()
        .map_err(|_| anyhow::anyhow!("poisoned"))?
        .clone();
    latencies.sort_unstable();
    let percentile = |p: usize| {
        Duration::from_micros(
            latencies
                .get((latencies.len() - 1) * p / 100)
                .copied()
                .unwrap_or_default(),
        )
    };
    println!(
        "from the relay's frame to the SQS call at 500 events/s: p50 {:.1?}, p99 {:.1?} (20 ms of it are waiting for a batch)",
        percentile(50),
        percentile(99)
    );
    Ok(())
}

/// Signatures that this core verifies in a second.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn floor(count: u64) -> f64 {
    let keys = Keys::generate();
    let events: Vec<Event> = (0..count)
        .map(|n| {
            event(
                &keys,
                1,
                n,
                &[&["p", WANTED]],
                "a note of the usual length, more or less",
            )
        })
        .collect();
    let started = Instant::now();
    assert!(events.iter().all(|event| event.verify().is_ok()));
    count as f64 / started.elapsed().as_secs_f64()
}

/// Runs a listener on this thread alone until `done` has grown by `count`. Answers how many a
/// second.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn listen(what: &str, done: fn() -> u64, count: u64) -> anyhow::Result<f64> {
    let (mut relay, url) = relay(what)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let rate = runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        let listening = tokio::spawn(listener(url).run(stopping));
        let before = done();
        let mut first = None;
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let so_far = done() - before;
            if so_far > 0 && first.is_none() {
                first = Some((Instant::now(), so_far));
            }
            if let Some((started, already)) = first.filter(|_| so_far >= count) {
                stop.send(true)?;
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

fn listener(url: String) -> Listener<World, World, World, World> {
    let ports = Ports {
        feed: World,
        store: World,
        control: World,
        content: World,
        count: |outcome, _| {
            if outcome == "dropped" {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        },
        clock: || micros() / 1000,
    };
    let options = Options {
        relays: vec![url],
        owners_relays: 0,
        private: true,
        control_events: u32::MAX,
        member: "one".to_owned(),
    };
    Listener::new(Keys::generate(), options, ports)
}

/// The same stream through a client on a public library. Answers how many events a second it hands
/// out.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn pool(what: &str, count: u64) -> anyhow::Result<f64> {
    use nostr_relay_pool::{
        RelayPool, RelayPoolNotification,
        prelude::{Filter, Kind, SubscribeOptions, SubscriptionId},
        relay::RelayOptions,
    };
    let (mut relay, url) = relay(what)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let rate = runtime.block_on(async {
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
        let patience = Duration::from_secs(60);
        while events < count {
            let notification = match tokio::time::timeout(patience, notifications.recv()).await? {
                Ok(notification) => notification,
                // It hands out through a channel that forgets what is not taken in time.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(n)) => {
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
        let took = first.context("no event")?.elapsed();
        pool.shutdown().await;
        anyhow::Ok(events as f64 / took.as_secs_f64())
    });
    relay.kill()?;
    relay.wait()?;
    rate
}

/// Ten minutes of matching events without end; the memory, minute by minute.
fn soak() -> anyhow::Result<()> {
    let (mut relay, url) = relay("wanted 200000 1000000")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        let listening = tokio::spawn(listener(url).run(stopping));
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
        stop.send(true)?;
        anyhow::Ok(listening.await??)
    })?;
    relay.kill()?;
    relay.wait()?;
    Ok(())
}

fn relay(what: &str) -> anyhow::Result<(Child, String)> {
    let mut relay = Command::new(std::env::current_exe()?)
        .env(RELAY, what)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = relay.stdout.take().context("no output")?;
    let url = BufReader::new(output)
        .lines()
        .next()
        .context("no relay")??;
    Ok((relay, url))
}

/// The relay: sends `count` events, `repeats` times over, to whoever asks for content.
fn serve(what: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = what.split(' ').collect();
    let [kind, count, repeats] = words.as_slice() else {
        anyhow::bail!("{what}")
    };
    let (count, repeats): (usize, usize) = (count.parse()?, repeats.parse()?);
    let keys: Vec<Keys> = (0..64).map(|_| Keys::generate()).collect();
    let now = micros() / 1_000_000;
    let other = Keys::generate().public_key().to_hex();
    let p = if *kind == "other" {
        other.as_str()
    } else {
        WANTED
    };
    let note = |n: usize, content: &str| {
        event(
            &keys[n % keys.len()],
            1,
            now,
            &[&["e", &other], &["p", p], &["t", "nostr"]],
            content,
        )
    };
    let notes: Vec<Event> = if *kind == "paced" {
        Vec::new()
    } else {
        (0..count)
            .map(|n| {
                note(
                    n,
                    &format!("{n}: a note of the usual length, more or less, as they come by"),
                )
            })
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
        let id = loop {
            let Message::Text(text) = socket.read()? else {
                continue;
            };
            let request: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let id = request[1].as_str().unwrap_or_default().to_owned();
            if request[0] == "REQ" {
                socket.send(Message::text(json!(["EOSE", id]).to_string()))?;
            }
            if id.starts_with("content") {
                break id;
            }
        };
        if *kind == "paced" {
            for n in 0..count {
                std::thread::sleep(Duration::from_millis(2));
                socket.send(Message::text(
                    json!(["EVENT", id, note(n, &micros().to_string())]).to_string(),
                ))?;
            }
        } else {
            let bytes: Vec<u8> = notes
                .iter()
                .flat_map(|note| frame(&json!(["EVENT", id, note]).to_string()))
                .collect();
            let sent = (0..repeats).try_for_each(|_| (&raw).write_all(&bytes));
            drop::<Result<(), std::io::Error>>(sent);
        }
        keep(&raw);
    }
}

/// Until the other side is done.
fn keep(stream: &TcpStream) {
    use std::io::Read;
    let mut some = [0; 1024];
    while (&*stream).read(&mut some).is_ok_and(|n| n > 0) {}
}

/// A text frame from a server (RFC 6455).
fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&[0x81, 126], &length.to_be_bytes()[..], text.as_bytes()].concat()
}

fn micros() -> u64 {
    u64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros(),
    )
    .unwrap_or_default()
}

/// Tables and queues that cost nothing but what the listener itself does.
#[derive(Clone)]
struct World;

impl ChangeFeed for World {
    async fn changes(
        &self,
        since: Millis,
        mut each: impl FnMut(Subscription) + Send,
    ) -> Answer<()> {
        if since == 0 {
            let owner = Owner {
                app: "demo".to_owned(),
                pubkey: Keys::generate().public_key(),
            };
            for n in 0..10_000 {
                each(subscription(
                    &owner,
                    &json!({"kinds": [1], "#p": [format!("{n:064x}")]}),
                ));
            }
            each(subscription(
                &owner,
                &json!({"kinds": [1, 7], "#p": [WANTED]}),
            ));
        }
        Ok(())
    }
}

impl Relays for World {
    async fn cursor(&self, _relay: &str) -> Answer<Option<Seconds>> {
        Ok(None)
    }

    async fn checkpoint(
        &self,
        _relay: &str,
        _cursor: Seconds,
        _status: &str,
        _now: Seconds,
    ) -> Answer<()> {
        Ok(())
    }
}

impl Members for World {
    async fn join(&self, member: &str, _now: Seconds, _until: Seconds) -> Answer<Vec<String>> {
        Ok(vec![member.to_owned()])
    }

    async fn leave(&self, _member: &str) -> Answer<()> {
        Ok(())
    }
}

impl Queue<Control> for World {
    async fn send(&self, _messages: &[Control]) -> Answer<()> {
        Ok(())
    }
}

impl Queue<Content> for World {
    async fn send(&self, messages: &[Content]) -> Answer<()> {
        let now = micros();
        for message in messages {
            BYTES.fetch_add(
                encode(message).map_or(0, |body| body.len() as u64),
                Ordering::Relaxed,
            );
            if let (Ok(sent), Ok(mut latencies)) =
                (message.event.content.parse::<u64>(), LATENCIES.lock())
            {
                latencies.push(now.saturating_sub(sent));
            }
        }
        FORWARDED.fetch_add(messages.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
