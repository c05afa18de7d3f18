//! Counts what AWS would charge for. The meter is a proxy in front of the local endpoint and reads
//! every request of the functions and the listener. It adds `ReturnConsumedCapacity` to requests to
//! DynamoDB, so that each response contains the units that it consumed
//! (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html>).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response},
    response::IntoResponse,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::forward::{HttpResponse, bad_gateway, forward};

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

#[derive(Clone)]
struct MeterProxy {
    meter: Meter,
    http: reqwest::Client,
    upstream: String,
}

impl Meter {
    /// Starts a proxy in front of `upstream`, which serves until the process ends. Returns the URL
    /// of the proxy.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn serve(&self, upstream: &str) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let proxy = MeterProxy {
            meter: self.clone(),
            http: reqwest::Client::new(),
            upstream: upstream.to_owned(),
        };
        let router = Router::new().fallback(handle).with_state(proxy);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(url)
    }

    /// The charges so far.
    pub fn read(&self) -> BTreeMap<(String, Charge), f64> {
        self.charges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

async fn handle(
    State(proxy): State<MeterProxy>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    proxy.respond(headers, body).await.map_or_else(
        |error| bad_gateway("meter", &error),
        IntoResponse::into_response,
    )
}

impl MeterProxy {
    async fn respond(&self, headers: HeaderMap, body: Bytes) -> Result<HttpResponse> {
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        // Each stage names itself in its requests (`app/deliver`).
        let stage = text("x-amz-user-agent")
            .split(' ')
            .find_map(|part| part.strip_prefix("app/").map(str::to_owned))
            .unwrap_or_default();
        let target = text("x-amz-target");
        let (service, operation) = target.split_once('.').unwrap_or_default();
        if service.starts_with("DynamoDB") {
            return self.dynamodb(&stage, operation, headers, &body).await;
        }
        if service == "AmazonSQS" {
            self.meter.count(&stage, Charge::Sqs, 1.0);
        } else if body.starts_with(b"Action=Publish&") {
            self.meter.count(&stage, Charge::Pushes, 1.0);
        } else if body.starts_with(b"Action=") {
            self.meter.count(&stage, Charge::Sns, 1.0);
        }
        forward(&self.http, &self.upstream, headers, body).await
    }

    async fn dynamodb(
        &self,
        stage: &str,
        operation: &str,
        headers: HeaderMap,
        body: &[u8],
    ) -> Result<HttpResponse> {
        let mut request: Value = serde_json::from_slice(body)?;
        request["ReturnConsumedCapacity"] = json!("TOTAL");
        let body = Bytes::from(request.to_string());
        let response = forward(&self.http, &self.upstream, headers, body).await?;
        let units = if response.status.is_success() {
            consumed_units(&response.body)
        } else {
            units_of_failed_write(&request)
        };
        let charge = if READ_OPERATIONS.contains(&operation) {
            Charge::Reads
        } else {
            Charge::Writes
        };
        self.meter.count(stage, charge, units);
        Ok(response)
    }
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

/// The units of a write whose condition failed. AWS charges for it as for a write, but the response
/// contains no units. Each item counts as one unit, or as two in a transaction.
fn units_of_failed_write(request: &Value) -> f64 {
    request["TransactItems"]
        .as_array()
        .map_or(1.0, |items| items.iter().map(|_| 2.0).sum())
}
