//! Subscriptions that follow from something else: the fixed triggers that an app gives to every
//! owner with a device, which live as long as the longest-lived device and go with the last one;
//! what brings the owner's mute list, as long; and the filters that settings of dialect H stand
//! for.
//!
//! They follow from the devices, the settings and the app's options alone, so whoever changes one
//! of these comes here afterwards and brings them in line with what is stored by then. A counter in
//! place of an event's order tells two such writers apart: the later one reads again.

use nostr_push_core::{
    Millis, Seconds,
    app::App,
    device::{self, View},
    filter::Filter,
    order::Order,
    owner::Owner,
    ports::{Devices, IndexWriter, OwnerSettings, Subscriptions, seconds},
    settings::Settings,
    subscription::{MUTE_LIST, SETTINGS, State, Subscription, TRIGGER},
};

use crate::{
    devices::{ATTEMPTS, contention},
    handler::Failure,
    subscriptions,
};

/// Brings the owner's derived subscriptions in line.
///
/// # Errors
/// A dependency that failed: try again from the start.
pub async fn reconcile(
    store: &(impl Devices + Subscriptions + IndexWriter + OwnerSettings),
    app: &App,
    owner: &Owner,
    now: Millis,
) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        // In this order: what changes after the first read makes its own writer come here and find
        // a higher counter than ours.
        let stored: Vec<_> = store
            .of_owner(owner)
            .await?
            .into_iter()
            .filter(Subscription::is_derived)
            .collect();
        let view = device::view(store, owner).await?;
        let mut wanted = triggers(app, owner, &view, seconds(now));
        wanted.extend(mute_list(owner, &view, seconds(now)));
        wanted.extend(
            store
                .settings(owner)
                .await?
                .iter()
                .flat_map(|settings| asked_for(app, settings, seconds(now))),
        );
        let mut in_line = true;
        for row in changes(owner, wanted, &stored, now) {
            in_line &= match row.state {
                State::Active => subscriptions::put(store, &row).await?,
                State::Removed => subscriptions::tombstone(store, &row).await?,
            };
            if !in_line {
                break;
            }
        }
        if in_line {
            return Ok(());
        }
    }
    Err(contention().into())
}

/// A subscription that there should be.
struct Wanted {
    subscription: String,
    filter: Filter,
    relays: Vec<String>,
    since: Seconds,
    valid_until: Seconds,
}

/// The app's triggers, as long as the owner has a device. Not for devices that settings registered:
/// these say themselves which kinds they want, and `kinds: []` must be off.
fn triggers(app: &App, owner: &Owner, view: &View, now: Seconds) -> Vec<Wanted> {
    let registrations = || {
        view.active(now)
            .map(|(_, registration)| registration)
            .filter(|registration| !registration.by_settings)
    };
    let Some(valid_until) = registrations()
        .map(|registration| registration.valid_until)
        .max()
    else {
        return Vec::new();
    };
    let since = registrations()
        .map(|registration| registration.order.created_at)
        .max()
        .unwrap_or_default();
    let filters = app.triggers_for(owner.pubkey).unwrap_or_else(|error| {
        tracing::error!(stage = "control", app = app.app, %error, "the app's fixed triggers are no filters: none applied");
        Vec::new()
    });
    let filters = filters
        .into_iter()
        .filter(|filter| !filter.index_keys().is_empty());
    let subscription = |filter: &Filter| format!("{TRIGGER}{}", filter.identity());
    filters
        .map(|filter| Wanted {
            subscription: subscription(&filter),
            filter,
            relays: Vec::new(),
            since,
            valid_until,
        })
        .collect()
}

/// What brings the owner's mute list, as long as there is a device to spare.
fn mute_list(owner: &Owner, view: &View, now: Seconds) -> Option<Wanted> {
    let valid_until = view
        .active(now)
        .map(|(_, registration)| registration.valid_until)
        .max()?;
    let filter = Filter {
        kinds: Some(vec![nostr_push_core::MUTE_LIST]),
        authors: Some(vec![*owner.pubkey.as_bytes()]),
        ..Filter::default()
    };
    Some(Wanted {
        subscription: format!("{MUTE_LIST}{}", filter.identity()),
        filter,
        relays: Vec::new(),
        since: 0,
        valid_until,
    })
}

/// The filters of the settings.
fn asked_for(app: &App, settings: &Settings, now: Seconds) -> Vec<Wanted> {
    let (since, valid_until) = (settings.order.created_at, settings.valid_until);
    let filters = if valid_until > now {
        settings.filters(app)
    } else {
        Vec::new()
    };
    let subscription = |filter: &Filter| format!("{SETTINGS}{}", filter.identity());
    let relays = || settings.relays.clone();
    let wanted = |filter| Wanted {
        subscription: subscription(&filter),
        filter,
        relays: relays(),
        since,
        valid_until,
    };
    filters.into_iter().map(wanted).collect()
}

/// The rows to write, in this order.
///
/// A row that comes into force is written as removed before, so that it is known before its index
/// rows are: should its writer die among them, and nobody want it any more, whoever comes next
/// clears them.
fn changes(
    owner: &Owner,
    wanted: Vec<Wanted>,
    stored: &[Subscription],
    now: Millis,
) -> Vec<Subscription> {
    let next =
        |row: Option<&Subscription>| Order::counter(row.map_or(0, |row| row.order.created_at) + 1);
    let is_wanted = |row: &Subscription| {
        wanted
            .iter()
            .any(|wanted| wanted.subscription == row.subscription)
    };
    let not_wanted = || stored.iter().filter(|row| !is_wanted(row));
    let ended = not_wanted().filter(|row| row.state == State::Active);
    let ended = ended.map(|row| Subscription {
        order: next(Some(row)),
        state: State::Removed,
        changed_at: now,
        ..row.clone()
    });
    let cleared_again = not_wanted().filter(|row| subscriptions::is_just_removed(row, now));
    let cleared_again = cleared_again.map(|row| Subscription {
        order: next(Some(row)),
        ..row.clone()
    });
    let mut rows: Vec<Subscription> = ended.chain(cleared_again).collect();
    for Wanted {
        subscription,
        filter,
        relays,
        since,
        valid_until,
    } in wanted
    {
        let earlier = stored.iter().find(|row| row.subscription == subscription);
        let active = earlier.filter(|row| row.is_active(seconds(now)));
        if active.is_some_and(|row| row.valid_until == valid_until && row.relays == relays) {
            continue;
        }
        let row = Subscription {
            owner: owner.clone(),
            subscription,
            filter,
            relays,
            order: next(earlier),
            // One that goes on goes on from where it began.
            since: active.map_or(since, |row| row.since),
            state: State::Active,
            valid_until,
            changed_at: now,
        };
        if active.is_some() {
            rows.push(row);
        } else {
            let known = Subscription {
                state: State::Removed,
                ..row
            };
            rows.extend([
                known.clone(),
                Subscription {
                    order: next(Some(&known)),
                    state: State::Active,
                    ..known
                },
            ]);
        }
    }
    rows
}
