//! A stored filter: a NIP-01 filter in canonical form, so that equal filters have one identity, and
//! matched exactly.
//!
//! `since`, `until`, `limit` and `search` say which past events to send; a push is about the next
//! one, so they are left out. Unknown fields are ignored.

use std::{collections::BTreeMap, fmt};

use nostr::{event::Event, key::PublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    MUTE_LIST,
    index_key::{IndexKey, TagValue},
    is_private,
};

/// The longest tag value a filter may hold, in bytes: an index key must fit a DynamoDB partition
/// key (2,048 bytes).
pub const MAX_TAG_VALUE: usize = 512;

/// Why a filter was refused. Every one of them is `bad_payload` to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// It is not a JSON object.
    #[error("a filter is a JSON object")]
    NotAnObject,
    /// A field is not a non-empty array of what it should hold.
    #[error("`{0}` is not a non-empty array of valid values")]
    BadField(String),
}

/// Ids and pubkeys, sorted and without repeats.
type Keys = Vec<[u8; 32]>;

/// A filter in canonical form: every list sorted and without repeats, no list empty.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct Filter {
    /// Event ids.
    pub ids: Option<Keys>,
    /// Authors' pubkeys.
    pub authors: Option<Keys>,
    /// Kinds.
    pub kinds: Option<Vec<u16>>,
    /// Values of single-letter tags.
    pub tags: BTreeMap<char, Vec<String>>,
}

impl Filter {
    /// Reads a NIP-01 filter.
    ///
    /// # Errors
    /// [`BadFilter`] on anything but an object whose known fields are non-empty arrays: ids,
    /// pubkeys and the values of `#e` and `#p` exact lowercase 64-hex, kinds 0 to 65535, other tag
    /// values at most [`MAX_TAG_VALUE`] bytes. (An empty list would match nothing: no client means
    /// that.)
    pub fn from_json(json: &Value) -> Result<Self, BadFilter> {
        let fields = json.as_object().ok_or(BadFilter::NotAnObject)?;
        let mut filter = Self::default();
        for (field, value) in fields {
            let bad = || BadFilter::BadField(field.chars().take(32).collect());
            match field.as_str() {
                "ids" => filter.ids = Some(list(value, hex_key).ok_or_else(bad)?),
                "authors" => filter.authors = Some(list(value, hex_key).ok_or_else(bad)?),
                "kinds" => {
                    filter.kinds =
                        Some(list(value, |v| u16::try_from(v.as_u64()?).ok()).ok_or_else(bad)?)
                }
                _ => {
                    let Some(letter) = tag_letter(field) else {
                        continue;
                    };
                    let read = |v: &Value| tag_value(letter, v.as_str()?);
                    filter
                        .tags
                        .insert(letter, list(value, read).ok_or_else(bad)?);
                }
            }
        }
        Ok(filter)
    }

    /// A filter over private kinds alone with no `#p` means "addressed to me", so it gets `#p:
    /// [owner]`.
    #[must_use]
    pub fn addressed(mut self, owner: PublicKey) -> Self {
        let private = self
            .kinds
            .as_ref()
            .is_some_and(|kinds| kinds.iter().all(|kind| is_private(*kind)));
        if private && !self.tags.contains_key(&'p') {
            self.tags.insert('p', vec![owner.to_hex()]);
        }
        self
    }

    /// Whether it names no ids, authors or tag, and so would match the whole network.
    pub fn is_broad(&self) -> bool {
        self.ids.is_none() && self.authors.is_none() && self.tags.is_empty()
    }

    /// SHA-256 over the canonical form, in hex: the subscription's identity.
    pub fn identity(&self) -> String {
        hex(&Sha256::digest(self.to_json()))
    }

    /// The canonical form: keys sorted, lists sorted and without repeats.
    pub fn to_json(&self) -> String {
        // A map of strings and numbers cannot fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Under which keys it is indexed: one dimension, the most selective it has (`ids`, else the
    /// tag with the fewest values, else `authors`, and of mute lists alone theirs, else `kinds`),
    /// one key per value. None only for the empty filter.
    pub fn index_keys(&self) -> Vec<IndexKey> {
        let tag = self.tags.iter().min_by_key(|(_, values)| values.len());
        if let Some(ids) = &self.ids {
            ids.iter().copied().map(IndexKey::Id).collect()
        } else if let Some((letter, values)) = tag {
            values
                .iter()
                .map(|value| IndexKey::Tag(*letter, TagValue::from(value.as_str())))
                .collect()
        } else if let Some(authors) = &self.authors {
            let key = if self.kinds.as_deref() == Some(&[MUTE_LIST]) {
                IndexKey::MuteList
            } else {
                IndexKey::Author
            };
            authors.iter().copied().map(key).collect()
        } else {
            self.kinds
                .iter()
                .flatten()
                .copied()
                .map(IndexKey::Kind)
                .collect()
        }
    }

    /// Whether the event matches, and may reach `recipient`: an event of a private kind reaches
    /// only whom it names in a `p` tag, unless the filter asks for other addressees by `#p` itself
    /// (an owner's alias keys).
    pub fn matches_for(&self, event: &Event, recipient: &PublicKey) -> bool {
        let named = || {
            event
                .tags
                .iter()
                .any(|tag| is_p_tag_of(tag.as_slice(), recipient))
        };
        self.matches(event)
            && (!is_private(event.kind.as_u16()) || self.tags.contains_key(&'p') || named())
    }

    /// Whether the event matches, as NIP-01 says.
    pub fn matches(&self, event: &Event) -> bool {
        let holds = |list: &Option<Keys>, key: &[u8; 32]| {
            list.as_ref()
                .is_none_or(|list| list.binary_search(key).is_ok())
        };
        let kind = event.kind.as_u16();
        holds(&self.ids, event.id.as_bytes())
            && holds(&self.authors, event.pubkey.as_bytes())
            && self
                .kinds
                .as_ref()
                .is_none_or(|kinds| kinds.binary_search(&kind).is_ok())
            && self.tags.iter().all(|(letter, wanted)| {
                event.tags.iter().any(|tag| match tag.as_slice() {
                    [name, value, ..] => {
                        is_letter(name, *letter) && wanted.binary_search(value).is_ok()
                    }
                    _ => false,
                })
            })
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hexes = |keys: &Keys| keys.iter().map(|key| hex(key)).collect::<Vec<_>>();
        let mut map = serializer.serialize_map(None)?;
        // In the order of their bytes: '#' stands before every letter, and upper case before lower
        // case.
        for (letter, values) in &self.tags {
            map.serialize_entry(&format!("#{letter}"), values)?;
        }
        if let Some(authors) = &self.authors {
            map.serialize_entry("authors", &hexes(authors))?;
        }
        if let Some(ids) = &self.ids {
            map.serialize_entry("ids", &hexes(ids))?;
        }
        if let Some(kinds) = &self.kinds {
            map.serialize_entry("kinds", kinds)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The letter of a `#<letter>` field.
fn tag_letter(field: &str) -> Option<char> {
    let mut rest = field.strip_prefix('#')?.chars();
    let letter = rest.next().filter(char::is_ascii_alphabetic)?;
    rest.next().is_none().then_some(letter)
}

fn tag_value(letter: char, value: &str) -> Option<String> {
    let valid = match letter {
        'e' | 'p' => decode_hex(value).is_some(),
        _ => value.len() <= MAX_TAG_VALUE,
    };
    valid.then(|| value.to_owned())
}

fn is_letter(name: &str, letter: char) -> bool {
    let mut chars = name.chars();
    chars.next() == Some(letter) && chars.next().is_none()
}

fn is_p_tag_of(tag: &[String], pubkey: &PublicKey) -> bool {
    matches!(tag, [name, value, ..] if name == "p" && decode_hex(value).is_some_and(|key| key == *pubkey.as_bytes()))
}

/// A non-empty JSON array, each value read, sorted, without repeats.
fn list<T: Ord>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    let mut items = value
        .as_array()?
        .iter()
        .map(read)
        .collect::<Option<Vec<T>>>()?;
    items.sort_unstable();
    items.dedup();
    (!items.is_empty()).then_some(items)
}

fn hex_key(value: &Value) -> Option<[u8; 32]> {
    decode_hex(value.as_str()?)
}

/// The bytes of exactly 64 lowercase hex characters, as NIP-01 writes ids and pubkeys.
pub fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    let mut invalid = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        let (high, low) = (NIBBLE[usize::from(pair[0])], NIBBLE[usize::from(pair[1])]);
        // No branch per character: every event's every tag comes through here in the listener.
        invalid |= (high | low) & 0xf0;
        *byte = high << 4 | (low & 0x0f);
    }
    (invalid == 0).then_some(bytes)
}

/// The value of each lowercase hex character; 0xf0 for every other byte.
const NIBBLE: [u8; 256] = {
    let mut table = [0xf0; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    table
};

/// Lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filter(json: &Value) -> Filter {
        Filter::from_json(json).unwrap()
    }

    #[test]
    fn one_identity_whatever_the_order_the_repeats_and_the_ignored_fields() {
        let key = "ab".repeat(32);
        let a = filter(&json!({"kinds": [7, 1, 7], "#p": [key], "#t": ["b", "a"]}));
        let b = filter(
            &json!({"#t": ["a", "b", "a"], "limit": 3, "since": 5, "until": 9, "search": "x", "#p": [key], "kinds": [1, 7], "foo": 1}),
        );
        assert_eq!(a.identity(), b.identity());
        assert_eq!(
            a.to_json(),
            format!(r##"{{"#p":["{key}"],"#t":["a","b"],"kinds":[1,7]}}"##)
        );
        assert_ne!(
            a.identity(),
            filter(&json!({"kinds": [1], "#p": [key]})).identity()
        );
    }

    #[test]
    fn values_of_the_wrong_form_are_refused() {
        let upper = "AB".repeat(32);
        for bad in [
            json!([]),
            json!("x"),
            json!(null),
            json!({"kinds": []}),
            json!({"kinds": [65536]}),
            json!({"kinds": [-1]}),
            json!({"kinds": ["1"]}),
            json!({"kinds": 1}),
            json!({"ids": ["ab"]}),
            json!({"authors": [upper]}),
            json!({"authors": [1]}),
            json!({"#p": [upper]}),
            json!({"#e": ["group"]}),
            json!({"#t": ["x".repeat(MAX_TAG_VALUE + 1)]}),
            json!({"#t": [1]}),
            json!({"#t": "x"}),
        ] {
            assert!(Filter::from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn private_kinds_alone_are_addressed_to_the_owner() {
        let owner = nostr::key::Keys::generate().public_key();
        let addressed = filter(&json!({"kinds": [1059, 4]})).addressed(owner);
        assert_eq!(addressed.tags[&'p'], [owner.to_hex()]);
        assert_eq!(
            addressed.identity(),
            filter(&json!({"kinds": [4, 1059], "#p": [owner.to_hex()]})).identity()
        );
        assert!(
            filter(&json!({"kinds": [1, 4]}))
                .addressed(owner)
                .is_broad()
        );
        let alias = json!({"kinds": [4], "#p": ["ab".repeat(32)]});
        assert_eq!(filter(&alias).addressed(owner), filter(&alias));
    }

    #[test]
    fn the_most_selective_dimension_is_indexed() {
        let (a, b) = ("ab".repeat(32), "cd".repeat(32));
        let keys = |json: Value| {
            filter(&json)
                .index_keys()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            keys(json!({"ids": [a], "#p": [b], "kinds": [1]})),
            [format!("id:{a}")]
        );
        assert_eq!(
            keys(json!({"#p": [a, b], "#h": ["group"], "authors": [a]})),
            ["#h:group"]
        );
        assert_eq!(
            keys(json!({"authors": [b, a], "kinds": [1]})),
            [format!("author:{a}"), format!("author:{b}")]
        );
        assert_eq!(keys(json!({"kinds": [7, 1]})), ["kind:1", "kind:7"]);
        assert_eq!(keys(json!({})), [""; 0]);
    }

    #[test]
    fn hex_is_exact() {
        assert_eq!(decode_hex(&"0f".repeat(32)), Some([0x0f; 32]));
        for bad in [
            "",
            "0f",
            &"0F".repeat(32),
            &"0g".repeat(32),
            &"é0".repeat(32),
            &"0f".repeat(33),
        ] {
            assert_eq!(decode_hex(bad), None);
        }
    }
}
