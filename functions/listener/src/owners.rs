//! The owners that have come, whose mute lists every relay is to be asked for once: such a list may
//! be years old.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// How many are remembered for relays that are just not connected.
const CAPACITY: usize = 100_000;

/// Owners in the order in which they came.
#[derive(Debug, Default)]
pub struct NewOwners(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    /// How many came before the first that is remembered.
    forgotten: usize,
    owners: VecDeque<[u8; 32]>,
}

impl NewOwners {
    /// One more.
    pub fn add(&self, owner: [u8; 32]) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.owners.push_back(owner);
        if log.owners.len() > CAPACITY {
            log.owners.pop_front();
            log.forgotten += 1;
        }
    }

    /// Those that came after so many, and how many have come in all.
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
    fn each_is_told_once_to_whoever_remembers_how_far_it_is() {
        let owners = NewOwners::default();
        assert_eq!(owners.after(0), (Vec::new(), 0));
        owners.add([1; 32]);
        owners.add([2; 32]);
        assert_eq!(owners.after(0), (vec![[1; 32], [2; 32]], 2));
        assert_eq!(owners.after(1), (vec![[2; 32]], 2));
        for _ in 0..CAPACITY {
            owners.add([3; 32]);
        }
        assert_eq!(owners.after(2).0.len(), CAPACITY);
        assert_eq!(
            owners.after(0).0.len(),
            CAPACITY,
            "the first two are forgotten"
        );
        assert_eq!(owners.after(CAPACITY + 2), (Vec::new(), CAPACITY + 2));
    }
}
