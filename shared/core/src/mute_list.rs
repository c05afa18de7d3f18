//! Mute lists: the public part of an owner's kind 10000 event (NIP-51,
//! <https://github.com/nostr-protocol/nips/blob/master/51.md>).
//!
//! Every delivery reads the list, so entries are short: of pubkeys and ids only the first eight
//! bytes are stored. A collision only mutes one more author or event.

use std::collections::BTreeSet;

use nostr::{
    event::{Event, Tag},
    key::PublicKey,
};
use serde::{Deserialize, Serialize};

use crate::{Seconds, hex, is_private_kind, order::Order};

/// The most bytes of all entries of one list together.
const MAX_LIST_BYTES: usize = 64 * 1024;

/// The longest word or hashtag that is kept, in bytes.
const MAX_WORD_BYTES: usize = 200;

/// How long a list is kept after its event was last received. Owners seldom renew their list.
const MUTE_LIST_LIFETIME: Seconds = Seconds::from_days(5 * 365);

/// One row of `mute_lists`: the latest list of a pubkey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MuteList {
    /// The author. A list is not tied to an app: one person has one list.
    pub pubkey: PublicKey,
    /// The order of the event.
    #[serde(flatten)]
    pub order: Order,
    /// `p:` and `e:` with 16 hex characters, `t:` and `word:` with lowercase text.
    pub entries: BTreeSet<String>,
    /// When DynamoDB may drop the row.
    pub expires_at: Seconds,
}

impl MuteList {
    /// Reads a list. If it is too long, the last entries are kept, because clients append new ones.
    pub fn of(event: &Event, now: Seconds) -> Self {
        let mut entries = BTreeSet::new();
        let mut bytes = 0;
        for entry in event.tags.iter().rev().filter_map(entry) {
            bytes += entry.len();
            if bytes > MAX_LIST_BYTES {
                break;
            }
            entries.insert(entry);
        }
        Self {
            pubkey: event.pubkey,
            order: Order::of(event),
            entries,
            expires_at: now + MUTE_LIST_LIFETIME,
        }
    }

    /// Returns `true` if the list mutes the event: by its author, by its `sender` if another key
    /// signs for them, by a hashtag, by its thread, or by a word in its content.
    pub fn suppresses(&self, event: &Event, sender: Option<&PublicKey>) -> bool {
        let has = |prefix: &str, value: &str| self.entries.contains(&format!("{prefix}:{value}"));
        let mutes_pubkey = |pubkey: &PublicKey| has("p", &pubkey.to_hex()[..16]);
        let tagged = |tag: &Tag| match tag.as_slice() {
            [name, value, ..] if name == "t" => has("t", &value.to_lowercase()),
            [name, value, ..] if matches!(name.as_str(), "e" | "E") => {
                value.get(..16).is_some_and(|id| has("e", id))
            }
            _ => false,
        };
        mutes_pubkey(&event.pubkey)
            || sender.is_some_and(mutes_pubkey)
            || has("e", &event.id.to_hex()[..16])
            || event.tags.iter().any(tagged)
            || self.has_word(event)
    }

    /// Encrypted content is not searched: any word may occur in it by chance.
    fn has_word(&self, event: &Event) -> bool {
        let mut words = self
            .entries
            .iter()
            .filter_map(|entry| entry.strip_prefix("word:"))
            .peekable();
        if is_private_kind(event.kind.as_u16()) || words.peek().is_none() {
            return false;
        }
        let content = event.content.to_lowercase();
        words.any(|word| content.contains(word))
    }
}

fn entry(tag: &Tag) -> Option<String> {
    let [name, value, ..] = tag.as_slice() else {
        return None;
    };
    match name.as_str() {
        "p" | "e" => hex::decode_32(value).map(|_| format!("{name}:{}", &value[..16])),
        "t" | "word" if !value.trim().is_empty() && value.len() <= MAX_WORD_BYTES => {
            Some(format!("{name}:{}", value.trim().to_lowercase()))
        }
        _ => None,
    }
}
