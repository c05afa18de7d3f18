//! Turns the outcome of a message into counters and a log line.

use nostr_push_aws::{batch::Retry, telemetry::Telemetry};
use nostr_push_core::{
    Millis, counter::Counter, message::ContentMessage, ports::PortResult, retry::FailureCause,
};
use strum::VariantArray;

use crate::outcome::{MatchDropReason, MatchOutcome};

/// Everything that the stage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatcherCounter {
    /// A delivery was queued.
    Matched,
    /// The rest of a fan-out was queued again.
    Requeued,
    /// A mute list was stored.
    MuteList,
    /// A matching subscription was left out because it belongs to the event's author.
    OwnEvent,
    /// A matching subscription was left out because it is newer than the backfilled event.
    BeforeSubscription,
    /// A matching subscription was left out because it does not name the owners' relay that sent
    /// the event.
    RelayNotNamed,
    /// The rows of others under a mention were not all read, because there are too many.
    TooManyRows,
    /// A recipient was left out who has no active device.
    NoDevice,
    /// A recipient without a proven device, or a large filter of such an owner, was left out,
    /// because of the limits for newcomers.
    NewcomersOverBudget,
    /// An event was dropped.
    Dropped(MatchDropReason),
    /// A message must be received again, because a dependency failed.
    Unavailable(FailureCause),
}

impl MatcherCounter {
    /// All counters.
    pub fn all() -> Vec<Self> {
        let drops = MatchDropReason::VARIANTS.iter().copied();
        let mut all = vec![
            Self::Matched,
            Self::Requeued,
            Self::MuteList,
            Self::OwnEvent,
            Self::BeforeSubscription,
            Self::RelayNotNamed,
            Self::TooManyRows,
            Self::NoDevice,
            Self::NewcomersOverBudget,
        ];
        all.extend(FailureCause::WITHOUT_CONTENTION.map(Self::Unavailable));
        all.extend(drops.map(Self::Dropped));
        all
    }

    /// The counters of an outcome, with the number to add to each.
    fn of_outcome(outcome: &MatchOutcome) -> Vec<(Self, u64)> {
        let mut counters = vec![
            (Self::Matched, outcome.recipients),
            (Self::Requeued, u64::from(outcome.requeued)),
            (Self::MuteList, u64::from(outcome.is_mute_list)),
            (Self::OwnEvent, outcome.own_events),
            (
                Self::BeforeSubscription,
                outcome.before_subscription_matches,
            ),
            (Self::RelayNotNamed, outcome.relay_not_named_matches),
            (Self::TooManyRows, outcome.too_many_rows),
            (Self::NoDevice, outcome.no_device),
            (Self::NewcomersOverBudget, outcome.newcomers_over_budget),
        ];
        counters.extend(outcome.dropped.map(|reason| (Self::Dropped(reason), 1)));
        counters
    }
}

impl Counter for MatcherCounter {
    fn outcome(self) -> &'static str {
        match self {
            Self::Matched | Self::Requeued | Self::MuteList => "accepted",
            Self::OwnEvent
            | Self::BeforeSubscription
            | Self::RelayNotNamed
            | Self::TooManyRows
            | Self::NoDevice
            | Self::NewcomersOverBudget
            | Self::Dropped(_) => "dropped",
            Self::Unavailable(_) => "retried",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::Requeued => "requeued",
            Self::MuteList => "mute_list",
            Self::OwnEvent => "own_event",
            Self::BeforeSubscription => "before_subscription",
            Self::RelayNotNamed => "relay_not_named",
            Self::TooManyRows => "too_many_rows",
            Self::NoDevice => "no_device",
            Self::NewcomersOverBudget => "newcomers_over_budget",
            Self::Dropped(reason) => reason.reason(),
            Self::Unavailable(cause) => cause.reason(),
        }
    }
}

/// Counts and logs the result of one message.
///
/// # Errors
/// The message must be received again.
pub fn report(
    telemetry: Telemetry,
    content: &ContentMessage,
    result: &PortResult<MatchOutcome>,
    now: Millis,
) -> Result<(), Retry> {
    let (event_id, kind) = (content.event.id.to_hex(), content.event.kind.as_u16());
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => {
            let counter = MatcherCounter::Unavailable(error.cause);
            telemetry.count(counter, 1);
            tracing::warn!(
                stage = "matcher",
                event_id,
                kind,
                outcome = counter.outcome(),
                reason = counter.reason(),
                dependency = error.dependency,
                "matcher retries event {event_id}: {error}"
            );
            return Err(Retry {
                after: error.retry_after(),
            });
        }
    };
    for (counter, n) in MatcherCounter::of_outcome(outcome) {
        telemetry.count(counter, n);
    }
    telemetry.latency(content.received_at, now);
    let counter = outcome
        .dropped
        .map_or(MatcherCounter::Matched, MatcherCounter::Dropped);
    let outcome_name = counter.outcome();
    tracing::info!(
        stage = "matcher",
        event_id,
        kind,
        outcome = outcome_name,
        reason = counter.reason(),
        relay = content.relay,
        recipients = outcome.recipients,
        requeued = outcome.requeued,
        latency_ms = (now - content.received_at).0,
        "matcher {outcome_name} event {event_id}: {} recipients",
        outcome.recipients
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(outcome: &MatchOutcome) -> Vec<(String, u64)> {
        MatcherCounter::of_outcome(outcome)
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(counter, n)| (name(counter), n))
            .collect()
    }

    fn name(counter: MatcherCounter) -> String {
        format!("{}.{}", counter.outcome(), counter.reason())
    }

    #[test]
    fn counts_deliveries_and_matches_left_out() {
        let outcome = MatchOutcome {
            recipients: 1_000,
            requeued: true,
            dropped: None,
            is_mute_list: true,
            own_events: 2,
            before_subscription_matches: 3,
            relay_not_named_matches: 4,
            too_many_rows: 5,
            no_device: 6,
            newcomers_over_budget: 7,
        };
        let expected = [
            ("accepted.matched", 1_000),
            ("accepted.requeued", 1),
            ("accepted.mute_list", 1),
            ("dropped.own_event", 2),
            ("dropped.before_subscription", 3),
            ("dropped.relay_not_named", 4),
            ("dropped.too_many_rows", 5),
            ("dropped.no_device", 6),
            ("dropped.newcomers_over_budget", 7),
        ];
        assert_eq!(
            counted(&outcome),
            expected.map(|(name, n)| (name.to_owned(), n))
        );
    }

    #[test]
    fn counts_dropped_events_by_reason() {
        for (reason, expected) in [
            (MatchDropReason::Expired, "dropped.expired"),
            (MatchDropReason::TooOld, "dropped.too_old"),
            (MatchDropReason::FromFuture, "dropped.from_future"),
            (MatchDropReason::NoMatch, "dropped.no_match"),
        ] {
            let outcome = MatchOutcome {
                dropped: Some(reason),
                ..MatchOutcome::default()
            };
            assert_eq!(counted(&outcome), [(expected.to_owned(), 1)]);
        }
    }

    #[test]
    fn lists_every_counter_once() {
        let names: std::collections::BTreeSet<String> =
            MatcherCounter::all().into_iter().map(name).collect();
        assert_eq!(names.len(), MatcherCounter::all().len());
        for name in [
            "dropped.no_match",
            "retried.unavailable",
            "retried.throttled",
            "retried.not_allowed",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }
}
