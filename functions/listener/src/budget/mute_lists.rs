//! The newest mute lists that were forwarded. Anybody can publish old lists of an owner again. They
//! must not spend the budget of the owner's next list.

use std::num::NonZeroUsize;

use lru::LruCache;
use nostr_push_core::Seconds;

/// The most owners whose list is remembered: more than the stack admits by default.
const MAX_OWNERS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// The time of the newest mute list of each owner. An owner is identified by the
/// [`Interest::key_id`] of the list's index key. So if the owner leaves and returns, the same list
/// is forwarded again.
///
/// [`Interest::key_id`]: nostr_push_core::interest::Interest::key_id
#[derive(Debug)]
pub struct NewestMuteLists(LruCache<u64, Seconds>);

impl Default for NewestMuteLists {
    fn default() -> Self {
        Self(LruCache::new(MAX_OWNERS))
    }
}

impl NewestMuteLists {
    /// Returns `true` if no list with this time or a later one was recorded.
    pub fn is_newer(&self, key_id: u64, created_at: Seconds) -> bool {
        let newest = self.0.peek(&key_id);
        newest.is_none_or(|newest| *newest < created_at)
    }

    /// Records a list that is forwarded.
    pub fn record(&mut self, key_id: u64, created_at: Seconds) {
        let newest = self.0.get_or_insert_mut(key_id, || created_at);
        *newest = created_at.max(*newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_list_of_the_same_owner_is_newer() {
        let mut lists = NewestMuteLists::default();
        assert!(lists.is_newer(1, Seconds(0)));
        lists.record(1, Seconds(9));
        lists.record(1, Seconds(8));
        assert!(!lists.is_newer(1, Seconds(9)) && lists.is_newer(1, Seconds(10)));
        assert!(lists.is_newer(2, Seconds(0)));
    }
}
