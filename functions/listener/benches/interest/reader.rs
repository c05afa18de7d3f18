//! The process that reads the feed: the parts of the listener that load and poll, and the health
//! interface. It gets commands on standard input, and writes the number of keys of the interest to
//! standard output after each change.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use listener::{
    feed::{Feed, FeedView},
    health::{self, Health},
    shutdown::Shutdown,
};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{Millis, Seconds};
use nostr_push_testkit::builders::FAR_FUTURE;
use tokio::{net::TcpListener, sync::mpsc};

/// The variable that makes this program the reader. Its value is the address of the health
/// interface.
pub(crate) const READER_HEALTH: &str = "NOSTR_PUSH_READER_HEALTH";

/// The prefix of the tables' names.
pub(crate) const TABLE_PREFIX: &str = "nostr-push";

/// How far the clock has been put forward, in milliseconds.
static CLOCK_OFFSET: AtomicU64 = AtomicU64::new(0);

/// After this time the full read begins.
const SIX_HOURS: Millis = Seconds::from_hours(6).to_millis();

fn clock() -> Millis {
    clients::now() + Millis(CLOCK_OFFSET.load(Ordering::SeqCst))
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let mut commands = commands();
    let address: SocketAddr = std::env::var(READER_HEALTH)?.parse()?;
    let health = Arc::new(Health::default());
    let socket = TcpListener::bind(address).await?;
    tokio::spawn(health::serve(socket, Arc::clone(&health), clock));
    let store = Store::new(&clients::config("listener").await, TABLE_PREFIX);
    let mut feed = Feed::new(store, Arc::clone(&health), clock, false);
    let view = feed.view();
    let mut changes = feed.changes();
    let (_stop, mut shutdown) = Shutdown::channel();
    while let Some(command) = commands.recv().await {
        if command == "load" {
            break;
        }
    }
    feed.load(&mut shutdown).await;
    println!("{}", keys(&view)?);
    let polling = tokio::spawn(feed.poll(0.0));
    loop {
        tokio::select! {
            _ = changes.changed() => println!("{}", keys(&view)?),
            command = commands.recv() => match command.as_deref() {
                Some("resync") => {
                    CLOCK_OFFSET.fetch_add(SIX_HOURS.0, Ordering::SeqCst);
                    health.record_interest_read(clock());
                }
                Some("expire") => {
                    // The full read would add rows again.
                    polling.abort();
                    drop(polling.await);
                    return expire_all(&view);
                }
                _ => return Ok(()),
            },
        }
    }
}

/// The lines of standard input.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Removes all subscriptions after their end, and prints how long the interest was locked.
fn expire_all(view: &FeedView) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut next = Some(0);
    let mut longest_lock = Duration::ZERO;
    while let Some(number) = next {
        let locked = Instant::now();
        next = view
            .interest
            .write()
            .map_err(|_| anyhow::anyhow!("poisoned"))?
            .expire(FAR_FUTURE + Seconds(1), number, 20_000);
        longest_lock = longest_lock.max(locked.elapsed());
    }
    println!(
        "after the end of all subscriptions: {} keys left after {:.1?}, \
         the interest was locked for at most {longest_lock:.1?}",
        keys(view)?,
        started.elapsed()
    );
    Ok(())
}

/// The number of keys of the interest.
fn keys(view: &FeedView) -> anyhow::Result<usize> {
    let interest = view
        .interest
        .read()
        .map_err(|_| anyhow::anyhow!("poisoned"))?;
    Ok(interest.len())
}
