//! The charges of all stages: requests counted by the meter, invocations and bytes of logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use nostr_push_aws::clients;
use nostr_push_local::{
    proxy::meter::{Charge, Meter},
    stack::{FUNCTIONS, Stack},
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

/// How long a stage may take to handle an event.
const HANDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long after an invocation Lambda writes its report.
const REPORT_DELAY: Duration = Duration::from_secs(2);

/// The bytes that CloudWatch adds to each log line
/// (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html>).
const LOG_OVERHEAD: usize = 26;

/// The bytes that DynamoDB adds to each item.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
const ITEM_OVERHEAD: usize = 100;

/// Charges by stage and name.
type Charges = BTreeMap<(String, &'static str), f64>;

/// The charges of a running stack.
pub(crate) struct Bill<'a> {
    stack: &'a Stack,
    meter: Meter,
    dynamodb: aws_sdk_dynamodb::Client,
}

/// The average charges of one event.
pub(crate) struct AverageCharges {
    /// By stage and name.
    pub(crate) stages: Map<String, Value>,
    /// The bytes that were stored.
    pub(crate) bytes: f64,
}

impl<'a> Bill<'a> {
    pub(crate) async fn new(stack: &'a Stack, meter: Meter) -> Self {
        let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
        Self {
            stack,
            meter,
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
        }
    }

    /// Measures the average charges of `n` calls of `action`. The argument of a call is its number,
    /// from 0.
    pub(crate) async fn measure(
        &self,
        n: u32,
        action: impl AsyncFn(u32) -> Result<()>,
    ) -> Result<AverageCharges> {
        let before = self.charges().await?;
        let stored = self.stored_bytes().await?;
        for i in 0..n {
            action(i).await?;
        }
        Ok(AverageCharges {
            stages: average(&before, &self.charges().await?, n),
            bytes: (self.stored_bytes().await? - stored) / f64::from(n),
        })
    }

    /// All charges so far.
    async fn charges(&self) -> Result<Charges> {
        sleep(REPORT_DELAY).await;
        let mut charges = Charges::new();
        for ((stage, charge), n) in self.meter.read() {
            charges.insert((stage, name(charge)), n);
        }
        let log = self.stack.listener_log()?;
        let bytes: usize = log.iter().map(|line| line.len() + LOG_OVERHEAD).sum();
        charges.insert(("listener".to_owned(), "log_bytes"), float(bytes)?);
        for function in FUNCTIONS {
            for line in self.stack.function_log(function).await? {
                let mut add = |name, n| {
                    let charge = charges.entry((function.to_owned(), name));
                    *charge.or_default() += n;
                };
                let name = if is_of_event(&line) {
                    "log_bytes"
                } else {
                    // Metrics and the lines of Lambda itself, which occur once per invocation.
                    "log_bytes_of_invocation"
                };
                add(name, float(line.len() + LOG_OVERHEAD)?);
                if line.starts_with("REPORT ") {
                    add("invocations", 1.0);
                    add("gb_seconds", gb_seconds(&line)?);
                }
            }
        }
        Ok(charges)
    }

    /// The number of events that a function has handled.
    pub(crate) async fn handled(&self, function: &str) -> Result<usize> {
        let lines = self.stack.function_log(function).await?;
        let handled = |line: &&String| is_of_event(line) && line.contains(r#""latency_ms":"#);
        Ok(lines.iter().filter(handled).count())
    }

    /// Waits until a function has handled this number of events.
    pub(crate) async fn wait_for_handled(&self, function: &str, events: usize) -> Result<()> {
        let deadline = Instant::now() + HANDLE_TIMEOUT;
        while self.handled(function).await? < events {
            ensure!(
                Instant::now() < deadline,
                "{function} has not handled an event after {HANDLE_TIMEOUT:?}: {}",
                self.stack.logs()
            );
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// All custom metrics so far. Each combination of a name and values of dimensions is one.
    pub(crate) async fn metrics(&self) -> Result<BTreeSet<String>> {
        let mut lines = self.stack.listener_log()?;
        for function in FUNCTIONS {
            lines.extend(self.stack.function_log(function).await?);
        }
        let lines = lines.iter().map(|line| serde_json::from_str(line));
        Ok(lines
            .flat_map(|line: Result<Value, _>| metrics_in(&line.unwrap_or_default()))
            .collect())
    }

    /// The bytes of all items. Indexes are not included.
    async fn stored_bytes(&self) -> Result<f64> {
        let mut bytes = 0;
        let tables = self.dynamodb.list_tables().send().await?.table_names;
        for table in tables.unwrap_or_default() {
            let scan = self.dynamodb.scan().table_name(table);
            let mut pages = scan.into_paginator().send();
            while let Some(page) = pages.next().await {
                let items = page?.items.unwrap_or_default();
                let sizes = items
                    .iter()
                    .flatten()
                    .map(|(name, value)| name.len() + size(value));
                bytes += ITEM_OVERHEAD * items.len() + sizes.sum::<usize>();
            }
        }
        float(bytes)
    }
}

/// The name of a charge in `counted.json`.
fn name(charge: Charge) -> &'static str {
    match charge {
        Charge::Sqs => "sqs",
        Charge::Reads => "reads",
        Charge::Writes => "writes",
        Charge::Sns => "sns",
        Charge::Pushes => "pushes",
    }
}

/// Returns `true` if a log line is about one event.
fn is_of_event(line: &str) -> bool {
    line.contains(r#""event_id":"#)
}

/// The billed GB-seconds in Lambda's report of an invocation.
fn gb_seconds(report: &str) -> Result<f64> {
    let field = |name: &str| -> Option<f64> {
        let value = report.split_once(name)?.1.trim();
        value.split(' ').next()?.parse().ok()
    };
    let ms = field("Billed Duration:").context("a report has no duration")?;
    let mb = field("Memory Size:").context("a report has no memory size")?;
    Ok(ms.ceil() / 1000.0 * mb / 1024.0)
}

/// The metrics of a line in the embedded metric format.
fn metrics_in(line: &Value) -> Vec<String> {
    let elements = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut metrics = Vec::new();
    for directive in elements(&line["_aws"]["CloudWatchMetrics"]) {
        let names = elements(&directive["Metrics"]);
        for dimensions in elements(&directive["Dimensions"]) {
            let value = |name: Value| line[name.as_str().unwrap_or_default()].to_string();
            let values: Vec<String> = elements(&dimensions).into_iter().map(value).collect();
            let values = values.join(" ");
            metrics.extend(names.iter().map(|m| format!("{} {values}", m["Name"])));
        }
    }
    metrics
}

/// The size of an attribute's value in DynamoDB. See [`ITEM_OVERHEAD`].
fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::Ss(texts) => texts.iter().map(String::len).sum(),
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + size(value)).sum::<usize>(),
        AttributeValue::M(values) => {
            let sizes = values
                .iter()
                .map(|(name, value)| 1 + name.len() + size(value));
            3 + sizes.sum::<usize>()
        }
        _ => 1,
    }
}

/// The difference between two readings, by stage and divided by `n`.
fn average(before: &Charges, after: &Charges, n: u32) -> Map<String, Value> {
    let mut stages: Map<String, Value> = Map::new();
    for ((stage, name), charge) in after {
        let earlier = before.get(&(stage.clone(), *name)).unwrap_or(&0.0);
        let average = (charge - earlier) / f64::from(n);
        if average > 0.0 {
            let charges = stages.entry(stage.clone()).or_insert_with(|| json!({}));
            charges[*name] = json!(round(average));
        }
    }
    stages
}

fn float(n: usize) -> Result<f64> {
    Ok(f64::from(u32::try_from(n)?))
}

/// Rounds to six decimal places. The rest is noise.
pub(crate) fn round(n: f64) -> f64 {
    (n * 1e6).round() / 1e6
}
