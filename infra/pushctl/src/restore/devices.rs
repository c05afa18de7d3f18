//! Devices and rosters. They are merged, because an owner may have registered or removed devices
//! since the rows were lost.
//!
//! The devices come first, and the rosters second: what a roster says about its owner follows from
//! the rows of the devices.

use anyhow::{Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use nostr_push_aws::dynamodb::DeviceTableRow;
use nostr_push_core::{
    app::{App, platform_and_name_of},
    device::{Device, DeviceState, MAX_DELETED_FILTERS, OwnerDevices, Registration, Roster},
    device_store::roster_or_new,
    order::Order,
    ports::{Apps, Devices, PortResult},
};

use super::{CONCURRENCY, Counts, Outcome, Restore};

/// The most attempts to write a row that control keeps changing.
const MAX_ATTEMPTS: u32 = 10;

/// Copies the devices, and then the rosters.
pub(super) async fn restore(restore: &Restore<'_>) -> Result<Counts> {
    let mut counts = Counts::default();
    for is_roster in [false, true] {
        let mut next = None;
        loop {
            let page = restore.source.device_rows(next).await?;
            let of_pass =
                |row: &DeviceTableRow| matches!(row, DeviceTableRow::Roster(_)) == is_roster;
            let rows = page.rows.into_iter().filter(of_pass);
            let copies = stream::iter(rows).map(|row| copy(restore, row));
            let mut copies = copies.buffer_unordered(CONCURRENCY);
            while let Some(outcome) = copies.try_next().await? {
                counts.add(outcome);
            }
            restore.report("devices", &counts);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
    }
    Ok(counts)
}

async fn copy(restore: &Restore<'_>, row: DeviceTableRow) -> Result<Outcome> {
    let expires_at = match &row {
        DeviceTableRow::Device(device) => device.expires_at,
        DeviceTableRow::Roster(roster) => roster.expires_at,
    };
    if expires_at <= restore.now {
        return Ok(Outcome::Expired);
    }
    for _ in 0..MAX_ATTEMPTS {
        let (device, roster) = match &row {
            DeviceTableRow::Device(device) => (merged_device(restore, device).await?, None),
            DeviceTableRow::Roster(roster) => (None, merged_roster(restore, roster).await?),
        };
        if device.is_none() && roster.is_none() {
            return Ok(Outcome::Kept);
        }
        if restore.is_dry_run {
            return Ok(Outcome::Copied);
        }
        restore.pace.wait(1).await;
        let store = &restore.context.store;
        if store.commit(device.as_ref(), roster.as_ref()).await? {
            return Ok(Outcome::Copied);
        }
    }
    bail!("a row of devices is being written: run this command again")
}

/// The device to write, or `None` if the stack's row stays.
async fn merged_device(restore: &Restore<'_>, source: &Device) -> PortResult<Option<Device>> {
    let store = &restore.context.store;
    let stored = store.devices(std::slice::from_ref(&source.id)).await?;
    let removed_all = match &source.registration {
        Some(registration) => roster_or_new(store, &registration.owner).await?.removed_all,
        None => None,
    };
    let app = store.app(&source.id.app).await?;
    let source = reachable(source, app.as_ref());
    Ok(merge_device(&source, stored.first(), removed_all))
}

/// The device, as removed if its endpoint is not of one of the app's platform applications: that is
/// deleted, or not the app's any more. If the app is not known, the device stays as it is.
fn reachable(device: &Device, app: Option<&App>) -> Device {
    let registration = device.registration.as_ref();
    let endpoint = registration.and_then(|registration| registration.endpoint_arn.as_deref());
    let is_reachable =
        endpoint.is_some_and(|endpoint| app.is_none_or(|app| has_endpoint(app, endpoint)));
    if is_reachable {
        device.clone()
    } else {
        device.clone().removed()
    }
}

/// Returns `true` if an endpoint belongs to one of the app's platform applications.
fn has_endpoint(app: &App, endpoint: &str) -> bool {
    let mut applications = app.platforms.values().chain(&app.moving_from);
    let of_endpoint = platform_and_name_of(endpoint);
    of_endpoint.is_some() && applications.any(|arn| platform_and_name_of(arn) == of_endpoint)
}

/// Merges a device with the stack's row of it. `removed_all` is the latest event that removed all
/// devices of the owner.
///
/// The later registration wins, and a registration that the owner has removed since does not come
/// back. The row has the stack's version.
fn merge_device(
    source: &Device,
    stored: Option<&Device>,
    removed_all: Option<Order>,
) -> Option<Device> {
    let mut merged = Device {
        version: 0,
        ..source.clone()
    };
    if let Some(stored) = stored {
        merged = stored.clone();
        for (owner, order) in &source.removals {
            let removal = merged.removals.entry(owner.clone()).or_insert(*order);
            *removal = removal.latest(*order);
        }
        merged.expires_at = merged.expires_at.max(source.expires_at);
        if is_later(source.registration.as_ref(), stored.registration.as_ref()) {
            merged.registration.clone_from(&source.registration);
        }
    }
    if let Some(registration) = &merged.registration {
        let removal = merged.removals.get(&registration.owner.pubkey.to_hex());
        let mut removals = removal.into_iter().chain(&removed_all);
        let is_removed = removals.any(|removal| removal.supersedes(&registration.order));
        let is_restored = stored.is_none_or(|stored| stored.registration != merged.registration);
        // Nobody deletes the endpoint for a removal that was in progress when the row was saved.
        let is_active = registration.state == DeviceState::Active;
        if is_restored && (is_removed || !is_active) {
            merged = merged.removed();
        }
    }
    (stored != Some(&merged)).then_some(merged)
}

/// Returns `true` if the first registration is later than the second.
fn is_later(first: Option<&Registration>, second: Option<&Registration>) -> bool {
    match (first, second) {
        (Some(first), Some(second)) => first.order.supersedes(&second.order),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// The roster to write, or `None` if the stack's row stays.
async fn merged_roster(restore: &Restore<'_>, source: &Roster) -> Result<Option<Roster>> {
    let store = &restore.context.store;
    let stored = roster_or_new(store, &source.owner).await?;
    let merged = merge_roster(source, &stored);
    let ids: Vec<_> = merged.device_ids().collect();
    let mut devices = store.devices(&ids).await?;
    for device in &mut devices {
        // The owner removed all devices after this one was restored.
        if let Some(removed) = removed_by_all(device, &merged)
            && !restore.is_dry_run
            && store.commit(Some(&removed), None).await?
        {
            *device = removed;
        }
    }
    let owned = OwnerDevices {
        roster: merged,
        devices,
    };
    let (active_until, proven) = (
        owned.active_until(restore.now),
        owned.has_proven(restore.now),
    );
    let merged = if active_until.is_some() || stored.version > 0 {
        let roster = owned.roster.clone();
        roster.with_standing(active_until, proven, restore.now)
    } else {
        // Without a device the roster is as it was. It may remember removals.
        owned.roster
    };
    Ok((merged != stored).then_some(merged))
}

/// The device without its registration, if the owner removed it together with all others.
fn removed_by_all(device: &Device, roster: &Roster) -> Option<Device> {
    let registration = device.registration.as_ref()?;
    let is_removed = registration.owner == roster.owner
        && registration.state == DeviceState::Active
        && roster.removed_all?.supersedes(&registration.order);
    is_removed.then(|| device.clone().removed())
}

/// Merges a roster with the stack's. It lists the devices of both: their rows decide which of them
/// are in force.
fn merge_roster(source: &Roster, stored: &Roster) -> Roster {
    let mut merged = stored.clone();
    merged.devices.extend(source.devices.iter().cloned());
    merged.removed_all = match (stored.removed_all, source.removed_all) {
        (Some(a), Some(b)) => Some(a.latest(b)),
        (a, b) => a.or(b),
    };
    merged.dormant_at = stored.dormant_at.max(source.dormant_at);
    for (filter, order) in &source.deleted_filters {
        let deletion = merged
            .deleted_filters
            .entry(filter.clone())
            .or_insert(*order);
        *deletion = deletion.latest(*order);
    }
    while merged.deleted_filters.len() > MAX_DELETED_FILTERS {
        let deletions = merged.deleted_filters.iter();
        let oldest = deletions.min_by_key(|(_, order)| order.created_at);
        let Some(oldest) = oldest.map(|(filter, _)| filter.clone()) else {
            break;
        };
        merged.deleted_filters.remove(&oldest);
    }
    merged.expires_at = stored.expires_at.max(source.expires_at);
    if stored.version == 0 {
        merged.active_until = source.active_until;
        merged.proven = source.proven;
    }
    merged
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_core::{Seconds, app::Platform};
    use nostr_push_testkit::{
        builders::{device, roster},
        owner, registration,
    };

    use super::*;

    fn at(created_at: u64) -> Order {
        Order::counter(created_at)
    }

    /// A device that was registered at this time, as it is stored.
    fn registered(created_at: u64) -> Device {
        let mut registration = registration(&alice(), "arn");
        registration.order = at(created_at);
        Device {
            version: 7,
            ..device("hash", registration)
        }
    }

    fn alice() -> nostr_push_core::owner::Owner {
        let key = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        owner(nostr::key::PublicKey::from_hex(key).unwrap())
    }

    fn state(device: &Device) -> DeviceState {
        device.registration.as_ref().unwrap().state
    }

    #[test]
    fn lost_device_is_restored_as_a_new_row() {
        let restored = merge_device(&registered(5), None, Some(at(4))).unwrap();
        assert_eq!(restored.version, 0);
        assert_eq!(restored.registration, registered(5).registration);
    }

    #[test]
    fn later_registration_is_kept() {
        let stored = registered(6);
        assert_eq!(merge_device(&registered(5), Some(&stored), None), None);
        // The same registration, whose removal is complete, is kept as well.
        let removed = registered(5).removed();
        assert_eq!(merge_device(&registered(5), Some(&removed), None), None);
    }

    #[test]
    fn registration_that_was_removed_since_does_not_come_back() {
        let restored = merge_device(&registered(5), None, Some(at(6))).unwrap();
        assert_eq!(state(&restored), DeviceState::Removed);
        // The owner removed the token while the row was lost.
        let mut removal = registered(5);
        removal.registration = None;
        removal.removals = [(alice().pubkey.to_hex(), at(6))].into();
        let merged = merge_device(&registered(5), Some(&removal), None).unwrap();
        assert_eq!(state(&merged), DeviceState::Removed);
        let endpoint = merged.registration.unwrap().endpoint_arn;
        assert_eq!(endpoint, None);
    }

    #[test]
    fn removal_in_progress_is_restored_as_complete() {
        let mut source = registered(5);
        let until = Seconds(9);
        source.registration.as_mut().unwrap().state = DeviceState::Removing { until };
        let restored = merge_device(&source, None, None).unwrap();
        assert_eq!(state(&restored), DeviceState::Removed);
    }

    #[test]
    fn device_of_another_platform_application_is_restored_as_removed() {
        let app = |arn: &str| App {
            platforms: [(Platform::Fcm, arn.to_owned())].into(),
            ..App::named("demo")
        };
        let endpoint = "arn:aws:sns:eu-west-1:1:endpoint/GCM/push.demo/0-1";
        let mut source = registered(5);
        source.registration.as_mut().unwrap().endpoint_arn = Some(endpoint.to_owned());
        let restored = |app: Option<&App>| {
            let source = reachable(&source, app);
            state(&merge_device(&source, None, None).unwrap())
        };
        for (arn, expected) in [
            (
                "arn:aws:sns:eu-west-1:1:app/GCM/push.demo",
                DeviceState::Active,
            ),
            ("arn:aws:sns:eu-west-1:1:app/GCM/demo", DeviceState::Removed),
            (
                "arn:aws:sns:eu-west-1:1:app/APNS/push.demo",
                DeviceState::Removed,
            ),
        ] {
            assert_eq!(restored(Some(&app(arn))), expected, "{arn}");
        }
        assert_eq!(restored(None), DeviceState::Active, "the app is not known");
        source.registration.as_mut().unwrap().endpoint_arn = None;
        let without_endpoint = reachable(&source, None);
        assert_eq!(state(&without_endpoint), DeviceState::Removed);
    }

    #[test]
    fn roster_lists_devices_of_both_and_remembers_both_removals() {
        let (owner, other) = (owner(Keys::generate().public_key()), registered(5));
        let mut first = roster(&owner, &[&other]);
        first.removed_all = Some(at(3));
        first.deleted_filters = [("a".to_owned(), at(9)), ("b".to_owned(), at(1))].into();
        let mut second = Roster::new(owner.clone());
        second.devices = ["new".to_owned()].into();
        second.removed_all = Some(at(2));
        second.deleted_filters = [("a".to_owned(), at(8))].into();
        second.version = 2;
        let merged = merge_roster(&first, &second);
        assert_eq!(merged.devices.len(), 2);
        assert_eq!(merged.removed_all, Some(at(3)));
        assert_eq!(merged.deleted_filters["a"], at(9));
        assert_eq!(merged.deleted_filters["b"], at(1));
        assert_eq!(merged.version, 2);
        assert_eq!(
            merge_roster(&first, &merged),
            merged,
            "a repeat changes nothing"
        );
    }
}
