//! The message for APNs (production and sandbox).
//!
//! <https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification>,
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-message-attributes.html>

use nostr_push_core::{app::Platform, ports::Push};
use serde_json::{Map, Value, json};

use crate::payload::{Content, Payload};

/// The payload in the form of SNS. `platform` is `Apns` or `ApnsSandbox`. A push that is published
/// again after a crash has the same collapse id, so it replaces the notification on the phone.
pub fn push(platform: Platform, payload: &Payload) -> Push {
    let content = &payload.content;
    let message = json!({
        "default": content.text.title.plain,
        (platform.sns_name()): payload.json.to_string(),
    });
    let ttl = format!("AWS.SNS.MOBILE.{}.TTL", platform.sns_name());
    let attributes = [
        ("AWS.SNS.MOBILE.APNS.PUSH_TYPE", "alert".to_owned()),
        ("AWS.SNS.MOBILE.APNS.PRIORITY", "10".to_owned()),
        (
            "AWS.SNS.MOBILE.APNS.COLLAPSE_ID",
            content.collapse_id.clone(),
        ),
        (&ttl, content.time_to_live.to_string()),
    ];
    Push {
        message: message.to_string(),
        attributes: attributes
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
    }
}

/// The payload. With `localized`, iOS translates the text, and a title then names nobody.
pub fn payload(content: &Content, localized: bool) -> Value {
    let mut fields = content.fields.clone();
    fields.insert("aps".to_owned(), aps(content, localized));
    fields.into()
}

/// The fields for iOS itself. There is no `content-available` beside the alert, because the phone
/// would show two banners.
pub fn aps(content: &Content, localized: bool) -> Value {
    let text = &content.text;
    let mut alert = Map::from_iter(
        [("title", &text.title), ("body", &text.body)]
            .map(|(name, line)| (name.to_owned(), json!(line.plain))),
    );
    if localized {
        for (prefix, line) in [("title-", &text.title), ("", &text.body)] {
            if let Some((phrase, arguments)) = &line.phrase {
                alert.insert(format!("{prefix}loc-key"), json!(phrase.key));
                // iOS finds one translation per key: that of the English text without a name.
                let arguments: Vec<&String> =
                    arguments.iter().take(phrase.english_args()).collect();
                if !arguments.is_empty() {
                    alert.insert(format!("{prefix}loc-args"), json!(arguments));
                }
            }
        }
    }
    let mut aps = json!({"alert": alert, "mutable-content": 1, "sound": "default"});
    if let Some(thread) = &content.thread {
        aps["thread-id"] = json!(thread);
    }
    aps
}
