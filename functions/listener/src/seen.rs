//! Removes duplicates across relays.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;

/// The most event ids that are remembered. At 1,000 forwarded events per second they cover two
/// minutes. A later copy costs one message, and the claim in deliver prevents a second push.
const MAX_SEEN_EVENTS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// The ids of verified and forwarded events, each with how it was forwarded. Unverified events are
/// not recorded: a forged event must not suppress the genuine one.
///
/// Two copies of an event are not duplicates in these cases:
///
/// - The later copy hits other index keys. Somebody has subscribed in the meantime, and the relay
///   was asked again.
/// - The later copy is live and the earlier one was not. A stored event may be too old for a
///   subscription to which the live event is delivered.
///
/// The claim in deliver prevents a second push to recipients who already have the event.
pub struct SeenEvents(Mutex<LruCache<[u8; 32], Forwarding>>);

/// How an event is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding {
    /// A hash of the index keys in use that the event hits.
    pub hits: u64,
    /// `true` if the event came live, not as a stored event.
    pub live: bool,
}

impl Forwarding {
    /// Returns `true` if `earlier` reached every recipient that this forwarding would reach.
    fn is_covered_by(self, earlier: Self) -> bool {
        self.hits == earlier.hits && (earlier.live || !self.live)
    }
}

impl Default for SeenEvents {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_SEEN_EVENTS)))
    }
}

impl SeenEvents {
    /// Returns `true` if an earlier forwarding of the event covers this one.
    pub fn contains(&self, id: &[u8; 32], forwarding: Forwarding) -> bool {
        self.lock()
            .peek(id)
            .is_some_and(|earlier| forwarding.is_covered_by(*earlier))
    }

    /// Records a verified event. Returns `true` if it must be forwarded.
    pub fn insert(&self, id: [u8; 32], forwarding: Forwarding) -> bool {
        let mut seen = self.lock();
        let earlier = seen.get(&id).copied();
        if earlier.is_some_and(|earlier| forwarding.is_covered_by(earlier)) {
            return false;
        }
        seen.put(id, forwarding);
        true
    }

    /// Forgets an event that was recorded and is not forwarded after all.
    pub fn remove(&self, id: &[u8; 32]) {
        self.lock().pop(id);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<[u8; 32], Forwarding>> {
        // Nothing can panic while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
