//! Which of two control events wins, independent of the order in which they arrive.

use nostr::event::{Event, EventId};
use serde::{Deserialize, Serialize};

use crate::Seconds;

/// The position of a control event among all events for the same thing. The larger `created_at`
/// wins, and on a tie the smaller event id, as for replaceable events in NIP-01
/// (<https://github.com/nostr-protocol/nips/blob/master/01.md>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The event's own `created_at`.
    pub created_at: Seconds,
    /// The event's id, which breaks ties.
    pub event_id: EventId,
}

impl Order {
    /// The order of a control event.
    pub fn of(event: &Event) -> Self {
        Self {
            created_at: event.created_at.into(),
            event_id: event.id,
        }
    }

    /// The order of a row that no event wrote (a derived subscription): a counter instead of a
    /// time.
    pub fn counter(n: u64) -> Self {
        Self {
            created_at: Seconds(n),
            event_id: EventId::from_byte_array([0; 32]),
        }
    }

    /// Returns `true` if this order wins over `other`. An order does not supersede itself.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.created_at > other.created_at
            || (self.created_at == other.created_at && self.event_id < other.event_id)
    }

    /// The winner of the two.
    #[must_use]
    pub fn latest(self, other: Self) -> Self {
        if other.supersedes(&self) { other } else { self }
    }
}
