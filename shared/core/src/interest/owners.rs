//! The owners with a device. The listener knows them by their derived subscriptions to the own mute
//! list, which every owner with a device has.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::{
    index_key::IndexKey,
    owner::OwnerClass,
    subscription::{MUTE_LIST_PREFIX, Subscription},
};

/// The owners with a device. An owner takes about 50 bytes.
#[derive(Debug, Default)]
pub(super) struct KnownOwners {
    apps: HashMap<[u8; 32], Apps, RandomState>,
    /// The number of (owner, app) pairs.
    owners: u64,
    /// How many of them are proven.
    proven: u64,
}

/// The numbers of apps under which a pubkey has a device.
#[derive(Debug, Clone, Copy, Default)]
struct Apps {
    known: u32,
    proven: u32,
}

/// Returns `true` if the row is the derived subscription by which its owner is known.
pub(super) fn makes_known(row: &Subscription, keys: &[IndexKey]) -> bool {
    row.identity.starts_with(MUTE_LIST_PREFIX)
        && matches!(keys, [IndexKey::MuteList(pubkey)] if pubkey == row.owner.pubkey.as_bytes())
}

impl KnownOwners {
    /// The pubkey is known under one more app.
    pub(super) fn add(&mut self, pubkey: [u8; 32], proven: bool) {
        let apps = self.apps.entry(pubkey).or_default();
        apps.known += 1;
        apps.proven += u32::from(proven);
        self.owners += 1;
        self.proven += u64::from(proven);
    }

    /// The pubkey, which was added with this `proven`, is known under one app less.
    pub(super) fn remove(&mut self, pubkey: &[u8; 32], proven: bool) {
        let Some(apps) = self.apps.get_mut(pubkey) else {
            return;
        };
        apps.known -= 1;
        apps.proven -= u32::from(proven);
        self.owners -= 1;
        self.proven -= u64::from(proven);
        if apps.known == 0 {
            self.apps.remove(pubkey);
        }
    }

    pub(super) fn class(&self, pubkey: &[u8; 32]) -> OwnerClass {
        match self.apps.get(pubkey) {
            None => OwnerClass::Stranger,
            Some(apps) if apps.proven == 0 => OwnerClass::Known,
            Some(_) => OwnerClass::Proven,
        }
    }

    pub(super) fn owners(&self) -> u64 {
        self.owners
    }

    pub(super) fn proven(&self) -> u64 {
        self.proven
    }
}
