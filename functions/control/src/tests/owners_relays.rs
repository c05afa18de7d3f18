//! The relays that owners name: which rows contain them, and whether the owner is proven.

use nostr_push_core::{relay_url::RelayHash, subscription::Subscription};

use super::*;

const RELAYS: [&str; 2] = ["wss://a.example", "wss://b.example"];

impl Fixture {
    /// Marks the device with this token as proven, as deliver does.
    pub(super) fn prove(&self, token: &str) {
        let id = self.stage.hasher.device("demo", token);
        let mut state = self.stage.store.state();
        let device = state.devices.get_mut(&id).unwrap();
        device.registration.as_mut().unwrap().proven = true;
    }

    /// The relays of the subscriptions in force that name relays, each with `true` if the owner is
    /// proven.
    fn named(&self) -> Vec<(Vec<String>, bool)> {
        let state = self.stage.store.state();
        let rows = state.subscriptions.values();
        rows.filter(|row| row.is_active(Seconds(NOW)) && !row.relays.is_empty())
            .map(|row| (row.relays.clone(), row.proven))
            .collect()
    }

    /// The subscriptions of owners that count as proven.
    fn proven(&self) -> usize {
        let state = self.stage.store.state();
        let proven = |row: &&Subscription| row.proven;
        state.subscriptions.values().filter(proven).count()
    }

    /// The relays in each index row of the filters `#t`.
    fn indexed(&self) -> Vec<Vec<RelayHash>> {
        let state = self.stage.store.state();
        let rows = state.index.iter();
        rows.filter(|((key, _), _)| key.dimension() == "#t")
            .map(|(_, row)| row.relays.clone())
            .collect()
    }
}

fn hashes(urls: &[&str]) -> Vec<RelayHash> {
    urls.iter().map(|url| RelayHash::of(url).unwrap()).collect()
}

fn filter(relays: &[&str]) -> Value {
    json!({"filter": {"#t": ["a", "b"]}, "relays": relays})
}

fn names(urls: &[&str], proven: bool) -> (Vec<String>, bool) {
    (urls.iter().map(|url| (*url).to_owned()).collect(), proven)
}

#[tokio::test]
async fn renewal_with_other_relays_rewrites_index_rows() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    f.accept(&f.demo(&keys, 3081, NOW, &filter(&RELAYS))).await;
    assert_eq!(f.indexed(), [hashes(&RELAYS), hashes(&RELAYS)]);
    let other = ["wss://c.example"];
    f.accept(&f.demo(&keys, 3081, NOW + 1, &filter(&other)))
        .await;
    assert_eq!(f.indexed(), [hashes(&other), hashes(&other)]);
    // An older event that arrives late changes nothing.
    f.accept(&f.demo(&keys, 3081, NOW - 1, &filter(&RELAYS)))
        .await;
    assert_eq!(f.indexed(), [hashes(&other), hashes(&other)]);
    f.accept(&f.demo(&keys, 3081, NOW + 2, &filter(&[]))).await;
    assert_eq!(f.indexed(), [hashes(&[]), hashes(&[])]);
}

#[tokio::test]
async fn filter_knows_whether_its_owner_has_a_proven_device() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    f.accept(&f.demo(&keys, 3081, NOW, &filter(&RELAYS))).await;
    assert_eq!(f.named(), [names(&RELAYS, false)]);
    f.prove("token-1");
    f.accept(&f.demo(&keys, 3081, NOW + 1, &filter(&RELAYS)))
        .await;
    assert_eq!(f.named(), [names(&RELAYS, true)]);
    // A renewal of the registration keeps the proof.
    f.accept(&f.demo(&keys, 3079, NOW + 2, &token(1))).await;
    f.accept(&f.demo(&keys, 3081, NOW + 3, &filter(&RELAYS)))
        .await;
    assert_eq!(f.named(), [names(&RELAYS, true)]);
    // All rows say so, also those that name no relays.
    f.accept(&f.demo(&keys, 3081, NOW + 4, &filter(&[]))).await;
    assert_eq!(
        f.proven(),
        2,
        "the filter, and the one that fetches the mute list"
    );
}

#[tokio::test]
async fn filter_gains_and_loses_the_proof_with_the_device() {
    let f = fixture();
    let (keys, bob) = (Keys::generate(), Keys::generate());
    f.accept(&f.demo(&keys, 3081, NOW, &filter(&RELAYS))).await;
    f.accept(&f.demo(&keys, 3081, NOW, &mentions(&keys))).await;
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    assert_eq!(f.named(), [names(&RELAYS, false)]);
    f.prove("token-1");
    // The next control event about a device is enough.
    f.accept(&f.demo(&keys, 3079, NOW + 1, &token(1))).await;
    // Both filters, and the one that fetches the mute list.
    assert_eq!((f.named(), f.proven()), (vec![names(&RELAYS, true)], 3));
    // The token passes to another owner, who starts from nothing: one device cannot prove several
    // owners in turn.
    f.accept(&f.demo(&bob, 3079, NOW + 2, &token(1))).await;
    assert_eq!((f.named(), f.proven()), (vec![], 0));
    f.accept(&f.demo(&bob, 3081, NOW + 3, &filter(&RELAYS)))
        .await;
    assert_eq!(f.named(), [names(&RELAYS, false)]);
    f.prove("token-1");
    f.accept(&f.demo(&bob, 3081, NOW + 4, &filter(&RELAYS)))
        .await;
    assert_eq!(f.proven(), 2);
    f.accept(&f.demo(&bob, 3080, NOW + 5, &token(1))).await;
    assert_eq!(f.proven(), 0, "the device is removed");
}

#[tokio::test]
async fn settings_follow_the_proof_of_the_device() {
    let f = fixture();
    let keys = Keys::generate();
    let settings = json!({"kinds": [1], "deviceId": "the-token", "relays": RELAYS});
    f.accept(&f.settings(&keys, NOW, &settings)).await;
    assert_eq!(f.named(), [names(&RELAYS, false)]);
    f.prove("the-token");
    // Any later control event about a device or settings updates the row, also a repeat.
    f.accept(&f.settings(&keys, NOW, &settings)).await;
    assert_eq!(f.named(), [names(&RELAYS, true)]);
    assert_eq!(f.index(), f.expected_index());
    let without_relays = json!({"kinds": [1], "deviceId": "the-token"});
    f.accept(&f.settings(&keys, NOW + 1, &without_relays)).await;
    assert_eq!((f.named(), f.proven()), (vec![], 2));
}
