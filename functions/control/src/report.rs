//! The counters and the log line of an outcome.

use nostr_push_aws::{batch::Retry, telemetry::Telemetry};
use nostr_push_core::{Millis, counter::Counter, message::ControlInput, retry::FailureCause};
use strum::VariantArray;

use crate::{
    outcome::{Applied, Failure},
    refusal::Refusal,
};

/// Everything that the stage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlCounter {
    /// The event was accepted.
    Accepted(Applied),
    /// The event was refused.
    Refused(Refusal),
    /// The event is for a newer key of the service, and the message is retried.
    UnknownKey,
    /// A dependency failed, and the message is retried.
    Unavailable(FailureCause),
}

impl ControlCounter {
    /// All counters.
    pub fn all() -> Vec<Self> {
        let accepted = Applied::VARIANTS.iter().copied().map(Self::Accepted);
        let refused = Refusal::VARIANTS.iter().copied().map(Self::Refused);
        let causes = FailureCause::VARIANTS.iter().copied();
        accepted
            .chain(refused)
            .chain([Self::UnknownKey])
            .chain(causes.map(Self::Unavailable))
            .collect()
    }

    /// The counter of a result.
    pub fn of(result: &Result<Applied, Failure>) -> Self {
        match result {
            Ok(applied) => Self::Accepted(*applied),
            Err(Failure::Refused(refusal)) => Self::Refused(*refusal),
            Err(Failure::UnknownKey) => Self::UnknownKey,
            Err(Failure::Unavailable(error)) => Self::Unavailable(error.cause),
        }
    }
}

impl Counter for ControlCounter {
    fn outcome(self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Refused(_) => "refused",
            Self::UnknownKey | Self::Unavailable(_) => "retried",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Accepted(applied) => applied.reason(),
            Self::Refused(refusal) => refusal.reason(),
            Self::UnknownKey => "unknown_key",
            Self::Unavailable(cause) => cause.reason(),
        }
    }
}

/// Counts and logs the result of one message.
///
/// # Errors
/// The message must be received again. A refused event is not retried, because it would be refused
/// at every attempt.
pub fn report(
    telemetry: Telemetry,
    input: &ControlInput,
    result: &Result<Applied, Failure>,
    now: Millis,
) -> Result<(), Retry> {
    let counter = ControlCounter::of(result);
    telemetry.count(counter, 1);
    let (outcome, reason) = (counter.outcome(), counter.reason());
    let (event_id, message) = match input {
        ControlInput::Event(message) => (event_id(message.event.get()), Some(message)),
        ControlInput::Reconcile(_) => ("none".to_owned(), None),
    };
    match result {
        Err(Failure::Unavailable(error)) => {
            tracing::warn!(
                stage = "control",
                event_id,
                outcome,
                reason,
                dependency = error.dependency,
                "control retries event {event_id}: {error}"
            );
            return Err(Retry {
                after: error.retry_after(),
            });
        }
        Err(error @ Failure::UnknownKey) => {
            tracing::warn!(
                stage = "control",
                event_id,
                outcome,
                reason,
                "control retries event {event_id}: {error}"
            );
            return Err(Retry::default());
        }
        Ok(_) | Err(Failure::Refused(_)) => {}
    }
    let Some(message) = message else {
        tracing::info!(
            stage = "control",
            outcome,
            reason,
            "control {outcome} a message: {reason}"
        );
        return Ok(());
    };
    telemetry.latency(message.received_at, now);
    tracing::info!(
        stage = "control",
        event_id,
        outcome,
        reason,
        relay = message.relay,
        latency_ms = (now - message.received_at).0,
        "control {outcome} event {event_id}: {reason}"
    );
    Ok(())
}

/// The id in the event's JSON, for the log. The event may be malformed.
fn event_id(json: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Id {
        id: String,
    }
    serde_json::from_str::<Id>(json).map_or_else(
        |_| "unreadable".to_owned(),
        |id| id.id.chars().take(64).collect(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nostr_push_core::ports::Unavailable;

    use super::*;

    fn counter(result: &Result<Applied, Failure>) -> String {
        let counter = ControlCounter::of(result);
        format!("{}.{}", counter.outcome(), counter.reason())
    }

    #[test]
    fn counts_each_result_under_its_outcome_and_reason() {
        assert_eq!(counter(&Ok(Applied::Registered)), "accepted.registered");
        let refused = Failure::Refused(Refusal::Stale);
        assert_eq!(counter(&Err(refused)), "refused.stale");
        let unknown_key = counter(&Err(Failure::UnknownKey));
        assert_eq!(unknown_key, "retried.unknown_key");
        for (cause, expected) in [
            (FailureCause::Failed, "retried.unavailable"),
            (FailureCause::Throttled, "retried.throttled"),
            (FailureCause::NotAllowed, "retried.not_allowed"),
            (FailureCause::Contention, "retried.contention"),
        ] {
            let failure = Unavailable::caused(cause, "dynamodb", "an error");
            assert_eq!(counter(&Err(failure.into())), expected);
        }
    }

    #[test]
    fn all_counters_have_different_names() {
        let all = ControlCounter::all();
        let names: BTreeSet<_> = all.iter().map(|c| (c.outcome(), c.reason())).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn reads_event_id_of_any_json() {
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(100));
        assert_eq!(event_id(r#"{"id":"ab","kind":[]}"#), "ab");
        assert_eq!(event_id(&long), "x".repeat(64));
        assert_eq!(event_id("[]"), "unreadable");
    }
}
