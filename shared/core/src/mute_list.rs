//! What an owner does not want to hear of: the public part of a mute list (NIP-51, kind 10000).
//!
//! Entries are kept short, because every delivery reads them: pubkeys and ids by their first eight
//! bytes, which nobody makes collide for the sake of being muted.

use std::collections::BTreeSet;

use nostr::{
    event::{Event, Tag},
    key::PublicKey,
};
use serde::{Deserialize, Serialize};

use crate::{DAY, Seconds, filter::decode_hex, is_private, order::Order};

/// How many bytes all entries of one list may have together.
const MAX_BYTES: usize = 64 * 1024;

/// The longest word or hashtag that is kept, in bytes.
const MAX_WORD: usize = 200;

/// How long a list is kept after its event was last seen. Owners write one and keep it for years.
const LIFETIME: Seconds = 5 * 365 * DAY;

/// One row of `mute_lists`: the latest list of a pubkey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MuteList {
    /// Whose it is. Not per app: one person has one list.
    pub pubkey: PublicKey,
    /// Which event it is from.
    #[serde(flatten)]
    pub order: Order,
    /// `p:` and `e:` with 16 hex characters, `t:` and `word:` with text in lower case.
    pub entries: BTreeSet<String>,
    /// When DynamoDB may drop the row.
    pub expires_at: Seconds,
}

impl MuteList {
    /// Reads a list. Of one that is too long the entries that were added last are kept: clients
    /// append.
    pub fn of(event: &Event, now: Seconds) -> Self {
        let mut entries = BTreeSet::new();
        let mut bytes = 0;
        for entry in event.tags.iter().rev().filter_map(entry) {
            bytes += entry.len();
            if bytes > MAX_BYTES {
                break;
            }
            entries.insert(entry);
        }
        Self {
            pubkey: event.pubkey,
            order: Order::of(event),
            entries,
            expires_at: now + LIFETIME,
        }
    }

    /// Whether the event is none that the owner wants to hear of: by whom it is from (`sender`,
    /// where another signs for him, and its author), a hashtag, the thread it belongs to, or a word
    /// in it.
    pub fn suppresses(&self, event: &Event, sender: Option<&PublicKey>) -> bool {
        let has = |prefix: &str, value: &str| self.entries.contains(&format!("{prefix}:{value}"));
        let by = |pubkey: &PublicKey| has("p", &pubkey.to_hex()[..16]);
        let tagged = |tag: &Tag| match tag.as_slice() {
            [name, value, ..] if name == "t" => has("t", &value.to_lowercase()),
            [name, value, ..] if matches!(name.as_str(), "e" | "E") => {
                value.get(..16).is_some_and(|id| has("e", id))
            }
            _ => false,
        };
        by(&event.pubkey)
            || sender.is_some_and(by)
            || has("e", &event.id.to_hex()[..16])
            || event.tags.iter().any(tagged)
            || self.has_word(event)
    }

    /// Not in what is encrypted: there any word may stand by chance.
    fn has_word(&self, event: &Event) -> bool {
        let mut words = self
            .entries
            .iter()
            .filter_map(|entry| entry.strip_prefix("word:"))
            .peekable();
        if is_private(event.kind.as_u16()) || words.peek().is_none() {
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
        "p" | "e" => decode_hex(value).map(|_| format!("{name}:{}", &value[..16])),
        "t" | "word" if !value.trim().is_empty() && value.len() <= MAX_WORD => {
            Some(format!("{name}:{}", value.trim().to_lowercase()))
        }
        _ => None,
    }
}
