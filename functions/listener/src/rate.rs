//! Limits the control events that each pubkey sends per minute. The counts are in memory, where
//! they cost nothing, and events above the limit never reach a queue.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use nostr::event::Event;
use nostr_push_core::{Millis, Seconds};

/// The most pubkeys that are remembered. The pubkey that was silent longest is forgotten first.
const MAX_REMEMBERED_PUBKEYS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// The span in which a pubkey's events are counted.
const RATE_WINDOW: Millis = Seconds::from_minutes(1).to_millis();

/// The age from which an event counts as old. Old events are counted apart, so that a relay that
/// sends a pubkey's old events again does not use up the limit for the new ones.
const OLD_EVENT_AGE: Seconds = Seconds::from_minutes(15);

/// Counts the control events of each pubkey. Only verified events may be counted: a forged event
/// must not use up the limit of another pubkey.
pub struct RateLimiter {
    /// The most events of one pubkey in a window.
    max: u32,
    /// For each pubkey a window of its new events (`false`) and one of its old events (`true`).
    windows: Mutex<LruCache<([u8; 32], bool), Window>>,
}

/// A span in which events are counted.
struct Window {
    began: Millis,
    count: u32,
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
    pub fn admits(&self, event: &Event, now: Millis) -> bool {
        let is_old = Seconds::from(event.created_at) + OLD_EVENT_AGE < now.to_seconds();
        self.admits_pubkey(*event.pubkey.as_bytes(), is_old, now)
    }

    fn admits_pubkey(&self, pubkey: [u8; 32], is_old: bool, now: Millis) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Window {
            began: now,
            count: 0,
        };
        let window = windows.get_or_insert_mut((pubkey, is_old), || new);
        if window.began + RATE_WINDOW <= now {
            (window.began, window.count) = (now, 0);
        }
        let admitted = window.count < self.max;
        window.count += u32::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_each_pubkey_per_minute() {
        let limiter = RateLimiter::new(2);
        let at = |pubkey: u8, now| limiter.admits_pubkey([pubkey; 32], false, Millis(now));
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
    fn old_events_do_not_use_up_the_limit_of_new_ones() {
        let limiter = RateLimiter::new(1);
        let keys = nostr::key::Keys::generate();
        let event = |at| nostr_push_testkit::event(&keys, 3079, at, &[], "");
        let now = Seconds(1_000_000).to_millis();
        assert!(limiter.admits(&event(900_000), now));
        assert!(!limiter.admits(&event(900_001), now));
        assert!(limiter.admits(&event(999_999), now));
    }

    #[test]
    fn concurrent_threads_share_one_limit() {
        let limiter = RateLimiter::new(100);
        let admitted = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let n = (0..1_000)
                        .filter(|_| limiter.admits_pubkey([1; 32], false, Millis(5)))
                        .count();
                    admitted.fetch_add(n, std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
        assert_eq!(admitted.into_inner(), 100);
    }
}
