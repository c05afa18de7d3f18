//! The kinds that filters name, as part of a plan.

use nostr_push_core::{
    MUTE_LIST_KIND, PRIVATE_KINDS, Seconds, interest::Interest, is_private_kind,
};
use serde_json::json;

use crate::req::{EventClass, ReqFilter};

/// The most kinds that a filter names. If more are in use, filters name none. So no owner can make
/// the REQs for other owners' keys longer than that. NIP-11 has no field for this limit.
/// `@nostr-relay/validator` refuses more than 20 by default.
pub(super) const MAX_NAMED_KINDS: usize = 20;

/// The time in which changes of the named kinds are counted, and how long filters stay without
/// kinds after there were too many.
const KINDS_CHANGE_WINDOW: Seconds = Seconds::from_hours(1);

/// The most changes of the named kinds in a window. Each renews all REQs of all relays. After more
/// changes, filters name no kinds, so nobody can cause more renewals.
const MAX_KINDS_CHANGES: u32 = 5;

/// The kinds that filters name.
pub(super) struct NamedKinds {
    /// Sorted. `None` means that filters name no kinds.
    named: Option<Vec<u16>>,
    /// The `kinds` fields of the filters that one list of values becomes, each with the events that
    /// it selects. An empty field selects every kind.
    pub(super) fields: Vec<(String, EventClass)>,
    /// The most filters of a REQ.
    max_filters: usize,
    /// When the window began in which changes are counted.
    window_began: Seconds,
    /// The number of changes in the window.
    changes: u32,
}

impl NamedKinds {
    /// The fields for these kinds, in REQs of at most so many filters.
    pub(super) fn new(mut named: Option<Vec<u16>>, max_filters: usize) -> Self {
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
            max_filters,
            window_began: Seconds(0),
            changes: 0,
        }
    }

    /// Renews the kinds if others are in use now. Returns `true` if all REQs must be renewed.
    pub(super) fn follow(&mut self, interest: &Interest, now: Seconds) -> bool {
        let is_over = self.window_began + KINDS_CHANGE_WINDOW < now;
        let (window_began, changes) = if is_over {
            (now, 0)
        } else {
            (self.window_began, self.changes)
        };
        let named = match (&self.named, interest.kinds()) {
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
        *self = Self {
            window_began,
            changes: changes + 1,
            ..Self::new(
                named.filter(|_| changes < MAX_KINDS_CHANGES),
                self.max_filters,
            )
        };
        true
    }

    /// The kinds, sorted. `None` means every kind.
    pub(super) fn boxed(&self) -> Option<Box<[u16]>> {
        self.named.as_deref().map(Into::into)
    }

    /// The filters of a wide REQ. Mute lists have a filter of their own, because they are valid at
    /// any age. If there is no room for it, the first filter requests them with the public kinds.
    pub(super) fn wide_filters(&self, mute_lists: bool) -> Vec<ReqFilter> {
        let filter = |kinds: &str, class| ReqFilter {
            body: format!("{{{kinds}").into(),
            class,
        };
        let fields = self.fields.iter();
        let mut filters: Vec<ReqFilter> =
            fields.map(|(kinds, class)| filter(kinds, *class)).collect();
        if mute_lists && filters.len() < self.max_filters {
            let kinds = format!("\"kinds\":[{MUTE_LIST_KIND}]");
            filters.push(filter(&kinds, EventClass::MuteList));
        } else if mute_lists
            && let Some(named) = &self.named
            && let Some((_, class)) = self.fields.first()
        {
            let is_in_first = |kind: &u16| self.max_filters == 1 || !is_private_kind(*kind);
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
