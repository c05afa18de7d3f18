//! The tags of an event, by name.
//!
//! Unlike [`nostr_push_core::tags`], these are whole tags: a tag without a value differs from one
//! with an empty value.

use nostr::event::{Event, Tag};

/// All tags of this name.
pub fn tags_named<'a>(event: &'a Event, name: &'a str) -> impl Iterator<Item = &'a [String]> {
    let tags = event.tags.iter().map(Tag::as_slice);
    tags.filter(move |tag| tag.first().is_some_and(|first| first == name))
}
