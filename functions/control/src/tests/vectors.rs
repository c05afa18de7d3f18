//! The control events in `docs/vectors/control.json`, which client developers compare theirs with.
//!
//! To add one, append `{"name": …, "kind": …, "plaintext": …}` to the file and run this test with
//! `UPDATE_VECTORS=1`. It signs the event and adds the effect.

use std::{env, fs, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::*;

/// One vector. `docs/vectors/README.md` explains its fields.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    /// Only of a vector whose event is not signed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<u16>,
    #[serde(default)]
    event: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plaintext: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    filters: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the file has this field")]
struct Vectors {
    service_secret: String,
    now: u64,
    default_app: String,
    apps: Vec<Value>,
    vectors: Vec<Vector>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/control.json")
}

fn service() -> Keys {
    Keys::parse(&"55".repeat(32)).unwrap()
}

fn client() -> Keys {
    Keys::parse(&"66".repeat(32)).unwrap()
}

fn apps() -> [App; 2] {
    [
        App {
            token_prefixes: vec!["com.oxchat.nostr".to_owned()],
            ..app("demo", &BOTH_PLATFORMS)
        },
        app("web", &[Platform::Fcm]),
    ]
}

fn stage() -> Fixture {
    Fixture::new(service(), apps())
}

/// The effect of an event on a service that has seen no other.
async fn vector(name: String, event: Value, plaintext: Option<Value>) -> Vector {
    let f = stage();
    let json = to_raw_value(&event).unwrap();
    let (accepted, refused) = match f.handle_json(&json, NOW).await {
        Ok(applied) => (Some(applied.reason().to_owned()), None),
        Err(Failure::Refused(refusal)) => (None, Some(refusal.reason().to_owned())),
        Err(other) => panic!("{name}: {other:?}"),
    };
    let state = f.stage.store.state();
    let registrations = state
        .devices
        .values()
        .filter_map(|device| device.registration.as_ref());
    let device = registrations.map(|registration| {
        let endpoint = registration.endpoint_arn.as_ref().unwrap();
        let token = f.stage.sns.state().endpoints[endpoint].1.clone();
        json!({
            "platform": registration.platform,
            "token": token,
            "payload": registration.payload.shape,
            "os": registration.payload.os,
            "encrypt_to": registration.payload.encrypt_to,
        })
    });
    let rows = state.subscriptions.values().filter(|row| !row.is_derived());
    Vector {
        device: device.into_iter().next(),
        filters: rows.map(|row| row.identity.clone()).collect(),
        name,
        kind: None,
        event,
        plaintext,
        accepted,
        refused,
    }
}

/// Signs the events that are missing, and writes the effects of all.
async fn write(mut file: Vectors) {
    for entry in &mut file.vectors {
        if entry.event.is_null() {
            let (kind, plaintext) = (entry.kind.unwrap(), entry.plaintext.clone().unwrap());
            let event = if kind == 22_456 {
                stage().settings(&client(), NOW, &plaintext)
            } else {
                stage().demo(&client(), kind, NOW, &plaintext)
            };
            entry.event = serde_json::to_value(event).unwrap();
        }
        let Vector {
            name,
            event,
            plaintext,
            ..
        } = entry;
        *entry = vector(name.clone(), event.clone(), plaintext.clone()).await;
    }
    let json = serde_json::to_string_pretty(&file).unwrap();
    fs::write(path(), json + "\n").unwrap();
}

fn read() -> Vectors {
    serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap()
}

#[tokio::test]
async fn control_events_have_the_effects_of_the_vectors() {
    if env::var_os("UPDATE_VECTORS").is_some() {
        write(read()).await;
    }
    let stored = read();
    let secret = service().secret_key().to_secret_hex();
    assert_eq!((stored.service_secret, stored.now), (secret, NOW));
    for expected in stored.vectors {
        let Vector {
            name,
            event,
            plaintext,
            ..
        } = &expected;
        let actual = vector(name.clone(), event.clone(), plaintext.clone()).await;
        assert_eq!(actual, expected);
    }
}
