//! Who may cost how much. Keys are free, and hosting is paid by use, so every event that goes on to
//! a queue is paid from a budget:
//!
//! - [`bucket`]: token buckets
//! - [`waiting_room`]: the budgets of control events, in bytes, and the events that wait for theirs
//! - [`release`]: forwards waiting events when it is their turn
//! - [`content`]: the budgets of content events, in index keys that they hit
//! - [`mute_lists`]: the newest mute lists, so that old ones spend no budget

pub mod bucket;
pub mod content;
pub mod mute_lists;
pub mod release;
pub mod waiting_room;

use self::{content::ContentRates, waiting_room::ControlRates};

/// The most live control events of one pubkey per minute, by default.
pub const DEFAULT_CONTROL_EVENTS: u32 = 60;

/// All budgets of a listener task.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// The most live control events of one pubkey per minute.
    pub max_control_events: u32,
    /// Bytes of control events.
    pub control: ControlRates,
    /// Index keys that content events hit.
    pub content: ContentRates,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            max_control_events: DEFAULT_CONTROL_EVENTS,
            control: ControlRates::default(),
            content: ContentRates::default(),
        }
    }
}

impl Budgets {
    /// Budgets that are never used up.
    pub fn unlimited() -> Self {
        Self {
            max_control_events: u32::MAX,
            control: ControlRates::unlimited(),
            content: ContentRates::unlimited(),
        }
    }
}
