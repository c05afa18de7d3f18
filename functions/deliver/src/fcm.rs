//! The message for FCM, in the form of its HTTP v1 API, for every operating system behind FCM.
//!
//! - Android gets a data message. The app shows the one banner, with `event_id` as its tag, so that
//!   a repeated push replaces it. There is no collapse key: FCM keeps at most four of them per
//!   device that is off, and would lose the fifth event.
//! - iOS shows only what the part `apns` says. FCM adds the data to the payload.
//! - Browsers get the data. The part `webpush` has only headers: data there would replace `data`.
//!
//! If the operating system is not known, the message has the parts for all of them. Each ignores
//! the others.
//!
//! <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-fcm-v1-payloads.html>

use nostr_push_core::{Seconds, app::Platform, ports::Push, shape::Os};
use serde_json::{Map, Value, json};

use crate::{
    apns,
    payload::{Content, Payload},
};

/// The payload in the form of SNS.
pub fn push(payload: &Payload) -> Push {
    let content = &payload.content;
    let fcm = json!({"fcmV1Message": {"message": payload.json}}).to_string();
    let message = json!({
        "default": content.text.title.plain,
        (Platform::Fcm.sns_name()): fcm,
    });
    Push {
        message: message.to_string(),
        attributes: vec![(
            "AWS.SNS.MOBILE.FCM.TTL".to_owned(),
            content.time_to_live.to_string(),
        )],
    }
}

/// The part of a message for Android.
pub fn android() -> Value {
    json!({"priority": "high"})
}

/// The `message` of the HTTP v1 API.
pub fn message(content: &Content, os: Option<Os>, localized: bool, now: Seconds) -> Value {
    let mut message = json!({"data": data(content)});
    let is_for = |part| os.is_none_or(|os| os == part);
    if is_for(Os::Android) {
        message["android"] = android();
    }
    if is_for(Os::Ios) {
        message["apns"] = json!({
            "headers": {
                "apns-push-type": "alert",
                "apns-priority": "10",
                "apns-collapse-id": content.collapse_id,
                "apns-expiration": (now + content.time_to_live).to_string(),
            },
            "payload": {"aps": apns::aps(content, localized)},
        });
    }
    if is_for(Os::Web) {
        let time_to_live = content.time_to_live.to_string();
        message["webpush"] = json!({"headers": {"TTL": time_to_live, "Urgency": "high"}});
    }
    message
}

/// The fields for the app, with the text. Every value is a string, so other values are written as
/// JSON, and a list of words with commas.
fn data(content: &Content) -> Map<String, Value> {
    let text = &content.text;
    let text_fields = [
        ("title", Some(&text.title.plain)),
        ("body", Some(&text.body.plain)),
        ("thread", content.thread.as_ref()),
    ];
    let text_fields = text_fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    let as_string = |name: &str, value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(reasons) if name == "reasons" => {
            let reasons = reasons.iter().filter_map(Value::as_str);
            reasons.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    let fields = content
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), json!(as_string(name, value))));
    fields.chain(text_fields).collect()
}
