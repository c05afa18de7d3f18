//! The outcome of a message.

use strum::VariantArray;

/// The outcome of one message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MatchOutcome {
    /// The number of deliveries that were queued.
    pub recipients: u64,
    /// `true` if the rest of the fan-out was queued again.
    pub requeued: bool,
    /// Why the event was dropped, if it was.
    pub dropped: Option<MatchDropReason>,
    /// `true` if the event is a mute list, which is stored for deliver.
    pub is_mute_list: bool,
    /// The number of matching subscriptions that belong to the event's author.
    pub own_events: u64,
    /// The number of matching subscriptions that are newer than the backfilled event.
    pub before_subscription_matches: u64,
    /// The number of matching subscriptions that do not name the owners' relay that sent the event.
    pub relay_not_named_matches: u64,
    /// The number of mentions (`#p` keys) under which not all rows of others were read.
    pub too_many_rows: u64,
    /// The number of recipients without an active device.
    pub no_device: u64,
    /// The number of recipients without a proven device who have had enough deliveries today, or
    /// all such recipients together have. And the number of such owners' large filters that were
    /// not read.
    pub newcomers_over_budget: u64,
}

/// Why an event was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray)]
pub enum MatchDropReason {
    /// The event has expired (NIP-40).
    Expired,
    /// The event is too old to notify anyone.
    TooOld,
    /// The event is dated too far ahead. Its claim could end before the event is too old.
    FromFuture,
    /// The event matches no subscription.
    NoMatch,
}

impl MatchDropReason {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::TooOld => "too_old",
            Self::FromFuture => "from_future",
            Self::NoMatch => "no_match",
        }
    }
}
