//! The message for APNs (production and sandbox).
//!
//! <https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-message-attributes.html>

use nostr_push_core::{
    Seconds,
    app::{App, Platform},
    message::{Delivery, Summary},
    ports::Push,
};
use serde_json::{Map, Value, json};

use crate::{
    payload::{self, Truncation},
    text::Text,
};

/// Builds the message of an event. `platform` is `Apns` or `ApnsSandbox`.
pub fn push(platform: Platform, app: &App, delivery: &Delivery, text: &Text, now: Seconds) -> Push {
    let event = &delivery.event;
    let (_, payload) = payload(app, delivery, text);
    let attributes = attributes(
        platform,
        event.id.to_hex(),
        payload::time_to_live(event, now),
    );
    Push {
        message: message(platform, text, &payload),
        attributes,
    }
}

/// Builds the message of a summary. `platform` is `Apns` or `ApnsSandbox`.
pub fn summary(platform: Platform, app: &App, summary: &Summary, count: u64) -> Push {
    let text = Text::summary(count);
    let mut payload = payload::summary_routing_fields(summary, count, &text);
    payload.insert("aps".to_owned(), aps(app, &text, "summary"));
    Push {
        message: message(platform, &text, &payload.into()),
        attributes: attributes(platform, summary.id(), payload::MAX_TIME_TO_LIVE),
    }
}

/// The message in the form of SNS.
fn message(platform: Platform, text: &Text, payload: &Value) -> String {
    json!({"default": text.title.plain, (platform.sns_name()): payload.to_string()}).to_string()
}

/// The message attributes. A push that is published again after a crash has the same collapse id,
/// so it replaces the notification on the phone.
fn attributes(
    platform: Platform,
    collapse_id: String,
    time_to_live: Seconds,
) -> Vec<(String, String)> {
    let ttl = format!("AWS.SNS.MOBILE.{}.TTL", platform.sns_name());
    let attributes = [
        ("AWS.SNS.MOBILE.APNS.PUSH_TYPE", "alert".to_owned()),
        ("AWS.SNS.MOBILE.APNS.PRIORITY", "10".to_owned()),
        ("AWS.SNS.MOBILE.APNS.COLLAPSE_ID", collapse_id),
        (&ttl, time_to_live.to_string()),
    ];
    attributes
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

/// The payload, with as much of the event as fits.
pub fn payload(app: &App, delivery: &Delivery, text: &Text) -> (Truncation, Value) {
    let aps = aps(app, text, &payload::thread(&delivery.event));
    payload::fit(delivery, |event| {
        let mut fields = payload::routing_fields(delivery, text);
        fields.insert("aps".to_owned(), aps.clone());
        fields.extend(event.map(|event| ("event".to_owned(), event)));
        fields.into()
    })
}

/// The fields for iOS itself. There is no `content-available` beside the alert, because the phone
/// would show two banners.
fn aps(app: &App, text: &Text, thread: &str) -> Value {
    let mut alert = Map::from_iter(
        [("title", &text.title), ("body", &text.body)]
            .map(|(name, line)| (name.to_owned(), json!(line.plain))),
    );
    if app.localized {
        for (prefix, line) in [("title-", &text.title), ("", &text.body)] {
            if let Some((key, arguments)) = &line.key {
                alert.insert(format!("{prefix}loc-key"), json!(key));
                alert.insert(format!("{prefix}loc-args"), json!(arguments));
            }
        }
    }
    json!({"alert": alert, "mutable-content": 1, "sound": "default", "thread-id": thread})
}
