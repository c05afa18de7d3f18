//! The service's key is rotated while owners register and remove devices.

use nostr_push_core::service_keys::ServiceKeys;

use super::*;

/// The end of the previous key.
const UNTIL: u64 = NOW + 30 * DAY;

/// A stage before and after a rotation, with the same tables.
struct Rotation {
    old: Keys,
    f: Fixture,
}

impl Rotation {
    fn new() -> Self {
        let f = fixture();
        Self {
            old: f.service.clone(),
            f,
        }
    }

    /// Rotates the key. The previous one is accepted until `until`.
    fn rotate(&mut self, until: Option<u64>) {
        let new = Keys::generate();
        let keys = self.f.stage.keys.rotated(new.clone(), until.map(Seconds));
        // What a function reads when it starts.
        let keys = ServiceKeys::parse(&keys.to_secret_text()).unwrap();
        self.f.stage.hasher = keys.token_hasher();
        self.f.stage.keys = keys;
        self.f.service = new;
    }

    async fn reason_at(&self, event: &Event, now: u64) -> String {
        match self.f.handle_at(event, now).await {
            Ok(applied) => applied.reason().to_owned(),
            Err(Failure::Refused(refusal)) => refusal.reason().to_owned(),
            Err(Failure::UnknownKey) => "unknown_key".to_owned(),
            Err(Failure::Unavailable(error)) => error.to_string(),
        }
    }

    fn devices(&self) -> usize {
        self.f.stage.store.state().devices.len()
    }
}

/// An event to these keys of the service, encrypted to the first of them.
fn to(services: &[&Keys], author: &Keys, kind: u16, at: u64, payload: &Value) -> Event {
    let expiration = (UNTIL + DAY).to_string();
    let others = services[1..].iter().map(|keys| keys.public_key().to_hex());
    let others: Vec<String> = others.collect();
    let others: Vec<[&str; 2]> = others.iter().map(|hex| ["p", hex.as_str()]).collect();
    let expiration = ["expiration", expiration.as_str()];
    let mut tags: Vec<&[&str]> = vec![&["app", "demo"], &expiration];
    tags.extend(others.iter().map(|tag| &tag[..]));
    let (service, payload) = (services[0].public_key(), payload.to_string());
    control_event(author, service, kind, at, &tags, &payload)
}

#[tokio::test]
async fn a_device_stays_one_device() {
    let mut r = Rotation::new();
    let keys = Keys::generate();
    let register = to(&[&r.old], &keys, 3079, NOW, &token(1));
    let subscribe = to(&[&r.old], &keys, 3081, NOW, &mentions(&keys));
    r.f.accept(&register).await;
    r.f.accept(&subscribe).await;
    let subscriptions = r.f.subscriptions();

    r.rotate(Some(UNTIL));
    assert_eq!(r.reason_at(&register, NOW).await, "repeated");
    let again = to(&[&r.f.service], &keys, 3079, NOW + 1, &token(1));
    assert_eq!(r.reason_at(&again, NOW + 1).await, "registered");
    assert_eq!(r.devices(), 1);
    assert_eq!(r.f.subscriptions().len(), subscriptions.len());

    // A deletion to the new key ends what the old one created, and the other way round.
    let delete = to(&[&r.f.service], &keys, 3082, NOW + 2, &mentions(&keys));
    assert_eq!(r.reason_at(&delete, NOW + 2).await, "unsubscribed");
    let remove = to(&[&r.old], &keys, 3080, NOW + 3, &token(1));
    assert_eq!(r.reason_at(&remove, NOW + 3).await, "removed");
    let replayed = r.reason_at(&register, NOW + 4).await;
    assert_eq!(
        replayed, "superseded",
        "the tombstone outlives the rotation"
    );
    assert_eq!(r.devices(), 1);
    assert!(r.f.endpoints().is_empty());
}

#[tokio::test]
async fn the_old_key_is_accepted_until_its_end() {
    let mut r = Rotation::new();
    r.rotate(Some(UNTIL));
    let keys = Keys::generate();
    let event = to(&[&r.old], &keys, 3079, UNTIL, &token(1));
    assert_eq!(r.reason_at(&event, UNTIL + 1).await, "old_key");
    assert_eq!(r.reason_at(&event, UNTIL).await, "registered");

    // It was received before the end, and waited in the queue.
    let event = to_raw_value(&to(&[&r.old], &keys, 3079, UNTIL - 60, &token(2))).unwrap();
    let input = message(&event, Seconds(UNTIL).to_millis());
    let receipt = Receipt {
        now: Seconds(UNTIL + 3_600).to_millis(),
        count: 3,
    };
    let applied = r.f.stage.handle(&input, receipt).await.unwrap();
    assert_eq!(applied.reason(), "registered");
}

#[tokio::test]
async fn without_overlap_the_old_key_ends_at_once() {
    let mut r = Rotation::new();
    r.rotate(None);
    let keys = Keys::generate();
    let event = to(&[&r.old], &keys, 3079, NOW, &token(1));
    // The keys no longer contain the old one, so it cannot be told from a newer one.
    assert_eq!(r.reason_at(&event, NOW).await, "unknown_key");
}

#[tokio::test]
async fn an_event_to_both_keys_is_read_with_the_one_it_is_encrypted_to() {
    let mut r = Rotation::new();
    r.rotate(Some(UNTIL));
    let keys = Keys::generate();
    for (n, services) in [(1, [&r.old, &r.f.service]), (2, [&r.f.service, &r.old])] {
        let event = to(&services, &keys, 3079, NOW, &token(n));
        assert_eq!(r.reason_at(&event, NOW).await, "registered");
    }
    let to_old = to(&[&r.old, &r.f.service], &keys, 3079, UNTIL, &token(3));
    assert_eq!(r.reason_at(&to_old, UNTIL + 1).await, "undecryptable");
}

#[tokio::test]
async fn an_event_to_a_newer_key_is_retried_until_the_function_knows_it() {
    let mut r = Rotation::new();
    let newer = Keys::generate();
    let keys = Keys::generate();
    let event = to(&[&newer], &keys, 3079, NOW, &token(1));
    assert_eq!(r.reason_at(&event, NOW).await, "unknown_key");
    assert_eq!(r.devices(), 0);
    r.f.stage.keys = r.f.stage.keys.rotated(newer, Some(Seconds(UNTIL)));
    assert_eq!(r.reason_at(&event, NOW + 60).await, "registered");
}

#[tokio::test]
async fn heartbeats_of_dialect_h_reach_both_keys() {
    let mut r = Rotation::new();
    let keys = Keys::generate();
    r.f.register("demo", &keys).await;
    let heartbeat = json!({"online": 1});
    let to_old = r.f.settings(&keys, NOW, &heartbeat);
    r.rotate(Some(UNTIL));
    assert_eq!(r.f.reason(&to_old).await, "heartbeat");
    let to_new = r.f.settings(&keys, NOW + 120, &heartbeat);
    assert_eq!(r.reason_at(&to_new, NOW + 120).await, "heartbeat");
}
