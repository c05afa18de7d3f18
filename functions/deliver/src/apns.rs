//! The message for APNs (production and sandbox).
//!
//! <https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-message-attributes.html>

use nostr_push_core::{
    Seconds,
    app::App,
    message::{Delivery, Summary},
    ports::Push,
};
use serde_json::{Map, Value, json};

use crate::{
    routing::{self, Rung},
    text::Text,
};

/// Builds the message. `key` is `APNS` or `APNS_SANDBOX`.
pub fn push(key: &'static str, app: &App, delivery: &Delivery, text: &Text, now: Seconds) -> Push {
    let (_, payload) = payload(app, delivery, text);
    let event = &delivery.event;
    message(
        key,
        text,
        &payload,
        event.id.to_hex(),
        routing::time_to_live(event, now),
    )
}

/// Builds the message of a summary.
pub fn summary(key: &'static str, app: &App, summary: &Summary, count: u64) -> Push {
    let text = Text::summary(count);
    let mut payload = routing::summary_contract(summary, count, &text);
    payload.insert("aps".to_owned(), aps(app, &text, "summary"));
    message(
        key,
        &text,
        &payload.into(),
        summary.id(),
        routing::TIME_TO_LIVE,
    )
}

fn message(
    key: &'static str,
    text: &Text,
    payload: &Value,
    collapse_id: String,
    ttl: Seconds,
) -> Push {
    Push {
        message: json!({"default": text.title.plain, key: payload.to_string()}).to_string(),
        attributes: vec![
            ("AWS.SNS.MOBILE.APNS.PUSH_TYPE", "alert".to_owned()),
            ("AWS.SNS.MOBILE.APNS.PRIORITY", "10".to_owned()),
            // A repeat after a crash replaces the notification on the phone.
            ("AWS.SNS.MOBILE.APNS.COLLAPSE_ID", collapse_id),
            (
                if key == "APNS" {
                    "AWS.SNS.MOBILE.APNS.TTL"
                } else {
                    "AWS.SNS.MOBILE.APNS_SANDBOX.TTL"
                },
                ttl.to_string(),
            ),
        ],
    }
}

/// The payload, with as much of the event as fits.
pub fn payload(app: &App, delivery: &Delivery, text: &Text) -> (Rung, Value) {
    let aps = aps(app, text, &routing::thread(&delivery.event));
    routing::fit(delivery, |whole| {
        let mut payload = routing::contract(delivery, text);
        payload.insert("aps".to_owned(), aps.clone());
        payload.extend(whole.map(|event| ("event".to_owned(), event)));
        payload.into()
    })
}

/// What iOS itself reads. Never `content-available` beside an alert: the phone would show two
/// banners.
fn aps(app: &App, text: &Text, thread: &str) -> Value {
    let mut alert = Map::from_iter(
        [("title", &text.title), ("body", &text.body)]
            .map(|(name, line)| (name.to_owned(), json!(line.plain))),
    );
    if app.localized {
        for (name, line) in [("title-", &text.title), ("", &text.body)] {
            if let Some((key, arguments)) = &line.key {
                alert.insert(format!("{name}loc-key"), json!(key));
                alert.insert(format!("{name}loc-args"), json!(arguments));
            }
        }
    }
    json!({"alert": alert, "mutable-content": 1, "sound": "default", "thread-id": thread})
}
