//! Names that could pass for a phrase of the service or for a pubkey. They are not shown: the
//! author of a profile chooses its name, and nobody checks it.

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

/// The fixed parts of all phrases, folded.
static PARTS: LazyLock<Parts> = LazyLock::new(|| {
    let texts = PHRASES.iter().flat_map(Phrase::variants);
    let parts = texts.flat_map(|text| text.split("%@"));
    let (long, short): (Vec<&str>, Vec<&str>) =
        parts.partition(|part| part.split_whitespace().count() > 1);
    let folded = |parts: Vec<&str>| {
        let parts = parts.into_iter().map(|part| fold(&part.to_lowercase()));
        parts.filter(|part| !part.is_empty()).collect()
    };
    Parts {
        anywhere: folded(long),
        alone: folded(short.into_iter().chain(RESERVED).collect()),
    }
});

struct Parts {
    /// Parts of several words. No name may contain them.
    anywhere: Vec<String>,
    /// Single words. No name may consist of one.
    alone: Vec<String>,
}

/// Returns `true` if the name could pass for a phrase or a pubkey. Case, spaces, punctuation and
/// letters that look alike make no difference
/// (<https://www.unicode.org/reports/tr39/#Confusable_Detection>).
pub fn is_lookalike(name: &str) -> bool {
    // A capital letter can look like another letter than the small one does.
    let forms = [fold(name), fold(&name.to_lowercase())];
    let parts = &*PARTS;
    forms.iter().any(|form| {
        form.contains(&*fold("npub1"))
            || parts.anywhere.iter().any(|part| form.contains(part))
            || parts.alone.contains(form)
    })
}

/// The letters and digits of a text in a form that is the same for texts that look alike.
fn fold(text: &str) -> String {
    let normal: String = text.nfkc().collect();
    let prototypes = skeleton(&normal).collect::<String>().to_lowercase();
    let letters = prototypes.chars().filter(|c| c.is_alphanumeric());
    letters
        .map(|c| match c {
            'l' | '1' => 'i',
            '0' => 'o',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_and_pubkeys_are_no_names() {
        for name in [
            "New message",
            "new  MESSAGE!",
            "Νеw mеssаgе",
            "alice zapped you 21000 sats",
            "alice mentioned you",
            "12 more notifications",
            "ｎｅｗ ｒｅｐｌｙ",
            "You have a new private message from the bank",
            "somebody",
            "YOU",
            "npub1abcde…wxyz",
            "alice (npub1xyz)",
            "nрub1abcde",
            "ALICE REPLIED TO YOU",
            "2l sats from bob",
        ] {
            assert!(is_lookalike(name), "{name}");
        }
    }

    #[test]
    fn names_of_people_are_names() {
        for name in [
            "alice",
            "Newton",
            "jack",
            "fiatjaf",
            "Yousef",
            "山田太郎",
            "عبد الله",
            "🐸",
            "from",
            "The Sats Show",
            "Romy",
            "Nostrich",
        ] {
            let is_word = name == "from";
            assert_eq!(is_lookalike(name), is_word, "{name}");
        }
    }
}
