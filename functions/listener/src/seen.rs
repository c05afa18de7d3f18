//! Removes duplicates across relays.

use std::{num::NonZeroUsize, sync::Mutex};

use lru::LruCache;

/// How many ids are remembered: at 1,000 forwarded events a second, two minutes of them. What is forgotten and comes
/// again costs one message; the claim in deliver still makes it one push.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// The ids of events that were verified and forwarded. Never of unverified ones: a forged event must not keep the
/// real one out.
pub struct Seen(Mutex<LruCache<[u8; 32], ()>>);

impl Default for Seen {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }
}

impl Seen {
    /// Whether the event has been forwarded.
    pub fn contains(&self, id: &[u8; 32]) -> bool {
        self.lock().contains(id)
    }

    /// Remembers a verified event. Answers whether it is new.
    pub fn insert(&self, id: [u8; 32]) -> bool {
        self.lock().put(id, ()).is_none()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], ()>> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
