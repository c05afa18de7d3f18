//! The tags of an event, by name
//! (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>).

use std::collections::BTreeSet;

use nostr::event::{Event, Tag};

use crate::Seconds;

/// The first value of each tag of this name. A tag without a value has the value `""`.
pub fn tag_values<'a>(event: &'a Event, name: &'a str) -> impl Iterator<Item = &'a str> {
    let tags = event.tags.iter().map(Tag::as_slice);
    tags.filter(move |tag| tag.first().is_some_and(|first| first == name))
        .map(|tag| tag.get(1).map_or("", String::as_str))
}

/// The first value of the first tag of this name. See [`tag_values`].
pub fn first_tag_value<'a>(event: &'a Event, name: &'a str) -> Option<&'a str> {
    tag_values(event, name).next()
}

/// The people that the event mentions: the distinct values of its `p` tags. A tag without a value
/// mentions nobody.
pub fn mentioned(event: &Event) -> BTreeSet<&str> {
    let tags = event.tags.iter().map(Tag::as_slice);
    let values = tags.filter_map(|tag| match tag {
        [name, value, ..] if name == "p" => Some(value.as_str()),
        _ => None,
    });
    values.collect()
}

/// When the event expires (NIP-40, <https://github.com/nostr-protocol/nips/blob/master/40.md>).
/// `None` if there is no `expiration` tag, or the first one is not a Unix time.
pub fn expiration(event: &Event) -> Option<Seconds> {
    event.tags.expiration().map(Seconds::from)
}

/// Returns `true` if the event has expired at `now`.
pub fn is_expired(event: &Event, now: Seconds) -> bool {
    expiration(event).is_some_and(|at| at <= now)
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::event;

    use super::*;

    fn tagged(tags: &[&[&str]]) -> Event {
        event(&Keys::generate(), 1, 0, tags, "")
    }

    #[test]
    fn finds_first_value_of_each_tag_of_the_name() {
        let event = tagged(&[&["t", "a", "x"], &["app"], &["t"], &["t", "b"], &["T", "c"]]);
        assert_eq!(tag_values(&event, "t").collect::<Vec<_>>(), ["a", "", "b"]);
        assert_eq!(first_tag_value(&event, "t"), Some("a"));
        assert_eq!(first_tag_value(&event, "app"), Some(""));
        assert_eq!(first_tag_value(&event, "p"), None);
    }

    #[test]
    fn mentions_are_distinct_values_of_p_tags() {
        let event = tagged(&[
            &["p", "b"],
            &["p"],
            &["P", "c"],
            &["p", "a", "x"],
            &["p", "b"],
        ]);
        assert_eq!(Vec::from_iter(mentioned(&event)), ["a", "b"]);
        let empty = tagged(&[&["p", ""]]);
        assert_eq!(Vec::from_iter(mentioned(&empty)), [""]);
    }

    #[test]
    fn expires_at_the_time_of_its_first_expiration_tag() {
        let event = tagged(&[&["expiration", "10"], &["expiration", "5"]]);
        assert_eq!(expiration(&event), Some(Seconds(10)));
        assert!(!is_expired(&event, Seconds(9)));
        assert!(is_expired(&event, Seconds(10)));
    }

    #[test]
    fn never_expires_without_a_time() {
        for tags in [
            &[][..],
            &[&["expiration"][..]],
            &[&["expiration", "soon"][..]],
        ] {
            assert!(!is_expired(&tagged(tags), Seconds(u64::MAX)), "{tags:?}");
        }
    }
}
