//! Which of two control events wins, whatever order they arrive in.

use nostr::event::{Event, EventId};
use serde::{Deserialize, Serialize};

use crate::Seconds;

/// The place of a control event among all others for the same thing: the larger `created_at` wins,
/// and on a tie the smaller event id, as NIP-01 has it for replaceable events.
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
            created_at: event.created_at.as_secs(),
            event_id: event.id,
        }
    }

    /// An order for rows that no event wrote (fixed triggers): a counter in place of a time.
    pub fn counter(n: u64) -> Self {
        Self {
            created_at: n,
            event_id: EventId::from_byte_array([0; 32]),
        }
    }

    /// Whether this one wins over `other`. Nothing supersedes itself.
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
