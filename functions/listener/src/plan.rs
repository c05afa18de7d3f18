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
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use nostr_push_core::{
    MUTE_LIST_KIND, PRIVATE_KINDS, Seconds, hex, index_key::IndexKey, interest::Interest,
    is_private_kind,
};
use serde_json::json;

use crate::{
    limits::Limits,
    req::{
        Coverage, EventClass, MAX_ENVELOPE_BYTES, MAX_RANGE_BYTES, MAX_VALUES_PER_FILTER, Req,
        ReqFilter,
    },
};

/// The most kinds that a filter names. If more are in use, filters name none. So no owner can make
/// the REQs for other owners' keys longer than that. NIP-11 has no field for this limit.
/// `@nostr-relay/validator` refuses more than 20 by default.
const MAX_NAMED_KINDS: usize = 20;

/// The time in which changes of the named kinds are counted, and how long filters stay without
/// kinds after there were too many.
const KINDS_CHANGE_WINDOW: Seconds = Seconds::from_hours(1);

/// The most changes of the named kinds in a window. Each renews all REQs of all relays. After more
/// changes, filters name no kinds, so nobody can cause more renewals.
const MAX_KINDS_CHANGES: u32 = 5;

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

/// The REQs for content of a relay, by subscription id.
pub type Plan = Arc<BTreeMap<String, Arc<Req>>>;

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
    assigned: HashSet<IndexKey>,
    kinds: NamedKinds,
    wide: bool,
    /// `true` if the wide REQ requests mute lists.
    wide_has_mute_lists: bool,
    /// The number of the next slot.
    next: u64,
    /// The version of the interest that `plan` follows.
    version: Option<u64>,
    plan: Plan,
    hasher: RandomState,
}

/// One REQ and its keys.
struct Slot {
    number: u64,
    /// Sorted by field.
    keys: Vec<IndexKey>,
    bytes: usize,
    req: Arc<Req>,
}

impl Planner {
    fn new(class: PlanClass) -> Self {
        Self {
            class,
            slots: Vec::new(),
            assigned: HashSet::new(),
            kinds: NamedKinds::new(Some(Vec::new()), class.filters),
            wide: false,
            wide_has_mute_lists: false,
            next: 0,
            version: None,
            plan: Plan::default(),
            hasher: RandomState::new(),
        }
    }

    fn plan(&mut self, interest: &Interest, now: Seconds) -> Plan {
        if self.version != Some(interest.version()) {
            self.version = Some(interest.version());
            let has_new_kinds = self.follow_kinds(interest, now);
            if !self.narrow(interest, has_new_kinds) {
                self.widen(interest, has_new_kinds);
            }
            let named = |slot: &Slot| (format!("content-{}", slot.number), Arc::clone(&slot.req));
            self.plan = Arc::new(self.slots.iter().map(named).collect());
        }
        Arc::clone(&self.plan)
    }

    /// Renews the kinds that filters name. Returns `true` if all REQs must be renewed.
    fn follow_kinds(&mut self, interest: &Interest, now: Seconds) -> bool {
        let is_over = self.kinds.window_began + KINDS_CHANGE_WINDOW < now;
        let (window_began, changes) = if is_over {
            (now, 0)
        } else {
            (self.kinds.window_began, self.kinds.changes)
        };
        let named = match (&self.kinds.named, interest.kinds()) {
            (Some(named), Some(in_use)) => {
                if in_use.iter().all(|kind| named.contains(kind)) {
                    return false;
                }
                // Kinds that are no longer in use stay, so that they cause no change again.
                let mut union: Vec<u16> = named.iter().copied().chain(in_use).collect();
                union.sort_unstable();
                union.dedup();
                Some(union).filter(|union| union.len() <= MAX_NAMED_KINDS)
            }
            (Some(_), None) => None,
            (None, Some(in_use)) if is_over && in_use.len() <= MAX_NAMED_KINDS / 2 => Some(in_use),
            (None, _) => return false,
        };
        let named = named.filter(|_| changes < MAX_KINDS_CHANGES);
        self.kinds = NamedKinds {
            window_began,
            changes: changes + 1,
            ..NamedKinds::new(named, self.class.filters)
        };
        true
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
        let added = interest.keys().filter(|key| !self.assigned.contains(*key));
        let slots = self.packed(sorted(added.cloned().collect()));
        self.add_slots(slots);
        self.merge_slots(interest, max_slots) || self.repack(interest, max_slots)
    }

    /// Replaces all slots by as few as possible. Returns `false`, without a change, if there would
    /// be too many.
    fn repack(&mut self, interest: &Interest, max_slots: usize) -> bool {
        let slots = self.packed(sorted(interest.keys().cloned().collect()));
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
        for slot in std::mem::take(&mut self.slots) {
            let is_in_use = |key: &&IndexKey| interest.contains(key);
            let in_use = slot.keys.iter().filter(is_in_use).count();
            if in_use > 0 && !has_new_kinds && in_use * 2 >= slot.keys.len() {
                self.slots.push(slot);
                continue;
            }
            for key in &slot.keys {
                self.assigned.remove(key);
            }
            let mut keys = slot.keys;
            keys.retain(|key| interest.contains(key));
            let slots = self.packed(keys);
            self.add_slots(slots);
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
            let keys = keys.filter(|key| interest.contains(key)).cloned();
            let merged = self.packed(sorted(keys.collect()));
            if merged.len() > 1 {
                return false;
            }
            for slot in self.slots.drain(self.slots.len() - 2..) {
                for key in &slot.keys {
                    self.assigned.remove(key);
                }
            }
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
    fn packed(&mut self, mut keys: Vec<IndexKey>) -> Vec<Slot> {
        let mut slots = Vec::new();
        while !keys.is_empty() {
            let mut packing = Packing::new(self.class, &self.kinds);
            let fitting = keys.iter().take_while(|key| packing.add(key)).count();
            let rest = keys.split_off(fitting.max(1));
            let keys = std::mem::replace(&mut keys, rest);
            let mut hashes: Vec<u64> = keys.iter().map(|key| self.hasher.hash_one(key)).collect();
            hashes.sort_unstable();
            slots.push(Slot {
                number: self.next,
                keys,
                bytes: packing.bytes,
                req: Arc::new(Req {
                    filters: packing.filters(),
                    coverage: Coverage {
                        keys: Some(hashes.into()),
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
            filters: self.kinds.wide_filters(mute_lists, self.class.filters),
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

/// The kinds that filters name.
struct NamedKinds {
    /// Sorted. `None` means that filters name no kinds.
    named: Option<Vec<u16>>,
    /// The `kinds` fields of the filters that one list of values becomes, each with the events that
    /// it selects. An empty field selects every kind.
    fields: Vec<(String, EventClass)>,
    /// When the window began in which changes are counted.
    window_began: Seconds,
    /// The number of changes in the window.
    changes: u32,
}

impl NamedKinds {
    fn new(mut named: Option<Vec<u16>>, max_filters: usize) -> Self {
        if let Some(named) = &mut named {
            named.sort_unstable();
        }
        let field = |kinds: &[u16]| format!("\"kinds\":{}", json!(kinds));
        let fields = if max_filters == 1 {
            let field = named.as_deref().map(field).unwrap_or_default();
            vec![(field, EventClass::Private)]
        } else if let Some(named) = &named {
            let (private, public): (Vec<u16>, Vec<u16>) =
                named.iter().partition(|kind| is_private_kind(**kind));
            let classes = [(public, EventClass::Public), (private, EventClass::Private)];
            let classes = classes.into_iter().filter(|(kinds, _)| !kinds.is_empty());
            classes
                .map(|(kinds, class)| (field(&kinds), class))
                .collect()
        } else {
            vec![
                (String::new(), EventClass::Public),
                (field(&PRIVATE_KINDS), EventClass::Private),
            ]
        };
        Self {
            named,
            fields,
            window_began: Seconds(0),
            changes: 0,
        }
    }

    fn boxed(&self) -> Option<Box<[u16]>> {
        self.named.as_deref().map(Into::into)
    }

    /// The filters of a wide REQ. Mute lists have a filter of their own, because they are valid at
    /// any age. If there is no room for it, the first filter requests them with the public kinds.
    fn wide_filters(&self, mute_lists: bool, max_filters: usize) -> Vec<ReqFilter> {
        let filter = |kinds: &str, class| ReqFilter {
            body: format!("{{{kinds}").into(),
            class,
        };
        let fields = self.fields.iter();
        let mut filters: Vec<ReqFilter> =
            fields.map(|(kinds, class)| filter(kinds, *class)).collect();
        if mute_lists && filters.len() < max_filters {
            let kinds = format!("\"kinds\":[{MUTE_LIST_KIND}]");
            filters.push(filter(&kinds, EventClass::MuteList));
        } else if mute_lists
            && let Some(named) = &self.named
            && let Some((_, class)) = self.fields.first()
        {
            let is_in_first = |kind: &u16| max_filters == 1 || !is_private_kind(*kind);
            let kinds = named.iter().copied().filter(is_in_first);
            let kinds: Vec<u16> = kinds.chain([MUTE_LIST_KIND]).collect();
            filters.splice(
                ..1,
                [filter(&format!("\"kinds\":{}", json!(kinds)), *class)],
            );
        }
        filters
    }
}

/// The field of a filter that requests an index key. Keys of one field share filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    Ids,
    Authors,
    MuteLists,
    Tag(char),
    PublicKinds,
    PrivateKinds,
}

impl Field {
    fn of(key: &IndexKey) -> Self {
        match key {
            IndexKey::Id(_) => Self::Ids,
            IndexKey::Author(_) => Self::Authors,
            IndexKey::MuteList(_) => Self::MuteLists,
            IndexKey::Tag(letter, _) => Self::Tag(*letter),
            IndexKey::Kind(kind) if is_private_kind(*kind) => Self::PrivateKinds,
            IndexKey::Kind(_) => Self::PublicKinds,
        }
    }

    /// The name of the field, quoted.
    fn name(self) -> String {
        match self {
            Self::Ids => "\"ids\"".to_owned(),
            Self::Authors | Self::MuteLists => "\"authors\"".to_owned(),
            Self::Tag(letter) => format!("\"#{letter}\""),
            Self::PublicKinds | Self::PrivateKinds => "\"kinds\"".to_owned(),
        }
    }

    /// The `kinds` fields of the filters that a list of values becomes.
    fn kinds(self, named: &NamedKinds) -> Vec<(String, EventClass)> {
        match self {
            Self::Ids | Self::Authors | Self::Tag(_) => named.fields.clone(),
            Self::MuteLists => {
                vec![(
                    format!("\"kinds\":[{MUTE_LIST_KIND}]"),
                    EventClass::MuteList,
                )]
            }
            Self::PublicKinds => vec![(String::new(), EventClass::Public)],
            Self::PrivateKinds => vec![(String::new(), EventClass::Private)],
        }
    }

    fn max_values(self) -> usize {
        match self {
            Self::PublicKinds | Self::PrivateKinds => MAX_NAMED_KINDS,
            _ => MAX_VALUES_PER_FILTER,
        }
    }
}

/// Keys sorted by field.
fn sorted(mut keys: Vec<IndexKey>) -> Vec<IndexKey> {
    keys.sort_unstable_by(|one, two| (Field::of(one), one).cmp(&(Field::of(two), two)));
    keys
}

/// The value of an index key as JSON.
fn value(key: &IndexKey) -> String {
    match key {
        IndexKey::Id(bytes) | IndexKey::Author(bytes) | IndexKey::MuteList(bytes) => {
            format!("\"{}\"", hex::encode(bytes))
        }
        IndexKey::Tag(_, value) => json!(value).to_string(),
        IndexKey::Kind(kind) => kind.to_string(),
    }
}

/// Fills one REQ with keys, counted in encoded bytes.
struct Packing<'a> {
    class: PlanClass,
    kinds: &'a NamedKinds,
    lists: Vec<ValueList>,
    filters: usize,
    bytes: usize,
}

/// The values of one field, which become one or two filters.
struct ValueList {
    field: Field,
    kinds: Vec<(String, EventClass)>,
    /// The values, separated by commas.
    values: String,
    count: usize,
}

impl<'a> Packing<'a> {
    fn new(class: PlanClass, kinds: &'a NamedKinds) -> Self {
        Self {
            class,
            kinds,
            lists: Vec::new(),
            filters: 0,
            bytes: MAX_ENVELOPE_BYTES,
        }
    }

    /// Adds a key. Returns `false`, without adding it, if it does not fit.
    fn add(&mut self, key: &IndexKey) -> bool {
        let (field, value) = (Field::of(key), value(key));
        let has_room =
            |list: &&mut ValueList| list.field == field && list.count < field.max_values();
        if let Some(list) = self.lists.last_mut().filter(has_room) {
            let bytes = self.bytes + list.kinds.len() * (value.len() + 1);
            if bytes > self.class.message_bytes {
                return false;
            }
            self.bytes = bytes;
            list.values.push(',');
            list.values.push_str(&value);
            list.count += 1;
            return true;
        }
        let kinds = field.kinds(self.kinds);
        let filters = self.filters + kinds.len();
        // The braces, commas, colon and brackets of the fields take eight bytes.
        let fixed = MAX_RANGE_BYTES + field.name().len() + 8;
        let added = kinds
            .iter()
            .map(|(kinds, _)| fixed + kinds.len() + value.len());
        let bytes = self.bytes + added.sum::<usize>();
        if filters > self.class.filters || bytes > self.class.message_bytes {
            return false;
        }
        (self.filters, self.bytes) = (filters, bytes);
        self.lists.push(ValueList {
            field,
            kinds,
            values: value,
            count: 1,
        });
        true
    }

    fn filters(self) -> Vec<ReqFilter> {
        let filters = |list: &ValueList| {
            let name = list.field.name();
            let filter = |(kinds, class): &(String, EventClass)| {
                let separator = if kinds.is_empty() { "" } else { "," };
                ReqFilter {
                    body: format!("{{{kinds}{separator}{name}:[{}]", list.values).into(),
                    class: *class,
                }
            };
            list.kinds.iter().map(filter).collect::<Vec<_>>()
        };
        self.lists.iter().flat_map(filters).collect()
    }
}

#[cfg(test)]
mod tests;
