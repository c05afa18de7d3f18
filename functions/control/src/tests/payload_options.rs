//! What registrations ask for about their payloads: shape, operating system and encryption.

use nostr_push_core::shape::{Os, PayloadOptions, Shape};

use super::*;

/// A token of the form of FCM.
const FCM_TOKEN: &str = "cRk9-Zs:APA91bH_x";

fn device_key() -> String {
    Keys::parse(&"77".repeat(32)).unwrap().public_key().to_hex()
}

/// The payload with these fields added.
fn with(base: &Value, fields: &Value) -> Value {
    let mut payload = base.clone();
    let fields = fields.as_object().unwrap().clone();
    payload.as_object_mut().unwrap().extend(fields);
    payload
}

fn options(shape: Option<Shape>, os: Option<Os>, encrypt: bool) -> PayloadOptions {
    PayloadOptions {
        shape,
        os,
        encrypt_to: encrypt.then(|| device_key().parse().unwrap()),
    }
}

/// Registers [`FCM_TOKEN`] with these fields.
fn register(f: &Fixture, keys: &Keys, at: u64, fields: &Value, in_dialect_h: bool) -> Event {
    if in_dialect_h {
        let settings = json!({"kinds": [1], "deviceId": FCM_TOKEN});
        f.settings(keys, at, &with(&settings, fields))
    } else {
        let device = json!({"token": FCM_TOKEN});
        f.demo(keys, 3079, at, &with(&device, fields))
    }
}

/// The stored options of [`FCM_TOKEN`].
fn stored(f: &Fixture) -> Option<PayloadOptions> {
    let registration = f.active_registration("demo", FCM_TOKEN);
    registration.map(|registration| registration.payload)
}

/// The outcome of registering with these fields, and the stored options.
async fn registered(fields: Value, in_dialect_h: bool) -> (String, Option<PayloadOptions>) {
    let (f, keys) = (fixture(), Keys::generate());
    let event = register(&f, &keys, NOW, &fields, in_dialect_h);
    (f.reason(&event).await, stored(&f))
}

#[tokio::test]
async fn options_are_stored_with_the_registration() {
    use {Os::*, Shape::*};
    let key = device_key();
    for (fields, expected) in [
        (json!({}), options(None, None, false)),
        (
            json!({"payload": "verse"}),
            options(Some(Verse), None, false),
        ),
        (json!({"payload": "wake"}), options(Some(Wake), None, false)),
        (
            json!({"payload": "native"}),
            options(Some(Native), None, false),
        ),
        (
            json!({"payload": "embedded-distributor", "encrypt_to": key}),
            options(Some(EmbeddedDistributor), None, true),
        ),
        (
            json!({"payload": null, "encrypt_to": null, "os": null}),
            options(None, None, false),
        ),
        (json!({"os": "ios"}), options(None, Some(Ios), false)),
        (
            json!({"os": "Android"}),
            options(None, Some(Android), false),
        ),
        (json!({"os": "WEB"}), options(None, Some(Web), false)),
        // Clients sent these before the field had a meaning.
        (json!({"os": "linux"}), options(None, None, false)),
        (json!({"os": {"name": "ios"}}), options(None, None, false)),
        (json!({"os": 7}), options(None, None, false)),
        (json!({"os": ["ios"]}), options(None, None, false)),
    ] {
        let (reason, stored) = registered(fields.clone(), false).await;
        assert_eq!(
            (reason.as_str(), stored),
            ("registered", Some(expected)),
            "{fields}"
        );
        if fields.get("os").is_none_or(Value::is_null) {
            let (reason, stored) = registered(fields.clone(), true).await;
            assert_eq!(
                (reason.as_str(), stored),
                ("configured", Some(expected)),
                "{fields}"
            );
        }
    }
}

#[tokio::test]
async fn options_that_cannot_be_followed_are_refused() {
    let not_on_the_curve = "0".repeat(63) + "5";
    assert!(
        not_on_the_curve
            .parse::<nostr::key::PublicKey>()
            .unwrap()
            .xonly()
            .is_err()
    );
    for fields in [
        json!({"payload": "loud"}),
        json!({"payload": 1}),
        json!({"payload": ""}),
        json!({"encrypt_to": ""}),
        json!({"encrypt_to": "abc"}),
        json!({"encrypt_to": true}),
        json!({"encrypt_to": device_key().to_uppercase()}),
        json!({"encrypt_to": not_on_the_curve}),
    ] {
        for in_dialect_h in [false, true] {
            let expected = ("bad_payload".to_owned(), None);
            assert_eq!(
                registered(fields.clone(), in_dialect_h).await,
                expected,
                "{fields}"
            );
        }
    }
    let fields = json!({"payload": "embedded-distributor", "os": "ios"});
    assert_eq!(registered(fields, false).await.0, "bad_payload");
    let fields = json!({"payload": "embedded-distributor", "deviceOs": "web"});
    assert_eq!(registered(fields, true).await.0, "bad_payload");
    let (f, keys) = (fixture(), Keys::generate());
    let apns = json!({"token": "ab".repeat(32), "payload": "verse"});
    assert_eq!(
        f.reason(&f.demo(&keys, 3079, NOW, &apns)).await,
        "bad_payload"
    );
}

#[tokio::test]
async fn logout_succeeds_whatever_other_fields_say() {
    for fields in [
        json!({"os": "linux"}),
        json!({"platform": "telegraph"}),
        json!({"payload": "loud", "encrypt_to": 1}),
    ] {
        let (f, keys) = (fixture(), Keys::generate());
        f.accept(&f.demo(&keys, 3079, NOW, &json!({"token": FCM_TOKEN})))
            .await;
        let removal = with(&json!({"token": FCM_TOKEN}), &fields);
        let removal = f.demo(&keys, 3080, NOW + 1, &removal);
        assert_eq!(f.reason(&removal).await, "removed", "{fields}");
    }
}

#[tokio::test]
async fn settings_without_a_token_have_no_options() {
    let options = json!({"payload": "loud", "encrypt_to": 1});
    for (settings, reason) in [
        (json!({"kinds": [1], "deviceId": ""}), "configured"),
        (json!({"online": 0, "deviceId": ""}), "logged_out"),
        (json!({"online": 1}), "heartbeat_unwritten"),
    ] {
        let (f, keys) = (fixture(), Keys::generate());
        let event = f.settings(&keys, NOW, &with(&settings, &options));
        assert_eq!(f.reason(&event).await, reason);
        assert!(f.stage.store.state().devices.is_empty());
    }
}

#[tokio::test]
async fn operating_system_of_an_apns_token_is_not_stored() {
    let token = "ab".repeat(32);
    for os in ["ios", "android", "web"] {
        let (f, keys) = (fixture(), Keys::generate());
        let fields = json!({"token": token, "os": os, "payload": "wake"});
        f.accept(&f.demo(&keys, 3079, NOW, &fields)).await;
        let stored = f.active_registration("demo", &token).unwrap();
        let expected = options(Some(Shape::Wake), None, false);
        assert_eq!(
            (stored.platform, stored.payload),
            (Platform::Apns, expected),
            "{os}"
        );
    }
}

#[tokio::test]
async fn registration_without_options_resets_them() {
    let all = json!({
        "payload": "verse", "encrypt_to": device_key(), "os": "web", "deviceOs": "web",
    });
    let set = Some(options(Some(Shape::Verse), Some(Os::Web), true));
    for in_dialect_h in [false, true] {
        let (f, keys) = (fixture(), Keys::generate());
        f.accept(&register(&f, &keys, NOW, &all, in_dialect_h))
            .await;
        assert_eq!(stored(&f), set);
        f.accept(&register(&f, &keys, NOW + 1, &json!({}), in_dialect_h))
            .await;
        assert_eq!(stored(&f), Some(PayloadOptions::default()));
        f.accept(&register(&f, &keys, NOW + 2, &all, in_dialect_h))
            .await;
        assert_eq!(stored(&f), set);
    }
}

#[tokio::test]
async fn repeated_or_older_registration_changes_nothing() {
    let fields = json!({"payload": "verse", "encrypt_to": device_key()});
    for in_dialect_h in [false, true] {
        let (f, keys) = (fixture(), Keys::generate());
        let event = register(&f, &keys, NOW, &fields, in_dialect_h);
        f.accept(&event).await;
        let rows = || {
            let state = f.stage.store.state();
            (state.devices.clone(), state.settings.clone())
        };
        let before = rows();
        assert_eq!(f.reason(&event).await, "repeated");
        let wake = json!({"payload": "wake"});
        let older = register(&f, &keys, NOW - 1, &wake, in_dialect_h);
        assert_eq!(f.reason(&older).await, "superseded");
        assert_eq!(rows(), before);
    }
}

#[tokio::test]
async fn options_cost_nothing() {
    let all = json!({"payload": "verse", "encrypt_to": device_key(), "os": "web"});
    for in_dialect_h in [false, true] {
        let mut taken = Vec::new();
        for fields in [json!({}), all.clone()] {
            let (f, keys) = (fixture(), Keys::generate());
            f.accept(&register(&f, &keys, NOW, &fields, in_dialect_h))
                .await;
            let mut units: Vec<u64> = f.stage.store.state().budgets.values().copied().collect();
            units.sort_unstable();
            taken.push(units);
        }
        assert!(taken[0].iter().any(|units| *units > 0));
        assert_eq!(taken[0], taken[1]);
    }
}

#[tokio::test]
async fn latest_registration_of_a_token_replaces_the_options() {
    let key = device_key();
    let in_n = json!({"token": FCM_TOKEN, "payload": "verse", "encrypt_to": key, "os": "web"});
    let in_h = json!({"kinds": [1], "deviceId": FCM_TOKEN, "payload": "wake"});
    for n_is_later in [false, true] {
        for events_in_order in [false, true] {
            let (f, keys) = (fixture(), Keys::generate());
            let (at_n, at_h) = if n_is_later {
                (NOW + 1, NOW)
            } else {
                (NOW, NOW + 1)
            };
            let mut events = [
                f.demo(&keys, 3079, at_n, &in_n),
                f.settings(&keys, at_h, &in_h),
            ];
            if n_is_later == events_in_order {
                events.reverse();
            }
            for event in events.iter().chain(&events) {
                f.accept(event).await;
            }
            let expected = if n_is_later {
                options(Some(Shape::Verse), Some(Os::Web), true)
            } else {
                options(Some(Shape::Wake), None, false)
            };
            assert_eq!(stored(&f), Some(expected), "{n_is_later} {events_in_order}");
        }
    }
}

#[tokio::test]
async fn device_os_decides_with_the_form_of_the_token() {
    let hex = "ab".repeat(32);
    let unknown_prefix = format!("com.unknown:{hex}");
    let (ios, android) = (Some(Os::Ios), Some(Os::Android));
    let distributor = format!("https://push.example/?a=b&token={FCM_TOKEN}");
    let hex_after_distributor = format!("x?token={hex}");
    for (device_id, os, expected) in [
        (FCM_TOKEN, "ios", Ok((Platform::Fcm, ios))),
        (FCM_TOKEN, "iOS", Ok((Platform::Fcm, ios))),
        (FCM_TOKEN, "android", Ok((Platform::Fcm, android))),
        (FCM_TOKEN, "web", Ok((Platform::Fcm, Some(Os::Web)))),
        (FCM_TOKEN, "tizen", Ok((Platform::Fcm, None))),
        (&hex, "ios", Ok((Platform::Apns, None))),
        (&hex, "android", Ok((Platform::Fcm, android))),
        (&hex, "web", Ok((Platform::Fcm, Some(Os::Web)))),
        (&hex, "tizen", Ok((Platform::Apns, None))),
        (&unknown_prefix, "ios", Err("bad_token")),
        ("no colon", "ios", Err("bad_token")),
        (":", "ios", Err("bad_token")),
        (&hex_after_distributor, "ios", Ok((Platform::Apns, None))),
        ("x?token=no-colon", "ios", Err("bad_token")),
        (&distributor, "ios", Ok((Platform::Fcm, ios))),
        (&distributor, "android", Ok((Platform::Fcm, android))),
    ] {
        let (f, keys) = (fixture(), Keys::generate());
        let settings = json!({"kinds": [1], "deviceId": device_id, "deviceOs": os});
        let reason = f.reason(&f.settings(&keys, NOW, &settings)).await;
        let state = f.stage.store.state();
        let registration = state.devices.values().next();
        let registration = registration.and_then(|device| device.registration.as_ref());
        let actual = registration
            .map(|registration| (registration.platform, registration.payload.os))
            .ok_or(reason.as_str());
        assert_eq!(actual, expected, "{device_id} {os}");
    }
}

#[tokio::test]
async fn app_without_fcm_reads_the_form_of_the_token_of_a_browser() {
    let apps = [app("demo", &[Platform::Apns])];
    let (f, keys) = (Fixture::new(Keys::generate(), apps), Keys::generate());
    let settings = json!({"kinds": [1], "deviceId": "ab".repeat(32), "deviceOs": "web"});
    let reason = f.reason(&f.settings(&keys, NOW, &settings)).await;
    assert_eq!(reason, "configured", "as before the value had a meaning");
}

#[tokio::test]
async fn app_without_fcm_takes_no_fcm_token_from_ios() {
    let apps = [app("demo", &[Platform::Apns])];
    let (f, keys) = (Fixture::new(Keys::generate(), apps), Keys::generate());
    let event = register(&f, &keys, NOW, &json!({"deviceOs": "ios"}), true);
    assert_eq!(f.reason(&event).await, "bad_token");
}

#[tokio::test]
async fn app_with_fcm_alone_takes_fcm_tokens_from_ios() {
    let apps = [app("demo", &[Platform::Fcm])];
    let (f, keys) = (Fixture::new(Keys::generate(), apps), Keys::generate());
    let event = register(&f, &keys, NOW, &json!({"deviceOs": "ios"}), true);
    f.accept(&event).await;
    assert_eq!(stored(&f), Some(options(None, Some(Os::Ios), false)));
    let settings = json!({"kinds": [1], "deviceId": "ab".repeat(32), "deviceOs": "ios"});
    let event = f.settings(&keys, NOW + 1, &settings);
    assert_eq!(f.reason(&event).await, "unsupported_platform");
}
