//! The reads and writes per second of every key in the design, against what a partition of
//! DynamoDB allows. The table in `docs/architecture.md` is computed here.

use std::collections::BTreeMap;

use nostr::key::Keys;
use nostr_push_core::ports::Subscriptions;
use nostr_push_local::root;
use nostr_push_testkit::{builders, owner};
use serde_json::json;

use super::item::Recorder;

/// The read units and write units per second of one partition, and so of one key
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html>).
const PARTITION: [f64; 2] = [3_000.0, 1_000.0];

const DAY: f64 = 86_400.0;
const MONTH: f64 = 730.0 * 3_600.0;

/// The traffic of the busiest hour, relative to the average.
const PEAK: f64 = 4.0;

/// The usage of `docs/cost.md` at its largest: a million users, each with one device, 20 pushes a
/// day from 20 events and four registrations a month. In addition, an hour of heartbeats a day.
const USERS: f64 = 1_000_000.0;
const PUSHES: f64 = 20.0;
const HEARTBEATS: f64 = 60.0;
const REGISTRATIONS: f64 = 4.0;

/// The listener's tasks.
const TASKS: f64 = 2.0;

/// The partitions of the change feed (`SHARDS` in `shared/aws/src/dynamodb/subscriptions.rs`).
const SHARDS: f64 = 32.0;

/// The warm instances of the functions, at a concurrency of 50 each for control, matcher and
/// deliver.
const INSTANCES: f64 = 150.0;

/// The read units and write units per second of one key.
struct Key {
    table: &'static str,
    name: &'static str,
    /// How the figures come about.
    why: &'static str,
    reads: f64,
    writes: f64,
}

/// Events per second at the peak, of all users.
fn per_second(per_user_and_day: f64) -> f64 {
    USERS * per_user_and_day / DAY * PEAK
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn keys() -> Vec<Key> {
    let registrations = USERS * REGISTRATIONS / MONTH * PEAK;
    let key = |table, name, why, reads, writes| Key {
        table,
        name,
        why,
        reads,
        writes,
    };
    vec![
        key(
            "devices",
            "a device, a roster",
            "30 pushes per minute; matcher and deliver read the largest roster",
            0.5 * (2.0 + 2.0),
            0.1,
        ),
        key(
            "subscriptions",
            "an owner",
            "50 of the largest filters, read once a minute and renewed once an hour",
            50.0 * 34.0 / 60.0,
            50.0 * 133.0 / 3_600.0,
        ),
        key(
            "subscriptions, `by_change`",
            "a shard of 32",
            "all registrations, with two rows each; each task polls every 1.5 s and reads the last \
             minutes once a minute",
            TASKS * (10.0 / 1.5 + 5.0),
            registrations * 2.0 * 2.0 / SHARDS,
        ),
        key(
            "filter-index",
            "`#p:` of one owner",
            "at most 1,000 rows of others per event",
            60.0,
            1.0,
        ),
        key(
            "filter-index",
            "a key that all users have (`kind:1` without `#p`)",
            "300 B per row, all rows for one event per second; each row renewed four times a month",
            USERS * 300.0 / 8_192.0,
            registrations,
        ),
        key(
            "settings, presence",
            "an owner",
            "heartbeats and pushes of one owner",
            1.0,
            0.1,
        ),
        key(
            "mute-lists",
            "a pubkey",
            "30 pushes per minute of a list of 64 KiB",
            0.5 * 9.0,
            0.1,
        ),
        key(
            "profiles",
            "an author",
            "whom a million users follow: each instance of deliver reads the row once an hour",
            0.5 * INSTANCES / 3_600.0,
            0.0,
        ),
        key(
            "rates",
            "`budget#profiles#proven`",
            "all requests of an hour in one minute",
            0.0,
            1_000.0 / 60.0,
        ),
        key(
            "claims, rates",
            "a recipient's event or minute",
            "30 pushes per minute, each counted once",
            0.1,
            2.0,
        ),
        key(
            "rates",
            "`budget#owner:…`",
            "60 control events per minute, three takes each",
            0.0,
            3.0,
        ),
        key(
            "rates",
            "`budget#strangers`, `budget#known`",
            "all registrations, if everybody is a newcomer: two events with two takes each",
            0.0,
            registrations * 4.0,
        ),
        key(
            "rates",
            "`budget#newcomer_pushes`",
            "all events, if everybody is a newcomer",
            0.0,
            per_second(PUSHES),
        ),
        key(
            "relays",
            "`usage`",
            "each instance of control once a minute; each task every 30 s",
            INSTANCES / 60.0,
            TASKS / 30.0,
        ),
        key(
            "relays",
            "`members`",
            "each task every 10 s",
            0.0,
            TASKS / 10.0,
        ),
        key("relays", "a relay", "each task every 25 s", 0.1, 1.0 / 25.0),
        key(
            "apps",
            "an app",
            "each instance once a minute; 41 units for 5,000 pubkeys",
            (INSTANCES + TASKS) / 60.0 * 41.0,
            0.0,
        ),
    ]
}

fn row(key: &Key) -> String {
    let round = |rate: f64| {
        if rate >= 10.0 {
            format!("{rate:.0}")
        } else {
            format!("{rate:.1}")
        }
    };
    let Key {
        table, name, why, ..
    } = key;
    format!(
        "| {table} | {name} | {why} | {} | {} |",
        round(key.reads),
        round(key.writes)
    )
}

#[test]
fn rates_of_keys_are_documented_and_within_partitions() {
    // A key that everybody has is the only one beyond a partition. The operator must allow it.
    let over: Vec<&str> = keys()
        .iter()
        .filter(|key| key.reads > PARTITION[0] || key.writes > PARTITION[1])
        .map(|key| key.name)
        .collect();
    assert_eq!(over, ["a key that all users have (`kind:1` without `#p`)"]);
    let docs = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rows = keys().iter().map(row).collect::<Vec<_>>();
    let missing: Vec<&String> = rows.iter().filter(|row| !docs.contains(*row)).collect();
    assert!(
        missing.is_empty(),
        "docs/architecture.md lacks\n{missing:#?}"
    );
    assert!(
        per_second(HEARTBEATS) > per_second(PUSHES),
        "heartbeats are spread over owners"
    );
}

#[test]
fn shards_are_those_of_the_store() {
    let source = root().join("shared/aws/src/dynamodb/subscriptions.rs");
    let source = std::fs::read_to_string(source).unwrap();
    assert!(source.contains(&format!("const SHARDS: u64 = {SHARDS};")));
}

/// Many owners have the same filter, and so the same identity. Their rows must not share a shard.
#[tokio::test]
async fn same_filter_of_many_owners_is_in_all_shards() {
    const OWNERS: usize = 960;
    let recorder = Recorder::start().await;
    for _ in 0..OWNERS {
        let owner = owner(Keys::generate().public_key());
        let row = builders::subscription(&owner, &json!({"#t": ["nostr"]}));
        recorder.store.put(&row).await.unwrap();
    }
    let mut shards: BTreeMap<String, usize> = BTreeMap::new();
    for item in recorder.puts() {
        *shards.entry(item["shard"]["N"].to_string()).or_default() += 1;
    }
    // 30 in each on average.
    assert!(
        shards.len() == 32 && shards.values().all(|rows| *rows < 90),
        "{shards:?}"
    );
}
