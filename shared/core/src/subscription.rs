//! Stored filters and their index rows.

use serde::{Deserialize, Serialize};

use crate::{
    DAY, Millis, Seconds, filter::Filter, index_key::IndexKey, order::Order, owner::Owner,
};

/// The most subscriptions of one (owner, app), derived ones not counted.
pub const MAX_SUBSCRIPTIONS: usize = 50;

/// The most relays that an owner may name.
pub const MAX_RELAYS: usize = 10;

/// The most index keys of one subscription.
pub const MAX_INDEX_KEYS: usize = 1_000;

/// How long a removal is remembered at least. Control events older than this are refused as stale,
/// so nothing that it must win over can come later.
pub const REMOVAL_KEPT: Seconds = 7 * DAY + 15 * 60;

/// Whether a subscription is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In force until `valid_until`.
    Active,
    /// Removed: kept so that an older upsert replayed from a relay cannot bring it back.
    Removed,
}

/// One row of `subscriptions`: a filter of one owner, or the memory that it was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Whose it is.
    pub owner: Owner,
    /// The filter's identity; for a fixed trigger `trigger:` and the identity, for settings of
    /// dialect H `settings:` and the identity, so that none replaces the other.
    pub subscription: String,
    /// The filter; a removal keeps it, because its index rows are found by it.
    pub filter: Filter,
    /// Relays to watch for its owner besides the operator's.
    pub relays: Vec<String>,
    /// Which event wrote it.
    pub order: Order,
    /// Backfilled events older than this do not notify.
    pub since: Seconds,
    /// In force or removed.
    pub state: State,
    /// When it ends (a removal: when it would have).
    pub valid_until: Seconds,
    /// When the row was written, by the writer's clock: the change feed's sort key.
    pub changed_at: Millis,
}

impl Subscription {
    /// Whether it counts now. The table's TTL sweep can be days late, so every reader asks this.
    pub fn is_active(&self, now: Seconds) -> bool {
        self.state == State::Active && self.valid_until > now
    }

    /// When DynamoDB may drop the row: not before an older event could no longer be accepted.
    pub fn expires_at(&self) -> Seconds {
        let written = self.changed_at / 1000;
        self.valid_until.max(written + REMOVAL_KEPT)
    }

    /// Its rows in `filter_index`.
    pub fn index_rows(&self) -> impl Iterator<Item = IndexRow> + '_ {
        self.filter
            .index_keys()
            .into_iter()
            .map(|index_key| IndexRow {
                index_key,
                owner: self.owner.clone(),
                subscription: self.subscription.clone(),
                filter: Some(self.filter.clone()),
                order: self.order,
                since: self.since,
                valid_until: self.valid_until,
            })
    }

    /// Whether it follows from something else (a fixed trigger, settings of dialect H, having a
    /// device), and is no filter that the owner sent by itself.
    pub fn is_derived(&self) -> bool {
        [TRIGGER, SETTINGS, MUTE_LIST]
            .iter()
            .any(|prefix| self.subscription.starts_with(prefix))
    }
}

/// What the identity of a fixed trigger's subscription starts with.
pub const TRIGGER: &str = "trigger:";

/// What the identity of a subscription that settings of dialect H ask for starts with.
pub const SETTINGS: &str = "settings:";

/// The identity of the subscription that brings an owner's own mute list, and no push: its author
/// is its recipient.
pub const MUTE_LIST: &str = "mute_list:";

/// One row of `filter_index`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRow {
    /// The value under which it is found.
    pub index_key: IndexKey,
    /// Whose subscription it is.
    pub owner: Owner,
    /// The subscription's identity.
    pub subscription: String,
    /// The filter; `None` in the store when above 1 KiB, and then it stands in `subscriptions`.
    pub filter: Option<Filter>,
    /// Which event wrote it: an older one never overwrites or deletes it.
    pub order: Order,
    /// See [`Subscription::since`].
    pub since: Seconds,
    /// When it ends.
    pub valid_until: Seconds,
}

impl IndexRow {
    /// `owner#subscription`: the sort key under the index key.
    pub fn sort_key(&self) -> String {
        format!("{}#{}", self.owner, self.subscription)
    }
}
