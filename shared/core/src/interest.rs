//! The set of all index keys in use. The listener looks up every event here before it checks the
//! signature.
//!
//! A million subscriptions must fit into little memory. So entries are stored in slabs and found
//! through tables of 32-bit numbers, a subscription is identified by a hash of its owner and
//! identity, and equal lists of kinds are shared.

mod named_relays;
mod owners;

use std::{collections::HashSet, hash::BuildHasher, sync::Arc};

use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashMap, HashTable};
use nostr::event::Event;
use sha2::{Digest, Sha256};
use slab::Slab;

use self::{
    named_relays::{NamedRelays, RelayLists},
    owners::{KnownOwners, makes_known},
};
use crate::{
    MUTE_LIST_KIND, Millis, Seconds,
    capacity::Usage,
    index_key::{IndexKey, KeyRef, keys_of},
    owner::OwnerClass,
    relay_url::RelayHash,
    subscription::Subscription,
};

/// How long the entry of a removed subscription is kept. It is far longer than the change feed can
/// still bring an older row.
const REMOVED_ENTRY_TTL: Seconds = Seconds::from_minutes(10);

/// The index keys and kinds in use, with the number of subscriptions that use each.
///
/// It is built from the rows of the change feed. They may come in any order and repeatedly: the row
/// with the later order wins, and of rows with the same order the one that was changed later.
/// Dormant rows count like removed ones.
#[derive(Debug, Default)]
pub struct Interest {
    entries: Slab<Entry>,
    by_id: HashTable<u32>,
    keys: Slab<KeyUse>,
    by_key: HashTable<u32>,
    kinds: HashMap<u16, u32, RandomState>,
    /// The number of subscriptions without kinds, which match every kind.
    any_kind: u32,
    /// The number of keys of mute lists. The kind of mute lists is not among `kinds`, because only
    /// these authors' lists are wanted.
    mute_lists: u32,
    kind_lists: HashSet<Arc<[u16]>>,
    relay_lists: RelayLists,
    owners: KnownOwners,
    /// The number of active subscriptions.
    subscriptions: u64,
    /// The number of uses of all keys.
    uses: u64,
    hasher: RandomState,
    version: u64,
}

/// An index key of an event that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The key.
    pub key: IndexKey,
    /// `true` if a proven owner uses the key.
    pub proven: bool,
    /// `true` if the key is a mention of a proven owner.
    pub mentions_proven: bool,
    /// The number of subscriptions that use the key.
    pub uses: u32,
}

/// An index key and the number of subscriptions that use it.
#[derive(Debug)]
struct KeyUse {
    key: IndexKey,
    uses: u32,
    /// How many of these subscriptions are those of proven owners.
    proven_uses: u32,
    /// See [`Interest::key_id`].
    id: u64,
    /// The relays that its subscriptions name, or have named. They are forgotten with the key.
    relays: NamedRelays,
}

/// The id of an entry: 128 bits of the SHA-256 of owner and identity.
type EntryId = [u64; 2];

/// One subscription.
#[derive(Debug)]
struct Entry {
    id: EntryId,
    /// The order: its time and the first bytes of its event id.
    order: (Seconds, u64),
    /// See [`Subscription::changed_at`].
    changed_at: Millis,
    valid_until: Seconds,
    /// Empty if the subscription is removed. The entry stays for a while, so that an older row that
    /// is read late cannot restore the keys.
    keys: Keys,
    /// `None` means every kind.
    kinds: Option<Arc<[u16]>>,
    /// `true` if the owner is proven.
    proven: bool,
    /// `true` if the owner is known by this subscription. Its key is then that of the owner's mute
    /// list.
    makes_known: bool,
}

// A million entries must fit into the listener's memory.
const _: () = assert!(size_of::<Entry>() <= 88);
const _: () = assert!(size_of::<KeyUse>() <= 72);

/// Numbers of keys in [`Interest::keys`]. Most subscriptions have one key.
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
    /// Applies one row. Returns `true` if the keys or kinds in use changed.
    pub fn apply(&mut self, row: &Subscription, now: Seconds) -> bool {
        let id = entry_id(row);
        let active = row.is_active(now);
        let number = self.find(id);
        if let Some(entry) = number.and_then(|number| self.entries.get(number as usize)) {
            if !supersedes(row, entry) {
                return false;
            }
            if active && !entry.keys.as_slice().is_empty() {
                self.renew(number.unwrap_or_default(), row);
                return false;
            }
        }
        let before = self.version;
        let new = if active {
            self.new_entry(row, id)
        } else {
            removed_entry(row, id, now)
        };
        match number {
            Some(number) => {
                let old = std::mem::replace(&mut self.entries[number as usize], new);
                self.release(&old);
            }
            None => self.insert(new),
        }
        self.version != before
    }

    /// A later row of an active subscription. An identity stands for one filter, so only the
    /// lifetime, the relays and whether the owner is proven can be new.
    fn renew(&mut self, number: u32, row: &Subscription) {
        let entry = &mut self.entries[number as usize];
        entry.order = order_of(row);
        entry.changed_at = row.changed_at;
        entry.valid_until = row.valid_until;
        let was_proven = std::mem::replace(&mut entry.proven, row.proven);
        let is_other = was_proven != row.proven;
        if is_other && entry.makes_known {
            let pubkey = row.owner.pubkey.as_bytes();
            self.owners.remove(pubkey, was_proven);
            self.owners.add(*pubkey, row.proven);
        }
        let relays = row.relay_hashes();
        if !is_other && relays.is_empty() {
            return;
        }
        for key in entry.keys.as_slice() {
            let used = &mut self.keys[*key as usize];
            if is_other && row.proven {
                used.proven_uses += 1;
            } else if is_other {
                used.proven_uses -= 1;
            }
            used.relays = self.relay_lists.add(used.relays, &relays);
        }
    }

    /// Removes the subscriptions that have ended among `count` entries from number `from` on.
    /// Returns the number to continue from, or `None` at the end. The work is done in parts, so
    /// that event processing is not blocked by a full scan.
    pub fn expire(&mut self, now: Seconds, from: usize, count: usize) -> Option<usize> {
        let end = self.entries.capacity().min(from.saturating_add(count));
        for number in from..end {
            if self
                .entries
                .get(number)
                .is_some_and(|entry| entry.valid_until <= now)
            {
                let ended = self.entries.remove(number);
                if let Ok(slot) = self
                    .by_id
                    .find_entry(ended.id[0], |n| *n as usize == number)
                {
                    slot.remove();
                }
                self.release(&ended);
            }
        }
        (end < self.entries.capacity()).then_some(end)
    }

    /// The entry of an active subscription. Counts its keys and kinds as used.
    fn new_entry(&mut self, row: &Subscription, id: EntryId) -> Entry {
        let keys = row.filter.index_keys();
        let makes_known = makes_known(row, &keys);
        if makes_known {
            self.owners.add(*row.owner.pubkey.as_bytes(), row.proven);
        }
        self.subscriptions += u64::from(!keys.is_empty());
        let is_of_mute_lists = matches!(keys.first(), Some(IndexKey::MuteList(_)));
        let relays = row.relay_hashes();
        let keys = keys.into_iter();
        let mut numbers: Vec<u32> = keys
            .map(|key| self.use_key(key, &relays, row.proven))
            .collect();
        let keys = if numbers.len() == 1 {
            Keys::One(numbers.remove(0))
        } else {
            Keys::Many(numbers.into())
        };
        let kinds = if is_of_mute_lists {
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
        Entry {
            id,
            order: order_of(row),
            changed_at: row.changed_at,
            valid_until: row.valid_until,
            keys,
            kinds,
            proven: row.proven,
            makes_known,
        }
    }

    /// Counts the keys and kinds of an entry as no longer used by it.
    fn release(&mut self, entry: &Entry) {
        if entry.keys.as_slice().is_empty() {
            return;
        }
        self.subscriptions -= 1;
        if entry.makes_known
            && let [key] = entry.keys.as_slice()
            && let Some(KeyUse {
                key: IndexKey::MuteList(pubkey),
                ..
            }) = self.keys.get(*key as usize)
        {
            self.owners.remove(pubkey, entry.proven);
        }
        for number in entry.keys.as_slice() {
            self.release_key(*number, entry.proven);
        }
        let Some(kinds) = &entry.kinds else {
            self.any_kind -= 1;
            self.version += u64::from(self.any_kind == 0);
            return;
        };
        for kind in kinds.iter() {
            self.release_kind(*kind);
        }
        // The two references are the entry's and that of `kind_lists`.
        if Arc::strong_count(kinds) == 2 {
            self.kind_lists.remove(kinds);
        }
    }

    fn release_kind(&mut self, kind: u16) {
        if let Some(uses) = self.kinds.get_mut(&kind) {
            *uses -= 1;
            if *uses == 0 {
                self.kinds.remove(&kind);
                self.version += 1;
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

    fn find(&self, id: EntryId) -> Option<u32> {
        self.by_id
            .find(id[0], |n| {
                self.entries
                    .get(*n as usize)
                    .is_some_and(|entry| entry.id == id)
            })
            .copied()
    }

    fn insert(&mut self, entry: Entry) {
        let id = entry.id;
        let number = number(self.entries.insert(entry));
        let entries = &self.entries;
        self.by_id.insert_unique(id[0], number, |n| {
            entries.get(*n as usize).map_or(0, |entry| entry.id[0])
        });
    }

    fn use_key(&mut self, key: IndexKey, relays: &[RelayHash], proven: bool) -> u32 {
        self.uses += 1;
        let hash = self.hasher.hash_one(&key);
        if let Some(number) = self.by_key.find(hash, |n| {
            self.keys
                .get(*n as usize)
                .is_some_and(|entry| entry.key == key)
        }) {
            let entry = &mut self.keys[*number as usize];
            entry.uses += 1;
            entry.proven_uses += u32::from(proven);
            entry.relays = self.relay_lists.add(entry.relays, relays);
            return *number;
        }
        self.mute_lists += u32::from(matches!(key, IndexKey::MuteList(_)));
        let relays = self.relay_lists.add(NamedRelays::None, relays);
        let number = number(self.keys.insert(KeyUse {
            key,
            uses: 1,
            proven_uses: u32::from(proven),
            // The version grows with every key that comes into use.
            id: self.version,
            relays,
        }));
        let (keys, hasher) = (&self.keys, &self.hasher);
        self.by_key.insert_unique(hash, number, |n| {
            keys.get(*n as usize)
                .map_or(0, |entry| hasher.hash_one(&entry.key))
        });
        self.version += 1;
        number
    }

    fn release_key(&mut self, number: u32, proven: bool) {
        self.uses -= 1;
        let entry = &mut self.keys[number as usize];
        entry.uses -= 1;
        entry.proven_uses -= u32::from(proven);
        if entry.uses == 0 {
            let KeyUse { key, relays, .. } = self.keys.remove(number as usize);
            self.relay_lists.release(relays);
            self.mute_lists -= u32::from(matches!(key, IndexKey::MuteList(_)));
            let hash = self.hasher.hash_one(&key);
            if let Ok(entry) = self.by_key.find_entry(hash, |n| *n == number) {
                entry.remove();
            }
            self.version += 1;
        }
    }

    /// The event's index keys that are in use, each once. Empty if no subscription can match
    /// the event.
    pub fn hits(&self, event: &Event) -> Vec<IndexKey> {
        let hits = self.hits_where(event, |_| true).into_iter();
        hits.map(|hit| hit.key).collect()
    }

    /// The same as [`Interest::hits`], with what the budgets need to know of each key.
    pub fn hits_of_all(&self, event: &Event) -> Vec<Hit> {
        self.hits_where(event, |_| true)
    }

    /// The event's index keys that are in use by subscriptions that name this relay, each once. A
    /// key may be among them though its subscriptions no longer name the relay: the matcher
    /// decides. Mute lists are their authors' own, whichever relay brings them.
    pub fn hits_through(&self, event: &Event, relay: &RelayHash) -> Vec<Hit> {
        self.hits_where(event, |used| {
            matches!(used.key, IndexKey::MuteList(_))
                || self.relay_lists.contains(used.relays, relay)
        })
    }

    fn hits_where(&self, event: &Event, condition: impl Fn(&KeyUse) -> bool) -> Vec<Hit> {
        // The numbers of the keys, because an event can hit thousands of them, many repeatedly.
        let mut hits: Vec<u32> = Vec::new();
        let kind = event.kind.as_u16();
        let wanted = self.wants_kind(kind);
        if wanted || kind == MUTE_LIST_KIND {
            let considered =
                keys_of(event).filter(|key| wanted || matches!(key, KeyRef::MuteList(_)));
            for number in considered.filter_map(|key| self.find_key(&key)) {
                if self.keys.get(number as usize).is_some_and(&condition) {
                    hits.push(number);
                }
            }
        }
        hits.sort_unstable();
        hits.dedup();
        let keys = hits.into_iter();
        keys.filter_map(|number| self.keys.get(number as usize))
            .map(|used| Hit {
                key: used.key.clone(),
                proven: used.proven_uses > 0,
                uses: used.uses,
                mentions_proven: used
                    .key
                    .mentions()
                    .is_some_and(|pubkey| self.class_of(pubkey) == OwnerClass::Proven),
            })
            .collect()
    }

    /// Whether the pubkey has a device.
    pub fn class_of(&self, pubkey: &[u8; 32]) -> OwnerClass {
        self.owners.class(pubkey)
    }

    /// The number of proven owners. An owner counts once for each app.
    pub fn proven_owners(&self) -> u64 {
        self.owners.proven()
    }

    /// What the stack holds.
    pub fn usage(&self, now: Seconds) -> Usage {
        Usage {
            owners: self.owners.owners(),
            index_keys: self.keys.len() as u64,
            subscriptions: self.subscriptions,
            index_rows: self.uses,
            counted_at: now,
        }
    }

    fn wants_kind(&self, kind: u16) -> bool {
        self.any_kind > 0 || self.kinds.contains_key(&kind)
    }

    /// The number of a key in use.
    fn find_key(&self, key: &KeyRef<'_>) -> Option<u32> {
        let same = |n: &u32| {
            self.keys
                .get(*n as usize)
                .is_some_and(|entry| key.equivalent(&entry.key))
        };
        self.by_key.find(self.hasher.hash_one(key), same).copied()
    }

    /// Returns `true` if this index key is in use.
    pub fn contains(&self, key: &IndexKey) -> bool {
        self.find_key(&key.borrowed()).is_some()
    }

    /// The index keys in use, each with its [`Interest::key_id`], in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = (&IndexKey, u64)> {
        self.keys.iter().map(|(_, used)| (&used.key, used.id))
    }

    /// A number that identifies the use of a key. If a key goes out of use and returns, it has
    /// another number: events in between were not wanted. `None` if the key is not in use.
    pub fn key_id(&self, key: &IndexKey) -> Option<u64> {
        let number = self.find_key(&key.borrowed())?;
        self.keys.get(number as usize).map(|used| used.id)
    }

    /// The number of index keys in use.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns `true` if no index key is in use.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns `true` if mute lists are wanted. Their kind is not among [`Interest::kinds`].
    pub fn wants_mute_lists(&self) -> bool {
        self.mute_lists > 0
    }

    /// The kinds in use, sorted. `None` if a subscription wants every kind.
    pub fn kinds(&self) -> Option<Vec<u16>> {
        let mut kinds: Vec<u16> = self.kinds.keys().copied().collect();
        kinds.sort_unstable();
        (self.any_kind == 0).then_some(kinds)
    }

    /// A number that grows whenever the keys or kinds in use change.
    pub fn version(&self) -> u64 {
        self.version
    }
}

fn number(slab: usize) -> u32 {
    // Four billion entries would need hundreds of gigabytes of memory.
    u32::try_from(slab).unwrap_or(u32::MAX)
}

fn removed_entry(row: &Subscription, id: EntryId, now: Seconds) -> Entry {
    let keys = Keys::Many(Box::default());
    Entry {
        id,
        order: order_of(row),
        changed_at: row.changed_at,
        valid_until: now + REMOVED_ENTRY_TTL,
        keys,
        kinds: None,
        proven: false,
        makes_known: false,
    }
}

/// Returns `true` if the row wins over the entry of the same subscription.
fn supersedes(row: &Subscription, entry: &Entry) -> bool {
    let order = order_of(row);
    if order == entry.order {
        row.changed_at > entry.changed_at
    } else {
        order.0 > entry.order.0 || (order.0 == entry.order.0 && order.1 < entry.order.1)
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

fn entry_id(row: &Subscription) -> EntryId {
    let digest = Sha256::new()
        .chain_update(row.owner.to_string())
        .chain_update("#")
        .chain_update(&row.identity)
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
