//! Title and body, from the event and the names that are known. Those of private kinds announce a
//! message without its content.
//!
//! A line is either text from the event, which is not translated, or one of the [`PHRASES`]. The
//! push contains a phrase in English, and its key and arguments, so that the app can translate it.

use nostr::{
    key::PublicKey,
    nips::nip19::{FromBech32, Nip19, ToBech32},
};
use nostr_push_core::{
    app::ContentDetail,
    is_private_kind,
    message::Delivery,
    profile::clean_name,
    tags::{first_tag_value, tag_values},
    zap,
};
use unicode_segmentation::UnicodeSegmentation;

use crate::{lookalike::is_lookalike, names::Names, tags::tags_named, zap::Zap};

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
    /// The English text if the name of the person who acted is known.
    pub with_name: &'static str,
    /// The English text with a second name. It is empty if there is none.
    pub with_two: &'static str,
}

impl Phrase {
    const fn new(key: &'static str, english: &'static str) -> Self {
        Self {
            key,
            english,
            with_name: "",
            with_two: "",
        }
    }

    const fn with_name(mut self, english: &'static str) -> Self {
        self.with_name = english;
        self
    }

    const fn with_two(mut self, english: &'static str) -> Self {
        self.with_two = english;
        self
    }

    /// The number of arguments of the English text without a name. It is also that of the app's
    /// translation: an app has one per key.
    pub fn english_args(&self) -> usize {
        self.english.matches("%@").count()
    }

    /// The English texts, with different numbers of arguments.
    pub fn variants(&self) -> impl Iterator<Item = &'static str> + use<> {
        let variants = [self.english, self.with_name, self.with_two];
        variants.into_iter().filter(|variant| !variant.is_empty())
    }
}

/// All phrases. `docs/protocol.md` lists them for translators.
pub const PHRASES: [Phrase; 29] = [
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
    NOTIFICATION,
];

const MENTION: Phrase = Phrase::new("MENTION_TITLE", "New mention").with_name("%@ mentioned you");
const REPLY: Phrase = Phrase::new("REPLY_TITLE", "New reply")
    .with_name("%@ replied to you")
    .with_two("%@ replied to %@");
const QUOTE: Phrase = Phrase::new("QUOTE_TITLE", "New quote").with_name("%@ quoted you");
const NOTE: Phrase = Phrase::new("NOTE_TITLE", "New note").with_name("%@ posted a note");
const REPOST: Phrase = Phrase::new("REPOST_TITLE", "New repost").with_name("%@ reposted your note");
const REPOST_BODY: Phrase = Phrase::new("REPOST_BODY", "%@ reposted a note");
const REACTION: Phrase = Phrase::new("REACTION_TITLE", "New reaction")
    .with_name("%@ reacted to your post")
    .with_two("%@ reacted to a post of %@");
const REACTION_BODY: Phrase = Phrase::new("REACTION_BODY", "%@ from %@");
const ZAP: Phrase = Phrase::new("ZAP_TITLE", "New zap").with_name("%@ zapped you");
const ZAP_BODY: Phrase = Phrase::new("ZAP_BODY", "%@ sats from %@");
const ZAP_COMMENT_BODY: Phrase = Phrase::new("ZAP_COMMENT_BODY", "%@ sats from %@: %@");
const COMMENT: Phrase = Phrase::new("COMMENT_TITLE", "New comment").with_name("%@ commented");
const CHANNEL: Phrase =
    Phrase::new("CHANNEL_TITLE", "New channel message").with_name("%@ wrote in a channel");
const GROUP: Phrase = Phrase::new("GROUP_TITLE", "New group message")
    .with_name("%@ wrote in a group")
    .with_two("%@ in %@");
const MESSAGE: Phrase = Phrase::new("MESSAGE_TITLE", "New message");
const MESSAGE_BODY: Phrase = Phrase::new("MESSAGE_BODY", "You have a new private message");
const ARTICLE: Phrase =
    Phrase::new("ARTICLE_TITLE", "New article").with_name("%@ published an article");
const PICTURE: Phrase =
    Phrase::new("PICTURE_TITLE", "New picture").with_name("%@ posted a picture");
const VIDEO: Phrase = Phrase::new("VIDEO_TITLE", "New video").with_name("%@ posted a video");
const VOICE: Phrase =
    Phrase::new("VOICE_TITLE", "New voice message").with_name("%@ posted a voice message");
const POLL: Phrase = Phrase::new("POLL_TITLE", "New poll").with_name("%@ started a poll");
const HIGHLIGHT: Phrase =
    Phrase::new("HIGHLIGHT_TITLE", "New highlight").with_name("%@ highlighted a text");
const BADGE: Phrase = Phrase::new("BADGE_TITLE", "New badge").with_name("%@ awarded a badge");
const LIVE: Phrase = Phrase::new("LIVE_TITLE", "New live event");
const EVENT: Phrase = Phrase::new("EVENT_TITLE", "New event");
const EVENT_BODY: Phrase = Phrase::new("EVENT_BODY", "Kind %@ from %@");
const FROM_BODY: Phrase = Phrase::new("FROM_BODY", "From %@");
const SUMMARY: Phrase = Phrase::new("SUMMARY_TITLE", "%@ more notifications");
const NOTIFICATION: Phrase = Phrase::new("NOTIFICATION_TITLE", "New notification");

/// One line of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The text, in English or from the event.
    pub plain: String,
    /// The phrase and its arguments. `None` for text from the event.
    pub phrase: Option<(Phrase, Vec<String>)>,
}

impl Line {
    /// A line with text from the event.
    fn excerpt(text: &str) -> Self {
        Self {
            plain: cut(&shorten_references(text), MAX_LINE_BYTES),
            phrase: None,
        }
    }

    /// A line with a phrase and its arguments. Their number decides which of the English texts it
    /// is.
    fn phrase(phrase: Phrase, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| argument.replace(is_bidi_control, ""))
            .map(|argument| cut(&argument, MAX_ARGUMENT_BYTES))
            .collect();
        let english = phrase
            .variants()
            .find(|variant| variant.matches("%@").count() == arguments.len())
            .unwrap_or(phrase.english);
        let mut parts = english.split("%@");
        let first = parts.next().unwrap_or_default().to_owned();
        let plain = parts
            .zip(&arguments)
            .fold(first, |plain, (part, argument)| {
                plain + &isolated(argument) + part
            });
        Self {
            plain,
            phrase: Some((phrase, arguments)),
        }
    }

    /// An empty line.
    fn empty() -> Self {
        Self {
            plain: String::new(),
            phrase: None,
        }
    }

    /// The line with at most `max` bytes of text, and of each argument.
    fn shortened(&self, max: usize) -> Self {
        let phrase = self.phrase.as_ref().map(|(phrase, arguments)| {
            let arguments = arguments.iter().map(|argument| cut(argument, max));
            (*phrase, arguments.collect())
        });
        Self {
            plain: cut(&self.plain, max),
            phrase,
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
    pub fn of(delivery: &Delivery, detail: ContentDetail, names: &Names) -> Self {
        let event = &delivery.event;
        let kind = event.kind.as_u16();
        let author = name(names, &event.pubkey);
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
            zap::RECEIPT_KIND => (ZAP, zap_body(delivery, detail, names)),
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
            title: named_title(title, delivery, names),
            body,
        }
    }

    /// The text of a summary of `count` notifications.
    pub fn summary(count: u64) -> Self {
        Self {
            title: Line::phrase(SUMMARY, &[&count.to_string()]),
            body: Line::empty(),
        }
    }

    /// The text that tells nothing.
    pub fn generic() -> Self {
        Self {
            title: Line::phrase(NOTIFICATION, &[]),
            body: Line::empty(),
        }
    }

    /// The text with at most `max` bytes per line and argument.
    #[must_use]
    pub fn shortened(&self, max: usize) -> Self {
        Self {
            title: self.title.shortened(max),
            body: self.body.shortened(max),
        }
    }
}

/// The title with the names that are known. A title says no more than the event does: without a
/// tag that names the author of the other event, it does not say whose event that is.
fn named_title(title: Phrase, delivery: &Delivery, names: &Names) -> Line {
    let plain = || Line::phrase(title, &[]);
    let actor_or_npub = names.roles.actor.map(|pubkey| name(names, &pubkey));
    if let (GROUP, Some(group), Some(actor)) = (title, names.group(), &actor_or_npub) {
        return Line::phrase(title, &[actor, group]);
    }
    let Some(actor) = names.actor() else {
        return plain();
    };
    let target = names.roles.target;
    let is_recipient = target == Some(delivery.recipient);
    match (title, target) {
        (REPLY | QUOTE | REPOST | REACTION | ZAP, Some(_)) if is_recipient => {
            Line::phrase(title, &[actor])
        }
        (REPLY | REACTION, Some(target)) => Line::phrase(title, &[actor, &name(names, &target)]),
        // The recipient is one of the people whom the note mentions.
        (REPLY | QUOTE, _) => Line::phrase(MENTION, &[actor]),
        (REPOST | REACTION | ZAP, _) => plain(),
        _ if title.with_name.is_empty() => plain(),
        _ => Line::phrase(title, &[actor]),
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
/// `:shortcode:`. Any other text is shown as a like, because it would read like text of ours.
fn reaction_symbol(content: &str) -> String {
    const LIKE: &str = "❤️";
    let is_shortcode = |text: &str| {
        let code = text
            .strip_prefix(':')
            .and_then(|text| text.strip_suffix(':'));
        code.is_some_and(|code| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            (1..=30).contains(&code.len()) && code.chars().all(is_part)
        })
    };
    match content {
        "-" => "👎".to_owned(),
        shortcode if is_shortcode(shortcode) && !is_lookalike(shortcode) => shortcode.to_owned(),
        other => clean_name(other)
            .and_then(|clean| clean.graphemes(true).next().map(str::to_owned))
            .filter(|symbol| !symbol.is_ascii() && !symbol.contains(char::is_alphabetic))
            .unwrap_or_else(|| LIKE.to_owned()),
    }
}

/// The body for a zap: amount, sender and comment. Only a sender who signed the zap is named.
fn zap_body(delivery: &Delivery, detail: ContentDetail, names: &Names) -> Line {
    let zap = Zap::of(&delivery.event);
    let sender = delivery
        .zapper
        .map_or_else(|| "somebody".to_owned(), |zapper| name(names, &zapper));
    let comment = shorten_references(&zap.comment);
    match zap.sats() {
        None => Line::phrase(FROM_BODY, &[&sender]),
        Some(sats) if detail == ContentDetail::Minimal || comment.trim().is_empty() => {
            Line::phrase(ZAP_BODY, &[&sats, &sender])
        }
        Some(sats) => Line::phrase(ZAP_COMMENT_BODY, &[&sats, &sender, &comment]),
    }
}

/// The name shown for a pubkey: that of the profile, or a shortened npub.
pub fn name(names: &Names, pubkey: &PublicKey) -> String {
    names
        .person(pubkey)
        .map_or_else(|| short_npub(pubkey), str::to_owned)
}

/// The shortened npub of a pubkey.
fn short_npub(pubkey: &PublicKey) -> String {
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
            Ok(Nip19::Pubkey(pubkey)) => shortened.extend(["@", &short_npub(&pubkey)]),
            Ok(Nip19::Profile(profile)) => {
                shortened.extend(["@", &short_npub(&profile.public_key)]);
            }
            // No part of a secret key is shown.
            Ok(Nip19::Secret(_)) => shortened.push('…'),
            Ok(_) => shortened.push_str(&shorten(reference)),
            Err(_) => shortened.extend(["nostr:", reference]),
        }
        rest = remaining;
    }
    shortened + rest
}

/// The argument of a phrase for the English text. A name that is written from right to left is
/// isolated, so that it does not change the order of the words around it.
fn isolated(argument: &str) -> String {
    if argument.chars().any(is_right_to_left) {
        format!("\u{2068}{argument}\u{2069}")
    } else {
        argument.to_owned()
    }
}

/// Returns `true` for letters of scripts that are written from right to left
/// (<https://www.unicode.org/reports/tr9/>).
fn is_right_to_left(c: char) -> bool {
    matches!(c,
        '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}'
        | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
}

/// Returns `true` for characters that change the direction of text.
fn is_bidi_control(c: char) -> bool {
    matches!(c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
