//! REQs (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>), and how far back each
//! of their filters asks.

use std::fmt::Write as _;

use nostr_push_core::{MAX_PRIVATE_AGE, MAX_PUBLIC_AGE, MUTE_LIST_KIND, Seconds, hex};
use serde_json::json;

use crate::gate::CONTROL_KINDS;

/// The most bytes that [`ReqFilter::encode`] adds to the body of a filter: the comma before the
/// filter, `since`, `until` and `limit` with twenty digits each, and the closing brace.
pub const MAX_RANGE_BYTES: usize = 96;

/// The most bytes of a REQ around its filters: the verb, the longest subscription id and the
/// brackets.
pub const MAX_ENVELOPE_BYTES: usize = 64;

/// The most values per filter. NIP-11 has no field for this limit. `@nostr-relay/validator` refuses
/// more than 256 by default.
pub const MAX_VALUES_PER_FILTER: usize = 250;

/// How far back control events are requested. Control refuses older ones as stale.
pub const MAX_CONTROL_AGE: Seconds = Seconds(Seconds::from_days(7).0 + Seconds::from_minutes(15).0);

/// How long before an interruption the control events that were missed may have been signed. The
/// daily sweep finds those that were signed earlier.
const CONTROL_OVERLAP: Seconds = Seconds::from_minutes(5);

/// How long before an interruption the mute lists that were missed may have been signed.
const MUTE_LIST_OVERLAP: Seconds = Seconds::from_days(1);

/// How far back the events of a new REQ are requested. The clocks of relays differ, and events take
/// time to arrive.
pub const NEW_REQ_OVERLAP: Seconds = Seconds(60);

/// How far the clocks of relays may differ.
const CLOCK_SKEW: Seconds = Seconds(60);

/// The events of one filter, by how old they may be when a relay sends them. `since` applies to
/// live events too, so a REQ must ask for everything that may still arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventClass {
    /// Control events, which may be published up to a week after they were signed.
    Control,
    /// Events that notify for an hour after they were signed.
    Public,
    /// Events of private kinds, which may be backdated by two days.
    Private,
    /// Mute lists, which are valid at any age.
    MuteList,
}

impl EventClass {
    /// The age at which a live event is no longer of use.
    fn max_age(self) -> Seconds {
        match self {
            Self::Control | Self::MuteList => MAX_CONTROL_AGE,
            Self::Public => MAX_PUBLIC_AGE,
            Self::Private => MAX_PRIVATE_AGE,
        }
    }

    /// The `since` of a REQ that is sent at `now`.
    pub fn live_since(self, now: Seconds) -> Seconds {
        now - self.max_age() - CLOCK_SKEW
    }

    /// The `since` of the stored events that may have reached the relay after `missed`.
    pub fn stored_since(self, missed: Missed, now: Seconds) -> Seconds {
        match (missed, self) {
            (Missed::NewKeys(from), Self::MuteList) => from,
            (Missed::NewKeys(from), _) => from.max(self.live_since(now)),
            (Missed::Events(from), Self::Control) => {
                (from - CONTROL_OVERLAP).max(self.live_since(now))
            }
            (Missed::Events(from), Self::MuteList) => from - MUTE_LIST_OVERLAP,
            // Everything that may still notify, whenever it was signed.
            (Missed::Events(_), Self::Public | Self::Private) => self.live_since(now),
        }
    }
}

/// The stored events that a REQ has not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// The keys are new: the events that were signed since this time. Older ones, such as backdated
    /// wraps, are older than the subscription and would not notify.
    NewKeys(Seconds),
    /// The REQ was interrupted: the events that reached the relay since this time, whenever they
    /// were signed.
    Events(Seconds),
}

impl Missed {
    /// What has been missed when a REQ is sent at `now` that was needed at `needed_at`. After more
    /// than a minute, events have reached the relay that were signed earlier.
    #[must_use]
    pub fn after_waiting(self, needed_at: Seconds, now: Seconds) -> Self {
        if needed_at + NEW_REQ_OVERLAP < now {
            self.or(Self::Events(needed_at - NEW_REQ_OVERLAP))
        } else {
            self
        }
    }

    /// Everything that either has missed.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::NewKeys(one), Self::NewKeys(two)) => Self::NewKeys(one.min(two)),
            (Self::NewKeys(one) | Self::Events(one), Self::NewKeys(two) | Self::Events(two)) => {
                Self::Events(one.min(two))
            }
        }
    }
}

/// One REQ without `since`, `until` and `limit`.
#[derive(Debug, PartialEq, Eq)]
pub struct Req {
    /// The filters, which fit into one message together.
    pub filters: Vec<ReqFilter>,
    /// Which events the filters request.
    pub coverage: Coverage,
}

/// Which events a REQ requests, in a form that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The numbers of the index keys ([`Interest::key_id`]), sorted. `None` means all events of the
    /// kinds.
    ///
    /// [`Interest::key_id`]: nostr_push_core::interest::Interest::key_id
    pub keys: Option<Box<[u64]>>,
    /// The kinds, sorted. `None` means every kind.
    pub kinds: Option<Box<[u16]>>,
}

impl Coverage {
    /// Returns `true` if the two have an index key in common.
    pub fn shares_keys(&self, other: &Self) -> bool {
        let (Some(one), Some(two)) = (&self.keys, &other.keys) else {
            return true;
        };
        let (few, many) = if one.len() < two.len() {
            (one, two)
        } else {
            (two, one)
        };
        few.iter().any(|key| many.binary_search(key).is_ok())
    }

    /// Returns `true` if each key is in one of the others, with all kinds.
    pub fn is_within(&self, others: &[&Self]) -> bool {
        let mut others = others.iter().filter(|other| other.has_kinds_of(self));
        match &self.keys {
            None => others.any(|other| other.keys.is_none()),
            Some(keys) => {
                let others: Vec<_> = others.collect();
                let is_in = |other: &Self, key| {
                    let keys = other.keys.as_ref();
                    keys.is_none_or(|keys| keys.binary_search(key).is_ok())
                };
                keys.iter()
                    .all(|key| others.iter().any(|other| is_in(other, key)))
            }
        }
    }

    fn has_kinds_of(&self, other: &Self) -> bool {
        match (&self.kinds, &other.kinds) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(all), Some(some)) => some.iter().all(|kind| all.binary_search(kind).is_ok()),
        }
    }
}

/// One filter of a REQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReqFilter {
    /// The filter's JSON up to its closing brace.
    pub body: Box<str>,
    /// The events that it requests.
    pub class: EventClass,
}

impl ReqFilter {
    /// The whole filter.
    pub fn encode(&self, since: Option<Seconds>, until: Option<Seconds>, limit: usize) -> String {
        let mut filter = String::with_capacity(self.body.len() + MAX_RANGE_BYTES);
        filter.push_str(&self.body);
        if filter.len() > 1 {
            filter.push(',');
        }
        for (field, time) in [("since", since), ("until", until)] {
            if let Some(time) = time {
                // Writing to a string cannot fail.
                let _ = write!(filter, "\"{field}\":{time},");
            }
        }
        let _ = write!(filter, "\"limit\":{limit}}}");
        filter
    }
}

impl Req {
    /// The REQ for control events that are addressed to one of these pubkeys of the service.
    pub fn control(service: &[&str]) -> Self {
        let filter = json!({"kinds": CONTROL_KINDS, "#p": service});
        Self {
            filters: vec![ReqFilter {
                body: open_body(&filter.to_string()),
                class: EventClass::Control,
            }],
            coverage: Coverage {
                keys: Some(Box::default()),
                kinds: Some(CONTROL_KINDS.into()),
            },
        }
    }

    /// The REQ for the stored mute lists of these pubkeys, in filters of at most `message_bytes`.
    pub fn mute_lists(authors: &[[u8; 32]], message_bytes: usize) -> Self {
        /// 64 hex characters, two quotes and a comma.
        const AUTHOR_BYTES: usize = 67;
        /// The kinds, and the name of the other field.
        const FIELDS_BYTES: usize = 64;

        let fixed = MAX_ENVELOPE_BYTES + MAX_RANGE_BYTES + FIELDS_BYTES;
        let authors_per_filter =
            (message_bytes.saturating_sub(fixed) / AUTHOR_BYTES).clamp(1, MAX_VALUES_PER_FILTER);
        let filter = |authors: &[[u8; 32]]| {
            let authors: Vec<String> = authors.iter().map(|author| hex::encode(author)).collect();
            let filter = json!({"kinds": [MUTE_LIST_KIND], "authors": authors});
            ReqFilter {
                body: open_body(&filter.to_string()),
                class: EventClass::MuteList,
            }
        };
        Self {
            filters: authors.chunks(authors_per_filter).map(filter).collect(),
            coverage: Coverage {
                keys: Some(Box::default()),
                kinds: Some([MUTE_LIST_KIND].into()),
            },
        }
    }

    /// The message that opens the REQ. The `limit` is never 0, because some relays treat that as no
    /// limit. If `without_private` is `true`, filters for private kinds are left out, unless there
    /// are no others.
    pub fn message(&self, id: &str, now: Seconds, without_private: bool) -> String {
        let is_public = |filter: &&ReqFilter| filter.class != EventClass::Private;
        let only_public = without_private && self.filters.iter().any(|filter| is_public(&filter));
        let filters = self.filters.iter();
        let filters = filters
            .filter(|filter| !only_public || is_public(filter))
            .map(|filter| filter.encode(Some(filter.class.live_since(now)), None, 1));
        message(id, filters)
    }

    /// The bytes of all filters.
    pub fn bytes(&self) -> usize {
        self.filters.iter().map(|filter| filter.body.len()).sum()
    }
}

/// A REQ message. The id has no characters that JSON escapes.
pub fn message(id: &str, filters: impl IntoIterator<Item = String>) -> String {
    let mut message = format!("[\"REQ\",\"{id}\"");
    for filter in filters {
        message.push(',');
        message.push_str(&filter);
    }
    message.push(']');
    message
}

/// A JSON object without its closing brace.
fn open_body(object: &str) -> Box<str> {
    object.strip_suffix('}').unwrap_or(object).into()
}
