//! Makes the local endpoint throttle, delay and repeat, as AWS does and its emulators do not. The
//! faults can be switched on and off while the stack runs.
//!
//! - `dynamodb`: throttling, cut batches, and indexes that are behind their table
//! - `sqs`: throttling, batches that are accepted in part, repeats and delays
//! - SNS: throttling

mod dynamodb;
mod random;
mod sqs;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    http::{HeaderValue, StatusCode},
};
use serde_json::{Value, json};

use self::{
    dynamodb::{Keys, TokenBucket},
    random::Random,
};
use super::call::{Call, Service};
use crate::{forward::HttpResponse, sns_proxy};

/// Which faults the endpoint has, and how often. Shares are from 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultPlan {
    /// The seed of all random decisions.
    pub seed: u64,
    /// The share of requests to DynamoDB that are throttled.
    pub dynamodb_throttled: f64,
    /// The share of transactions that are cancelled because one of their writes is throttled.
    pub transactions_cancelled: f64,
    /// The share of batches of several keys of which DynamoDB reads only a part.
    pub batch_reads_cut: f64,
    /// The most write units per second of one table. `None` means no limit.
    pub writes_per_second: Option<f64>,
    /// For how long an item is missing in the indexes of its table after its keys there change.
    pub index_delay: Duration,
    /// The share of requests to SQS that are throttled.
    pub sqs_throttled: f64,
    /// The share of entries of a batch that SQS fails to accept.
    pub sqs_entries_failed: f64,
    /// The share of messages that arrive twice, the second time up to three seconds later.
    pub messages_repeated: f64,
    /// The share of messages that arrive one to three seconds late, after later messages.
    pub messages_delayed: f64,
    /// The share of requests to SNS that are throttled.
    pub sns_throttled: f64,
}

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// DynamoDB throttled a request.
    DynamoDbThrottled,
    /// A table was written faster than its limit.
    WriteRateExceeded,
    /// DynamoDB cancelled a transaction because of throttling.
    TransactionCancelled,
    /// DynamoDB read only a part of a batch.
    BatchReadCut,
    /// An index lacked an item.
    IndexItemMissing,
    /// SQS throttled a request.
    SqsThrottled,
    /// SQS did not accept an entry of a batch.
    SqsEntryFailed,
    /// A message arrives twice.
    MessageRepeated,
    /// A message arrives late.
    MessageDelayed,
    /// SNS throttled a request.
    SnsThrottled,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::DynamoDbThrottled,
        Self::WriteRateExceeded,
        Self::TransactionCancelled,
        Self::BatchReadCut,
        Self::IndexItemMissing,
        Self::SqsThrottled,
        Self::SqsEntryFailed,
        Self::MessageRepeated,
        Self::MessageDelayed,
        Self::SnsThrottled,
    ];
}

/// The faults of an endpoint. Clones share them.
#[derive(Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    plan: Option<FaultPlan>,
    random: Random,
    counts: BTreeMap<FaultKind, u64>,
    /// The write units that each table has left.
    buckets: HashMap<String, TokenBucket>,
    /// The key attributes of each table, if it has an index.
    keys: HashMap<String, Option<Keys>>,
    /// Table and key of each item to the last change of its keys in an index.
    written_at: HashMap<(String, String), Instant>,
}

impl Faults {
    /// Switches these faults on.
    pub fn start(&self, plan: FaultPlan) {
        let mut state = self.state();
        state.random = Random::new(plan.seed);
        state.plan = Some(plan);
    }

    /// Switches all faults off.
    pub fn stop(&self) {
        self.state().plan = None;
    }

    /// How often each kind of fault has happened.
    pub fn counts(&self) -> BTreeMap<FaultKind, u64> {
        self.state().counts.clone()
    }

    /// The error with which the endpoint refuses the request, if it does.
    pub(super) fn refuse(&self, call: &Call) -> Option<HttpResponse> {
        let mut state = self.state();
        let plan = state.plan?;
        match call.service {
            Service::DynamoDb => state.refuse_dynamodb(plan, call, Instant::now()),
            Service::Sqs => state
                .happens(plan.sqs_throttled, FaultKind::SqsThrottled)
                .then(sqs::throttled),
            Service::Sns => state
                .happens(plan.sns_throttled, FaultKind::SnsThrottled)
                .then(|| sns_proxy::error_response(429, "Throttled")),
            Service::SecretsManager => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns `true` for this share of the calls, and counts them.
    fn happens(&mut self, share: f64, kind: FaultKind) -> bool {
        let happens = self.random.is_below(share);
        if happens {
            self.count(kind);
        }
        happens
    }

    fn count(&mut self, kind: FaultKind) {
        *self.counts.entry(kind).or_default() += 1;
    }
}

/// An error of the JSON protocol
/// (<https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html>).
fn json_error(code: &str, message: &str, more: &Value) -> HttpResponse {
    let mut body = json!({"__type": code, "message": message});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    json_response(StatusCode::BAD_REQUEST, &body)
}

fn json_response(status: StatusCode, body: &Value) -> HttpResponse {
    HttpResponse {
        status,
        content_type: Some(HeaderValue::from_static("application/x-amz-json-1.0")),
        body: Bytes::from(body.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn call(service: Service, operation: &str, parameters: Value) -> Call {
        Call {
            program: "control".to_owned(),
            service,
            operation: operation.to_owned(),
            headers: HeaderMap::new(),
            parameters,
        }
    }

    fn put(table: &str) -> Call {
        let parameters = json!({"TableName": table, "Item": {"k": {"S": "1"}}});
        call(Service::DynamoDb, "PutItem", parameters)
    }

    /// The error with which the call is refused under this plan.
    fn refusal(plan: FaultPlan, call: &Call) -> Option<String> {
        let faults = Faults::default();
        faults.start(plan);
        let response = faults.refuse(call)?;
        Some(String::from_utf8(response.body.to_vec()).unwrap())
    }

    #[test]
    fn each_service_has_its_own_error() {
        let plan = FaultPlan {
            dynamodb_throttled: 1.0,
            sqs_throttled: 1.0,
            sns_throttled: 1.0,
            ..FaultPlan::default()
        };
        let dynamodb = refusal(plan, &put("t")).unwrap();
        assert!(
            dynamodb.contains("Throttl") || dynamodb.contains("ProvisionedThroughputExceeded"),
            "{dynamodb}"
        );
        let sqs = call(Service::Sqs, "SendMessage", json!({}));
        assert!(refusal(plan, &sqs).unwrap().contains("RequestThrottled"));
        let sns = call(Service::Sns, "Publish", json!({}));
        assert!(
            refusal(plan, &sns)
                .unwrap()
                .contains("<Code>Throttled</Code>")
        );
        let secret = call(Service::SecretsManager, "GetSecretValue", json!({}));
        assert_eq!(refusal(plan, &secret), None);
    }

    #[test]
    fn cancelled_transaction_has_a_reason_per_item() {
        let plan = FaultPlan {
            transactions_cancelled: 1.0,
            ..FaultPlan::default()
        };
        let items = json!({"TransactItems": [{"Put": {}}, {"Put": {}}]});
        let transaction = call(Service::DynamoDb, "TransactWriteItems", items);
        let error: Value = serde_json::from_str(&refusal(plan, &transaction).unwrap()).unwrap();
        let codes: Vec<_> = error["CancellationReasons"]
            .as_array()
            .unwrap()
            .iter()
            .map(|reason| reason["Code"].as_str().unwrap())
            .collect();
        assert_eq!(codes, ["ThrottlingError", "None"]);
    }

    #[test]
    fn each_table_has_its_own_write_rate() {
        let faults = Faults::default();
        faults.start(FaultPlan {
            writes_per_second: Some(3.0),
            ..FaultPlan::default()
        });
        let now = Instant::now();
        let mut state = faults.state();
        let plan = state.plan.unwrap();
        let mut refused = |table: &str, at| state.refuse_dynamodb(plan, &put(table), at).is_some();
        assert_eq!(
            [0; 4].map(|_| refused("a", now)),
            [false, false, false, true]
        );
        assert!(!refused("b", now));
        assert!(!refused("a", now + Duration::from_secs(1)));
    }

    #[test]
    fn a_share_is_met_and_a_seed_repeats_it() {
        let hits = |seed| {
            let mut random = Random::new(seed);
            (0..1_000)
                .filter(|_| random.is_below(0.2))
                .collect::<Vec<_>>()
        };
        assert!((150..250).contains(&hits(15).len()));
        assert_eq!(hits(15), hits(15));
        assert_ne!(hits(15), hits(16));
    }

    #[test]
    fn nothing_is_refused_when_the_faults_are_off() {
        let faults = Faults::default();
        assert!(faults.refuse(&put("t")).is_none());
        faults.start(FaultPlan {
            dynamodb_throttled: 1.0,
            ..FaultPlan::default()
        });
        assert!(faults.refuse(&put("t")).is_some());
        faults.stop();
        assert!(faults.refuse(&put("t")).is_none());
        assert_eq!(faults.counts()[&FaultKind::DynamoDbThrottled], 1);
    }
}
