//! What a push is about, before it takes a shape: an event or a summary, with its text and names.

use nostr::event::Event;
use nostr_push_core::{
    Seconds,
    app::App,
    message::{Delivery, Summary},
    tags,
};
use serde_json::{Map, Value, json};

use crate::{
    names::Names,
    payload::{MAX_TIME_TO_LIVE, Truncation},
    tags::tags_named,
    text::Text,
};

/// The kind of events that set up a call
/// (NIP-100, <https://github.com/nostr-protocol/nips/blob/master/100.md>).
const CALL_KIND: u16 = 25_050;

/// How long somebody who calls waits for an answer. Events of this kind are useless afterwards.
const CALL_TIMEOUT: Seconds = Seconds::from_minutes(1);

/// The most bytes of a line if the payload would be too large otherwise.
const SHORT_LINE_BYTES: usize = 80;

/// What a push is about.
#[derive(Debug)]
pub enum Subject<'a> {
    /// One event for one recipient.
    Event(&'a Delivery),
    /// The events beyond a minute's limit.
    Summary {
        /// The recipient and the minute.
        summary: &'a Summary,
        /// The number of events that were not pushed.
        count: u64,
    },
}

/// The content of a push to any device of the recipient.
#[derive(Debug)]
pub struct Notice<'a> {
    /// The recipient's app.
    pub app: &'a App,
    /// What the push is about.
    pub subject: Subject<'a>,
    /// Who takes part, and their names.
    pub names: Names,
    /// The current time.
    pub now: Seconds,
    text: Text,
}

impl<'a> Notice<'a> {
    /// The notice of an event.
    pub fn of_event(app: &'a App, delivery: &'a Delivery, names: Names, now: Seconds) -> Self {
        Self {
            app,
            subject: Subject::Event(delivery),
            text: Text::of(delivery, app.content, &names),
            names,
            now,
        }
    }

    /// The notice of `count` events that were not pushed.
    pub fn of_summary(app: &'a App, summary: &'a Summary, count: u64, now: Seconds) -> Self {
        Self {
            app,
            subject: Subject::Summary { summary, count },
            text: Text::summary(count),
            names: Names::default(),
            now,
        }
    }

    /// The delivery, if the notice is of an event.
    pub fn delivery(&self) -> Option<&'a Delivery> {
        match self.subject {
            Subject::Event(delivery) => Some(delivery),
            Subject::Summary { .. } => None,
        }
    }

    /// The event's id or the summary's: unique among the notices for one recipient under one app.
    pub fn id(&self) -> String {
        match self.subject {
            Subject::Event(delivery) => delivery.event.id.to_hex(),
            Subject::Summary { summary, .. } => summary.id(),
        }
    }

    /// Title and body.
    pub fn text(&self, truncation: Truncation) -> Text {
        if truncation >= Truncation::Short {
            self.text.shortened(SHORT_LINE_BYTES)
        } else {
            self.text.clone()
        }
    }

    /// The thread by which a phone groups notifications.
    pub fn thread(&self) -> String {
        match self.subject {
            Subject::Event(delivery) => thread(&delivery.event),
            Subject::Summary { .. } => "summary".to_owned(),
        }
    }

    /// How long a platform keeps the push for a phone that is off: until the event expires (NIP-40,
    /// <https://github.com/nostr-protocol/nips/blob/master/40.md>), at least one second and at most
    /// [`MAX_TIME_TO_LIVE`], or one minute if the event sets up a call.
    pub fn time_to_live(&self) -> Seconds {
        let event = self.delivery().map(|delivery| &delivery.event);
        let max = if event.is_some_and(is_call_signal) {
            CALL_TIMEOUT
        } else {
            MAX_TIME_TO_LIVE
        };
        let expiration = event.and_then(tags::expiration);
        let remaining = expiration.map_or(max, |at| at - self.now);
        remaining.clamp(Seconds(1), max)
    }

    /// Returns `true` if somebody is calling now: the event offers a call and is at most one minute
    /// old.
    pub fn is_call_offer(&self) -> bool {
        self.delivery().is_some_and(|delivery| {
            let event = &delivery.event;
            is_call_signal(event)
                && tags::first_tag_value(event, "type") == Some("offer")
                && self.now - Seconds::from(event.created_at) <= CALL_TIMEOUT
        })
    }

    /// The routing fields: all fields except the text. `docs/protocol.md` explains them.
    pub fn routing_fields(&self, truncation: Truncation) -> Map<String, Value> {
        let mut fields = localization_fields(&self.text(truncation));
        let mut add = |name: &str, value: Value| {
            fields.insert(name.to_owned(), value);
        };
        match self.subject {
            Subject::Event(delivery) => {
                let event = &delivery.event;
                add("event_id", json!(event.id));
                add("kind", json!(event.kind.as_u16()));
                add("author", json!(event.pubkey));
                add("recipient", json!(delivery.recipient));
                add("app", json!(delivery.app));
                let actor = self.names.roles.actor;
                if let Some(actor) = actor.filter(|actor| *actor != event.pubkey) {
                    add("actor", json!(actor));
                }
                if truncation >= Truncation::Short {
                    return fields;
                }
                add("relay", json!(delivery.relay));
                add("reasons", json!(delivery.reasons));
                if let Some(name) = self.names.actor() {
                    add("author_name", json!(name));
                }
                let picture = self.names.actor_picture();
                if let Some(picture) = picture.filter(|_| truncation < Truncation::NoPicture) {
                    add("author_picture", json!(picture));
                }
                if let Some(group) = self.names.group() {
                    add("group_name", json!(group));
                }
                if let Some(event) = truncation.apply(event) {
                    add("event", event);
                }
            }
            Subject::Summary { summary, count } => {
                add("recipient", json!(summary.recipient));
                add("app", json!(summary.app));
                add("summary", json!(count));
            }
        }
        fields
    }

    /// The first truncation that is to be tried: what is missing already is not left out again.
    pub fn first_truncation(&self) -> Truncation {
        match self.subject {
            Subject::Summary { .. } => Truncation::NoEvent,
            Subject::Event(delivery) if delivery.mentions.is_some() => Truncation::NoTags,
            Subject::Event(delivery) if delivery.cut => Truncation::NoContent,
            Subject::Event(_) => Truncation::Whole,
        }
    }
}

/// The keys and arguments by which an app finds its translation of title and body.
fn localization_fields(text: &Text) -> Map<String, Value> {
    let lines = [("title", &text.title), ("body", &text.body)];
    let phrases = lines.into_iter().filter_map(|(name, line)| {
        let (phrase, arguments) = line.phrase.as_ref()?;
        Some((name, phrase.key, arguments))
    });
    let fields = phrases.flat_map(|(name, key, arguments)| {
        [
            (format!("{name}_loc_key"), json!(key)),
            (format!("{name}_loc_args"), json!(arguments)),
        ]
    });
    fields.filter(|(_, value)| *value != json!([])).collect()
}

/// Returns `true` if the event sets up a call.
fn is_call_signal(event: &Event) -> bool {
    event.kind.as_u16() == CALL_KIND
}

/// The thread of an event: its group, else the root of its thread, else its author.
///
/// Groups are those of NIP-29 (<https://github.com/nostr-protocol/nips/blob/master/29.md>), threads
/// those of NIP-10 (<https://github.com/nostr-protocol/nips/blob/master/10.md>).
fn thread(event: &Event) -> String {
    let is_root = |tag: &&[String]| tag.get(3).is_some_and(|marker| marker == "root");
    let group = tags_named(event, "h").next().and_then(|tag| tag.get(1));
    group
        .or_else(|| tags_named(event, "e").find(is_root)?.get(1))
        .or_else(|| tags_named(event, "e").next()?.get(1))
        .map_or_else(
            || event.pubkey.to_hex(),
            // A control character takes six bytes in JSON.
            |value| value.chars().filter(|c| !c.is_control()).take(64).collect(),
        )
}
