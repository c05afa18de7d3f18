//! Push tokens: the rows that hold them, and the rules by which they are registered and removed.
//!
//! The rules are pure: they take the rows as read and say what to write. The store writes only if
//! the rows are still as they were read (their `version`), and otherwise the caller reads and
//! decides again. So two writers racing come to the state that one after the other would have
//! reached, and the rules below are all there is to prove.
//!
//! What they keep: the latest registration of a token decides whose it is; it is in force unless
//! its owner removed that token, or all tokens, later. Whatever order the events arrive in, and
//! however often.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use nostr::key::PublicKey;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{
    Seconds,
    app::Platform,
    filter::hex,
    order::Order,
    owner::Owner,
    ports::{Answer, Devices, Endpoints},
    subscription::REMOVAL_KEPT,
};

/// The most devices of one (owner, app).
pub const MAX_DEVICES: usize = 20;

/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 4 * 1024;

/// How long whoever removes a device has to delete its endpoint before a registration of the same
/// token goes ahead. Longer than a function can run, so nobody deletes an endpoint that somebody
/// has just taken over.
pub const REMOVING_LEASE: Seconds = 120;

/// How many owners' removals a device row remembers. One suffices but for tokens that change hands.
const MAX_REMOVALS: usize = 20;

/// Hashes tokens under a key derived from the service secret, so that a leaked table names no
/// token.
#[derive(Clone)]
pub struct TokenHasher(Hmac<Sha256>);

impl TokenHasher {
    /// Derives the key (HKDF-SHA256) from the service's secret key.
    ///
    /// # Panics
    /// Never: HMAC takes a key of any length.
    pub fn new(service_secret: &[u8]) -> Self {
        let mut key = [0; 32];
        // 32 bytes is far below HKDF's limit of 255 blocks, and HMAC takes a key of any length.
        let filled =
            Hkdf::<Sha256>::new(None, service_secret).expand(b"nostr-push token hash v1", &mut key);
        debug_assert!(filled.is_ok());
        #[expect(clippy::expect_used, reason = "see Panics")]
        Self(Hmac::new_from_slice(&key).expect("any key length"))
    }

    /// The device of this token under this app.
    pub fn device(&self, app: &str, token: &str) -> DeviceId {
        let mut mac = self.0.clone();
        mac.update(token.as_bytes());
        DeviceId {
            app: app.to_owned(),
            token_hash: hex(&mac.finalize().into_bytes()),
        }
    }
}

impl fmt::Debug for TokenHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHasher(redacted)")
    }
}

/// One push token under one app. Written `app#token_hash`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// The app's id.
    pub app: String,
    /// The keyed hash of the token, in hex.
    pub token_hash: String,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.app, self.token_hash)
    }
}

/// What has become of a token's latest registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In force until `valid_until`.
    Active,
    /// Removed by its owner; the SNS endpoint is being deleted until the given time at the latest.
    Removing {
        /// When the lease of whoever deletes the endpoint is over.
        until: Seconds,
    },
    /// Removed by its owner; no endpoint is left.
    Removed,
    /// The platform said the token is dead. Only a newer registration revives it.
    Gone,
}

/// The latest registration of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Who registered it.
    pub owner: Owner,
    /// By which event.
    pub order: Order,
    /// For which platform.
    pub platform: Platform,
    /// Whether by settings of dialect H, and so until the next settings name another.
    #[serde(default)]
    pub by_settings: bool,
    /// When it came into force, by the clock of whoever applied it: what SNS said of the endpoint
    /// before is old news.
    #[serde(default)]
    pub registered_at: Seconds,
    /// Events that mention more people than this are not for this device: settings of dialect H
    /// asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mentions: Option<u16>,
    /// Whose it was before, if another's: what followed from it there must be brought in line.
    #[serde(default)]
    pub taken_from: Option<Owner>,
    /// The SNS endpoint, until it is deleted.
    pub endpoint_arn: Option<String>,
    /// What has become of it.
    pub state: State,
    /// When it ends.
    pub valid_until: Seconds,
}

/// One row of `devices`: one token under one app, whoever it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The token.
    pub id: DeviceId,
    /// The latest registration; `None` when only removals have been seen.
    pub registration: Option<Registration>,
    /// The latest removal of this token by each owner.
    pub removals: BTreeMap<String, Order>,
    /// When DynamoDB may drop the row.
    pub expires_at: Seconds,
    /// Grows by one with each write.
    pub version: u64,
}

impl Device {
    fn new(id: DeviceId) -> Self {
        Self {
            id,
            registration: None,
            removals: BTreeMap::new(),
            expires_at: 0,
            version: 0,
        }
    }

    /// The registration, when it is this owner's and in force now.
    pub fn active_for(&self, owner: &Owner, now: Seconds) -> Option<&Registration> {
        self.registration
            .as_ref()
            .filter(|r| r.owner == *owner && r.state == State::Active && r.valid_until > now)
    }

    fn remember_removal(&mut self, owner: PublicKey, order: Order, now: Seconds) {
        let removal = self.removals.entry(owner.to_hex()).or_insert(order);
        *removal = removal.latest(order);
        if self.removals.len() > MAX_REMOVALS
            && let Some(oldest) = self
                .removals
                .iter()
                .min_by_key(|(_, order)| order.created_at)
                .map(|(owner, _)| owner.clone())
        {
            self.removals.remove(&oldest);
        }
        self.expires_at = self.expires_at.max(now + REMOVAL_KEPT);
    }
}

/// The devices of one owner under one app, and when they were last all removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// Whose it is.
    pub owner: Owner,
    /// Token hashes. Some may have passed to another owner or ended since: the device rows decide.
    pub devices: BTreeSet<String>,
    /// The latest event that removed all of them.
    pub removed_all: Option<Order>,
    /// When DynamoDB may drop the row.
    pub expires_at: Seconds,
    /// Grows by one with each write.
    pub version: u64,
}

impl Roster {
    /// The roster of an owner nobody has heard of.
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            devices: BTreeSet::new(),
            removed_all: None,
            expires_at: 0,
            version: 0,
        }
    }

    /// The devices it names.
    pub fn device_ids(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.devices.iter().map(|hash| DeviceId {
            app: self.owner.app.clone(),
            token_hash: hash.clone(),
        })
    }
}

/// The rows a decision is made on, as read.
#[derive(Debug, Clone)]
pub struct View {
    /// The owner's roster.
    pub roster: Roster,
    /// The rows of the devices in the roster.
    pub devices: Vec<Device>,
}

impl View {
    /// The devices whose latest registration is the owner's, whatever has become of it.
    pub fn of_owner(&self) -> impl Iterator<Item = (&Device, &Registration)> {
        let registrations = self
            .devices
            .iter()
            .filter_map(|device| Some((device, device.registration.as_ref()?)));
        registrations.filter(|(_, registration)| registration.owner == self.roster.owner)
    }

    /// The owner's devices in force now.
    pub fn active(&self, now: Seconds) -> impl Iterator<Item = (&Device, &Registration)> {
        self.devices
            .iter()
            .filter_map(move |device| Some((device, device.active_for(&self.roster.owner, now)?)))
    }
}

/// Reads the owner's devices as they are now. Consistently: a token that has just passed to another
/// owner must not count as this one's.
///
/// # Errors
/// The store failed.
pub async fn view(store: &impl Devices, owner: &Owner) -> Answer<View> {
    let roster = store
        .roster(owner)
        .await?
        .unwrap_or_else(|| Roster::new(owner.clone()));
    let ids: Vec<DeviceId> = roster.device_ids().collect();
    let devices = store.devices(&ids).await?;
    Ok(View { roster, devices })
}

/// A registration, as an event asks for it.
#[derive(Debug, Clone)]
pub struct Register {
    /// Who registers.
    pub owner: Owner,
    /// By which event.
    pub order: Order,
    /// For which platform.
    pub platform: Platform,
    /// See [`Registration::by_settings`].
    pub by_settings: bool,
    /// See [`Registration::max_mentions`].
    pub max_mentions: Option<u16>,
    /// When it shall end.
    pub valid_until: Seconds,
}

/// What comes of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// Nothing to write: this very event has been applied.
    Already,
    /// Nothing to write: a later registration of the token is there.
    Superseded,
    /// The owner has as many devices as allowed.
    OverQuota,
    /// The endpoint of the removed registration is being deleted: try again later.
    Wait,
    /// The token moves to another platform: write this row, delete the endpoint it had there, and
    /// register again.
    Retire(Box<Device>),
    /// Write these rows. The device lacks its endpoint when the registration is in force.
    Write(Box<(Device, Roster)>),
}

/// Decides on a registration of a token, given its row (if any) and what the owner has.
pub fn register(
    event: &Register,
    id: &DeviceId,
    row: Option<&Device>,
    view: &View,
    now: Seconds,
) -> Registered {
    let current = row.and_then(|row| row.registration.as_ref());
    if let Some(current) = current {
        if current.order == event.order {
            return Registered::Already;
        }
        if !event.order.supersedes(&current.order) {
            return Registered::Superseded;
        }
        if matches!(current.state, State::Removing { until } if until > now) {
            return Registered::Wait;
        }
        if current.platform != event.platform
            && let Some(retiring) = row.and_then(|row| retire(row, now))
        {
            return Registered::Retire(Box::new(retiring));
        }
    }
    let mut device = row.cloned().unwrap_or_else(|| Device::new(id.clone()));
    let removal = device.removals.get(&event.owner.pubkey.to_hex());
    let removed = removal
        .into_iter()
        .chain(&view.roster.removed_all)
        .any(|removal| removal.supersedes(&event.order));
    let others = view
        .active(now)
        .filter(|(other, _)| other.id != *id)
        .count();
    if !removed && others >= MAX_DEVICES {
        return Registered::OverQuota;
    }
    let mut roster = view.roster.clone();
    // An endpoint that is left from an earlier registration is deleted on the way, as for any
    // removal.
    let left = current.and_then(|current| current.endpoint_arn.clone());
    device.registration = Some(Registration {
        owner: event.owner.clone(),
        order: event.order,
        platform: event.platform,
        by_settings: event.by_settings,
        registered_at: now,
        max_mentions: event.max_mentions,
        taken_from: current
            .map(|current| current.owner.clone())
            .filter(|owner| *owner != event.owner),
        state: match (removed, &left) {
            (false, _) => State::Active,
            (true, Some(_)) => State::Removing {
                until: now + REMOVING_LEASE,
            },
            (true, None) => State::Removed,
        },
        endpoint_arn: left,
        valid_until: event.valid_until,
    });
    device.expires_at = device
        .expires_at
        .max(event.valid_until)
        .max(now + REMOVAL_KEPT);
    if !removed {
        // Those whose removal is not finished stay: whoever takes it over finds them here.
        let kept = view.of_owner().filter(|(_, r)| {
            r.valid_until > now && matches!(r.state, State::Active | State::Removing { .. })
        });
        roster.devices = kept
            .map(|(device, _)| device.id.token_hash.clone())
            .collect();
        roster.devices.insert(id.token_hash.clone());
        roster.expires_at = roster
            .expires_at
            .max(event.valid_until)
            .max(now + REMOVAL_KEPT);
    }
    Registered::Write(Box::new((device, roster)))
}

/// Decides on the removal of one token by `owner`: the row to write. Only its owner's registration,
/// and only an older one, is removed; the removal is remembered in any case, for the registration
/// that is still on its way.
pub fn remove(
    owner: &Owner,
    order: Order,
    id: &DeviceId,
    row: Option<&Device>,
    now: Seconds,
) -> Option<Device> {
    let mut device = row.cloned().unwrap_or_else(|| Device::new(id.clone()));
    device.remember_removal(owner.pubkey, order, now);
    start_removing(&mut device, owner, order, now);
    // Nothing new to remember and nothing to remove: a repeat.
    (row != Some(&device)).then_some(device)
}

/// Decides on the removal of all of the owner's tokens: the roster to write before the devices are
/// removed one by one with [`remove_in_roster`]. `None` for a repeat.
pub fn remove_all(order: Order, roster: &Roster, now: Seconds) -> Option<Roster> {
    let removed_all = roster
        .removed_all
        .map_or(order, |earlier| earlier.latest(order));
    (roster.removed_all != Some(removed_all)).then(|| Roster {
        removed_all: Some(removed_all),
        expires_at: roster.expires_at.max(now + REMOVAL_KEPT),
        ..roster.clone()
    })
}

/// The row to write for one device of a roster whose devices were all removed at `order`; `None`
/// when there is nothing to do.
pub fn remove_in_roster(owner: &Owner, order: Order, row: &Device, now: Seconds) -> Option<Device> {
    let mut device = row.clone();
    start_removing(&mut device, owner, order, now);
    (device != *row).then_some(device)
}

fn start_removing(device: &mut Device, owner: &Owner, order: Order, now: Seconds) {
    let Some(current) = device
        .registration
        .as_mut()
        .filter(|r| r.owner == *owner && order.supersedes(&r.order))
    else {
        return;
    };
    current.state = match current.state {
        State::Active | State::Gone => State::Removing {
            until: now + REMOVING_LEASE,
        },
        // Whoever began it died: take it over.
        State::Removing { until } if until <= now => State::Removing {
            until: now + REMOVING_LEASE,
        },
        other => other,
    };
    device.expires_at = device.expires_at.max(now + REMOVAL_KEPT);
}

/// The row of a device whose endpoint is to go, whatever its owner said: it has ended, the platform
/// gave it up, or it moves to another one. `None` when it has no endpoint, or somebody is just
/// deleting it.
pub fn retire(row: &Device, now: Seconds) -> Option<Device> {
    let mut device = row.clone();
    let current = device
        .registration
        .as_mut()
        .filter(|r| r.endpoint_arn.is_some())?;
    if matches!(current.state, State::Removing { until } if until > now) {
        return None;
    }
    current.state = State::Removing {
        until: now + REMOVING_LEASE,
    };
    device.expires_at = device.expires_at.max(now + REMOVAL_KEPT);
    Some(device)
}

/// Writes the row of a device that is being removed, if it is still as it was read, and deletes the
/// endpoint. Answers whether it wrote.
///
/// # Errors
/// The store or SNS failed. The lease that may have been written keeps others away until it is
/// over.
pub async fn remove_endpoint(
    store: &impl Devices,
    sns: &impl Endpoints,
    mut device: Device,
) -> Answer<bool> {
    let written = store.commit(Some(&device), None).await?;
    if written {
        device.version += 1;
        finish_removal(store, sns, device).await?;
    }
    Ok(written)
}

/// Deletes the endpoint of a device that is being removed. For whoever wrote that state, and nobody
/// else.
///
/// # Errors
/// The store or SNS failed.
pub async fn finish_removal(
    store: &impl Devices,
    sns: &impl Endpoints,
    device: Device,
) -> Answer<()> {
    let Some(registration) = device
        .registration
        .as_ref()
        .filter(|r| matches!(r.state, State::Removing { .. }))
    else {
        return Ok(());
    };
    if let Some(arn) = &registration.endpoint_arn {
        sns.delete(arn).await?;
    }
    // If the row has changed, somebody newer has taken it over, and it is theirs to keep right.
    store
        .commit(Some(&finish_removing(&device)), None)
        .await
        .map(drop)
}

/// The row after its endpoint has been deleted.
fn finish_removing(row: &Device) -> Device {
    let mut device = row.clone();
    if let Some(registration) = &mut device.registration {
        registration.state = State::Removed;
        registration.endpoint_arn = None;
    }
    device
}

/// The row after the platform said that the token is dead. Meant for the row as it was when it was
/// published to: the store's version check keeps a newer registration out of it.
pub fn gone(row: &Device) -> Device {
    let mut device = row.clone();
    if let Some(registration) = &mut device.registration {
        registration.state = State::Gone;
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_the_key_and_the_token_and_hides_the_token() {
        let hasher = TokenHasher::new(b"secret");
        let device = hasher.device("demo", "token");
        assert_eq!(device, TokenHasher::new(b"secret").device("demo", "token"));
        assert_ne!(
            device.token_hash,
            TokenHasher::new(b"other")
                .device("demo", "token")
                .token_hash
        );
        assert_ne!(
            device.token_hash,
            hasher.device("demo", "token2").token_hash
        );
        assert_eq!(device.token_hash.len(), 64);
        assert_eq!(format!("{hasher:?}"), "TokenHasher(redacted)");
    }
}
