//! One message from a relay (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>,
//! and NIP-42, <https://github.com/nostr-protocol/nips/blob/master/42.md>).

use std::borrow::Cow;

use serde_json::value::RawValue;

/// A message from a relay.
#[derive(Debug)]
pub enum RelayMessage<'a> {
    /// `["EVENT", subscription, event]`
    Event {
        /// The id of the subscription on which the event came.
        subscription: Cow<'a, str>,
        /// The event's JSON. Control events are forwarded exactly as they were sent.
        event: &'a RawValue,
    },
    /// `["EOSE", subscription]`: all stored events have been sent.
    Eose(String),
    /// `["CLOSED", subscription, reason]`
    Closed {
        /// The id of the subscription that the relay ended.
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
        /// The id of the event that was published.
        id: String,
        /// `true` if the relay accepted the event.
        accepted: bool,
        /// Why the relay refused the event.
        reason: String,
    },
    /// Anything else.
    Malformed,
}

impl<'a> RelayMessage<'a> {
    /// Parses one message.
    pub fn parse(text: &'a str) -> Self {
        let parts: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
        let string = |n: usize| {
            parts
                .get(n)
                .and_then(|part| serde_json::from_str::<String>(part.get()).ok())
                .unwrap_or_default()
        };
        match parts.first().map(|verb| verb.get()) {
            Some(r#""EVENT""#) if parts.len() == 3 => Self::Event {
                subscription: unquote(parts[1]),
                event: parts[2],
            },
            Some(r#""EOSE""#) => Self::Eose(string(1)),
            Some(r#""CLOSED""#) => Self::Closed {
                subscription: string(1),
                reason: string(2),
            },
            Some(r#""NOTICE""#) => Self::Notice(string(1)),
            Some(r#""AUTH""#) => Self::Auth(string(1)),
            Some(r#""OK""#) => Self::Ok {
                id: string(1),
                accepted: parts.get(2).is_some_and(|part| part.get() == "true"),
                reason: string(3),
            },
            _ => Self::Malformed,
        }
    }
}

/// The text of a JSON string. It is copied only if it has escapes.
fn unquote(part: &RawValue) -> Cow<'_, str> {
    let json = part.get();
    match json
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(text) if !text.contains('\\') => Cow::Borrowed(text),
        _ => Cow::Owned(serde_json::from_str(json).unwrap_or_default()),
    }
}
