//! The set of all index keys in use: what the listener asks about every event before it checks a
//! signature.
//!
//! It is made for a million subscriptions in little memory: rows stand in slabs and are found
//! through tables of their numbers, a subscription is known by a hash of its name, and equal lists
//! of kinds are one.

use std::{collections::HashSet, hash::BuildHasher, sync::Arc};

use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashMap, HashTable};
use nostr::event::Event;
use sha2::{Digest, Sha256};
use slab::Slab;

use crate::{
    MUTE_LIST, Seconds,
    index_key::{IndexKey, KeyRef, keys_of},
    subscription::{State, Subscription},
};

/// How long a removal is remembered: far longer than the change feed can still bring an older row.
const REMOVAL_KEPT: Seconds = 10 * 60;

/// Which index keys and kinds are in use, and by how many subscriptions.
///
/// Fed with rows of the change feed in any order and any number of times: the row with the later
/// order wins.
#[derive(Debug, Default)]
pub struct Interest {
    subscriptions: Slab<Held>,
    by_name: HashTable<u32>,
    keys: Slab<Key>,
    by_key: HashTable<u32>,
    kinds: HashMap<u16, u32, RandomState>,
    /// Subscriptions that name no kinds, and so want every kind.
    any_kind: u32,
    /// Keys of mute lists. Theirs is none of the kinds in use: of that kind, only these are wanted.
    mute_lists: u32,
    kind_lists: HashSet<Arc<[u16]>>,
    hasher: RandomState,
    version: u64,
}

#[derive(Debug)]
struct Key {
    key: IndexKey,
    uses: u32,
}

/// 128 bits of the SHA-256 of owner and identity: no two subscriptions share them.
type Name = [u64; 2];

#[derive(Debug)]
struct Held {
    name: Name,
    /// The order, as far as it is needed: the time, and the first bytes of the event's id.
    order: (Seconds, u64),
    valid_until: Seconds,
    /// Empty once removed: the order alone must stay for a while, or an older row read late would
    /// bring the keys back.
    keys: Keys,
    /// `None`: every kind.
    kinds: Option<Arc<[u16]>>,
}

/// Numbers in [`Interest::keys`]. Most subscriptions have one.
#[derive(Debug)]
enum Keys {
    One(u32),
    Many(Box<[u32]>),
}

impl Keys {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }
}

impl Interest {
    /// Takes in one row. Answers whether the keys or kinds in use changed.
    pub fn apply(&mut self, row: &Subscription, now: Seconds) -> bool {
        let name = name_of(row);
        let active = row.state == State::Active && row.valid_until > now;
        let held = self.find(name);
        if let Some(held) = held.and_then(|held| self.subscriptions.get_mut(held as usize)) {
            let order = order_of(row);
            let supersedes =
                order.0 > held.order.0 || (order.0 == held.order.0 && order.1 < held.order.1);
            if !supersedes {
                return false;
            }
            if active && !held.keys.as_slice().is_empty() {
                // The same identity is the same filter: only the lifetime is new.
                held.order = order;
                held.valid_until = row.valid_until;
                return false;
            }
        }
        let before = self.version;
        let new = if active {
            self.hold(row, name)
        } else {
            removed(row, name, now)
        };
        match held {
            Some(held) => {
                let old = std::mem::replace(&mut self.subscriptions[held as usize], new);
                self.let_go(&old);
            }
            None => self.insert(new),
        }
        self.version != before
    }

    /// Forgets the subscriptions that are over, among `count` of them from the number `from` on.
    /// Answers where to go on, `None` at the end: a million are looked through in parts, so that
    /// nobody waits for all of them.
    pub fn expire(&mut self, now: Seconds, from: usize, count: usize) -> Option<usize> {
        let end = self
            .subscriptions
            .capacity()
            .min(from.saturating_add(count));
        for number in from..end {
            if self
                .subscriptions
                .get(number)
                .is_some_and(|held| held.valid_until <= now)
            {
                let held = self.subscriptions.remove(number);
                if let Ok(entry) = self
                    .by_name
                    .find_entry(held.name[0], |n| *n as usize == number)
                {
                    entry.remove();
                }
                self.let_go(&held);
            }
        }
        (end < self.subscriptions.capacity()).then_some(end)
    }

    fn hold(&mut self, row: &Subscription, name: Name) -> Held {
        let keys = row.filter.index_keys();
        let of_mute_lists = matches!(keys.first(), Some(IndexKey::MuteList(_)));
        let mut numbers: Vec<u32> = keys.into_iter().map(|key| self.use_key(key)).collect();
        let keys = if numbers.len() == 1 {
            Keys::One(numbers.remove(0))
        } else {
            Keys::Many(numbers.into())
        };
        let kinds = if of_mute_lists {
            Some(&[][..])
        } else {
            row.filter.kinds.as_deref()
        };
        let kinds = kinds.map(|kinds| self.kind_list(kinds));
        match &kinds {
            None => {
                self.any_kind += 1;
                self.version += u64::from(self.any_kind == 1);
            }
            Some(kinds) => {
                for kind in kinds.iter() {
                    let uses = self.kinds.entry(*kind).or_insert(0);
                    *uses += 1;
                    self.version += u64::from(*uses == 1);
                }
            }
        }
        Held {
            name,
            order: order_of(row),
            valid_until: row.valid_until,
            keys,
            kinds,
        }
    }

    fn let_go(&mut self, held: &Held) {
        if held.keys.as_slice().is_empty() {
            return;
        }
        for number in held.keys.as_slice() {
            self.drop_key(*number);
        }
        match &held.kinds {
            None => {
                self.any_kind -= 1;
                self.version += u64::from(self.any_kind == 0);
            }
            Some(kinds) => {
                for kind in kinds.iter() {
                    if let Some(uses) = self.kinds.get_mut(kind) {
                        *uses -= 1;
                        if *uses == 0 {
                            self.kinds.remove(kind);
                            self.version += 1;
                        }
                    }
                }
                // This one, and the list's own.
                if Arc::strong_count(kinds) == 2 {
                    self.kind_lists.remove(kinds);
                }
            }
        }
    }

    fn kind_list(&mut self, kinds: &[u16]) -> Arc<[u16]> {
        if let Some(list) = self.kind_lists.get(kinds) {
            return Arc::clone(list);
        }
        let list: Arc<[u16]> = kinds.into();
        self.kind_lists.insert(Arc::clone(&list));
        list
    }

    fn find(&self, name: Name) -> Option<u32> {
        self.by_name
            .find(name[0], |n| {
                self.subscriptions
                    .get(*n as usize)
                    .is_some_and(|held| held.name == name)
            })
            .copied()
    }

    fn insert(&mut self, held: Held) {
        let name = held.name;
        let number = number(self.subscriptions.insert(held));
        let subscriptions = &self.subscriptions;
        self.by_name.insert_unique(name[0], number, |n| {
            subscriptions
                .get(*n as usize)
                .map_or(0, |held| held.name[0])
        });
    }

    fn use_key(&mut self, key: IndexKey) -> u32 {
        let hash = self.hasher.hash_one(&key);
        if let Some(number) = self.by_key.find(hash, |n| {
            self.keys
                .get(*n as usize)
                .is_some_and(|entry| entry.key == key)
        }) {
            self.keys[*number as usize].uses += 1;
            return *number;
        }
        self.mute_lists += u32::from(matches!(key, IndexKey::MuteList(_)));
        let number = number(self.keys.insert(Key { key, uses: 1 }));
        let (keys, hasher) = (&self.keys, &self.hasher);
        self.by_key.insert_unique(hash, number, |n| {
            keys.get(*n as usize)
                .map_or(0, |entry| hasher.hash_one(&entry.key))
        });
        self.version += 1;
        number
    }

    fn drop_key(&mut self, number: u32) {
        let entry = &mut self.keys[number as usize];
        entry.uses -= 1;
        if entry.uses == 0 {
            let key = self.keys.remove(number as usize).key;
            self.mute_lists -= u32::from(matches!(key, IndexKey::MuteList(_)));
            let hash = self.hasher.hash_one(&key);
            if let Ok(entry) = self.by_key.find_entry(hash, |n| *n == number) {
                entry.remove();
            }
            self.version += 1;
        }
    }

    /// Which of the event's index keys are in use, each once. Empty: nobody wants it.
    pub fn hits(&self, event: &Event) -> Vec<IndexKey> {
        let mut hits: Vec<IndexKey> = Vec::new();
        let kind = event.kind.as_u16();
        let wanted = self.wants_kind(kind);
        if wanted || kind == MUTE_LIST {
            let considered =
                keys_of(event).filter(|key| wanted || matches!(key, KeyRef::MuteList(_)));
            for key in considered.filter(|key| self.holds(key)) {
                let key = key.to_owned();
                if !hits.contains(&key) {
                    hits.push(key);
                }
            }
        }
        hits
    }

    fn wants_kind(&self, kind: u16) -> bool {
        self.any_kind > 0 || self.kinds.contains_key(&kind)
    }

    fn holds(&self, key: &KeyRef<'_>) -> bool {
        let same = |n: &u32| {
            self.keys
                .get(*n as usize)
                .is_some_and(|entry| key.equivalent(&entry.key))
        };
        self.by_key.find(self.hasher.hash_one(key), same).is_some()
    }

    /// Whether this index key is in use.
    pub fn contains(&self, key: &IndexKey) -> bool {
        self.holds(&key.borrowed())
    }

    /// The index keys in use, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &IndexKey> {
        self.keys.iter().map(|(_, entry)| &entry.key)
    }

    /// How many index keys are in use.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether mute lists are wanted, which are none of the kinds in use.
    pub fn wants_mute_lists(&self) -> bool {
        self.mute_lists > 0
    }

    /// The kinds in use, sorted; `None` when a subscription wants every kind.
    pub fn kinds(&self) -> Option<Vec<u16>> {
        let mut kinds: Vec<u16> = self.kinds.keys().copied().collect();
        kinds.sort_unstable();
        (self.any_kind == 0).then_some(kinds)
    }

    /// Grows whenever the keys or kinds in use change.
    pub fn version(&self) -> u64 {
        self.version
    }
}

fn number(slab: usize) -> u32 {
    // Four billion subscriptions would need a hundred gigabytes before.
    u32::try_from(slab).unwrap_or(u32::MAX)
}

fn removed(row: &Subscription, name: Name, now: Seconds) -> Held {
    let keys = Keys::Many(Box::default());
    Held {
        name,
        order: order_of(row),
        valid_until: now + REMOVAL_KEPT,
        keys,
        kinds: None,
    }
}

fn order_of(row: &Subscription) -> (Seconds, u64) {
    let id = row.order.event_id.as_bytes();
    (
        row.order.created_at,
        id.iter()
            .take(8)
            .fold(0, |n, byte| n << 8 | u64::from(*byte)),
    )
}

fn name_of(row: &Subscription) -> Name {
    let digest = Sha256::new()
        .chain_update(row.owner.to_string())
        .chain_update("#")
        .chain_update(&row.subscription)
        .finalize();
    let word = |from: usize| {
        digest
            .iter()
            .skip(from)
            .take(8)
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    };
    [word(0), word(8)]
}
