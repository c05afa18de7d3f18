use std::collections::BTreeSet;

use nostr_push_core::{
    MUTE_LIST_KIND,
    order::Order,
    owner::Owner,
    subscription::{Subscription, SubscriptionState},
};
use nostr_push_testkit::{owner, subscription};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{kinds::MAX_NAMED_KINDS, *};
use crate::req::{EventClass, MAX_RANGE_BYTES};

const NOW: Seconds = Seconds(1_000_000);

fn alice() -> Owner {
    let keys = nostr::key::Keys::parse(&"11".repeat(32)).unwrap();
    owner(keys.public_key())
}

fn subscribe(interest: &mut Interest, filter: &Value) {
    interest.apply(&subscription(&alice(), filter), Seconds(1));
}

fn unsubscribe(interest: &mut Interest, filter: &Value) {
    let row = Subscription {
        state: SubscriptionState::Removed,
        order: Order::counter(2),
        ..subscription(&alice(), filter)
    };
    interest.apply(&row, Seconds(1));
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

type Reqs = BTreeMap<String, Arc<Req>>;

fn plan(plans: &Plans, interest: &Interest) -> Arc<Reqs> {
    plans.plan(Limits::default(), interest, NOW).unwrap().reqs
}

fn ids(plan: &Reqs) -> BTreeSet<String> {
    plan.keys().cloned().collect()
}

/// The REQ's message, and its filters.
fn message(req: &Req) -> (String, Vec<Value>) {
    let message = req.message("content-18446744073709551615", NOW, false);
    let parsed: Vec<Value> = serde_json::from_str(&message).unwrap();
    (message, parsed[2..].to_vec())
}

#[test]
fn live_req_asks_for_everything_that_may_still_notify() {
    let p = "ab".repeat(32);
    let plan = plan(
        &Plans::default(),
        &interest(&[json!({"kinds": [1, 1059], "#p": [p]})]),
    );
    let (_, filters) = message(plan.values().next().unwrap());
    // An hour, two days and a quarter of an hour, and a minute for the clocks.
    let (public, private) = (NOW.0 - 3_660, NOW.0 - 173_760);
    assert_eq!(
        filters,
        [
            json!({"kinds": [1], "#p": [p], "since": public, "limit": 1}),
            json!({"kinds": [1059], "#p": [p], "since": private, "limit": 1}),
        ]
    );
}

#[test]
fn new_subscriber_costs_one_small_req() {
    let plans = Plans::default();
    let mut interest = interest(&(0..1_000).map(mention).collect::<Vec<_>>());
    let mut before = plan(&plans, &interest);
    let mut sent = 0;
    for n in 1_000..1_500 {
        subscribe(&mut interest, &mention(n));
        let after = plan(&plans, &interest);
        let new: Vec<&String> = after
            .keys()
            .filter(|id| !before.contains_key(*id))
            .collect();
        assert!(new.len() <= 2, "{new:?}");
        let values = |req: &Arc<Req>| req.coverage.keys.as_ref().unwrap().len();
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
    let before = ids(&plan(&plans, &interest));
    (0..50).for_each(|n| unsubscribe(&mut interest, &mention(n)));
    assert_eq!(ids(&plan(&plans, &interest)), before);
    unsubscribe(&mut interest, &mention(50));
    assert_ne!(ids(&plan(&plans, &interest)), before);
    (51..100).for_each(|n| unsubscribe(&mut interest, &mention(n)));
    assert!(plan(&plans, &interest).is_empty());
}

#[test]
fn merged_req_has_one_new_key_and_req_with_a_new_kind_is_all_new() {
    let plans = Plans::default();
    let mut interest = interest(&[mention(0)]);
    let mut before = plan(&plans, &interest);
    let is_known = |key: &u64, before: &Reqs| {
        let mut keys = before.values().filter_map(|req| req.coverage.keys.as_ref());
        keys.any(|keys| keys.contains(key))
    };
    for n in 1..30 {
        subscribe(&mut interest, &mention(n));
        let after = plan(&plans, &interest);
        for (_, req) in after.iter().filter(|(id, _)| !before.contains_key(*id)) {
            let keys = req.coverage.keys.as_ref().unwrap();
            let new = keys.iter().filter(|key| !is_known(key, &before)).count();
            assert_eq!(new, 1, "{} keys", keys.len());
        }
        before = after;
    }
    let is_covered = |req: &Req, before: &Reqs| {
        let before: Vec<&Coverage> = before.values().map(|req| &req.coverage).collect();
        req.coverage.is_within(&before)
    };
    assert!(before.values().all(|req| is_covered(req, &before)));
    let new_kind = json!({"kinds": [7], "#p": [format!("{:064x}", 0)]});
    subscribe(&mut interest, &new_kind);
    let after = plan(&plans, &interest);
    assert!(after.values().all(|req| !is_covered(req, &before)));
}

#[test]
fn key_that_returns_is_new() {
    let plans = Plans::default();
    // The other keys keep the REQ in place.
    let mut interest = interest(&(0..10).map(mention).collect::<Vec<_>>());
    let before = plan(&plans, &interest);
    unsubscribe(&mut interest, &mention(0));
    assert_eq!(ids(&plan(&plans, &interest)), ids(&before));
    let returns = Subscription {
        order: Order::counter(3),
        ..subscription(&alice(), &mention(0))
    };
    interest.apply(&returns, Seconds(1));
    let after = plan(&plans, &interest);
    let new = after.iter().find(|(id, _)| !before.contains_key(*id));
    let before: Vec<&Coverage> = before.values().map(|req| &req.coverage).collect();
    assert!(!new.unwrap().1.coverage.is_within(&before));
}

#[test]
fn names_no_kinds_once_there_are_too_many_and_for_an_hour() {
    let plans = Plans::default();
    let mut interest = interest(&[mention(0)]);
    let many: Vec<u16> = (100..150).collect();
    let many = json!({"kinds": many, "#t": ["a"]});
    let kinds_at = |interest: &Interest, now| {
        let plan = plans.plan(Limits::default(), interest, now).unwrap().reqs;
        let (_, filters) = message(plan.values().next().unwrap());
        filters[0].get("kinds").cloned()
    };
    assert_eq!(kinds_at(&interest, NOW), Some(json!([1])));
    subscribe(&mut interest, &many);
    assert_eq!(kinds_at(&interest, NOW), None);
    unsubscribe(&mut interest, &many);
    assert_eq!(kinds_at(&interest, NOW + Seconds(60)), None);
    subscribe(&mut interest, &mention(1));
    assert_eq!(
        kinds_at(&interest, NOW + Seconds::from_hours(2)),
        Some(json!([1]))
    );
}

#[test]
fn changing_kinds_renews_all_reqs_only_a_few_times_an_hour() {
    let plans = Plans::default();
    let mut interest = interest(&[mention(0)]);
    let mut now = NOW;
    let mut known = BTreeSet::new();
    let mut renewals = 0;
    // Every two seconds a kind comes into use, and the one before goes.
    for n in 0..1_800_u16 {
        let of = |n: u16| json!({"kinds": [1_000 + n], "#t": ["a"]});
        subscribe(&mut interest, &of(n));
        if let Some(before) = n.checked_sub(1) {
            unsubscribe(&mut interest, &of(before));
        }
        let plan = plans.plan(Limits::default(), &interest, now).unwrap().reqs;
        renewals += usize::from(plan.keys().all(|id| known.insert(id.clone())));
        now += Seconds(2);
    }
    assert!(renewals <= 7, "{renewals}");
}

#[test]
fn mute_lists_of_a_wide_plan_have_their_own_filter() {
    let mute_list = json!({"kinds": [10_000], "authors": ["ab".repeat(32)]});
    let mut interest = interest(&[mute_list]);
    for n in 0..20 {
        let authors: Vec<String> = (0..1_000)
            .map(|m| format!("{:064x}", n * 1_000 + m))
            .collect();
        subscribe(&mut interest, &json!({"kinds": [1, 4], "authors": authors}));
    }
    let filters_of = |filters, interest: &Interest| {
        let limits = Limits {
            filters,
            ..Limits::default()
        };
        let plan = Plans::default().plan(limits, interest, NOW).unwrap().reqs;
        let req = Arc::clone(plan.values().next().unwrap());
        assert!(req.coverage.keys.is_none());
        let (_, filters) = message(&req);
        let kinds = filters.iter().map(|filter| filter["kinds"].clone());
        (kinds.collect::<Vec<_>>(), req.filters.last().unwrap().class)
    };
    assert_eq!(
        filters_of(10, &interest),
        (
            vec![json!([1]), json!([4]), json!([10_000])],
            EventClass::MuteList
        )
    );
    assert_eq!(filters_of(2, &interest).0, [json!([1, 10_000]), json!([4])]);
    assert_eq!(filters_of(1, &interest).0, [json!([1, 4, 10_000])]);
}

#[test]
fn is_wide_beyond_limits_and_narrow_again_far_below() {
    let plans = Plans::default();
    let limits = Limits {
        subscriptions: 4,
        filters: 2,
        ..Limits::default()
    };
    let plan = |interest: &Interest| plans.plan(limits, interest, NOW).unwrap().reqs;
    // 16 KiB hold 119 values twice.
    let mut interest = interest(&(0..110).map(mention).collect::<Vec<_>>());
    let is_narrow = |plan: &Reqs| plan.values().all(|req| req.coverage.keys.is_some());
    assert!(is_narrow(&plan(&interest)));
    (110..130).for_each(|n| subscribe(&mut interest, &mention(n)));
    let wide = plan(&interest);
    let (_, filters) = message(wide.values().next().unwrap());
    assert_eq!(filters[0]["kinds"], json!([1]));
    assert!(filters[0].get("#p").is_none());
    subscribe(&mut interest, &mention(130));
    assert_eq!(
        ids(&plan(&interest)),
        ids(&wide),
        "more keys of the same kinds do not change the REQ"
    );
    let new_keys = plans.plan(limits, &interest, NOW).unwrap().new_keys;
    let [new] = &*new_keys else {
        panic!("{new_keys:?}")
    };
    let (_, filters) = message(&new.req);
    assert_eq!(filters[0]["#p"], json!([format!("{:064x}", 130)]));
    (0..60).for_each(|n| unsubscribe(&mut interest, &mention(n)));
    assert!(is_narrow(&plan(&interest)));
}

#[test]
fn relay_with_very_low_limits_gets_no_plan() {
    let of = |subscriptions, message_bytes| {
        let limits = Limits {
            subscriptions,
            message_bytes,
            ..Limits::default()
        };
        Plans::default().plan(limits, &interest(&[mention(0)]), NOW)
    };
    assert!(of(3, 4 * 1024).is_some());
    assert!(of(2, 4 * 1024).is_none());
    assert!(of(3, 4 * 1024 - 1).is_none());
}

#[test]
fn relays_share_a_bounded_number_of_plans() {
    let plans = Plans::default();
    let interest = interest(&[mention(0)]);
    for subscriptions in 1..30 {
        for filters in 1..12 {
            for message_bytes in (1_000..200_000).step_by(1_000) {
                let limits = Limits {
                    subscriptions,
                    filters,
                    message_bytes,
                    page: message_bytes / 100,
                };
                plans.plan(limits, &interest, NOW);
            }
        }
    }
    assert_eq!(plans.0.lock().unwrap().len(), PLAN_CLASSES.len());
}

#[test]
fn plan_of_empty_interest_has_no_reqs() {
    assert!(plan(&Plans::default(), &Interest::default()).is_empty());
}

/// A text of 512 bytes, each of which becomes six when encoded.
fn escaped_text(n: usize) -> String {
    let mut text = format!("{n}");
    text.push_str(&"\u{1}".repeat(512 - text.len()));
    text
}

/// A filter with key `n` in one of eight forms, with kinds that depend on `kinds`.
fn filter_of(form: usize, n: usize, kinds: usize) -> Value {
    let key = format!("{n:064x}");
    let kinds: Vec<usize> = (kinds..kinds * 3).map(|kind| kind * 100 + 4).collect();
    match form {
        0 => json!({"kinds": [1], "#p": [key]}),
        1 => json!({"authors": [key], "kinds": [1, 30023]}),
        2 => json!({"kinds": [4], "#e": [key]}),
        3 => json!({"kinds": [7], "#h": [format!("g{n}")]}),
        4 => json!({"kinds": [65535], "#t": [escaped_text(n)]}),
        5 => json!({"kinds": [1059, n % 7 + 1]}),
        6 => json!({"kinds": [10_000], "authors": [key]}),
        _ => json!({"kinds": kinds, "ids": [key]}),
    }
}

/// The index keys that a plan requests. `None` if the plan is wide.
fn requested_keys(plan: &Reqs) -> Option<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    for filter in plan.values().flat_map(|req| message(req).1) {
        let fields = filter.as_object().unwrap();
        let fields = fields
            .iter()
            .filter(|(field, _)| *field != "since" && *field != "limit");
        let others: Vec<_> = fields
            .clone()
            .filter(|(field, _)| *field != "kinds")
            .collect();
        let is_kinds = others.is_empty();
        if plan.values().any(|req| req.coverage.keys.is_none()) {
            return None;
        }
        for (field, values) in fields.filter(|(field, _)| (*field == "kinds") == is_kinds) {
            let is_mute_list = filter["kinds"] == json!([MUTE_LIST_KIND]);
            let name = match field.as_str() {
                "authors" if is_mute_list => "mute_list",
                "authors" => "author",
                "ids" => "id",
                "kinds" => "kind",
                tag => tag,
            };
            keys.extend(values.as_array().unwrap().iter().map(|value| {
                let text = value.as_str().map_or(value.to_string(), str::to_owned);
                format!("{name}:{text}")
            }));
        }
    }
    Some(keys)
}

proptest! {
    #[test]
    fn requests_every_key_within_limits(
        steps in prop::collection::vec(
            (0..60usize, 0..8usize, 1..40usize, any::<bool>(), 1..12usize),
            1..40,
        ),
        subscriptions in 1..25usize,
        filters in 1..12usize,
        message_bytes in prop_oneof![1_000..200_000usize, 3_000..20_000usize],
    ) {
        let limits = Limits { subscriptions, filters, message_bytes, page: 100 };
        let (plans, mut interest) = (Plans::default(), Interest::default());
        for (at, (n, form, kinds, is_active, repeats)) in steps.into_iter().enumerate() {
            let state = if is_active {
                SubscriptionState::Active
            } else {
                SubscriptionState::Removed
            };
            for n in n..n + repeats {
                let row = Subscription {
                    state,
                    order: Order::counter(at as u64 + 1),
                    ..subscription(&alice(), &filter_of(form, n, kinds))
                };
                interest.apply(&row, Seconds(1));
            }
            let Some(Plan { reqs: plan, .. }) = plans.plan(limits, &interest, NOW) else {
                prop_assert!(subscriptions < 3 || message_bytes < 4 * 1024);
                continue;
            };
            prop_assert!(plan.len() + RESERVED_SUBSCRIPTIONS <= subscriptions.max(4));
            for req in plan.values() {
                let (message, sent) = message(req);
                prop_assert!(message.len() + MAX_RANGE_BYTES / 2 <= message_bytes);
                prop_assert!(sent.len() <= filters);
                let kinds = sent.iter().filter_map(|filter| filter["kinds"].as_array());
                prop_assert!(kinds.map(Vec::len).all(|kinds| kinds <= MAX_NAMED_KINDS + 1));
            }
            if let Some(requested) = requested_keys(&plan) {
                for (key, _) in interest.keys() {
                    prop_assert!(requested.contains(&key.to_string()), "{}", key);
                }
            }
        }
    }
}
