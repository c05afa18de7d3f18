//! Who takes part in the event of a push.

use nostr::{event::Event, key::PublicKey};
use nostr_push_core::{
    is_private_kind,
    message::Delivery,
    profile::{MAX_GROUP_ID_BYTES, ProfileKey},
    relay_url::RelayUrl,
    tags::{first_tag_value, tag_values},
    zap,
};

use crate::tags::tags_named;

/// The kind of messages in MLS groups. A new key signs each of them
/// (<https://github.com/nostr-protocol/nips/blob/master/EE.md>).
const MLS_GROUP_KIND: u16 = 445;

/// The kinds of messages in groups of NIP-29
/// (<https://github.com/nostr-protocol/nips/blob/master/29.md>).
const GROUP_KINDS: [u16; 2] = [9, 11];

/// The people and the group of an event. Events of private kinds have none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roles {
    /// Who acted: the author, or the person who signed a zap.
    pub actor: Option<PublicKey>,
    /// The author of the event that a note, a reaction or a zap is about, if its tags say so.
    pub target: Option<PublicKey>,
    /// The group in which a message was written.
    pub group: Option<ProfileKey>,
}

impl Roles {
    /// The roles in the event of this delivery.
    pub fn of(delivery: &Delivery) -> Self {
        let event = &delivery.event;
        let kind = event.kind.as_u16();
        if is_private_kind(kind) {
            return Self::default();
        }
        let actor = match kind {
            MLS_GROUP_KIND => None,
            zap::RECEIPT_KIND => delivery.zapper,
            _ => Some(event.pubkey),
        };
        Self {
            actor,
            target: target(delivery),
            group: group(delivery),
        }
    }

    /// The profiles that the text can show to this recipient.
    pub fn profile_keys(&self, recipient: PublicKey) -> Vec<ProfileKey> {
        let target = self
            .target
            .filter(|target| *target != recipient && Some(*target) != self.actor);
        let people = self.actor.into_iter().chain(target);
        people
            .map(ProfileKey::Person)
            .chain(self.group.clone())
            .collect()
    }
}

/// The author of the event that this event is about. Tags can be cut, and are then not all there.
fn target(delivery: &Delivery) -> Option<PublicKey> {
    if delivery.mentions.is_some() {
        return None;
    }
    let event = &delivery.event;
    let pubkey = match event.kind.as_u16() {
        1 => parent_author(event).or_else(|| quoted_author(event)),
        // NIP-18: the `p` tag names the author of the reposted event
        // (<https://github.com/nostr-protocol/nips/blob/master/18.md>).
        6 | 16 | zap::RECEIPT_KIND => only_mention(event),
        // NIP-25: the last `p` tag names the author of the event
        // (<https://github.com/nostr-protocol/nips/blob/master/25.md>).
        7 => tag_values(event, "p").last(),
        _ => None,
    };
    PublicKey::from_hex(pubkey?).ok()
}

/// The author of the note to which a note replies: the fifth value of its `e` tag with the marker
/// `reply`, or `root` in a reply to the first note
/// (NIP-10, <https://github.com/nostr-protocol/nips/blob/master/10.md>). If the tag does not say
/// so, it can be nobody but the only person whom the reply mentions.
fn parent_author(event: &Event) -> Option<&str> {
    let marked = |marker: &str| {
        tags_named(event, "e").find(|tag| tag.get(3).is_some_and(|value| value == marker))
    };
    let parent = marked("reply").or_else(|| marked("root"));
    match parent.and_then(|tag| tag.get(4)) {
        Some(author) => Some(author),
        None if tags_named(event, "e").next().is_some() => only_mention(event),
        None => None,
    }
}

/// The author of the note that a note quotes (NIP-18): the fourth value of its `q` tag.
fn quoted_author(event: &Event) -> Option<&str> {
    let author = tags_named(event, "q").next()?.get(3)?;
    Some(author)
}

/// The only person whom the event mentions.
fn only_mention(event: &Event) -> Option<&str> {
    let mut mentions = tag_values(event, "p");
    let first = mentions.next()?;
    mentions.all(|other| other == first).then_some(first)
}

/// The group of a message. Only its relay knows the group's name.
fn group(delivery: &Delivery) -> Option<ProfileKey> {
    let event = &delivery.event;
    if !GROUP_KINDS.contains(&event.kind.as_u16()) {
        return None;
    }
    let id = first_tag_value(event, "h")?;
    let is_valid = (1..=MAX_GROUP_ID_BYTES).contains(&id.len()) && !id.contains(char::is_control);
    let relay = RelayUrl::parse(&delivery.relay).filter(|_| is_valid)?;
    Some(ProfileKey::Group {
        relay: String::from(relay),
        id: id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::event;

    use super::*;
    use crate::tests;

    /// The kind and tags of an event, and its target.
    type Case<'a> = (u16, &'a [&'a [&'a str]], Option<PublicKey>);

    fn roles(kind: u16, tags: &[&[&str]]) -> Roles {
        Roles::of(&tests::delivery(event(
            &Keys::generate(),
            kind,
            1,
            tags,
            "",
        )))
    }

    #[test]
    fn target_is_the_author_that_the_tags_name() {
        let (a, b) = (Keys::generate().public_key(), Keys::generate().public_key());
        let (alice, bob) = (a.to_hex(), b.to_hex());
        let id = "ab".repeat(32);
        let (pa, pb): (&[&str], &[&str]) = (&["p", &alice], &["p", &bob]);
        let reply: &[&str] = &["e", &id, "", "reply", &bob];
        let root: &[&str] = &["e", &id, "", "root", &alice];
        let cases: [Case<'_>; 14] = [
            (1, &[pa, pb, root, reply], Some(b)),
            (1, &[pa, pb, root], Some(a)),
            (1, &[pa, pb, &["e", &id]], None),
            (1, &[pa, &["e", &id]], Some(a)),
            (1, &[pa], None),
            (1, &[pa, pb, &["q", &id, "", &bob]], Some(b)),
            (1, &[pa, &["q", &id]], None),
            (7, &[pa, pb], Some(b)),
            (7, &[], None),
            (6, &[pa], Some(a)),
            (6, &[pa, pb], None),
            (9735, &[pa], Some(a)),
            (9735, &[&["p", "nobody"]], None),
            (30023, &[pa], None),
        ];
        for (kind, tags, target) in cases {
            assert_eq!(roles(kind, tags).target, target, "{kind} {tags:?}");
        }
    }

    #[test]
    fn private_kinds_and_mls_groups_have_no_actor() {
        for kind in nostr_push_core::PRIVATE_KINDS {
            assert_eq!(roles(kind, &[&["p", &"ab".repeat(32)]]), Roles::default());
        }
        assert_eq!(roles(445, &[&["h", "g"]]), Roles::default());
    }

    #[test]
    fn only_messages_of_groups_have_a_group() {
        let group = ProfileKey::Group {
            relay: "wss://relay.example".to_owned(),
            id: "g".to_owned(),
        };
        assert_eq!(roles(9, &[&["h", "g"]]).group, Some(group));
        assert_eq!(roles(1, &[&["h", "g"]]).group, None);
        for id in ["", "a\u{7}b", &"x".repeat(65)] {
            assert_eq!(roles(9, &[&["h", id]]).group, None, "{id:?}");
        }
    }
}
