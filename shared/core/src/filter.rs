//! Stored filters: NIP-01 filters in canonical form, so that equal filters have one identity, and
//! their exact matching.
//!
//! `since`, `until`, `limit` and `search` select past events. A push is about the next event, so
//! these fields are ignored, as are unknown ones. See
//! <https://github.com/nostr-protocol/nips/blob/master/01.md>.

use std::{collections::BTreeMap, fmt};

use nostr::{event::Event, key::PublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::SerializeMap};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    MUTE_LIST_KIND, hex,
    index_key::{IndexKey, MAX_TAG_VALUE_BYTES, TagValue, TagValueRef},
    is_private_kind,
};

/// Why a filter was refused. The client sees `bad_payload` for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// The filter is not a JSON object.
    #[error("a filter is a JSON object")]
    NotAnObject,
    /// A field is not a non-empty array of valid values.
    #[error("`{0}` is not a non-empty array of valid values")]
    BadField(String),
}

/// Ids or pubkeys, sorted and without duplicates.
type Keys = Vec<[u8; 32]>;

/// A filter in canonical form: every list is sorted, has no duplicates and is not empty.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct Filter {
    /// Event ids.
    pub ids: Option<Keys>,
    /// Authors' pubkeys.
    pub authors: Option<Keys>,
    /// Kinds.
    pub kinds: Option<Vec<u16>>,
    /// Values of single-letter tags.
    pub tags: BTreeMap<char, Vec<TagValue>>,
}

impl Filter {
    /// Reads a NIP-01 filter.
    ///
    /// # Errors
    /// [`BadFilter`], unless the JSON is an object whose known fields are non-empty arrays. Ids,
    /// pubkeys and the values of `#e` and `#p` must be exactly 64 lowercase hex characters, kinds 0
    /// to 65535, and other tag values at most [`MAX_TAG_VALUE_BYTES`] bytes. An empty array would
    /// match nothing, which no client wants.
    pub fn from_json(json: &Value) -> Result<Self, BadFilter> {
        let fields = json.as_object().ok_or(BadFilter::NotAnObject)?;
        let mut filter = Self::default();
        for (field, value) in fields {
            let bad = || BadFilter::BadField(field.chars().take(32).collect());
            match field.as_str() {
                "ids" => filter.ids = Some(list(value, hex_key).ok_or_else(bad)?),
                "authors" => filter.authors = Some(list(value, hex_key).ok_or_else(bad)?),
                "kinds" => filter.kinds = Some(list(value, kind).ok_or_else(bad)?),
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

    /// Adds `#p: [owner]` to a filter that has only private kinds and no `#p`: its owner wants the
    /// events addressed to them.
    #[must_use]
    pub fn addressed(mut self, owner: PublicKey) -> Self {
        let private = self
            .kinds
            .as_ref()
            .is_some_and(|kinds| kinds.iter().all(|kind| is_private_kind(*kind)));
        if private && !self.tags.contains_key(&'p') {
            self.tags
                .insert('p', vec![TagValue::Hex(*owner.as_bytes())]);
        }
        self
    }

    /// Returns `true` if the filter has no ids, authors or tags, and so would match events of the
    /// whole network.
    pub fn is_broad(&self) -> bool {
        self.ids.is_none() && self.authors.is_none() && self.tags.is_empty()
    }

    /// The identity of a subscription with this filter: SHA-256 over the canonical form, in hex.
    pub fn identity(&self) -> String {
        hex::encode(&Sha256::digest(self.to_json()))
    }

    /// The canonical form: keys sorted, lists sorted and without duplicates.
    pub fn to_json(&self) -> String {
        // A map of strings and numbers cannot fail to serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The keys under which the filter is indexed, one per value of its most selective dimension:
    /// `ids`, else the tag with the fewest values, else `authors`, else `kinds`. A filter for mute
    /// lists alone is indexed by their authors. Only the empty filter has no keys.
    pub fn index_keys(&self) -> Vec<IndexKey> {
        let tag = self.tags.iter().min_by_key(|(_, values)| values.len());
        if let Some(ids) = &self.ids {
            ids.iter().copied().map(IndexKey::Id).collect()
        } else if let Some((letter, values)) = tag {
            values
                .iter()
                .map(|value| IndexKey::Tag(*letter, value.clone()))
                .collect()
        } else if let Some(authors) = &self.authors {
            let key = if self.kinds.as_deref() == Some(&[MUTE_LIST_KIND]) {
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

    /// Returns `true` if the event matches and may be delivered to `recipient`.
    ///
    /// An event of a private kind is delivered only to a recipient in one of its `p` tags, unless
    /// the filter has a `#p` of its own (an owner's alias keys).
    pub fn matches_for(&self, event: &Event, recipient: &PublicKey) -> bool {
        let named = || {
            event
                .tags
                .iter()
                .any(|tag| is_p_tag_of(tag.as_slice(), recipient))
        };
        self.matches(event)
            && (!is_private_kind(event.kind.as_u16()) || self.tags.contains_key(&'p') || named())
    }

    /// Returns `true` if the event matches as NIP-01 defines it.
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
                    [name, value, ..] => is_letter(name, *letter) && contains(wanted, value),
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
        let hexes = |keys: &Keys| keys.iter().map(|key| hex::encode(key)).collect::<Vec<_>>();
        let mut map = serializer.serialize_map(None)?;
        // In byte order: '#' comes before every letter, and upper case before lower case.
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

fn tag_value(letter: char, value: &str) -> Option<TagValue> {
    match TagValue::from(value) {
        TagValue::Text(_) if matches!(letter, 'e' | 'p') || value.len() > MAX_TAG_VALUE_BYTES => {
            None
        }
        value => Some(value),
    }
}

/// Returns `true` if the sorted list contains the value of a tag.
fn contains(sorted: &[TagValue], value: &str) -> bool {
    let value = TagValueRef::from(value);
    sorted
        .binary_search_by(|candidate| candidate.borrowed().cmp(&value))
        .is_ok()
}

fn is_letter(name: &str, letter: char) -> bool {
    let mut chars = name.chars();
    chars.next() == Some(letter) && chars.next().is_none()
}

fn is_p_tag_of(tag: &[String], pubkey: &PublicKey) -> bool {
    matches!(tag, [name, value, ..]
        if name == "p" && hex::decode_32(value).as_ref() == Some(pubkey.as_bytes()))
}

/// Reads each value of a non-empty JSON array. The result is sorted and has no duplicates.
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

fn kind(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

fn hex_key(value: &Value) -> Option<[u8; 32]> {
    hex::decode_32(value.as_str()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filter(json: &Value) -> Filter {
        Filter::from_json(json).unwrap()
    }

    #[test]
    fn identity_ignores_order_duplicates_and_unused_fields() {
        let key = "ab".repeat(32);
        let a = filter(&json!({"kinds": [7, 1, 7], "#p": [key], "#t": ["b", "a"]}));
        let b = filter(&json!({
            "#t": ["a", "b", "a"], "limit": 3, "since": 5, "until": 9, "search": "x",
            "#p": [key], "kinds": [1, 7], "foo": 1,
        }));
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
    fn refuses_values_of_the_wrong_form() {
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
            json!({"#t": ["x".repeat(MAX_TAG_VALUE_BYTES + 1)]}),
            json!({"#t": [1]}),
            json!({"#t": "x"}),
        ] {
            assert!(Filter::from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_filters_over_private_kinds_to_the_owner() {
        let owner = nostr::key::Keys::generate().public_key();
        let addressed = filter(&json!({"kinds": [1059, 4]})).addressed(owner);
        assert_eq!(addressed.tags[&'p'], [TagValue::Hex(*owner.as_bytes())]);
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
    fn indexes_the_most_selective_dimension() {
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
}
