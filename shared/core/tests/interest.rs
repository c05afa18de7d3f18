//! The interest against a model that keeps every row.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::collections::{BTreeMap, BTreeSet};

use nostr::key::Keys;
use nostr_push_core::{
    MUTE_LIST_KIND, Seconds,
    interest::Interest,
    order::Order,
    subscription::{Subscription, SubscriptionState},
};
use nostr_push_testkit::{owner, subscription};
use proptest::prelude::*;
use serde_json::json;

/// Rows of a few subscriptions over a few keys, in any order and repeated.
fn rows() -> impl Strategy<Value = Vec<(usize, u64, bool, u64)>> {
    prop::collection::vec((0..6usize, 1..6u64, any::<bool>(), 50..300u64), 0..40)
}

fn filter(n: usize) -> serde_json::Value {
    [
        json!({"kinds": [1], "#t": ["a"]}),
        json!({"kinds": [1, 7], "#t": ["a", "b"]}),
        json!({"#t": ["b"]}),
        json!({"kinds": [7], "authors": ["ab".repeat(32)]}),
        json!({"kinds": [1, 7], "#t": ["c"]}),
        json!({"kinds": [10_000], "authors": ["ab".repeat(32)]}),
    ][n]
        .clone()
}

proptest! {
    #[test]
    fn holds_exactly_the_keys_of_active_subscriptions(rows in rows(), part in 1..4usize) {
        let owner = owner(Keys::generate().public_key());
        let (mut interest, mut model) = (Interest::default(), BTreeMap::new());
        for (n, order, is_active, valid_until) in rows {
            let state = if is_active {
                SubscriptionState::Active
            } else {
                SubscriptionState::Removed
            };
            let row = Subscription {
                order: Order::counter(order),
                state,
                valid_until: Seconds(valid_until),
                ..subscription(&owner, &filter(n))
            };
            interest.apply(&row, Seconds(100));
            let latest = model.entry(n).or_insert_with(|| row.clone());
            if row.order.supersedes(&latest.order) {
                *latest = row;
            }
        }
        for now in [Seconds(100), Seconds(200)] {
            let mut from = Some(0);
            while let Some(number) = from {
                from = interest.expire(now, number, part);
            }
            let active: Vec<&Subscription> =
                model.values().filter(|row| row.is_active(now)).collect();
            let keys: BTreeSet<String> = active
                .iter()
                .flat_map(|row| row.filter.index_keys())
                .map(|key| key.to_string())
                .collect();
            let held: BTreeSet<String> = interest.keys().map(|(key, _)| key.to_string()).collect();
            prop_assert_eq!(interest.len(), held.len());
            prop_assert_eq!(held, keys);
            prop_assert!(interest.keys().all(|(key, id)| interest.key_id(key) == Some(id)));
            let (mute_lists, others): (Vec<&Subscription>, Vec<&Subscription>) = active
                .iter()
                .copied()
                .partition(|row| row.filter.kinds == Some(vec![MUTE_LIST_KIND]));
            prop_assert_eq!(interest.wants_mute_lists(), !mute_lists.is_empty());
            let any_kind = others.iter().any(|row| row.filter.kinds.is_none());
            let kinds: BTreeSet<u16> = others
                .iter()
                .filter_map(|row| row.filter.kinds.clone())
                .flatten()
                .collect();
            let kinds = (!any_kind).then(|| Vec::from_iter(kinds));
            prop_assert_eq!(interest.kinds(), kinds);
        }
    }
}
