//! Records what the stack holds: in the store, where control reads it to refuse new owners when the
//! stack is full, and in the health, from which the metrics are written.

use std::time::Duration;

use nostr_push_core::{Seconds, ports::Usages};
use tokio::time::Instant;

use crate::{feed::FeedView, health::Health};

/// How often the usage is recorded. Each costs one write.
const RECORD_INTERVAL: Duration = Duration::from_secs(30);

/// When the usage was last recorded.
#[derive(Debug, Default)]
pub struct UsageRecorder {
    recorded_at: Option<Instant>,
}

impl UsageRecorder {
    /// Records the usage if it is time to.
    pub async fn record_if_due(
        &mut self,
        store: &impl Usages,
        view: &FeedView,
        health: &Health,
        now: Seconds,
    ) {
        let is_due = |at: Instant| at.elapsed() >= RECORD_INTERVAL;
        if !self.recorded_at.is_none_or(is_due) {
            return;
        }
        let usage = view.usage(now);
        health.record_usage(usage);
        if let Err(error) = store.record_usage(&usage).await {
            tracing::warn!(
                stage = "listener",
                dependency = error.dependency,
                "usage not recorded: {error}"
            );
        }
        self.recorded_at = Some(Instant::now());
    }
}
