//! Faults of DynamoDB.

use std::time::{Duration, Instant};

use anyhow::Result;
use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use super::{FaultKind, FaultPlan, Faults, State, json_error, json_response};
use crate::{
    aws::{REGION, unsigned_authorization},
    forward::HttpResponse,
    proxy::{
        Upstream,
        call::{Call, Service},
    },
};

/// The write units that a table has saved up at most, in seconds of its limit. AWS keeps five
/// minutes
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/burst-adaptive-capacity.html>),
/// but not for a table that is always at its limit.
const BURST_SECONDS: f64 = 1.0;

/// The write units that a table has left.
#[derive(Debug)]
pub(super) struct TokenBucket {
    units: f64,
    at: Instant,
}

/// The names of the key attributes of a table and its indexes.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    table: Vec<String>,
    indexes: Vec<String>,
}

/// A write of one item.
struct Write<'a> {
    table: &'a str,
    /// The item, or only its key.
    item: &'a Value,
    units: f64,
}

impl State {
    pub(super) fn refuse_dynamodb(
        &mut self,
        plan: FaultPlan,
        call: &Call,
        now: Instant,
    ) -> Option<HttpResponse> {
        if call.operation == "TransactWriteItems"
            && self.happens(plan.transactions_cancelled, FaultKind::TransactionCancelled)
        {
            return Some(cancelled(call.list("TransactItems").len()));
        }
        if self.happens(plan.dynamodb_throttled, FaultKind::DynamoDbThrottled) {
            // A table of each billing mode has its own error
            // (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html>).
            return Some(if self.random.is_below(0.5) {
                throttled("ThrottlingException")
            } else {
                throttled("ProvisionedThroughputExceededException")
            });
        }
        let rate = plan.writes_per_second?;
        let has_units = writes(call)
            .iter()
            .all(|write| self.take_units(write, rate, now));
        (!has_units).then(|| {
            self.count(FaultKind::WriteRateExceeded);
            throttled("ThrottlingException")
        })
    }

    /// Takes the units of a write from its table. Returns `false` if the table has too few left.
    fn take_units(&mut self, write: &Write<'_>, rate: f64, now: Instant) -> bool {
        let full = TokenBucket {
            units: rate * BURST_SECONDS,
            at: now,
        };
        let bucket = self.buckets.entry(write.table.to_owned()).or_insert(full);
        let elapsed = now.duration_since(bucket.at).as_secs_f64();
        bucket.units = (bucket.units + elapsed * rate).min(rate * BURST_SECONDS);
        bucket.at = now;
        let has_units = bucket.units >= write.units;
        if has_units {
            bucket.units -= write.units;
        }
        has_units
    }
}

impl Faults {
    /// Forwards a request to DynamoDB, with the faults of a request that succeeds.
    pub(in crate::proxy) async fn dynamodb(
        &self,
        upstream: &Upstream,
        call: &Call,
    ) -> Result<HttpResponse> {
        let Some(plan) = self.state().plan else {
            return upstream.send(call).await;
        };
        let mut call = call.clone();
        let unread = self.cut_batch_read(plan, &mut call);
        if !plan.index_delay.is_zero() {
            self.remember_writes(upstream, &call).await?;
        }
        let mut response = upstream.send(&call).await?;
        if !response.status.is_success() {
            return Ok(response);
        }
        let is_index_read = call.operation == "Query" && !call.text("IndexName").is_empty();
        if unread.is_empty() && !is_index_read {
            return Ok(response);
        }
        let mut body: Value = serde_json::from_slice(&response.body)?;
        if !unread.is_empty() {
            body["UnprocessedKeys"] = Value::Object(unread);
        }
        if is_index_read {
            self.hide_recent_items(plan.index_delay, call.text("TableName"), &mut body);
        }
        response = json_response(response.status, &body);
        Ok(response)
    }

    /// Removes the second half of the keys from a batch, and returns them.
    /// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>)
    fn cut_batch_read(&self, plan: FaultPlan, call: &mut Call) -> Map<String, Value> {
        let mut unread = Map::new();
        if call.operation != "BatchGetItem" {
            return unread;
        }
        let tables = call.parameters["RequestItems"].as_object_mut();
        for (table, request) in tables.into_iter().flatten() {
            let Some(keys) = request["Keys"].as_array_mut() else {
                continue;
            };
            let share = plan.batch_reads_cut;
            if keys.len() < 2 || !self.state().happens(share, FaultKind::BatchReadCut) {
                continue;
            }
            let rest = keys.split_off(keys.len() / 2);
            let mut request = request.clone();
            request["Keys"] = Value::Array(rest);
            unread.insert(table.clone(), request);
        }
        unread
    }

    /// Remembers when items are written whose keys in an index change. An index is updated after
    /// its table, so a read of the index does not find such an item at once
    /// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html>).
    async fn remember_writes(&self, upstream: &Upstream, call: &Call) -> Result<()> {
        for write in writes(call) {
            let Some(keys) = self.keys(upstream, write.table).await? else {
                continue;
            };
            let key = attributes(write.item, &keys.table);
            let request = json!({
                "TableName": write.table, "Key": key, "ConsistentRead": true,
            });
            let stored = upstream.dynamodb("GetItem", request).await?;
            let before = attributes(&stored["Item"], &keys.indexes);
            if before != attributes(write.item, &keys.indexes) {
                let item = (write.table.to_owned(), key.to_string());
                self.state().written_at.insert(item, Instant::now());
            }
        }
        Ok(())
    }

    /// The names of the key attributes of a table and its indexes. `None` if it has no index.
    async fn keys(&self, upstream: &Upstream, table: &str) -> Result<Option<Keys>> {
        if let Some(keys) = self.state().keys.get(table) {
            return Ok(keys.clone());
        }
        let request = json!({"TableName": table});
        let response = upstream.dynamodb("DescribeTable", request).await?;
        let description = &response["Table"];
        let indexes = description["GlobalSecondaryIndexes"].as_array();
        let keys = indexes.map(|indexes| Keys {
            table: key_names(description).collect(),
            indexes: indexes.iter().flat_map(key_names).collect(),
        });
        self.state().keys.insert(table.to_owned(), keys.clone());
        Ok(keys)
    }

    /// Removes the items that were written less than `delay` ago.
    fn hide_recent_items(&self, delay: Duration, table: &str, body: &mut Value) {
        let mut state = self.state();
        state.written_at.retain(|_, at| at.elapsed() < delay);
        let Some(Some(keys)) = state.keys.get(table).cloned() else {
            return;
        };
        let Some(items) = body["Items"].as_array_mut() else {
            return;
        };
        let before = items.len();
        items.retain(|item| {
            let item = (table.to_owned(), attributes(item, &keys.table).to_string());
            !state.written_at.contains_key(&item)
        });
        let hidden = before - items.len();
        body["Count"] = items.len().into();
        (0..hidden).for_each(|_| state.count(FaultKind::IndexItemMissing));
    }
}

impl<'a> Write<'a> {
    /// A write with these parameters, or this part of a transaction.
    fn new(parameters: &'a Value, units: f64) -> Self {
        let item = &parameters["Item"];
        Self {
            table: parameters["TableName"].as_str().unwrap_or_default(),
            item: if item.is_null() {
                &parameters["Key"]
            } else {
                item
            },
            units,
        }
    }
}

/// The writes of a request.
fn writes(call: &Call) -> Vec<Write<'_>> {
    match call.operation.as_str() {
        "PutItem" | "UpdateItem" | "DeleteItem" => vec![Write::new(&call.parameters, 1.0)],
        "TransactWriteItems" => {
            let items = call.list("TransactItems").iter();
            let items = items.filter_map(|item| item.as_object()?.values().next());
            items
                .map(|parameters| Write::new(parameters, 2.0))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The names in the `KeySchema` of a table or an index.
fn key_names(description: &Value) -> impl Iterator<Item = String> + '_ {
    let schema = description["KeySchema"].as_array().into_iter().flatten();
    let names = schema.filter_map(|key| key["AttributeName"].as_str());
    names.map(str::to_owned)
}

/// These attributes of an item.
fn attributes(item: &Value, names: &[String]) -> Value {
    let attributes = names.iter().map(|name| (name.clone(), item[name].clone()));
    Value::Object(attributes.collect())
}

impl Upstream {
    /// A request of the proxy itself.
    async fn dynamodb(&self, operation: &str, parameters: Value) -> Result<Value> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-amz-target", format!("DynamoDB_20120810.{operation}")),
            ("content-type", "application/x-amz-json-1.0".to_owned()),
            ("authorization", unsigned_authorization(REGION, "dynamodb")),
            ("x-amz-date", "20260101T000000Z".to_owned()),
        ] {
            headers.insert(name, HeaderValue::from_str(&value)?);
        }
        let response = self
            .send(&Call {
                program: String::new(),
                service: Service::DynamoDb,
                operation: operation.to_owned(),
                headers,
                parameters,
            })
            .await?;
        Ok(serde_json::from_slice(&response.body)?)
    }
}

fn throttled(code: &str) -> HttpResponse {
    let code = format!("com.amazonaws.dynamodb.v20120810#{code}");
    json_error(&code, "the proxy throttled the request", &Value::Null)
}

/// A transaction whose first item was throttled
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html>).
fn cancelled(items: usize) -> HttpResponse {
    let reason = |n| match n {
        0 => json!({"Code": "ThrottlingError", "Message": "the proxy throttled the item"}),
        _ => json!({"Code": "None"}),
    };
    let reasons: Vec<Value> = (0..items).map(reason).collect();
    json_error(
        "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Transaction cancelled, please refer cancellation reasons for specific reasons",
        &json!({"CancellationReasons": reasons}),
    )
}
