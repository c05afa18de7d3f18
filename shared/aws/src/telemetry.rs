//! Logs and metrics. Logs: `tracing` as JSON lines. Metrics: CloudWatch embedded metric format,
//! also JSON lines.
//!
//! One counter serves all stages: `Events`, by `Stage`, `Outcome` and `Reason`. By `Stage` alone:
//! `Latency` in milliseconds, from the relay's delivery to this stage's outcome; `PushFailures`, 1
//! for each push that failed and 0 for each that did not; `RelaysWatched` and `RelaysConnected`.

use metrics_cloudwatch_embedded::{Builder, Collector};
use nostr_push_core::Millis;
use tracing_subscriber::EnvFilter;

/// The CloudWatch namespace of all metrics, unless `TABLE_PREFIX` names a stack: two in one account
/// are counted apart.
const NAMESPACE: &str = "nostr-push";

/// Where a stage counts what became of its input.
#[derive(Clone, Copy)]
pub struct Telemetry {
    stage: &'static str,
    collector: &'static Collector,
}

impl Telemetry {
    /// Sets up logging (level by `LOG_LEVEL`, default `info`) and metrics for this process. Once
    /// per process.
    ///
    /// # Panics
    /// When called twice.
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
        let namespace = std::env::var("TABLE_PREFIX").unwrap_or_else(|_| NAMESPACE.to_owned());
        let collector = Builder::new()
            .cloudwatch_namespace(namespace)
            .with_dimension("Stage", stage)
            .init()
            .expect("init is called once");
        Self { stage, collector }
    }

    /// Counts `n` outcomes.
    pub fn count(&self, outcome: &'static str, reason: &'static str, n: u64) {
        metrics::counter!("Events", "Outcome" => outcome, "Reason" => reason).increment(n);
    }

    /// Notes how long it took from the relay's delivery to now.
    pub fn latency(&self, received_at: Millis, now: Millis) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "latencies are far below 2^52 ms"
        )]
        metrics::histogram!("Latency").record(now.saturating_sub(received_at) as f64);
    }

    /// Notes whether a push failed, for the share of those that do.
    pub fn push(&self, failed: bool) {
        metrics::histogram!("PushFailures").record(f64::from(u8::from(failed)));
    }

    /// Notes how many relays a task of the listener is to watch, and is connected to.
    pub fn relays(&self, watched: usize, connected: usize) {
        for (name, n) in [("RelaysWatched", watched), ("RelaysConnected", connected)] {
            metrics::gauge!(name).set(u32::try_from(n).unwrap_or(u32::MAX));
        }
    }

    /// The stage this process is.
    pub fn stage(&self) -> &'static str {
        self.stage
    }

    /// Writes the metrics gathered so far to stdout.
    pub fn flush(&self) {
        if let Err(error) = self.collector.flush(std::io::stdout()) {
            tracing::warn!(stage = self.stage, %error, "metrics not written");
        }
    }
}
