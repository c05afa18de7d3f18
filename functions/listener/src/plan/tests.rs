use std::collections::BTreeSet;

use nostr_push_core::{
    order::Order,
    owner::Owner,
    subscription::{Subscription, SubscriptionState},
};
use nostr_push_testkit::{owner, subscription};
use proptest::prelude::*;

use super::*;

const NOW: Seconds = Seconds(1);

fn alice() -> Owner {
    let keys = nostr::key::Keys::parse(&"11".repeat(32)).unwrap();
    owner(keys.public_key())
}

fn subscribe(interest: &mut Interest, filter: &Value) {
    interest.apply(&subscription(&alice(), filter), NOW);
}

fn interest(filters: &[Value]) -> Interest {
    let mut interest = Interest::default();
    for filter in filters {
        subscribe(&mut interest, filter);
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
fn requests_older_private_events_only_after_an_interruption() {
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
    let with = |filter: &Value, since: Seconds, limit: usize| {
        let mut filter = filter.clone();
        (filter["since"], filter["limit"]) = (json!(since), json!(limit));
        filter
    };
    let since = Seconds(1_000_000);
    let early = since - MAX_BACKDATING;
    assert_eq!(
        req.filters(StoredRange::Resume(since), 500),
        [with(&public, since, 500), with(&private, early, 500)]
    );
    assert_eq!(
        req.filters(StoredRange::Recent(since), 500),
        [with(&public, since, 500), with(&private, early, 1)]
    );
    assert_eq!(
        req.filters(StoredRange::LiveOnly(since), 500),
        [with(&public, since, 1), with(&private, early, 1)]
    );
}

#[test]
fn new_subscriber_costs_one_small_req() {
    let plans = Plans::default();
    let mut interest = interest(&(0..1_000).map(mention).collect::<Vec<_>>());
    let mut before = plans.plan(Limits::default(), &interest);
    let mut sent = 0;
    for n in 1_000..1_500 {
        subscribe(&mut interest, &mention(n));
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
fn renews_req_once_half_of_its_keys_are_unused() {
    let plans = Plans::default();
    let mut interest = interest(&(0..100).map(mention).collect::<Vec<_>>());
    let before = ids(&plans.plan(Limits::default(), &interest));
    let remove = |interest: &mut Interest, n: usize| {
        let row = Subscription {
            state: SubscriptionState::Removed,
            order: Order::counter(2),
            ..subscription(&alice(), &mention(n))
        };
        interest.apply(&row, NOW);
    };
    (0..50).for_each(|n| remove(&mut interest, n));
    assert_eq!(ids(&plans.plan(Limits::default(), &interest)), before);
    remove(&mut interest, 50);
    assert_ne!(ids(&plans.plan(Limits::default(), &interest)), before);
    (51..100).for_each(|n| remove(&mut interest, n));
    assert!(plans.plan(Limits::default(), &interest).is_empty());
}

#[test]
fn merged_req_has_parents_and_req_for_new_kind_has_none() {
    let plans = Plans::default();
    let mut interest = interest(&[mention(0)]);
    plans.plan(Limits::default(), &interest);
    let new_kind = json!({"kinds": [7], "#p": [format!("{:064x}", 0)]});
    subscribe(&mut interest, &new_kind);
    let plan = plans.plan(Limits::default(), &interest);
    assert!(plan.values().all(|req| req.parents.is_empty()));
    (1..30).for_each(|n| {
        subscribe(&mut interest, &mention(n));
        plans.plan(Limits::default(), &interest);
    });
    let plan = plans.plan(Limits::default(), &interest);
    assert!(plan.values().any(|req| req.parents.len() == 2));
}

#[test]
fn is_wide_beyond_limits_and_narrow_again_far_below() {
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
    subscribe(&mut interest, &mention(500));
    let wide = plans.plan(limits, &interest);
    let filters = wide
        .values()
        .next()
        .unwrap()
        .filters(StoredRange::LiveOnly(Seconds(9)), 1);
    assert_eq!(filters[0], json!({"kinds": [1], "since": 9, "limit": 1}));
    subscribe(&mut interest, &mention(501));
    assert_eq!(
        ids(&plans.plan(limits, &interest)),
        ids(&wide),
        "more keys of the same kinds change nothing"
    );
    assert!(
        plans.plan(Limits::default(), &interest).len() <= 17,
        "for other limits the plan is narrow"
    );
}

#[test]
fn plan_of_empty_interest_has_no_reqs() {
    assert!(
        Plans::default()
            .plan(Limits::default(), &Interest::default())
            .is_empty()
    );
}

/// A filter with key `n` in one of four dimensions.
fn filter_of(dimension: usize, n: usize) -> Value {
    let key = format!("{n:064x}");
    match dimension {
        0 => json!({"kinds": [1], "#p": [key]}),
        1 => json!({"authors": [key]}),
        2 => json!({"kinds": [4], "#e": [key]}),
        _ => json!({"kinds": [7], "#h": [format!("g{n}")]}),
    }
}

/// The index keys that a plan requests, each once. `None` if the plan is wide.
fn requested_keys(plan: &Plan) -> Option<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    for ReqFilter { filter, .. } in plan.values().flat_map(|req| &req.filters) {
        let fields = filter.as_object().unwrap();
        if fields.keys().all(|field| field == "kinds") {
            return None;
        }
        for (field, values) in fields.iter().filter(|(field, _)| *field != "kinds") {
            let name = if field == "authors" { "author" } else { field };
            let values = values.as_array().unwrap().iter();
            keys.extend(values.map(|value| format!("{name}:{}", value.as_str().unwrap())));
        }
    }
    Some(keys)
}

proptest! {
    #[test]
    fn requests_every_key_within_limits(
        steps in prop::collection::vec((0..60usize, 0..4usize, any::<bool>()), 1..80),
        subscriptions in prop_oneof![Just(3usize), Just(10)],
        filters in prop_oneof![Just(1usize), Just(2), Just(10)],
    ) {
        let limits = Limits { subscriptions, filters, ..Limits::default() };
        let (plans, mut interest) = (Plans::default(), Interest::default());
        for (at, (n, dimension, is_active)) in steps.into_iter().enumerate() {
            let state = if is_active {
                SubscriptionState::Active
            } else {
                SubscriptionState::Removed
            };
            let row = Subscription {
                state,
                order: Order::counter(at as u64 + 1),
                ..subscription(&alice(), &filter_of(dimension, n))
            };
            interest.apply(&row, NOW);
            let plan = plans.plan(limits, &interest);
            prop_assert!(plan.len() <= limits.subscriptions.saturating_sub(3).max(1));
            for req in plan.values() {
                prop_assert!(req.filters.len() <= limits.filters, "{req:?}");
            }
            if let Some(requested) = requested_keys(&plan) {
                prop_assert!(interest.keys().all(|key| requested.contains(&key.to_string())));
            }
            let kinds = interest.kinds();
            let has_kinds = |req_filter: &ReqFilter| {
                req_filter.filter.get("kinds").is_none() || kinds.is_some() || req_filter.is_private
            };
            prop_assert!(plan.values().flat_map(|req| &req.filters).all(has_kinds));
        }
    }
}
