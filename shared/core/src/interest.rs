//! The set of all index keys in use: what the listener asks about every event before it checks a signature.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use nostr::event::Event;

use crate::{
    Seconds,
    index_key::{IndexKey, KeyRef, keys_of},
    order::Order,
    owner::Owner,
    subscription::{State, Subscription},
};

/// Which index keys and kinds are in use, and by how many subscriptions.
///
/// Fed with rows of the change feed in any order and any number of times: the row with the later order wins.
#[derive(Debug, Default)]
pub struct Interest {
    subscriptions: HashMap<(Owner, String), Held, RandomState>,
    keys: HashMap<IndexKey, u32, RandomState>,
    kinds: HashMap<u16, u32, RandomState>,
    /// Subscriptions that name no kinds, and so want every kind.
    any_kind: u32,
}

#[derive(Debug)]
struct Held {
    order: Order,
    valid_until: Seconds,
    /// Empty once removed: the order alone must stay, or an older row read late would bring the keys back.
    keys: Vec<IndexKey>,
    kinds: Option<Vec<u16>>,
}

impl Interest {
    /// Takes in one row. Answers whether the keys or kinds in use changed.
    pub fn apply(&mut self, row: &Subscription, now: Seconds) -> bool {
        let id = (row.owner.clone(), row.subscription.clone());
        let active = row.state == State::Active && row.valid_until > now;
        if let Some(held) = self.subscriptions.get_mut(&id) {
            if !row.order.supersedes(&held.order) {
                return false;
            }
            if active && !held.keys.is_empty() {
                // The same identity is the same filter: only the lifetime is new.
                held.order = row.order;
                held.valid_until = row.valid_until;
                return false;
            }
        }
        let (keys, kinds) = if active { (row.filter.index_keys(), row.filter.kinds.clone()) } else { (Vec::new(), Some(Vec::new())) };
        let mut changed = self.count(&keys, kinds.as_deref(), true);
        let held = Held { order: row.order, valid_until: row.valid_until, keys, kinds };
        if let Some(old) = self.subscriptions.insert(id, held) {
            changed |= self.count(&old.keys, old.kinds.as_deref(), false);
        }
        changed
    }

    /// Forgets the subscriptions that are over. Answers whether the keys or kinds in use changed.
    pub fn expire(&mut self, now: Seconds) -> bool {
        let over: Vec<Held> = self.subscriptions.extract_if(|_, held| held.valid_until <= now).map(|(_, held)| held).collect();
        let mut changed = false;
        for held in &over {
            changed |= self.count(&held.keys, held.kinds.as_deref(), false);
        }
        changed
    }

    fn count(&mut self, keys: &[IndexKey], kinds: Option<&[u16]>, add: bool) -> bool {
        let mut changed = false;
        for key in keys {
            changed |= step(&mut self.keys, key, add);
        }
        match kinds {
            Some(kinds) => {
                for kind in kinds {
                    changed |= step(&mut self.kinds, kind, add);
                }
            }
            None if add => self.any_kind += 1,
            None => self.any_kind = self.any_kind.saturating_sub(1),
        }
        changed
    }

    /// Which of the event's index keys are in use, each once. Empty: nobody wants it.
    pub fn hits(&self, event: &Event) -> Vec<IndexKey> {
        let mut hits: Vec<IndexKey> = Vec::new();
        if self.wants_kind(event.kind.as_u16()) {
            for key in keys_of(event).filter(|key| self.holds(key)) {
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
        self.keys.contains_key(key)
    }

    /// The index keys in use, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &IndexKey> {
        self.keys.keys()
    }

    /// The kinds in use, sorted; `None` when a subscription wants every kind.
    pub fn kinds(&self) -> Option<Vec<u16>> {
        let mut kinds: Vec<u16> = self.kinds.keys().copied().collect();
        kinds.sort_unstable();
        (self.any_kind == 0).then_some(kinds)
    }
}

/// One more or one less of `key`. Answers whether it came into use or went out of it.
fn step<K: Clone + Eq + std::hash::Hash>(counts: &mut HashMap<K, u32, RandomState>, key: &K, add: bool) -> bool {
    if add {
        let count = counts.entry_ref(key).or_insert(0);
        *count += 1;
        return *count == 1;
    }
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        Some(_) => {
            counts.remove(key);
            return true;
        }
        None => {}
    }
    false
}
