//! The counters and the log line of an outcome.

use nostr_push_aws::{batch::Retry, telemetry::Telemetry};
use nostr_push_core::{
    counter::Counter, message::FeedbackMessage, ports::PortResult, retry::FailureCause,
};
use strum::VariantArray;

use crate::outcome::{FeedbackOutcome, KeptReason};

/// Everything that the stage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedbackCounter {
    /// A record of the stream of `devices` was put into the feedback queue.
    Stream,
    /// A message was handled.
    Handled(FeedbackOutcome),
    /// A dependency failed, and the message is retried.
    Unavailable(FailureCause),
}

impl FeedbackCounter {
    /// All counters.
    pub fn all() -> Vec<Self> {
        let kept = KeptReason::VARIANTS.iter().copied();
        let causes = FailureCause::VARIANTS.iter().copied();
        let outcomes = [FeedbackOutcome::Removed, FeedbackOutcome::BadCredentials]
            .into_iter()
            .chain(kept.map(FeedbackOutcome::Kept));
        outcomes
            .map(Self::Handled)
            .chain([Self::Stream])
            .chain(causes.map(Self::Unavailable))
            .collect()
    }

    /// The counter of a result.
    pub fn of(result: &PortResult<FeedbackOutcome>) -> Self {
        match result {
            Ok(outcome) => Self::Handled(*outcome),
            Err(error) => Self::Unavailable(error.cause),
        }
    }
}

impl Counter for FeedbackCounter {
    fn outcome(self) -> &'static str {
        match self {
            Self::Stream | Self::Handled(FeedbackOutcome::Removed) => "accepted",
            Self::Handled(FeedbackOutcome::Kept(_)) => "dropped",
            Self::Handled(FeedbackOutcome::BadCredentials) => "failed",
            Self::Unavailable(_) => "retried",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Handled(FeedbackOutcome::Removed) => "removed",
            Self::Handled(FeedbackOutcome::Kept(kept)) => kept.reason(),
            Self::Handled(FeedbackOutcome::BadCredentials) => "bad_credentials",
            Self::Unavailable(cause) => cause.reason(),
        }
    }
}

/// Counts the records of the stream that were put into the queue.
pub fn report_stream(telemetry: Telemetry, records: usize) {
    telemetry.count(FeedbackCounter::Stream, records as u64);
}

/// Counts and logs the result of one message.
///
/// # Errors
/// The message must be received again.
pub fn report(
    telemetry: Telemetry,
    message_id: &str,
    message: &FeedbackMessage,
    result: &PortResult<FeedbackOutcome>,
) -> Result<(), Retry> {
    let counter = FeedbackCounter::of(result);
    telemetry.count(counter, 1);
    let (outcome, reason) = (counter.outcome(), counter.reason());
    if let Err(error) = result {
        tracing::warn!(
            stage = "feedback",
            message_id,
            outcome,
            reason,
            dependency = error.dependency,
            "feedback retries: {error}"
        );
        return Err(Retry {
            after: error.retry_after(),
        });
    }
    let endpoint = endpoint(message);
    tracing::info!(
        stage = "feedback",
        message_id,
        endpoint,
        outcome,
        reason,
        "feedback {outcome} endpoint {endpoint}: {reason}"
    );
    Ok(())
}

/// The ARN of the endpoint. It does not contain the token, so it may be logged.
fn endpoint(message: &FeedbackMessage) -> &str {
    match message {
        FeedbackMessage::Retired(retired) => {
            let arn = retired.registration.endpoint_arn.as_deref();
            arn.unwrap_or_default()
        }
        FeedbackMessage::Endpoint(event) => &event.endpoint_arn,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nostr_push_core::ports::Unavailable;

    use super::*;

    fn counter(result: &PortResult<FeedbackOutcome>) -> String {
        let counter = FeedbackCounter::of(result);
        format!("{}.{}", counter.outcome(), counter.reason())
    }

    #[test]
    fn counts_each_result_under_its_outcome_and_reason() {
        assert_eq!(counter(&Ok(FeedbackOutcome::Removed)), "accepted.removed");
        let kept = FeedbackOutcome::Kept(KeptReason::InForce);
        assert_eq!(counter(&Ok(kept)), "dropped.in_force");
        assert_eq!(
            counter(&Ok(FeedbackOutcome::BadCredentials)),
            "failed.bad_credentials"
        );
        for (cause, expected) in [
            (FailureCause::Failed, "retried.unavailable"),
            (FailureCause::Throttled, "retried.throttled"),
            (FailureCause::NotAllowed, "retried.not_allowed"),
            (FailureCause::Contention, "retried.contention"),
        ] {
            let failure = Unavailable::caused(cause, "dynamodb", "an error");
            assert_eq!(counter(&Err(failure)), expected);
        }
        let stream = FeedbackCounter::Stream;
        assert_eq!((stream.outcome(), stream.reason()), ("accepted", "stream"));
    }

    #[test]
    fn all_counters_have_different_names() {
        let all = FeedbackCounter::all();
        let names: BTreeSet<_> = all.iter().map(|c| (c.outcome(), c.reason())).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(all.len(), KeptReason::VARIANTS.len() + 7);
    }
}
