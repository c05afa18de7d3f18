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
    MUTE_LIST_KIND, Millis, Seconds,
    interest::Interest,
    order::Order,
    owner::Owner,
    owner::OwnerClass,
    subscription::{MUTE_LIST_PREFIX, Subscription, SubscriptionState},
};
use nostr_push_testkit::{event, owner, subscription};
use proptest::prelude::*;
use serde_json::json;

/// A row: which subscription, its order, when it was changed, its state, its end, and whether the
/// owner was proven.
type Row = (usize, u64, u64, SubscriptionState, u64, bool);

/// Rows of a few subscriptions over a few keys, in any order and repeated.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let state = prop::sample::select(vec![
        SubscriptionState::Active,
        SubscriptionState::Active,
        SubscriptionState::Dormant {
            until: Seconds(300),
        },
        SubscriptionState::Removed,
    ]);
    let row = (
        0..FILTERS,
        1..6u64,
        0..4u64,
        state,
        50..300u64,
        any::<bool>(),
    );
    prop::collection::vec(row, 0..40)
}

/// The number of subscriptions. The last one is the derived one to the owner's mute list.
const FILTERS: usize = 7;

fn filter(n: usize, owner: &Owner) -> serde_json::Value {
    [
        json!({"kinds": [1], "#t": ["a"]}),
        json!({"kinds": [1, 7], "#t": ["a", "b"]}),
        json!({"#t": ["b"]}),
        json!({"kinds": [7], "authors": ["ab".repeat(32)]}),
        json!({"kinds": [1, 7], "#t": ["c"]}),
        json!({"kinds": [10_000], "authors": ["ab".repeat(32)]}),
        json!({"kinds": [10_000], "authors": [owner.pubkey]}),
    ][n]
        .clone()
}

fn row(owner: &Owner, (n, order, changed_at, state, valid_until, proven): Row) -> Subscription {
    let row = subscription(owner, &filter(n, owner));
    let prefix = if n == FILTERS - 1 {
        MUTE_LIST_PREFIX
    } else {
        ""
    };
    Subscription {
        identity: format!("{prefix}{}", row.identity),
        order: Order::counter(order),
        changed_at: Millis(changed_at),
        state,
        valid_until: Seconds(valid_until),
        proven,
        ..row
    }
}

/// Returns `true` if the row wins over the one that was read before.
fn wins(row: &Subscription, earlier: &Subscription) -> bool {
    row.order.supersedes(&earlier.order)
        || (row.order == earlier.order && row.changed_at > earlier.changed_at)
}

/// The keys, kinds, owners and counts are those of these subscriptions.
fn check(
    interest: &Interest,
    owner: &Owner,
    active: &[&Subscription],
) -> Result<(), TestCaseError> {
    let uses: Vec<(String, bool)> = active
        .iter()
        .flat_map(|row| {
            let keys = row.filter.index_keys().into_iter();
            keys.map(|key| (key.to_string(), row.proven))
        })
        .collect();
    let keys: BTreeSet<String> = uses.iter().map(|(key, _)| key.clone()).collect();
    let held: BTreeSet<String> = interest.keys().map(|(key, _)| key.to_string()).collect();
    prop_assert_eq!(interest.len(), held.len());
    prop_assert_eq!(held, keys);
    prop_assert!(
        interest
            .keys()
            .all(|(key, id)| interest.key_id(key) == Some(id))
    );
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

    let derived = active
        .iter()
        .find(|row| row.identity.starts_with(MUTE_LIST_PREFIX));
    let class = match derived {
        None => OwnerClass::Stranger,
        Some(row) if !row.proven => OwnerClass::Known,
        Some(_) => OwnerClass::Proven,
    };
    prop_assert_eq!(interest.class_of(owner.pubkey.as_bytes()), class);
    prop_assert_eq!(
        interest.proven_owners(),
        u64::from(class == OwnerClass::Proven)
    );
    let usage = interest.usage(Seconds(9));
    prop_assert_eq!(usage.owners, u64::from(derived.is_some()));
    prop_assert_eq!(usage.subscriptions, active.len() as u64);
    prop_assert_eq!(usage.index_keys, interest.len() as u64);
    prop_assert_eq!(usage.index_rows, uses.len() as u64);
    let tags: &[&[&str]] = &[&["t", "a"], &["t", "b"], &["t", "c"]];
    for hit in interest.hits_of_all(&event(&Keys::generate(), 1, 1, tags, "")) {
        let key = hit.key.to_string();
        prop_assert_eq!(hit.proven, uses.contains(&(key, true)));
    }
    Ok(())
}

proptest! {
    #[test]
    fn holds_exactly_what_active_subscriptions_use(rows in rows(), part in 1..4usize) {
        let owner = owner(Keys::generate().public_key());
        let (mut interest, mut model) = (Interest::default(), BTreeMap::new());
        for fields in rows {
            let row = row(&owner, fields);
            interest.apply(&row, Seconds(100));
            let latest = model.entry(fields.0).or_insert_with(|| row.clone());
            if wins(&row, latest) {
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
            check(&interest, &owner, &active)?;
        }
    }
}

#[test]
fn owner_is_known_while_a_device_exists_under_any_app() {
    let alice = owner(Keys::generate().public_key());
    let elsewhere = Owner {
        app: "other".to_owned(),
        ..alice.clone()
    };
    let mut interest = Interest::default();
    let mut apply = |owner: &Owner, state, changed_at, proven| {
        let fields = (FILTERS - 1, 1, changed_at, state, 1_000, proven);
        interest.apply(&row(owner, fields), Seconds(1));
        (
            interest.class_of(alice.pubkey.as_bytes()),
            interest.usage(Seconds(1)).owners,
        )
    };
    let dormant = SubscriptionState::Dormant {
        until: Seconds(1_000),
    };
    let active = SubscriptionState::Active;
    assert_eq!(apply(&alice, active, 1, false), (OwnerClass::Known, 1));
    assert_eq!(apply(&elsewhere, active, 1, true), (OwnerClass::Proven, 2));
    assert_eq!(apply(&elsewhere, active, 2, false), (OwnerClass::Known, 2));
    assert_eq!(apply(&elsewhere, dormant, 3, false), (OwnerClass::Known, 1));
    assert_eq!(apply(&alice, dormant, 2, false), (OwnerClass::Stranger, 0));
    assert_eq!(apply(&alice, active, 3, true), (OwnerClass::Proven, 1));
    interest.expire(Seconds(1_000), 0, 9);
    assert_eq!(
        interest.class_of(alice.pubkey.as_bytes()),
        OwnerClass::Stranger
    );
}

#[test]
fn filter_for_another_mute_list_makes_nobody_known() {
    let (alice, bob) = (Keys::generate().public_key(), Keys::generate().public_key());
    let filter = json!({"kinds": [10_000], "authors": [alice]});
    let plain = subscription(&owner(alice), &filter);
    let others = Subscription {
        identity: format!("{MUTE_LIST_PREFIX}{}", plain.identity),
        ..subscription(&owner(bob), &filter)
    };
    let mut interest = Interest::default();
    for row in [plain, others] {
        interest.apply(&row, Seconds(1));
    }
    for pubkey in [alice, bob] {
        assert_eq!(interest.class_of(pubkey.as_bytes()), OwnerClass::Stranger);
    }
    assert_eq!(interest.usage(Seconds(1)).owners, 0);
}
