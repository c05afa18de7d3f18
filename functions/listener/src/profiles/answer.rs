//! The profiles in what a relay sends. The relay is not trusted: only events count that were asked
//! for and that verify.

use std::collections::{BTreeMap, BTreeSet};

use nostr::{event::Event, key::PublicKey};
use nostr_push_core::{
    Seconds,
    order::Order,
    profile::{ProfileKey, ProfileUpdate, clean_name, picture_url},
    tags::first_tag_value,
};

use crate::json_object::JsonObject;

/// The kind of people's profiles
/// (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>).
pub(super) const PERSON_KIND: u16 = 0;

/// The kind of groups' profiles
/// (NIP-29, <https://github.com/nostr-protocol/nips/blob/master/29.md>).
pub(super) const GROUP_KIND: u16 = 39_000;

/// The largest event that is read, in bytes of JSON.
const MAX_PROFILE_BYTES: usize = 64 * 1024;

/// How far ahead of the clock a profile may be dated. One that is further ahead could not be
/// replaced for long.
const MAX_AHEAD: Seconds = Seconds::from_minutes(15);

/// What a relay has answered so far: the newest profile of each person and group.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    keys: &'a BTreeSet<ProfileKey>,
    /// The URL of the relay, in normal form.
    relay: &'a str,
    /// The pubkey that signs the relay's groups, if the relay names one.
    relay_key: Option<PublicKey>,
    now: Seconds,
    newest: BTreeMap<ProfileKey, ProfileUpdate>,
    /// The profiles for which the answer is complete, whether the relay has them or not.
    complete: BTreeSet<ProfileKey>,
}

impl<'a> Answer<'a> {
    pub(super) fn new(keys: &'a BTreeSet<ProfileKey>, relay: &'a str, now: Seconds) -> Self {
        Self {
            keys,
            relay,
            relay_key: None,
            now,
            newest: BTreeMap::new(),
            complete: BTreeSet::new(),
        }
    }

    /// Sets the pubkey that signs the relay's groups.
    pub(super) fn set_relay_key(&mut self, relay_key: PublicKey) {
        self.relay_key = Some(relay_key);
    }

    /// The pubkey that signs the relay's groups, if it is known.
    pub(super) fn relay_key(&self) -> Option<PublicKey> {
        self.relay_key
    }

    /// Records that the relay has nothing else about these profiles.
    pub(super) fn complete(&mut self, keys: impl IntoIterator<Item = ProfileKey>) {
        self.complete.extend(keys);
    }

    /// Reads one event. An older version costs no check of a signature.
    pub(super) fn read(&mut self, json: &str) {
        if json.len() > MAX_PROFILE_BYTES {
            return;
        }
        let Ok(event) = serde_json::from_str::<Event>(json) else {
            return;
        };
        let Some(key) = self.key_of(&event) else {
            return;
        };
        let order = Order::of(&event);
        let newest = self.newest.get(&key);
        let is_newer = newest.is_none_or(|newest| order.supersedes(&newest.order));
        if !is_newer || order.created_at > self.now + MAX_AHEAD || event.verify().is_err() {
            return;
        }
        let (name, picture) = if event.kind.as_u16() == PERSON_KIND {
            person(&event.content)
        } else {
            let tag = |name| first_tag_value(&event, name).unwrap_or_default();
            (clean_name(tag("name")), picture_url(tag("picture")))
        };
        let update = ProfileUpdate {
            key: key.clone(),
            name,
            picture,
            order,
        };
        self.newest.insert(key, update);
    }

    /// The person or group of whom the event is the profile, if it was asked for.
    fn key_of(&self, event: &Event) -> Option<ProfileKey> {
        let key = match event.kind.as_u16() {
            PERSON_KIND => ProfileKey::Person(event.pubkey),
            GROUP_KIND if Some(event.pubkey) == self.relay_key => ProfileKey::Group {
                relay: self.relay.to_owned(),
                id: first_tag_value(event, "d")?.to_owned(),
            },
            _ => return None,
        };
        self.keys.contains(&key).then_some(key)
    }

    /// Returns `true` if the answer for this profile is complete.
    pub(super) fn is_complete(&self, key: &ProfileKey) -> bool {
        self.complete.contains(key)
    }

    /// Takes the newest profile out of the answer.
    pub(super) fn take(&mut self, key: &ProfileKey) -> Option<ProfileUpdate> {
        self.newest.remove(key)
    }
}

/// The name and the picture in the content of a person's profile. Clients show the display name
/// before the name (NIP-24, <https://github.com/nostr-protocol/nips/blob/master/24.md>).
fn person(content: &str) -> (Option<String>, Option<String>) {
    let content = JsonObject::parse(content.as_bytes());
    let text = |field: &str| content.get::<String>(field);
    let mut names = ["display_name", "displayName", "name"].into_iter();
    let name = names.find_map(|field| clean_name(&text(field)?));
    (name, text("picture").and_then(|url| picture_url(&url)))
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::event;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    const RELAY: &str = "wss://relay.example";

    /// The names that an answer with these events contains.
    fn names(keys: &[ProfileKey], relay_key: Option<PublicKey>, events: &[&Event]) -> Vec<String> {
        let keys: BTreeSet<ProfileKey> = keys.iter().cloned().collect();
        let mut answer = Answer::new(&keys, RELAY, Seconds(NOW));
        answer.relay_key = relay_key;
        for event in events {
            answer.read(&serde_json::to_string(event).unwrap());
        }
        let profiles = keys.iter().filter_map(|key| answer.take(key));
        profiles
            .map(|update| update.name.unwrap_or_default())
            .collect()
    }

    fn profile(keys: &Keys, created_at: u64, name: &str) -> Event {
        event(keys, 0, created_at, &[], &json!({"name": name}).to_string())
    }

    #[test]
    fn newest_verified_profile_of_a_person_counts() {
        let alice = Keys::generate();
        let asked = [ProfileKey::Person(alice.public_key())];
        let (old, new) = (profile(&alice, NOW - 9, "old"), profile(&alice, NOW, "new"));
        for events in [[&old, &new], [&new, &old]] {
            assert_eq!(names(&asked, None, &events), ["new"]);
        }
        let mut forged = profile(&alice, NOW + 1, "forged");
        forged.content = json!({"name": "mallory"}).to_string();
        let ahead = profile(&alice, NOW + 3_600, "ahead");
        let of_somebody_else = profile(&Keys::generate(), NOW + 1, "somebody else");
        let note = event(&alice, 1, NOW + 1, &[], r#"{"name":"note"}"#);
        let events = [&new, &forged, &ahead, &of_somebody_else, &note];
        assert_eq!(names(&asked, None, &events), ["new"]);
    }

    #[test]
    fn name_is_the_first_that_shows() {
        for (content, name) in [
            (json!({"name": "a", "display_name": "b"}), "b"),
            (json!({"name": "a", "display_name": " "}), "a"),
            (json!({"name": "a", "displayName": "c"}), "c"),
            (json!({"name": 1, "display_name": null}), ""),
            (json!([]), ""),
        ] {
            assert_eq!(person(&content.to_string()).0.unwrap_or_default(), name);
        }
        assert_eq!(person("no JSON"), (None, None));
        let picture = "https://example.com/a.png";
        let content = json!({"picture": picture}).to_string();
        assert_eq!(person(&content), (None, Some(picture.to_owned())));
        // Half of an emoji, where a text was cut.
        let content = format!(r#"{{"about": "\ud83d", "name": "a", "picture": "{picture}"}}"#);
        let expected = (Some("a".to_owned()), Some(picture.to_owned()));
        assert_eq!(person(&content), expected);
    }

    #[test]
    fn group_is_signed_by_its_relay() {
        let (relay, mallory) = (Keys::generate(), Keys::generate());
        let asked = [ProfileKey::Group {
            relay: RELAY.to_owned(),
            id: "g".to_owned(),
        }];
        let by =
            |keys: &Keys, id: &str| event(keys, 39_000, NOW, &[&["d", id], &["name", "Rust"]], "");
        let relay_key = Some(relay.public_key());
        assert_eq!(names(&asked, relay_key, &[&by(&relay, "g")]), ["Rust"]);
        assert_eq!(names(&asked, relay_key, &[&by(&relay, "h")]), [""; 0]);
        assert_eq!(names(&asked, relay_key, &[&by(&mallory, "g")]), [""; 0]);
        assert_eq!(names(&asked, None, &[&by(&relay, "g")]), [""; 0]);
    }

    #[test]
    fn large_events_are_ignored() {
        let alice = Keys::generate();
        let asked = [ProfileKey::Person(alice.public_key())];
        let content = json!({"name": "alice", "about": "x".repeat(MAX_PROFILE_BYTES)});
        let large = event(&alice, 0, NOW, &[], &content.to_string());
        assert_eq!(names(&asked, None, &[&large]), [""; 0]);
    }
}
