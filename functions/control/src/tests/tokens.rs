//! APNs tokens in upper and lower case are one token.

use super::*;

fn upper() -> String {
    "00FFAB12".repeat(8)
}

fn lower() -> String {
    upper().to_lowercase()
}

/// The numbers of devices and of endpoints.
fn counts(f: &Fixture) -> (usize, usize) {
    let devices = f.stage.store.state().devices.len();
    (devices, f.stage.sns.state().endpoints.len())
}

#[tokio::test]
async fn both_cases_are_one_device_in_both_dialects() {
    let tokens = [upper(), lower()];
    for [first, second] in [[0, 1], [1, 0]] {
        let (first, second) = (&tokens[first], &tokens[second]);
        let f = fixture();
        let keys = Keys::generate();
        f.accept(&f.demo(&keys, 3079, NOW, &json!({"token": first})))
            .await;
        f.accept(&f.demo(&keys, 3079, NOW + 1, &json!({"token": second})))
            .await;
        let settings = json!({"kinds": [1], "deviceId": first});
        f.accept(&f.settings(&keys, NOW + 2, &settings)).await;
        let settings = json!({"kinds": [1], "deviceId": format!("com.oxchat.nostr.{second}")});
        f.accept(&f.settings(&keys, NOW + 3, &settings)).await;
        assert_eq!(counts(&f), (1, 1));
        let endpoint = ("arn:demo/apns".to_owned(), lower());
        assert_eq!(f.endpoints(), [endpoint]);
    }
}

#[tokio::test]
async fn the_other_case_removes_the_device_in_any_order() {
    let (f, keys) = (fixture(), Keys::generate());
    let register = f.demo(&keys, 3079, NOW, &json!({"token": upper()}));
    let remove = f.demo(&keys, 3080, NOW + 1, &json!({"token": lower()}));
    f.accept(&register).await;
    assert_eq!(f.reason(&remove).await, "removed");
    assert!(f.active_registration("demo", &lower()).is_none());
    assert_eq!(counts(&f), (1, 0));

    let (f, keys) = (fixture(), Keys::generate());
    let register = f.demo(&keys, 3079, NOW, &json!({"token": lower()}));
    let remove = f.demo(&keys, 3080, NOW + 1, &json!({"token": upper()}));
    f.accept(&remove).await;
    assert_eq!(f.reason(&register).await, "superseded");
    assert_eq!(counts(&f), (1, 0));
}

#[tokio::test]
async fn the_other_case_takes_the_token_over() {
    let f = fixture();
    let [alice, bob] = [(); 2].map(|()| Keys::generate());
    f.accept(&f.demo(&alice, 3079, NOW, &json!({"token": lower()})))
        .await;
    f.accept(&f.demo(&bob, 3079, NOW + 1, &json!({"token": upper()})))
        .await;
    let registration = f.active_registration("demo", &lower()).unwrap();
    assert_eq!(registration.owner.pubkey, bob.public_key());
    assert_eq!(counts(&f), (1, 1));
}
