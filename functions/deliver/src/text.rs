//! Title and body, from the event alone. Those of private kinds announce a message without its
//! content.
//!
//! A line is either text from the event, which is not translated, or one of the [`PHRASES`]. The
//! push contains a phrase in English, and its key and arguments, so that the app can translate it.

use nostr::{
    event::Event,
    key::PublicKey,
    nips::nip19::{FromBech32, Nip19, ToBech32},
};
use nostr_push_core::{
    app::ContentDetail,
    is_private_kind,
    message::Delivery,
    tags::{first_tag_value, tag_values},
};
use unicode_segmentation::UnicodeSegmentation;

use crate::{
    tags::tags_named,
    zap::{self, Zap},
};

/// The longest line, in bytes. A lock screen shows no more.
const MAX_LINE_BYTES: usize = 400;

/// The longest argument of a phrase, in bytes.
const MAX_ARGUMENT_BYTES: usize = 200;

/// A line that the service writes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phrase {
    /// The key by which an app finds its translation.
    pub key: &'static str,
    /// The English text, with `%@` for each argument.
    pub english: &'static str,
}

impl Phrase {
    const fn new(key: &'static str, english: &'static str) -> Self {
        Self { key, english }
    }
}

/// All phrases. `docs/protocol.md` lists them for translators.
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

const MENTION: Phrase = Phrase::new("MENTION_TITLE", "New mention");
const REPLY: Phrase = Phrase::new("REPLY_TITLE", "New reply");
const QUOTE: Phrase = Phrase::new("QUOTE_TITLE", "New quote");
const NOTE: Phrase = Phrase::new("NOTE_TITLE", "New note");
const REPOST: Phrase = Phrase::new("REPOST_TITLE", "New repost");
const REPOST_BODY: Phrase = Phrase::new("REPOST_BODY", "%@ reposted a note");
const REACTION: Phrase = Phrase::new("REACTION_TITLE", "New reaction");
const REACTION_BODY: Phrase = Phrase::new("REACTION_BODY", "%@ from %@");
const ZAP: Phrase = Phrase::new("ZAP_TITLE", "New zap");
const ZAP_BODY: Phrase = Phrase::new("ZAP_BODY", "%@ sats from %@");
const ZAP_COMMENT_BODY: Phrase = Phrase::new("ZAP_COMMENT_BODY", "%@ sats from %@: %@");
const COMMENT: Phrase = Phrase::new("COMMENT_TITLE", "New comment");
const CHANNEL: Phrase = Phrase::new("CHANNEL_TITLE", "New channel message");
const GROUP: Phrase = Phrase::new("GROUP_TITLE", "New group message");
const MESSAGE: Phrase = Phrase::new("MESSAGE_TITLE", "New message");
const MESSAGE_BODY: Phrase = Phrase::new("MESSAGE_BODY", "You have a new private message");
const ARTICLE: Phrase = Phrase::new("ARTICLE_TITLE", "New article");
const PICTURE: Phrase = Phrase::new("PICTURE_TITLE", "New picture");
const VIDEO: Phrase = Phrase::new("VIDEO_TITLE", "New video");
const VOICE: Phrase = Phrase::new("VOICE_TITLE", "New voice message");
const POLL: Phrase = Phrase::new("POLL_TITLE", "New poll");
const HIGHLIGHT: Phrase = Phrase::new("HIGHLIGHT_TITLE", "New highlight");
const BADGE: Phrase = Phrase::new("BADGE_TITLE", "New badge");
const LIVE: Phrase = Phrase::new("LIVE_TITLE", "New live event");
const EVENT: Phrase = Phrase::new("EVENT_TITLE", "New event");
const EVENT_BODY: Phrase = Phrase::new("EVENT_BODY", "Kind %@ from %@");
const FROM_BODY: Phrase = Phrase::new("FROM_BODY", "From %@");
const SUMMARY: Phrase = Phrase::new("SUMMARY_TITLE", "%@ more notifications");

/// One line of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The text, in English or from the event.
    pub plain: String,
    /// The phrase's key and arguments. `None` for text from the event.
    pub key: Option<(&'static str, Vec<String>)>,
}

impl Line {
    /// A line with text from the event.
    fn excerpt(text: &str) -> Self {
        Self {
            plain: cut(&shorten_references(text), MAX_LINE_BYTES),
            key: None,
        }
    }

    /// A line with a phrase and its arguments.
    fn phrase(phrase: Phrase, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| cut(argument, MAX_ARGUMENT_BYTES))
            .collect();
        let mut parts = phrase.english.split("%@");
        let first = parts.next().unwrap_or_default().to_owned();
        let plain = parts
            .zip(&arguments)
            .fold(first, |plain, (part, argument)| plain + argument + part);
        Self {
            plain,
            key: Some((phrase.key, arguments)),
        }
    }
}

/// The text of a notification. An app's extension may replace it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The title.
    pub title: Line,
    /// The body.
    pub body: Line,
}

impl Text {
    /// The text for a delivery, with as much of the event's content as `detail` allows. The kinds
    /// are those of <https://github.com/nostr-protocol/nips#event-kinds>.
    pub fn of(delivery: &Delivery, detail: ContentDetail) -> Self {
        let event = &delivery.event;
        let kind = event.kind.as_u16();
        let author = name(&event.pubkey);
        let from = || Line::phrase(FROM_BODY, &[&author]);
        // Text of the event, or only its author if the text is empty or must not be shown.
        let excerpt = |text: &str| {
            let line = Line::excerpt(text);
            if detail == ContentDetail::Minimal || line.plain.is_empty() {
                from()
            } else {
                line
            }
        };
        let title_tag = || {
            tags_named(event, "title")
                .chain(tags_named(event, "name"))
                .find_map(|tag| tag.get(1))
                .map_or("", String::as_str)
        };
        let (title, body) = match kind {
            _ if is_private_kind(kind) => (MESSAGE, Line::phrase(MESSAGE_BODY, &[])),
            1 => (note_title(delivery), excerpt(&event.content)),
            6 | 16 => (REPOST, Line::phrase(REPOST_BODY, &[&author])),
            7 => (
                REACTION,
                Line::phrase(REACTION_BODY, &[&reaction_symbol(&event.content), &author]),
            ),
            zap::RECEIPT_KIND => (ZAP, zap_body(event, detail)),
            1111 => (COMMENT, excerpt(&event.content)),
            42 => (CHANNEL, excerpt(&event.content)),
            9 | 11 => (GROUP, excerpt(&event.content)),
            30023 => (ARTICLE, excerpt(title_tag())),
            20 => (PICTURE, excerpt(title_tag())),
            21 | 22 | 34235 | 34236 => (VIDEO, excerpt(title_tag())),
            1222 | 1244 => (VOICE, from()),
            1068 => (POLL, excerpt(&event.content)),
            9802 => (HIGHLIGHT, excerpt(&event.content)),
            8 => (BADGE, from()),
            30311 => (LIVE, excerpt(title_tag())),
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

    /// The text of a summary of `count` notifications.
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

/// The title for a note. It depends on how the note refers to its recipient. A reply has a marked
/// `e` tag or, which is deprecated, a positional one (NIP-10,
/// <https://github.com/nostr-protocol/nips/blob/master/10.md>).
fn note_title(delivery: &Delivery) -> Phrase {
    let event = &delivery.event;
    let recipient = delivery.recipient.to_hex();
    let is_reply_tag = |tag: &[String]| tag.get(3).is_none_or(|marker| marker != "mention");
    if !tag_values(event, "p").any(|pubkey| pubkey == recipient) {
        NOTE
    } else if tags_named(event, "e").any(is_reply_tag) {
        REPLY
    } else if first_tag_value(event, "q").is_some() {
        QUOTE
    } else {
        MENTION
    }
}

/// The symbol of a reaction (NIP-25, <https://github.com/nostr-protocol/nips/blob/master/25.md>):
/// `+` and the empty string are a like, `-` is a dislike, and other content is an emoji or its
/// `:shortcode:`.
fn reaction_symbol(content: &str) -> String {
    match content {
        "" | "+" => "❤️".to_owned(),
        "-" => "👎".to_owned(),
        other => cut(other, 32),
    }
}

/// The body for a zap: amount, sender and comment.
fn zap_body(receipt: &Event, detail: ContentDetail) -> Line {
    let zap = Zap::of(receipt);
    let sender = zap
        .sender
        .as_ref()
        .map_or_else(|| "somebody".to_owned(), name);
    let comment = shorten_references(&zap.comment);
    match zap.sats() {
        None => Line::phrase(FROM_BODY, &[&sender]),
        Some(sats) if detail == ContentDetail::Minimal || comment.trim().is_empty() => {
            Line::phrase(ZAP_BODY, &[&sats, &sender])
        }
        Some(sats) => Line::phrase(ZAP_COMMENT_BODY, &[&sats, &sender, &comment]),
    }
}

/// The name shown for a pubkey. Profiles are not read, so it is a shortened npub.
fn name(pubkey: &PublicKey) -> String {
    // Encoding 32 bytes never fails.
    shorten(&pubkey.to_bech32().unwrap_or_default())
}

/// The beginning of a bech32 text, with its prefix, and the end.
fn shorten(bech32: &str) -> String {
    let start = bech32.get(..10);
    let end = bech32
        .len()
        .checked_sub(4)
        .and_then(|from| bech32.get(from..));
    start.zip(end).map_or_else(
        || bech32.to_owned(),
        |(start, end)| format!("{start}…{end}"),
    )
}

/// The text with a short name for every `nostr:` reference (NIP-21,
/// <https://github.com/nostr-protocol/nips/blob/master/21.md>).
fn shorten_references(text: &str) -> String {
    let mut shortened = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("nostr:") {
        shortened.push_str(before);
        let end = after
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(after.len());
        let (reference, remaining) = after.split_at(end);
        match Nip19::from_bech32(reference) {
            Ok(Nip19::Pubkey(pubkey)) => shortened.extend(["@", &name(&pubkey)]),
            Ok(Nip19::Profile(profile)) => shortened.extend(["@", &name(&profile.public_key)]),
            // No part of a secret key is shown.
            Ok(Nip19::Secret(_)) => shortened.push('…'),
            Ok(_) => shortened.push_str(&shorten(reference)),
            Err(_) => shortened.extend(["nostr:", reference]),
        }
        rest = remaining;
    }
    shortened + rest
}

/// The text on one line of at most `max` bytes. White space is folded, and control characters are
/// removed, because each takes six bytes in JSON. The text is cut between graphemes, because half
/// an emoji is another emoji.
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
