//! Removes duplicates across relays.

use std::{num::NonZeroUsize, sync::Mutex};

use lru::LruCache;

/// How many ids are remembered: at 1,000 forwarded events a second, two minutes of them. What is
/// forgotten and comes again costs one message; the claim in deliver still makes it one push.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// The ids of events that were verified and forwarded, each with how. Never of unverified ones: a
/// forged event must not keep the real one out.
///
/// Two copies are no duplicates. One that hits more keys than before: somebody has subscribed while
/// it was on its way, and the relay was asked again. And one that comes live after it came as
/// stored: as stored it may have been too old for a subscription, live it is not. Those who have
/// had it are protected by the claim in deliver.
pub struct Seen(Mutex<LruCache<[u8; 32], Forwarded>>);

/// How an event was forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// How many index keys in use it hit.
    pub hits: usize,
    /// Whether it came live, not as a stored event.
    pub live: bool,
}

impl Forwarded {
    /// Whether this says nothing that `earlier` did not.
    fn repeats(self, earlier: Self) -> bool {
        self.hits <= earlier.hits && (earlier.live || !self.live)
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }
}

impl Seen {
    /// Whether the event has been forwarded like this, or better.
    pub fn contains(&self, id: &[u8; 32], now: Forwarded) -> bool {
        self.lock()
            .peek(id)
            .is_some_and(|earlier| now.repeats(*earlier))
    }

    /// Remembers a verified event. Answers whether it is to be forwarded.
    pub fn insert(&self, id: [u8; 32], now: Forwarded) -> bool {
        let mut seen = self.lock();
        let earlier = seen.get(&id).copied();
        if earlier.is_some_and(|earlier| now.repeats(earlier)) {
            return false;
        }
        let both = earlier.map_or(now, |earlier| Forwarded {
            hits: now.hits.max(earlier.hits),
            live: now.live || earlier.live,
        });
        seen.put(id, both);
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], Forwarded>> {
        // Nothing can panic while it is held.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
