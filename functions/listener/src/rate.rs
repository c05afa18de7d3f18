//! Limits the control events that each pubkey sends per minute, and the events of each relay that
//! only owners named. The counts are in memory, where they cost nothing.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use nostr_push_core::{Millis, Seconds};

/// The most pubkeys that are remembered. The pubkey that was silent longest is forgotten first.
const MAX_REMEMBERED_PUBKEYS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// The span in which a pubkey's events are counted.
const RATE_WINDOW: Millis = Seconds::from_minutes(1).to_millis();

/// The events that a relay of owners may bring at once.
const EVENT_BURST: u64 = 600;

/// How long a relay of owners has to wait for each further event.
const EVENT_INTERVAL: Millis = Millis(100);

/// The budget of a relay that only owners named: a burst, and then ten events per second. A relay
/// that brings more is read more slowly, so no event is lost, and other relays do not wait.
#[derive(Debug)]
pub struct EventBudget {
    /// The time at which the whole burst is available again.
    full_at: Millis,
}

impl EventBudget {
    /// A budget with its whole burst.
    pub fn new(now: Millis) -> Self {
        Self { full_at: now }
    }

    /// Spends one event. Returns how long to wait before the next one, if the budget is used up.
    pub fn spend(&mut self, now: Millis) -> Option<Duration> {
        self.full_at = self.full_at.max(now) + EVENT_INTERVAL;
        let burst = Millis(EVENT_BURST * EVENT_INTERVAL.0);
        let wait = self.full_at - now - burst;
        (wait > Millis(0)).then(|| Duration::from_millis(wait.0))
    }
}

/// Counts the control events of each pubkey. Only verified events may be counted: a forged event
/// must not use up the limit of another pubkey.
pub struct RateLimiter {
    /// The most events of one pubkey in a window.
    max: u32,
    /// The beginning of each pubkey's window, and the number of its events in it.
    windows: Mutex<LruCache<[u8; 32], (Millis, u32)>>,
}

impl RateLimiter {
    /// Admits at most `max` events per minute from each pubkey.
    pub fn new(max: u32) -> Self {
        Self {
            max,
            windows: Mutex::new(LruCache::new(MAX_REMEMBERED_PUBKEYS)),
        }
    }

    /// Counts one event. Returns `false`, without counting it, if the pubkey has reached its limit.
    pub fn admits(&self, pubkey: &[u8; 32], now: Millis) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count) = windows.get_or_insert_mut(*pubkey, || (now, 0));
        if *began + RATE_WINDOW <= now {
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
    fn limits_each_pubkey_per_minute() {
        let limiter = RateLimiter::new(2);
        let at = |pubkey: u8, now| limiter.admits(&[pubkey; 32], Millis(now));
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
    fn relay_of_owners_is_paced_beyond_its_burst() {
        let mut budget = EventBudget::new(Millis(1_000));
        assert!((0..EVENT_BURST).all(|_| budget.spend(Millis(1_000)).is_none()));
        assert_eq!(
            budget.spend(Millis(1_000)),
            Some(Duration::from_millis(100))
        );
        assert_eq!(
            budget.spend(Millis(1_100)),
            Some(Duration::from_millis(100))
        );
        let later = Millis(1_100 + EVENT_BURST * EVENT_INTERVAL.0);
        assert!((0..EVENT_BURST - 2).all(|_| budget.spend(later).is_none()));
    }

    #[test]
    fn concurrent_threads_share_one_limit() {
        let limiter = RateLimiter::new(100);
        let admitted = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let n = (0..1_000)
                        .filter(|_| limiter.admits(&[1; 32], Millis(5)))
                        .count();
                    admitted.fetch_add(n, std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
        assert_eq!(admitted.into_inner(), 100);
    }
}
