//! Filters are in force only while their owner has a device.

use std::{cell::Cell, collections::VecDeque};

use nostr_push_core::{
    device::REMOVING_LEASE,
    index_key::IndexKey,
    message::ReconcileMessage,
    ports::IndexWriter,
    subscription::{MAX_WAITING_FILTERS, MUTE_LIST_PREFIX, SETTINGS_PREFIX},
};
use proptest::prelude::*;

use super::{slow::Slow, *};

impl Fixture {
    fn dormant(&self, now: u64) -> usize {
        let state = self.stage.store.state();
        let rows = state.subscriptions.values();
        rows.filter(|row| row.is_dormant(Seconds(now))).count()
    }

    fn active_at(&self, now: u64) -> usize {
        let state = self.stage.store.state();
        let rows = state.subscriptions.values();
        rows.filter(|row| row.is_active(Seconds(now)) && !row.is_derived())
            .count()
    }

    pub(super) async fn reconcile(&self, keys: &Keys, now: u64) {
        let input = ControlInput::Reconcile(ReconcileMessage {
            reconcile: demo_owner(keys),
        });
        let receipt = Receipt {
            now: Seconds(now).to_millis(),
            count: 1,
        };
        let applied = self.stage.handle(&input, receipt).await.unwrap();
        assert_eq!(applied, Applied::Reconciled);
    }

    /// Until when the owner has a device, and whether one of them is proven, as the matcher reads
    /// it.
    fn standing(&self, keys: &Keys) -> (Seconds, bool) {
        let state = self.stage.store.state();
        let roster = &state.rosters[&demo_owner(keys)];
        (roster.active_until, roster.proven)
    }
}

fn demo_owner(keys: &Keys) -> Owner {
    Owner {
        app: "demo".to_owned(),
        pubkey: keys.public_key(),
    }
}

fn tags(n: usize) -> Value {
    json!({"filter": {"#t": [format!("tag-{n}")]}})
}

#[tokio::test]
async fn a_filter_waits_for_the_first_device() {
    let f = fixture();
    let keys = Keys::generate();
    let upsert = f.demo(&keys, 3081, NOW, &mentions(&keys));
    assert_eq!(f.reason(&upsert).await, "subscribed");
    assert!(f.index().is_empty() && f.subscriptions().is_empty());
    assert_eq!(f.dormant(NOW), 1);
    assert_eq!(f.reason(&upsert).await, "repeated");
    f.accept(&f.demo(&keys, 3079, NOW - 5, &token(1))).await;
    assert_eq!((f.own().len(), f.dormant(NOW)), (1, 0));
    assert_eq!(f.index(), f.expected_index());
    assert_eq!(f.standing(&keys), (Seconds(NOW + 30 * DAY), false));
}

#[tokio::test]
async fn few_filters_wait_and_only_for_a_day() {
    let f = fixture();
    let keys = Keys::generate();
    for n in 0..MAX_WAITING_FILTERS {
        let upsert = f.demo(&keys, 3081, NOW, &tags(n));
        assert_eq!(f.reason(&upsert).await, "subscribed");
    }
    let another = f.demo(&keys, 3081, NOW, &tags(99));
    assert_eq!(f.reason(&another).await, "over_quota");
    let renewal = f.demo(&keys, 3081, NOW + 1, &tags(0));
    assert_eq!(f.reason(&renewal).await, "subscribed");
    let register = f.demo(&keys, 3079, NOW, &token(1));
    f.handle_at(&register, NOW + DAY + 1).await.unwrap();
    assert_eq!(f.active_at(NOW + DAY + 1), 0);
}

#[tokio::test]
async fn waiting_filters_are_small() {
    let f = fixture();
    let keys = Keys::generate();
    let filter = |n: usize| {
        let values: Vec<String> = (0..100)
            .map(|m| format!("{n}-{m}-{}", "x".repeat(500)))
            .collect();
        json!({"filter": {"#t": values}})
    };
    for (n, reason) in ["subscribed", "subscribed", "over_quota"]
        .into_iter()
        .enumerate()
    {
        let upsert = f.demo(&keys, 3081, NOW, &filter(n));
        assert_eq!(f.reason(&upsert).await, reason);
    }
}

#[tokio::test]
async fn filters_rest_without_a_device_and_wake_with_the_next() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    f.accept(&f.demo(&keys, 3081, NOW, &mentions(&keys))).await;
    f.accept(&f.demo(&keys, 3081, NOW, &tags(1))).await;
    f.accept(&f.demo(&keys, 3080, NOW + 1, &token(1))).await;
    assert!(f.index().is_empty());
    assert_eq!(f.dormant(NOW + 29 * DAY), 2, "they rest until they end");
    assert_eq!(f.standing(&keys), (Seconds(NOW), false));
    // A renewal without a device still ends when it says.
    f.accept(&f.demo(&keys, 3081, NOW + 2, &tags(1))).await;
    assert_eq!(f.dormant(NOW + 29 * DAY), 2);
    let register = f.demo(&keys, 3079, NOW + 3, &token(2));
    f.handle_at(&register, NOW + 20 * DAY).await.unwrap_err();
    f.handle_at(&register, NOW + 5 * DAY).await.unwrap();
    assert_eq!(f.active_at(NOW + 5 * DAY), 2);
    assert_eq!(f.index(), f.expected_index());
}

#[tokio::test]
async fn filters_rest_at_most_once_in_seven_days() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3081, NOW, &mentions(&keys))).await;
    let turn = async |at: u64| {
        let register = f.demo(&keys, 3079, at, &token(1));
        f.handle_at(&register, at).await.unwrap();
        let remove = f.demo(&keys, 3080, at + 1, &token(1));
        f.handle_at(&remove, at + 1).await.unwrap();
        f.active_at(at + 1)
    };
    assert_eq!(turn(NOW).await, 0);
    for day in 1..7 {
        assert_eq!(turn(NOW + day * DAY).await, 1);
        assert_eq!(f.own_keys().len(), 1);
        assert!(f.standing(&keys).0 <= Seconds(NOW + day * DAY + 1));
    }
    assert_eq!(turn(NOW + 8 * DAY).await, 0);
    assert!(f.own_keys().is_empty());
}

#[tokio::test]
async fn settings_wait_for_a_device() {
    let f = fixture();
    let keys = Keys::generate();
    let settings = json!({"deviceId": "", "kinds": [1]});
    f.accept(&f.settings(&keys, NOW, &settings)).await;
    assert!(f.subscriptions().is_empty() && f.index().is_empty());
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    let derived = |prefix: &str| {
        let subscriptions = f.subscriptions();
        subscriptions
            .iter()
            .filter(|(_, id, _)| id.starts_with(prefix))
            .count()
    };
    assert_eq!(
        (derived(SETTINGS_PREFIX), derived(MUTE_LIST_PREFIX)),
        (1, 1)
    );
    f.accept(&f.demo(&keys, 3080, NOW + 1, &token(1))).await;
    assert!(f.subscriptions().is_empty() && f.index().is_empty());
}

#[tokio::test]
async fn a_message_reconciles_after_a_device_is_gone_or_proven() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    f.accept(&f.demo(&keys, 3081, NOW, &tags(1))).await;
    let id = f.stage.hasher.device("demo", "token-1");
    let set = |change: &dyn Fn(&mut Registration)| {
        let mut state = f.stage.store.state();
        let device = state.devices.get_mut(&id).unwrap();
        change(device.registration.as_mut().unwrap());
        device.version += 1;
    };
    set(&|registration| registration.proven = true);
    f.reconcile(&keys, NOW).await;
    let rows = || f.stage.store.state().subscriptions.clone().into_values();
    assert!(rows().all(|row| row.proven));
    assert_eq!(f.standing(&keys), (Seconds(NOW + 30 * DAY), true));
    set(&|registration| registration.state = DeviceState::Gone);
    f.reconcile(&keys, NOW).await;
    assert!(rows().all(|row| !row.proven));
    assert!(f.index().is_empty());
    assert_eq!(f.standing(&keys), (Seconds(NOW), false));
}

#[tokio::test]
async fn an_owner_returns_although_old_index_rows_remain() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    // TTL has removed the row of the subscription to the mute list, and not yet its index row.
    let key = IndexKey::MuteList(*keys.public_key().as_bytes());
    let index_row = || {
        let state = f.stage.store.state();
        let mut rows = state.index.iter();
        let row = rows.find(|((stored, _), _)| *stored == key);
        row.map(|(_, row)| row.clone()).unwrap()
    };
    let old = index_row();
    f.stage.store.state().subscriptions.clear();
    let later = NOW + 40 * DAY;
    let expiration = (later + 30 * DAY).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    let register = f.event(&keys, 3079, later, &tags, &token(1));
    f.handle_at(&register, later).await.unwrap();
    assert_eq!(index_row().valid_until, Seconds(later + 30 * DAY));
    // A late write of that time changes nothing.
    f.stage.store.put_index(vec![old]).await.unwrap();
    assert_eq!(index_row().valid_until, Seconds(later + 30 * DAY));
}

/// The tokens of settings, two for each person. Late settings do not register a token that an event
/// of the other dialect registered before, so these have tokens of their own.
const SETTINGS_TOKENS: [&str; 4] = ["token-s", "token-t", "token-u", "token-v"];

/// One event of a history of two people. Tokens and filters are indices.
#[derive(Debug, Clone, Copy)]
enum Step {
    Register(usize),
    Remove(usize),
    RemoveAll,
    Upsert(usize),
    Delete(usize),
    Settings(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3usize).prop_map(Step::Register),
        3 => (0..3usize).prop_map(Step::Remove),
        1 => Just(Step::RemoveAll),
        3 => (0..3usize).prop_map(Step::Upsert),
        2 => (0..3usize).prop_map(Step::Delete),
        2 => (0..4usize).prop_map(Step::Settings),
    ]
}

impl Step {
    fn event(self, f: &Fixture, people: &[Keys; 2], person: usize, at: u64) -> Event {
        let keys = &people[person];
        let tokens = &SETTINGS_TOKENS[2 * person..];
        let token = |n: usize| json!({"token": TOKENS[n]});
        let settings = [
            json!({"deviceId": tokens[0], "kinds": [1], "#e": ["a"]}),
            json!({"deviceId": tokens[1], "kinds": [7], "#e": ["a", "b"]}),
            json!({"deviceId": "", "kinds": [6]}),
            json!({"online": 0, "deviceId": ""}),
        ];
        match self {
            Self::Register(n) => f.demo(keys, 3079, at, &token(n)),
            Self::Remove(n) => f.demo(keys, 3080, at, &token(n)),
            Self::RemoveAll => f.demo(keys, 3080, at, &json!({})),
            Self::Upsert(n) => f.demo(keys, 3081, at, &tags(n)),
            Self::Delete(n) => f.demo(keys, 3082, at, &tags(n)),
            Self::Settings(n) => f.settings(keys, at, &settings[n]),
        }
    }
}

/// The tokens in force, the subscriptions in force, and who has a device until when.
type Reached = (
    BTreeMap<(String, String), String>,
    BTreeSet<(Owner, String, u64)>,
    BTreeMap<Owner, Seconds>,
);

fn reached(f: &Fixture) -> Reached {
    let state = f.stage.store.state();
    let known = state
        .rosters
        .values()
        .filter(|r| r.active_until > Seconds(NOW + 1000));
    let known = known.map(|r| (r.owner.clone(), r.active_until)).collect();
    drop(state);
    let tokens = [&TOKENS[..], &SETTINGS_TOKENS[..]].concat();
    (f.active(&tokens), f.justified_subscriptions(), known)
}

/// Handles the events in this order. An event that fails is received again after the others, and
/// after the lease of a removal.
async fn handle_all<'a>(f: &Fixture, events: impl Iterator<Item = &'a Event>) {
    let mut queue: VecDeque<(&Event, u64)> = events.map(|event| (event, 0)).collect();
    while let Some((event, tries)) = queue.pop_front() {
        assert!(tries < 5, "the event fails at every attempt");
        let now = NOW + 10 + tries * (REMOVING_LEASE.0 + 1);
        match f.handle_nth(event, now, tries).await {
            Err(Failure::Unavailable(_)) => queue.push_back((event, tries + 1)),
            Err(refused) => panic!("{refused}"),
            Ok(_) => {}
        }
    }
}

impl Fixture {
    /// The stage on the same ports, with these pauses between calls.
    fn slow_stage(&self, pauses: &[usize]) -> ControlStage<Slow<'_>, Slow<'_>> {
        let pauses = || pauses.iter().copied().cycle().take(1_000);
        ControlStage::new(
            self.service.clone(),
            Some("demo".to_owned()),
            Limits::default(),
            Slow::new(&self.stage.store, pauses()),
            Slow::new(&self.stage.sns, pauses()),
        )
    }
}

fn first_receipt() -> Receipt {
    Receipt {
        now: Seconds(NOW + 10).to_millis(),
        count: 1,
    }
}

/// Handles three events at a time, with these pauses between their calls. Events that fail are
/// received again afterwards.
async fn handle_together(f: &Fixture, events: &[Event], pauses: &[usize]) {
    let stage = f.slow_stage(pauses);
    let receipt = first_receipt();
    let fails = async |event: Option<&Event>| {
        let Some(event) = event else { return false };
        let input = message(&to_raw_value(event).unwrap(), receipt.now);
        stage.handle(&input, receipt).await.is_err()
    };
    for group in events.chunks(3) {
        let (a, b, c) = (group.first(), group.get(1), group.get(2));
        let failed = tokio::join!(fails(a), fails(b), fails(c));
        let failed = group.iter().zip(<[bool; 3]>::from(failed));
        for (event, _) in failed.filter(|(_, failed)| *failed) {
            let mut tries = 1;
            let retry_at = |tries| NOW + 10 + tries * (REMOVING_LEASE.0 + 1);
            while f.handle_nth(event, retry_at(tries), tries).await.is_err() {
                tries += 1;
                assert!(tries < 5, "the event fails at every attempt");
            }
        }
    }
}

#[tokio::test]
async fn a_removal_and_a_registration_interleave_at_any_call() {
    let values: Vec<String> = (0..8).map(|n| format!("tag-{n}")).collect();
    let filter = json!({"filter": {"#t": values}});
    for delay in -60..200_isize {
        let f = fixture();
        let keys = Keys::generate();
        f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
        f.accept(&f.demo(&keys, 3081, NOW, &filter)).await;
        // The removal is slower, so the registration can overtake it.
        let (slow, fast) = (f.slow_stage(&[4]), f.slow_stage(&[1]));
        let handle = async |stage: &ControlStage<Slow<'_>, Slow<'_>>, kind, n, delay: isize| {
            for _ in 0..delay {
                tokio::task::yield_now().await;
            }
            let event = f.demo(&keys, kind, NOW + 1, &token(n));
            let receipt = first_receipt();
            let input = message(&to_raw_value(&event).unwrap(), receipt.now);
            stage.handle(&input, receipt).await.unwrap()
        };
        let removal = handle(&slow, 3080, 1, -delay);
        tokio::join!(removal, handle(&fast, 3079, 2, delay));
        assert_eq!((f.own().len(), f.own_keys().len()), (1, 8), "{delay}");
        assert_eq!(f.index(), f.expected_index(), "{delay}");
    }
}

/// Once a registration is accepted, its owner's filters stay in force, although a removal of an
/// earlier device is still at work. Otherwise events of that time would be lost.
#[tokio::test]
async fn filters_are_in_force_once_a_registration_is_accepted() {
    let values: Vec<String> = (0..3).map(|n| format!("tag-{n}")).collect();
    let filter = json!({"filter": {"#t": values}});
    let mut gaps = Vec::new();
    let delays = |pause: usize| (-60..200_isize).map(move |delay| (pause, delay));
    for (pause, delay) in [1, 2, 4].into_iter().flat_map(delays) {
        let f = fixture();
        let keys = Keys::generate();
        let event = |kind, at, payload: &Value| f.in_app("triggered", &keys, kind, at, payload);
        f.accept(&event(3079, NOW, &token(1))).await;
        f.accept(&event(3081, NOW, &filter)).await;
        let in_force = f.index();
        assert_eq!(in_force.len(), 5, "three tags, a trigger and the mute list");
        let (slow, fast) = (f.slow_stage(&[pause]), f.slow_stage(&[1]));
        let (removed, accepted) = (Cell::new(false), Cell::new(false));
        let handle = async |stage: &ControlStage<_, _>, event: Event, delay, done: &Cell<bool>| {
            for _ in 0..delay {
                tokio::task::yield_now().await;
            }
            let input = message(&to_raw_value(&event).unwrap(), first_receipt().now);
            stage.handle(&input, first_receipt()).await.unwrap();
            done.set(true);
        };
        let removal = handle(&slow, event(3080, NOW + 1, &token(1)), -delay, &removed);
        let registration = handle(&fast, event(3079, NOW + 1, &token(2)), delay, &accepted);
        let watch = async {
            let mut gap = 0;
            while !removed.get() || !accepted.get() {
                gap += i32::from(accepted.get() && f.index() != in_force);
                tokio::task::yield_now().await;
            }
            gap
        };
        let ((), (), gap) = tokio::join!(removal, registration, watch);
        if gap > 0 {
            gaps.push((pause, delay, gap));
        }
        assert_eq!(f.index(), in_force, "{pause} {delay}");
    }
    assert_eq!(gaps, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn events_at_the_same_time_reach_the_same_state(
        steps in prop::collection::vec((step(), 0..6u64), 2..12),
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        pauses in prop::collection::vec(0..6usize, 1..40),
        crash in prop::option::of((0..120usize, any::<bool>())),
    ) {
        let f = fixture();
        let other = Fixture::new(f.service.clone(), [app("demo", &BOTH_PLATFORMS)]);
        let people = [Keys::generate(), Keys::generate()];
        let events: Vec<Event> = steps
            .iter()
            .map(|(step, at)| step.event(&f, &people, 0, NOW + at))
            .collect();
        if let Some((call, after_effect)) = crash {
            let mut state = f.stage.store.state();
            state.fail_in = Some(call);
            state.fail_after_effect = after_effect;
        }
        runtime().block_on(async {
            let shuffled = order.iter().filter_map(|n| events.get(*n).cloned());
            let shuffled: Vec<Event> = shuffled.collect();
            Box::pin(handle_together(&f, &shuffled, &pauses)).await;
            let mut sorted: Vec<&Event> = events.iter().collect();
            sorted.sort_by_key(|event| (event.created_at, std::cmp::Reverse(event.id)));
            handle_all(&other, sorted.into_iter()).await;
        });
        prop_assert_eq!(reached(&f), reached(&other));
        prop_assert_eq!(f.index(), f.expected_index());
    }

    #[test]
    fn any_order_and_a_crash_reach_the_same_state(
        steps in prop::collection::vec((step(), 0..2usize, 0..6u64), 1..12),
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        crash in prop::option::of((0..60usize, any::<bool>(), any::<bool>())),
    ) {
        let f = fixture();
        let other = Fixture::new(f.service.clone(), [app("demo", &BOTH_PLATFORMS)]);
        let people = [Keys::generate(), Keys::generate()];
        let events: Vec<Event> = steps
            .iter()
            .map(|(step, person, at)| step.event(&f, &people, *person, NOW + at))
            .collect();
        if let Some((call, after_effect, in_sns)) = crash {
            let crashing = if in_sns { &f.stage.sns } else { &f.stage.store };
            let mut state = crashing.state();
            state.fail_in = Some(if in_sns { call % 4 } else { call });
            state.fail_after_effect = after_effect;
        }
        runtime().block_on(async {
            let shuffled = order.iter().filter_map(|n| events.get(*n));
            handle_all(&f, shuffled).await;
            let mut sorted: Vec<&Event> = events.iter().collect();
            sorted.sort_by_key(|event| (event.created_at, std::cmp::Reverse(event.id)));
            handle_all(&other, sorted.into_iter()).await;
        });
        prop_assert_eq!(reached(&f), reached(&other));
        prop_assert_eq!(f.index(), f.expected_index());
        prop_assert_eq!(other.index(), other.expected_index());
    }
}
