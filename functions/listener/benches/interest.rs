//! The first read of a change feed with a million index keys: its time, and the memory that the
//! interest takes.
//!
//! The table is served by a local implementation of DynamoDB's API (dynoxide) in another process,
//! which runs this program too.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use dynoxide::{Database, ImportOptions, Item};
use listener::feed::{Feed, FeedView};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{Millis, Seconds};
use nostr_push_local::{
    aws::{REGION, STACK, create_tables},
    tools::Tools,
};
use nostr_push_testkit::builders::FAR_FUTURE;
use serde_json::json;

/// The variable that makes this program serve the table. Its value is the number of rows.
const SERVED_ROWS: &str = "NOSTR_PUSH_SERVE_ROWS";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    if let Ok(rows) = std::env::var(SERVED_ROWS) {
        return serve(rows.parse()?).await;
    }
    // `cargo test --benches` only checks that the program runs. An argument sets another number.
    let default_rows = if std::env::args().any(|word| word == "--bench") {
        1_000_000
    } else {
        1_000
    };
    let rows: usize = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(default_rows);
    let mut server = Command::new(std::env::current_exe()?)
        .env(SERVED_ROWS, rows.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = server.stdout.take().context("no output")?;
    let endpoint = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .find(|line| line.starts_with("http://"))
        .context("no endpoint")?;
    let before = resident_mib()?;

    let store = Store::new(
        &clients::at(&variables(&endpoint), "AWS_ENDPOINT_URL").await,
        STACK,
    );
    let mut feed = Feed::new(store, false);
    let started = Instant::now();
    feed.read(Millis(1_800_000_000_000)).await?;
    let elapsed = started.elapsed();
    let view = feed.view();
    let keys = interest_len(&view)?;
    server.kill()?;
    server.wait()?;
    println!(
        "{keys} index keys in {elapsed:.1?}; resident {before} MiB before, {} MiB after",
        resident_mib()?
    );
    expire_all(&view)
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
        interest_len(view)?,
        started.elapsed()
    );
    Ok(())
}

fn interest_len(view: &FeedView) -> anyhow::Result<usize> {
    let interest = view
        .interest
        .read()
        .map_err(|_| anyhow::anyhow!("poisoned"))?;
    Ok(interest.len())
}

fn variables(endpoint: &str) -> HashMap<String, String> {
    let pairs = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The resident memory of this process, in MiB, from `/proc`.
fn resident_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .context("no VmRSS")?;
    Ok(line
        .split_whitespace()
        .nth(1)
        .context("no number after VmRSS")?
        .parse::<u64>()?
        / 1024)
}

/// Serves the table with this number of rows, and prints its endpoint.
async fn serve(rows: usize) -> anyhow::Result<()> {
    let database = Database::memory().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(dynoxide::server::serve_on(listener, database.clone()));
    create_tables(&Tools::install().await?, &variables(&endpoint)).await?;
    for from in (0..rows).step_by(20_000) {
        let items = (from..rows.min(from + 20_000))
            .map(row)
            .map(serde_json::from_value)
            .collect::<Result<Vec<Item>, _>>()?;
        let imported = database.import_items(
            &format!("{STACK}-subscriptions"),
            items,
            ImportOptions::default(),
        );
        imported.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    println!("{endpoint}");
    server.await?;
    Ok(())
}

/// A row of `subscriptions` as `Store` writes it.
fn row(n: usize) -> serde_json::Value {
    let pubkey = format!("{:064x}", n + 1);
    json!({
        "owner": {"S": format!("demo#{pubkey}")},
        "subscription": {"S": format!("{n:064x}")},
        "filter": {"S": json!({"#p": [pubkey], "kinds": [1, 4, 6, 7, 1059, 9735]}).to_string()},
        "created_at": {"N": "1"},
        "event_id": {"S": "00".repeat(32)},
        "since": {"N": "1"},
        "state": {"S": "active"},
        "valid_until": {"N": "4000000000"},
        "changed_at": {"N": "1000"},
        "shard": {"N": (n % 32).to_string()},
        "expires_at": {"N": "4000000000"},
    })
}
