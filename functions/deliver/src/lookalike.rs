//! Names that could pass for a phrase of the service, for a pubkey or for the words of another
//! person. They are not shown: the author of a profile chooses its name, and nobody checks it.

use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;
use unicode_security::confusable_detection::skeleton;

use crate::text::{PHRASES, Phrase};

/// Names that could pass for the recipient, or for nobody in particular.
const RESERVED: [&str; 9] = [
    "you",
    "your",
    "me",
    "somebody",
    "someone",
    "anonymous",
    "nostr",
    "system",
    "notification",
];

/// Colons, and the characters that look like one.
const COLONS: [char; 9] = [
    ':', '\u{2d0}', '\u{2f8}', '\u{589}', '\u{5c3}', '\u{205a}', '\u{2236}', '\u{a4fd}', '\u{a789}',
];

/// The least number of bech32 characters after `npubl` that make it look like an npub. A shortened
/// npub shows nine.
const MIN_DATA_CHARS: usize = 6;

/// The fixed parts of all phrases, folded.
static PARTS: LazyLock<Parts> = LazyLock::new(|| {
    let texts = || PHRASES.iter().flat_map(Phrase::variants);
    let parts = texts().flat_map(|text| text.split("%@"));
    let (long, short): (Vec<&str>, Vec<&str>) =
        parts.partition(|part| part.split_whitespace().count() > 1);
    let after_name = texts().filter_map(|text| text.strip_prefix("%@"));
    let ends = after_name.filter(|end| !end.contains("%@"));
    let folded = |parts: Vec<&str>| {
        let parts = parts.into_iter().map(|part| fold(&part.to_lowercase()));
        parts.filter(|part| !part.is_empty()).collect()
    };
    Parts {
        anywhere: folded(long),
        at_end: folded(ends.collect()),
        alone: folded(short.into_iter().chain(RESERVED).collect()),
    }
});

struct Parts {
    /// Parts of several words. No name may contain them.
    anywhere: Vec<String>,
    /// What phrases say after their only name. No name may end with it.
    at_end: Vec<String>,
    /// Single words. No name may consist of one.
    alone: Vec<String>,
}

/// Returns `true` if the name could pass for a phrase or a pubkey. Case, spaces, punctuation and
/// letters that look alike make no difference
/// (<https://www.unicode.org/reports/tr39/#Confusable_Detection>).
pub fn is_lookalike(name: &str) -> bool {
    let text: String = name.nfkc().map(plain).collect();
    // A capital letter can look like another letter than the small one does.
    let forms = [text.to_lowercase(), text];
    let is_like_text = |form: &String| is_like_phrase(form) || has_npub(form);
    forms.iter().any(is_like_text)
}

fn is_like_phrase(text: &str) -> bool {
    let form = fold(text);
    let parts = &*PARTS;
    parts.anywhere.iter().any(|part| form.contains(part))
        || parts.at_end.iter().any(|part| form.ends_with(part))
        || parts.alone.contains(&form)
}

/// Returns `true` if the text contains `npub1`, or something that looks like the beginning of an
/// npub, such as `npublabcde…`. "Unpublished" does not: bech32 has no `i`.
fn has_npub(text: &str) -> bool {
    // `letters` would make an `l` of the `1`.
    let parts: Vec<String> = text.split('1').map(letters).collect();
    parts.join("1").contains("npub1") || text.split_whitespace().any(is_like_npub)
}

fn is_like_npub(word: &str) -> bool {
    let is_data = |c: &char| c.is_ascii_alphanumeric() && !matches!(c, 'b' | 'i');
    letters(word).split("npub").skip(1).any(|rest| {
        let data = rest.strip_prefix(['l', 'i']).unwrap_or_default();
        data.chars().take_while(is_data).count() >= MIN_DATA_CHARS
    })
}

/// Returns `true` if a person's name looks like a quote of another person, as in "carol: thanks".
/// Group names often look like this, so they are not checked.
pub fn looks_like_quote(name: &str) -> bool {
    // A wide colon needs no space after it.
    let name = name.replace('：', ": ");
    let is_colon = |c: char| COLONS.contains(&c);
    let text: String = name
        .nfkc()
        .map(|c| if is_colon(c) { ':' } else { c })
        .collect();
    text.contains(": ") || text.ends_with(':')
}

/// The letter or digit in a black circle or square. Unlike those in white ones, NFKC does not
/// replace it.
fn plain(c: char) -> char {
    let first = match c {
        '\u{1f150}'..='\u{1f169}' => '\u{1f150}',
        '\u{1f170}'..='\u{1f189}' => '\u{1f170}',
        '❶' | '➀' | '➊' | '⓵' => return '1',
        '⓿' | '🄋' | '🄌' => return '0',
        other => return other,
    };
    char::from_u32(u32::from('A') + u32::from(c) - u32::from(first)).unwrap_or(c)
}

/// The letters and digits of a text in a form that is the same for texts that look alike.
fn fold(text: &str) -> String {
    letters(text).replace('l', "i")
}

/// As [`fold`], but `l` and `i` differ. `1` becomes `l`, and `0` becomes `o`.
fn letters(text: &str) -> String {
    let prototypes = skeleton(text).collect::<String>().to_lowercase();
    // `skeleton` replaces the small `m`, but not the capital one.
    let prototypes = prototypes.replace('m', "rn");
    prototypes.chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_names_that_pass_for_something_else() {
        for name in [
            // Phrases.
            "New message",
            "new  MESSAGE!",
            "alice zapped you 21000 sats",
            "alice mentioned you",
            "alice replied to you",
            "alice commented",
            "ALICE COMMENTED!",
            "12 more notifications",
            "You have a new private message from the bank",
            "ALICE REPLIED TO YOU",
            "2l sats from bob",
            "from",
            "somebody",
            "YOU",
            // Phrases in other letters.
            "Νеw mеssаgе",
            "ΝЕW ΜЕSSАGЕ",
            "ｎｅｗ ｒｅｐｌｙ",
            "𝐍𝐄𝐖 𝐌𝐄𝐒𝐒𝐀𝐆𝐄",
            "Ⓝⓔⓦ Ⓜⓔⓢⓢⓐⓖⓔ",
            "🅝🅔🅦 🅜🅔🅢🅢🅐🅖🅔",
            "🅽🅴🆆 🅼🅴🆂🆂🅰️🅶🅴",
            "🄽🄴🅆 🄼🄴🅂🅂🄰🄶🄴",
            "🅈⓿🅄",
            // Pubkeys.
            "npub1abc…",
            "npub1abcde…wxyz",
            "alice (npub1xyz)",
            "nрub1abcde",
            "NPUB1ABCDE",
            "ｎｐｕｂ１ａｂｃ",
            "🅝🅟🅤🅑❶🅐🅑🅒",
            "npublqy2c4…wxyz",
            "npubIqy2c4…wxyz",
            "npub|qy2c4…wxyz",
        ] {
            assert!(is_lookalike(name), "{name}");
        }
    }

    #[test]
    fn recognizes_names_that_look_like_quotes() {
        for name in [
            "carol: thanks",
            "carol：thanks",
            "carol꞉ thanks",
            "carol :",
            "10:30: carol",
        ] {
            assert!(looks_like_quote(name), "{name}");
        }
    }

    #[test]
    fn shows_other_names() {
        for name in [
            "alice",
            "Newton",
            "jack",
            "fiatjaf",
            "Yousef",
            "山田太郎",
            "عبد الله",
            "नमः शिवाय",
            "🐸",
            "🅱️ob",
            "The Sats Show",
            "Romy",
            "Nostrich",
            "Dr. Who",
            "Alice Comment",
            "Commented Code",
            "Unpublished",
            "UNPUBLISHED",
            "Bitcoin Publishing",
            "BITCOIN PUBLISHING",
            "London Pub Lunches",
            "10:30 club",
            "alice :)",
            "C:\\alice",
        ] {
            assert!(!is_lookalike(name) && !looks_like_quote(name), "{name}");
        }
    }
}
