//! The relays that the subscriptions of an index key name.
//!
//! An event that came from an owners' relay reaches only subscriptions that name the relay. Without
//! this look-up, each owners' relay would forward events for the keys of all other owners, at the
//! operator's cost.

use std::{collections::HashMap, sync::Arc};

use slab::Slab;

use crate::relay_url::RelayHash;

/// The most relays of one key. If its subscriptions name more, every relay counts as named.
const MAX_RELAYS: usize = 64;

/// The most different lists of relays: about 20 MB if each has ten relays. Beyond it, every relay
/// counts as named by keys that would need another list.
const MAX_LISTS: usize = 100_000;

/// The relays of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum NamedRelays {
    /// No subscription of the key names a relay.
    #[default]
    None,
    /// The number of a list in [`RelayLists`].
    List(u32),
    /// Every relay counts as named. The matcher decides.
    Any,
}

/// The lists of relays of all keys. Equal lists are stored once.
#[derive(Debug, Default)]
pub(super) struct RelayLists {
    lists: Slab<RelayList>,
    numbers: HashMap<Arc<[RelayHash]>, u32>,
}

#[derive(Debug)]
struct RelayList {
    /// Sorted.
    relays: Arc<[RelayHash]>,
    /// The number of keys with this list.
    keys: u32,
}

impl RelayLists {
    /// Returns `true` if the key names the relay.
    pub(super) fn contains(&self, named: NamedRelays, relay: &RelayHash) -> bool {
        match named {
            NamedRelays::None => false,
            NamedRelays::Any => true,
            NamedRelays::List(number) => self
                .lists
                .get(number as usize)
                .is_some_and(|list| list.relays.binary_search(relay).is_ok()),
        }
    }

    /// The relays of a key with one more subscription, which names `relays`.
    pub(super) fn add(&mut self, named: NamedRelays, relays: &[RelayHash]) -> NamedRelays {
        if relays.iter().all(|relay| self.contains(named, relay)) {
            return named;
        }
        let mut union = match named {
            NamedRelays::List(number) => self.lists[number as usize].relays.to_vec(),
            NamedRelays::None | NamedRelays::Any => Vec::new(),
        };
        union.extend_from_slice(relays);
        union.sort_unstable();
        union.dedup();
        self.release(named);
        if union.len() > MAX_RELAYS {
            return NamedRelays::Any;
        }
        if let Some(number) = self.numbers.get(&*union) {
            self.lists[*number as usize].keys += 1;
            return NamedRelays::List(*number);
        }
        if self.lists.len() >= MAX_LISTS {
            return NamedRelays::Any;
        }
        let relays: Arc<[RelayHash]> = union.into();
        let list = RelayList {
            relays: Arc::clone(&relays),
            keys: 1,
        };
        let number = super::number(self.lists.insert(list));
        self.numbers.insert(relays, number);
        NamedRelays::List(number)
    }

    /// The key is no longer in use.
    pub(super) fn release(&mut self, named: NamedRelays) {
        let NamedRelays::List(number) = named else {
            return;
        };
        let list = &mut self.lists[number as usize];
        list.keys -= 1;
        if list.keys == 0 {
            let list = self.lists.remove(number as usize);
            self.numbers.remove(&list.relays);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(n: usize) -> RelayHash {
        RelayHash::of(&format!("wss://r{n}.example")).unwrap()
    }

    #[test]
    fn key_names_the_relays_of_all_its_subscriptions() {
        let mut lists = RelayLists::default();
        let one = lists.add(NamedRelays::None, &[relay(1), relay(2)]);
        let two = lists.add(one, &[relay(3)]);
        assert!((1..4).all(|n| lists.contains(two, &relay(n))));
        assert!(!lists.contains(two, &relay(4)));
        assert_eq!(lists.add(two, &[relay(2)]), two);
        assert_eq!(lists.add(NamedRelays::None, &[]), NamedRelays::None);
        assert_eq!(lists.lists.len(), 1, "the first list has no key any more");
        lists.release(two);
        assert!(lists.lists.is_empty() && lists.numbers.is_empty());
    }

    #[test]
    fn equal_lists_are_stored_once() {
        let mut lists = RelayLists::default();
        let one = lists.add(NamedRelays::None, &[relay(1), relay(2)]);
        let two = lists.add(NamedRelays::None, &[relay(2), relay(1)]);
        assert_eq!(one, two);
        lists.release(one);
        assert!(lists.contains(two, &relay(1)));
    }

    #[test]
    fn every_relay_counts_as_named_beyond_the_limit() {
        let mut lists = RelayLists::default();
        let mut named = NamedRelays::None;
        for n in 0..=MAX_RELAYS {
            named = lists.add(named, &[relay(n)]);
        }
        assert_eq!(named, NamedRelays::Any);
        assert!(lists.contains(named, &relay(9_999)));
        assert!(lists.lists.is_empty());
    }
}
