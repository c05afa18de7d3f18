//! Push tokens: the rows that hold them, and the rules for registering and removing them.
//!
//! The rules are pure. They take the rows as read and return the rows to write. The store writes
//! only if the rows have not changed since (their `version`); otherwise the caller reads and
//! decides again. So two concurrent writers reach the state that they would have reached one after
//! the other, and only the rules below need to be proven.
//!
//! Invariant: the latest registration of a token decides who its owner is. It is in force
//! unless that owner removed the token or all of their tokens, or replaced the settings that
//! registered it, later. The order in which events arrive, and how often, makes no difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
};

use nostr::key::PublicKey;
use serde::{Deserialize, Serialize};

use crate::{
    Seconds,
    app::Platform,
    order::Order,
    owner::{Owner, OwnerClass},
    shape::PayloadOptions,
    subscription::TOMBSTONE_TTL,
};

/// The most devices of one (owner, app).
pub const MAX_DEVICES: usize = 20;

/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4 * 1024;

/// How long a registration of a token waits for a removal that is deleting its endpoint. It is
/// longer than a function can run, so no removal deletes an endpoint that a new registration uses.
pub const REMOVING_LEASE: Seconds = Seconds(120);

/// For how long a renewal still names the previous owner, counted from the registration before it.
/// That owner may not be reconciled yet, because the event that took the token failed and is to be
/// received again.
const TRANSFER_WINDOW: Seconds = Seconds::from_hours(1);

/// The time between the two pushes that prove a device. SNS accepts any text as a token. It learns
/// that a token is dead only when it passes on the first push, and then disables the endpoint
/// (<https://docs.aws.amazon.com/sns/latest/dg/mobile-push-api-error.html>). This takes seconds.
pub const PROVEN_AFTER: Seconds = Seconds::from_minutes(15);

/// The most deletions that a roster remembers in [`Roster::deleted_filters`].
pub const MAX_DELETED_FILTERS: usize = 50;

/// The hex digits of a filter's identity in [`Roster::deleted_filters`].
const DELETED_FILTER_DIGITS: usize = 16;

/// The most owners whose removals a device row remembers. More than one occurs only if a token
/// changes owners.
const MAX_REMOVALS: usize = 20;

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

/// The state of a token's latest registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// In force until `valid_until`.
    Active,
    /// Being removed: a process is deleting the SNS endpoint.
    Removing {
        /// When the lease of that process ends.
        until: Seconds,
    },
    /// Removed. The endpoint is deleted.
    Removed,
    /// The platform has rejected the token. Only a newer registration revives it.
    Gone,
}

/// The latest registration of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The owner who registered the token.
    pub owner: Owner,
    /// The order of the event that registered it.
    pub order: Order,
    /// The platform of the token.
    pub platform: Platform,
    /// `true` if settings of dialect H registered the token. It then lasts until newer settings
    /// name another token.
    #[serde(default)]
    pub by_settings: bool,
    /// When the registration was applied, by the clock of control. Older reports about the endpoint
    /// are ignored.
    #[serde(default)]
    pub registered_at: Seconds,
    /// The most people that an event may mention and still be pushed to this device, if settings of
    /// dialect H asked for a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mentions: Option<u16>,
    /// What the registration asks for about its payloads.
    #[serde(default, skip_serializing_if = "PayloadOptions::is_default")]
    pub payload: PayloadOptions,
    /// When SNS first accepted a push to the token after the registration was applied. It is not
    /// set any more once the device is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_delivered_at: Option<Seconds>,
    /// `true` if the platform is known to accept the token: SNS accepted a push at least
    /// [`PROVEN_AFTER`] after an earlier one, and no registration enabled the endpoint again in
    /// between.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
    /// The previous owner, if the token changed owners by this registration or just before it. That
    /// owner's derived subscriptions must be reconciled.
    #[serde(default)]
    pub taken_from: Option<Owner>,
    /// The SNS endpoint, until it is deleted.
    pub endpoint_arn: Option<String>,
    /// The state of the registration.
    pub state: DeviceState,
    /// When the registration ends.
    pub valid_until: Seconds,
}

/// One row of `devices`: one token under one app. Its owner can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The token.
    pub id: DeviceId,
    /// The latest registration. `None` if only removals have arrived so far.
    pub registration: Option<Registration>,
    /// The latest removal of this token by each owner.
    pub removals: BTreeMap<String, Order>,
    /// When DynamoDB may drop the row.
    pub expires_at: Seconds,
    /// The number of writes so far.
    pub version: u64,
}

impl Device {
    fn new(id: DeviceId) -> Self {
        Self {
            id,
            registration: None,
            removals: BTreeMap::new(),
            expires_at: Seconds(0),
            version: 0,
        }
    }

    /// The registration, if it belongs to this owner and is in force at `now`.
    pub fn active_for(&self, owner: &Owner, now: Seconds) -> Option<&Registration> {
        self.registration
            .as_ref()
            .filter(|r| r.owner == *owner && r.state == DeviceState::Active && r.valid_until > now)
    }

    /// The row after its endpoint has been deleted.
    #[must_use]
    pub fn removed(mut self) -> Self {
        if let Some(registration) = &mut self.registration {
            registration.state = DeviceState::Removed;
            registration.endpoint_arn = None;
        }
        self
    }

    /// The owner who registered the token, and the previous one if it is known.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        let registrations = self.registration.iter();
        registrations.flat_map(|r| iter::once(&r.owner).chain(&r.taken_from))
    }

    /// Returns `true` if the device is removed and has no endpoint any more.
    pub fn is_removed(&self) -> bool {
        let registration = self.registration.as_ref();
        registration.is_some_and(|registration| registration.state == DeviceState::Removed)
    }

    /// The row of a device that is being removed, until this endpoint has been deleted.
    #[must_use]
    pub fn removing(mut self, endpoint_arn: String, now: Seconds) -> Self {
        if let Some(registration) = &mut self.registration {
            registration.endpoint_arn = Some(endpoint_arn);
            registration.state = DeviceState::Removing {
                until: now + REMOVING_LEASE,
            };
            self.expires_at = self.expires_at.max(now + TOMBSTONE_TTL);
        }
        self
    }

    /// The row after the platform has rejected the token. Meant for the row as it was read before
    /// the publish: the store's version check protects a newer registration.
    #[must_use]
    pub fn gone(mut self) -> Self {
        if let Some(registration) = &mut self.registration {
            registration.state = DeviceState::Gone;
        }
        self
    }

    /// The row after SNS accepted a push at `now`, or `None` if it stays as it is. A registration
    /// leads to at most two such writes. Meant for the row as it was read before the publish, as in
    /// [`Self::gone`].
    #[must_use]
    pub fn delivered(&self, now: Seconds) -> Option<Self> {
        let mut device = self.clone();
        let registration = device
            .registration
            .as_mut()
            .filter(|r| r.state == DeviceState::Active && !r.proven)?;
        match registration.first_delivered_at {
            None => registration.first_delivered_at = Some(now),
            Some(first) if first + PROVEN_AFTER <= now => {
                registration.first_delivered_at = None;
                registration.proven = true;
            }
            Some(_) => return None,
        }
        Some(device)
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
        self.expires_at = self.expires_at.max(now + TOMBSTONE_TTL);
    }
}

/// The devices of one owner under one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// The owner.
    pub owner: Owner,
    /// Token hashes. Some of these tokens may have ended or passed to another owner since: the
    /// device rows decide.
    pub devices: BTreeSet<String>,
    /// The order of the latest event that removed all of the owner's devices.
    pub removed_all: Option<Order>,
    /// When the last active device ends. In the past if there is none. The matcher queues nothing
    /// for an owner after this time.
    pub active_until: Seconds,
    /// `true` if an active device is proven ([`Registration::proven`]).
    pub proven: bool,
    /// When the filters last became dormant, because the last device ended.
    pub dormant_at: Option<Seconds>,
    /// The latest deletions of filters that were not stored: the beginning of the identity, and the
    /// order of the deletion. They keep an older upsert that arrives later from taking effect.
    pub deleted_filters: BTreeMap<String, Order>,
    /// When DynamoDB may drop the row.
    pub expires_at: Seconds,
    /// The number of writes so far.
    pub version: u64,
}

impl Roster {
    /// The roster of an owner who has none yet.
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            devices: BTreeSet::new(),
            removed_all: None,
            active_until: Seconds(0),
            proven: false,
            dormant_at: None,
            deleted_filters: BTreeMap::new(),
            expires_at: Seconds(0),
            version: 0,
        }
    }

    /// The latest remembered deletion of the filter with this identity.
    pub fn deletion_of(&self, identity: &str) -> Option<Order> {
        self.deleted_filters.get(deletion_key(identity)).copied()
    }

    /// The roster of an owner whose devices end at `active_until`; `None` if no device is active.
    #[must_use]
    pub fn with_standing(
        mut self,
        active_until: Option<Seconds>,
        proven: bool,
        now: Seconds,
    ) -> Self {
        self.active_until = active_until.unwrap_or(self.active_until.min(now));
        self.expires_at = self.expires_at.max(self.active_until);
        self.proven = proven;
        self
    }

    /// The owner's class at `now`, as it was when the roster was last written.
    pub fn class(&self, now: Seconds) -> OwnerClass {
        match (self.active_until > now, self.proven) {
            (true, true) => OwnerClass::Proven,
            (true, false) => OwnerClass::Known,
            (false, _) => OwnerClass::Stranger,
        }
    }

    /// The devices in the roster.
    pub fn device_ids(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.devices.iter().map(|hash| DeviceId {
            app: self.owner.app.clone(),
            token_hash: hash.clone(),
        })
    }
}

/// The key of a filter in [`Roster::deleted_filters`].
fn deletion_key(identity: &str) -> &str {
    identity.get(..DELETED_FILTER_DIGITS).unwrap_or(identity)
}

/// An owner's roster and devices, as read. Decisions are made on these rows.
#[derive(Debug, Clone)]
pub struct OwnerDevices {
    /// The owner's roster.
    pub roster: Roster,
    /// The rows of the devices in the roster.
    pub devices: Vec<Device>,
}

impl OwnerDevices {
    /// The devices whose latest registration belongs to the owner, in any state.
    pub fn of_owner(&self) -> impl Iterator<Item = (&Device, &Registration)> {
        let registrations = self
            .devices
            .iter()
            .filter_map(|device| Some((device, device.registration.as_ref()?)));
        registrations.filter(|(_, registration)| registration.owner == self.roster.owner)
    }

    /// The owner's devices that are in force at `now`.
    pub fn active(&self, now: Seconds) -> impl Iterator<Item = (&Device, &Registration)> {
        self.devices
            .iter()
            .filter_map(move |device| Some((device, device.active_for(&self.roster.owner, now)?)))
    }

    /// When the last of the devices that are in force at `now` ends.
    pub fn active_until(&self, now: Seconds) -> Option<Seconds> {
        let ends = self.active(now).map(|(_, r)| r.valid_until);
        ends.max()
    }

    /// The versions of the device rows. If they are the same, no device has changed.
    pub fn versions(&self) -> BTreeMap<&DeviceId, u64> {
        let devices = self.devices.iter();
        devices.map(|device| (&device.id, device.version)).collect()
    }

    /// The owner's class at `now`.
    pub fn class(&self, now: Seconds) -> OwnerClass {
        if self.has_proven(now) {
            OwnerClass::Proven
        } else if self.active_until(now).is_some() {
            OwnerClass::Known
        } else {
            OwnerClass::Stranger
        }
    }

    /// Returns `true` if a device that is in force at `now` is proven.
    pub fn has_proven(&self, now: Seconds) -> bool {
        self.active(now)
            .any(|(_, registration)| registration.proven)
    }
}

/// A registration that an event asks for.
#[derive(Debug, Clone)]
pub struct RegistrationRequest {
    /// The device to register.
    pub device: DeviceId,
    /// The owner who registers it.
    pub owner: Owner,
    /// The order of the event.
    pub order: Order,
    /// The platform of the token.
    pub platform: Platform,
    /// See [`Registration::by_settings`].
    pub by_settings: bool,
    /// See [`Registration::max_mentions`].
    pub max_mentions: Option<u16>,
    /// See [`Registration::payload`].
    pub payload: PayloadOptions,
    /// When the registration is to end.
    pub valid_until: Seconds,
    /// `true` if the owner's newer settings have ended this registration before it was applied. It
    /// then only takes the token from an earlier owner.
    pub is_superseded: bool,
}

/// The decision on a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationDecision {
    /// Nothing to write: the same event has been applied before.
    Duplicate,
    /// Nothing to write: a later registration of the token is stored.
    Superseded,
    /// The owner has the maximum number of devices.
    OverQuota,
    /// The endpoint of the removed registration is being deleted: try again later.
    Busy,
    /// The token moves to another platform: write this row, delete the endpoint on the earlier
    /// platform, and decide again.
    Retire(Box<Device>),
    /// Write these rows. If the registration is in force, its endpoint must be created first.
    Commit(Box<(Device, Roster)>),
}

/// Decides on a registration of a token, given the token's row, if there is one, and the owner's
/// devices.
pub fn register(
    request: &RegistrationRequest,
    row: Option<&Device>,
    owned: &OwnerDevices,
    now: Seconds,
) -> RegistrationDecision {
    if let Some(decision) = row.and_then(|row| decide_by_current(request, row, now)) {
        return decision;
    }
    let mut device = row
        .cloned()
        .unwrap_or_else(|| Device::new(request.device.clone()));
    let removal = device.removals.get(&request.owner.pubkey.to_hex());
    let mut removals = removal.into_iter().chain(&owned.roster.removed_all);
    let removed =
        request.is_superseded || removals.any(|removal| removal.supersedes(&request.order));
    let mut active: Vec<&Registration> = owned
        .active(now)
        .filter(|(other, _)| other.id != request.device)
        .map(|(_, registration)| registration)
        .collect();
    if !removed && active.len() >= MAX_DEVICES {
        return RegistrationDecision::OverQuota;
    }
    let previous = device.registration.take();
    let registration = registration(request, previous, removed, now);
    let expires_at = request.valid_until.max(now + TOMBSTONE_TTL);
    device.expires_at = device.expires_at.max(expires_at);
    let mut roster = owned.roster.clone();
    if !removed {
        // A device whose removal is not finished stays in the roster, so that a process that takes
        // the removal over finds it.
        let kept = owned.of_owner().filter(|(_, r)| {
            let is_kept = matches!(r.state, DeviceState::Active | DeviceState::Removing { .. });
            is_kept && r.valid_until > now
        });
        roster.devices = kept
            .map(|(device, _)| device.id.token_hash.clone())
            .collect();
        roster.devices.insert(request.device.token_hash.clone());
        roster.expires_at = roster.expires_at.max(expires_at);
        active.push(&registration);
        let active_until = active.iter().map(|r| r.valid_until).max();
        let proven = active.iter().any(|r| r.proven);
        roster = roster.with_standing(active_until, proven, now);
    }
    device.registration = Some(registration);
    RegistrationDecision::Commit(Box::new((device, roster)))
}

/// The decision, if the token's current registration alone determines it.
fn decide_by_current(
    request: &RegistrationRequest,
    row: &Device,
    now: Seconds,
) -> Option<RegistrationDecision> {
    let current = row.registration.as_ref()?;
    if current.order == request.order {
        return Some(RegistrationDecision::Duplicate);
    }
    if !request.order.supersedes(&current.order) {
        return Some(RegistrationDecision::Superseded);
    }
    if matches!(current.state, DeviceState::Removing { until } if until > now) {
        return Some(RegistrationDecision::Busy);
    }
    if current.platform == request.platform {
        return None;
    }
    retire(row, now).map(|retiring| RegistrationDecision::Retire(Box::new(retiring)))
}

/// The registration to write. If it is `removed`, the endpoint of the previous registration is
/// deleted as in any removal.
fn registration(
    request: &RegistrationRequest,
    previous: Option<Registration>,
    removed: bool,
    now: Seconds,
) -> Registration {
    // A renewal keeps the proof, but does not continue one: it enables the endpoint, so the next
    // push is accepted even if the platform has rejected the token before.
    let proven = previous.as_ref().is_some_and(|previous| {
        previous.proven && previous.owner == request.owner && previous.state == DeviceState::Active
    });
    let (taken_from, endpoint_arn) = match previous {
        Some(previous) if previous.owner != request.owner => {
            (Some(previous.owner), previous.endpoint_arn)
        }
        Some(previous) => {
            let is_recent = previous.registered_at + TRANSFER_WINDOW > now;
            let taken_from = previous.taken_from.filter(|_| is_recent);
            (taken_from, previous.endpoint_arn)
        }
        None => (None, None),
    };
    let state = match (removed, &endpoint_arn) {
        (false, _) => DeviceState::Active,
        (true, Some(_)) => DeviceState::Removing {
            until: now + REMOVING_LEASE,
        },
        (true, None) => DeviceState::Removed,
    };
    Registration {
        owner: request.owner.clone(),
        order: request.order,
        platform: request.platform,
        by_settings: request.by_settings,
        registered_at: now,
        max_mentions: request.max_mentions,
        payload: request.payload,
        first_delivered_at: None,
        proven,
        taken_from,
        endpoint_arn,
        state,
        valid_until: request.valid_until,
    }
}

/// Decides on the removal of one token by `owner`. Returns the row to write, or `None` for a
/// repeat.
///
/// Only an older registration by the same owner is removed. The removal is remembered in any case,
/// because the registration may arrive later.
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
    (row != Some(&device)).then_some(device)
}

/// Decides on the removal of all of the owner's tokens. Returns the roster to write before the
/// devices are removed one by one with [`remove_in_roster`], or `None` for a repeat.
pub fn remove_all(order: Order, roster: &Roster, now: Seconds) -> Option<Roster> {
    let removed_all = roster
        .removed_all
        .map_or(order, |earlier| earlier.latest(order));
    (roster.removed_all != Some(removed_all)).then(|| Roster {
        removed_all: Some(removed_all),
        expires_at: roster.expires_at.max(now + TOMBSTONE_TTL),
        ..roster.clone()
    })
}

/// Decides on the deletion of filters that are not stored. Returns the roster to write, or `None`
/// for a repeat.
///
/// The deletions are in the roster, so that an event costs one write, however many filters it
/// names. Only the latest [`MAX_DELETED_FILTERS`] are remembered.
pub fn remember_deletions<'a>(
    identities: impl IntoIterator<Item = &'a str>,
    order: Order,
    roster: &Roster,
    now: Seconds,
) -> Option<Roster> {
    let mut deleted_filters = roster.deleted_filters.clone();
    for identity in identities {
        let deletion = deleted_filters
            .entry(deletion_key(identity).to_owned())
            .or_insert(order);
        *deletion = deletion.latest(order);
    }
    while deleted_filters.len() > MAX_DELETED_FILTERS {
        let oldest = deleted_filters
            .iter()
            .min_by_key(|(_, order)| order.created_at)
            .map(|(filter, _)| filter.clone())?;
        deleted_filters.remove(&oldest);
    }
    (deleted_filters != roster.deleted_filters).then(|| Roster {
        deleted_filters,
        expires_at: roster.expires_at.max(now + TOMBSTONE_TTL),
        ..roster.clone()
    })
}

/// Decides on one device of a roster whose devices were all removed at `order`. Returns the row to
/// write, or `None` if there is nothing to do.
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
        DeviceState::Active | DeviceState::Gone => DeviceState::Removing {
            until: now + REMOVING_LEASE,
        },
        // The process that began the removal has died: take the removal over.
        DeviceState::Removing { until } if until <= now => DeviceState::Removing {
            until: now + REMOVING_LEASE,
        },
        other => other,
    };
    device.expires_at = device.expires_at.max(now + TOMBSTONE_TTL);
}

/// Decides on the removal of a device that its owner has not removed: it has ended, the platform
/// has rejected its token, or the token moves to another platform. Returns the row to write, or
/// `None` if the device has no endpoint or a process is deleting it.
pub fn retire(row: &Device, now: Seconds) -> Option<Device> {
    let current = row.registration.as_ref()?;
    if matches!(current.state, DeviceState::Removing { until } if until > now) {
        return None;
    }
    let endpoint_arn = current.endpoint_arn.clone()?;
    Some(row.clone().removing(endpoint_arn, now))
}
