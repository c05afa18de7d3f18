//! Filters as clients send them, and what they match. The rules are those of NIP-01
//! (<https://github.com/nostr-protocol/nips/blob/master/01.md>). This is not the code of the
//! service, because the oracle uses it.

use std::collections::BTreeSet;

use nostr::{event::Event, key::PublicKey};
use serde_json::{Map, Value, json};

/// The kinds that are private to their addressee.
pub const PRIVATE_KINDS: [u16; 5] = [4, 13, 14, 1059, 21059];

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SimFilter {
    /// The kinds. Empty means all.
    pub kinds: BTreeSet<u16>,
    /// The authors. Empty means all.
    pub authors: BTreeSet<String>,
    /// The pubkeys that are mentioned. Empty means any.
    pub p: BTreeSet<String>,
    /// The hashtags. Empty means any.
    pub t: BTreeSet<String>,
}

impl SimFilter {
    /// The filter as clients write it, with lists in this order or reversed.
    pub fn to_json(&self, reversed: bool) -> Value {
        let mut filter = Map::new();
        let mut add = |name: &str, mut values: Vec<Value>| {
            if reversed {
                values.reverse();
            }
            if !values.is_empty() {
                filter.insert(name.to_owned(), values.into());
            }
        };
        let texts = |set: &BTreeSet<String>| set.iter().map(|text| json!(text)).collect();
        add("kinds", self.kinds.iter().map(|kind| json!(kind)).collect());
        add("authors", texts(&self.authors));
        add("#p", texts(&self.p));
        add("#t", texts(&self.t));
        filter.into()
    }

    /// Returns `true` if the filter of this owner matches the event. A filter that names only
    /// private kinds means "addressed to me", and an event of a private kind only matches whom it
    /// names, unless the filter has `#p`.
    pub fn matches(&self, event: &Event, owner: &PublicKey) -> bool {
        let kind = event.kind.as_u16();
        let mine = [owner.to_hex()].into();
        let is_private = PRIVATE_KINDS.contains(&kind);
        let p = if self.p.is_empty() && is_private {
            &mine
        } else {
            &self.p
        };
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (self.authors.is_empty() || self.authors.contains(&event.pubkey.to_hex()))
            && (p.is_empty() || tag_values(event, "p").any(|value| p.contains(value)))
            && (self.t.is_empty() || tag_values(event, "t").any(|value| self.t.contains(value)))
    }
}

/// The values of the event's tags with this name.
pub fn tag_values<'a>(event: &'a Event, name: &'a str) -> impl Iterator<Item = &'a str> {
    event.tags.iter().filter_map(move |tag| {
        let tag = tag.as_slice();
        (tag.first()? == name).then(|| tag.get(1).map(String::as_str))?
    })
}
