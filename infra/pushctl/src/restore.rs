//! `pushctl restore`: copies rows from other tables, for example from a point-in-time restore, into
//! the stack's tables. It never overwrites a newer row, so it can run beside the functions, and can
//! be stopped and repeated.
//!
//! - [`rows`]: tables whose rows are copied as they are
//! - [`devices`]: devices and rosters, which are merged
//! - [`index`]: the filter index, which is made from the subscriptions
//! - [`pace`]: the limit of writes per second

mod devices;
mod index;
mod pace;
mod rows;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::Seconds;
use serde::Serialize;
use serde_json::json;

use self::pace::Pace;
use crate::context::CommandContext;

/// The tables, in the order in which they are restored. The index is made from the subscriptions.
const TABLES: [&str; 11] = [
    "apps",
    "devices",
    "subscriptions",
    "filter-index",
    "settings",
    "presence",
    "mute-lists",
    "relays",
    "claims",
    "rates",
    "profiles",
];

/// The tables that are restored only if they are named: their rows live for some days at most, or
/// are requested again from relays.
const ONLY_IF_NAMED: [&str; 3] = ["claims", "rates", "profiles"];

/// The most writes at the same time.
const CONCURRENCY: usize = 64;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The tables, by default all except `claims`, `rates` and `profiles`. `filter-index` is made
    /// from the stack's own subscriptions.
    #[arg(value_parser = TABLES)]
    tables: Vec<String>,
    /// The prefix of the tables to read: rows of `PREFIX-devices` are copied into the stack's table
    /// of devices, and so on.
    #[arg(long)]
    from: String,
    /// The most writes per second. DynamoDB accepts 4,000 write units per second and table at
    /// first, of which the functions need some.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    writes_per_second: u32,
    /// Writes nothing, and counts what would be copied.
    #[arg(long)]
    dry_run: bool,
}

/// What became of the rows of one table.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Counts {
    /// Rows that were written.
    copied: u64,
    /// Rows that the stack's table has as new or newer.
    kept: u64,
    /// Rows that have ended.
    expired: u64,
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Copied,
    Kept,
    Expired,
}

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Copied => self.copied += 1,
            Outcome::Kept => self.kept += 1,
            Outcome::Expired => self.expired += 1,
        }
    }
}

/// What all tables share.
struct Restore<'a> {
    context: &'a CommandContext,
    dynamodb: aws_sdk_dynamodb::Client,
    /// The tables to read.
    source: Store,
    /// Their prefix.
    from: &'a str,
    pace: Pace,
    is_dry_run: bool,
    now: Seconds,
}

pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let from = &arguments.from;
    ensure!(
        *from != context.prefix,
        "{from} is the prefix of the stack's own tables"
    );
    let restore = Restore {
        context,
        dynamodb: aws_sdk_dynamodb::Client::new(&context.aws),
        source: Store::new(&context.aws, from),
        from,
        pace: Pace::new(arguments.writes_per_second),
        is_dry_run: arguments.dry_run,
        now: clients::now().to_seconds(),
    };
    let is_chosen = |table: &&str| {
        if arguments.tables.is_empty() {
            !ONLY_IF_NAMED.contains(table)
        } else {
            arguments.tables.iter().any(|named| named == table)
        }
    };
    let mut results = BTreeMap::new();
    for table in TABLES.into_iter().filter(is_chosen) {
        if table != index::TABLE && !restore.exists(table).await? {
            ensure!(
                arguments.tables.is_empty(),
                "there is no table {from}-{table}"
            );
            eprintln!("{table}: skipped, because there is no table {from}-{table}");
            continue;
        }
        let counts = match table {
            "devices" => devices::restore(&restore).await?,
            index::TABLE => index::rebuild(&restore).await?,
            table => rows::restore(&restore, table).await?,
        };
        results.insert(table, counts);
    }
    let line = |(table, counts): (&&str, &Counts)| {
        let Counts {
            copied,
            kept,
            expired,
        } = counts;
        format!("{table}: {copied} copied, {kept} kept, {expired} expired")
    };
    let mut lines: Vec<String> = results.iter().map(line).collect();
    if arguments.dry_run {
        lines.push("nothing was written, because of --dry-run".to_owned());
    }
    context.print(
        &json!({"dry_run": arguments.dry_run, "tables": results}),
        lines.join("\n"),
    );
    Ok(())
}

impl Restore<'_> {
    /// Returns `true` if there is a table to read.
    async fn exists(&self, table: &str) -> Result<bool> {
        let name = format!("{}-{table}", self.from);
        let request = self.dynamodb.describe_table().table_name(name);
        match request.send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(DescribeTableError::is_resource_not_found_exception) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn report(&self, table: &str, counts: &Counts) {
        let Counts {
            copied,
            kept,
            expired,
        } = counts;
        let would = if self.is_dry_run { "would be " } else { "" };
        eprintln!("{table}: {copied} {would}copied, {kept} kept, {expired} expired so far");
    }
}
