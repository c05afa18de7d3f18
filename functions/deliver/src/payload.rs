//! The routing fields of a push, which are all fields except the text, and the limit on the size of
//! a payload.

use nostr::event::Event;
use nostr_push_core::{
    Seconds,
    message::{Delivery, Summary},
    tags,
};
use serde_json::{Map, Value, json};

use crate::{tags::tags_named, text::Text};

/// The largest payload of APNs and FCM, in bytes
/// (<https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification>,
/// <https://firebase.google.com/docs/cloud-messaging/concept-options>).
pub const MAX_PAYLOAD_BYTES: usize = 4_096;

/// The longest time for which a platform keeps a push for a phone that is off.
pub const MAX_TIME_TO_LIVE: Seconds = Seconds::from_days(1);

/// How much of the event a payload contains, from all to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truncation {
    /// The event.
    Whole,
    /// The event with an empty `content`.
    NoContent,
    /// The event with an empty `content` and no tags.
    NoTags,
    /// No event. The routing fields remain.
    NoEvent,
}

/// Builds the largest payload that fits. `build` gets as much of the event as the payload is to
/// contain.
pub fn fit(delivery: &Delivery, build: impl Fn(Option<Value>) -> Value) -> (Truncation, Value) {
    let truncations = [
        Truncation::Whole,
        Truncation::NoContent,
        Truncation::NoTags,
        Truncation::NoEvent,
    ];
    let mut payload = (Truncation::NoEvent, build(None));
    let missing = match delivery {
        // The tags that are left are not all tags of the event.
        Delivery {
            mentions: Some(_), ..
        } => 2,
        Delivery { cut, .. } => usize::from(*cut),
    };
    for truncation in truncations.into_iter().skip(missing) {
        payload = (truncation, build(truncate(&delivery.event, truncation)));
        if payload.1.to_string().len() <= MAX_PAYLOAD_BYTES {
            break;
        }
    }
    payload
}

fn truncate(event: &Event, truncation: Truncation) -> Option<Value> {
    let mut json = json!(event);
    match truncation {
        Truncation::Whole => {}
        Truncation::NoContent => json["content"] = json!(""),
        Truncation::NoTags => {
            json["content"] = json!("");
            json["tags"] = json!([]);
        }
        Truncation::NoEvent => return None,
    }
    Some(json)
}

/// The routing fields of an event's push: all fields except the text, on all platforms. In FCM's
/// `data` every value is a string.
pub fn routing_fields(delivery: &Delivery, text: &Text) -> Map<String, Value> {
    let event = &delivery.event;
    let mut fields = localization_fields(text);
    fields.extend(
        [
            ("event_id", json!(event.id)),
            ("kind", json!(event.kind.as_u16())),
            ("author", json!(event.pubkey)),
            ("recipient", json!(delivery.recipient)),
            ("app", json!(delivery.app)),
            ("relay", json!(delivery.relay)),
            ("reasons", json!(delivery.reasons)),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    fields
}

/// The routing fields of a summary's push: all fields except the text. `count` is the number of
/// events that it stands for.
pub fn summary_routing_fields(summary: &Summary, count: u64, text: &Text) -> Map<String, Value> {
    let mut fields = localization_fields(text);
    let routing = [
        ("recipient", json!(summary.recipient)),
        ("app", json!(summary.app)),
        ("summary", json!(count)),
    ];
    fields.extend(routing.map(|(name, value)| (name.to_owned(), value)));
    fields
}

/// The keys and arguments by which an app finds its translation of title and body.
fn localization_fields(text: &Text) -> Map<String, Value> {
    let lines = [("title", &text.title), ("body", &text.body)];
    let phrases = lines.into_iter().filter_map(|(name, line)| {
        let (key, arguments) = line.key.as_ref()?;
        Some((name, key, arguments))
    });
    let fields = phrases.flat_map(|(name, key, arguments)| {
        [
            (format!("{name}_loc_key"), json!(key)),
            (format!("{name}_loc_args"), json!(arguments)),
        ]
    });
    fields.filter(|(_, value)| *value != json!([])).collect()
}

/// The thread by which a phone groups notifications: the event's group, else the root of its
/// thread, else its author.
///
/// Groups are those of NIP-29 (<https://github.com/nostr-protocol/nips/blob/master/29.md>), threads
/// those of NIP-10 (<https://github.com/nostr-protocol/nips/blob/master/10.md>).
pub fn thread(event: &Event) -> String {
    let is_root = |tag: &&[String]| tag.get(3).is_some_and(|marker| marker == "root");
    let group = tags_named(event, "h").next().and_then(|tag| tag.get(1));
    group
        .or_else(|| tags_named(event, "e").find(is_root)?.get(1))
        .or_else(|| tags_named(event, "e").next()?.get(1))
        .map_or_else(
            || event.pubkey.to_hex(),
            |value| value.chars().take(64).collect(),
        )
}

/// The time for which a platform keeps the push for a phone that is off: until the event expires
/// (NIP-40, <https://github.com/nostr-protocol/nips/blob/master/40.md>), at least one second and at
/// most [`MAX_TIME_TO_LIVE`].
pub fn time_to_live(event: &Event, now: Seconds) -> Seconds {
    let remaining = tags::expiration(event).map_or(MAX_TIME_TO_LIVE, |at| at - now);
    remaining.clamp(Seconds(1), MAX_TIME_TO_LIVE)
}
