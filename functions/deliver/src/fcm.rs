//! The message for FCM, in the form of its HTTP v1 API.
//!
//! It is a data message. The app shows the one banner, with `event_id` as its tag, so that a
//! repeated push replaces it. There is no collapse key: FCM keeps at most four of them per device
//! that is off, and would lose the fifth event.
//!
//! <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-fcm-v1-payloads.html>

use nostr_push_core::{
    Seconds,
    app::Platform,
    message::{Delivery, Summary},
    ports::Push,
};
use serde_json::{Map, Value, json};

use crate::{
    payload::{self, Truncation},
    text::Text,
};

/// Builds the message of an event.
pub fn push(delivery: &Delivery, text: &Text, now: Seconds) -> Push {
    let (_, payload) = payload(delivery, text);
    sns_push(text, &payload, payload::time_to_live(&delivery.event, now))
}

/// Builds the message of a summary.
pub fn summary(summary: &Summary, count: u64) -> Push {
    let text = Text::summary(count);
    let fields = payload::summary_routing_fields(summary, count, &text);
    let payload = data_message(fields, &text, "summary");
    sns_push(&text, &payload, payload::MAX_TIME_TO_LIVE)
}

/// The push in the form of SNS.
fn sns_push(text: &Text, payload: &Value, time_to_live: Seconds) -> Push {
    let fcm = json!({"fcmV1Message": {"message": payload}}).to_string();
    let message = json!({"default": text.title.plain, (Platform::Fcm.sns_name()): fcm});
    Push {
        message: message.to_string(),
        attributes: vec![(
            "AWS.SNS.MOBILE.FCM.TTL".to_owned(),
            time_to_live.to_string(),
        )],
    }
}

/// The `message` of the HTTP v1 API, with as much of the event as fits.
pub fn payload(delivery: &Delivery, text: &Text) -> (Truncation, Value) {
    let thread = payload::thread(&delivery.event);
    payload::fit(delivery, |event| {
        let mut fields = payload::routing_fields(delivery, text);
        fields.insert("reasons".to_owned(), json!(delivery.reasons.join(",")));
        fields.extend(event.map(|event| ("event".to_owned(), event)));
        data_message(fields, text, &thread)
    })
}

/// The `message` with these fields and the text. Every value is a string, so other values are
/// written as JSON.
fn data_message(fields: Map<String, Value>, text: &Text, thread: &str) -> Value {
    let text_fields = [
        ("title", text.title.plain.as_str()),
        ("body", &text.body.plain),
        ("thread", thread),
    ];
    let text_fields = text_fields.map(|(name, value)| (name.to_owned(), json!(value)));
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
        .chain(text_fields)
        .collect();
    json!({"data": data, "android": {"priority": "high"}})
}
