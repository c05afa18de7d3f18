//! The keys of the service. The current key is its identity. During a rotation the previous key is
//! accepted as well, until a time that the operator sets.

use std::fmt;

use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use serde::{Deserialize, Serialize};

use crate::{
    Seconds, hex,
    tags::tag_values,
    token_hasher::{TokenHasher, token_key},
};

/// The keys of the service.
#[derive(Clone)]
pub struct ServiceKeys {
    current: Keys,
    previous: Option<PreviousKey>,
    /// The key under which tokens are hashed. It survives a rotation, so that a device stays one
    /// device.
    token_key: [u8; 32],
}

#[derive(Clone)]
struct PreviousKey {
    keys: Keys,
    until: Seconds,
}

/// Why an event is not for one of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAddressed {
    /// No `p` tag contains a pubkey.
    Nobody,
    /// A `p` tag contains the previous pubkey, which is no longer accepted.
    OldKey,
    /// A `p` tag contains another pubkey. It can be a newer one of the service.
    UnknownKey,
}

/// The text of the secret has none of the forms of [`ServiceKeys::parse`]. The error does not
/// contain the text.
#[derive(Debug, thiserror::Error)]
#[error("the secret is neither 64 hex characters nor an nsec, nor the JSON of a rotated key")]
pub struct BadServiceKeys;

/// The JSON of a rotated key. Keys are 64 hex characters, times are seconds.
#[derive(Serialize, Deserialize)]
struct RotatedKey {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_until: Option<Seconds>,
    token_key: String,
}

impl ServiceKeys {
    /// Reads the text of the secret. Its forms are:
    ///
    /// - 64 hex characters or an `nsec`
    ///   (NIP-19, <https://github.com/nostr-protocol/nips/blob/master/19.md>): a key that was never
    ///   rotated. The key that hashes tokens is derived from it
    /// - a JSON object with `key`, `token_key`, and perhaps `previous` and `previous_until`
    ///
    /// # Errors
    /// The text has another form.
    pub fn parse(text: &str) -> Result<Self, BadServiceKeys> {
        let text = text.trim();
        let keys = |text: &str| Keys::parse(text).map_err(|_| BadServiceKeys);
        if !text.starts_with('{') {
            return keys(text).map(Self::from);
        }
        let rotated: RotatedKey = serde_json::from_str(text).map_err(|_| BadServiceKeys)?;
        let previous = match (rotated.previous, rotated.previous_until) {
            (Some(previous), Some(until)) => Some(PreviousKey {
                keys: keys(&previous)?,
                until,
            }),
            (None, None) => None,
            _ => return Err(BadServiceKeys),
        };
        Ok(Self {
            current: keys(&rotated.key)?,
            previous,
            token_key: hex::decode_32(&rotated.token_key).ok_or(BadServiceKeys)?,
        })
    }

    /// The text of the secret, which [`ServiceKeys::parse`] reads. It contains the secret keys.
    pub fn to_secret_text(&self) -> String {
        let secret = |keys: &Keys| keys.secret_key().to_secret_hex();
        let rotated = RotatedKey {
            key: secret(&self.current),
            previous: self
                .previous
                .as_ref()
                .map(|previous| secret(&previous.keys)),
            previous_until: self.previous.as_ref().map(|previous| previous.until),
            token_key: hex::encode(&self.token_key),
        };
        // A struct of strings and numbers can always be encoded.
        serde_json::to_string(&rotated).unwrap_or_default()
    }

    /// The keys with `new` as the current one. The key that was current is accepted until `until`;
    /// `None` means that it ends at once. An earlier one ends at once in any case.
    #[must_use]
    pub fn rotated(&self, new: Keys, until: Option<Seconds>) -> Self {
        Self {
            current: new,
            previous: until.map(|until| PreviousKey {
                keys: self.current.clone(),
                until,
            }),
            token_key: self.token_key,
        }
    }

    /// The current key. It signs what the service publishes.
    pub fn current(&self) -> &Keys {
        &self.current
    }

    /// The previous pubkey and the time until which it is accepted, whether or not it has passed.
    pub fn previous(&self) -> Option<(PublicKey, Seconds)> {
        let previous = self.previous.as_ref()?;
        Some((previous.keys.public_key(), previous.until))
    }

    /// The pubkeys, without the secret keys.
    pub fn pubkeys(&self) -> ServicePubkeys {
        let previous = self.previous();
        ServicePubkeys {
            current: self.current.public_key().to_hex(),
            previous: previous.map(|(pubkey, until)| (pubkey.to_hex(), until)),
        }
    }

    /// The keys that can decrypt an event which the listener received at `received_at`: one, or
    /// both if it is addressed to both.
    ///
    /// # Errors
    /// The event is not for a key that is accepted at that time.
    pub fn addressed_by(
        &self,
        event: &Event,
        received_at: Seconds,
    ) -> Result<Vec<&Keys>, NotAddressed> {
        let pubkeys = self.pubkeys();
        let mut keys = Vec::new();
        if names(event, &pubkeys.current) {
            keys.push(&self.current);
        }
        let previous = self.previous.as_ref();
        let previous = previous.filter(|key| names(event, &key.keys.public_key().to_hex()));
        if let Some(previous) = previous.filter(|key| received_at <= key.until) {
            keys.push(&previous.keys);
        }
        if !keys.is_empty() {
            Ok(keys)
        } else if previous.is_some() {
            Err(NotAddressed::OldKey)
        } else if tag_values(event, "p").any(|value| hex::decode_32(value).is_some()) {
            Err(NotAddressed::UnknownKey)
        } else {
            Err(NotAddressed::Nobody)
        }
    }

    /// Hashes tokens. A rotation does not change the hashes.
    pub fn token_hasher(&self) -> TokenHasher {
        TokenHasher::from_key(&self.token_key)
    }
}

impl From<Keys> for ServiceKeys {
    /// A key that was never rotated.
    fn from(keys: Keys) -> Self {
        Self {
            token_key: token_key(keys.secret_key().as_secret_bytes()),
            current: keys,
            previous: None,
        }
    }
}

/// Shows the pubkeys only.
impl fmt::Debug for ServiceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceKeys").field(&self.pubkeys()).finish()
    }
}

/// The pubkeys to which control events are addressed, in hex.
#[derive(Debug, Clone)]
pub struct ServicePubkeys {
    current: String,
    previous: Option<(String, Seconds)>,
}

impl ServicePubkeys {
    /// The pubkeys that are accepted at this time, the current one first.
    pub fn accepted(&self, at: Seconds) -> impl Iterator<Item = &str> {
        let previous = self.previous.as_ref().filter(|(_, until)| at <= *until);
        let previous = previous.map(|(pubkey, _)| pubkey.as_str());
        std::iter::once(self.current.as_str()).chain(previous)
    }

    /// Returns `true` if the event is addressed to a pubkey that is accepted at this time.
    pub fn are_addressed_by(&self, event: &Event, at: Seconds) -> bool {
        self.accepted(at).any(|pubkey| names(event, pubkey))
    }
}

impl From<PublicKey> for ServicePubkeys {
    fn from(pubkey: PublicKey) -> Self {
        Self {
            current: pubkey.to_hex(),
            previous: None,
        }
    }
}

fn names(event: &Event, pubkey: &str) -> bool {
    tag_values(event, "p").any(|value| value == pubkey)
}

#[cfg(test)]
mod tests {
    use nostr::nips::nip19::ToBech32;
    use nostr_push_testkit::event;

    use super::*;

    const UNTIL: Seconds = Seconds(1_000);

    fn secret(keys: &Keys) -> String {
        keys.secret_key().to_secret_hex()
    }

    #[test]
    fn a_key_that_was_never_rotated_is_hex_or_nsec() {
        let keys = Keys::generate();
        let nsec = keys.secret_key().to_bech32().unwrap();
        for text in [secret(&keys), format!(" {}\n", secret(&keys)), nsec] {
            let read = ServiceKeys::parse(&text).unwrap();
            assert_eq!(read.current(), &keys);
            assert_eq!(read.previous(), None);
            let hasher = TokenHasher::new(keys.secret_key().as_secret_bytes());
            let expected = hasher.device("demo", "token");
            assert_eq!(read.token_hasher().device("demo", "token"), expected);
        }
    }

    #[test]
    fn rotated_keys_are_read_as_written_and_hash_tokens_as_before() {
        let [first, second, third] = [(); 3].map(|()| Keys::generate());
        let keys = ServiceKeys::from(first.clone());
        let device = keys.token_hasher().device("demo", "token");

        let once = keys.rotated(second.clone(), Some(UNTIL));
        let once = ServiceKeys::parse(&once.to_secret_text()).unwrap();
        assert_eq!(once.current(), &second);
        assert_eq!(once.previous(), Some((first.public_key(), UNTIL)));
        assert_eq!(once.token_hasher().device("demo", "token"), device);
        assert!(!format!("{once:?}").contains(&secret(&second)));

        let twice = once.rotated(third.clone(), None);
        let text = twice.to_secret_text();
        assert!(!text.contains(&secret(&first)) && !text.contains(&secret(&second)));
        let twice = ServiceKeys::parse(&text).unwrap();
        assert_eq!((twice.current(), twice.previous()), (&third, None));
        assert_eq!(twice.token_hasher().device("demo", "token"), device);
    }

    #[test]
    fn bad_secrets_are_refused_without_showing_them() {
        let key = secret(&Keys::generate());
        for text in [
            "hunter2".to_owned(),
            "{}".to_owned(),
            format!(r#"{{"key":"{key}"}}"#),
            format!(r#"{{"key":"hunter2","token_key":"{key}"}}"#),
            format!(r#"{{"key":"{key}","token_key":"hunter2"}}"#),
            format!(r#"{{"key":"{key}","previous":"{key}","token_key":"{key}"}}"#),
        ] {
            let error = ServiceKeys::parse(&text).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains(&key));
        }
    }

    #[test]
    fn the_previous_key_is_accepted_until_its_end() {
        let [old, new, other, author] = [(); 4].map(|()| Keys::generate());
        let keys = ServiceKeys::from(old.clone()).rotated(new.clone(), Some(UNTIL));
        let to = |recipients: &[&Keys]| {
            let hex: Vec<String> = recipients.iter().map(|k| k.public_key().to_hex()).collect();
            let tags: Vec<[&str; 2]> = hex.iter().map(|hex| ["p", hex.as_str()]).collect();
            let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
            event(&author, 3079, 1, &tags, "")
        };
        let after = UNTIL + Seconds(1);
        for (recipients, at, expected) in [
            (&[&new][..], after, Ok(vec![&new])),
            (&[&old], UNTIL, Ok(vec![&old])),
            (&[&old], after, Err(NotAddressed::OldKey)),
            (&[&old, &new], UNTIL, Ok(vec![&new, &old])),
            (&[&old, &new], after, Ok(vec![&new])),
            (&[&other], UNTIL, Err(NotAddressed::UnknownKey)),
            (&[&other, &old], after, Err(NotAddressed::OldKey)),
            (&[], UNTIL, Err(NotAddressed::Nobody)),
        ] {
            let event = to(recipients);
            assert_eq!(keys.addressed_by(&event, at), expected);
            let is_addressed = keys.pubkeys().are_addressed_by(&event, at);
            assert_eq!(is_addressed, expected.is_ok());
        }
    }
}
