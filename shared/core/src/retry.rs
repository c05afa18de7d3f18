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

/// The shortest time from the first receipt of a message to the last of `receives`, if each is
/// followed by [`backoff`]: with the smallest delays that jitter allows.
pub fn min_retry_time(receives: u32) -> Duration {
    (1..receives).map(|n| backoff(n, 1.0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The receives that `template.yaml` gives a message.
    const RECEIVES: u32 = 30;

    #[test]
    fn thirty_receives_take_at_least_an_hour() {
        // 2.5 + 5 + 10 + 20 + 40 + 80 s, and then 23 times 150 s.
        assert_eq!(min_retry_time(RECEIVES), Duration::from_millis(3_607_500));
        assert_eq!(min_retry_time(1), Duration::ZERO);
    }

    #[test]
    fn no_jitter_makes_a_delay_shorter_than_half_of_it() {
        for receive_count in 0..=2 * RECEIVES {
            for percent in 0..=100 {
                let delay = backoff(receive_count, f64::from(percent) / 100.0);
                assert!(delay >= backoff(receive_count, 1.0));
                assert!(delay <= backoff(receive_count, 0.0));
            }
            assert_eq!(backoff(receive_count, 1.0) * 2, backoff(receive_count, 0.0));
        }
    }

    #[test]
    fn two_minutes_use_at_most_six_receives() {
        let within = |receives: &u32| min_retry_time(*receives) <= Duration::from_secs(120);
        assert_eq!((1..=RECEIVES).filter(within).max(), Some(6));
    }
}
