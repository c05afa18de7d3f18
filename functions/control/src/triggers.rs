//! Fixed triggers: the filters an app gives to every owner with a device. They live as long as the longest-lived
//! device and go with the last one.
//!
//! They follow from the devices and the app's settings alone, so whoever changes a device comes here afterwards and
//! brings them in line with what is stored by then. A counter in place of an event's order tells two such writers
//! apart: the later one reads again.

use nostr_push_core::{
    Millis,
    app::App,
    device::{self, View},
    order::Order,
    owner::Owner,
    ports::{Devices, IndexWriter, Subscriptions, seconds},
    subscription::{State, Subscription, TRIGGER},
};

use crate::{
    devices::{ATTEMPTS, contention},
    handler::Failure,
    subscriptions,
};

/// Brings the owner's fixed triggers in line with its devices.
///
/// # Errors
/// A dependency that failed: try again from the start.
pub async fn reconcile(store: &(impl Devices + Subscriptions + IndexWriter), app: &App, owner: &Owner, now: Millis) -> Result<(), Failure> {
    for _ in 0..ATTEMPTS {
        // In this order: a device that changes after the first read makes its own writer come here and find a higher
        // counter than ours.
        let stored: Vec<_> = store.of_owner(owner).await?.into_iter().filter(Subscription::is_trigger).collect();
        let view = device::view(store, owner).await?;
        let mut in_line = true;
        for row in wanted(app, owner, &view, &stored, now) {
            in_line &= match row.state {
                State::Active => subscriptions::put(store, &row).await?,
                State::Removed => subscriptions::tombstone(store, &row).await?,
            };
        }
        if in_line {
            return Ok(());
        }
    }
    Err(contention().into())
}

/// The rows to write.
fn wanted(app: &App, owner: &Owner, view: &View, stored: &[Subscription], now: Millis) -> Vec<Subscription> {
    let now_s = seconds(now);
    let valid_until = view.active(now_s).map(|(_, registration)| registration.valid_until).max();
    let registered_at = view.active(now_s).map(|(_, registration)| registration.order.created_at).max().unwrap_or_default();
    let filters = app.triggers_for(owner.pubkey).unwrap_or_else(|error| {
        tracing::error!(stage = "control", app = app.app, %error, "the app's fixed triggers are no filters: none applied");
        Vec::new()
    });
    let next = |row: Option<&Subscription>| Order::counter(row.map_or(0, |row| row.order.created_at) + 1);
    let mut rows = Vec::new();
    let mut kept = Vec::new();
    if let Some(valid_until) = valid_until {
        for filter in filters.into_iter().filter(|filter| !filter.index_keys().is_empty()) {
            let subscription = format!("{TRIGGER}{}", filter.identity());
            let earlier = stored.iter().find(|row| row.subscription == subscription);
            kept.push(subscription.clone());
            if earlier.is_some_and(|row| row.is_active(now_s) && row.valid_until == valid_until) {
                continue;
            }
            let since = earlier.filter(|row| row.is_active(now_s)).map_or(registered_at, |row| row.since);
            rows.push(Subscription {
                owner: owner.clone(),
                subscription,
                filter,
                order: next(earlier),
                since,
                state: State::Active,
                valid_until,
                changed_at: now,
            });
        }
    }
    let ended = stored.iter().filter(|row| row.state == State::Active && !kept.contains(&row.subscription));
    rows.extend(ended.map(|row| Subscription { order: next(Some(row)), state: State::Removed, changed_at: now, ..row.clone() }));
    rows
}
