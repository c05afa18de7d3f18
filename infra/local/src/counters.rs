//! Adds up the metrics of all stages (CloudWatch embedded metric format): the functions' from
//! CloudWatch Logs, the listener's from its output.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use anyhow::Result;
use aws_sdk_cloudwatchlogs::Client;
use serde_json::Value;

/// Where the counters come from, and what has been read.
pub struct Counters {
    logs: Client,
    groups: Vec<String>,
    since: i64,
    read: HashSet<String>,
    functions: BTreeMap<String, u64>,
    listener: PathBuf,
}

impl Counters {
    /// Counters of these log groups since a time (milliseconds since the epoch), and of this file.
    pub fn new(logs: Client, groups: Vec<String>, since: i64, listener: PathBuf) -> Self {
        Self {
            logs,
            groups,
            since,
            read: HashSet::new(),
            functions: BTreeMap::new(),
            listener,
        }
    }

    /// All counters as they are now, by `stage.outcome.reason`.
    ///
    /// # Errors
    /// The logs cannot be read.
    pub async fn read(&mut self) -> Result<BTreeMap<String, u64>> {
        for group in self.groups.clone() {
            self.read_group(&group).await?;
        }
        let mut all = self.functions.clone();
        for line in std::fs::read_to_string(&self.listener)?.lines() {
            add(&mut all, line);
        }
        Ok(all)
    }

    async fn read_group(&mut self, group: &str) -> Result<()> {
        let mut next = None;
        loop {
            let request = self
                .logs
                .filter_log_events()
                .log_group_name(group)
                .start_time(self.since)
                .set_next_token(next);
            let page = request.send().await?;
            for event in page.events.unwrap_or_default() {
                // The id alone would do, but not every endpoint gives one.
                let message = event.message.unwrap_or_default();
                let stream = event.log_stream_name.unwrap_or_default();
                if self.read.insert(format!(
                    "{stream} {:?} {:?} {message}",
                    event.event_id, event.timestamp
                )) {
                    for line in message.lines() {
                        add(&mut self.functions, line);
                    }
                }
            }
            next = page.next_token;
            if next.is_none() {
                return Ok(());
            }
        }
    }
}

/// Adds the counter in a line, if there is one.
fn add(counters: &mut BTreeMap<String, u64>, line: &str) {
    let Some(metric) = line
        .starts_with(r#"{"_aws""#)
        .then(|| serde_json::from_str::<Value>(line).ok())
        .flatten()
    else {
        return;
    };
    let text = |name: &str| metric[name].as_str();
    if let (Some(stage), Some(outcome), Some(reason), Some(n)) = (
        text("Stage"),
        text("Outcome"),
        text("Reason"),
        metric["Events"].as_u64(),
    ) {
        *counters
            .entry(format!("{stage}.{outcome}.{reason}"))
            .or_default() += n;
    }
}
