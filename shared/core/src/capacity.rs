//! How much the stack may hold. New owners are refused before the listener's memory is full.

use serde::{Deserialize, Serialize};

use crate::Seconds;

/// What the stack holds, as the listener counts it in its interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Owners with an active device.
    pub owners: u64,
    /// Different index keys in use.
    pub index_keys: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Uses of index keys by subscriptions: about the number of index rows.
    pub index_rows: u64,
    /// When it was counted.
    pub counted_at: Seconds,
}

/// The most that the stack may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// See [`Usage::owners`].
    pub owners: u64,
    /// See [`Usage::index_keys`].
    pub index_keys: u64,
    /// See [`Usage::index_rows`].
    pub index_rows: u64,
}

impl Usage {
    /// How full the stack is, in percent of the cap that is nearest.
    pub fn percent(&self, caps: &Caps) -> u64 {
        let percent = |used: u64, cap: u64| used.saturating_mul(100) / cap.max(1);
        percent(self.owners, caps.owners)
            .max(percent(self.index_keys, caps.index_keys))
            .max(percent(self.index_rows, caps.index_rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_cap_decides() {
        let caps = Caps {
            owners: 100,
            index_keys: 1_000,
            index_rows: 2_000,
        };
        let usage = Usage {
            owners: 10,
            index_keys: 990,
            index_rows: 1_000,
            ..Usage::default()
        };
        assert_eq!(usage.percent(&caps), 99);
    }
}
