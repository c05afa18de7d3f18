//! How many control events each registrant has sent in a minute: in memory, because here it costs
//! nothing, and what is too much should not even reach a queue.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use nostr_push_core::Millis;

/// How many registrants are remembered. Whom it forgets has been silent while so many others spoke.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

const MINUTE: Millis = 60_000;

/// Counts verified events: a forged one must not use up somebody else's share.
pub struct Rate {
    max: u32,
    /// When the registrant's minute began, and how many have come in it.
    minutes: Mutex<LruCache<[u8; 32], (Millis, u32)>>,
}

impl Rate {
    /// At most so many a minute from each.
    pub fn new(max: u32) -> Self {
        Self {
            max,
            minutes: Mutex::new(LruCache::new(CAPACITY)),
        }
    }

    /// Counts one, unless the registrant has had as many as allowed in its minute. Answers whether
    /// it did.
    pub fn admits(&self, registrant: &[u8; 32], now: Millis) -> bool {
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count) = minutes.get_or_insert_mut(*registrant, || (now, 0));
        if *began + MINUTE <= now {
            (*began, *count) = (now, 0);
        }
        let admitted = *count < self.max;
        *count += u32::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_so_many_a_minute_and_the_next_minute_as_many_again() {
        let rate = Rate::new(2);
        let at = |who: u8, now| rate.admits(&[who; 32], now);
        assert_eq!(
            [at(1, 0), at(1, 10), at(1, 20), at(1, 59_999)],
            [true, true, false, false]
        );
        assert!(at(2, 30));
        assert_eq!(
            [at(1, 60_000), at(1, 60_001), at(1, 60_002)],
            [true, true, false]
        );
    }

    #[test]
    fn threads_together_are_admitted_no_more_than_one_alone() {
        let rate = Rate::new(100);
        let admitted = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let n = (0..1_000).filter(|_| rate.admits(&[1; 32], 5)).count();
                    admitted.fetch_add(n, std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
        assert_eq!(admitted.into_inner(), 100);
    }
}
