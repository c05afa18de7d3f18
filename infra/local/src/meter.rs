//! Counts what AWS would charge for: a proxy before the local endpoint that reads every request of
//! the functions and the listener. DynamoDB is asked for the units that it would consume
//! (`ReturnConsumedCapacity`).

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

use crate::forward::{Answer, bad_gateway, forward};

/// What a stage is charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Charge {
    /// Requests to SQS.
    Sqs,
    /// Read units of DynamoDB.
    Reads,
    /// Write units of DynamoDB, those of indexes and transactions included.
    Writes,
    /// Requests to SNS besides publishing.
    Sns,
    /// Pushes.
    Pushes,
}

/// Counts, by stage and charge. Clones share them.
#[derive(Clone, Default)]
pub struct Meter {
    counted: Arc<Mutex<BTreeMap<(String, Charge), f64>>>,
}

#[derive(Clone)]
struct Metered {
    meter: Meter,
    http: reqwest::Client,
    upstream: String,
}

impl Meter {
    /// Puts itself before this endpoint, until the process ends. Answers its own URL.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn before(&self, upstream: &str) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let metered = Metered {
            meter: self.clone(),
            http: reqwest::Client::new(),
            upstream: upstream.to_owned(),
        };
        let router = Router::new().fallback(handle).with_state(metered);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(url)
    }

    /// All that was counted so far.
    pub fn read(&self) -> BTreeMap<(String, Charge), f64> {
        self.counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, stage: &str, charge: Charge, n: f64) {
        *self
            .counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((stage.to_owned(), charge))
            .or_default() += n;
    }
}

async fn handle(State(metered): State<Metered>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    metered.pass(headers, body).await.map_or_else(
        |error| bad_gateway("meter", &error),
        IntoResponse::into_response,
    )
}

impl Metered {
    async fn pass(&self, headers: HeaderMap, body: Bytes) -> Result<Answer> {
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        // `app/deliver`: each stage names itself to AWS.
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
        } else if body.starts_with(b"Action=") {
            self.meter.count(
                &stage,
                if body.starts_with(b"Action=Publish&") {
                    Charge::Pushes
                } else {
                    Charge::Sns
                },
                1.0,
            );
        }
        forward(&self.http, &self.upstream, headers, body).await
    }

    async fn dynamodb(
        &self,
        stage: &str,
        operation: &str,
        headers: HeaderMap,
        body: &[u8],
    ) -> Result<Answer> {
        let mut request: Value = serde_json::from_slice(body)?;
        request["ReturnConsumedCapacity"] = json!("TOTAL");
        let answer = forward(
            &self.http,
            &self.upstream,
            headers,
            Bytes::from(request.to_string()),
        )
        .await?;
        let read = [
            "GetItem",
            "Query",
            "Scan",
            "BatchGetItem",
            "TransactGetItems",
        ]
        .contains(&operation);
        let consumed = serde_json::from_slice::<Value>(&answer.body)
            .map(|answer| answer["ConsumedCapacity"].clone())
            .unwrap_or_default();
        let each = match &consumed {
            Value::Array(tables) => tables.iter().collect(),
            table => vec![table],
        };
        let units: f64 = each
            .iter()
            .filter_map(|table| table["CapacityUnits"].as_f64())
            .sum();
        // A condition that does not hold costs what the write would have, and nobody says so: one
        // unit, two in a transaction.
        let refused = request["TransactItems"]
            .as_array()
            .map_or(1.0, |items| items.iter().map(|_| 2.0).sum());
        let units = if answer.status.is_success() {
            units
        } else {
            refused
        };
        self.meter.count(
            stage,
            if read { Charge::Reads } else { Charge::Writes },
            units,
        );
        Ok(answer)
    }
}
