//! Derived subscriptions do not come from a filter that the owner sent:
//!
//! - the app's fixed triggers, for every owner with a device, until the last device ends;
//! - the filter that fetches the owner's mute list, for the same time;
//! - the filters of settings of dialect H.
//!
//! They follow only from the owner's devices and settings and from the app's options. After
//! changing one of these, the caller reconciles the derived subscriptions with the stored rows. No
//! event orders their rows, so each row has a counter as its order. If two callers reconcile at the
//! same time, the slower one finds a higher counter and reads again.
//!
//! One thing about the owner's own filters follows from the devices as well: whether the owner is
//! proven.

use nostr_push_core::{
    MUTE_LIST_KIND, Millis, Seconds,
    app::App,
    device::OwnerDevices,
    device_store,
    filter::Filter,
    order::Order,
    owner::Owner,
    ports::{Devices, IndexWriter, OwnerSettings, PortResult, Subscriptions},
    settings::Settings,
    subscription::{
        MUTE_LIST_PREFIX, SETTINGS_PREFIX, Subscription, SubscriptionState, TRIGGER_PREFIX,
    },
};

use crate::{
    contention::{self, MAX_ATTEMPTS},
    context::EventContext,
    subscriptions,
};

/// Reconciles the derived subscriptions of the owner and, if a registration took a token from
/// another owner, those of the previous owner.
///
/// # Errors
/// A dependency failed: apply the event again from the start.
pub async fn reconcile_transfer<S, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    previous_owner: Option<&Owner>,
) -> PortResult<()>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings,
{
    reconcile(context, owner).await?;
    match previous_owner {
        Some(previous_owner) => reconcile(context, previous_owner).await,
        None => Ok(()),
    }
}

/// Reconciles the owner's derived subscriptions with the stored devices and settings.
///
/// # Errors
/// A dependency failed: apply the event again from the start.
pub async fn reconcile<S, E>(context: &EventContext<'_, S, E>, owner: &Owner) -> PortResult<()>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings,
{
    let EventContext {
        store, app, now, ..
    } = context;
    for _ in 0..MAX_ATTEMPTS {
        // The subscriptions are read first. A process that changes a device or the settings after
        // that reconciles as well, and finds a higher counter.
        let stored = store.of_owner(owner).await?;
        let (stored, filters): (Vec<_>, Vec<_>) =
            stored.into_iter().partition(Subscription::is_derived);
        let owner_devices = device_store::owner_devices(*store, owner).await?;
        let settings = store.settings(owner).await?;
        let mut desired = triggers(app, &owner_devices, now.to_seconds());
        desired.extend(mute_list(&owner_devices, now.to_seconds()));
        let proven = owner_devices.has_proven(now.to_seconds());
        if let Some(settings) = &settings {
            desired.extend(of_settings(app, settings, proven, now.to_seconds()));
        }
        if write(*store, &changes(owner, desired, &stored, *now)).await? {
            return update_proof(*store, filters, proven, *now).await;
        }
    }
    Err(contention::error())
}

/// Updates the owner's own filters that name relays, if the owner has become proven, or no longer
/// has a proven device.
async fn update_proof(
    store: &impl Subscriptions,
    filters: Vec<Subscription>,
    proven: bool,
    now: Millis,
) -> PortResult<()> {
    let is_outdated = |row: &Subscription| {
        row.is_active(now.to_seconds()) && !row.relays.is_empty() && row.proven != proven
    };
    for row in filters.into_iter().filter(is_outdated) {
        let row = Subscription {
            proven,
            // The listener takes the later row of the same event. The clocks of writers differ.
            changed_at: now.max(row.changed_at + Millis(1)),
            ..row
        };
        // If a newer event has written the row in the meantime, it has read the devices itself.
        store.replace(&row).await?;
    }
    Ok(())
}

/// Writes the rows in this order. Returns `false` if a newer row is stored in place of one of them.
async fn write(
    store: &(impl Subscriptions + IndexWriter),
    rows: &[Subscription],
) -> PortResult<bool> {
    for row in rows {
        let is_newest = match row.state {
            SubscriptionState::Active => subscriptions::put(store, row).await?,
            SubscriptionState::Dormant { .. } | SubscriptionState::Removed => {
                subscriptions::tombstone(store, row).await?
            }
        };
        if !is_newest {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A subscription that should exist.
struct DesiredSubscription {
    identity: String,
    filter: Filter,
    relays: Vec<String>,
    proven: bool,
    since: Seconds,
    valid_until: Seconds,
}

/// The app's fixed triggers, as long as the owner has a device.
///
/// Devices that settings registered do not count: the settings decide which kinds to push, and
/// `kinds: []` must turn push off.
fn triggers(app: &App, owner_devices: &OwnerDevices, now: Seconds) -> Vec<DesiredSubscription> {
    let registrations = || {
        owner_devices
            .active(now)
            .map(|(_, registration)| registration)
            .filter(|registration| !registration.by_settings)
    };
    let ends = registrations().map(|registration| registration.valid_until);
    let Some(valid_until) = ends.max() else {
        return Vec::new();
    };
    let starts = registrations().map(|registration| registration.order.created_at);
    let since = starts.max().unwrap_or_default();
    let filters = app
        .triggers_for(owner_devices.roster.owner.pubkey)
        .unwrap_or_else(|error| {
            tracing::error!(
                stage = "control",
                app = app.app,
                %error,
                "a fixed trigger of the app is not a filter, so none is applied"
            );
            Vec::new()
        });
    filters
        .into_iter()
        .filter(|filter| !filter.index_keys().is_empty())
        .map(|filter| DesiredSubscription {
            identity: format!("{TRIGGER_PREFIX}{}", filter.identity()),
            filter,
            relays: Vec::new(),
            proven: false,
            since,
            valid_until,
        })
        .collect()
}

/// The subscription that fetches the owner's mute list, as long as the owner has a device.
fn mute_list(owner_devices: &OwnerDevices, now: Seconds) -> Option<DesiredSubscription> {
    let ends = owner_devices
        .active(now)
        .map(|(_, registration)| registration.valid_until);
    let valid_until = ends.max()?;
    let filter = Filter {
        kinds: Some(vec![MUTE_LIST_KIND]),
        authors: Some(vec![*owner_devices.roster.owner.pubkey.as_bytes()]),
        ..Filter::default()
    };
    Some(DesiredSubscription {
        identity: format!("{MUTE_LIST_PREFIX}{}", filter.identity()),
        filter,
        relays: Vec::new(),
        proven: false,
        since: Seconds(0),
        valid_until,
    })
}

/// The filters of the settings, until the settings end. `proven` is `true` if the owner has a
/// proven device.
fn of_settings(
    app: &App,
    settings: &Settings,
    proven: bool,
    now: Seconds,
) -> Vec<DesiredSubscription> {
    if settings.valid_until <= now {
        return Vec::new();
    }
    let filters = settings.filters(app).into_iter();
    filters
        .map(|filter| DesiredSubscription {
            identity: format!("{SETTINGS_PREFIX}{}", filter.identity()),
            filter,
            relays: settings.relays.clone(),
            proven: proven && !settings.relays.is_empty(),
            since: settings.order.created_at,
            valid_until: settings.valid_until,
        })
        .collect()
}

/// The rows to write, in this order, so that the derived subscriptions are the desired ones.
fn changes(
    owner: &Owner,
    desired: Vec<DesiredSubscription>,
    stored: &[Subscription],
    now: Millis,
) -> Vec<Subscription> {
    let mut rows = removals(&desired, stored, now);
    for desired in desired {
        let earlier = stored.iter().find(|row| row.identity == desired.identity);
        let active = earlier.filter(|row| row.is_active(now.to_seconds()));
        if active.is_some_and(|row| {
            row.valid_until == desired.valid_until
                && row.relays == desired.relays
                && row.proven == desired.proven
        }) {
            continue;
        }
        let mut row = Subscription {
            owner: owner.clone(),
            identity: desired.identity,
            filter: desired.filter,
            relays: desired.relays,
            proven: desired.proven,
            order: next_order(earlier),
            // A subscription that is in force keeps its start.
            since: active.map_or(desired.since, |row| row.since),
            state: SubscriptionState::Active,
            valid_until: desired.valid_until,
            changed_at: now,
        };
        if active.is_none() {
            // The row is first written as removed, so that it is stored before its index rows. If
            // this process crashes while writing index rows and the subscription is not desired any
            // more, the next `removals` finds the row and deletes them.
            let removed = Subscription {
                state: SubscriptionState::Removed,
                ..row.clone()
            };
            row.order = next_order(Some(&removed));
            rows.push(removed);
        }
        rows.push(row);
    }
    rows
}

/// Removes active rows that are not desired. Removes recently removed ones again, because some of
/// their index rows may remain.
fn removals(
    desired: &[DesiredSubscription],
    stored: &[Subscription],
    now: Millis,
) -> Vec<Subscription> {
    let is_desired = |row: &&Subscription| {
        desired
            .iter()
            .any(|desired| desired.identity == row.identity)
    };
    let undesired = || stored.iter().filter(|row| !is_desired(row));
    let active = undesired()
        .filter(|row| row.state == SubscriptionState::Active)
        .map(|row| Subscription {
            order: next_order(Some(row)),
            state: SubscriptionState::Removed,
            changed_at: now,
            ..row.clone()
        });
    let just_removed = undesired()
        .filter(|row| subscriptions::is_just_removed(row, now))
        .map(|row| Subscription {
            order: next_order(Some(row)),
            ..row.clone()
        });
    active.chain(just_removed).collect()
}

/// The order of the row that follows `row`.
fn next_order(row: Option<&Subscription>) -> Order {
    Order::counter(row.map_or(0, |row| row.order.created_at.0) + 1)
}
