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

/// The outcome of registering with these fields, and the stored options.
async fn registered(fields: Value, in_dialect_h: bool) -> (String, Option<PayloadOptions>) {
    let (f, keys) = (fixture(), Keys::generate());
    let event = if in_dialect_h {
        let settings = json!({"kinds": [1], "deviceId": FCM_TOKEN});
        f.settings(&keys, NOW, &with(&settings, &fields))
    } else {
        f.demo(
            &keys,
            3079,
            NOW,
            &with(&json!({"token": FCM_TOKEN}), &fields),
        )
    };
    let reason = f.reason(&event).await;
    let registration = f.active_registration("demo", FCM_TOKEN);
    (
        reason,
        registration.map(|registration| registration.payload),
    )
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
            let stored = f.active_registration("demo", FCM_TOKEN).unwrap().payload;
            let expected = if n_is_later {
                options(Some(Shape::Verse), Some(Os::Web), true)
            } else {
                options(Some(Shape::Wake), None, false)
            };
            assert_eq!(stored, expected, "{n_is_later} {events_in_order}");
        }
    }
}

#[tokio::test]
async fn device_os_decides_with_the_form_of_the_token() {
    let hex = "ab".repeat(32);
    let unknown_prefix = format!("com.unknown:{hex}");
    let (ios, android) = (Some(Os::Ios), Some(Os::Android));
    let distributor = format!("https://push.example/?a=b&token={FCM_TOKEN}");
    for (device_id, os, expected) in [
        (FCM_TOKEN, "ios", Ok((Platform::Fcm, ios))),
        (FCM_TOKEN, "iOS", Ok((Platform::Fcm, ios))),
        (FCM_TOKEN, "android", Ok((Platform::Fcm, android))),
        (FCM_TOKEN, "web", Ok((Platform::Fcm, Some(Os::Web)))),
        (FCM_TOKEN, "tizen", Ok((Platform::Fcm, None))),
        (&hex, "ios", Ok((Platform::Apns, None))),
        (&hex, "android", Ok((Platform::Fcm, android))),
        (&unknown_prefix, "ios", Err("bad_token")),
        ("no colon", "ios", Err("bad_token")),
        (":", "ios", Err("bad_token")),
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
async fn app_without_fcm_takes_no_fcm_token_from_ios() {
    let apps = [app("demo", &[Platform::Apns])];
    let (f, keys) = (Fixture::new(Keys::generate(), apps), Keys::generate());
    let settings = json!({"kinds": [1], "deviceId": FCM_TOKEN, "deviceOs": "ios"});
    let reason = f.reason(&f.settings(&keys, NOW, &settings)).await;
    assert_eq!(reason, "bad_token");
}
