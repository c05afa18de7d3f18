//! Reads and time per event in the matcher, for several numbers of stored filters. Neither may grow
//! with that number.
//!
//! The table is DynamoDB's API in this process (dynoxide), so the times can only be compared with
//! each other.
//!
//! `cargo bench --profile release -p matcher --bench reads`

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use dynoxide::{Database, ImportOptions, Item};
use matcher::handler::Matcher;
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    Millis, Seconds,
    index_key::IndexKey,
    message::ContentMessage,
    mute_list::MuteList,
    owner::Owner,
    ports::{
        Budgets, IndexPage, IndexReader, MuteLists, PortResult, Standing, Standings, Subscriptions,
    },
    subscription::Subscription,
};
use nostr_push_local::{
    aws::{REGION, STACK, create_tables},
    tools::Tools,
};
use nostr_push_testkit::{event, memory::Memory};
use serde_json::json;

/// The number of subscriptions that the event matches, for every number of stored filters.
const MATCHES: usize = 100;

/// Events per number of stored filters. The median of their times is printed.
const EVENTS: usize = 300;

const NOW: u64 = 1_800_000_000;

/// The store, with a count of the reads.
struct CountingStore {
    store: Store,
    reads: AtomicUsize,
}

impl IndexReader for CountingStore {
    async fn page(&self, key: &IndexKey, after: Option<&str>) -> PortResult<IndexPage> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.page(key, after).await
    }
}

impl Subscriptions for CountingStore {
    async fn get(&self, ids: &[(Owner, String)]) -> PortResult<Vec<Subscription>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.get(ids).await
    }

    async fn of_owner(&self, owner: &Owner) -> PortResult<Vec<Subscription>> {
        self.store.of_owner(owner).await
    }

    async fn put(&self, row: &Subscription) -> PortResult<bool> {
        self.store.put(row).await
    }

    async fn replace(&self, row: &Subscription, read: Millis) -> PortResult<bool> {
        self.store.replace(row, read).await
    }
}

impl Standings for CountingStore {
    async fn standings(&self, owners: &[Owner]) -> PortResult<BTreeMap<Owner, Standing>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.standings(owners).await
    }
}

impl Budgets for CountingStore {
    async fn take(&self, budget: &str, window: Seconds, units: u64, max: u64) -> PortResult<bool> {
        self.store.take(budget, window, units, max).await
    }
}

impl MuteLists for CountingStore {
    async fn mute_list(&self, pubkey: &PublicKey) -> PortResult<Option<MuteList>> {
        self.store.mute_list(pubkey).await
    }

    async fn put_mute_list(&self, list: &MuteList) -> PortResult<bool> {
        self.store.put_mute_list(list).await
    }
}

/// Starts a table in this process.
async fn start_table(database: &Database) -> anyhow::Result<CountingStore> {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    tokio::spawn(dynoxide::server::serve_on(listener, database.clone()));
    let variables: HashMap<String, String> = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    create_tables(&Tools::install().await?, &variables).await?;
    let config = clients::at(&variables, "AWS_ENDPOINT_URL").await;
    Ok(CountingStore {
        store: Store::new(&config, STACK),
        reads: AtomicUsize::new(0),
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only checks that the benchmark runs.
    let sizes: &[usize] = if std::env::args().any(|word| word == "--bench") {
        &[1_000, 100_000, 1_000_000]
    } else {
        &[1_000]
    };
    let database = Database::memory().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let store = start_table(&database).await?;
    let recipient = Keys::generate().public_key().to_hex();
    load_rosters(&database, 0..MATCHES)?;
    load(&database, 0..MATCHES, |_| recipient.clone())?;
    let mut stored = MATCHES;
    let mut medians = Vec::new();
    println!(
        "{:>10}  {:>8}  {:>14}  {:>10}",
        "stored", "matches", "reads/event", "median"
    );
    for &size in sizes {
        while stored < size {
            let end = size.min(stored + 20_000);
            load(&database, stored..end, |n| format!("{n:064x}"))?;
            stored = end;
        }
        let (reads, median) = measure(&store, &recipient).await?;
        println!("{size:>10}  {MATCHES:>8}  {reads:>14}  {median:>10.1?}");
        medians.push(median);
    }
    if let (Some(first), Some(last)) = (medians.first(), medians.last()) {
        println!(
            "last / first: {:.2}",
            last.as_secs_f64() / first.as_secs_f64()
        );
    }
    Ok(())
}

/// The reads per event, and the median of the events' times.
async fn measure(store: &CountingStore, recipient: &str) -> anyhow::Result<(usize, Duration)> {
    store.reads.store(0, Ordering::Relaxed);
    let matcher = Matcher::new(0);
    let mut times = Vec::with_capacity(EVENTS);
    for _ in 0..EVENTS {
        times.push(handle_event(&matcher, store, recipient).await?);
    }
    times.sort();
    let reads = store.reads.load(Ordering::Relaxed) / EVENTS;
    Ok((reads, times[EVENTS / 2]))
}

/// The time to handle an event with three hits, of which one has rows.
async fn handle_event(
    matcher: &Matcher,
    store: &CountingStore,
    recipient: &str,
) -> anyhow::Result<Duration> {
    let queue = Memory::default();
    let other = "ef".repeat(32);
    let tags: &[&[&str]] = &[&["p", recipient], &["p", &other], &["t", "in no filter"]];
    let note = event(&Keys::generate(), 1, NOW, tags, "hello");
    let hits = [
        format!("#p:{recipient}"),
        format!("#p:{other}"),
        "#t:in no filter".to_owned(),
    ]
    .iter()
    .map(|key| key.parse())
    .collect::<Result<_, _>>()?;
    let content = ContentMessage {
        relay: "wss://relay".to_owned(),
        received_at: Millis(0),
        backfill: false,
        from_owners_relay: false,
        hits,
        position: None,
        event: note,
    };
    let started = Instant::now();
    let now = Seconds(NOW).to_millis();
    let outcome = matcher.handle(store, &queue, &content, || now).await?;
    let time = started.elapsed();
    anyhow::ensure!(outcome.recipients == MATCHES as u64, "{outcome:?}");
    Ok(time)
}

/// Stores the rosters of the owners of these filters. They are proven, so nothing is written.
fn load_rosters(database: &Database, filters: Range<usize>) -> anyhow::Result<()> {
    let roster = |n: usize| {
        let owner = format!("demo#{:064x}", n + 1);
        json!({
            "device": {"S": format!("owner:{owner}")},
            "owner": {"S": owner},
            "devices": {"L": [{"S": "hash"}]},
            "active_until": {"N": "4000000000"},
            "proven": {"BOOL": true},
            "expires_at": {"N": "4000000000"},
            "version": {"N": "1"},
        })
    };
    let items: Vec<Item> = filters
        .map(|n| serde_json::from_value(roster(n)))
        .collect::<Result<_, _>>()?;
    database
        .import_items(&format!("{STACK}-devices"), items, ImportOptions::default())
        .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok(())
}

/// A row of `filter_index` in the form in which `Store` writes it.
fn row(n: usize, pubkey: &str) -> serde_json::Value {
    let owner = format!("demo#{:064x}", n + 1);
    let identity = format!("{n:064x}");
    json!({
        "index_key": {"S": format!("#p:{pubkey}")},
        "owner_subscription": {"S": format!("sub#{owner}#{identity}")},
        "owner": {"S": owner},
        "subscription": {"S": identity},
        "filter": {"S": json!({"#p": [pubkey], "kinds": [1, 7]}).to_string()},
        "created_at": {"N": "1"},
        "event_id": {"S": "00".repeat(32)},
        "since": {"N": "1"},
        "expires_at": {"N": "4000000000"},
    })
}

/// Stores the filters with these numbers, each for the events that mention its pubkey.
fn load(
    database: &Database,
    filters: Range<usize>,
    pubkey: impl Fn(usize) -> String,
) -> anyhow::Result<()> {
    let items: Vec<Item> = filters
        .map(|n| serde_json::from_value(row(n, &pubkey(n))))
        .collect::<Result<_, _>>()?;
    database
        .import_items(
            &format!("{STACK}-filter-index"),
            items,
            ImportOptions::default(),
        )
        .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok(())
}
