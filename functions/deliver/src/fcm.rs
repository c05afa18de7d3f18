//! The message for FCM, as HTTP v1 takes it.
//!
//! A data message: the app's service shows the one banner, under `event_id` as its tag, so that a repeat replaces it.
//! No collapse key: FCM keeps only four of them per device that is off, and would lose the fifth event.
//!
//! <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-fcm-v1-payloads.html>

use nostr_push_core::{Seconds, message::Delivery, ports::Push};
use serde_json::{Value, json};

use crate::{
    routing::{self, Rung},
    text::Text,
};

/// Builds the message.
pub fn push(delivery: &Delivery, text: &Text, now: Seconds) -> Push {
    let (_, payload) = payload(delivery, text);
    let fcm = json!({"fcmV1Message": {"message": payload}});
    let ttl = routing::time_to_live(&delivery.event, now).to_string();
    Push { message: json!({"default": text.title, "GCM": fcm.to_string()}).to_string(), attributes: vec![("AWS.SNS.MOBILE.FCM.TTL", ttl)] }
}

/// The `message` of the HTTP v1 API. Every value in `data` is a string.
pub fn payload(delivery: &Delivery, text: &Text) -> (Rung, Value) {
    let event = &delivery.event;
    routing::fit(delivery, |whole| {
        let mut data = json!({
            "title": text.title,
            "body": text.body,
            "thread": routing::thread(event),
            "event_id": event.id,
            "kind": event.kind.as_u16().to_string(),
            "author": event.pubkey,
            "recipient": delivery.recipient,
            "app": delivery.app,
            "relay": delivery.relay,
            "reasons": delivery.reasons.join(","),
        });
        if let Some(whole) = whole {
            data["event"] = json!(whole.to_string());
        }
        json!({"data": data, "android": {"priority": "high"}})
    })
}
