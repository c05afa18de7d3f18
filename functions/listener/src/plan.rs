//! Plans the REQs (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>) for content
//! that relays receive.
//!
//! A plan is *narrow* while the interest fits a relay's limits: its REQs name the index keys in
//! use. Beyond the limits it is *wide*: one REQ names the kinds in use. A plan changes as little as
//! possible. New keys get a REQ of their own, and when there are too many REQs, the two smallest
//! are merged. Keys that are no longer in use stay in their REQ until it is renewed, because the
//! gate drops the events that they bring. All relays of one class of limits share a plan.

mod kinds;
mod packing;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use nostr_push_core::{Seconds, index_key::IndexKey, interest::Interest};

use self::{
    kinds::NamedKinds,
    packing::{Packing, sorted},
};
use crate::{
    limits::Limits,
    req::{Coverage, MAX_VALUES_PER_FILTER, Req},
};

/// The subscriptions of a relay that a plan leaves free: one for control events, one for pages of
/// stored events, and one for a REQ that replaces another.
const RESERVED_SUBSCRIPTIONS: usize = 3;

/// Limits that many relays have. A relay gets the plan of the first class that is within its own
/// limits, so no relay can make the listener keep a plan for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PlanClass {
    subscriptions: usize,
    filters: usize,
    message_bytes: usize,
}

/// All classes. The last one has room for any single index key.
const PLAN_CLASSES: [PlanClass; 6] = [
    PlanClass::new(20, 10, 128 * 1024),
    PlanClass::new(20, 10, 64 * 1024),
    PlanClass::new(10, 5, 64 * 1024),
    PlanClass::new(8, 2, 32 * 1024),
    PlanClass::new(4, 2, 16 * 1024),
    PlanClass::new(3, 1, 4 * 1024),
];

impl PlanClass {
    const fn new(subscriptions: usize, filters: usize, message_bytes: usize) -> Self {
        Self {
            subscriptions,
            filters,
            message_bytes,
        }
    }

    fn of(limits: Limits) -> Option<Self> {
        PLAN_CLASSES.into_iter().find(|class| {
            class.subscriptions <= limits.subscriptions
                && class.filters <= limits.filters
                && class.message_bytes <= limits.message_bytes
        })
    }

    /// The most REQs for content.
    fn max_slots(self) -> usize {
        self.subscriptions
            .saturating_sub(RESERVED_SUBSCRIPTIONS)
            .max(1)
    }
}

/// The most REQs for new keys of a wide plan that are kept for relays which have not seen them.
const MAX_NEW_KEYS: usize = 64;

/// The most REQs for the keys that have come into use since a wide plan was last made.
const MAX_NEW_KEYS_AT_ONCE: usize = 4;

/// The REQs for content of a relay.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The REQs by subscription id.
    pub reqs: Arc<BTreeMap<String, Arc<Req>>>,
    /// The keys that have come into use while the plan was wide, by increasing number. Their stored
    /// events of the last minute must be requested once: the wide REQ has brought them before they
    /// were wanted.
    pub new_keys: Arc<[NewKeys]>,
}

/// Keys that have come into use while a plan was wide.
#[derive(Debug, Clone)]
pub struct NewKeys {
    /// Greater than the numbers of all earlier ones.
    pub number: u64,
    /// The filters for these keys.
    pub req: Arc<Req>,
}

/// The plans of all classes of limits.
#[derive(Default)]
pub struct Plans(Mutex<HashMap<PlanClass, Planner>>);

impl Plans {
    /// The plan for a relay with these limits and the interest as it is now. `None` if the limits
    /// are too low for any plan.
    pub fn plan(&self, limits: Limits, interest: &Interest, now: Seconds) -> Option<Plan> {
        let class = PlanClass::of(limits)?;
        let mut planners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let planner = planners.entry(class).or_insert_with(|| Planner::new(class));
        Some(planner.plan(interest, now))
    }
}

/// Keeps the plan of one class of limits.
struct Planner {
    class: PlanClass,
    slots: Vec<Slot>,
    /// The keys of all slots.
    assigned: HashMap<IndexKey, u64>,
    kinds: NamedKinds,
    wide: bool,
    /// `true` if the wide REQ requests mute lists.
    wide_has_mute_lists: bool,
    /// The number of the next slot.
    next: u64,
    /// The version of the interest that `plan` follows.
    version: Option<u64>,
    plan: Plan,
}

/// An index key and its number in the interest
/// ([`Interest::key_id`](nostr_push_core::interest::Interest::key_id)).
type Key = (IndexKey, u64);

/// One REQ and its keys.
struct Slot {
    number: u64,
    /// Sorted by field.
    keys: Vec<Key>,
    bytes: usize,
    req: Arc<Req>,
}

impl Planner {
    fn new(class: PlanClass) -> Self {
        Self {
            class,
            slots: Vec::new(),
            assigned: HashMap::new(),
            kinds: NamedKinds::new(Some(Vec::new()), class.filters),
            wide: false,
            wide_has_mute_lists: false,
            next: 0,
            version: None,
            plan: Plan::default(),
        }
    }

    fn plan(&mut self, interest: &Interest, now: Seconds) -> Plan {
        if self.version != Some(interest.version()) {
            let planned = self.version.replace(interest.version());
            let was_wide = self.wide;
            let has_new_kinds = self.kinds.follow(interest, now);
            if !self.narrow(interest, has_new_kinds) {
                self.widen(interest, has_new_kinds);
            }
            let named = |slot: &Slot| (format!("content-{}", slot.number), Arc::clone(&slot.req));
            let reqs = Arc::new(self.slots.iter().map(named).collect());
            let mut new_keys = self.plan.new_keys.to_vec();
            if let Some(planned) = planned.filter(|_| was_wide && self.wide) {
                new_keys.extend(self.new_keys(interest, planned));
                new_keys.drain(..new_keys.len().saturating_sub(MAX_NEW_KEYS));
            }
            self.plan = Plan {
                reqs,
                new_keys: new_keys.into(),
            };
        }
        self.plan.clone()
    }

    /// The keys that have come into use since this version of the interest.
    fn new_keys(&mut self, interest: &Interest, since: u64) -> Vec<NewKeys> {
        let slots = self.packed(keys_where(interest, |_, id| id >= since));
        let slots = slots.into_iter().take(MAX_NEW_KEYS_AT_ONCE);
        let new_keys = slots.map(|slot| NewKeys {
            number: slot.number,
            req: slot.req,
        });
        new_keys.collect()
    }

    /// Makes the plan follow the interest with as few changes as possible. Returns `false` if the
    /// interest does not fit into a narrow plan.
    fn narrow(&mut self, interest: &Interest, has_new_kinds: bool) -> bool {
        // A wide plan becomes narrow only far below the limit. Otherwise a single key could replace
        // the whole plan again and again.
        let max_slots = if self.wide {
            (self.class.max_slots() / 2).max(1)
        } else {
            self.class.max_slots()
        };
        if interest.len() > max_slots * self.class.filters * MAX_VALUES_PER_FILTER {
            return false;
        }
        if self.wide {
            return self.repack(interest, max_slots);
        }
        self.renew_slots(interest, has_new_kinds);
        let is_new = |key: &IndexKey, id| self.assigned.get(key) != Some(&id);
        let slots = self.packed(keys_where(interest, is_new));
        self.add_slots(slots);
        self.merge_slots(interest, max_slots) || self.repack(interest, max_slots)
    }

    /// Replaces all slots by as few as possible. Returns `false`, without a change, if there would
    /// be too many.
    fn repack(&mut self, interest: &Interest, max_slots: usize) -> bool {
        let slots = self.packed(keys_where(interest, |_, _| true));
        let fits = slots.len() <= max_slots;
        if fits {
            self.wide = false;
            self.slots.clear();
            self.assigned.clear();
            self.add_slots(slots);
        }
        fits
    }

    /// Removes slots whose keys are no longer in use, and renews those with too many unused keys,
    /// or all if the kinds changed.
    fn renew_slots(&mut self, interest: &Interest, has_new_kinds: bool) {
        for mut slot in std::mem::take(&mut self.slots) {
            let count = slot.keys.len();
            let (in_use, unused): (Vec<Key>, Vec<Key>) = std::mem::take(&mut slot.keys)
                .into_iter()
                .partition(|(key, id)| interest.key_id(key) == Some(*id));
            for (key, id) in &unused {
                if self.assigned.get(key) == Some(id) {
                    self.assigned.remove(key);
                }
            }
            if !in_use.is_empty() && !has_new_kinds && in_use.len() * 2 >= count {
                slot.keys = [in_use, unused].concat();
                self.slots.push(slot);
            } else {
                let slots = self.packed(in_use);
                self.add_slots(slots);
            }
        }
    }

    /// Merges the smallest slots while there are too many. Returns `false` if that is impossible.
    fn merge_slots(&mut self, interest: &Interest, max_slots: usize) -> bool {
        while self.slots.len() > max_slots {
            self.slots.sort_by_key(|slot| Reverse(slot.bytes));
            let Some([one, two]) = self.slots.last_chunk() else {
                return false;
            };
            let keys = [one, two].into_iter().flat_map(|slot| &slot.keys);
            let keys = keys.filter(|(key, id)| interest.key_id(key) == Some(*id));
            let keys = keys.cloned();
            let merged = self.packed(sorted(keys.collect()));
            if merged.len() > 1 {
                return false;
            }
            self.slots.truncate(self.slots.len() - 2);
            self.add_slots(merged);
        }
        true
    }

    fn add_slots(&mut self, slots: Vec<Slot>) {
        for slot in slots {
            self.assigned.extend(slot.keys.iter().cloned());
            self.slots.push(slot);
        }
    }

    /// Packs sorted keys into as few slots as possible. The smallest class has room for any single
    /// key.
    fn packed(&mut self, mut keys: Vec<Key>) -> Vec<Slot> {
        let mut slots = Vec::new();
        while !keys.is_empty() {
            let mut packing = Packing::new(self.class, &self.kinds);
            let fitting = keys.iter().take_while(|(key, _)| packing.add(key)).count();
            let rest = keys.split_off(fitting.max(1));
            let keys = std::mem::replace(&mut keys, rest);
            let mut ids: Vec<u64> = keys.iter().map(|(_, id)| *id).collect();
            ids.sort_unstable();
            slots.push(Slot {
                number: self.next,
                keys,
                bytes: packing.bytes,
                req: Arc::new(Req {
                    filters: packing.filters(),
                    coverage: Coverage {
                        keys: Some(ids.into()),
                        kinds: self.kinds.boxed(),
                    },
                }),
            });
            self.next += 1;
        }
        slots
    }

    /// Replaces all REQs by one for all events of the kinds in use.
    fn widen(&mut self, interest: &Interest, has_new_kinds: bool) {
        let mute_lists = interest.wants_mute_lists();
        if self.wide && !has_new_kinds && (!mute_lists || self.wide_has_mute_lists) {
            return;
        }
        (self.wide, self.wide_has_mute_lists) = (true, mute_lists);
        let req = Req {
            filters: self.kinds.wide_filters(mute_lists),
            coverage: Coverage {
                keys: None,
                kinds: self.kinds.boxed(),
            },
        };
        self.assigned.clear();
        self.slots = vec![Slot {
            number: self.next,
            keys: Vec::new(),
            bytes: 0,
            req: Arc::new(req),
        }];
        self.next += 1;
    }
}

/// The keys in use that meet a condition, sorted by field. Only these are copied.
fn keys_where(interest: &Interest, condition: impl Fn(&IndexKey, u64) -> bool) -> Vec<Key> {
    let keys = interest.keys().filter(|(key, id)| condition(key, *id));
    sorted(keys.map(|(key, id)| (key.clone(), id)).collect())
}
