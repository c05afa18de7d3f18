//! The new owners, whose mute lists (NIP-51,
//! <https://github.com/nostr-protocol/nips/blob/master/51.md>) are requested once from every relay.
//! A mute list may be years old, so the REQs for recent events do not find it.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// The most owners that are remembered for relays that are not connected at the moment.
const MAX_REMEMBERED_OWNERS: usize = 100_000;

/// New owners, in the order in which they were added. A position is the number of owners that were
/// added before.
#[derive(Debug, Default)]
pub struct MuteListOwners(Mutex<OwnerLog>);

#[derive(Debug, Default)]
struct OwnerLog {
    /// The number of owners that were added before the first one in `owners`.
    forgotten: usize,
    owners: VecDeque<[u8; 32]>,
}

impl MuteListOwners {
    /// Adds the pubkey of an owner.
    pub fn add(&self, owner: [u8; 32]) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.owners.push_back(owner);
        if log.owners.len() > MAX_REMEMBERED_OWNERS {
            log.owners.pop_front();
            log.forgotten += 1;
        }
    }

    /// The owners from this position on, and the position after the last one.
    pub fn after(&self, position: usize) -> (Vec<[u8; 32]>, usize) {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owners = log
            .owners
            .iter()
            .skip(position.saturating_sub(log.forgotten))
            .copied()
            .collect();
        (owners, log.forgotten + log.owners.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_each_owner_once_from_a_position_on() {
        let owners = MuteListOwners::default();
        assert_eq!(owners.after(0), (Vec::new(), 0));
        owners.add([1; 32]);
        owners.add([2; 32]);
        assert_eq!(owners.after(0), (vec![[1; 32], [2; 32]], 2));
        assert_eq!(owners.after(1), (vec![[2; 32]], 2));
        for _ in 0..MAX_REMEMBERED_OWNERS {
            owners.add([3; 32]);
        }
        assert_eq!(owners.after(2).0.len(), MAX_REMEMBERED_OWNERS);
        assert_eq!(
            owners.after(0).0.len(),
            MAX_REMEMBERED_OWNERS,
            "the first two owners are forgotten"
        );
        assert_eq!(
            owners.after(MAX_REMEMBERED_OWNERS + 2),
            (Vec::new(), MAX_REMEMBERED_OWNERS + 2)
        );
    }
}
