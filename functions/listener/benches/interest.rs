//! A million index keys from the change feed: how long the first reading takes, and how much memory
//! it leaves.
//!
//! The table is DynamoDB's API (dynoxide) in another process, which is this program once more.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::Context;
use dynoxide::{Database, ImportOptions, Item};
use listener::feed::Feed;
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_local::{
    aws::{REGION, STACK, create_tables},
    tools::Tools,
};
use serde_json::json;

const SERVE: &str = "NOSTR_PUSH_SERVE_ROWS";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    if let Ok(rows) = std::env::var(SERVE) {
        return serve(rows.parse()?).await;
    }
    // `cargo test --benches` only wants to know that it runs; another number may be given.
    let usual = if std::env::args().any(|word| word == "--bench") {
        1_000_000
    } else {
        1_000
    };
    let rows: usize = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(usual);
    let mut server = Command::new(std::env::current_exe()?)
        .env(SERVE, rows.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = server.stdout.take().context("no output")?;
    let endpoint = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .find(|line| line.starts_with("http://"))
        .context("no endpoint")?;
    let before = resident()?;

    let store = Store::new(
        &clients::at(&variables(&endpoint), "AWS_ENDPOINT_URL").await,
        STACK,
    );
    let mut feed = Feed::new(store, false);
    let started = Instant::now();
    feed.read(1_800_000_000_000).await?;
    let took = started.elapsed();
    let known = feed.known();
    let keys = known
        .interest
        .read()
        .map_err(|_| anyhow::anyhow!("poisoned"))?
        .len();
    server.kill()?;
    server.wait()?;
    println!(
        "{keys} index keys in {took:.1?}; resident {before} MiB before, {} MiB after",
        resident()?
    );

    let started = Instant::now();
    let mut from = Some(0);
    let mut longest = std::time::Duration::ZERO;
    while let Some(number) = from {
        let part = Instant::now();
        from = known
            .interest
            .write()
            .map_err(|_| anyhow::anyhow!("poisoned"))?
            .expire(4_000_000_001, number, 20_000);
        longest = longest.max(part.elapsed());
    }
    let left = known
        .interest
        .read()
        .map_err(|_| anyhow::anyhow!("poisoned"))?
        .len();
    println!(
        "all of them over: {left} left after {:.1?}, nobody waiting for longer than {longest:.1?}",
        started.elapsed()
    );
    Ok(())
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

/// Resident memory of this process, in MiB (`/proc`).
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .context("no VmRSS")?;
    Ok(line
        .split_whitespace()
        .nth(1)
        .context("no figure")?
        .parse::<u64>()?
        / 1024)
}

async fn serve(rows: usize) -> anyhow::Result<()> {
    let database = Database::memory().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let serving = tokio::spawn(dynoxide::server::serve_on(listener, database.clone()));
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
    serving.await?;
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
