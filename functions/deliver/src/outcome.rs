//! The outcome of a message and of each device.

use std::time::Duration;

use nostr_push_core::{
    app::Platform,
    ports::{FailureCause, PublishOutcome, RetryReason},
};
use strum::VariantArray;

/// The outcome of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The message was dropped.
    Dropped(DeliveryDropReason),
    /// The recipient's app looks open. A copy of the message is received after this time.
    Waiting(Duration),
    /// The push was tried on these devices, and nothing is left to retry. The claim is completed.
    Completed(Vec<DeviceOutcome>),
    /// The message must be received again.
    Retry {
        /// The shortest time until then. `None` means the usual backoff.
        after: Option<Duration>,
        /// Why.
        reason: DeliveryRetryReason,
        /// The devices on which the push was tried.
        devices: Vec<DeviceOutcome>,
    },
}

impl DeliveryOutcome {
    /// The outcome of a message that was tried on these devices. If several must be retried, the
    /// longest time applies to all.
    pub fn of_devices(devices: Vec<DeviceOutcome>) -> Self {
        let retries = devices.iter().filter_map(|device| match device.outcome {
            PublishOutcome::Retry { after, reason } => Some((after, reason)),
            _ => None,
        });
        match retries.max_by_key(|(after, reason)| (*after, reason.reason())) {
            None => Self::Completed(devices),
            Some((after, reason)) => Self::Retry {
                after,
                reason: DeliveryRetryReason::Publish(reason),
                devices,
            },
        }
    }
}

/// The outcome of a push to one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceOutcome {
    /// The device's platform.
    pub platform: Platform,
    /// The keyed hash of the device's token.
    pub token_hash: String,
    /// The outcome of the publish.
    pub outcome: PublishOutcome,
}

/// Why a message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray)]
pub enum DeliveryDropReason {
    /// The app is not configured.
    UnknownApp,
    /// The event was received so long ago that the claim of an earlier copy may have gone.
    TooOld,
    /// The event has expired (NIP-40).
    Expired,
    /// The recipient has muted the event.
    Muted,
    /// The claim is completed.
    Duplicate,
    /// The app was open after the event arrived, so it has received the event itself.
    AppOpen,
    /// The recipient has no active device.
    NoDevice,
    /// The event mentions more people than any device allows.
    TooManyMentions,
    /// The recipient's minute has reached its limit.
    RateLimited,
}

impl DeliveryDropReason {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownApp => "unknown_app",
            Self::TooOld => "too_old",
            Self::Expired => "expired",
            Self::Muted => "muted",
            Self::Duplicate => "duplicate",
            Self::AppOpen => "app_open",
            Self::NoDevice => "no_device",
            Self::TooManyMentions => "too_many_mentions",
            Self::RateLimited => "rate_limited",
        }
    }

    /// Returns `true` if a summary can be dropped for this reason.
    pub fn applies_to_summaries(self) -> bool {
        match self {
            Self::UnknownApp | Self::TooOld | Self::Duplicate | Self::AppOpen | Self::NoDevice => {
                true
            }
            Self::Expired | Self::Muted | Self::TooManyMentions | Self::RateLimited => false,
        }
    }
}

/// Why a message must be received again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryRetryReason {
    /// Another attempt holds the claim. It may have crashed, so the message is not dropped.
    Claimed,
    /// A dependency failed.
    Dependency(FailureCause),
    /// The push to at least one device failed temporarily.
    Publish(RetryReason),
}

impl DeliveryRetryReason {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Dependency(cause) => cause.reason(),
            Self::Publish(reason) => reason.reason(),
        }
    }
}
