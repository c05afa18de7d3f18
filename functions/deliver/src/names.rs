//! The names and pictures that a push shows.
//!
//! A push makes one read and waits half a second for it at most. Without a stored name the text is
//! the one without names.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nostr::key::PublicKey;
use nostr_push_core::{
    Seconds,
    message::Delivery,
    ports::Profiles,
    profile::{Profile, ProfileKey},
};
use tokio::time::timeout;

use crate::{
    lookalike::{is_lookalike, looks_like_quote},
    roles::Roles,
};

/// How long a push waits for names.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// The roles in an event, and the stored profiles of those who have them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Who takes part in the event.
    pub roles: Roles,
    /// The profiles that were read. `None`: there is no row.
    profiles: BTreeMap<ProfileKey, Option<Profile>>,
    /// Those whose name is not shown, because it could pass for something else.
    lookalikes: BTreeSet<ProfileKey>,
}

impl Names {
    /// The roles in a delivery's event, with these profiles.
    #[cfg(test)]
    pub fn of(delivery: &Delivery, profiles: BTreeMap<ProfileKey, Profile>) -> Self {
        let profiles = profiles
            .into_iter()
            .map(|(key, profile)| (key, Some(profile)));
        Self::new(Roles::of(delivery), profiles.collect())
    }

    fn new(roles: Roles, profiles: BTreeMap<ProfileKey, Option<Profile>>) -> Self {
        let is_hidden = |key: &ProfileKey, name: &str| {
            is_lookalike(name) || (matches!(key, ProfileKey::Person(_)) && looks_like_quote(name))
        };
        let hidden = profiles.iter().filter(|(key, profile)| {
            let name = profile.as_ref().and_then(|profile| profile.name.as_deref());
            name.is_some_and(|name| is_hidden(key, name))
        });
        Self {
            roles,
            lookalikes: hidden.map(|(key, _)| key.clone()).collect(),
            profiles,
        }
    }

    /// Reads the profiles for a delivery. A failure is only logged: the push shows no names.
    pub async fn read(store: &impl Profiles, delivery: &Delivery) -> Self {
        let roles = Roles::of(delivery);
        let keys = roles.profile_keys(delivery.recipient);
        if keys.is_empty() {
            return Self::new(roles, BTreeMap::new());
        }
        let profiles = match timeout(READ_TIMEOUT, store.profiles(&keys)).await {
            Ok(Ok(profiles)) => profiles,
            Ok(Err(error)) => {
                tracing::warn!(
                    stage = "deliver",
                    dependency = error.dependency,
                    "a push shows no names: {error}"
                );
                BTreeMap::new()
            }
            Err(_) => {
                tracing::warn!(stage = "deliver", "a push shows no names: timeout");
                BTreeMap::new()
            }
        };
        Self::new(roles, profiles)
    }

    /// The name of the person who acted.
    pub fn actor(&self) -> Option<&str> {
        self.person(&self.roles.actor?)
    }

    /// The picture of the person who acted, if that person's name is shown.
    pub fn actor_picture(&self) -> Option<&str> {
        let pubkey = self.roles.actor.filter(|_| self.actor().is_some())?;
        let profile = self.profiles.get(&ProfileKey::Person(pubkey))?.as_ref();
        profile?.picture.as_deref()
    }

    /// The name of a person.
    pub fn person(&self, pubkey: &PublicKey) -> Option<&str> {
        self.name(&ProfileKey::Person(*pubkey))
    }

    /// The name of the group.
    pub fn group(&self) -> Option<&str> {
        self.name(self.roles.group.as_ref()?)
    }

    fn name(&self, key: &ProfileKey) -> Option<&str> {
        if self.lookalikes.contains(key) {
            return None;
        }
        self.profiles.get(key)?.as_ref()?.name.as_deref()
    }

    /// The profiles that must be requested, and whether each has a name already. One that could not
    /// be read is not among them.
    pub fn due(&self, now: Seconds) -> impl Iterator<Item = (&ProfileKey, bool)> {
        let due = self
            .profiles
            .iter()
            .filter(move |(_, profile)| Profile::is_due(profile.as_ref(), now));
        due.map(|(key, profile)| {
            let has_name = profile
                .as_ref()
                .is_some_and(|profile| profile.name.is_some());
            (key, has_name)
        })
    }
}
