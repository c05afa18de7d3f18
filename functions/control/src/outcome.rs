//! The outcome of one control event.

use nostr_push_core::ports::Unavailable;

use crate::refusal::Refusal;

/// The effect of an accepted control event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray)]
pub enum Applied {
    /// A device was registered.
    Registered,
    /// A device was removed, or its removal was recorded.
    Removed,
    /// All devices of the owner under the app were removed.
    RemovedAll,
    /// Filters were stored.
    Subscribed,
    /// Filters were deleted.
    Unsubscribed,
    /// The owner's settings were replaced (dialect H).
    Configured,
    /// The owner logged out (dialect H).
    LoggedOut,
    /// A heartbeat was stored.
    Heartbeat,
    /// A heartbeat was not stored, because the stored one is recent enough.
    HeartbeatUnwritten,
    /// The app reported that it goes to the background.
    Offline,
    /// An owner's subscriptions were reconciled with the owner's devices, as another stage asked.
    Reconciled,
    /// The same event had already been applied.
    Repeated,
    /// A newer event had already been applied.
    Superseded,
}

impl Applied {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Removed => "removed",
            Self::RemovedAll => "removed_all",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::Configured => "configured",
            Self::LoggedOut => "logged_out",
            Self::Heartbeat => "heartbeat",
            Self::HeartbeatUnwritten => "heartbeat_unwritten",
            Self::Offline => "offline",
            Self::Reconciled => "reconciled",
            Self::Repeated => "repeated",
            Self::Superseded => "superseded",
        }
    }

    /// Returns `other` if this part of an event was superseded, else `self`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::Superseded => other,
            applied => applied,
        }
    }
}

/// Why a control event was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The event is refused and dropped.
    #[error("refused: {}", .0.reason())]
    Refused(Refusal),
    /// The event is for a pubkey that this version of the keys does not contain. The listener
    /// forwards only what is for the service, so it knows a newer version. The event is received
    /// again.
    #[error("the event is for a key of the service that this function does not know")]
    UnknownKey,
    /// A dependency failed. The event is received again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
