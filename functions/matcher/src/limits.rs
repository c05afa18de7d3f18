//! The bounds of one invocation for one event. What is left is queued again.

use nostr_push_core::Millis;

/// How far one invocation reads for one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most recipients.
    pub recipients: usize,
    /// The most index rows. An event of an owners' relay can hit many rows and have few recipients.
    /// A filter that is too large for the index counts as one row more per started 4 KiB.
    pub rows: usize,
    /// The most queries: pages of the index, and reads of filters that are too large for it and of
    /// their owners' rosters. An event can hit 2,000 keys that have no rows any more.
    pub queries: usize,
    /// The longest time from the start of the event's fan-out. It is far below the function's
    /// timeout, because the deliveries are sent after it.
    pub time: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            recipients: 1_000,
            rows: 20_000,
            queries: 500,
            time: Millis(8_000),
        }
    }
}

/// The most rows of others under one mention (`#p:<pubkey>`) that are read. The rows of the person
/// mentioned come first.
pub const MAX_ROWS_OF_OTHERS: usize = 1_000;

/// The most filters that are too large for the index and are in memory at the same time. Each has
/// up to 128 KiB.
pub const MAX_LARGE_FILTERS: usize = 8;

/// The most filters of newcomers that are too large for the index and are read for one event in one
/// invocation. The others are left out.
pub const MAX_LARGE_FILTERS_OF_NEWCOMERS: usize = 8;

/// The recipients, or owners of large filters, whose rosters are read in one request.
pub const RECIPIENTS_PER_READ: usize = 100;

/// The deliveries that are in memory at the same time, for one event.
pub const DELIVERIES_PER_SEND: usize = 50;
