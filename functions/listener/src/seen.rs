//! Removes duplicates across relays.

use std::{num::NonZeroUsize, sync::Mutex};

use lru::LruCache;

/// How many ids are remembered: at 1,000 forwarded events a second, two minutes of them. What is forgotten and comes
/// again costs one message; the claim in deliver still makes it one push.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// The ids of events that were verified and forwarded, each with how many index keys it hit. Never of unverified
/// ones: a forged event must not keep the real one out.
///
/// An event that hits more keys than before is no duplicate: somebody has subscribed while it was on its way, and the
/// relay was asked again. Those who have had it are protected by the claim in deliver.
pub struct Seen(Mutex<LruCache<[u8; 32], usize>>);

impl Default for Seen {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }
}

impl Seen {
    /// Whether the event has been forwarded with at least so many hits.
    pub fn contains(&self, id: &[u8; 32], hits: usize) -> bool {
        self.lock().peek(id).is_some_and(|earlier| *earlier >= hits)
    }

    /// Remembers a verified event. Answers whether it is new, or hits more than before.
    pub fn insert(&self, id: [u8; 32], hits: usize) -> bool {
        let mut seen = self.lock();
        let new = seen.get(&id).is_none_or(|earlier| *earlier < hits);
        if new {
            seen.put(id, hits);
        }
        new
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], usize>> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
