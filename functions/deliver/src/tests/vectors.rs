//! The payloads in `docs/vectors/payloads.json`, which client developers test their apps with.
//! `UPDATE_VECTORS=1` writes the file anew.

use std::{env, fs, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use nostr_push_core::{
    message::Summary,
    profile::{Profile, ProfileKey},
    shape::{Os, PayloadOptions, Shape},
};

use super::{payloads::Receiver, *};
use crate::{names::Names, notice::Notice};

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/payloads.json")
}

fn keys(n: &str) -> Keys {
    Keys::parse(&n.repeat(32)).unwrap()
}

/// The notices of the vectors, by name: the delivery or the summary, and the names that are known.
fn deliveries() -> Vec<(&'static str, Delivery)> {
    let me = recipient().public_key().to_hex();
    let (author, wallet) = (keys("22"), keys("44"));
    let root = "ab".repeat(32);
    let p: &[&str] = &["p", &me];
    let request = event(&keys("33"), 9734, NOW, &[p], "well said");
    let request = serde_json::to_string(&request).unwrap();
    let of = |event: Event| {
        let delivery = delivery(event);
        Delivery {
            zapper: nostr_push_core::zap::zapper(&delivery.event),
            ..delivery
        }
    };
    let by_author =
        |kind, tags: &[&[&str]], content: &str| of(event(&author, kind, NOW, tags, content));
    let zap: [&[&str]; 3] = [p, &["bolt11", "lnbc210n1pabc"], &["description", &request]];
    vec![
        ("mention", by_author(1, &[p], "hello")),
        (
            "reply",
            by_author(1, &[p, &["e", &root, "", "root", &me]], "مرحبا"),
        ),
        ("reaction", by_author(7, &[p, &["e", &root]], "🤙🏽")),
        ("zap", of(event(&wallet, 9735, NOW, &zap, ""))),
        (
            "group message",
            by_author(9, &[&["h", "rust"]], "hello group"),
        ),
        ("private message", by_author(1059, &[p], "ciphertext")),
        (
            "long article",
            by_author(30023, &[p, &["title", "On relays"]], &"x".repeat(5_000)),
        ),
        (
            "event with too many tags",
            Delivery {
                mentions: Some(500),
                ..by_author(1, &[p], "hello everybody")
            },
        ),
    ]
}

fn names(delivery: &Delivery) -> Names {
    let profile = |name: &str, picture: Option<&str>| Profile {
        name: Some(name.to_owned()),
        picture: picture.map(str::to_owned),
        asked_at: Seconds(NOW),
    };
    let group = ProfileKey::Group {
        relay: "wss://relay.example".to_owned(),
        id: "rust".to_owned(),
    };
    let alice = profile("alice", Some("https://example.com/alice.png"));
    let profiles = [
        (ProfileKey::Person(keys("22").public_key()), alice),
        (
            ProfileKey::Person(keys("33").public_key()),
            profile("bob", None),
        ),
        (group, profile("Rustaceans", None)),
    ];
    Names::of(delivery, profiles.into())
}

/// The devices of the vectors: what each has registered.
fn receivers() -> [Receiver; 12] {
    let fcm = |shape, os| Receiver {
        options: PayloadOptions {
            shape: Some(shape),
            os,
            encrypt_to: None,
        },
        ..Receiver::new(Platform::Fcm)
    };
    [
        Receiver::shaped(Platform::Apns, Shape::Native),
        fcm(Shape::Native, None),
        fcm(Shape::Native, Some(Os::Android)),
        fcm(Shape::Native, Some(Os::Ios)),
        fcm(Shape::Native, Some(Os::Web)),
        fcm(Shape::EmbeddedDistributor, Some(Os::Android)),
        fcm(Shape::Verse, None),
        Receiver::shaped(Platform::Apns, Shape::Wake),
        fcm(Shape::Wake, None),
        Receiver::shaped(Platform::Apns, Shape::Native).encrypted(),
        fcm(Shape::Native, None).encrypted(),
        fcm(Shape::EmbeddedDistributor, Some(Os::Android)).encrypted(),
    ]
}

/// One vector: the device, the payload and, if a part of it is encoded or encrypted, the fields in
/// that part.
fn vector(name: &str, notice: &Notice<'_>, receiver: Receiver) -> Value {
    let payload = receiver.payload(notice).json;
    let fields = &payload.get("data").unwrap_or(&payload);
    let is_encoded = fields.get("b").is_some() || fields.get("encrypted").is_some();
    let mut vector = json!({
        "source": name,
        "device": {
            "platform": receiver.platform,
            "payload": receiver.options.shape,
            "os": receiver.options.os,
            "encrypt_to": receiver.options.encrypt_to,
        },
        "payload": payload,
    });
    if is_encoded {
        vector["decoded"] = receiver.fields(&payload).into();
    }
    vector
}

/// All vectors. The events are those in `stored`, because signatures are random.
fn vectors(stored: &Value) -> Value {
    let app = App::named(APP);
    let (mut sources, mut vectors) = (Vec::new(), Vec::new());
    for (name, mut delivery) in deliveries() {
        let mut stored_sources = stored["sources"].as_array().into_iter().flatten();
        if let Some(source) = stored_sources.find(|source| source["name"] == name) {
            delivery.event = serde_json::from_value(source["event"].clone()).unwrap();
            assert!(delivery.event.verify().is_ok(), "{name}");
        }
        let are_tags_cut = delivery.mentions.is_some();
        let event = &delivery.event;
        sources.push(json!({"name": name, "event": event, "are_tags_cut": are_tags_cut}));
        let notice = Notice::of_event(&app, &delivery, names(&delivery), Seconds(NOW));
        vectors.extend(receivers().map(|receiver| vector(name, &notice, receiver)));
    }
    let summary = Summary {
        app: APP.to_owned(),
        recipient: recipient().public_key(),
        window: Seconds(NOW),
    };
    sources.push(json!({"name": "summary", "minute": NOW, "events": 12}));
    let notice = Notice::of_summary(&app, &summary, 12, Seconds(NOW));
    vectors.extend(receivers().map(|receiver| vector("summary", &notice, receiver)));
    json!({
        "app": APP,
        "recipient": recipient().public_key(),
        "relay": "wss://relay.example",
        "reasons": ["#p", "author"],
        "now": NOW,
        "device_secret": payloads::phone().secret_key().to_secret_hex(),
        "profiles": [
            {
                "pubkey": keys("22").public_key(),
                "name": "alice",
                "picture": "https://example.com/alice.png",
            },
            {"pubkey": keys("33").public_key(), "name": "bob"},
            {"group": "rust", "name": "Rustaceans"},
        ],
        "sources": sources,
        "vectors": vectors,
    })
}

/// The vector with placeholders for the ciphertext, of which only the length is known, and for the
/// key that encrypted it. Both are random. What is encrypted is in `decoded`.
fn without_ciphertext(mut vector: Value) -> Value {
    if vector["device"]["encrypt_to"].is_null() {
        return vector;
    }
    let payload = &mut vector["payload"];
    let encoded = payload["data"]["b"].as_str();
    let decoded = encoded.map(|encoded| STANDARD.decode(encoded).unwrap());
    if let Some(decoded) = decoded {
        payload["data"]["b"] = serde_json::from_slice(&decoded).unwrap();
    }
    for path in ["", "/data", "/data/b"] {
        let fields = payload.pointer_mut(path).and_then(Value::as_object_mut);
        let Some(fields) = fields else {
            continue;
        };
        if let Some(Value::String(ciphertext)) = fields.get_mut("encrypted") {
            *ciphertext = format!("{} bytes", ciphertext.len());
        }
        if let Some(key) = fields.get_mut("encrypted_by") {
            *key = json!("a key");
        }
    }
    vector
}

fn stored() -> Value {
    serde_json::from_str(&fs::read_to_string(file()).unwrap()).unwrap()
}

#[test]
fn payloads_are_those_of_the_vectors() {
    if env::var_os("UPDATE_VECTORS").is_some() {
        let json = serde_json::to_string_pretty(&vectors(&Value::Null)).unwrap();
        fs::write(file(), json + "\n").unwrap();
    }
    let stored = stored();
    let current = vectors(&stored);
    let list = |value: &Value| value["vectors"].as_array().unwrap().clone();
    assert_eq!(list(&stored).len(), list(&current).len());
    for (stored, current) in list(&stored).into_iter().zip(list(&current)) {
        let name = stored["name"].clone();
        assert_eq!(
            without_ciphertext(stored),
            without_ciphertext(current),
            "{name}"
        );
    }
}

#[test]
fn stored_ciphertexts_decrypt_to_what_is_stored_beside_them() {
    for vector in stored()["vectors"].as_array().unwrap() {
        let device = &vector["device"];
        let receiver = Receiver {
            by_settings: false,
            platform: serde_json::from_value(device["platform"].clone()).unwrap(),
            options: PayloadOptions {
                shape: serde_json::from_value(device["payload"].clone()).unwrap(),
                os: serde_json::from_value(device["os"].clone()).unwrap(),
                encrypt_to: serde_json::from_value(device["encrypt_to"].clone()).unwrap(),
            },
        };
        let payload = &vector["payload"];
        if let Some(decoded) = vector.get("decoded") {
            assert_eq!(Value::from(receiver.fields(payload)), *decoded);
        }
        assert!(payload.to_string().len() <= crate::payload::MAX_PAYLOAD_BYTES);
    }
}
