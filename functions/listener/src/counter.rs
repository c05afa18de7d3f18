//! What the listener counts. `docs/local.md` explains each counter.

use std::sync::Arc;

use nostr_push_core::counter::Counter;
use strum::VariantArray;

/// Adds a number to a counter.
pub type Count = Arc<dyn Fn(ListenerCounter, u64) + Send + Sync>;

/// A counter of the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenerCounter {
    /// A queue accepted a message.
    Forwarded(MessageKind),
    /// An event or a frame of a relay was dropped.
    Dropped(DropReason),
    /// Something happened to a connection.
    Relay(RelayReason),
    /// Something happened to a profile that deliver asked for.
    Profile(ProfileReason),
}

/// The kind of a forwarded message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray)]
pub enum MessageKind {
    /// A control event, for the control queue.
    Control,
    /// Any other event, for the event queue.
    Content,
}

/// Why an event or a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray)]
pub enum DropReason {
    /// The event hits no index key in use.
    NoInterest,
    /// The event hits index keys, but it no longer notifies because of its age.
    TooOld,
    /// The event has already been forwarded, or a newer mute list of its author.
    Duplicate,
    /// The pubkey has sent too many control events in a minute.
    RateLimited,
    /// The app does not admit the pubkey, or the operator has blocked it.
    NotAdmitted,
    /// Too many bytes of control events, or too many content events.
    OverBudget,
    /// The id or the signature is wrong.
    BadSignature,
    /// The JSON is not an event.
    Malformed,
    /// The event has too many bytes or tags.
    TooLarge,
    /// The message is not a relay message of NIP-01
    /// (<https://github.com/nostr-protocol/nips/blob/master/01.md>) or NIP-42
    /// (<https://github.com/nostr-protocol/nips/blob/master/42.md>).
    MalformedFrame,
    /// The event came on a subscription that the listener has not opened.
    Unrequested,
}

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray)]
pub enum RelayReason {
    /// The connection was established.
    Connected,
    /// The connection was lost.
    Disconnected,
    /// The attempt to connect failed.
    Unreachable,
    /// The relay of an owner has no public address.
    Forbidden,
    /// The relay was disconnected because it kept misbehaving.
    CutOff,
    /// The relay sent a NOTICE.
    Notice,
    /// The relay sent a CLOSED with the prefix `auth-required`.
    ClosedAuthRequired,
    /// The relay sent a CLOSED with the prefix `rate-limited`.
    ClosedRateLimited,
    /// The relay sent a CLOSED with the prefix `restricted` or `blocked`.
    ClosedRestricted,
    /// The relay sent a CLOSED with the prefix `error`.
    ClosedError,
    /// The relay sent a CLOSED with another prefix or none.
    ClosedOther,
    /// The relay accepted the authentication.
    Authenticated,
    /// The relay refused the authentication.
    AuthRefused,
    /// The relay sent no EOSE in time.
    NoEose,
    /// A second holds more stored events than the relay returns for one REQ.
    PageOverflow,
    /// Pages of stored events are requested more slowly, because there were too many.
    TooManyPages,
    /// A REQ does not fit into a message of the relay. It is not sent.
    ReqTooLarge,
    /// The relay's limits are too low for content events.
    LimitsTooLow,
    /// The relay of an owner has asked for authentication, which it does not get.
    AuthIgnored,
    /// The relay of an owner has sent more events than its budget. It is read more slowly.
    OverBudget,
    /// The connection ended, because the relay returned stored events too slowly.
    TooFarBehind,
}

/// What happened to a profile that deliver asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray)]
pub enum ProfileReason {
    /// It is requested from relays.
    Requested,
    /// A relay has returned it, and it was stored.
    Stored,
    /// A relay has returned one that is not newer than the stored one.
    Outdated,
    /// The relays that answered do not have it.
    NotFound,
    /// No relay answered. It is requested again.
    Unanswered,
    /// The listener may not connect to any relay that could have it.
    NotAllowed,
}

impl ListenerCounter {
    /// All counters of the listener.
    pub fn all() -> Vec<Self> {
        let forwarded = MessageKind::VARIANTS.iter().copied().map(Self::Forwarded);
        let dropped = DropReason::VARIANTS.iter().copied().map(Self::Dropped);
        let relay = RelayReason::VARIANTS.iter().copied().map(Self::Relay);
        let profile = ProfileReason::VARIANTS.iter().copied().map(Self::Profile);
        forwarded
            .chain(dropped)
            .chain(relay)
            .chain(profile)
            .collect()
    }
}

impl Counter for ListenerCounter {
    fn outcome(self) -> &'static str {
        match self {
            Self::Forwarded(_) => "forwarded",
            Self::Dropped(_) => "dropped",
            Self::Relay(_) => "relay",
            Self::Profile(_) => "profile",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Forwarded(kind) => kind.reason(),
            Self::Dropped(reason) => reason.reason(),
            Self::Relay(reason) => reason.reason(),
            Self::Profile(reason) => reason.reason(),
        }
    }
}

impl MessageKind {
    /// The reason in counters.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Content => "content",
        }
    }
}

impl ProfileReason {
    /// The reason in counters.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Stored => "stored",
            Self::Outdated => "outdated",
            Self::NotFound => "not_found",
            Self::Unanswered => "unanswered",
            Self::NotAllowed => "not_allowed",
        }
    }
}

impl DropReason {
    /// Returns `true` if the signature may have been checked before the event was dropped.
    pub fn was_verified(self) -> bool {
        matches!(
            self,
            Self::RateLimited | Self::OverBudget | Self::BadSignature
        )
    }

    /// The reason in counters.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoInterest => "no_interest",
            Self::TooOld => "too_old",
            Self::Duplicate => "duplicate",
            Self::RateLimited => "rate_limited",
            Self::NotAdmitted => "not_admitted",
            Self::OverBudget => "over_budget",
            Self::BadSignature => "bad_signature",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::MalformedFrame => "malformed_frame",
            Self::Unrequested => "unasked",
        }
    }
}

impl RelayReason {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
            Self::CutOff => "cut_off",
            Self::Notice => "notice",
            Self::ClosedAuthRequired => "closed_auth_required",
            Self::ClosedRateLimited => "closed_rate_limited",
            Self::ClosedRestricted => "closed_restricted",
            Self::ClosedError => "closed_error",
            Self::ClosedOther => "closed_other",
            Self::Authenticated => "authenticated",
            Self::AuthRefused => "auth_refused",
            Self::NoEose => "no_eose",
            Self::PageOverflow => "page_overflow",
            Self::TooManyPages => "too_many_pages",
            Self::ReqTooLarge => "req_too_large",
            Self::LimitsTooLow => "limits_too_low",
            Self::AuthIgnored => "auth_ignored",
            Self::OverBudget => "over_budget",
            Self::TooFarBehind => "too_far_behind",
        }
    }

    /// The reason for a CLOSED with this message, by its machine-readable prefix (NIP-01,
    /// <https://github.com/nostr-protocol/nips/blob/master/01.md>).
    pub fn of_closed(message: &str) -> Self {
        match message.split(':').next() {
            Some("auth-required") => Self::ClosedAuthRequired,
            Some("rate-limited") => Self::ClosedRateLimited,
            Some("error") => Self::ClosedError,
            Some("restricted" | "blocked") => Self::ClosedRestricted,
            _ => Self::ClosedOther,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_counter_has_its_own_name() {
        let all = ListenerCounter::all();
        let names: BTreeSet<(&str, &str)> = all
            .iter()
            .map(|counter| (counter.outcome(), counter.reason()))
            .collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn closed_is_counted_by_its_prefix() {
        for (message, reason) in [
            ("auth-required: log in", RelayReason::ClosedAuthRequired),
            ("rate-limited: slow down", RelayReason::ClosedRateLimited),
            ("restricted: members only", RelayReason::ClosedRestricted),
            ("blocked: you", RelayReason::ClosedRestricted),
            ("error: restarting", RelayReason::ClosedError),
            ("no_eose: forged", RelayReason::ClosedOther),
            ("", RelayReason::ClosedOther),
        ] {
            assert_eq!(RelayReason::of_closed(message), reason, "{message}");
        }
    }
}
