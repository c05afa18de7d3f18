//! Payloads in the shape `native`, on each platform and operating system.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use nostr::nips::nip44;
use nostr_push_core::{
    profile::{Profile, ProfileKey},
    shape::{Os, PayloadOptions, Shape},
};
use serde_json::Map;

use super::*;
use crate::{names::Names, notice::Notice, payload::Payload};

/// What a device has registered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receiver {
    pub(super) platform: Platform,
    pub(super) by_settings: bool,
    pub(super) options: PayloadOptions,
}

impl Receiver {
    pub(super) fn new(platform: Platform) -> Self {
        Self {
            platform,
            by_settings: false,
            options: PayloadOptions::default(),
        }
    }

    pub(super) fn shaped(platform: Platform, shape: Shape) -> Self {
        let mut receiver = Self::new(platform);
        receiver.options.shape = Some(shape);
        receiver
    }

    pub(super) fn encrypted(mut self) -> Self {
        self.options.encrypt_to = Some(phone().public_key());
        self
    }

    /// The device and its registration.
    pub(super) fn device(self) -> (Device, Registration) {
        let owner = owner(recipient().public_key());
        let registration = Registration {
            platform: self.platform,
            by_settings: self.by_settings,
            payload: self.options,
            ..registration(&owner, "arn:a")
        };
        (builders::device("hash", registration.clone()), registration)
    }

    pub(super) fn payload(self, notice: &Notice<'_>) -> Payload {
        let (device, registration) = self.device();
        Payload::of(notice, &device, &registration)
    }

    pub(super) fn push(self, notice: &Notice<'_>) -> Push {
        self.payload(notice).into_push(self.platform)
    }

    /// The fields that the app reads, after decoding and decrypting.
    pub(super) fn fields(self, payload: &Value) -> Map<String, Value> {
        let mut fields = match self.platform {
            Platform::Fcm => payload["data"].clone(),
            Platform::Apns | Platform::ApnsSandbox => payload.clone(),
        };
        if let Some(encoded) = fields["b"].as_str() {
            fields = serde_json::from_slice(&STANDARD.decode(encoded).unwrap()).unwrap();
        }
        if let Some(encrypted) = fields["encrypted"].as_str() {
            let from = serde_json::from_value(fields["encrypted_by"].clone()).unwrap();
            let plaintext = nip44::decrypt(phone().secret_key(), &from, encrypted).unwrap();
            fields = serde_json::from_str(&plaintext).unwrap();
        }
        fields.as_object().unwrap().clone()
    }
}

/// The key of a device that has its payloads encrypted.
pub(super) fn phone() -> Keys {
    Keys::parse(&"77".repeat(32)).unwrap()
}

/// The names, if the author of the event has this profile.
pub(super) fn known_author(delivery: &Delivery, name: &str, picture: Option<&str>) -> Names {
    let profile = Profile {
        name: Some(name.to_owned()),
        picture: picture.map(str::to_owned),
        asked_at: Seconds(NOW),
    };
    let author = ProfileKey::Person(delivery.event.pubkey);
    Names::of(delivery, [(author, profile)].into())
}

pub(super) fn no_names(delivery: &Delivery) -> Names {
    Names::of(delivery, BTreeMap::new())
}

fn app() -> App {
    App::named(APP)
}

#[test]
fn apns_push_has_one_banner_and_the_routing_fields() {
    let delivery = delivery(note("hello"));
    let app = app();
    let notice = Notice::of_event(&app, &delivery, no_names(&delivery), Seconds(NOW));
    let push = Receiver::new(Platform::Apns).push(&notice);
    let message: Value = serde_json::from_str(&push.message).unwrap();
    let payload: Value = serde_json::from_str(message["APNS"].as_str().unwrap()).unwrap();
    let id = delivery.event.id.to_hex();
    assert_eq!(
        payload["aps"],
        json!({
            "alert": {"title": "New note", "body": "hello"},
            "mutable-content": 1,
            "sound": "default",
            "thread-id": delivery.event.pubkey.to_hex(),
        })
    );
    for (field, value) in [
        ("event_id", json!(id)),
        ("kind", json!(1)),
        ("author", json!(delivery.event.pubkey)),
        ("actor", Value::Null),
        ("author_name", Value::Null),
        ("recipient", json!(delivery.recipient)),
        ("app", json!("demo")),
        ("relay", json!("wss://relay.example")),
        ("reasons", json!(["#p", "author"])),
        ("event", json!(delivery.event)),
        ("title_loc_key", json!("NOTE_TITLE")),
        ("title_loc_args", Value::Null),
        ("body_loc_key", Value::Null),
    ] {
        assert_eq!(payload[field], value, "{field}");
    }
    assert_eq!(attribute(&push, "AWS.SNS.MOBILE.APNS.PUSH_TYPE"), "alert");
    assert_eq!(collapse_id(&push), id);
    assert_eq!(attribute(&push, "AWS.SNS.MOBILE.APNS.TTL"), "86400");
}

#[test]
fn sandbox_push_has_the_names_of_the_sandbox() {
    let delivery = delivery(note("hello"));
    let app = app();
    let notice = Notice::of_event(&app, &delivery, no_names(&delivery), Seconds(NOW));
    let push = Receiver::new(Platform::ApnsSandbox).push(&notice);
    let message: Value = serde_json::from_str(&push.message).unwrap();
    assert!(message["APNS_SANDBOX"].is_string());
    assert_eq!(attribute(&push, "AWS.SNS.MOBILE.APNS_SANDBOX.TTL"), "86400");
}

#[test]
fn ios_translates_only_for_apps_with_the_phrases() {
    let delivery = delivery(event(&Keys::generate(), 7, NOW, &[], "🔥"));
    let payload = |localized, platform| {
        let app = App { localized, ..app() };
        let notice = Notice::of_event(&app, &delivery, no_names(&delivery), Seconds(NOW));
        Receiver::new(platform).payload(&notice).json
    };
    let alert = payload(false, Platform::Apns)["aps"]["alert"].clone();
    let keys: Vec<&String> = alert.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["body", "title"]);
    let localized = payload(true, Platform::Apns)["aps"]["alert"].clone();
    assert_eq!(
        (&localized["title-loc-key"], &localized["loc-key"]),
        (&json!("REACTION_TITLE"), &json!("REACTION_BODY"))
    );
    assert_eq!(localized["loc-args"][0], "🔥");
    let fcm = payload(true, Platform::Fcm);
    assert_eq!(fcm["apns"]["payload"]["aps"]["alert"], localized);
    let data = &fcm["data"];
    assert_eq!(data["body_loc_key"], "REACTION_BODY");
    let arguments: Value = serde_json::from_str(data["body_loc_args"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, localized["loc-args"]);
}

#[test]
fn ios_translates_the_text_without_names() {
    let app = App {
        localized: true,
        ..app()
    };
    let me = recipient().public_key().to_hex();
    let tags: [&[&str]; 1] = [&["p", &me]];
    for (kind, content, key, arguments) in [
        (1, "hi", "MENTION_TITLE", json!(["alice"])),
        (7, "🔥", "REACTION_TITLE", json!(["alice"])),
        (4, "x", "MESSAGE_TITLE", Value::Null),
    ] {
        let delivery = delivery(event(&Keys::generate(), kind, NOW, &tags, content));
        let names = known_author(&delivery, "alice", None);
        let notice = Notice::of_event(&app, &delivery, names, Seconds(NOW));
        let payload = Receiver::new(Platform::Apns).payload(&notice).json;
        let alert = &payload["aps"]["alert"];
        assert_eq!(payload["title_loc_key"], key);
        assert_eq!(payload["title_loc_args"], arguments, "{key}");
        assert_eq!(alert["title-loc-key"], key);
        assert_eq!(alert.get("title-loc-args"), None, "{key}");
        // The arguments of the body are not optional.
        assert_eq!(alert["loc-args"], payload["body_loc_args"], "{key}");
    }
}

#[test]
fn calls_are_kept_for_a_minute() {
    let app = app();
    let expiration = (NOW + 50).to_string();
    let expires: &[&str] = &["expiration", &expiration];
    for (tags, time_to_live) in [(&[][..], "60"), (&[expires][..], "50")] {
        let delivery = delivery(event(&Keys::generate(), 25_050, NOW, tags, ""));
        let notice = Notice::of_event(&app, &delivery, no_names(&delivery), Seconds(NOW));
        for (platform, name) in [
            (Platform::Apns, "AWS.SNS.MOBILE.APNS.TTL"),
            (Platform::Fcm, "AWS.SNS.MOBILE.FCM.TTL"),
        ] {
            let push = Receiver::new(platform).push(&notice);
            assert_eq!(attribute(&push, name), time_to_live, "{name}");
            // Otherwise the time would reveal that it is a call.
            let wake = Receiver::shaped(platform, Shape::Wake);
            for receiver in [wake, Receiver::new(platform).encrypted()] {
                assert_eq!(attribute(&receiver.push(&notice), name), "86400", "{name}");
            }
        }
    }
}

#[test]
fn fcm_data_has_strings_only() {
    let expiration = (NOW + 50).to_string();
    let tags: [&[&str]; 1] = [&["expiration", &expiration]];
    let delivery = delivery(event(&Keys::generate(), 1, NOW, &tags, "hello"));
    let app = app();
    let notice = Notice::of_event(&app, &delivery, no_names(&delivery), Seconds(NOW));
    let push = Receiver::new(Platform::Fcm).push(&notice);
    let message: Value = serde_json::from_str(&push.message).unwrap();
    let payload: Value = serde_json::from_str(message["GCM"].as_str().unwrap()).unwrap();
    let payload = &payload["fcmV1Message"]["message"];
    let data = payload["data"].as_object().unwrap();
    assert!(data.values().all(Value::is_string));
    assert_eq!(data["reasons"], "#p,author");
    assert_eq!(
        serde_json::from_str::<Value>(data["event"].as_str().unwrap()).unwrap(),
        json!(delivery.event)
    );
    let notification = payload.get("notification");
    assert_eq!(notification, None, "the app shows the one banner");
    assert_eq!(attribute(&push, "AWS.SNS.MOBILE.FCM.TTL"), "50");
    assert_eq!(payload["webpush"]["headers"]["TTL"], "50");
    assert_eq!(payload["apns"]["headers"]["apns-expiration"], expiration);
}

#[test]
fn fcm_message_has_the_parts_of_its_operating_system() {
    let delivery = delivery(note("hello"));
    let app = app();
    let notice = Notice::of_event(&app, &delivery, no_names(&delivery), Seconds(NOW));
    let parts = |os: Option<Os>| {
        let mut receiver = Receiver::new(Platform::Fcm);
        receiver.options.os = os;
        let json = receiver.payload(&notice).json;
        let parts = json.as_object().unwrap().keys();
        parts.cloned().collect::<Vec<_>>()
    };
    assert_eq!(parts(None), ["android", "apns", "data", "webpush"]);
    assert_eq!(parts(Some(Os::Android)), ["android", "data"]);
    assert_eq!(parts(Some(Os::Ios)), ["apns", "data"]);
    assert_eq!(parts(Some(Os::Web)), ["data", "webpush"]);
    let json = Receiver::new(Platform::Fcm).payload(&notice).json;
    assert_eq!(json["android"], json!({"priority": "high"}));
    assert_eq!(
        json["apns"]["headers"]["apns-collapse-id"],
        json!(delivery.event.id)
    );
    assert_eq!(
        json["apns"]["payload"]["aps"],
        json!({
            "alert": {"title": "New note", "body": "hello"},
            "mutable-content": 1,
            "sound": "default",
            "thread-id": delivery.event.pubkey,
        })
    );
}

#[test]
fn wake_has_no_identifiers_and_is_always_the_same() {
    let (a, b) = (delivery(note("one")), delivery(note("two")));
    let app = app();
    for platform in [Platform::Apns, Platform::Fcm] {
        let receiver = Receiver::shaped(platform, Shape::Wake);
        let pushes = [&a, &b].map(|delivery| {
            let names = known_author(delivery, "alice", None);
            receiver.push(&Notice::of_event(&app, delivery, names, Seconds(NOW)))
        });
        assert_eq!(pushes[0], pushes[1]);
        assert!(!pushes[0].message.contains(&a.recipient.to_hex()));
    }
}

#[test]
fn names_and_pictures_are_routing_fields() {
    let delivery = delivery(note("hello"));
    let picture = "https://example.com/alice.png";
    let names = known_author(&delivery, "alice", Some(picture));
    let app = app();
    let notice = Notice::of_event(&app, &delivery, names, Seconds(NOW));
    for platform in [Platform::Apns, Platform::Fcm] {
        let receiver = Receiver::new(platform);
        let fields = receiver.fields(&receiver.payload(&notice).json);
        assert_eq!(fields["author_name"], "alice");
        assert_eq!(fields["author_picture"], picture);
        assert!(!fields.contains_key("actor"));
    }
}

#[test]
fn zapper_is_the_actor_and_the_wallet_the_author() {
    let (wallet, alice) = (Keys::generate(), Keys::generate());
    let delivery = Delivery {
        zapper: Some(alice.public_key()),
        ..delivery(event(&wallet, 9735, NOW, &[], ""))
    };
    let profile = Profile {
        name: Some("alice".to_owned()),
        ..Profile::default()
    };
    let names = Names::of(
        &delivery,
        [(ProfileKey::Person(alice.public_key()), profile)].into(),
    );
    let app = app();
    let notice = Notice::of_event(&app, &delivery, names, Seconds(NOW));
    let receiver = Receiver::new(Platform::Apns);
    let fields = receiver.fields(&receiver.payload(&notice).json);
    assert_eq!(fields["author"], json!(wallet.public_key()));
    assert_eq!(fields["actor"], json!(alice.public_key()));
    assert_eq!(fields["author_name"], "alice");
}
