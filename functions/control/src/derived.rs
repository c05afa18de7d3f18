//! Derived subscriptions do not come from a filter that the owner sent:
//!
//! - the app's fixed triggers, for every owner with a device, until the last device ends;
//! - the filter that fetches the owner's mute list, for the same time;
//! - the filters of settings of dialect H, while the owner has a device.
//!
//! They follow only from the owner's devices and settings and from the app's options. No event
//! orders their rows, so each row has a counter as its order. If two processes change a row at the
//! same time, the slower one finds a higher counter and reads again.

use nostr_push_core::{
    MUTE_LIST_KIND, Millis, Seconds,
    app::App,
    device::OwnerDevices,
    filter::Filter,
    order::Order,
    owner::Owner,
    ports::{IndexWriter, PortResult, Subscriptions},
    settings::Settings,
    subscription::{
        MUTE_LIST_PREFIX, SETTINGS_PREFIX, Subscription, SubscriptionState, TRIGGER_PREFIX,
    },
};

use crate::{budget, subscriptions};

/// A subscription that should exist.
pub struct DesiredSubscription {
    identity: String,
    filter: Filter,
    relays: Vec<String>,
    since: Seconds,
    valid_until: Seconds,
}

/// The change of one row.
pub enum Change {
    /// Write an active row with its index rows.
    Put(Subscription),
    /// Write a removal and delete the index rows.
    Remove(Subscription),
    /// Write a removal of a subscription that has no index rows yet.
    Mark(Subscription),
    /// Write a row in force again, with the next order. Its index rows stay.
    Renew(Subscription),
    /// Write a row that differs from the stored one only in whether the owner is proven. The time
    /// is the `changed_at` of the stored one.
    Prove(Subscription, Millis),
}

impl Change {
    /// Writes the row. Returns `false` if a newer row is stored.
    ///
    /// # Errors
    /// A dependency failed.
    pub async fn apply(&self, store: &(impl Subscriptions + IndexWriter)) -> PortResult<bool> {
        match self {
            Self::Put(row) => subscriptions::put(store, row).await,
            Self::Remove(row) => subscriptions::put_without_index(store, row).await,
            Self::Mark(row) | Self::Renew(row) => store.put(row).await,
            Self::Prove(row, read) => store.replace(row, *read).await,
        }
    }

    /// The write units of the change.
    pub fn units(&self) -> u64 {
        match self {
            Self::Put(row) | Self::Remove(row) => budget::of_subscription(row),
            Self::Mark(row) | Self::Renew(row) | Self::Prove(row, _) => budget::of_row(row),
        }
    }
}

/// The derived subscriptions that the owner of these devices should have. There are none without a
/// device.
pub fn desired(
    app: &App,
    owner_devices: &OwnerDevices,
    settings: Option<&Settings>,
    now: Seconds,
) -> Vec<DesiredSubscription> {
    let Some(active_until) = owner_devices.active_until(now) else {
        return Vec::new();
    };
    let mut desired = triggers(app, owner_devices, now);
    desired.push(mute_list(&owner_devices.roster.owner, active_until));
    let settings = settings.into_iter();
    desired.extend(settings.flat_map(|settings| of_settings(app, settings, now)));
    desired
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
            since,
            valid_until,
        })
        .collect()
}

/// The subscription that fetches the owner's mute list.
fn mute_list(owner: &Owner, valid_until: Seconds) -> DesiredSubscription {
    let filter = Filter {
        kinds: Some(vec![MUTE_LIST_KIND]),
        authors: Some(vec![*owner.pubkey.as_bytes()]),
        ..Filter::default()
    };
    DesiredSubscription {
        identity: format!("{MUTE_LIST_PREFIX}{}", filter.identity()),
        filter,
        relays: Vec::new(),
        since: Seconds(0),
        valid_until,
    }
}

/// The filters of the settings, until the settings end.
fn of_settings(app: &App, settings: &Settings, now: Seconds) -> Vec<DesiredSubscription> {
    if settings.valid_until <= now {
        return Vec::new();
    }
    let filters = settings.filters(app).into_iter();
    filters
        .map(|filter| DesiredSubscription {
            identity: format!("{SETTINGS_PREFIX}{}", filter.identity()),
            filter,
            relays: settings.relays.clone(),
            since: settings.order.created_at,
            valid_until: end_of_day(settings.valid_until),
        })
        .collect()
}

/// The end of the UTC day. Clients send their settings at each start. With the exact time, all
/// index rows would have to be written each time. The device of the settings ends in time.
fn end_of_day(time: Seconds) -> Seconds {
    let day = Seconds::from_days(1);
    Seconds(time.0.div_ceil(day.0) * day.0)
}

/// The changes that settings cause while the owner has a device.
pub fn changes_of_settings(
    app: &App,
    settings: &Settings,
    stored: &[Subscription],
    now: Seconds,
) -> Vec<Change> {
    let stored: Vec<Subscription> = stored
        .iter()
        .filter(|row| row.identity.starts_with(SETTINGS_PREFIX))
        .cloned()
        .collect();
    let desired = of_settings(app, settings, now);
    let now = now.to_millis();
    changes(&settings.owner, desired, &stored, now, Situation::default())
}

/// What [`changes`] must know beside the rows.
#[derive(Debug, Default, Clone, Copy)]
pub struct Situation {
    /// `true` if the owner is proven.
    pub is_proven: bool,
    /// `true` if rows in force are to be written again without their index rows, so that another
    /// process that is about to remove them finds them changed.
    pub renews: bool,
    /// `true` if the message is received again. Its first attempt may have left index rows of
    /// removed subscriptions.
    pub is_repeated: bool,
}

/// The changes, in this order, after which the derived subscriptions are the desired ones.
pub fn changes(
    owner: &Owner,
    desired: Vec<DesiredSubscription>,
    stored: &[Subscription],
    now: Millis,
    situation: Situation,
) -> Vec<Change> {
    let Situation {
        is_proven,
        renews,
        is_repeated,
    } = situation;
    let mut changes = removals(&desired, stored, now, is_repeated);
    for desired in desired {
        let earlier = stored.iter().find(|row| row.identity == desired.identity);
        let active = earlier.filter(|row| row.is_active(now.to_seconds()));
        let same = active
            .filter(|row| row.valid_until == desired.valid_until && row.relays == desired.relays);
        if let Some(row) = same {
            if renews {
                changes.push(Change::Renew(Subscription {
                    order: next_order(Some(row), now),
                    ..proven(row.clone(), is_proven, now)
                }));
            } else if row.proven != is_proven {
                changes.push(Change::Prove(
                    proven(row.clone(), is_proven, now),
                    row.changed_at,
                ));
            }
            continue;
        }
        let mut row = Subscription {
            owner: owner.clone(),
            identity: desired.identity,
            filter: desired.filter,
            relays: desired.relays,
            proven: is_proven,
            order: next_order(earlier, now),
            // A subscription that is in force keeps its start.
            since: active.map_or(desired.since, |row| row.since),
            state: SubscriptionState::Active,
            valid_until: desired.valid_until,
            changed_at: now,
        };
        if active.is_none() {
            // The row is first written as removed, so that it is stored before its index rows. If
            // this process crashes while writing index rows and the subscription is not desired any
            // more when the message is received again, `removals` finds the row and deletes them.
            let removed = Subscription {
                state: SubscriptionState::Removed,
                proven: false,
                ..row.clone()
            };
            row.order = next_order(Some(&removed), now);
            changes.push(Change::Mark(removed));
        }
        changes.push(Change::Put(row));
    }
    changes
}

/// The same row for an owner who has become proven, or is not proven any more.
pub fn proven(row: Subscription, is_proven: bool, now: Millis) -> Subscription {
    Subscription {
        proven: is_proven,
        // The listener takes the later row of the same order. The clocks of writers differ.
        changed_at: now.max(row.changed_at + Millis(1)),
        ..row
    }
}

/// Removes active rows that are not desired. If the message is received again, it also removes
/// recently removed rows again, because some of their index rows may remain.
fn removals(
    desired: &[DesiredSubscription],
    stored: &[Subscription],
    now: Millis,
    is_repeated: bool,
) -> Vec<Change> {
    let is_desired = |row: &&Subscription| {
        desired
            .iter()
            .any(|desired| desired.identity == row.identity)
    };
    let undesired = || stored.iter().filter(|row| !is_desired(row));
    let active = undesired()
        .filter(|row| row.state == SubscriptionState::Active)
        .map(|row| Subscription {
            order: next_order(Some(row), now),
            state: SubscriptionState::Removed,
            proven: false,
            changed_at: now,
            ..row.clone()
        });
    let just_removed = undesired()
        .filter(|row| is_repeated && subscriptions::is_just_removed(row, now))
        .map(|row| Subscription {
            order: next_order(Some(row), now),
            ..row.clone()
        });
    active.chain(just_removed).map(Change::Remove).collect()
}

/// The order of the row that follows `row`. A row that did not exist starts at the time: TTL may
/// have removed an earlier row, and not yet its index rows, whose counters are lower.
fn next_order(row: Option<&Subscription>, now: Millis) -> Order {
    Order::counter(row.map_or(now.0, |row| row.order.created_at.0 + 1))
}
