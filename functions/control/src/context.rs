//! The ports, app and time needed to apply an event.

use nostr_push_core::{Millis, app::App, capacity::Caps};

use crate::budget::SpentBudgets;

/// One receipt of a message.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    /// The current time.
    pub now: Millis,
    /// The number of receipts of this message so far, this one included.
    pub count: u32,
}

impl Receipt {
    /// Returns `true` if the message has been received before. An earlier attempt may then have
    /// crashed after any of its writes.
    pub fn is_repeated(self) -> bool {
        self.count > 1
    }
}

/// What the operator allows the owners in all.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most that the stack may hold. Beyond it new owners are refused.
    pub caps: Caps,
    /// The most write units of all newcomers together per day.
    pub newcomer_write_units: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            caps: Caps {
                owners: 100_000,
                index_keys: 1_000_000,
                index_rows: 2_000_000,
            },
            // About 0.50 $.
            newcomer_write_units: 800_000,
        }
    }
}

/// The ports, the app of the event's owner, and the time.
pub struct EventContext<'a, S, E> {
    /// The tables.
    pub store: &'a S,
    /// SNS.
    pub sns: &'a E,
    /// The app.
    pub app: &'a App,
    /// What the operator allows.
    pub limits: &'a Limits,
    /// The shared budgets that have nothing left today.
    pub spent: &'a SpentBudgets,
    /// The current time.
    pub now: Millis,
    /// See [`Receipt::is_repeated`].
    pub is_repeated: bool,
}
