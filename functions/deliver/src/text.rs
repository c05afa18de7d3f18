//! Title and body, from the event alone. Private kinds say that there is a message, never what it says.

use nostr::event::Event;
use nostr_push_core::is_private;
use unicode_segmentation::UnicodeSegmentation;

/// The longest body, in bytes: what a lock screen shows, with room for emoji.
const MAX_BODY: usize = 400;

/// What the notification says before an app's own extension improves on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The title.
    pub title: &'static str,
    /// The body.
    pub body: String,
}

impl Text {
    /// The text for an event.
    pub fn of(event: &Event) -> Self {
        let kind = event.kind.as_u16();
        if is_private(kind) {
            return Self { title: "New message", body: "You have a new private message".to_owned() };
        }
        let (title, body) = match kind {
            1 | 1111 => ("New note", event.content.as_str()),
            6 | 16 => ("Repost", "Somebody reposted a note"),
            7 => ("Reaction", if matches!(event.content.as_str(), "" | "+") { "❤" } else { event.content.as_str() }),
            9 | 11 | 42 => ("New group message", event.content.as_str()),
            9735 => ("Zap", "Somebody sent you sats"),
            _ => ("New event", "Something happened on Nostr"),
        };
        Self { title, body: cut(body) }
    }
}

/// At most [`MAX_BODY`] bytes, white space folded, no control characters (one takes six bytes as JSON), cut between graphemes: half an emoji is another emoji.
fn cut(text: &str) -> String {
    let words = text.split_whitespace().map(|word| word.chars().filter(|c| !c.is_control()).collect::<String>());
    let folded = words.collect::<Vec<_>>().join(" ");
    if folded.len() <= MAX_BODY {
        return folded;
    }
    let mut body = String::with_capacity(MAX_BODY);
    for grapheme in folded.graphemes(true) {
        if body.len() + grapheme.len() + "…".len() > MAX_BODY {
            break;
        }
        body.push_str(grapheme);
    }
    body.push('…');
    body
}

#[cfg(test)]
mod tests {
    use nostr_push_testkit::event;

    use super::*;

    #[test]
    fn private_kinds_never_carry_content() {
        for kind in nostr_push_core::PRIVATE_KINDS {
            let text = Text::of(&event(&nostr::key::Keys::generate(), kind, 1, &[], "the secret"));
            assert_eq!((text.title, text.body.as_str()), ("New message", "You have a new private message"));
        }
    }

    #[test]
    fn a_body_is_cut_between_graphemes() {
        let family = "👨‍👩‍👧‍👦";
        let body = cut(&family.repeat(40));
        assert!(body.len() <= MAX_BODY);
        assert_eq!(body.trim_end_matches('…').replace(family, ""), "");
        assert_eq!(cut(" a\n\n b\u{7}c "), "a bc");
        assert_eq!(cut(&"x".repeat(MAX_BODY)), "x".repeat(MAX_BODY));
    }
}
