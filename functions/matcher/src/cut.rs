//! The event as deliveries contain it. A push holds 4 KiB, and 1,000 copies of an event of 256 KiB
//! would be 256 MiB in memory and in the queue.
//!
//! If the tags are too long, a delivery contains those that the deliver stage uses, in this order
//! of preference, each without a relay hint:
//!
//! - the first `expiration`
//! - of a zap receipt: the first `description`, if necessary without the parts of the zap request
//!   that are not shown, and the beginning of the first `bolt11`
//! - what decides title, body and thread: the first `h`, root `e`, `e`, `e` of a reply, `q`,
//!   `title` and `name`
//! - what a recipient may have muted: further `e`, `E` and `t`
//!
//! The `p` tag of the recipient is kept in any case. The number of people that the event mentions
//! is part of the delivery. No push contains the tags of such an event.

use std::collections::{BTreeMap, BTreeSet};

use nostr::{
    event::{Event, Tag, Tags},
    key::PublicKey,
};
use nostr_push_core::{
    message::{MAX_DELIVERED_CONTENT, MAX_DELIVERED_TAGS},
    tags::{first_tag_value, mentioned},
    zap,
};

/// The longest zap request that is kept whole, in bytes.
const MAX_ZAP_REQUEST_BYTES: usize = 2_048;

/// The longest comment of a zap request that is shortened, in bytes. A notification shows less.
const MAX_ZAP_COMMENT_BYTES: usize = 400;

/// The bytes of the recipient's `p` tag.
const RECIPIENT_TAG_BYTES: usize = 72;

/// An event with its content and tags cut.
#[derive(Debug)]
pub struct CutEvent<'a> {
    event: Event,
    /// `true` if the content was cut.
    pub is_content_cut: bool,
    /// Of a zap receipt: who signed the zap, before anything is cut.
    pub zapper: Option<PublicKey>,
    /// The people that the event mentions, if its tags were cut.
    mentioned: Option<BTreeSet<&'a str>>,
}

impl<'a> CutEvent<'a> {
    /// Cuts an event.
    pub fn of(event: &'a Event) -> Self {
        let bytes: usize = event
            .tags
            .iter()
            .map(|tag| json_bytes(tag.as_slice()))
            .sum();
        let are_tags_cut = bytes > MAX_DELIVERED_TAGS;
        let tags = if are_tags_cut {
            used_tags(event)
        } else {
            event.tags.clone().to_vec()
        };
        Self {
            event: Event::new(
                event.id,
                event.pubkey,
                event.created_at,
                event.kind,
                tags,
                cut(&event.content, MAX_DELIVERED_CONTENT),
                event.sig,
            ),
            zapper: zap::zapper(event),
            is_content_cut: event.content.len() > MAX_DELIVERED_CONTENT,
            mentioned: are_tags_cut.then(|| mentioned(event)),
        }
    }

    /// The number of people that the event mentions, if its tags were cut.
    pub fn mentions(&self) -> Option<usize> {
        self.mentioned.as_ref().map(BTreeSet::len)
    }

    /// The event for one recipient.
    pub fn for_recipient(&self, recipient: &PublicKey) -> Event {
        let mut event = self.event.clone();
        let recipient = recipient.to_hex();
        if let Some(mentioned) = &self.mentioned
            && mentioned.contains(recipient.as_str())
        {
            let mut tags = event.tags.to_vec();
            tags.extend(Tag::parse(["p", recipient.as_str()]));
            event.tags = Tags::from_list(tags);
        }
        event
    }
}

/// The tags of which only the first is used, in the order of preference.
const FIRST_TAGS: [fn(&[String]) -> bool; 10] = [
    |tag| is_named(tag, "expiration"),
    |tag| is_named(tag, "description"),
    |tag| is_named(tag, "bolt11"),
    |tag| is_named(tag, "h"),
    |tag| is_named(tag, "e") && marker(tag) == Some("root"),
    |tag| is_named(tag, "e"),
    |tag| is_named(tag, "e") && marker(tag) != Some("mention"),
    |tag| is_named(tag, "q"),
    |tag| is_named(tag, "title") && tag.len() > 1,
    |tag| is_named(tag, "name") && tag.len() > 1,
];

/// The tags that deliver uses, shortened, in the order of the event.
fn used_tags(event: &Event) -> Vec<Tag> {
    let tags: Vec<&[String]> = event.tags.iter().map(Tag::as_slice).collect();
    let first = |is_used: &fn(&[String]) -> bool| tags.iter().position(|tag| is_used(tag));
    let firsts = FIRST_TAGS.iter().filter_map(first);
    let may_be_muted = |tag: &[String]| ["e", "E", "t"].iter().any(|name| is_named(tag, name));
    let others = (0..tags.len()).filter(|n| may_be_muted(tags[*n]));
    let mut kept = BTreeMap::new();
    let mut room = MAX_DELIVERED_TAGS - RECIPIENT_TAG_BYTES;
    for n in firsts.chain(others) {
        if kept.contains_key(&n) {
            continue;
        }
        if let Some(tag) = shorten(event, tags[n])
            && let Some(left) = room.checked_sub(json_bytes(&tag))
        {
            room = left;
            kept.insert(n, tag);
        }
    }
    let kept = kept.into_values();
    kept.filter_map(|tag| Tag::parse(tag).ok()).collect()
}

/// The parts of a tag that deliver uses: name, value and marker. `None` if it uses none.
fn shorten(event: &Event, tag: &[String]) -> Option<Vec<String>> {
    let name = tag.first()?;
    let max = match name.as_str() {
        "expiration" => 32,
        "description" => {
            let is_receipt = event.kind.as_u16() == zap::RECEIPT_KIND;
            let request = tag.get(1).filter(|_| is_receipt)?;
            return Some(vec![name.clone(), shorten_zap_request(request)?]);
        }
        "title" | "name" => 1_024,
        _ => 512,
    };
    let short = |(n, part): (usize, &String)| match n {
        1 => cut(part, max).to_owned(),
        // The hint of a relay.
        2 => String::new(),
        _ => cut(part, 16).to_owned(),
    };
    Some(tag.iter().take(4).enumerate().map(short).collect())
}

/// A zap request without what deliver does not use. `None` if it is not an event.
fn shorten_zap_request(json: &str) -> Option<String> {
    if json.len() <= MAX_ZAP_REQUEST_BYTES {
        return Some(json.to_owned());
    }
    let mut request: Event = serde_json::from_str(json).ok()?;
    let anonymous = first_tag_value(&request, "anon").map(|_| Tag::parse(["anon"]));
    request.tags = Tags::from_list(anonymous.into_iter().flatten().collect());
    request.content = cut(&request.content, MAX_ZAP_COMMENT_BYTES).to_owned();
    serde_json::to_string(&request).ok()
}

fn is_named(tag: &[String], name: &str) -> bool {
    tag.first().is_some_and(|first| first == name)
}

/// The marker of an `e` tag (NIP-10, <https://github.com/nostr-protocol/nips/blob/master/10.md>).
fn marker(tag: &[String]) -> Option<&str> {
    tag.get(3).map(String::as_str)
}

/// The bytes of a tag as JSON, with a comma.
fn json_bytes(tag: &[String]) -> usize {
    serde_json::to_string(tag).map_or(0, |json| json.len() + 1)
}

/// At most `max` bytes of the text.
fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
