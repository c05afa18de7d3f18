//! Which REQs the interest asks of relays.
//!
//! *Narrow*, by the index keys in use, while they fit a relay's limits; *wide*, by the kinds in
//! use, beyond. A plan changes by little: new keys get a REQ of their own, and only when there are
//! too many REQs are the smallest made into one. Keys that nobody wants any more stay in their REQ
//! until it is made anew, because the interest drops what they bring. All relays of one class of
//! limits share a plan.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use nostr_push_core::{
    DAY, MUTE_LIST, PRIVATE_KINDS, Seconds,
    filter::hex,
    index_key::{IndexKey, TagValue},
    interest::Interest,
    is_private,
};
use serde_json::{Value, json};

use crate::limits::Limits;

/// Values per filter: what relays are known to take.
const VALUES: usize = 500;

/// Bytes of a value in a REQ: 64 hex characters, quotes and comma.
const VALUE_BYTES: usize = 67;

/// What stands for mute lists among the fields of filters.
const MUTE_LISTS: &str = "mute_list";

/// NIP-59 wraps are backdated up to two days, and `since` holds for live events too.
const BACKDATED: Seconds = 2 * DAY;

/// The REQs a relay shall hold, by subscription id.
pub type Plan = Arc<BTreeMap<String, Arc<Req>>>;

/// One REQ, but for its `since`.
#[derive(Debug, PartialEq, Eq)]
pub struct Req {
    filters: Vec<Asked>,
    /// The REQs whose keys it took over. While these are open, it has nothing to make up for.
    pub parents: Vec<String>,
}

/// One filter, and whether it asks for backdated kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    filter: Value,
    private: bool,
}

/// Which stored events a REQ asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// All since then, and of private kinds all that may have been sent since then: after a
    /// disconnection.
    Since(Seconds),
    /// Those since then. Of private kinds none: to a new subscription an older wrap is none of its
    /// own.
    Fresh(Seconds),
    /// None: other REQs have brought them.
    None(Seconds),
}

impl Stored {
    /// From when on.
    pub fn since(self) -> Seconds {
        match self {
            Self::Since(since) | Self::Fresh(since) | Self::None(since) => since,
        }
    }
}

/// The filter for the mute lists of these pubkeys.
fn mute_lists(authors: &[Value]) -> Value {
    json!({"kinds": [MUTE_LIST], "authors": authors})
}

/// The filters for the mute lists of these pubkeys, however old: they are written once and kept for
/// years.
pub fn stored_mute_lists(authors: &[[u8; 32]], limits: Limits) -> Vec<Value> {
    let authors: Vec<Value> = authors.iter().map(|author| json!(hex(author))).collect();
    let values = VALUES.min(limits.message / VALUE_BYTES * 3 / 4).max(1);
    authors
        .chunks(values)
        .map(|chunk| json!({"limit": limits.page, "kinds": [MUTE_LIST], "authors": chunk}))
        .collect()
}

impl Req {
    /// A REQ with this filter.
    pub fn new(filter: Value) -> Self {
        Self {
            filters: vec![Asked {
                filter,
                private: false,
            }],
            parents: Vec::new(),
        }
    }

    /// The filters to send. `page` is how many stored events to ask for.
    pub fn filters(&self, stored: Stored, page: usize) -> Vec<Value> {
        let asked = |asked: &Asked| {
            let (since, limit) = match stored {
                Stored::Since(since) => (since, page),
                Stored::Fresh(since) => (since, if asked.private { 1 } else { page }),
                // Not 0: some relays take that for "no limit".
                Stored::None(since) => (since, 1),
            };
            let mut filter = asked.filter.clone();
            filter["since"] = json!(if asked.private {
                since.saturating_sub(BACKDATED)
            } else {
                since
            });
            filter["limit"] = json!(limit);
            filter
        };
        self.filters.iter().map(asked).collect()
    }
}

/// The plans of all classes of limits.
#[derive(Default)]
pub struct Plans(Mutex<HashMap<Limits, Planner>>);

impl Plans {
    /// The plan for relays of this class, in line with the interest as it is now.
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
    /// The kinds that the filters name; `None`: every kind.
    kinds: Option<Vec<u16>>,
    wide: bool,
    next: u64,
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
    /// The subscription id of its REQ.
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
            // Back to narrow only when well below, or one key would turn everything over and over.
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

    /// REQs for content: all but one for control events, one for pages of stored ones, and one in
    /// exchange.
    fn max_slots(&self) -> usize {
        self.limits.subscriptions.saturating_sub(3).max(1)
    }

    /// Filters that one chunk of values becomes.
    fn per_chunk(&self) -> usize {
        if self.limits.filters > 1 { 2 } else { 1 }
    }

    fn values_per_req(&self) -> usize {
        let by_filters = self.limits.filters / self.per_chunk() * VALUES;
        by_filters.min(self.limits.message / VALUE_BYTES / self.per_chunk() * 3 / 4)
    }

    fn capacity(&self) -> usize {
        self.max_slots() * self.values_per_req()
    }

    /// Follows the interest with as few changes as possible. Answers whether it fits.
    fn narrow(&mut self, interest: &Interest) -> bool {
        if self.wide {
            (self.wide, self.slots, self.assigned) = (false, Vec::new(), HashSet::new());
        }
        let kinds = interest.kinds();
        let covered = match (&self.kinds, &kinds) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(asked), Some(kinds)) => kinds.iter().all(|kind| asked.contains(kind)),
        };
        if !covered {
            self.kinds = kinds;
        }
        for slot in std::mem::take(&mut self.slots) {
            let live = slot
                .keys
                .iter()
                .filter(|key| interest.contains(key))
                .count();
            if live == 0 {
                self.forget(&slot.keys);
            } else if !covered {
                // No parents: of the new kinds the old REQ has brought nothing.
                self.renew(slot.keys, Vec::new(), interest);
            } else if live * 2 < slot.keys.len() {
                let name = slot.name();
                self.renew(slot.keys, vec![name], interest);
            } else {
                self.slots.push(slot);
            }
        }
        let mut added: Vec<IndexKey> = interest
            .keys()
            .filter(|key| !self.assigned.contains(*key))
            .cloned()
            .collect();
        added.sort_unstable();
        while !added.is_empty() {
            let rest = added.split_off(added.len().min(self.fitting(&added)));
            let chunk = std::mem::replace(&mut added, rest);
            self.renew(chunk, Vec::new(), interest);
        }
        while self.slots.len() > self.max_slots() {
            self.slots
                .sort_by_key(|slot| std::cmp::Reverse(slot.keys.len()));
            let (Some(one), Some(two)) = (self.slots.pop(), self.slots.pop()) else {
                return false;
            };
            let parents = vec![one.name(), two.name()];
            let mut keys = [one.keys, two.keys].concat();
            keys.sort_unstable();
            if self.fitting(&keys) < keys.len() {
                return false;
            }
            self.renew(keys, parents, interest);
        }
        true
    }

    /// A slot with those of the keys that are still wanted.
    fn renew(&mut self, mut keys: Vec<IndexKey>, parents: Vec<String>, interest: &Interest) {
        self.forget(&keys);
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

    fn forget(&mut self, keys: &[IndexKey]) {
        for key in keys {
            self.assigned.remove(key);
        }
    }

    /// How many of the keys, which are sorted, fit one REQ.
    fn fitting(&self, keys: &[IndexKey]) -> usize {
        let chunks = self.limits.filters / self.per_chunk();
        let (mut used, mut in_chunk, mut current) = (0, 0, String::new());
        for (n, key) in keys.iter().take(self.values_per_req()).enumerate() {
            let dimension = key.dimension();
            if in_chunk == VALUES || dimension != current {
                (used, in_chunk, current) = (used + 1, 0, dimension);
            }
            if used > chunks {
                return n;
            }
            in_chunk += 1;
        }
        keys.len().min(self.values_per_req())
    }

    fn filters(&self, keys: &[IndexKey]) -> Vec<Asked> {
        let mut dimensions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for key in keys {
            let (field, value) = match key {
                IndexKey::Id(id) => ("ids".to_owned(), json!(hex(id))),
                IndexKey::Author(author) => ("authors".to_owned(), json!(hex(author))),
                IndexKey::Tag(letter, TagValue::Hex(bytes)) => {
                    (format!("#{letter}"), json!(hex(bytes)))
                }
                IndexKey::Tag(letter, TagValue::Text(text)) => (format!("#{letter}"), json!(text)),
                IndexKey::Kind(kind) => ("kinds".to_owned(), json!(kind)),
                IndexKey::MuteList(author) => (MUTE_LISTS.to_owned(), json!(hex(author))),
            };
            dimensions.entry(field).or_default().push(value);
        }
        let chunks = dimensions
            .iter()
            .flat_map(|(field, values)| values.chunks(VALUES).map(move |chunk| (field, chunk)));
        chunks
            .flat_map(|(field, values)| match field.as_str() {
                "kinds" => vec![Asked {
                    filter: json!({"kinds": values}),
                    private: false,
                }],
                MUTE_LISTS => vec![Asked {
                    filter: mute_lists(values),
                    private: false,
                }],
                _ => self.by_kinds(&json!({field: values})),
            })
            .collect()
    }

    /// The filter for the kinds that are not backdated, and the filter for those that are: they go
    /// back differently far.
    fn by_kinds(&self, base: &Value) -> Vec<Asked> {
        let with = |kinds: Option<Vec<u16>>, private| {
            let mut filter = base.clone();
            if let Some(kinds) = kinds {
                filter["kinds"] = json!(kinds);
            }
            Asked { filter, private }
        };
        if self.per_chunk() == 1 {
            return vec![with(self.kinds.clone(), true)];
        }
        let Some(kinds) = &self.kinds else {
            return vec![with(None, false), with(Some(PRIVATE_KINDS.to_vec()), true)];
        };
        let (private, public): (Vec<u16>, Vec<u16>) =
            kinds.iter().partition(|kind| is_private(**kind));
        [(public, false), (private, true)]
            .into_iter()
            .filter(|(kinds, _)| !kinds.is_empty())
            .map(|(kinds, private)| with(Some(kinds), private))
            .collect()
    }

    /// One REQ for everything of the kinds in use.
    fn widen(&mut self, interest: &Interest) {
        let mut kinds = interest.kinds();
        if let Some(kinds) = kinds.as_mut().filter(|_| interest.wants_mute_lists()) {
            kinds.push(MUTE_LIST);
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
            filters: self.by_kinds(&json!({})),
            parents: Vec::new(),
        };
        self.slots = vec![Slot {
            number,
            keys: Vec::new(),
            req: Arc::new(req),
        }];
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nostr_push_core::owner::Owner;
    use nostr_push_core::subscription::{State, Subscription};
    use nostr_push_testkit::subscription;
    use proptest::prelude::*;

    use super::*;

    fn owner() -> Owner {
        Owner {
            app: "demo".to_owned(),
            pubkey: nostr::key::Keys::parse(&"11".repeat(32))
                .unwrap()
                .public_key(),
        }
    }

    fn interest(filters: &[Value]) -> Interest {
        let mut interest = Interest::default();
        for filter in filters {
            interest.apply(&subscription(&owner(), filter), 1);
        }
        interest
    }

    fn mention(n: usize) -> Value {
        json!({"kinds": [1, 1059], "#p": [format!("{n:064x}")]})
    }

    fn ids(plan: &Plan) -> BTreeSet<String> {
        plan.keys().cloned().collect()
    }

    #[test]
    fn private_kinds_are_asked_for_from_further_back_and_not_at_all_for_a_new_subscription() {
        let p = "ab".repeat(32);
        let plan = Plans::default().plan(
            Limits::default(),
            &interest(&[json!({"kinds": [1, 1059], "#p": [p]})]),
        );
        let req = plan.values().next().unwrap();
        let (public, private) = (
            json!({"#p": [p], "kinds": [1]}),
            json!({"#p": [p], "kinds": [1059]}),
        );
        let with = |filter: &Value, since: u64, limit: usize| {
            let mut filter = filter.clone();
            (filter["since"], filter["limit"]) = (json!(since), json!(limit));
            filter
        };
        let early = 1_000_000 - BACKDATED;
        assert_eq!(
            req.filters(Stored::Since(1_000_000), 500),
            [with(&public, 1_000_000, 500), with(&private, early, 500)]
        );
        assert_eq!(
            req.filters(Stored::Fresh(1_000_000), 500),
            [with(&public, 1_000_000, 500), with(&private, early, 1)]
        );
        assert_eq!(
            req.filters(Stored::None(1_000_000), 500),
            [with(&public, 1_000_000, 1), with(&private, early, 1)]
        );
    }

    #[test]
    fn one_more_subscriber_costs_one_small_req() {
        let plans = Plans::default();
        let mut interest = interest(&(0..1_000).map(mention).collect::<Vec<_>>());
        let mut before = plans.plan(Limits::default(), &interest);
        let mut sent = 0;
        for n in 1_000..1_500 {
            interest.apply(&subscription(&owner(), &mention(n)), 1);
            let after = plans.plan(Limits::default(), &interest);
            let new: Vec<&String> = after
                .keys()
                .filter(|id| !before.contains_key(*id))
                .collect();
            assert!(new.len() <= 2, "{new:?}");
            let values = |req: &Arc<Req>| req.filters[0].filter["#p"].as_array().unwrap().len();
            sent += new.iter().map(|id| values(&after[*id])).sum::<usize>();
            assert!(after.len() <= 17);
            before = after;
        }
        assert!(sent < 500 * 20, "{sent} values sent for 500 subscribers");
    }

    #[test]
    fn what_is_not_wanted_any_more_costs_nothing_until_half_of_a_req_is() {
        let plans = Plans::default();
        let mut interest = interest(&(0..100).map(mention).collect::<Vec<_>>());
        let before = ids(&plans.plan(Limits::default(), &interest));
        let remove = |interest: &mut Interest, n: usize| {
            let row = subscription(&owner(), &mention(n));
            let order = nostr_push_core::order::Order::counter(2);
            interest.apply(
                &Subscription {
                    state: State::Removed,
                    order,
                    ..row
                },
                1,
            );
        };
        (0..50).for_each(|n| remove(&mut interest, n));
        assert_eq!(ids(&plans.plan(Limits::default(), &interest)), before);
        remove(&mut interest, 50);
        assert_ne!(ids(&plans.plan(Limits::default(), &interest)), before);
        (51..100).for_each(|n| remove(&mut interest, n));
        assert!(plans.plan(Limits::default(), &interest).is_empty());
    }

    #[test]
    fn a_kind_that_is_new_is_asked_for_from_the_start_and_a_merged_req_is_not() {
        let plans = Plans::default();
        let mut interest = interest(&[mention(0)]);
        plans.plan(Limits::default(), &interest);
        interest.apply(
            &subscription(
                &owner(),
                &json!({"kinds": [7], "#p": [format!("{:064x}", 0)]}),
            ),
            1,
        );
        assert!(
            plans
                .plan(Limits::default(), &interest)
                .values()
                .all(|req| req.parents.is_empty())
        );
        (1..30).for_each(|n| {
            interest.apply(&subscription(&owner(), &mention(n)), 1);
            plans.plan(Limits::default(), &interest);
        });
        assert!(
            plans
                .plan(Limits::default(), &interest)
                .values()
                .any(|req| req.parents.len() == 2)
        );
    }

    #[test]
    fn beyond_the_limits_it_is_wide_and_back_only_when_well_below() {
        let plans = Plans::default();
        let limits = Limits {
            subscriptions: 3,
            filters: 2,
            ..Limits::default()
        };
        let mut interest = interest(&(0..500).map(mention).collect::<Vec<_>>());
        assert!(
            plans
                .plan(limits, &interest)
                .values()
                .all(|req| req.filters[0].filter.get("#p").is_some())
        );
        interest.apply(&subscription(&owner(), &mention(500)), 1);
        let wide = plans.plan(limits, &interest);
        assert_eq!(
            wide.values().next().unwrap().filters(Stored::None(9), 1)[0],
            json!({"kinds": [1], "since": 9, "limit": 1})
        );
        interest.apply(&subscription(&owner(), &mention(501)), 1);
        assert_eq!(
            ids(&plans.plan(limits, &interest)),
            ids(&wide),
            "more of the same changes nothing"
        );
        assert!(
            plans.plan(Limits::default(), &interest).len() <= 17,
            "for others it is narrow"
        );
    }

    #[test]
    fn no_interest_asks_for_nothing() {
        assert!(
            Plans::default()
                .plan(Limits::default(), &Interest::default())
                .is_empty()
        );
    }

    proptest! {
        /// Whatever comes and goes: every key in use is in exactly one REQ, and every REQ is within
        /// the limits.
        #[test]
        fn every_key_is_asked_for_within_the_limits(
            steps in prop::collection::vec((0..60usize, 0..4usize, any::<bool>()), 1..80),
            subscriptions in prop_oneof![Just(3usize), Just(10)],
            filters in prop_oneof![Just(1usize), Just(2), Just(10)],
        ) {
            let limits = Limits { subscriptions, filters, ..Limits::default() };
            let (plans, mut interest) = (Plans::default(), Interest::default());
            for (at, (n, dimension, active)) in steps.into_iter().enumerate() {
                let key = format!("{n:064x}");
                let filter = [json!({"kinds": [1], "#p": [key]}), json!({"authors": [key]}), json!({"kinds": [4], "#e": [key]}), json!({"kinds": [7], "#h": [format!("g{n}")]})][dimension].clone();
                let order = nostr_push_core::order::Order::counter(at as u64 + 1);
                let state = if active { State::Active } else { State::Removed };
                interest.apply(&Subscription { state, order, ..subscription(&owner(), &filter) }, 1);
                let plan = plans.plan(limits, &interest);
                prop_assert!(plan.len() <= limits.subscriptions.saturating_sub(3).max(1));
                let mut asked: Vec<String> = Vec::new();
                let mut wide = false;
                for req in plan.values() {
                    prop_assert!(req.filters.len() <= limits.filters, "{req:?}");
                    for Asked { filter, .. } in &req.filters {
                        let fields = filter.as_object().unwrap();
                        wide |= fields.keys().all(|field| field == "kinds");
                        for (field, values) in fields.iter().filter(|(field, _)| *field != "kinds") {
                            let name = if field == "authors" { "author" } else { field };
                            asked.extend(values.as_array().unwrap().iter().map(|value| format!("{name}:{}", value.as_str().unwrap())));
                        }
                    }
                }
                asked.sort();
                asked.dedup();
                prop_assert!(wide || interest.keys().all(|key| asked.contains(&key.to_string())));
                let kinds = interest.kinds();
                let any_kind = |asked: &Asked| asked.filter.get("kinds").is_none() || kinds.is_some() || asked.private;
                prop_assert!(plan.values().flat_map(|req| &req.filters).all(any_kind));
            }
        }
    }
}
