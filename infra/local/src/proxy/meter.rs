//! Counts what AWS would charge for. `ReturnConsumedCapacity` is added to requests to DynamoDB, so
//! that each response contains the units that it consumed
//! (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html>).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};

use super::call::{Call, Service};
use crate::forward::HttpResponse;

/// The operations of DynamoDB that consume read units. All others consume write units.
const READ_OPERATIONS: [&str; 5] = [
    "GetItem",
    "Query",
    "Scan",
    "BatchGetItem",
    "TransactGetItems",
];

/// What a stage is charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Charge {
    /// Requests to SQS.
    Sqs,
    /// Read units of DynamoDB.
    Reads,
    /// Write units of DynamoDB, including those of indexes and transactions.
    Writes,
    /// Requests to SNS other than publishes.
    Sns,
    /// Publishes.
    Pushes,
}

/// The number of charges per stage and kind. Clones share the numbers.
#[derive(Clone, Default)]
pub struct Meter {
    charges: Arc<Mutex<BTreeMap<(String, Charge), f64>>>,
}

impl Meter {
    /// The charges so far.
    pub fn read(&self) -> BTreeMap<(String, Charge), f64> {
        self.charges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Counts a request to another service than DynamoDB.
    pub(super) fn count_request(&self, call: &Call) {
        let charge = match (call.service, call.operation.as_str()) {
            (Service::Sqs, _) => Charge::Sqs,
            (Service::Sns, "Publish") => Charge::Pushes,
            (Service::Sns, _) => Charge::Sns,
            (Service::DynamoDb | Service::SecretsManager, _) => return,
        };
        self.count(&call.program, charge, 1.0);
    }

    /// Counts the units of a request to DynamoDB.
    pub(super) fn count_dynamodb(&self, call: &Call, response: &HttpResponse) {
        let units = if call.operation == "BatchGetItem" {
            units_of_batch_read(&call.parameters, &response.body)
        } else if response.status.is_success() {
            consumed_units(&response.body)
        } else {
            units_of_failed_write(&call.parameters)
        };
        let charge = if READ_OPERATIONS.contains(&call.operation.as_str()) {
            Charge::Reads
        } else {
            Charge::Writes
        };
        self.count(&call.program, charge, units);
    }

    fn count(&self, stage: &str, charge: Charge, n: f64) {
        *self
            .charges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((stage.to_owned(), charge))
            .or_default() += n;
    }
}

/// The request, asking for the units that it consumes.
pub(super) fn with_consumed_capacity(mut call: Call) -> Call {
    call.parameters["ReturnConsumedCapacity"] = json!("TOTAL");
    call
}

/// The units that a response reports, of all tables together.
fn consumed_units(response: &[u8]) -> f64 {
    let response: Value = serde_json::from_slice(response).unwrap_or_default();
    let units = |table: &Value| table["CapacityUnits"].as_f64();
    match &response["ConsumedCapacity"] {
        Value::Array(tables) => tables.iter().filter_map(units).sum(),
        table => units(table).unwrap_or_default(),
    }
}

/// The units of a batch read, for which the local endpoint reports none: one for each started 4 KB
/// of each item, also if there is no such item. An eventually consistent read costs half of that
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html>).
fn units_of_batch_read(request: &Value, response: &[u8]) -> f64 {
    let response: Value = serde_json::from_slice(response).unwrap_or_default();
    let tables = request["RequestItems"].as_object().into_iter().flatten();
    let units = tables.map(|(table, read)| {
        let keys = read["Keys"].as_array().map_or(0, Vec::len);
        let items = response["Responses"][table].as_array();
        let items = items.into_iter().flatten();
        let more: usize = items.map(|item| item.to_string().len() / 4_096).sum();
        let price = if read["ConsistentRead"] == true {
            1.0
        } else {
            0.5
        };
        let units = u32::try_from(keys + more).unwrap_or(u32::MAX);
        price * f64::from(units)
    });
    units.sum()
}

/// The units of a write whose condition failed. AWS charges for it as for a write, but the response
/// contains no units. Each item counts as one unit, or as two in a transaction.
fn units_of_failed_write(request: &Value) -> f64 {
    request["TransactItems"]
        .as_array()
        .map_or(1.0, |items| items.iter().map(|_| 2.0).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_reads_cost_as_much_as_single_ones() {
        let read = |consistent: bool| json!({"Keys": [{}, {}, {}], "ConsistentRead": consistent});
        let request = |consistent| json!({"RequestItems": {"t": read(consistent)}});
        let large = json!({"a": {"S": "x".repeat(5_000)}});
        let response = json!({"Responses": {"t": [{"a": {"S": "x"}}, large]}}).to_string();
        for (consistent, units) in [(true, 4.0), (false, 2.0)] {
            let counted = units_of_batch_read(&request(consistent), response.as_bytes());
            assert!((counted - units).abs() < 0.01, "{counted}");
        }
    }
}
