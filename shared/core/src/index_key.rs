//! The values by which an event finds a subscription.
//!
//! Both an owned key and a borrowed one exist, with the same hash: the listener asks about every
//! tag of every event a relay sends, and must not allocate for the answer "nobody".

use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use hashbrown::Equivalent;
use nostr::event::Event;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    MUTE_LIST,
    filter::{MAX_TAG_VALUE, decode_hex, hex},
};

/// The value of a single-letter tag: 32 bytes when it is an id or a pubkey, text otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TagValue {
    /// Exactly 64 lowercase hex characters.
    Hex([u8; 32]),
    /// Anything else.
    Text(Box<str>),
}

impl From<&str> for TagValue {
    fn from(value: &str) -> Self {
        decode_hex(value).map_or_else(|| Self::Text(value.into()), Self::Hex)
    }
}

/// One value by which an event can find a subscription.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IndexKey {
    /// `id:<hex>`: the event's id.
    Id([u8; 32]),
    /// `author:<hex>`: the event's pubkey.
    Author([u8; 32]),
    /// `mute_list:<hex>`: the pubkey of a mute list (kind 10000). Every owner's is in use, and
    /// would bring all they write if it were their `author:`.
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

    pub(crate) fn borrowed(&self) -> KeyRef<'_> {
        match self {
            Self::Id(id) => KeyRef::Id(id),
            Self::Author(author) => KeyRef::Author(author),
            Self::MuteList(author) => KeyRef::MuteList(author),
            Self::Tag(letter, TagValue::Hex(bytes)) => KeyRef::TagHex(*letter, *bytes),
            Self::Tag(letter, TagValue::Text(text)) => KeyRef::TagText(*letter, text),
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
    /// See [`TagValue::Hex`].
    TagHex(char, [u8; 32]),
    /// See [`TagValue::Text`].
    TagText(char, &'a str),
    /// See [`IndexKey::Kind`].
    Kind(u16),
}

impl KeyRef<'_> {
    /// The key, owned.
    pub fn to_owned(self) -> IndexKey {
        match self {
            Self::Id(id) => IndexKey::Id(*id),
            Self::Author(author) => IndexKey::Author(*author),
            Self::MuteList(author) => IndexKey::MuteList(*author),
            Self::TagHex(letter, bytes) => IndexKey::Tag(letter, TagValue::Hex(bytes)),
            Self::TagText(letter, text) => IndexKey::Tag(letter, TagValue::Text(text.into())),
            Self::Kind(kind) => IndexKey::Kind(kind),
        }
    }
}

impl Equivalent<IndexKey> for KeyRef<'_> {
    fn equivalent(&self, key: &IndexKey) -> bool {
        *self == key.borrowed()
    }
}

/// The index keys of an event: its id, author, kind, whose mute list it is, and the first value of
/// each single-letter tag. A key may come more than once when the event repeats a tag.
pub fn keys_of(event: &Event) -> impl Iterator<Item = KeyRef<'_>> {
    let tags = event.tags.iter().filter_map(|tag| match tag.as_slice() {
        [name, value, ..] => tag_key(name, value),
        _ => None,
    });
    let (author, kind) = (event.pubkey.as_bytes(), event.kind.as_u16());
    let mute_list = (kind == MUTE_LIST).then_some(KeyRef::MuteList(author));
    [
        KeyRef::Id(event.id.as_bytes()),
        KeyRef::Author(author),
        KeyRef::Kind(kind),
    ]
    .into_iter()
    .chain(mute_list)
    .chain(tags)
}

/// No filter can hold a longer value, so a longer one is no key.
fn tag_key<'a>(name: &str, value: &'a str) -> Option<KeyRef<'a>> {
    let [letter @ (b'a'..=b'z' | b'A'..=b'Z')] = name.as_bytes() else {
        return None;
    };
    let letter = char::from(*letter);
    match decode_hex(value) {
        Some(bytes) => Some(KeyRef::TagHex(letter, bytes)),
        None if value.len() <= MAX_TAG_VALUE => Some(KeyRef::TagText(letter, value)),
        None => None,
    }
}

impl fmt::Display for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id:{}", hex(id)),
            Self::Author(author) => write!(f, "author:{}", hex(author)),
            Self::MuteList(author) => write!(f, "mute_list:{}", hex(author)),
            Self::Tag(letter, TagValue::Hex(bytes)) => write!(f, "#{letter}:{}", hex(bytes)),
            Self::Tag(letter, TagValue::Text(text)) => write!(f, "#{letter}:{text}"),
            Self::Kind(kind) => write!(f, "kind:{kind}"),
        }
    }
}

/// The text is no index key.
#[derive(Debug, thiserror::Error)]
#[error("not an index key")]
pub struct NotAnIndexKey;

impl FromStr for IndexKey {
    type Err = NotAnIndexKey;

    fn from_str(text: &str) -> Result<Self, NotAnIndexKey> {
        let (dimension, value) = text.split_once(':').ok_or(NotAnIndexKey)?;
        match dimension {
            "id" => decode_hex(value).map(Self::Id),
            "author" => decode_hex(value).map(Self::Author),
            "mute_list" => decode_hex(value).map(Self::MuteList),
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
    use super::*;

    #[test]
    fn text_and_back_is_the_same_key() {
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
}
