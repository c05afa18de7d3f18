//! The charges that were counted on the local stack.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The file that `cargo bench -p nostr-push-local --bench requests` writes.
const COUNTED: &str = include_str!("../counted.json");

/// The charges of one message of each kind, each in a batch of its own, by stage.
#[derive(Deserialize)]
pub(super) struct CountedUsage {
    pub(super) event: BTreeMap<String, Usage>,
    pub(super) push: BTreeMap<String, Usage>,
    pub(super) registration: BTreeMap<String, Usage>,
    pub(super) heartbeat: BTreeMap<String, Usage>,
    /// The charges of one hour without messages.
    pub(super) idle_hour: BTreeMap<String, Usage>,
    pub(super) bytes_of_registration: f64,
    pub(super) bytes_of_push: f64,
    /// The number of custom metrics.
    pub(super) metrics: f64,
}

impl CountedUsage {
    pub(super) fn load() -> Result<Self> {
        serde_json::from_str(COUNTED).context("counted.json")
    }
}

/// The charges of a stage.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Usage {
    pub(super) sqs: f64,
    pub(super) reads: f64,
    pub(super) writes: f64,
    pub(super) sns: f64,
    pub(super) pushes: f64,
    pub(super) invocations: f64,
    pub(super) gb_seconds: f64,
    pub(super) log_bytes: f64,
    pub(super) log_bytes_of_invocation: f64,
}
