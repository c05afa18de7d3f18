//! Logs and metrics. Logs are JSON lines of `tracing`. Metrics are JSON lines in the CloudWatch
//! embedded metric format
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).
//!
//! All stages share the counter `Events` with the dimensions `Stage`, `Outcome` and `Reason`. The
//! other metrics have the dimension `Stage` alone: `Latency`, the milliseconds from the relay's
//! delivery to the stage's outcome; `PushFailures`, 1 for each failed push and 0 for each other;
//! `RelaysWatched` and `RelaysConnected`; and what the stack holds: `Owners`, `IndexKeys` and
//! `IndexRows`.

use metrics_cloudwatch_embedded::{Builder, Collector};
use nostr_push_core::{Millis, capacity::Usage, counter::Counter};
use tracing_subscriber::EnvFilter;

/// The CloudWatch namespace of all metrics, unless `METRIC_NAMESPACE` has the name of the stack. Two
/// stacks in one account then have separate metrics.
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

/// The logs and metrics of one stage.
#[derive(Clone, Copy)]
pub struct Telemetry {
    stage: &'static str,
    collector: &'static Collector,
}

impl Telemetry {
    /// Sets up logging (at level `LOG_LEVEL`, default `info`) and metrics for this process.
    ///
    /// # Panics
    /// If it is called twice.
    #[expect(
        clippy::expect_used,
        reason = "two recorders in one process is a programming error"
    )]
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
        let collector = Builder::new()
            .cloudwatch_namespace(namespace)
            .with_dimension(STAGE, stage)
            .init()
            .expect("init is called once");
        Self { stage, collector }
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
        metrics::histogram!(LATENCY).record((now - received_at).0 as f64);
    }

    /// Records whether a push failed. The average of the metric is the share of failures.
    pub fn push(&self, failed: bool) {
        metrics::histogram!(PUSH_FAILURES).record(f64::from(u8::from(failed)));
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

    /// Writes the metrics recorded so far to stdout.
    pub fn flush(&self) {
        if let Err(error) = self.collector.flush(std::io::stdout()) {
            tracing::warn!(stage = self.stage, %error, "metrics not written");
        }
    }
}
