//! Plans the REQs (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>) for content
//! that relays receive.
//!
//! A plan is *narrow* while the interest fits a relay's limits: its REQs name the index keys in
//! use. Beyond the limits it is *wide*: one REQ names the kinds in use. A plan changes as little as
//! possible. New keys get a REQ of their own, and when there are too many REQs, the two smallest
//! are merged. Keys that are no longer in use stay in their REQ until it is renewed, because the
//! gate drops the events that they bring. All relays of one class of limits share a plan.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use nostr_push_core::{
    MUTE_LIST_KIND, PRIVATE_KINDS, Seconds, hex, index_key::IndexKey, interest::Interest,
    is_private_kind,
};
use serde_json::{Value, json};

use crate::limits::Limits;

/// The most values per filter. Relays are known to accept 500.
const MAX_VALUES_PER_FILTER: usize = 500;

/// The bytes of one value in a REQ: 64 hex characters, two quotes and a comma.
const VALUE_BYTES: usize = 67;

/// The group of mute-list keys in `filters`. Not a NIP-01 field.
const MUTE_LIST_FIELD: &str = "mute_list";

/// How far wraps are backdated (NIP-59,
/// <https://github.com/nostr-protocol/nips/blob/master/59.md>). A relay applies `since` to live
/// events too, so a REQ for private kinds starts this much earlier.
const MAX_BACKDATING: Seconds = Seconds::from_days(2);

/// The REQs for content of a relay, by subscription id.
pub type Plan = Arc<BTreeMap<String, Arc<Req>>>;

/// One REQ without `since` and `limit`.
#[derive(Debug, PartialEq, Eq)]
pub struct Req {
    filters: Vec<ReqFilter>,
    /// The REQs whose keys this REQ has taken over. While they are live, it needs no stored events.
    pub parents: Vec<String>,
}

/// One filter of a REQ.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReqFilter {
    filter: Value,
    /// `true` if the filter requests kinds that may be backdated.
    is_private: bool,
}

/// The stored events that a REQ requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredRange {
    /// After an interruption: the events since this time, and all of private kinds that may have
    /// been sent since then.
    Resume(Seconds),
    /// For a new subscription: the events since this time, and none of private kinds, because older
    /// wraps are not meant for it.
    Recent(Seconds),
    /// No stored events, because other REQs have received them. Live events since this time.
    LiveOnly(Seconds),
}

impl StoredRange {
    /// The beginning of the range.
    pub fn since(self) -> Seconds {
        match self {
            Self::Resume(since) | Self::Recent(since) | Self::LiveOnly(since) => since,
        }
    }
}

/// The filters for the stored mute lists of these pubkeys. They have no `since`: a mute list is
/// written once and stays valid for years.
pub fn mute_list_filters(authors: &[[u8; 32]], limits: Limits) -> Vec<Value> {
    let authors: Vec<Value> = authors
        .iter()
        .map(|author| json!(hex::encode(author)))
        .collect();
    let values = MAX_VALUES_PER_FILTER
        .min(limits.message_bytes / VALUE_BYTES * 3 / 4)
        .max(1);
    authors
        .chunks(values)
        .map(|chunk| json!({"limit": limits.page, "kinds": [MUTE_LIST_KIND], "authors": chunk}))
        .collect()
}

impl Req {
    /// A REQ with this filter.
    pub fn new(filter: Value) -> Self {
        Self {
            filters: vec![ReqFilter {
                filter,
                is_private: false,
            }],
            parents: Vec::new(),
        }
    }

    /// The filters to send. `page` is the number of stored events to request per filter.
    pub fn filters(&self, stored: StoredRange, page: usize) -> Vec<Value> {
        let with_range = |req_filter: &ReqFilter| {
            let is_private = req_filter.is_private;
            let wants_stored = match stored {
                StoredRange::Resume(_) => true,
                StoredRange::Recent(_) => !is_private,
                StoredRange::LiveOnly(_) => false,
            };
            // The limit is never 0, because some relays treat that as no limit.
            let limit = if wants_stored { page } else { 1 };
            let since = if is_private {
                stored.since() - MAX_BACKDATING
            } else {
                stored.since()
            };
            let mut filter = req_filter.filter.clone();
            filter["since"] = json!(since);
            filter["limit"] = json!(limit);
            filter
        };
        self.filters.iter().map(with_range).collect()
    }
}

/// The plans of all classes of limits.
#[derive(Default)]
pub struct Plans(Mutex<HashMap<Limits, Planner>>);

impl Plans {
    /// The plan of this class for the interest as it is now.
    pub fn plan(&self, limits: Limits, interest: &Interest) -> Plan {
        let mut planners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        planners
            .entry(limits)
            .or_insert_with(|| Planner::new(limits))
            .plan(interest)
    }
}

/// Keeps the plan of one class of limits.
struct Planner {
    limits: Limits,
    slots: Vec<Slot>,
    /// The keys of all slots.
    assigned: HashSet<IndexKey>,
    /// The kinds that the filters name. `None` means every kind.
    kinds: Option<Vec<u16>>,
    wide: bool,
    /// The number of the next slot.
    next: u64,
    /// The version of the interest that `plan` follows.
    version: Option<u64>,
    plan: Plan,
}

/// One REQ and its keys.
struct Slot {
    number: u64,
    keys: Vec<IndexKey>,
    req: Arc<Req>,
}

impl Slot {
    /// The subscription id of the REQ.
    fn name(&self) -> String {
        format!("content-{}", self.number)
    }
}

impl Planner {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            assigned: HashSet::new(),
            kinds: Some(Vec::new()),
            wide: false,
            next: 0,
            version: None,
            plan: Plan::default(),
        }
    }

    fn plan(&mut self, interest: &Interest) -> Plan {
        if self.version != Some(interest.version()) {
            self.version = Some(interest.version());
            // A wide plan becomes narrow only far below the limit. Otherwise a single key could
            // replace the whole plan again and again.
            let capacity = if self.wide {
                self.capacity() / 2
            } else {
                self.capacity()
            };
            if interest.len() > capacity || !self.narrow(interest) {
                self.widen(interest);
            }
            let reqs = self
                .slots
                .iter()
                .map(|slot| (slot.name(), Arc::clone(&slot.req)));
            self.plan = Arc::new(reqs.collect());
        }
        Arc::clone(&self.plan)
    }

    /// The most REQs for content. Three subscriptions are kept free: one for control events, one
    /// for pages of stored events, and one for a REQ that replaces another.
    fn max_slots(&self) -> usize {
        self.limits.subscriptions.saturating_sub(3).max(1)
    }

    /// The number of filters that one chunk of values becomes.
    fn filters_per_chunk(&self) -> usize {
        if self.limits.filters > 1 { 2 } else { 1 }
    }

    fn values_per_req(&self) -> usize {
        let by_filters = self.limits.filters / self.filters_per_chunk() * MAX_VALUES_PER_FILTER;
        by_filters.min(self.limits.message_bytes / VALUE_BYTES / self.filters_per_chunk() * 3 / 4)
    }

    fn capacity(&self) -> usize {
        self.max_slots() * self.values_per_req()
    }

    /// Makes the plan follow the interest with as few changes as possible. Returns `false` if the
    /// interest does not fit.
    fn narrow(&mut self, interest: &Interest) -> bool {
        if self.wide {
            (self.wide, self.slots, self.assigned) = (false, Vec::new(), HashSet::new());
        }
        self.renew_slots(interest);
        self.add_slots(interest);
        self.merge_slots(interest)
    }

    /// Removes slots whose keys are no longer in use, and renews those with too many unused keys,
    /// or all if there are new kinds.
    fn renew_slots(&mut self, interest: &Interest) {
        let kinds = interest.kinds();
        let has_all_kinds = match (&self.kinds, &kinds) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(planned), Some(kinds)) => kinds.iter().all(|kind| planned.contains(kind)),
        };
        if !has_all_kinds {
            self.kinds = kinds;
        }
        for slot in std::mem::take(&mut self.slots) {
            let in_use = slot
                .keys
                .iter()
                .filter(|key| interest.contains(key))
                .count();
            if in_use == 0 {
                self.unassign(&slot.keys);
            } else if !has_all_kinds {
                // Without parents, because the old REQ has received no events of the new kinds.
                self.push_slot(slot.keys, Vec::new(), interest);
            } else if in_use * 2 < slot.keys.len() {
                let name = slot.name();
                self.push_slot(slot.keys, vec![name], interest);
            } else {
                self.slots.push(slot);
            }
        }
    }

    /// Adds slots for the keys that have none.
    fn add_slots(&mut self, interest: &Interest) {
        let mut added: Vec<IndexKey> = interest
            .keys()
            .filter(|key| !self.assigned.contains(*key))
            .cloned()
            .collect();
        added.sort_unstable();
        while !added.is_empty() {
            let rest = added.split_off(added.len().min(self.fitting_count(&added)));
            let chunk = std::mem::replace(&mut added, rest);
            self.push_slot(chunk, Vec::new(), interest);
        }
    }

    /// Merges the smallest slots while there are too many. Returns `false` if that is impossible.
    fn merge_slots(&mut self, interest: &Interest) -> bool {
        while self.slots.len() > self.max_slots() {
            self.slots.sort_by_key(|slot| Reverse(slot.keys.len()));
            let (Some(one), Some(two)) = (self.slots.pop(), self.slots.pop()) else {
                return false;
            };
            let parents = vec![one.name(), two.name()];
            let mut keys = [one.keys, two.keys].concat();
            keys.sort_unstable();
            if self.fitting_count(&keys) < keys.len() {
                return false;
            }
            self.push_slot(keys, parents, interest);
        }
        true
    }

    /// Adds a slot with those of the keys that are in use.
    fn push_slot(&mut self, mut keys: Vec<IndexKey>, parents: Vec<String>, interest: &Interest) {
        self.unassign(&keys);
        keys.retain(|key| interest.contains(key));
        let number = self.next;
        self.next += 1;
        self.assigned.extend(keys.iter().cloned());
        let req = Arc::new(Req {
            filters: self.filters(&keys),
            parents,
        });
        self.slots.push(Slot { number, keys, req });
    }

    fn unassign(&mut self, keys: &[IndexKey]) {
        for key in keys {
            self.assigned.remove(key);
        }
    }

    /// The number of keys, from the first on, that fit into one REQ. The keys must be sorted.
    fn fitting_count(&self, keys: &[IndexKey]) -> usize {
        let max_chunks = self.limits.filters / self.filters_per_chunk();
        let (mut chunks, mut in_chunk, mut current) = (0, 0, String::new());
        for (n, key) in keys.iter().take(self.values_per_req()).enumerate() {
            let dimension = key.dimension();
            if in_chunk == MAX_VALUES_PER_FILTER || dimension != current {
                (chunks, in_chunk, current) = (chunks + 1, 0, dimension);
            }
            if chunks > max_chunks {
                return n;
            }
            in_chunk += 1;
        }
        keys.len().min(self.values_per_req())
    }

    fn filters(&self, keys: &[IndexKey]) -> Vec<ReqFilter> {
        let mut fields: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for key in keys {
            let (field, value) = field_and_value(key);
            fields.entry(field).or_default().push(value);
        }
        let chunks = fields.iter().flat_map(|(field, values)| {
            values
                .chunks(MAX_VALUES_PER_FILTER)
                .map(move |chunk| (field, chunk))
        });
        let public = |filter: Value| {
            vec![ReqFilter {
                filter,
                is_private: false,
            }]
        };
        chunks
            .flat_map(|(field, values)| match field.as_str() {
                "kinds" => public(json!({"kinds": values})),
                MUTE_LIST_FIELD => public(json!({"kinds": [MUTE_LIST_KIND], "authors": values})),
                _ => self.split_by_kinds(&json!({field: values})),
            })
            .collect()
    }

    /// One filter for the private kinds and one for the others, because their `since` differs.
    fn split_by_kinds(&self, base: &Value) -> Vec<ReqFilter> {
        let with_kinds = |kinds: Option<Vec<u16>>, is_private| {
            let mut filter = base.clone();
            if let Some(kinds) = kinds {
                filter["kinds"] = json!(kinds);
            }
            ReqFilter { filter, is_private }
        };
        if self.filters_per_chunk() == 1 {
            return vec![with_kinds(self.kinds.clone(), true)];
        }
        let Some(kinds) = &self.kinds else {
            return vec![
                with_kinds(None, false),
                with_kinds(Some(PRIVATE_KINDS.to_vec()), true),
            ];
        };
        let (private, public): (Vec<u16>, Vec<u16>) =
            kinds.iter().partition(|kind| is_private_kind(**kind));
        [(public, false), (private, true)]
            .into_iter()
            .filter(|(kinds, _)| !kinds.is_empty())
            .map(|(kinds, is_private)| with_kinds(Some(kinds), is_private))
            .collect()
    }

    /// Replaces all REQs by one for all events of the kinds in use.
    fn widen(&mut self, interest: &Interest) {
        let mut kinds = interest.kinds();
        if let Some(kinds) = kinds.as_mut().filter(|_| interest.wants_mute_lists()) {
            kinds.push(MUTE_LIST_KIND);
            kinds.sort_unstable();
            kinds.dedup();
        }
        if self.wide && self.kinds == kinds {
            return;
        }
        (self.wide, self.kinds, self.assigned) = (true, kinds, HashSet::new());
        let number = self.next;
        self.next += 1;
        let req = Req {
            filters: self.split_by_kinds(&json!({})),
            parents: Vec::new(),
        };
        self.slots = vec![Slot {
            number,
            keys: Vec::new(),
            req: Arc::new(req),
        }];
    }
}

/// The filter field and the value that request a key. For a mute list the field is
/// [`MUTE_LIST_FIELD`].
fn field_and_value(key: &IndexKey) -> (String, Value) {
    match key {
        IndexKey::Id(id) => ("ids".to_owned(), json!(hex::encode(id))),
        IndexKey::Author(author) => ("authors".to_owned(), json!(hex::encode(author))),
        IndexKey::Tag(letter, value) => (format!("#{letter}"), json!(value)),
        IndexKey::Kind(kind) => ("kinds".to_owned(), json!(kind)),
        IndexKey::MuteList(author) => (MUTE_LIST_FIELD.to_owned(), json!(hex::encode(author))),
    }
}

#[cfg(test)]
mod tests;
