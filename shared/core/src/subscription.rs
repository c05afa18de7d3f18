//! Stored filters and their index rows.

use serde::{Deserialize, Serialize};

use crate::{
    Millis, Seconds, filter::Filter, index_key::IndexKey, order::Order, owner::Owner,
    relay_url::RelayHash,
};

/// The most subscriptions of one (owner, app). Derived subscriptions do not count.
pub const MAX_SUBSCRIPTIONS: usize = 50;

/// The most relays that an owner may name.
pub const MAX_OWNER_RELAYS: usize = 10;

/// The most index keys of one subscription.
pub const MAX_INDEX_KEYS: usize = 1_000;

/// The most index keys of all subscriptions of one (owner, app) together, without derived ones.
pub const MAX_OWNER_INDEX_KEYS: usize = 10_000;

/// The longest filter, in bytes of JSON.
pub const MAX_FILTER_BYTES: usize = 128 * 1024;

/// The longest residual filter, in bytes of JSON. Under the owner's own mention key it may be
/// longer, because a filter for mentions by contacts names them all.
pub const MAX_RESIDUAL_BYTES: usize = 16 * 1024;

/// The longest residual filter that an index row contains, in bytes of JSON.
pub const MAX_INLINE_BYTES: usize = 1024;

/// The most filters of one (owner, app) that may wait for the owner's first device.
pub const MAX_WAITING_FILTERS: usize = 10;

/// The most bytes of JSON of these filters together.
pub const MAX_WAITING_BYTES: usize = 128 * 1024;

/// How long a filter that came before the owner's first device waits for it.
pub const MAX_WAIT_FOR_DEVICE: Seconds = Seconds::from_days(1);

/// The most kinds of one filter. The listener names the kinds in each of its REQs, and relays limit
/// the size of a REQ.
pub const MAX_FILTER_KINDS: usize = 64;

/// The shortest time for which a removal is remembered. Control refuses older events as stale, so
/// no event that the removal supersedes can arrive later.
pub const TOMBSTONE_TTL: Seconds = Seconds(Seconds::from_days(7).0 + Seconds::from_minutes(15).0);

/// The prefix of a fixed trigger's identity.
pub const TRIGGER_PREFIX: &str = "trigger:";

/// The prefix of the identity of a subscription that follows from settings of dialect H.
pub const SETTINGS_PREFIX: &str = "settings:";

/// The prefix of the identity of the subscription that fetches an owner's own mute list. It causes
/// no push, because the list's author is its recipient.
pub const MUTE_LIST_PREFIX: &str = "mute_list:";

/// The state of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionState {
    /// In force until `valid_until`.
    Active,
    /// The owner has no active device. The subscription has no index rows, and it comes into force
    /// with a registration.
    Dormant {
        /// When the row is forgotten. If the subscription has been in force, this is `valid_until`.
        /// Otherwise it is earlier, and at most [`MAX_WAIT_FOR_DEVICE`] after the row came.
        until: Seconds,
    },
    /// Removed. The row stays so that a relay cannot restore the subscription by replaying an older
    /// upsert.
    Removed,
}

/// One row of `subscriptions`: a filter of one owner, or the record of its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The owner.
    pub owner: Owner,
    /// The filter's identity. Derived subscriptions put [`TRIGGER_PREFIX`], [`SETTINGS_PREFIX`] or
    /// [`MUTE_LIST_PREFIX`] before it, so that none replaces another.
    pub identity: String,
    /// The filter. A removal keeps it, because the index rows are found by it.
    pub filter: Filter,
    /// Relays to watch for the owner besides the operator's. An event that only such relays sent
    /// matches only subscriptions that name its relay.
    pub relays: Vec<String>,
    /// `true` if the owner had a proven device ([`Registration::proven`]) when the row was written.
    ///
    /// [`Registration::proven`]: crate::device::Registration::proven
    pub proven: bool,
    /// The order of the event that wrote the row.
    pub order: Order,
    /// Backfilled events older than this do not notify.
    pub since: Seconds,
    /// In force, dormant or removed.
    pub state: SubscriptionState,
    /// When the subscription ends. For a removal, when it would have ended.
    pub valid_until: Seconds,
    /// When the writer began to process the change, by its clock. How long a removal is remembered
    /// counts from this time. The change feed does not use it: the store stamps each write.
    pub changed_at: Millis,
}

impl Subscription {
    /// Returns `true` if the subscription is in force at `now`. Every reader must call
    /// this, because DynamoDB's TTL sweep can be days late.
    pub fn is_active(&self, now: Seconds) -> bool {
        self.state == SubscriptionState::Active && self.valid_until > now
    }

    /// Returns `true` if a registration can bring the subscription into force at `now`.
    pub fn is_dormant(&self, now: Seconds) -> bool {
        matches!(self.state, SubscriptionState::Dormant { until } if until > now)
            && self.valid_until > now
    }

    /// Returns `true` if the subscription has not been in force yet, and waits for the owner's
    /// first device.
    pub fn is_waiting(&self, now: Seconds) -> bool {
        let SubscriptionState::Dormant { until } = self.state else {
            return false;
        };
        self.is_dormant(now) && until < self.valid_until
    }

    /// When DynamoDB may drop the row: once no older event can be accepted any more. A filter that
    /// only waits for a device is forgotten earlier.
    pub fn expires_at(&self) -> Seconds {
        let changed = self.changed_at.to_seconds();
        match self.state {
            SubscriptionState::Dormant { until } => until,
            SubscriptionState::Active | SubscriptionState::Removed => {
                self.valid_until.max(changed + TOMBSTONE_TTL)
            }
        }
    }

    /// The hashes of the relays that the subscription names.
    pub fn relay_hashes(&self) -> Vec<RelayHash> {
        let relays = self.relays.iter().take(MAX_OWNER_RELAYS);
        relays.filter_map(|url| RelayHash::of(url)).collect()
    }

    /// The subscription's rows in `filter_index`. Each contains the residual filter under its key
    /// if that has at most [`MAX_INLINE_BYTES`].
    pub fn index_rows(&self) -> impl Iterator<Item = IndexRow> + '_ {
        let relays = self.relay_hashes();
        let residuals = self.filter.residuals();
        let keys = self.filter.index_keys().into_iter();
        keys.map(move |index_key| {
            let is_inline = residuals.bytes_under(&index_key) <= MAX_INLINE_BYTES;
            IndexRow {
                filter: is_inline.then(|| residuals.under(&index_key)),
                index_key,
                owner: self.owner.clone(),
                identity: self.identity.clone(),
                relays: relays.clone(),
                order: self.order,
                since: self.since,
                valid_until: self.valid_until,
            }
        })
    }

    /// Returns `true` if the subscription follows from a fixed trigger, from settings of dialect H
    /// or from having a device. The owner did not send such a filter.
    pub fn is_derived(&self) -> bool {
        [TRIGGER_PREFIX, SETTINGS_PREFIX, MUTE_LIST_PREFIX]
            .iter()
            .any(|prefix| self.identity.starts_with(prefix))
    }
}

/// One row of `filter_index`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRow {
    /// The key under which events find the row.
    pub index_key: IndexKey,
    /// The owner of the subscription.
    pub owner: Owner,
    /// The subscription's identity.
    pub identity: String,
    /// The residual filter under the index key ([`Residuals`](crate::filter::Residuals)). Rows that
    /// earlier versions wrote contain the whole filter. `None` if it has more than
    /// [`MAX_INLINE_BYTES`]: the filter is then in `subscriptions` alone.
    pub filter: Option<Filter>,
    /// The relays that the subscription names.
    pub relays: Vec<RelayHash>,
    /// The order of the event that wrote the row. An older event never overwrites or deletes it.
    pub order: Order,
    /// See [`Subscription::since`].
    pub since: Seconds,
    /// When the subscription ends.
    pub valid_until: Seconds,
}

impl IndexRow {
    /// The sort key under the index key: `own#owner#identity` if the row [is the owner's
    /// own](Self::is_own), else `sub#owner#identity`. So own rows are read before those that
    /// strangers have under the same key.
    pub fn sort_key(&self) -> String {
        let prefix = if self.is_own() { "own" } else { "sub" };
        format!("{prefix}#{}#{}", self.owner, self.identity)
    }

    /// Returns `true` if the index key is a mention or the mute list of the owner.
    pub fn is_own(&self) -> bool {
        let of_key = match &self.index_key {
            IndexKey::MuteList(author) => Some(author),
            key => key.mentions(),
        };
        of_key == Some(self.owner.pubkey.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use serde_json::{Value, json};

    use super::*;

    fn filters_in_rows(filter: &Value) -> Vec<Option<Value>> {
        let row = Subscription {
            owner: Owner {
                app: "demo".to_owned(),
                pubkey: Keys::generate().public_key(),
            },
            identity: String::new(),
            filter: Filter::from_json(filter).unwrap(),
            relays: Vec::new(),
            proven: false,
            order: Order::counter(1),
            since: Seconds(0),
            state: SubscriptionState::Active,
            valid_until: Seconds(1),
            changed_at: Millis(0),
        };
        let json = |filter: String| serde_json::from_str(&filter).unwrap();
        let rows = row.index_rows();
        rows.map(|row| row.filter.map(|filter| json(filter.to_json())))
            .collect()
    }

    #[test]
    fn index_rows_contain_residual_filters() {
        let contacts: Vec<String> = (0..1_000).map(|n| format!("{n:064x}")).collect();
        let of_author = |author: &String| Some(json!({"authors": [author], "kinds": [1]}));
        let expected: Vec<_> = contacts.iter().map(of_author).collect();
        let rows = filters_in_rows(&json!({"authors": contacts, "kinds": [1]}));
        assert_eq!(rows, expected);
    }

    #[test]
    fn large_residual_filters_are_left_out_of_index_rows() {
        let authors = |n: u32| (0..n).map(|n| format!("{n:064x}")).collect::<Vec<_>>();
        let is_inline = |n| {
            let rows = filters_in_rows(&json!({"#t": ["a", "b"], "authors": authors(n)}));
            assert_eq!(rows.len(), 2);
            rows.iter().all(Option::is_some)
        };
        assert!(is_inline(14) && !is_inline(16));
    }
}
