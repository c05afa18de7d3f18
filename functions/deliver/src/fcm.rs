//! The message for FCM, as HTTP v1 takes it.
//!
//! A data message: the app's service shows the one banner, under `event_id` as its tag, so that a
//! repeat replaces it. No collapse key: FCM keeps only four of them per device that is off, and
//! would lose the fifth event.
//!
//! <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-fcm-v1-payloads.html>

use nostr_push_core::{
    Seconds,
    message::{Delivery, Summary},
    ports::Push,
};
use serde_json::{Map, Value, json};

use crate::{
    routing::{self, Rung},
    text::Text,
};

/// Builds the message.
pub fn push(delivery: &Delivery, text: &Text, now: Seconds) -> Push {
    let (_, payload) = payload(delivery, text);
    message(text, &payload, routing::time_to_live(&delivery.event, now))
}

/// Builds the message of a summary.
pub fn summary(summary: &Summary, count: u64) -> Push {
    let text = Text::summary(count);
    let fields = routing::summary_contract(summary, count, &text);
    message(
        &text,
        &data_message(fields, &text, "summary"),
        routing::TIME_TO_LIVE,
    )
}

fn message(text: &Text, payload: &Value, ttl: Seconds) -> Push {
    let fcm = json!({"fcmV1Message": {"message": payload}}).to_string();
    Push {
        message: json!({"default": text.title.plain, "GCM": fcm}).to_string(),
        attributes: vec![("AWS.SNS.MOBILE.FCM.TTL", ttl.to_string())],
    }
}

/// The `message` of the HTTP v1 API, with as much of the event as fits.
pub fn payload(delivery: &Delivery, text: &Text) -> (Rung, Value) {
    let thread = routing::thread(&delivery.event);
    routing::fit(delivery, |whole| {
        let mut fields = routing::contract(delivery, text);
        fields.insert("reasons".to_owned(), json!(delivery.reasons.join(",")));
        fields.extend(whole.map(|event| ("event".to_owned(), event)));
        data_message(fields, text, &thread)
    })
}

/// The `message` with these fields and the text, every value a string: what is none stands as JSON.
fn data_message(fields: Map<String, Value>, text: &Text, thread: &str) -> Value {
    let shown = [
        ("title", text.title.plain.as_str()),
        ("body", &text.body.plain),
        ("thread", thread),
    ];
    let shown = shown.map(|(name, value)| (name.to_owned(), json!(value)));
    let as_string = |value: Value| {
        if value.is_string() {
            value
        } else {
            json!(value.to_string())
        }
    };
    let data: Map<String, Value> = fields
        .into_iter()
        .map(|(name, value)| (name, as_string(value)))
        .chain(shown)
        .collect();
    json!({"data": data, "android": {"priority": "high"}})
}
