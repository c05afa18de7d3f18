//! Writes are paid from budgets, and proven owners do not depend on those of newcomers.

use nostr_push_core::admission::Admission;
use proptest::prelude::*;

use super::*;
use crate::budget::Shared;

impl Fixture {
    /// What newcomers took today from the budgets that they share.
    fn of_newcomers(&self) -> u64 {
        self.taken("strangers") + self.taken("known")
    }

    /// What was taken from a budget today.
    fn taken(&self, budget: &str) -> u64 {
        let window = Seconds(NOW).start_of_day();
        let state = self.stage.store.state();
        let taken = state.budgets.get(&(budget.to_owned(), window));
        taken.copied().unwrap_or_default()
    }

    fn of_owner(&self, keys: &Keys) -> u64 {
        self.taken(&format!("owner:demo#{}", keys.public_key()))
    }

    fn exhaust(&self, budgets: &[Shared]) {
        let window = Seconds(NOW).start_of_day();
        for shared in budgets {
            let units = shared.units(&self.stage.limits);
            let budget = (shared.name().to_owned(), window);
            self.stage.store.state().budgets.insert(budget, units);
        }
    }

    fn exhaust_newcomers(&self) {
        self.exhaust(&[Shared::Strangers, Shared::Known]);
    }
}

fn large(name: &str) -> Value {
    let values: Vec<String> = (0..900).map(|n| format!("{name}-{n}")).collect();
    json!({"filter": {"#t": values}})
}

#[tokio::test]
async fn a_newcomer_is_limited_per_day() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    for name in ["a", "b", "c"] {
        f.accept(&f.demo(&keys, 3081, NOW, &large(name))).await;
    }
    let more = f.demo(&keys, 3081, NOW, &large("e"));
    assert_eq!(f.reason(&more).await, "over_budget");
    assert_eq!(f.own().len(), 3, "nothing of the event is stored");
    assert!(f.own_keys().len() == 3 * 900);
    // What removes something is never refused, and what is small still fits.
    f.accept(&f.demo(&keys, 3082, NOW + 1, &large("a"))).await;
    assert!(f.of_owner(&keys) > 3_000);
    f.accept(&f.demo(&keys, 3080, NOW + 1, &token(1))).await;
    let tomorrow = f.demo(&keys, 3081, NOW + 2, &large("e"));
    f.handle_at(&tomorrow, NOW + DAY).await.unwrap();
}

#[tokio::test]
async fn repeats_take_one_unit_and_heartbeats_nothing() {
    let f = fixture();
    let keys = Keys::generate();
    let register = f.demo(&keys, 3079, NOW, &token(1));
    let upsert = f.demo(&keys, 3081, NOW, &large("a"));
    let settings = f.settings(&keys, NOW, &json!({"deviceId": "t", "kinds": [1]}));
    let remove = f.demo(&keys, 3080, NOW, &token(5));
    let delete = f.demo(&keys, 3082, NOW, &large("z"));
    let all = [register, upsert, settings, remove, delete];
    for event in &all {
        f.accept(event).await;
    }
    let before = (f.of_owner(&keys), f.of_newcomers());
    assert!(before.0 > 900 && before.0 == before.1);
    for event in &all {
        f.accept(event).await;
    }
    f.accept(&f.demo(&keys, 3081, NOW - 1, &large("a"))).await;
    let entered = all.len() as u64 + 1;
    let before = (before.0 + entered, before.1 + entered);
    f.accept(&f.settings(&keys, NOW, &json!({"online": 1})))
        .await;
    assert_eq!((f.of_owner(&keys), f.of_newcomers()), before);
}

#[tokio::test]
async fn a_message_that_is_received_again_is_not_refused_and_pays() {
    let f = fixture();
    let keys = Keys::generate();
    f.exhaust_newcomers();
    let register = f.demo(&keys, 3079, NOW, &token(1));
    assert_eq!(f.reason(&register).await, "over_budget");
    assert!(f.stage.sns.state().endpoints.is_empty());
    let before = f.of_newcomers();
    assert_eq!(
        f.handle_again(&register, NOW).await.unwrap(),
        Applied::Registered
    );
    assert!(f.of_newcomers() > before);
}

#[tokio::test]
async fn strangers_leave_known_owners_their_budget() {
    let f = fixture();
    let (known, stranger) = (Keys::generate(), Keys::generate());
    f.accept(&f.demo(&known, 3079, NOW, &token(1))).await;
    f.exhaust(&[Shared::Strangers]);
    let register = f.demo(&stranger, 3079, NOW, &token(2));
    assert_eq!(f.reason(&register).await, "over_budget");
    f.accept(&f.demo(&known, 3079, NOW + 1, &token(1))).await;
    f.accept(&f.demo(&known, 3081, NOW + 1, &large("a"))).await;
    f.accept(&f.demo(&known, 3080, NOW + 2, &token(1))).await;
}

#[tokio::test]
async fn strangers_whom_an_app_admits_do_not_share_with_others() {
    let f = fixture();
    let keys = Keys::generate();
    let app = f.stage.store.state().apps["demo"].clone();
    let allow = App {
        admission: Admission::Allow,
        allowed: vec![keys.public_key()],
        ..app
    };
    f.stage.store.state().apps.insert("demo".to_owned(), allow);
    f.exhaust(&[Shared::Strangers]);
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
}

#[tokio::test]
async fn a_spent_budget_is_asked_once_a_day() {
    let f = fixture();
    f.exhaust(&[Shared::Strangers]);
    let (first, second) = (Keys::generate(), Keys::generate());
    for keys in [&first, &second] {
        let register = f.demo(keys, 3079, NOW, &token(1));
        assert_eq!(f.reason(&register).await, "over_budget");
    }
    assert!(f.of_owner(&first) > 0);
    assert_eq!(f.of_owner(&second), 0, "the refusal is remembered");
    let tomorrow = f.demo(&second, 3079, NOW, &token(1));
    f.handle_at(&tomorrow, NOW + DAY).await.unwrap();
}

#[tokio::test]
async fn bringing_dormant_filters_into_force_is_paid() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3081, NOW, &large("a"))).await;
    let waiting = f.of_owner(&keys);
    assert!(waiting < 100, "only the row is written");
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    assert!(f.of_owner(&keys) > waiting + 900);
}

#[tokio::test]
async fn filters_stay_in_force_if_no_budget_is_left_for_their_rest() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    f.accept(&f.demo(&keys, 3081, NOW, &large("a"))).await;
    f.exhaust_newcomers();
    let remove = f.demo(&keys, 3080, NOW + 1, &token(1));
    assert_eq!(f.reason(&remove).await, "removed");
    assert_eq!(f.own_keys().len(), 900);
    assert!(f.active(&["token-1"]).is_empty());
}

#[tokio::test]
async fn strangers_cannot_write_removals_without_a_budget() {
    let f = fixture();
    let keys = Keys::generate();
    f.exhaust_newcomers();
    for event in [
        f.demo(&keys, 3080, NOW, &token(1)),
        f.demo(&keys, 3080, NOW, &json!({})),
        f.demo(&keys, 3082, NOW, &large("a")),
        f.demo(&keys, 3081, NOW, &large("a")),
        f.settings(&keys, NOW, &json!({"deviceId": "", "kinds": [1]})),
        f.settings(&keys, NOW, &json!({"online": 0, "deviceId": ""})),
    ] {
        assert_eq!(f.reason(&event).await, "over_budget");
    }
    let state = f.stage.store.state();
    assert!(state.rosters.is_empty() && state.devices.is_empty() && state.settings.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_event_of_a_proven_owner_is_applied(
        steps in prop::collection::vec((0..6usize, 0..3usize), 1..15),
    ) {
        let f = fixture();
        let keys = Keys::generate();
        runtime().block_on(async {
            f.register("demo", &keys).await;
            f.prove(&format!("device of {}", keys.public_key()));
            f.reconcile(&keys, NOW).await;
            f.exhaust_newcomers();
            for (at, (kind, n)) in (NOW + 1..).zip(steps) {
                let filter = json!({"filter": {"#t": [format!("tag-{n}")]}});
                let token = json!({"token": TOKENS[n]});
                let groups: Vec<String> = (0..n * 20).map(|m| format!("group-{m}")).collect();
                let settings = json!({"deviceId": TOKENS[n], "kinds": [1], "#e": groups});
                let event = match kind {
                    0 => f.demo(&keys, 3079, at, &token),
                    1 => f.demo(&keys, 3080, at, &token),
                    2 => f.demo(&keys, 3081, at, &filter),
                    3 => f.demo(&keys, 3082, at, &filter),
                    4 => f.settings(&keys, at, &settings),
                    _ => f.settings(&keys, at, &json!({"online": 0, "deviceId": ""})),
                };
                f.accept(&event).await;
            }
        });
        assert_eq!(f.of_newcomers(), f.stage.limits.newcomer_write_units);
        assert_eq!(f.index(), f.expected_index());
    }
}
