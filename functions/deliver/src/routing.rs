//! What every push carries besides its text, so that the app can route and complete it, and how it
//! is cut to size.

use nostr::event::Event;
use nostr_push_core::{
    Seconds,
    message::{Delivery, Summary},
};
use serde_json::{Map, Value, json};

use crate::text::Text;

/// The largest payload APNs and FCM take, in bytes.
pub const MAX_PAYLOAD: usize = 4_096;

/// How long a platform keeps a push for a phone that is off, unless the event expires earlier
/// (NIP-40).
pub const TIME_TO_LIVE: Seconds = 24 * 60 * 60;

/// How much of the event goes along, from all to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// The event.
    Whole,
    /// The event with `content` empty.
    NoContent,
    /// The event with `content` empty and no tags.
    NoTags,
    /// No event: the ids remain.
    NoEvent,
}

/// Builds the largest payload that fits, from the whole event down. The ids always stay.
pub fn fit(delivery: &Delivery, build: impl Fn(Option<Value>) -> Value) -> (Rung, Value) {
    let rungs = [Rung::Whole, Rung::NoContent, Rung::NoTags, Rung::NoEvent];
    let mut payload = (Rung::NoEvent, build(None));
    for rung in rungs.into_iter().skip(usize::from(delivery.cut)) {
        payload = (rung, build(event_at(&delivery.event, rung)));
        if payload.1.to_string().len() <= MAX_PAYLOAD {
            break;
        }
    }
    payload
}

fn event_at(event: &Event, rung: Rung) -> Option<Value> {
    let mut json = json!(event);
    match rung {
        Rung::Whole => {}
        Rung::NoContent => json["content"] = json!(""),
        Rung::NoTags => {
            json["content"] = json!("");
            json["tags"] = json!([]);
        }
        Rung::NoEvent => return None,
    }
    Some(json)
}

/// What every push says besides its text, on both platforms; in FCM's `data` every value is a
/// string.
pub fn contract(delivery: &Delivery, text: &Text) -> Map<String, Value> {
    let event = &delivery.event;
    let mut fields = phrases(text);
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

/// What a summary says besides its text: no event, and how many there were.
pub fn summary_contract(summary: &Summary, count: u64, text: &Text) -> Map<String, Value> {
    let mut fields = phrases(text);
    let ids = [
        ("recipient", json!(summary.recipient)),
        ("app", json!(summary.app)),
        ("summary", json!(count)),
    ];
    fields.extend(ids.map(|(name, value)| (name.to_owned(), value)));
    fields
}

/// The keys by which an app finds its own words for title and body, and their arguments.
pub fn phrases(text: &Text) -> Map<String, Value> {
    let lines = [("title", &text.title), ("body", &text.body)];
    let phrases = lines.into_iter().filter_map(|(line, text)| {
        text.key
            .as_ref()
            .map(|(key, arguments)| (line, key, arguments))
    });
    let fields = phrases.flat_map(|(line, key, arguments)| {
        [
            (format!("{line}_loc_key"), json!(key)),
            (format!("{line}_loc_args"), json!(arguments)),
        ]
    });
    fields.filter(|(_, value)| *value != json!([])).collect()
}

/// What notifications are grouped by: the NIP-29 group, else the root of the thread (NIP-10), else
/// the author.
pub fn thread(event: &Event) -> String {
    let tag = |name: &str, marker: Option<&str>| {
        let tags = event.tags.iter().map(nostr::event::Tag::as_slice);
        let mut named = tags.filter(|tag| {
            tag[0] == name && marker.is_none_or(|marker| tag.get(3).is_some_and(|m| m == marker))
        });
        named
            .next()
            .and_then(|tag| tag.get(1))
            .map(|value| value.chars().take(64).collect::<String>())
    };
    tag("h", None)
        .or_else(|| tag("e", Some("root")))
        .or_else(|| tag("e", None))
        .unwrap_or_else(|| event.pubkey.to_hex())
}

/// How long the platform shall keep it, in seconds: at least 1.
pub fn time_to_live(event: &Event, now: Seconds) -> Seconds {
    let left = event
        .tags
        .expiration()
        .map_or(TIME_TO_LIVE, |at| at.as_secs().saturating_sub(now));
    left.clamp(1, TIME_TO_LIVE)
}
