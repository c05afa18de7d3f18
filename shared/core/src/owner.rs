//! Owners: a pubkey under one app, to whom devices and subscriptions belong.

use std::{fmt, str::FromStr};

use nostr::key::PublicKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A pubkey that registered, and the app under which it did. Written `app#pubkey`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The app's id.
    pub app: String,
    /// The pubkey that signed the control events.
    pub pubkey: PublicKey,
}

/// How far an owner is trusted, which decides what the owner may cost. In the listener a pubkey has
/// the highest class that it has under any app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum OwnerClass {
    /// No active device.
    #[default]
    Stranger,
    /// An active device, but none that is proven.
    Known,
    /// A proven active device.
    Proven,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.app, self.pubkey.to_hex())
    }
}

/// The text is not `app#pubkey`.
#[derive(Debug, thiserror::Error)]
#[error("not an owner: expected app#pubkey")]
pub struct NotAnOwner;

impl FromStr for Owner {
    type Err = NotAnOwner;

    fn from_str(text: &str) -> Result<Self, NotAnOwner> {
        let (app, pubkey) = text.rsplit_once('#').ok_or(NotAnOwner)?;
        let pubkey = PublicKey::from_hex(pubkey).map_err(|_| NotAnOwner)?;
        Ok(Self {
            app: app.to_owned(),
            pubkey,
        })
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
