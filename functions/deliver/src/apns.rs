//! The message for APNs (production and sandbox).
//!
//! <https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-message-attributes.html>

use nostr_push_core::{Seconds, message::Delivery, ports::Push};
use serde_json::{Value, json};

use crate::{
    routing::{self, Rung},
    text::Text,
};

/// Builds the message. `key` is `APNS` or `APNS_SANDBOX`.
pub fn push(key: &'static str, delivery: &Delivery, text: &Text, now: Seconds) -> Push {
    let (_, payload) = payload(delivery, text);
    let ttl = routing::time_to_live(&delivery.event, now).to_string();
    Push {
        message: json!({"default": text.title, key: payload.to_string()}).to_string(),
        attributes: vec![
            ("AWS.SNS.MOBILE.APNS.PUSH_TYPE", "alert".to_owned()),
            ("AWS.SNS.MOBILE.APNS.PRIORITY", "10".to_owned()),
            // A repeat after a crash replaces the notification on the phone.
            ("AWS.SNS.MOBILE.APNS.COLLAPSE_ID", delivery.event.id.to_hex()),
            (if key == "APNS" { "AWS.SNS.MOBILE.APNS.TTL" } else { "AWS.SNS.MOBILE.APNS_SANDBOX.TTL" }, ttl),
        ],
    }
}

/// Never `content-available` beside an alert: the phone would show two banners.
pub fn payload(delivery: &Delivery, text: &Text) -> (Rung, Value) {
    let event = &delivery.event;
    routing::fit(delivery, |whole| {
        let mut payload = json!({
            "aps": {
                "alert": {"title": text.title, "body": text.body},
                "mutable-content": 1,
                "sound": "default",
                "thread-id": routing::thread(event),
            },
            "event_id": event.id,
            "kind": event.kind.as_u16(),
            "author": event.pubkey,
            "recipient": delivery.recipient,
            "app": delivery.app,
            "relay": delivery.relay,
            "reasons": delivery.reasons,
        });
        if let Some(whole) = whole {
            payload["event"] = whole;
        }
        payload
    })
}
