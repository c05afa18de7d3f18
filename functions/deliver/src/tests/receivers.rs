//! What the apps themselves show. Each parser here reads a push as the app does, written anew from
//! its source: the title, the body and the id.

use base64::{Engine, engine::general_purpose::STANDARD};
use nostr_push_core::shape::{Os, Shape};
use serde_json::Map;

use super::{
    payloads::{Receiver, known_author},
    *,
};
use crate::notice::Notice;

/// What an app shows.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    title: String,
    body: String,
    id: Option<String>,
}

/// The message that the distributor inside an app hands to it: the decoded bytes of `b`, else the
/// data as JSON.
fn distributor(message: &Value) -> Vec<u8> {
    let data = &message["data"];
    match data["b"].as_str() {
        Some(encoded) => STANDARD.decode(encoded).unwrap(),
        None => data.to_string().into_bytes(),
    }
}

/// 0xchat on Android: JSON with `notification.title`, `notification.body` and `data.msgType`. It
/// shows "default" for what is missing.
fn oxchat(message: &Value) -> (Shown, String) {
    let json: Value = serde_json::from_slice(&distributor(message)).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("default").to_owned();
    let shown = Shown {
        title: text(&json["notification"]["title"]),
        body: text(&json["notification"]["body"]),
        id: None,
    };
    (shown, text(&json["data"]["msgType"]))
}

/// `YakiHonne` on Android: a flat JSON object. It shows "New message" for what is missing.
fn yakihonne(message: &Value) -> Shown {
    let json: Map<String, Value> = serde_json::from_slice(&distributor(message)).unwrap();
    let text = |name: &str| {
        let text = json.get(name).and_then(Value::as_str);
        text.unwrap_or("New message").to_owned()
    };
    Shown {
        title: text("gcm.notification.title"),
        body: text("gcm.notification.body"),
        id: json
            .get("event_id")
            .and_then(Value::as_str)
            .map(str::to_owned),
    }
}

/// An app of verse-pbc in the browser or on Android: strings of `data`.
fn verse(message: &Value) -> Shown {
    let text = |name: &str| message["data"][name].as_str().unwrap().to_owned();
    Shown {
        title: text("title"),
        body: text("body"),
        id: Some(text("nostrEventId")),
    }
}

/// An iOS app that registered an FCM token. FCM hands the part `apns` to APNs and adds `data`.
fn ios(message: &Value) -> Shown {
    let mut payload = message["apns"]["payload"].clone();
    let data = message["data"].as_object().unwrap().clone();
    payload.as_object_mut().unwrap().extend(data);
    let alert = &payload["aps"]["alert"];
    assert_eq!(payload["aps"]["mutable-content"], 1);
    Shown {
        title: alert["title"].as_str().unwrap().to_owned(),
        body: alert["body"].as_str().unwrap().to_owned(),
        id: payload["event_id"].as_str().map(str::to_owned),
    }
}

/// A mention of the recipient by alice.
fn mention() -> Delivery {
    let me = recipient().public_key().to_hex();
    delivery(event(&Keys::generate(), 1, NOW, &[&["p", &me]], "مرحبا 👨‍👩‍👧‍👦"))
}

/// The FCM message of alice's event to a device.
fn message(delivery: &Delivery, receiver: Receiver) -> Value {
    let app = App::named(APP);
    let names = known_author(delivery, "alice", None);
    let notice = Notice::of_event(&app, delivery, names, Seconds(NOW));
    receiver.payload(&notice).json
}

fn shown(delivery: &Delivery) -> Shown {
    Shown {
        title: "alice mentioned you".to_owned(),
        body: delivery.event.content.clone(),
        id: Some(delivery.event.id.to_hex()),
    }
}

#[test]
fn apps_with_a_distributor_show_devices_of_dialect_h() {
    let delivery = mention();
    let receiver = Receiver {
        by_settings: true,
        ..Receiver::new(Platform::Fcm)
    };
    let message = message(&delivery, receiver);
    let data = message["data"].as_object().unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(yakihonne(&message), shown(&delivery));
    let (shown_by_oxchat, message_type) = oxchat(&message);
    assert_eq!(
        shown_by_oxchat,
        Shown {
            id: None,
            ..shown(&delivery)
        }
    );
    assert_eq!(message_type, "0");
}

#[test]
fn oxchat_rings_for_a_new_call_offer_only() {
    let receiver = Receiver::shaped(Platform::Fcm, Shape::EmbeddedDistributor);
    let offer: &[&str] = &["type", "offer"];
    for (kind, created_at, tags, message_type) in [
        (25_050, NOW, &[offer][..], "1"),
        (25_050, NOW - 60, &[offer][..], "1"),
        (25_050, NOW - 61, &[offer][..], "0"),
        (25_050, NOW, &[&["type", "answer"][..]][..], "0"),
        (25_050, NOW, &[&["type"][..]][..], "0"),
        (25_050, NOW, &[][..], "0"),
        (1, NOW, &[offer][..], "0"),
    ] {
        let call = delivery(event(&Keys::generate(), kind, created_at, tags, ""));
        let (_, shown) = oxchat(&message(&call, receiver));
        assert_eq!(shown, message_type, "{kind} {created_at} {tags:?}");
        let encrypted = message(&call, receiver.encrypted());
        assert_eq!(oxchat(&encrypted).1, "0", "{kind} {created_at} {tags:?}");
    }
}

#[test]
fn apps_with_a_distributor_show_encrypted_and_summarised_pushes() {
    let delivery = mention();
    let receiver = Receiver::shaped(Platform::Fcm, Shape::EmbeddedDistributor);
    let encrypted = message(&delivery, receiver.encrypted());
    assert_eq!(yakihonne(&encrypted).title, "New notification");
    let summary = nostr_push_core::message::Summary {
        app: APP.to_owned(),
        recipient: delivery.recipient,
        window: Seconds(NOW),
    };
    let app = App::named(APP);
    let notice = Notice::of_summary(&app, &summary, 12, Seconds(NOW));
    let summarised = receiver.payload(&notice).json;
    assert_eq!(oxchat(&summarised).0.title, "12 more notifications");
}

#[test]
fn apps_that_move_from_verse_find_their_fields() {
    let me = recipient().public_key();
    let tags: [&[&str]; 2] = [&["p", &me.to_hex()], &["h", "group"]];
    let delivery = delivery(event(&Keys::generate(), 1, NOW, &tags, "hello"));
    let message = message(&delivery, Receiver::shaped(Platform::Fcm, Shape::Verse));
    assert_eq!(verse(&message), shown(&delivery));
    let event = &delivery.event;
    let npub = "npub1fu64hh9hes90w2808n8tjc2ajp5yhddjef0ctx4s7zmsgp6cwx4qgy4eg9";
    for (field, value) in [
        ("senderPubkey", event.pubkey.to_hex()),
        ("senderName", "alice".to_owned()),
        ("receiverPubkey", me.to_hex()),
        ("receiverNpub", npub.to_owned()),
        ("eventKind", "1".to_owned()),
        ("timestamp", NOW.to_string()),
        ("groupId", "group".to_owned()),
        // The fields of this service are there as well.
        ("event_id", event.id.to_hex()),
    ] {
        assert_eq!(message["data"][field], value, "{field}");
    }
    assert_eq!(ios(&message), shown(&delivery));
}

#[test]
fn ios_shows_a_banner_for_fcm_tokens() {
    let delivery = mention();
    for os in [None, Some(Os::Ios)] {
        let mut receiver = Receiver::new(Platform::Fcm);
        receiver.options.os = os;
        assert_eq!(ios(&message(&delivery, receiver)), shown(&delivery));
    }
}
