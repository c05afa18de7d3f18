//! Logs and metrics. Logs are JSON lines of `tracing`. Metrics are JSON lines in the CloudWatch
//! embedded metric format
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).
//!
//! CloudWatch accepts at most 100 values per metric, 100 metrics and 1 MB in a line. The collector
//! drops a value for which there is no room, so the metrics are written before that happens.
//!
//! All stages share the counter `Events` with the dimensions `Stage`, `Outcome` and `Reason`. The
//! other metrics have the dimension `Stage` alone: `Latency`, the milliseconds from the relay's
//! delivery to the stage's outcome; `PushFailures`, 1 for each failed push and 0 for each other;
//! `RelaysWatched` and `RelaysConnected`; and what the stack holds: `Owners`, `IndexKeys` and
//! `IndexRows`.

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
};

use metrics::Unit;
use metrics_cloudwatch_embedded::{Builder, Collector};
use nostr_push_core::{Millis, capacity::Usage, counter::Counter};
use tracing_subscriber::EnvFilter;

/// The CloudWatch namespace of all metrics, unless `METRIC_NAMESPACE` has the name of the stack.
/// Two stacks in one account then have separate metrics.
const NAMESPACE: &str = "nostr-push";

/// The dimension of all metrics.
pub const STAGE: &str = "Stage";

/// The further dimensions of [`EVENTS`].
pub const OUTCOME: &str = "Outcome";
/// See [`OUTCOME`].
pub const REASON: &str = "Reason";

/// The metric of [`Telemetry::count`].
pub const EVENTS: &str = "Events";
/// The metric of [`Telemetry::latency`].
pub const LATENCY: &str = "Latency";
/// The metric of [`Telemetry::push`].
pub const PUSH_FAILURES: &str = "PushFailures";
/// The metrics of [`Telemetry::relays`].
pub const RELAYS: [&str; 2] = ["RelaysWatched", "RelaysConnected"];
/// The metrics of [`Telemetry::usage`].
pub const USAGE: [&str; 3] = ["Owners", "IndexKeys", "IndexRows"];
/// The most values that all histograms together may hold until they are written.
const MAX_UNWRITTEN_VALUES: usize = 100;

/// The logs and metrics of one stage.
#[derive(Clone, Copy)]
pub struct Telemetry {
    stage: &'static str,
    metrics: &'static Metrics,
}

/// The metrics of the process.
struct Metrics {
    collector: &'static Collector,
    output: Mutex<Output>,
}

/// Where the metrics are written.
struct Output {
    writer: Box<dyn Write + Send>,
    /// The number of values in histograms since the last write.
    unwritten: usize,
}

impl Telemetry {
    /// Sets up logging (at level `LOG_LEVEL`, default `info`) and metrics for this process. The
    /// metrics are written to stdout.
    ///
    /// # Panics
    /// If it is called twice.
    pub fn init(stage: &'static str) -> Self {
        let level = std::env::var("LOG_LEVEL")
            .unwrap_or_else(|_| "info".to_owned())
            .to_lowercase();
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_env_filter(EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info")))
            .with_target(false)
            .with_current_span(false)
            .with_span_list(false)
            .init();
        let namespace = std::env::var("METRIC_NAMESPACE").unwrap_or_else(|_| NAMESPACE.to_owned());
        Self::with_output(stage, namespace, std::io::stdout())
    }

    /// Sets up metrics for this process, to be written to `writer`.
    #[expect(
        clippy::expect_used,
        reason = "two recorders in one process is a programming error"
    )]
    fn with_output(
        stage: &'static str,
        namespace: String,
        writer: impl Write + Send + 'static,
    ) -> Self {
        let collector = Builder::new()
            .cloudwatch_namespace(namespace)
            .with_dimension(STAGE, stage)
            .init()
            .expect("init is called once");
        metrics::describe_counter!(EVENTS, Unit::Count, "");
        metrics::describe_histogram!(LATENCY, Unit::Milliseconds, "");
        for name in RELAYS.into_iter().chain(USAGE) {
            metrics::describe_gauge!(name, Unit::Count, "");
        }
        let output = Output {
            writer: Box::new(writer),
            unwritten: 0,
        };
        let metrics = Box::leak(Box::new(Metrics {
            collector,
            output: Mutex::new(output),
        }));
        Self { stage, metrics }
    }

    /// Adds `n` to a counter.
    pub fn count(&self, counter: impl Counter, n: u64) {
        let (outcome, reason) = (counter.outcome(), counter.reason());
        metrics::counter!(EVENTS, OUTCOME => outcome, REASON => reason).increment(n);
    }

    /// Records the time from the relay's delivery to now.
    pub fn latency(&self, received_at: Millis, now: Millis) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "latencies are far below 2^52 ms"
        )]
        self.record(LATENCY, (now - received_at).0 as f64);
    }

    /// Records whether a push failed. The average of the metric is the share of failures.
    pub fn push(&self, failed: bool) {
        self.record(PUSH_FAILURES, f64::from(u8::from(failed)));
    }

    /// Records how many relays a task of the listener watches, and to how many it is connected.
    pub fn relays(&self, watched: usize, connected: usize) {
        for (name, n) in RELAYS.into_iter().zip([watched, connected]) {
            metrics::gauge!(name).set(u32::try_from(n).unwrap_or(u32::MAX));
        }
    }

    /// Records what the stack holds.
    pub fn usage(&self, usage: &Usage) {
        let counts = [usage.owners, usage.index_keys, usage.index_rows];
        for (name, n) in USAGE.into_iter().zip(counts) {
            metrics::gauge!(name).set(u32::try_from(n).unwrap_or(u32::MAX));
        }
    }

    /// The stage of this process.
    pub fn stage(&self) -> &'static str {
        self.stage
    }

    /// Writes the metrics recorded so far.
    pub fn flush(&self) {
        self.write(&mut self.output());
    }

    /// Adds a value to a histogram. If the histograms may be full, they are written first.
    fn record(&self, name: &'static str, value: f64) {
        let mut output = self.output();
        if output.unwritten == MAX_UNWRITTEN_VALUES {
            self.write(&mut output);
        }
        metrics::histogram!(name).record(value);
        output.unwritten += 1;
    }

    /// The output. While a thread has it, no other records a value of a histogram.
    fn output(&self) -> std::sync::MutexGuard<'static, Output> {
        let output = self.metrics.output.lock();
        output.unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all lines at once, so that no line of the log comes in between.
    fn write(&self, output: &mut Output) {
        let mut lines = Vec::new();
        let written = self
            .metrics
            .collector
            .flush(&mut lines)
            .and_then(|()| output.writer.write_all(&lines));
        output.unwritten = 0;
        if let Err(error) = written {
            tracing::warn!(stage = self.stage, %error, "metrics not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use serde_json::{Value, json};

    use super::*;
    use crate::batch::BatchCounter;

    /// A writer to memory.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn read(&self) -> Vec<Value> {
            let bytes = self.0.lock().unwrap().clone();
            let text = String::from_utf8(bytes).unwrap();
            let lines = text.lines().inspect(|line| {
                assert!(line.len() < 1_000_000, "a line has {} bytes", line.len());
            });
            lines
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }
    }

    /// The recorder is global, so one test covers all metrics.
    #[test]
    fn no_value_is_lost_and_every_line_is_within_the_limits() {
        let lines = Lines::default();
        let telemetry = Telemetry::with_output("deliver", "stack".to_owned(), lines.clone());
        // A batch of ten deliveries to 50 devices each.
        for delivery in 0..10 {
            for device in 0..50 {
                telemetry.push(device % 10 == 0);
                telemetry.latency(Millis(0), Millis(delivery * 50 + device));
                telemetry.count(BatchCounter::Panic, 1);
            }
        }
        telemetry.relays(3, 2);
        let usage = Usage {
            owners: 1,
            index_keys: 2,
            index_rows: 3,
            ..Usage::default()
        };
        telemetry.usage(&usage);
        telemetry.flush();

        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut units = BTreeMap::new();
        for line in lines.read() {
            let metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].clone();
            let metrics = metrics.as_array().unwrap().clone();
            assert!(metrics.len() <= 100);
            for metric in metrics {
                let name = metric["Name"].as_str().unwrap().to_owned();
                let numbers = match &line[&name] {
                    Value::Array(numbers) => numbers.clone(),
                    number => vec![number.clone()],
                };
                assert!(numbers.len() <= 100, "{name}");
                units.insert(name.clone(), metric["Unit"].clone());
                let numbers = numbers.iter().map(|number| number.as_f64().unwrap());
                values.entry(name).or_default().extend(numbers);
            }
        }
        let expected: Vec<f64> = (0..500).map(f64::from).collect();
        assert_eq!(values["Latency"], expected);
        assert_eq!(values["PushFailures"].len(), 500);
        assert!((values["PushFailures"].iter().sum::<f64>() - 50.0).abs() < f64::EPSILON);
        assert!((values["Events"].iter().sum::<f64>() - 500.0).abs() < f64::EPSILON);
        let expected = json!({
            "Events": "Count", "IndexKeys": "Count", "IndexRows": "Count",
            "Latency": "Milliseconds", "Owners": "Count", "PushFailures": null,
            "RelaysConnected": "Count", "RelaysWatched": "Count",
        });
        assert_eq!(json!(units), expected);
    }
}
