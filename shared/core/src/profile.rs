//! Profiles: the names and pictures of people and groups, for the text of pushes.
//!
//! A push reads what is stored and never waits for more. If a push was about somebody without a
//! current profile, deliver asks the listener for it with a [`ProfileRequest`]. The listener stores
//! what relays return.

use std::fmt;

use nostr::key::PublicKey;
use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;
use url::{Host, Url};

use crate::{Seconds, order::Order};

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// The longest URL of a picture, in bytes.
pub const MAX_PICTURE_BYTES: usize = 512;

/// The longest id of a group that has a profile, in bytes.
pub const MAX_GROUP_ID_BYTES: usize = 64;

/// How long a profile is used before it is requested again.
pub const REFRESH_AFTER: Seconds = Seconds::from_days(1);

/// How long it is remembered that a request found no name.
pub const RETRY_AFTER: Seconds = Seconds::from_hours(1);

/// How long a profile is kept after the last request.
pub const PROFILE_TTL: Seconds = Seconds::from_days(30);

/// How long a profile that is due or not stored may be cached. It stays due if a budget is used up.
const DUE_CACHE_TIME: Seconds = Seconds::from_minutes(10);

/// How long the absence of a name may be cached after a request. Most relays have answered then.
const FIRST_ANSWER_TIME: Seconds = Seconds::from_minutes(1);

/// The same for the second time. By then a request that no relay answered has been made again.
const SECOND_ANSWER_TIME: Seconds = Seconds::from_minutes(10);

/// The longest visible character of a name, in bytes. A family of four with skin tones has 41.
const MAX_GRAPHEME_BYTES: usize = 48;

/// A person or a group with a profile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileKey {
    /// A person, whose profile is the event of kind 0
    /// (<https://github.com/nostr-protocol/nips/blob/master/01.md>).
    Person(PublicKey),
    /// A group, whose profile is the event of kind 39000 that the group's relay signs
    /// (<https://github.com/nostr-protocol/nips/blob/master/29.md>).
    Group {
        /// The relay of the group.
        relay: String,
        /// The id of the group on this relay: at most [`MAX_GROUP_ID_BYTES`].
        id: String,
    },
}

impl fmt::Display for ProfileKey {
    /// The key of the profile's row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(pubkey) => write!(f, "{pubkey}"),
            // A URL in normal form contains no space.
            Self::Group { relay, id } => write!(f, "{relay} {id}"),
        }
    }
}

/// A profile, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Profile {
    /// The name, cleaned by [`clean_name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The picture, checked by [`picture_url`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// When the profile was last requested.
    #[serde(default)]
    pub asked_at: Seconds,
}

impl Profile {
    /// When the profile must be requested again: [`REFRESH_AFTER`] the last request, or
    /// [`RETRY_AFTER`] one that found no name.
    pub fn due_at(&self) -> Seconds {
        let age = if self.name.is_some() {
            REFRESH_AFTER
        } else {
            RETRY_AFTER
        };
        self.asked_at + age
    }

    /// How long a profile may be cached that was read at `now`: until it is due, but shorter in the
    /// first minutes after a request if there is no name, because an answer may have arrived.
    pub fn cache_time(profile: Option<&Self>, now: Seconds) -> Seconds {
        let Some(profile) = profile else {
            return DUE_CACHE_TIME;
        };
        let asked_ago = now - profile.asked_at;
        if profile.name.is_none() && asked_ago < FIRST_ANSWER_TIME {
            FIRST_ANSWER_TIME
        } else if profile.name.is_none() && asked_ago < SECOND_ANSWER_TIME {
            SECOND_ANSWER_TIME
        } else {
            (profile.due_at() - now).max(DUE_CACHE_TIME)
        }
    }

    /// Returns `true` if the profile must be requested at `now`. Without a row it must.
    pub fn is_due(profile: Option<&Self>, now: Seconds) -> bool {
        profile.is_none_or(|profile| profile.due_at() <= now)
    }
}

/// What an event says about a person or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileUpdate {
    /// The person or the group.
    pub key: ProfileKey,
    /// The name.
    pub name: Option<String>,
    /// The picture.
    pub picture: Option<String>,
    /// The order of the event. The newest event wins.
    pub order: Order,
}

/// From deliver to the listener: a profile that a push would have shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRequest {
    /// The person or the group.
    pub key: ProfileKey,
    /// The relay that sent the event.
    pub relay: String,
}

/// The name on one line of at most [`MAX_NAME_BYTES`]. `None` if nothing visible is left.
///
/// Left out are characters that would change how the text around the name looks, or that do not
/// show: control characters, bidi controls, and joiners other than those inside emoji and words.
/// The name is cut between graphemes.
pub fn clean_name(text: &str) -> Option<String> {
    // A longer text cannot become part of the name.
    let text: String = text.chars().take(16 * MAX_NAME_BYTES).collect();
    let visible: Vec<char> = text.chars().filter(|c| !is_invisible(*c)).collect();
    let joined: String = (0..visible.len())
        .filter(|position| is_in_place(&visible, *position))
        .map(|position| visible[position])
        .collect();
    let folded = joined.split_whitespace().collect::<Vec<_>>().join(" ");
    let has_text = |grapheme: &str| grapheme.chars().any(|c| !is_joiner(c));
    let graphemes: Vec<&str> = folded
        .graphemes(true)
        .filter(|grapheme| grapheme.len() <= MAX_GRAPHEME_BYTES && has_text(grapheme))
        .collect();
    let length: usize = graphemes.iter().map(|grapheme| grapheme.len()).sum();
    let mut name = String::with_capacity(length.min(MAX_NAME_BYTES));
    if length <= MAX_NAME_BYTES {
        name.extend(graphemes);
    } else {
        for grapheme in graphemes {
            if name.len() + grapheme.len() + "…".len() > MAX_NAME_BYTES {
                break;
            }
            name.push_str(grapheme);
        }
        name.push('…');
    }
    name.chars()
        .any(char::is_alphanumeric)
        .then_some(())
        .or_else(|| {
            // A name can be an emoji, but not punctuation alone.
            name.chars()
                .any(|c| c >= '\u{2190}' && c != '…')
                .then_some(())
        })?;
    Some(name)
}

/// Returns `true` for characters that do not show, except joiners and white space.
fn is_invisible(c: char) -> bool {
    let is_control = c.is_control() && !c.is_whitespace();
    is_control
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
}

/// Returns `true` for joiners and variation selectors.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}')
}

/// Returns `false` for a joiner that joins nothing: one beside a Latin letter, a space, another
/// joiner or the end. A variation selector may follow a digit, as in keycap emoji.
fn is_in_place(text: &[char], position: usize) -> bool {
    let c = text[position];
    let is_part = |c: Option<&char>| c.is_some_and(|c| !c.is_ascii() && !c.is_whitespace());
    let before = position.checked_sub(1).and_then(|before| text.get(before));
    match c {
        '\u{200c}' | '\u{200d}' => {
            let after = text.get(position + 1);
            let is_selector = |c: &char| matches!(c, '\u{fe00}'..='\u{fe0f}');
            is_part(before)
                && is_part(after)
                && before.is_some_and(|c| !is_joiner(*c) || is_selector(c))
                && after.is_some_and(|c| !is_joiner(*c))
        }
        '\u{fe00}'..='\u{fe0f}' => before.is_some_and(|c| {
            !is_joiner(*c) && (is_part(Some(c)) || c.is_ascii_digit() || matches!(c, '#' | '*'))
        }),
        _ => true,
    }
}

/// The URL of a picture, if phones may load it: `https`, a host name, no port and no credentials,
/// at most [`MAX_PICTURE_BYTES`]. Addresses and names of a local network are refused.
pub fn picture_url(text: &str) -> Option<String> {
    let text = text.trim();
    if text.len() > MAX_PICTURE_BYTES {
        return None;
    }
    let mut url = Url::parse(text).ok()?;
    let Some(Host::Domain(host)) = url.host() else {
        return None;
    };
    let host = host.trim_end_matches('.');
    let top = host.rsplit_once('.')?.1;
    let is_local = [
        "local",
        "localhost",
        "internal",
        "lan",
        "home",
        "arpa",
        "test",
    ]
    .contains(&top);
    let has_credentials = !url.username().is_empty() || url.password().is_some();
    if url.scheme() != "https" || is_local || has_credentials || url.port().is_some() {
        return None;
    }
    url.set_fragment(None);
    let url = String::from(url);
    (url.len() <= MAX_PICTURE_BYTES).then_some(url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_lose_what_does_not_show() {
        for (text, name) in [
            ("  alice\n\tb ", Some("alice b")),
            ("a\u{202e}ecila", Some("aecila")),
            ("al\u{200d}i\u{200c}ce\u{fe0f}", Some("alice")),
            ("a\u{e0061}\u{1d173}\u{1bca0}b\u{7}\u{feff}", Some("ab")),
            ("👨‍👩‍👧‍👦", Some("👨‍👩‍👧‍👦")),
            ("❤️‍🔥 1️⃣", Some("❤️‍🔥 1️⃣")),
            ("می‌خواهم", Some("می‌خواهم")),
            ("عبد الله", Some("عبد الله")),
            ("क्‍ष", Some("क्‍ष")),
            ("\u{200d}\u{fe0f}\u{3164}", None),
            ("...", None),
            ("", None),
        ] {
            assert_eq!(clean_name(text).as_deref(), name, "{text:?}");
        }
    }

    #[test]
    fn long_names_are_cut_between_graphemes() {
        let family = "👨‍👩‍👧‍👦";
        assert_eq!(
            clean_name(&family.repeat(12)).unwrap(),
            format!("{}…", family.repeat(2))
        );
        assert_eq!(
            clean_name(&"x".repeat(300)).unwrap(),
            format!("{}…", "x".repeat(61))
        );
        assert_eq!(clean_name(&"x".repeat(64)).unwrap(), "x".repeat(64));
        // A letter with a hundred accents would cover the lines around it.
        assert_eq!(
            clean_name(&format!("z{}a", "\u{301}".repeat(100))).unwrap(),
            "a"
        );
    }

    #[test]
    fn pictures_are_on_public_hosts() {
        let picture = "https://example.com/a.png?b=c";
        assert_eq!(
            picture_url(&format!(" {picture}#d")).as_deref(),
            Some(picture)
        );
        for bad in [
            "http://example.com/a.png",
            "https://user@example.com/a.png",
            "https://example.com:8443/a.png",
            "https://192.168.0.1/a.png",
            "https://0x7f.1/a.png",
            "https://[::1]/a.png",
            "https://localhost/a.png",
            "https://printer.local/a.png",
            "https://printer.local./a.png",
            "https://localhost./a.png",
            "data:image/png;base64,AAAA",
            "",
        ] {
            assert_eq!(picture_url(bad), None, "{bad}");
        }
        let long = format!("https://example.com/{}", "ä".repeat(200));
        assert_eq!(picture_url(&long), None);
    }

    #[test]
    fn profiles_are_due_daily_and_missing_names_hourly() {
        let now = Seconds(1_000_000);
        let asked = |name: Option<&str>, ago: Seconds| Profile {
            name: name.map(str::to_owned),
            picture: None,
            asked_at: now - ago,
        };
        assert!(Profile::is_due(None, now));
        for (profile, is_due) in [
            (asked(Some("alice"), REFRESH_AFTER), true),
            (asked(Some("alice"), REFRESH_AFTER - Seconds(1)), false),
            (asked(None, RETRY_AFTER), true),
            (asked(None, RETRY_AFTER - Seconds(1)), false),
        ] {
            assert_eq!(Profile::is_due(Some(&profile), now), is_due, "{profile:?}");
        }
    }

    #[test]
    fn profiles_are_cached_until_they_are_due() {
        let now = Seconds(1_000_000);
        let asked = |name: Option<&str>, ago| Profile {
            name: name.map(str::to_owned),
            picture: None,
            asked_at: now - ago,
        };
        let hour = Seconds::from_hours(1);
        for (profile, expected) in [
            (Some(asked(Some("alice"), Seconds(0))), REFRESH_AFTER),
            (Some(asked(Some("alice"), hour)), Seconds::from_hours(23)),
            (
                Some(asked(Some("alice"), Seconds::from_hours(30))),
                DUE_CACHE_TIME,
            ),
            (Some(asked(None, Seconds(0))), FIRST_ANSWER_TIME),
            (Some(asked(None, FIRST_ANSWER_TIME)), SECOND_ANSWER_TIME),
            (
                Some(asked(None, SECOND_ANSWER_TIME)),
                Seconds::from_minutes(50),
            ),
            (Some(asked(None, hour)), DUE_CACHE_TIME),
            (None, DUE_CACHE_TIME),
        ] {
            assert_eq!(
                Profile::cache_time(profile.as_ref(), now),
                expected,
                "{profile:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn clean_names_are_short_and_stay_as_they_are(text: String) {
            if let Some(name) = clean_name(&text) {
                prop_assert!(name.len() <= MAX_NAME_BYTES);
                prop_assert!(!name.chars().any(|c| c.is_control() || is_invisible(c)));
                prop_assert_eq!(clean_name(&name), Some(name));
            }
        }
    }
}
