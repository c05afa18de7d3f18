//! Which relays are asked for a profile.

use nostr_push_core::{
    profile::{ProfileKey, ProfileRequest},
    relay_url::RelayUrl,
};

use crate::address::owners_relay;

/// The relays that may be asked.
#[derive(Debug, Clone)]
pub struct ProfileSources {
    /// The operator's relays, in normal form.
    operators: Vec<String>,
    /// See [`Options::allow_private`](crate::Options::allow_private).
    allow_private: bool,
}

/// A relay to ask.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    /// The URL in normal form.
    pub(super) url: String,
    /// `true` if only public addresses may be connected to.
    pub(super) only_public: bool,
}

impl ProfileSources {
    /// The operator's relays, and any other to which the listener may connect.
    pub fn new(operators: &[String], allow_private: bool) -> Self {
        let operators = operators.iter().filter_map(|url| RelayUrl::parse(url));
        Self {
            operators: operators.map(String::from).collect(),
            allow_private,
        }
    }

    /// The relays to ask: for a person the one that sent the event and then the operator's, and for
    /// a group only its own. Without an allowed one, the list is empty.
    pub(super) fn of(&self, request: &ProfileRequest) -> Vec<Source> {
        match &request.key {
            ProfileKey::Group { relay, .. } => self.source(relay).into_iter().collect(),
            ProfileKey::Person(_) => {
                let operators = self.operators.iter().map(|url| Source {
                    url: url.clone(),
                    only_public: false,
                });
                self.source(&request.relay)
                    .into_iter()
                    .chain(operators)
                    .collect()
            }
        }
    }

    /// The relay, if it is the operator's or the listener may connect to it for an owner.
    fn source(&self, relay: &str) -> Option<Source> {
        let url = String::from(RelayUrl::parse(relay)?);
        if self.operators.contains(&url) {
            return Some(Source {
                url,
                only_public: false,
            });
        }
        let url = owners_relay(&url, self.allow_private)?;
        Some(Source {
            url: String::from(url),
            only_public: !self.allow_private,
        })
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;

    use super::*;

    fn sources(relay: &str, is_group: bool) -> Vec<(String, bool)> {
        let operators = ["wss://One.example/", "ws://10.0.0.1"].map(str::to_owned);
        let key = if is_group {
            ProfileKey::Group {
                relay: relay.to_owned(),
                id: "g".to_owned(),
            }
        } else {
            ProfileKey::Person(Keys::generate().public_key())
        };
        let request = ProfileRequest {
            key,
            relay: relay.to_owned(),
        };
        let sources = ProfileSources::new(&operators, false).of(&request);
        let source = |source: Source| (source.url, source.only_public);
        sources.into_iter().map(source).collect()
    }

    #[test]
    fn relay_of_the_event_comes_before_the_operators() {
        let one = ("wss://one.example".to_owned(), false);
        let local = ("ws://10.0.0.1".to_owned(), false);
        let other = ("wss://other.example".to_owned(), true);
        assert_eq!(
            sources("wss://other.example", false),
            [other.clone(), one.clone(), local.clone()]
        );
        assert_eq!(
            sources("ws://10.0.0.1", false),
            [local.clone(), one.clone(), local.clone()]
        );
        assert_eq!(sources("wss://other.example", true), [other]);
        assert_eq!(
            sources("wss://one.example", true),
            std::slice::from_ref(&one)
        );
        for local_address in [
            "wss://127.0.0.1",
            "ws://other.example",
            "wss://[::1]",
            "nonsense",
        ] {
            assert_eq!(sources(local_address, true), [], "{local_address}");
            assert_eq!(sources(local_address, false), [one.clone(), local.clone()]);
        }
    }
}
