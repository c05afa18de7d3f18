//! Title and body, from the event alone. Private kinds say that there is a message, never what it
//! says.
//!
//! A line is either somebody's own words, which nobody translates, or one of the [`PHRASES`], which
//! travels as a key with its arguments beside the plain English.

use nostr::{
    event::Event,
    key::PublicKey,
    nips::nip19::{FromBech32, Nip19, ToBech32},
};
use nostr_push_core::{app::Content, is_private, message::Delivery};
use unicode_segmentation::UnicodeSegmentation;

use crate::zap::{self, Zap};

/// The longest line, in bytes: what a lock screen shows, with room for emoji.
const MAX_LINE: usize = 400;

/// The longest argument of a phrase, in bytes.
const MAX_ARGUMENT: usize = 200;

/// A line that the service says: the key by which an app finds its translation, and the English
/// with `%@` for each argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phrase(pub &'static str, pub &'static str);

/// All phrases. `docs/protocol.md` lists them for whoever translates them.
pub const PHRASES: [Phrase; 28] = [
    MENTION,
    REPLY,
    QUOTE,
    NOTE,
    REPOST,
    REPOST_BODY,
    REACTION,
    REACTION_BODY,
    ZAP,
    ZAP_BODY,
    ZAP_COMMENT_BODY,
    COMMENT,
    CHANNEL,
    GROUP,
    MESSAGE,
    MESSAGE_BODY,
    ARTICLE,
    PICTURE,
    VIDEO,
    VOICE,
    POLL,
    HIGHLIGHT,
    BADGE,
    LIVE,
    EVENT,
    EVENT_BODY,
    FROM_BODY,
    SUMMARY,
];

const MENTION: Phrase = Phrase("MENTION_TITLE", "New mention");
const REPLY: Phrase = Phrase("REPLY_TITLE", "New reply");
const QUOTE: Phrase = Phrase("QUOTE_TITLE", "New quote");
const NOTE: Phrase = Phrase("NOTE_TITLE", "New note");
const REPOST: Phrase = Phrase("REPOST_TITLE", "New repost");
const REPOST_BODY: Phrase = Phrase("REPOST_BODY", "%@ reposted a note");
const REACTION: Phrase = Phrase("REACTION_TITLE", "New reaction");
const REACTION_BODY: Phrase = Phrase("REACTION_BODY", "%@ from %@");
const ZAP: Phrase = Phrase("ZAP_TITLE", "New zap");
const ZAP_BODY: Phrase = Phrase("ZAP_BODY", "%@ sats from %@");
const ZAP_COMMENT_BODY: Phrase = Phrase("ZAP_COMMENT_BODY", "%@ sats from %@: %@");
const COMMENT: Phrase = Phrase("COMMENT_TITLE", "New comment");
const CHANNEL: Phrase = Phrase("CHANNEL_TITLE", "New channel message");
const GROUP: Phrase = Phrase("GROUP_TITLE", "New group message");
const MESSAGE: Phrase = Phrase("MESSAGE_TITLE", "New message");
const MESSAGE_BODY: Phrase = Phrase("MESSAGE_BODY", "You have a new private message");
const ARTICLE: Phrase = Phrase("ARTICLE_TITLE", "New article");
const PICTURE: Phrase = Phrase("PICTURE_TITLE", "New picture");
const VIDEO: Phrase = Phrase("VIDEO_TITLE", "New video");
const VOICE: Phrase = Phrase("VOICE_TITLE", "New voice message");
const POLL: Phrase = Phrase("POLL_TITLE", "New poll");
const HIGHLIGHT: Phrase = Phrase("HIGHLIGHT_TITLE", "New highlight");
const BADGE: Phrase = Phrase("BADGE_TITLE", "New badge");
const LIVE: Phrase = Phrase("LIVE_TITLE", "New live event");
const EVENT: Phrase = Phrase("EVENT_TITLE", "New event");
const EVENT_BODY: Phrase = Phrase("EVENT_BODY", "Kind %@ from %@");
const FROM_BODY: Phrase = Phrase("FROM_BODY", "From %@");
const SUMMARY: Phrase = Phrase("SUMMARY_TITLE", "%@ more notifications");

/// One line of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it says, in English or in its author's words.
    pub plain: String,
    /// The phrase's key and arguments; `None` for somebody's own words.
    pub key: Option<(&'static str, Vec<String>)>,
}

impl Line {
    fn words(text: &str) -> Self {
        Self {
            plain: cut(&named(text), MAX_LINE),
            key: None,
        }
    }

    fn phrase(phrase: Phrase, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| cut(argument, MAX_ARGUMENT))
            .collect();
        let mut parts = phrase.1.split("%@");
        let first = parts.next().unwrap_or_default().to_owned();
        let plain = parts
            .zip(&arguments)
            .fold(first, |plain, (part, argument)| plain + argument + part);
        Self {
            plain,
            key: Some((phrase.0, arguments)),
        }
    }
}

/// What the notification says before an app's own extension improves on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The title.
    pub title: Line,
    /// The body.
    pub body: Line,
}

impl Text {
    /// The text for a delivery under an app that wants so much of its content shown.
    pub fn of(delivery: &Delivery, content: Content) -> Self {
        let event = &delivery.event;
        let kind = event.kind.as_u16();
        let author = name(&event.pubkey);
        let from = || Line::phrase(FROM_BODY, &[&author]);
        let words = |text: &str| {
            let line = Line::words(text);
            if content == Content::Minimal || line.plain.is_empty() {
                from()
            } else {
                line
            }
        };
        let tag = |name: &str| {
            event
                .tags
                .iter()
                .find_map(|tag| tag.as_slice().get(1).filter(|_| tag.as_slice()[0] == name))
        };
        let title_tag = || {
            tag("title")
                .or_else(|| tag("name"))
                .map(String::as_str)
                .unwrap_or_default()
        };
        let (title, body) = match kind {
            _ if is_private(kind) => (MESSAGE, Line::phrase(MESSAGE_BODY, &[])),
            1 => (note(delivery), words(&event.content)),
            6 | 16 => (REPOST, Line::phrase(REPOST_BODY, &[&author])),
            7 => (
                REACTION,
                Line::phrase(REACTION_BODY, &[&reaction(&event.content), &author]),
            ),
            zap::RECEIPT => (ZAP, zapped(event, content)),
            1111 => (COMMENT, words(&event.content)),
            42 => (CHANNEL, words(&event.content)),
            9 | 11 => (GROUP, words(&event.content)),
            30023 => (ARTICLE, words(title_tag())),
            20 => (PICTURE, words(title_tag())),
            21 | 22 | 34235 | 34236 => (VIDEO, words(title_tag())),
            1222 | 1244 => (VOICE, from()),
            1068 => (POLL, words(&event.content)),
            9802 => (HIGHLIGHT, words(&event.content)),
            8 => (BADGE, from()),
            30311 => (LIVE, words(title_tag())),
            _ => (
                EVENT,
                Line::phrase(EVENT_BODY, &[&kind.to_string(), &author]),
            ),
        };
        Self {
            title: Line::phrase(title, &[]),
            body,
        }
    }

    /// The text of a summary of so many notifications.
    pub fn summary(count: u64) -> Self {
        Self {
            title: Line::phrase(SUMMARY, &[&count.to_string()]),
            body: Line {
                plain: String::new(),
                key: None,
            },
        }
    }
}

/// What a note is to its recipient. Replies as NIP-10 marks them: by marker, or (deprecated) by
/// position.
fn note(delivery: &Delivery) -> Phrase {
    let tags = || delivery.event.tags.iter().map(nostr::event::Tag::as_slice);
    let recipient = delivery.recipient.to_hex();
    let answers =
        |tag: &[String]| tag[0] == "e" && tag.get(3).is_none_or(|marker| marker != "mention");
    if !tags().any(|tag| tag[0] == "p" && tag.get(1) == Some(&recipient)) {
        NOTE
    } else if tags().any(answers) {
        REPLY
    } else if tags().any(|tag| tag[0] == "q") {
        QUOTE
    } else {
        MENTION
    }
}

/// NIP-25: `+` and nothing are a like, `-` a dislike; anything else is an emoji or its
/// `:shortcode:`.
fn reaction(content: &str) -> String {
    match content {
        "" | "+" => "❤️".to_owned(),
        "-" => "👎".to_owned(),
        other => cut(other, 32),
    }
}

fn zapped(event: &Event, content: Content) -> Line {
    let zap = Zap::of(event);
    let from = zap
        .sender
        .as_ref()
        .map_or_else(|| "somebody".to_owned(), name);
    let comment = named(&zap.comment);
    match zap.sats() {
        None => Line::phrase(FROM_BODY, &[&from]),
        Some(sats) if content == Content::Minimal || comment.trim().is_empty() => {
            Line::phrase(ZAP_BODY, &[&sats, &from])
        }
        Some(sats) => Line::phrase(ZAP_COMMENT_BODY, &[&sats, &from, &comment]),
    }
}

/// A pubkey as a name: what can be known of it without asking anybody.
fn name(pubkey: &PublicKey) -> String {
    // Never fails: 32 bytes always encode.
    short(&pubkey.to_bech32().unwrap_or_default())
}

/// The ends of a bech32 text, its prefix included.
fn short(bech32: &str) -> String {
    let ends = bech32.get(..10).zip(
        bech32
            .len()
            .checked_sub(4)
            .and_then(|from| bech32.get(from..)),
    );
    ends.map_or_else(
        || bech32.to_owned(),
        |(start, end)| format!("{start}…{end}"),
    )
}

/// The text with every `nostr:` reference (NIP-21) as a short name.
fn named(text: &str) -> String {
    let mut named = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("nostr:") {
        named.push_str(before);
        let end = after
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(after.len());
        let (reference, left) = after.split_at(end);
        match Nip19::from_bech32(reference) {
            Ok(Nip19::Pubkey(pubkey)) => named.extend(["@", &name(&pubkey)]),
            Ok(Nip19::Profile(profile)) => named.extend(["@", &name(&profile.public_key)]),
            // A secret key has no business here, not even its ends.
            Ok(Nip19::Secret(_)) => named.push('…'),
            Ok(_) => named.push_str(&short(reference)),
            Err(_) => named.extend(["nostr:", reference]),
        }
        rest = left;
    }
    named + rest
}

/// At most so many bytes, white space folded, no control characters (one takes six bytes as JSON),
/// cut between graphemes: half an emoji is another emoji.
fn cut(text: &str, max: usize) -> String {
    let words = text
        .split_whitespace()
        .map(|word| word.chars().filter(|c| !c.is_control()).collect::<String>());
    let folded = words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if folded.len() <= max {
        return folded;
    }
    let mut line = String::with_capacity(max);
    for grapheme in folded.graphemes(true) {
        if line.len() + grapheme.len() + "…".len() > max {
            break;
        }
        line.push_str(grapheme);
    }
    line.push('…');
    line
}

#[cfg(test)]
mod tests;
