//! The interest against a model that keeps every row.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::collections::BTreeMap;

use nostr::key::Keys;
use nostr_push_core::{
    interest::Interest,
    order::Order,
    owner::Owner,
    subscription::{State, Subscription},
};
use nostr_push_testkit::subscription;
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
    fn it_holds_what_the_latest_rows_say_and_nothing_else(rows in rows(), part in 1..4usize) {
        let owner = Owner { app: "demo".to_owned(), pubkey: Keys::generate().public_key() };
        let (mut interest, mut model) = (Interest::default(), BTreeMap::new());
        for (n, order, active, valid_until) in rows {
            let state = if active { State::Active } else { State::Removed };
            let row = Subscription { order: Order::counter(order), state, valid_until, ..subscription(&owner, &filter(n)) };
            interest.apply(&row, 100);
            let latest = model.entry(n).or_insert_with(|| row.clone());
            if row.order.supersedes(&latest.order) {
                *latest = row;
            }
        }
        for now in [100, 200] {
            let mut from = Some(0);
            while let Some(number) = from {
                from = interest.expire(now, number, part);
            }
            let active: Vec<_> = model.values().filter(|row| row.is_active(now)).collect();
            let mut keys: Vec<String> = active.iter().flat_map(|row| row.filter.index_keys()).map(|key| key.to_string()).collect();
            keys.sort();
            keys.dedup();
            let mut held: Vec<String> = interest.keys().map(ToString::to_string).collect();
            held.sort();
            prop_assert_eq!(held, keys);
            let of_mute_lists = |row: &Subscription| row.filter.kinds == Some(vec![10_000]);
            prop_assert_eq!(interest.wants_mute_lists(), active.iter().any(|row| of_mute_lists(row)));
            let any = active.iter().any(|row| row.filter.kinds.is_none());
            let mut kinds: Vec<u16> = active.iter().filter(|row| !of_mute_lists(row)).filter_map(|row| row.filter.kinds.clone()).flatten().collect();
            kinds.sort_unstable();
            kinds.dedup();
            prop_assert_eq!(interest.kinds(), (!any).then_some(kinds));
            prop_assert_eq!(interest.len(), interest.keys().count());
            prop_assert!(interest.keys().all(|key| interest.contains(key)));
        }
    }
}
