//! The HTTP interface of the local stack. `docs/local.md` describes it.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex};

use crate::{counters::Counters, sns_proxy::Proxy};

/// The data behind the HTTP interface.
pub struct Api {
    /// The service's pubkey, in hex.
    pub service_pubkey: String,
    /// The relays that the listener watches.
    pub relays: Vec<String>,
    /// The ids of the configured apps.
    pub apps: Vec<String>,
    /// The proxy in front of SNS.
    pub sns: Proxy,
    /// The metrics of all stages.
    pub counters: Mutex<Counters>,
}

#[derive(Deserialize)]
struct PushesQuery {
    #[serde(default)]
    after: u64,
}

/// Serves until the process ends. Returns the address.
///
/// # Errors
/// The address is in use.
pub async fn serve(api: Api, address: &str) -> Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    let router = Router::new()
        .route("/status", get(status))
        .route("/pushes", get(pushes))
        .route("/devices/{token}/disable", post(disable))
        .route("/counters", get(counters))
        .with_state(Arc::new(api));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(bound)
}

async fn status(State(api): State<Arc<Api>>) -> Json<Value> {
    Json(json!({
        "ready": true,
        "service_pubkey": api.service_pubkey,
        "relays": api.relays,
        "apps": api.apps,
    }))
}

async fn pushes(State(api): State<Arc<Api>>, Query(query): Query<PushesQuery>) -> Json<Value> {
    Json(json!({"pushes": api.sns.pushes(query.after)}))
}

async fn disable(
    State(api): State<Arc<Api>>,
    Path(token): Path<String>,
) -> (StatusCode, Json<Value>) {
    match api.sns.disable(&token).await {
        Ok(0) => (
            StatusCode::NOT_FOUND,
            Json(json!({"error": "no endpoint has this token"})),
        ),
        Ok(endpoints) => (StatusCode::OK, Json(json!({"disabled": endpoints}))),
        Err(error) => bad_gateway(&error),
    }
}

async fn counters(State(api): State<Arc<Api>>) -> (StatusCode, Json<Value>) {
    match api.counters.lock().await.read().await {
        Ok(counters) => (StatusCode::OK, Json(json!(counters))),
        Err(error) => bad_gateway(&error),
    }
}

fn bad_gateway(error: &anyhow::Error) -> (StatusCode, Json<Value>) {
    let body = json!({"error": format!("{error:#}")});
    (StatusCode::BAD_GATEWAY, Json(body))
}
