//! The values by which an event finds a subscription.
//!
//! There is an owned key and a borrowed one with the same hash. The listener looks up every tag of
//! every event that a relay sends, and must not allocate for events that match no subscription.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use hashbrown::Equivalent;
use nostr::event::Event;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{MUTE_LIST_KIND, hex};

/// The longest tag value of a filter, in bytes. An index key must fit into a DynamoDB partition key
/// of at most 2,048 bytes
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>).
pub const MAX_TAG_VALUE_BYTES: usize = 512;

/// The value of a single-letter tag: 32 bytes if it is an id or a pubkey, text otherwise.
///
/// Values are ordered as their text is. The identity of a filter depends on that order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TagValue {
    /// Exactly 64 lowercase hex characters.
    Hex([u8; 32]),
    /// Anything else.
    Text(Box<str>),
}

/// A [`TagValue`] that borrows its text from the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TagValueRef<'a> {
    /// See [`TagValue::Hex`].
    Hex([u8; 32]),
    /// See [`TagValue::Text`].
    Text(&'a str),
}

impl TagValue {
    /// Borrows the text.
    pub fn borrowed(&self) -> TagValueRef<'_> {
        match self {
            Self::Hex(bytes) => TagValueRef::Hex(*bytes),
            Self::Text(text) => TagValueRef::Text(text),
        }
    }
}

impl From<&str> for TagValue {
    fn from(value: &str) -> Self {
        TagValueRef::from(value).to_owned()
    }
}

impl<'a> From<&'a str> for TagValueRef<'a> {
    fn from(value: &'a str) -> Self {
        hex::decode_32(value).map_or(Self::Text(value), Self::Hex)
    }
}

impl TagValueRef<'_> {
    /// The value with a copy of its text.
    pub fn to_owned(self) -> TagValue {
        match self {
            Self::Hex(bytes) => TagValue::Hex(bytes),
            Self::Text(text) => TagValue::Text(text.into()),
        }
    }
}

impl Ord for TagValueRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Hex(a), Self::Hex(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Hex(a), Self::Text(b)) => hex::digits(a).cmp(b.bytes()),
            (Self::Text(a), Self::Hex(b)) => a.bytes().cmp(hex::digits(b)),
        }
    }
}

impl PartialOrd for TagValueRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TagValue {
    fn cmp(&self, other: &Self) -> Ordering {
        self.borrowed().cmp(&other.borrowed())
    }
}

impl PartialOrd for TagValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TagValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hex(bytes) => f.write_str(&hex::encode(bytes)),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for TagValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrowed().fmt(f)
    }
}

impl Serialize for TagValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TagValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(String::deserialize(deserializer)?.as_str()))
    }
}

/// One value by which an event can find a subscription.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IndexKey {
    /// `id:<hex>`: the event's id.
    Id([u8; 32]),
    /// `author:<hex>`: the event's pubkey.
    Author([u8; 32]),
    /// `mute_list:<hex>`: the author of a mute list (kind 10000). Every owner has this key in use.
    /// An `author:` key in its place would match everything that the owner writes.
    MuteList([u8; 32]),
    /// `#<letter>:<value>`: the value of a single-letter tag.
    Tag(char, TagValue),
    /// `kind:<n>`: the event's kind.
    Kind(u16),
}

impl IndexKey {
    /// The dimension, as clients read it in a push's `reasons`: `id`, `author`, `#p` …, `kind`.
    pub fn dimension(&self) -> String {
        match self {
            Self::Id(_) => "id".to_owned(),
            Self::Author(_) => "author".to_owned(),
            Self::MuteList(_) => "mute_list".to_owned(),
            Self::Tag(letter, _) => format!("#{letter}"),
            Self::Kind(_) => "kind".to_owned(),
        }
    }

    /// The pubkey that the key is a mention of (`#p:<hex>`), if it is one.
    pub fn mentions(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Tag('p', TagValue::Hex(pubkey)) => Some(pubkey),
            _ => None,
        }
    }

    pub(crate) fn borrowed(&self) -> KeyRef<'_> {
        match self {
            Self::Id(id) => KeyRef::Id(id),
            Self::Author(author) => KeyRef::Author(author),
            Self::MuteList(author) => KeyRef::MuteList(author),
            Self::Tag(letter, value) => KeyRef::Tag(*letter, value.borrowed()),
            Self::Kind(kind) => KeyRef::Kind(*kind),
        }
    }
}

impl Hash for IndexKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrowed().hash(state);
    }
}

/// An index key that borrows from the event. Same hash as the [`IndexKey`] it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyRef<'a> {
    /// See [`IndexKey::Id`].
    Id(&'a [u8; 32]),
    /// See [`IndexKey::Author`].
    Author(&'a [u8; 32]),
    /// See [`IndexKey::MuteList`].
    MuteList(&'a [u8; 32]),
    /// See [`IndexKey::Tag`].
    Tag(char, TagValueRef<'a>),
    /// See [`IndexKey::Kind`].
    Kind(u16),
}

impl KeyRef<'_> {
    /// An owned copy.
    pub fn to_owned(self) -> IndexKey {
        match self {
            Self::Id(id) => IndexKey::Id(*id),
            Self::Author(author) => IndexKey::Author(*author),
            Self::MuteList(author) => IndexKey::MuteList(*author),
            Self::Tag(letter, value) => IndexKey::Tag(letter, value.to_owned()),
            Self::Kind(kind) => IndexKey::Kind(kind),
        }
    }
}

impl Equivalent<IndexKey> for KeyRef<'_> {
    fn equivalent(&self, key: &IndexKey) -> bool {
        *self == key.borrowed()
    }
}

/// The index keys of an event: its id, author and kind, the author again if it is a mute list, and
/// the first value of each single-letter tag. A key occurs twice if the event repeats a tag.
pub fn keys_of(event: &Event) -> impl Iterator<Item = KeyRef<'_>> {
    let tags = event.tags.iter().filter_map(|tag| match tag.as_slice() {
        [name, value, ..] => tag_key(name, value),
        _ => None,
    });
    let (author, kind) = (event.pubkey.as_bytes(), event.kind.as_u16());
    let mute_list = (kind == MUTE_LIST_KIND).then_some(KeyRef::MuteList(author));
    [
        KeyRef::Id(event.id.as_bytes()),
        KeyRef::Author(author),
        KeyRef::Kind(kind),
    ]
    .into_iter()
    .chain(mute_list)
    .chain(tags)
}

/// The key of a tag. `None` if the name is not one letter, or if the value is longer than any
/// filter's.
fn tag_key<'a>(name: &str, value: &'a str) -> Option<KeyRef<'a>> {
    let [letter @ (b'a'..=b'z' | b'A'..=b'Z')] = name.as_bytes() else {
        return None;
    };
    let letter = char::from(*letter);
    (value.len() <= MAX_TAG_VALUE_BYTES).then(|| KeyRef::Tag(letter, value.into()))
}

impl fmt::Display for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id:{}", hex::encode(id)),
            Self::Author(author) => write!(f, "author:{}", hex::encode(author)),
            Self::MuteList(author) => write!(f, "mute_list:{}", hex::encode(author)),
            Self::Tag(letter, value) => write!(f, "#{letter}:{value}"),
            Self::Kind(kind) => write!(f, "kind:{kind}"),
        }
    }
}

/// The text is not an index key.
#[derive(Debug, thiserror::Error)]
#[error("not an index key")]
pub struct NotAnIndexKey;

impl FromStr for IndexKey {
    type Err = NotAnIndexKey;

    fn from_str(text: &str) -> Result<Self, NotAnIndexKey> {
        let (dimension, value) = text.split_once(':').ok_or(NotAnIndexKey)?;
        match dimension {
            "id" => hex::decode_32(value).map(Self::Id),
            "author" => hex::decode_32(value).map(Self::Author),
            "mute_list" => hex::decode_32(value).map(Self::MuteList),
            "kind" => value.parse().ok().map(Self::Kind),
            tag => tag
                .strip_prefix('#')
                .and_then(|name| tag_key(name, value))
                .map(KeyRef::to_owned),
        }
        .ok_or(NotAnIndexKey)
    }
}

impl Serialize for IndexKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IndexKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_what_it_prints() {
        let hex = "ab".repeat(32);
        for text in [
            format!("id:{hex}"),
            format!("author:{hex}"),
            format!("mute_list:{hex}"),
            format!("#p:{hex}"),
            "#h:a:b".to_owned(),
            "#t:".to_owned(),
            "kind:7".to_owned(),
        ] {
            assert_eq!(text.parse::<IndexKey>().unwrap().to_string(), text);
        }
        for bad in ["", "id", "id:ab", "kind:x", "#pp:x", "#1:x", "other:x"] {
            assert!(bad.parse::<IndexKey>().is_err(), "{bad}");
        }
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9a-f]{64}",
            "[0-9a-f]{62,66}",
            "[ -~]{0,4}",
            "[0-9a-f]{0,3}é?"
        ]
    }

    proptest! {
        #[test]
        fn tag_values_are_ordered_as_their_text(a in value(), b in value()) {
            prop_assert_eq!(TagValue::from(&*a).cmp(&TagValue::from(&*b)), a.cmp(&b));
            prop_assert_eq!(TagValue::from(&*a).to_string(), a);
        }
    }
}
