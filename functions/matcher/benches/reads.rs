//! Reads and time per event in the matcher, by how many filters are stored: they must not grow with
//! them.
//!
//! The table is DynamoDB's API in this process (dynoxide), so the times are to be compared with
//! each other only.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use dynoxide::{Database, ImportOptions, Item};
use matcher::handler::handle;
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    index_key::IndexKey,
    message::Content,
    mute_list::MuteList,
    owner::Owner,
    ports::{Answer, IndexReader, MuteLists, Page, Subscriptions},
    subscription::Subscription,
};
use nostr_push_local::{
    aws::{REGION, STACK, create_tables},
    tools::Tools,
};
use nostr_push_testkit::{event, memory::Memory};
use serde_json::json;

/// Subscriptions that the event matches, whatever else is stored.
const MATCHES: usize = 100;

/// Events per size. The median is taken.
const EVENTS: usize = 300;

const NOW: u64 = 1_800_000_000;

/// Counts the requests to the table.
struct Counted {
    store: Store,
    reads: AtomicUsize,
}

impl IndexReader for Counted {
    async fn page(&self, key: &IndexKey, after: Option<&str>) -> Answer<Page> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.page(key, after).await
    }
}

impl Subscriptions for Counted {
    async fn get(&self, ids: &[(Owner, String)]) -> Answer<Vec<Subscription>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.store.get(ids).await
    }

    async fn of_owner(&self, owner: &Owner) -> Answer<Vec<Subscription>> {
        self.store.of_owner(owner).await
    }

    async fn put(&self, row: &Subscription) -> Answer<bool> {
        self.store.put(row).await
    }
}

impl MuteLists for Counted {
    async fn mute_list(&self, pubkey: &PublicKey) -> Answer<Option<MuteList>> {
        self.store.mute_list(pubkey).await
    }

    async fn put_mute_list(&self, list: &MuteList) -> Answer<bool> {
        self.store.put_mute_list(list).await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only wants to know that it runs.
    let sizes: &[usize] = if std::env::args().any(|word| word == "--bench") {
        &[1_000, 100_000, 1_000_000]
    } else {
        &[1_000]
    };
    let database = Database::memory().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    tokio::spawn(dynoxide::server::serve_on(listener, database.clone()));
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ];
    let variables: HashMap<String, String> = variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    create_tables(&Tools::install().await?, &variables).await?;
    let config = clients::at(&variables, "AWS_ENDPOINT_URL").await;
    let store = Counted {
        store: Store::new(&config, STACK),
        reads: AtomicUsize::new(0),
    };

    let wanted = Keys::generate().public_key().to_hex();
    load(&database, (0..MATCHES).map(|n| row(n, &wanted)).collect())?;
    let mut stored = MATCHES;
    let mut medians = Vec::new();
    println!(
        "{:>10}  {:>8}  {:>14}  {:>10}",
        "stored", "matches", "reads/event", "median"
    );
    for &size in sizes {
        while stored < size {
            let step = (size - stored).min(20_000);
            load(
                &database,
                (stored..stored + step)
                    .map(|n| row(n, &format!("{n:064x}")))
                    .collect(),
            )?;
            stored += step;
        }
        store.reads.store(0, Ordering::Relaxed);
        let mut times = Vec::with_capacity(EVENTS);
        for _ in 0..EVENTS {
            times.push(one_event(&store, &wanted).await?);
        }
        times.sort();
        let reads = store.reads.load(Ordering::Relaxed) / EVENTS;
        println!(
            "{size:>10}  {MATCHES:>8}  {reads:>14}  {:>10.1?}",
            times[EVENTS / 2]
        );
        medians.push(times[EVENTS / 2]);
    }
    if let (Some(first), Some(last)) = (medians.first(), medians.last()) {
        println!(
            "last / first: {:.2}",
            last.as_secs_f64() / first.as_secs_f64()
        );
    }
    Ok(())
}

/// An event with three hits, of which one has rows.
async fn one_event(store: &Counted, wanted: &str) -> anyhow::Result<Duration> {
    let queue = Memory::default();
    let other = "ef".repeat(32);
    let note = event(
        &Keys::generate(),
        1,
        NOW,
        &[&["p", wanted], &["p", &other], &["t", "nobody's"]],
        "hello",
    );
    let hits = [
        format!("#p:{wanted}"),
        format!("#p:{other}"),
        "#t:nobody's".to_owned(),
    ]
    .iter()
    .map(|key| key.parse())
    .collect::<Result<_, _>>()?;
    let content = Content {
        relay: "wss://relay".to_owned(),
        received_at: 0,
        backfill: false,
        hits,
        position: None,
        event: note,
    };
    let started = Instant::now();
    let matched = handle(store, &queue, content, NOW).await?;
    let took = started.elapsed();
    anyhow::ensure!(matched.recipients == MATCHES as u64, "{matched:?}");
    Ok(took)
}

/// A row of `filter_index` as `Store` writes it.
fn row(n: usize, pubkey: &str) -> serde_json::Value {
    let owner = format!("demo#{:064x}", n + 1);
    let identity = format!("{n:064x}");
    json!({
        "index_key": {"S": format!("#p:{pubkey}")},
        "owner_subscription": {"S": format!("{owner}#{identity}")},
        "owner": {"S": owner},
        "subscription": {"S": identity},
        "filter": {"S": json!({"#p": [pubkey], "kinds": [1, 7]}).to_string()},
        "created_at": {"N": "1"},
        "event_id": {"S": "00".repeat(32)},
        "since": {"N": "1"},
        "expires_at": {"N": "4000000000"},
    })
}

fn load(database: &Database, rows: Vec<serde_json::Value>) -> anyhow::Result<()> {
    let items: Vec<Item> = rows
        .into_iter()
        .map(serde_json::from_value)
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
