//! One message of a relay (NIP-01, NIP-42). Its event stays as it was sent: the hot path reads it.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// What a relay says.
#[derive(Debug)]
pub enum Frame<'a> {
    /// `["EVENT", subscription, event]`
    Event {
        /// The subscription it came on.
        subscription: Cow<'a, str>,
        /// The event's JSON.
        event: &'a RawValue,
    },
    /// `["EOSE", subscription]`: what is stored has been sent.
    Eose(String),
    /// `["CLOSED", subscription, reason]`
    Closed {
        /// The subscription that the relay ended.
        subscription: String,
        /// Why, with a machine-readable prefix.
        reason: String,
    },
    /// `["NOTICE", text]`
    Notice(String),
    /// `["AUTH", challenge]` (NIP-42)
    Auth(String),
    /// `["OK", id, accepted, reason]`
    Ok {
        /// The event that was published.
        id: String,
        /// Whether it was taken.
        accepted: bool,
        /// Why not.
        reason: String,
    },
    /// Anything else.
    Malformed,
}

/// Reads one message.
pub fn read(text: &str) -> Frame<'_> {
    let parts: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
    let word = |n: usize| {
        parts
            .get(n)
            .and_then(|part| serde_json::from_str::<String>(part.get()).ok())
            .unwrap_or_default()
    };
    match parts.first().map(|verb| verb.get()) {
        Some(r#""EVENT""#) if parts.len() == 3 => Frame::Event {
            subscription: text_of(parts[1]),
            event: parts[2],
        },
        Some(r#""EOSE""#) => Frame::Eose(word(1)),
        Some(r#""CLOSED""#) => Frame::Closed {
            subscription: word(1),
            reason: word(2),
        },
        Some(r#""NOTICE""#) => Frame::Notice(word(1)),
        Some(r#""AUTH""#) => Frame::Auth(word(1)),
        Some(r#""OK""#) => Frame::Ok {
            id: word(1),
            accepted: parts.get(2).is_some_and(|part| part.get() == "true"),
            reason: word(3),
        },
        _ => Frame::Malformed,
    }
}

/// A JSON string, without a copy where it has no escapes.
fn text_of(part: &RawValue) -> Cow<'_, str> {
    let json = part.get();
    match json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(text) if !text.contains('\\') => Cow::Borrowed(text),
        _ => Cow::Owned(serde_json::from_str(json).unwrap_or_default()),
    }
}
