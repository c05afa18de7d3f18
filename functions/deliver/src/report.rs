//! Turns the outcome of a message into counters and log lines.

use nostr_push_aws::{batch::Retry, telemetry::Telemetry};
use nostr_push_core::{
    Millis,
    app::Platform,
    counter::Counter,
    message::DeliveryMessage,
    ports::{PortResult, PublishOutcome, RejectReason, RetryReason},
};
use strum::VariantArray;

use crate::outcome::{DeliveryDropReason, DeliveryOutcome, DeliveryRetryReason, DeviceOutcome};

/// Everything that the stage counts. Each event that the matcher queued is completed or dropped
/// once. Summaries are counted apart, because the matcher did not queue them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliverCounter {
    /// An event was tried on every device, and nothing is left to retry.
    Completed,
    /// An event was dropped.
    Dropped(DeliveryDropReason),
    /// A summary was tried on every device, and nothing is left to retry.
    SummaryCompleted,
    /// A summary was dropped.
    SummaryDropped(DeliveryDropReason),
    /// A message waits, because the recipient's app looks open.
    Waiting,
    /// A message must be received again.
    Retried(DeliveryRetryReason),
    /// SNS accepted a push.
    Delivered(Platform),
    /// An endpoint is disabled or does not exist.
    Gone(Platform),
    /// A push failed temporarily.
    Failed(RetryReason),
    /// SNS will never accept the push.
    Rejected(RejectReason),
    /// A shared budget refused the request for a profile.
    ProfilesRefused,
}

impl DeliverCounter {
    /// All counters, each name once. The failures of a dependency have the names of those of SNS.
    pub fn all() -> Vec<Self> {
        let drops = DeliveryDropReason::VARIANTS.iter().copied();
        let summary_drops = drops.clone().filter(|reason| reason.applies_to_summaries());
        let retries = RetryReason::VARIANTS.iter().copied();
        let platforms = Platform::VARIANTS.iter().copied();
        let rejects = RejectReason::VARIANTS.iter().copied();
        let mut all = vec![
            Self::Completed,
            Self::SummaryCompleted,
            Self::Waiting,
            Self::Retried(DeliveryRetryReason::Claimed),
            Self::ProfilesRefused,
        ];
        all.extend(drops.map(Self::Dropped));
        all.extend(summary_drops.map(Self::SummaryDropped));
        all.extend(
            retries
                .clone()
                .map(DeliveryRetryReason::Publish)
                .map(Self::Retried),
        );
        all.extend(platforms.clone().map(Self::Delivered));
        all.extend(platforms.map(Self::Gone));
        all.extend(retries.map(Self::Failed));
        all.extend(rejects.map(Self::Rejected));
        all
    }

    /// The counter of the result of a message, if the message is an event.
    fn of_result(result: &PortResult<DeliveryOutcome>) -> Self {
        match result {
            Ok(DeliveryOutcome::Completed(_)) => Self::Completed,
            Ok(DeliveryOutcome::Dropped(reason)) => Self::Dropped(*reason),
            Ok(DeliveryOutcome::Waiting(_)) => Self::Waiting,
            Ok(DeliveryOutcome::Retry { reason, .. }) => Self::Retried(*reason),
            Err(error) => Self::Retried(DeliveryRetryReason::Dependency(error.cause)),
        }
    }

    /// The same counter for this message: summaries have counters of their own.
    fn for_message(self, message: &DeliveryMessage) -> Self {
        match (message, self) {
            (DeliveryMessage::Summary(_), Self::Completed) => Self::SummaryCompleted,
            (DeliveryMessage::Summary(_), Self::Dropped(reason)) => Self::SummaryDropped(reason),
            (_, counter) => counter,
        }
    }

    /// The counter of the outcome of one device.
    fn of_device(device: &DeviceOutcome) -> Self {
        match &device.outcome {
            PublishOutcome::Delivered => Self::Delivered(device.platform),
            PublishOutcome::Gone => Self::Gone(device.platform),
            PublishOutcome::Retry { reason, .. } => Self::Failed(*reason),
            PublishOutcome::Rejected { reason, .. } => Self::Rejected(*reason),
        }
    }
}

impl Counter for DeliverCounter {
    fn outcome(self) -> &'static str {
        match self {
            Self::Completed => "accepted",
            Self::Dropped(_) => "dropped",
            Self::SummaryCompleted | Self::SummaryDropped(_) => "summary",
            Self::Waiting => "waiting",
            Self::Retried(_) => "retried",
            Self::Delivered(_) => "delivered",
            Self::Gone(_) => "gone",
            Self::Failed(_) => "failed",
            Self::Rejected(_) => "rejected",
            Self::ProfilesRefused => "profile",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Completed | Self::SummaryCompleted => "completed",
            Self::Dropped(reason) | Self::SummaryDropped(reason) => reason.reason(),
            Self::Waiting => "app_open",
            Self::Retried(reason) => reason.reason(),
            Self::Delivered(platform) | Self::Gone(platform) => platform.as_str(),
            Self::Failed(reason) => reason.reason(),
            Self::Rejected(reason) => reason.reason(),
            Self::ProfilesRefused => "over_budget",
        }
    }
}

/// Counts and logs the result of one message.
///
/// # Errors
/// The message must be received again.
pub fn report(
    telemetry: Telemetry,
    message: &DeliveryMessage,
    result: &PortResult<DeliveryOutcome>,
    now: Millis,
) -> Result<(), Retry> {
    let counter = DeliverCounter::of_result(result);
    telemetry.count(counter.for_message(message), 1);
    let (event_id, owner) = (message.id(), message.owner());
    let recipient = &owner.pubkey.to_hex()[..8];
    if let Err(error) = result {
        tracing::warn!(
            stage = "deliver",
            event_id,
            recipient,
            dependency = error.dependency,
            "deliver failed on event {event_id}: {error}"
        );
    }
    let devices = devices(result);
    for device in devices {
        report_device(telemetry, message, device, now);
    }
    let (outcome, reason) = (counter.outcome(), counter.reason());
    tracing::info!(
        stage = "deliver",
        event_id,
        recipient,
        app = owner.app,
        outcome,
        reason,
        devices = devices.len(),
        latency_ms = (now - message.received_at()).0,
        "deliver {outcome} event {event_id} for {recipient}: {reason}"
    );
    batch_result(result)
}

/// The devices on which the push was tried.
fn devices(result: &PortResult<DeliveryOutcome>) -> &[DeviceOutcome] {
    match result {
        Ok(DeliveryOutcome::Completed(devices) | DeliveryOutcome::Retry { devices, .. }) => devices,
        Ok(DeliveryOutcome::Dropped(_) | DeliveryOutcome::Waiting(_)) | Err(_) => &[],
    }
}

fn batch_result(result: &PortResult<DeliveryOutcome>) -> Result<(), Retry> {
    match result {
        Ok(DeliveryOutcome::Retry { after, .. }) => Err(Retry { after: *after }),
        Ok(_) => Ok(()),
        Err(error) => Err(Retry {
            after: error.retry_after(),
        }),
    }
}

/// Counts the outcome of one device, and logs it unless the push was delivered.
fn report_device(
    telemetry: Telemetry,
    message: &DeliveryMessage,
    device: &DeviceOutcome,
    now: Millis,
) {
    let counter = DeliverCounter::of_device(device);
    telemetry.count(counter, 1);
    if device.outcome != PublishOutcome::Gone {
        telemetry.push(device.outcome != PublishOutcome::Delivered);
    }
    let (outcome, platform) = (counter.outcome(), device.platform.as_str());
    match &device.outcome {
        PublishOutcome::Delivered => {
            if let DeliveryMessage::Event(delivery) = message
                && !delivery.waited
            {
                telemetry.latency(delivery.received_at, now);
            }
        }
        PublishOutcome::Retry { reason, .. } => {
            let reason = reason.reason();
            tracing::warn!(
                stage = "deliver",
                outcome,
                reason,
                platform,
                event_id = message.id(),
                "a push failed temporarily: {reason}"
            );
        }
        PublishOutcome::Gone => {
            tracing::info!(
                stage = "deliver",
                outcome,
                platform,
                device = device.token_hash.get(..8),
                "deliver removed a device whose endpoint is gone"
            );
        }
        PublishOutcome::Rejected { reason, why } => {
            tracing::error!(
                stage = "deliver",
                outcome,
                reason = reason.reason(),
                platform,
                event_id = message.id(),
                "SNS rejected a push: {why}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use nostr::key::Keys;
    use nostr_push_core::{
        Seconds,
        message::Summary,
        retry::{FailureCause, OPERATOR_RETRY_DELAY, Unavailable},
    };

    use super::*;
    use crate::tests::{delivery, event_message, note};

    fn name(counter: DeliverCounter) -> String {
        format!("{}.{}", counter.outcome(), counter.reason())
    }

    fn summary() -> DeliveryMessage {
        DeliveryMessage::Summary(Summary {
            app: "demo".to_owned(),
            recipient: Keys::generate().public_key(),
            window: Seconds(0),
        })
    }

    #[test]
    fn counts_events_and_summaries_apart() {
        let event = event_message(&delivery(note("")));
        let unavailable = Unavailable::new("dynamodb.claims.acquire", "down");
        let retry = DeliveryOutcome::Retry {
            after: Some(Duration::from_secs(7)),
            reason: DeliveryRetryReason::Publish(RetryReason::NoResponse),
            devices: Vec::new(),
        };
        let dropped = DeliveryOutcome::Dropped(DeliveryDropReason::NoDevice);
        let after = |after| Err(Retry { after });
        for (result, of_event, of_summary, expected) in [
            (
                Ok(DeliveryOutcome::Completed(Vec::new())),
                "accepted.completed",
                "summary.completed",
                Ok(()),
            ),
            (
                Ok(dropped),
                "dropped.no_device",
                "summary.no_device",
                Ok(()),
            ),
            (
                Ok(DeliveryOutcome::Waiting(Duration::from_secs(9))),
                "waiting.app_open",
                "waiting.app_open",
                Ok(()),
            ),
            (
                Ok(retry),
                "retried.no_answer",
                "retried.no_answer",
                after(Some(Duration::from_secs(7))),
            ),
            (
                Err(unavailable),
                "retried.unavailable",
                "retried.unavailable",
                after(None),
            ),
        ] {
            let counter = DeliverCounter::of_result(&result);
            assert_eq!(name(counter.for_message(&event)), of_event);
            assert_eq!(name(counter.for_message(&summary())), of_summary);
            assert_eq!(batch_result(&result), expected);
        }
    }

    #[test]
    fn counts_failed_dependencies_by_cause_and_waits_for_the_operator() {
        for (cause, expected, after) in [
            (FailureCause::Failed, "retried.unavailable", None),
            (FailureCause::Throttled, "retried.throttled", None),
            (
                FailureCause::NotAllowed,
                "retried.not_allowed",
                Some(OPERATOR_RETRY_DELAY),
            ),
        ] {
            let failure = Unavailable::caused(cause, "dynamodb.claims.acquire", "an error");
            let result = Err(failure);
            assert_eq!(name(DeliverCounter::of_result(&result)), expected);
            assert_eq!(batch_result(&result), Err(Retry { after }));
        }
    }

    #[test]
    fn counts_each_outcome_of_a_device() {
        let rejected = PublishOutcome::Rejected {
            reason: RejectReason::InvalidMessage,
            why: String::new(),
        };
        let throttled = PublishOutcome::Retry {
            after: None,
            reason: RetryReason::Throttled,
        };
        for (outcome, expected) in [
            (PublishOutcome::Delivered, "delivered.apns_sandbox"),
            (PublishOutcome::Gone, "gone.apns_sandbox"),
            (throttled, "failed.throttled"),
            (rejected, "rejected.invalid_message"),
        ] {
            let device = DeviceOutcome {
                platform: Platform::ApnsSandbox,
                token_hash: "hash".to_owned(),
                outcome,
            };
            assert_eq!(name(DeliverCounter::of_device(&device)), expected);
        }
    }

    #[test]
    fn lists_every_counter_once() {
        let all = DeliverCounter::all();
        let names: BTreeSet<String> = all.iter().copied().map(name).collect();
        assert_eq!(names.len(), all.len());
    }
}
