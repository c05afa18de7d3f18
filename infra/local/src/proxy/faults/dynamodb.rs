//! Faults of DynamoDB.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
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

    /// Remembers when the items of tables with an index are written.
    async fn remember_writes(&self, upstream: &Upstream, call: &Call) -> Result<()> {
        for write in writes(call) {
            let Some(keys) = self.key_attributes(upstream, write.table).await? else {
                continue;
            };
            let item = (write.table.to_owned(), key_of(write.item, &keys));
            self.state().written_at.insert(item, Instant::now());
        }
        Ok(())
    }

    /// The names of the table's key attributes. `None` if it has no index.
    async fn key_attributes(
        &self,
        upstream: &Upstream,
        table: &str,
    ) -> Result<Option<Vec<String>>> {
        if let Some(keys) = self.state().keys.get(table) {
            return Ok(keys.clone());
        }
        let response = upstream.send(&describe_table(table)?).await?;
        let response: Value = serde_json::from_slice(&response.body)?;
        let table_description = &response["Table"];
        let schema = table_description["KeySchema"]
            .as_array()
            .with_context(|| format!("table {table} has no key"))?;
        let names = schema
            .iter()
            .filter_map(|key| key["AttributeName"].as_str());
        let names = names.map(str::to_owned).collect();
        let has_index = table_description["GlobalSecondaryIndexes"].is_array();
        let keys = has_index.then_some(names);
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
            let item = (table.to_owned(), key_of(item, &keys));
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

/// The key of an item, as text.
fn key_of(item: &Value, names: &[String]) -> String {
    let values: Vec<&Value> = names.iter().map(|name| &item[name]).collect();
    json!(values).to_string()
}

fn describe_table(table: &str) -> Result<Call> {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-amz-target", "DynamoDB_20120810.DescribeTable".to_owned()),
        ("content-type", "application/x-amz-json-1.0".to_owned()),
        ("authorization", unsigned_authorization(REGION, "dynamodb")),
        ("x-amz-date", "20260101T000000Z".to_owned()),
    ] {
        headers.insert(name, HeaderValue::from_str(&value)?);
    }
    Ok(Call {
        program: String::new(),
        service: Service::DynamoDb,
        operation: "DescribeTable".to_owned(),
        headers,
        parameters: json!({"TableName": table}),
    })
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
