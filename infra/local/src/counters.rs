//! Adds up the metrics of all stages, which are lines in the CloudWatch embedded metric format: see
//! [`nostr_push_aws::telemetry`]. Those of the functions are in CloudWatch Logs, those of the
//! listener in its log file.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use anyhow::Result;
use aws_sdk_cloudwatchlogs::Client;
use nostr_push_core::Millis;
use serde_json::Value;

/// The counters of all stages.
pub struct Counters {
    logs: Client,
    groups: Vec<String>,
    since: Millis,
    /// Log events that have been added.
    seen: HashSet<String>,
    functions: BTreeMap<String, u64>,
    listener_log: PathBuf,
}

impl Counters {
    /// Counts from `since` on, in these log groups and in the listener's log file.
    pub fn new(logs: Client, groups: Vec<String>, since: Millis, listener_log: PathBuf) -> Self {
        Self {
            logs,
            groups,
            since,
            seen: HashSet::new(),
            functions: BTreeMap::new(),
            listener_log,
        }
    }

    /// All counters as of now, by `stage.outcome.reason`.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub async fn read(&mut self) -> Result<BTreeMap<String, u64>> {
        for group in self.groups.clone() {
            self.read_group(&group).await?;
        }
        let mut all = self.functions.clone();
        for line in std::fs::read_to_string(&self.listener_log)?.lines() {
            add(&mut all, line);
        }
        Ok(all)
    }

    async fn read_group(&mut self, group: &str) -> Result<()> {
        let request = self
            .logs
            .filter_log_events()
            .log_group_name(group)
            .start_time(i64::try_from(self.since.0)?);
        let mut pages = request.into_paginator().send();
        while let Some(page) = pages.next().await {
            for event in page?.events.unwrap_or_default() {
                let message = event.message.unwrap_or_default();
                let stream = event.log_stream_name.unwrap_or_default();
                // The event id would suffice, but not every endpoint sets it.
                let id = format!("{stream} {:?} {:?}", event.event_id, event.timestamp);
                if !self.seen.insert(format!("{id} {message}")) {
                    continue;
                }
                for line in message.lines() {
                    add(&mut self.functions, line);
                }
            }
        }
        Ok(())
    }
}

/// Adds the counter in a log line, if the line contains one.
fn add(counters: &mut BTreeMap<String, u64>, line: &str) {
    if !line.starts_with(r#"{"_aws""#) {
        return;
    }
    let Ok(metric) = serde_json::from_str::<Value>(line) else {
        return;
    };
    let text = |name: &str| metric[name].as_str();
    if let (Some(stage), Some(outcome), Some(reason), Some(n)) = (
        text("Stage"),
        text("Outcome"),
        text("Reason"),
        metric["Events"].as_u64(),
    ) {
        let name = format!("{stage}.{outcome}.{reason}");
        *counters.entry(name).or_default() += n;
    }
}
