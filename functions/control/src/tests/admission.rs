//! Who may be an owner: admission, the blocklist and the caps.

use nostr::event::Signature;
use nostr_push_core::{admission::Admission, capacity::Usage};

use super::*;

impl Fixture {
    fn set_admission(&self, admission: Admission, change: impl FnOnce(&mut App)) {
        let mut state = self.stage.store.state();
        let app = state.apps.get_mut("demo").unwrap();
        app.admission = admission;
        change(app);
    }

    /// Fills the stack to this percentage of its caps.
    fn fill(&self, percent: u64) {
        self.stage.store.state().usage = Some(Usage {
            index_keys: self.stage.limits.caps.index_keys * percent / 100,
            ..Usage::default()
        });
    }
}

fn tag(name: &str) -> Value {
    json!({"filter": {"#t": [name]}})
}

#[tokio::test]
async fn strangers_need_admission_and_known_owners_do_not() {
    let f = fixture();
    let (known, stranger) = (Keys::generate(), Keys::generate());
    f.accept(&f.demo(&known, 3079, NOW, &token(1))).await;
    f.set_admission(Admission::Closed, |_| {});
    let heartbeat = json!({"online": 1});
    for event in [
        f.demo(&stranger, 3079, NOW, &token(2)),
        f.demo(&stranger, 3080, NOW, &token(2)),
        f.demo(&stranger, 3081, NOW, &tag("a")),
        f.demo(&stranger, 3082, NOW, &tag("a")),
        f.settings(&stranger, NOW, &heartbeat),
    ] {
        assert_eq!(f.reason(&event).await, "not_admitted");
    }
    assert!(!f.stage.store.state().rosters.contains_key(&Owner {
        app: "demo".to_owned(),
        pubkey: stranger.public_key(),
    }));
    let subscribe = f.demo(&known, 3081, NOW, &tag("a"));
    assert_eq!(f.reason(&subscribe).await, "subscribed");
    let beat = f.settings(&known, NOW, &heartbeat);
    assert_eq!(f.reason(&beat).await, "heartbeat");
    // After the last device, the owner is a stranger again.
    f.accept(&f.demo(&known, 3080, NOW + 1, &token(1))).await;
    let subscribe = f.demo(&known, 3081, NOW + 2, &tag("b"));
    assert_eq!(f.reason(&subscribe).await, "not_admitted");
}

#[tokio::test]
async fn an_app_admits_who_is_on_its_list_or_does_the_work() {
    let f = fixture();
    let keys = Keys::generate();
    let register = f.demo(&keys, 3079, NOW, &token(1));
    f.set_admission(Admission::Pow, |app| app.pow_difficulty = Some(1));
    assert_eq!(f.reason(&register).await, "not_admitted");
    f.set_admission(Admission::Pow, |app| app.pow_difficulty = Some(0));
    assert_eq!(f.reason(&register).await, "registered");
    let other = Keys::generate();
    let register = f.demo(&other, 3079, NOW, &token(2));
    f.set_admission(Admission::Allow, |_| {});
    assert_eq!(f.reason(&register).await, "not_admitted");
    f.set_admission(Admission::Allow, |app| {
        app.allowed = vec![other.public_key()];
    });
    assert_eq!(f.reason(&register).await, "registered");
}

#[tokio::test]
async fn admission_is_checked_before_the_signature_and_after_the_id() {
    let f = fixture();
    f.set_admission(Admission::Closed, |_| {});
    let keys = Keys::generate();
    let mut event = f.demo(&keys, 3079, NOW, &token(1));
    event.sig = Signature::from_byte_array([7; 64]);
    assert_eq!(f.reason(&event).await, "not_admitted");
    let mut other_id = event.clone();
    other_id.content.push('x');
    assert_eq!(f.reason(&other_id).await, "bad_signature");
    f.set_admission(Admission::Open, |_| {});
    assert_eq!(f.reason(&event).await, "bad_signature");
}

#[tokio::test]
async fn a_blocked_pubkey_is_refused_even_with_a_device() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    f.stage.store.state().blocked.insert(keys.public_key());
    let subscribe = f.demo(&keys, 3081, NOW, &tag("a"));
    assert_eq!(f.reason(&subscribe).await, "not_admitted");
}

#[tokio::test]
async fn a_full_stack_refuses_new_owners_and_then_further_filters() {
    let f = fixture();
    let (known, unproven) = (Keys::generate(), Keys::generate());
    f.register("demo", &known).await;
    f.prove(&format!("device of {}", known.public_key()));
    f.reconcile(&known, NOW).await;
    f.accept(&f.demo(&known, 3081, NOW, &tag("a"))).await;
    f.accept(&f.demo(&unproven, 3079, NOW, &token(3))).await;
    f.fill(100);
    let register = f.demo(&Keys::generate(), 3079, NOW, &token(2));
    assert_eq!(f.reason(&register).await, "at_capacity");
    let another = f.demo(&unproven, 3081, NOW, &tag("b"));
    assert_eq!(f.reason(&another).await, "at_capacity");
    let another = f.demo(&known, 3081, NOW, &tag("b"));
    assert_eq!(f.reason(&another).await, "subscribed");
    f.fill(120);
    let another = f.demo(&known, 3081, NOW, &tag("c"));
    assert_eq!(f.reason(&another).await, "at_capacity");
    let settings = f.settings(&known, NOW, &json!({"deviceId": "t", "kinds": [1]}));
    assert_eq!(f.reason(&settings).await, "at_capacity");
    let renewal = f.demo(&known, 3081, NOW + 1, &tag("a"));
    assert_eq!(f.reason(&renewal).await, "subscribed");
    let renewal = f.demo(&known, 3079, NOW + 1, &token(1));
    assert_eq!(f.reason(&renewal).await, "registered");
    let removal = f.demo(&known, 3082, NOW + 2, &tag("a"));
    assert_eq!(f.reason(&removal).await, "unsubscribed");
}

#[tokio::test]
async fn a_long_app_id_is_unknown() {
    let f = fixture();
    let register = f.in_app(&"x".repeat(3_000), &Keys::generate(), 3079, NOW, &token(1));
    assert_eq!(f.reason(&register).await, "unknown_app");
}
