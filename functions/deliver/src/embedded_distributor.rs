//! The shape `embedded-distributor`: a message for a `UnifiedPush` distributor inside the app. The
//! distributor receives it through FCM and hands the app the decoded bytes of the data key `b`
//! (<https://unifiedpush.org/developers/embedded_fcm/>). The bytes are JSON with the fields that
//! 0xchat and `YakiHonne` read, beside those of this service.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{fcm, payload::Content};

/// The `message` of the HTTP v1 API. With `is_call_offer`, 0xchat rings.
pub fn message(content: &Content, is_call_offer: bool) -> Value {
    let mut fields = content.fields.clone();
    let (title, body) = (&content.text.title.plain, &content.text.body.plain);
    // 0xchat shows a call for "1" and a notification for "0".
    let message_type = if is_call_offer { "1" } else { "0" };
    let added = [
        ("notification", json!({"title": title, "body": body})),
        ("data", json!({"msgType": message_type})),
        ("gcm.notification.title", json!(title)),
        ("gcm.notification.body", json!(body)),
    ];
    fields.extend(added.map(|(name, value)| (name.to_owned(), value)));
    fields.extend(
        content
            .thread
            .iter()
            .map(|thread| ("thread".to_owned(), json!(thread))),
    );
    let bytes = Value::from(fields).to_string();
    json!({"data": {"b": STANDARD.encode(bytes)}, "android": fcm::android()})
}
