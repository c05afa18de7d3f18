//! A table of subscriptions that exists only as its number of rows. It answers the one request that
//! the feed makes: DynamoDB's `Query` on the index `by_change`
//! (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_Query.html>).
//!
//! A local implementation of DynamoDB takes longer for a page the larger a partition is, so with
//! millions of rows it would be measured instead of the listener.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::post};
use nostr_push_aws::clients;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::reader::TABLE_PREFIX;

/// The partitions of the feed.
const SHARDS: u64 = 32;

/// The rows of a page, as the listener requests them.
pub(crate) const PAGE_ROWS: u64 = 500;

/// How long each response is delayed, as a region's DynamoDB would delay it.
const RESPONSE_TIME: Duration = Duration::from_millis(10);

/// The stamp of the first row of each partition.
const FIRST_STAMP: u64 = 1_000;

/// The clock of the reader is up to this far ahead.
const MAX_CLOCK_OFFSET_MS: u64 = 6 * 60 * 60 * 1_000;

/// The table. Row `n` is in partition `n % SHARDS`, with the stamp `FIRST_STAMP + n / SHARDS`.
pub(crate) struct Table {
    rows: u64,
    state: Mutex<TableState>,
}

#[derive(Default)]
struct TableState {
    /// The stamps of the rows that were added, all in partition 0.
    added: Vec<u64>,
    /// The number of requests of each page of all rows: partition and first row.
    pages: HashMap<(u64, u64), u64>,
}

impl Table {
    pub(crate) fn new(rows: u64) -> Self {
        Self {
            rows,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, TableState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a row now, by the clock of the reader.
    pub(crate) fn add_row(&self) {
        let stamp = clients::now().0 + MAX_CLOCK_OFFSET_MS;
        self.state().added.push(stamp);
    }

    /// The number of pages of all rows that were requested.
    pub(crate) fn full_pages(&self) -> u64 {
        self.state().pages.len() as u64
    }

    /// The number of requests for pages that had been requested before.
    pub(crate) fn repeated_pages(&self) -> u64 {
        let requests: u64 = self.state().pages.values().sum();
        requests - self.full_pages()
    }

    pub(crate) fn forget_pages(&self) {
        self.state().pages.clear();
    }

    /// The number of pages that contain all rows.
    pub(crate) fn pages_of_all_rows(&self) -> u64 {
        SHARDS * self.rows.div_ceil(SHARDS).div_ceil(PAGE_ROWS).max(1)
    }

    /// The response to a query.
    fn query(&self, request: &Value) -> Option<Value> {
        let number = |value: &Value| value["N"].as_str()?.parse::<u64>().ok();
        let shard = number(&request["ExpressionAttributeValues"][":shard"])?;
        let since = number(&request["ExpressionAttributeValues"][":since"])?;
        let limit = request["Limit"].as_u64()?;
        let after = number(&request["ExclusiveStartKey"]["changed_at"]);
        if since > 0 {
            let added = self.state().added.clone();
            let new = added.into_iter().enumerate();
            let new = new.filter(|(_, stamp)| shard == 0 && *stamp >= since);
            let items: Vec<Value> = new
                .map(|(n, stamp)| row(self.rows + n as u64, 0, stamp))
                .collect();
            return Some(json!({"Count": items.len(), "Items": items}));
        }
        let first = after.map_or(0, |stamp| stamp - FIRST_STAMP + 1);
        *self.state().pages.entry((shard, first)).or_default() += 1;
        // The rows of this partition.
        let end = (self.rows + SHARDS - 1 - shard) / SHARDS;
        let last = end.min(first + limit);
        let items: Vec<Value> = (first..last)
            .map(|n| row(n * SHARDS + shard, shard, FIRST_STAMP + n))
            .collect();
        let mut page = json!({"Count": items.len()});
        if last < end {
            let mut key = items.last()?.clone();
            let fields = ["owner", "subscription", "shard", "changed_at"];
            key.as_object_mut()?
                .retain(|name, _| fields.contains(&name.as_str()));
            page["LastEvaluatedKey"] = key;
        }
        page["Items"] = items.into();
        Some(page)
    }
}

/// Serves the table, and returns the URL of its endpoint.
pub(crate) async fn serve(table: Arc<Table>) -> anyhow::Result<String> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let router = Router::new().route("/", post(respond)).with_state(table);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(endpoint)
}

async fn respond(State(table): State<Arc<Table>>, body: String) -> impl IntoResponse {
    tokio::time::sleep(RESPONSE_TIME).await;
    let request: Value = serde_json::from_str(&body).unwrap_or_default();
    assert_eq!(
        request["TableName"],
        format!("{TABLE_PREFIX}-subscriptions")
    );
    let page = table.query(&request).unwrap_or_else(|| panic!("{request}"));
    (
        [(header::CONTENT_TYPE, "application/x-amz-json-1.0")],
        page.to_string(),
    )
}

/// A row of `subscriptions` as `Store` writes it.
fn row(n: u64, shard: u64, stamp: u64) -> Value {
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
        "processed_at": {"N": stamp.to_string()},
        "changed_at": {"N": stamp.to_string()},
        "shard": {"N": shard.to_string()},
        "expires_at": {"N": "4000000000"},
    })
}
