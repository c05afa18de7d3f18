//! Failures of what a stage depends on, and the time until the next attempt.

use std::time::Duration;

/// A dependency failed. The message is not the cause, so it is always retried.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{dependency}: {why}")]
pub struct Unavailable {
    /// The operation, for example `dynamodb.subscriptions.put`.
    pub dependency: &'static str,
    /// The kind of failure.
    pub cause: FailureCause,
    /// The error.
    pub why: String,
}

impl Unavailable {
    /// A failure of `dependency` with the cause [`FailureCause::Failed`].
    pub fn new(dependency: &'static str, why: impl Into<String>) -> Self {
        Self::caused(FailureCause::Failed, dependency, why)
    }

    /// A failure of `dependency` with this cause.
    pub fn caused(cause: FailureCause, dependency: &'static str, why: impl Into<String>) -> Self {
        Self {
            dependency,
            cause,
            why: why.into(),
        }
    }

    /// The shortest time until the next attempt. `None` means the usual [`backoff`].
    pub fn retry_after(&self) -> Option<Duration> {
        (self.cause == FailureCause::NotAllowed).then_some(OPERATOR_RETRY_DELAY)
    }
}

/// Why a dependency failed. If several causes apply, the largest one is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::VariantArray)]
pub enum FailureCause {
    /// Other messages of the same owner wrote the same rows.
    Contention,
    /// The dependency failed, did not answer, or returned something unexpected.
    Failed,
    /// The dependency throttled the request.
    Throttled,
    /// The dependency denied access. Only the operator can fix this.
    NotAllowed,
}

impl FailureCause {
    /// The causes of a stage that does not write rows that other messages write at the same time.
    pub const WITHOUT_CONTENTION: [Self; 3] = [Self::Failed, Self::Throttled, Self::NotAllowed];

    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Contention => "contention",
            Self::Failed => "unavailable",
            Self::Throttled => "throttled",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// The delay before a retry if only the operator can fix the cause. An alarm tells the operator.
pub const OPERATOR_RETRY_DELAY: Duration = Duration::from_secs(300);

/// The delay before a retry: 5 s, doubled with each receipt of the message, at most 5 min, and
/// reduced by up to a half by `jitter` (0 to 1).
pub fn backoff(receive_count: u32, jitter: f64) -> Duration {
    let whole = Duration::from_secs(5 << receive_count.saturating_sub(1).min(6))
        .min(Duration::from_secs(300));
    whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}
