//! The size of DynamoDB items, and a stub of DynamoDB that records what the store writes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, routing::post};
use nostr_push_aws::{clients, dynamodb::Store};
use serde_json::{Map, Value, json};

/// The largest item, attribute names included
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>).
pub(crate) const MAX_ITEM: usize = 400 * 1024;

/// The requests so far.
type Requests = Arc<Mutex<Vec<Value>>>;

/// A store, and the requests that it has sent. The stub answers each with an empty object.
pub(crate) struct Recorder {
    pub(crate) store: Store,
    requests: Requests,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        async fn record(State(requests): State<Requests>, body: String) -> Json<Value> {
            let request = serde_json::from_str(&body).unwrap();
            requests.lock().unwrap().push(request);
            Json(json!({}))
        }
        let requests = Requests::default();
        let app = Router::new()
            .route("/", post(record))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(requests.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, app).await });
        let variables = [
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ];
        let variables: HashMap<String, String> = variables
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        let config = clients::at(&variables, "AWS_ENDPOINT_URL").await;
        Self {
            store: Store::new(&config, "stack"),
            requests,
        }
    }

    /// The items that were put since the last call.
    pub(crate) fn puts(&self) -> Vec<Map<String, Value>> {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap());
        let items = requests.iter().flat_map(|request| {
            let puts = request["TransactItems"].as_array().cloned();
            let puts = puts.unwrap_or_default().into_iter();
            let items = puts.map(|put| put["Put"]["Item"].clone());
            items.chain(request.get("Item").cloned())
        });
        items
            .map(|item| item.as_object().unwrap().clone())
            .collect()
    }

    /// Their sizes in bytes.
    pub(crate) fn put_sizes(&self) -> Vec<usize> {
        self.puts().iter().map(size).collect()
    }
}

/// The bytes of an item
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>).
pub(crate) fn size(item: &Map<String, Value>) -> usize {
    item.iter()
        .map(|(name, value)| name.len() + of_value(value))
        .sum()
}

fn of_value(value: &Value) -> usize {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    let text = || value.as_str().unwrap().len();
    let list = || value.as_array().unwrap();
    match kind.as_str() {
        // Bytes are in base64 here, which is longer.
        "S" | "B" => text(),
        "N" => text() / 2 + 2,
        "BOOL" | "NULL" => 1,
        "SS" | "BS" | "NS" => list().iter().map(|v| v.as_str().unwrap().len()).sum(),
        "L" => 3 + list().iter().map(|v| 1 + of_value(v)).sum::<usize>(),
        "M" => {
            let fields = value.as_object().unwrap();
            3 + fields.len() + size(fields)
        }
        kind => panic!("{kind}"),
    }
}

/// The write units of an item of this size.
pub(crate) fn write_units(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}
