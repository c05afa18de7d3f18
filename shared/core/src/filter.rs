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

/// The bytes of JSON of an id or a pubkey in a list.
const KEY_BYTES: usize = 67;

/// The most bytes of JSON of a kind in a list.
const KIND_BYTES: usize = 6;

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

    /// About as many bytes as the canonical form has. That is not built.
    pub fn approximate_bytes(&self) -> usize {
        let value_bytes = |value: &TagValue| match value {
            TagValue::Hex(_) => KEY_BYTES,
            TagValue::Text(text) => text.len() + 3,
        };
        let keys = self.ids.iter().chain(&self.authors).map(Vec::len);
        let kinds = self.kinds.as_ref().map_or(0, Vec::len);
        let values = self.tags.values().flatten().map(value_bytes);
        keys.sum::<usize>() * KEY_BYTES + kinds * KIND_BYTES + values.sum::<usize>()
    }

    /// The keys under which the filter is indexed, one per value of its most selective dimension:
    /// `ids`, else the tag with the fewest values, else `authors`, else `kinds`. A filter for mute
    /// lists alone is indexed by their authors. Only the empty filter has no keys.
    pub fn index_keys(&self) -> Vec<IndexKey> {
        match self.dimension() {
            Dimension::Ids => keys(self.ids.iter().flatten().copied(), IndexKey::Id),
            Dimension::Tag(letter) => {
                let values = self.tags.get(&letter).into_iter().flatten().cloned();
                keys(values, |value| IndexKey::Tag(letter, value))
            }
            Dimension::Authors => {
                let key = if self.kinds.as_deref() == Some(&[MUTE_LIST_KIND]) {
                    IndexKey::MuteList
                } else {
                    IndexKey::Author
                };
                keys(self.authors.iter().flatten().copied(), key)
            }
            Dimension::Kinds => keys(self.kinds.iter().flatten().copied(), IndexKey::Kind),
        }
    }

    /// The dimension by which the filter is indexed.
    fn dimension(&self) -> Dimension {
        let tag = self.tags.iter().min_by_key(|(_, values)| values.len());
        if self.ids.is_some() {
            Dimension::Ids
        } else if let Some((letter, _)) = tag {
            Dimension::Tag(*letter)
        } else if self.authors.is_some() {
            Dimension::Authors
        } else {
            Dimension::Kinds
        }
    }

    /// The residual filters of this filter, one per index key.
    pub fn residuals(&self) -> Residuals {
        let dimension = self.dimension();
        let keys = |keys: &Option<Keys>, of: Dimension| keys.clone().filter(|_| dimension != of);
        let tags = self.tags.iter();
        let other_tags = tags.filter(|(letter, _)| dimension != Dimension::Tag(**letter));
        let rest = Self {
            ids: keys(&self.ids, Dimension::Ids),
            authors: keys(&self.authors, Dimension::Authors),
            kinds: self.kinds.clone().filter(|_| dimension != Dimension::Kinds),
            tags: other_tags
                .map(|(letter, values)| (*letter, values.clone()))
                .collect(),
        };
        Residuals {
            rest_bytes: rest.to_json().len(),
            rest,
        }
    }

    /// Lets only the value of this key through in the key's dimension.
    fn restrict_to(&mut self, key: &IndexKey) {
        match key {
            IndexKey::Id(id) => self.ids = Some(vec![*id]),
            IndexKey::Author(author) | IndexKey::MuteList(author) => {
                self.authors = Some(vec![*author]);
            }
            IndexKey::Tag(letter, value) => {
                self.tags.insert(*letter, vec![value.clone()]);
            }
            IndexKey::Kind(kind) => self.kinds = Some(vec![*kind]),
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

/// The dimension by which a filter is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dimension {
    Ids,
    Tag(char),
    Authors,
    Kinds,
}

/// The residual filters of one filter. The residual under an index key is the filter with the key's
/// value alone in the dimension by which the filter is indexed. An event with this key matches the
/// residual exactly if it matches the filter.
#[derive(Debug)]
pub struct Residuals {
    /// The filter without the dimension by which it is indexed.
    rest: Filter,
    /// The bytes of JSON of `rest`.
    rest_bytes: usize,
}

impl Residuals {
    /// The residual under this key of the filter.
    pub fn under(&self, key: &IndexKey) -> Filter {
        let mut residual = self.rest.clone();
        residual.restrict_to(key);
        residual
    }

    /// The bytes of JSON of the residual under this key. The residual is not built.
    pub fn bytes_under(&self, key: &IndexKey) -> usize {
        let mut of_key = Filter::default();
        of_key.restrict_to(key);
        let key_bytes = of_key.to_json().len();
        if self.rest == Filter::default() {
            key_bytes
        } else {
            // `{"a":1}` and `{"b":2}` are `{"a":1,"b":2}` together.
            self.rest_bytes + key_bytes - 1
        }
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

/// The index keys of these values.
fn keys<T>(values: impl Iterator<Item = T>, key: impl Fn(T) -> IndexKey) -> Vec<IndexKey> {
    values.map(key).collect()
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
    use nostr_push_testkit::event;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::index_key::keys_of;

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

    #[test]
    fn approximate_bytes_are_near_those_of_the_canonical_form() {
        let keys: Vec<String> = (0..500).map(|n| format!("{n:064x}")).collect();
        let texts: Vec<String> = (0..500).map(|n| format!("text {n}")).collect();
        let kinds: Vec<u16> = (10_000..10_064).collect();
        let all = json!({"ids": keys, "authors": keys, "kinds": kinds, "#p": keys, "#t": texts});
        let filter = filter(&all);
        assert!(filter.approximate_bytes().abs_diff(filter.to_json().len()) < 100);
    }

    /// Lists over few values, so that events often match.
    fn some<T: std::fmt::Debug + Clone>(
        values: &'static [T],
    ) -> impl Strategy<Value = Option<Vec<T>>> {
        prop::option::of(prop::collection::vec(prop::sample::select(values), 1..4))
    }

    fn author(n: u8) -> nostr::key::Keys {
        nostr::key::Keys::parse(&format!("{n:064x}")).unwrap()
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        let texts = || some(&["a", "\"é", ""]);
        let (authors, kinds) = (some(&[1, 2, 3]), some(&[1, 4, 10_000]));
        (authors, kinds, some(&[1, 2, 3]), texts(), texts()).prop_map(
            |(authors, kinds, p, t, h)| {
                let pubkeys = |list: Vec<u8>| -> Vec<String> {
                    list.iter()
                        .map(|n| author(*n).public_key().to_hex())
                        .collect()
                };
                let fields = [
                    ("authors", authors.map(|list| json!(pubkeys(list)))),
                    ("kinds", kinds.map(|list| json!(list))),
                    ("#p", p.map(|list| json!(pubkeys(list)))),
                    ("#t", t.map(|list| json!(list))),
                    ("#h", h.map(|list| json!(list))),
                ];
                let fields = fields.into_iter();
                let fields = fields.filter_map(|(name, value)| Some((name.to_owned(), value?)));
                filter(&Value::Object(fields.collect()))
            },
        )
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let tag = prop_oneof![
            (1..4u8).prop_map(|n| vec!["p".to_owned(), author(n).public_key().to_hex()]),
            ("[th]", prop::sample::select(&["a", "\"é", "", "b"]))
                .prop_map(|(letter, value)| vec![letter, value.to_owned()]),
        ];
        let kind = prop::sample::select(&[1, 4, 7, 10_000]);
        (1..4u8, kind, prop::collection::vec(tag, 0..5)).prop_map(|(n, kind, tags)| {
            let tags: Vec<Vec<&str>> = tags
                .iter()
                .map(|tag| tag.iter().map(String::as_str).collect())
                .collect();
            let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
            event(&author(n), kind, 1, &tags, "")
        })
    }

    proptest! {
        #[test]
        fn residual_matches_like_its_filter(
            mut filter in any_filter(),
            event in any_event(),
            recipient in 1..4u8,
            has_id: bool,
        ) {
            if has_id {
                filter.ids = Some(vec![[7; 32], *event.id.as_bytes()]);
                filter.ids.as_mut().unwrap().sort_unstable();
            }
            let recipient = author(recipient).public_key();
            let residuals = filter.residuals();
            let keys = filter.index_keys();
            let mut is_match = false;
            for key in &keys {
                let residual = residuals.under(key);
                prop_assert_eq!(residuals.bytes_under(key), residual.to_json().len());
                prop_assert_eq!(residual.index_keys().len(), 1);
                if keys_of(&event).any(|of_event| of_event.to_owned() == *key) {
                    let expected = filter.matches_for(&event, &recipient);
                    prop_assert_eq!(residual.matches_for(&event, &recipient), expected);
                    is_match |= expected;
                }
            }
            // An event that no key finds does not match either.
            let is_empty = filter == Filter::default();
            prop_assert!(is_empty || is_match == filter.matches_for(&event, &recipient));
        }
    }
}
