//! Storing and deleting filters.
//!
//! The index rows of a subscription are written before its row, and deleted after the removal is in
//! its row. Every index row carries the order of the event that wrote it, so a late writer with an
//! older event changes nothing.

use std::collections::BTreeMap;

use nostr_push_core::{
    Millis, Seconds, device_store,
    filter::Filter,
    order::Order,
    owner::Owner,
    ports::{Devices, IndexWriter, PortResult, Subscriptions},
    subscription::{IndexRow, MAX_SUBSCRIPTIONS, Subscription, SubscriptionState},
};

use crate::{
    check::DecryptedEvent,
    outcome::{Applied, Failure},
    payload::Filters,
    refusal::Refusal,
};

/// How long after a removal its index rows are deleted again. If a process crashes while writing
/// index rows, its message is received again within this time.
const REDELIVERY_WINDOW: Millis = Seconds::from_hours(1).to_millis();

/// Stores the filters of an event.
///
/// # Errors
/// A refusal, or a dependency failed. In the latter case the event can be applied again from the
/// start.
pub async fn upsert(
    store: &(impl Devices + Subscriptions + IndexWriter),
    event: &DecryptedEvent,
    filters: Filters,
    now: Millis,
) -> Result<Applied, Failure> {
    let (owner, order) = (&event.owner, event.order);
    let stored = store.of_owner(owner).await?;
    let is_other = |row: &&Subscription| {
        row.is_active(now.to_seconds())
            && !row.is_derived()
            && !filters.by_identity.contains_key(&row.identity)
    };
    let others = stored.iter().filter(is_other).count();
    if others + filters.by_identity.len() > MAX_SUBSCRIPTIONS {
        return Err(Refusal::OverQuota.into());
    }
    // Only the choice of owners' relays depends on the proof.
    let proven = !filters.relays.is_empty()
        && device_store::owner_devices(store, owner)
            .await?
            .has_proven(now.to_seconds());
    let mut applied = Applied::Superseded;
    for (identity, filter) in filters.by_identity {
        let earlier = stored.iter().find(|row| row.identity == identity);
        if earlier.is_some_and(|row| row.order == order) {
            // The row is written last, so its index rows exist.
            applied = applied.or(Applied::Repeated);
            continue;
        }
        if let Some(row) = earlier.filter(|row| !order.supersedes(&row.order)) {
            if is_just_removed(row, now) {
                // An earlier attempt at this event may have written index rows before the removal,
                // and crashed before it wrote the subscription.
                let index = row.index_rows().collect();
                store.delete_index(index, order).await?;
            }
            continue;
        }
        let row = Subscription {
            owner: owner.clone(),
            identity,
            filter,
            relays: filters.relays.clone(),
            proven,
            order,
            since: since(earlier, order, now),
            state: SubscriptionState::Active,
            valid_until: event.valid_until,
            changed_at: now,
        };
        if put(store, &row).await? {
            applied = Applied::Subscribed;
        }
    }
    Ok(applied)
}

/// Returns `true` if the subscription was removed within `REDELIVERY_WINDOW`. Until then, the
/// message of a process that crashed while writing index rows may be received again.
pub fn is_just_removed(row: &Subscription, now: Millis) -> bool {
    row.state == SubscriptionState::Removed && row.changed_at + REDELIVERY_WINDOW > now
}

/// The start of a subscription. A subscription that is renewed before it ends keeps its start, so
/// that events sent in the meantime still notify.
fn since(earlier: Option<&Subscription>, order: Order, now: Millis) -> Seconds {
    earlier
        .filter(|row| row.is_active(now.to_seconds()))
        .map_or(order.created_at.min(now.to_seconds()), |row| row.since)
}

/// Deletes the filters of an event.
///
/// # Errors
/// A dependency failed: apply the event again from the start.
pub async fn delete(
    store: &(impl Subscriptions + IndexWriter),
    event: &DecryptedEvent,
    filters: BTreeMap<String, Filter>,
    now: Millis,
) -> Result<Applied, Failure> {
    let (owner, order) = (&event.owner, event.order);
    let ids: Vec<(Owner, String)> = filters
        .keys()
        .map(|identity| (owner.clone(), identity.clone()))
        .collect();
    let stored = store.get(&ids).await?;
    let mut applied = Applied::Superseded;
    for (identity, filter) in filters {
        let earlier = stored.iter().find(|row| row.identity == identity);
        let is_repeat = earlier.is_some_and(|row| row.order == order);
        if !is_repeat && earlier.is_some_and(|row| !order.supersedes(&row.order)) {
            continue;
        }
        let row = Subscription {
            owner: owner.clone(),
            identity,
            filter,
            relays: Vec::new(),
            proven: false,
            order,
            since: order.created_at,
            state: SubscriptionState::Removed,
            valid_until: earlier.map_or(Seconds(0), |row| row.valid_until),
            changed_at: now,
        };
        if is_repeat {
            // The first attempt may have crashed before it deleted the index rows.
            let index = row.index_rows().collect();
            store.delete_index(index, order).await?;
            applied = applied.or(Applied::Repeated);
        } else if tombstone(store, &row).await? {
            applied = Applied::Unsubscribed;
        }
    }
    Ok(applied)
}

/// Writes the index rows of an active subscription, and then its row. Returns `false` if a newer
/// row is stored.
///
/// # Errors
/// A dependency failed.
pub async fn put(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
) -> PortResult<bool> {
    let index: Vec<IndexRow> = row.index_rows().collect();
    store.put_index(index.clone()).await?;
    if store.put(row).await? {
        return Ok(true);
    }
    // A newer event was applied in between. If it was a removal, it may have deleted the index rows
    // before they were written here.
    let id = (row.owner.clone(), row.identity.clone());
    let stored = store.get(&[id]).await?;
    if stored
        .iter()
        .any(|stored| stored.state == SubscriptionState::Removed)
    {
        store.delete_index(index, row.order).await?;
    }
    Ok(false)
}

/// Writes the row of a removal, and then deletes the index rows. Returns `false` if a newer row is
/// stored.
///
/// # Errors
/// A dependency failed.
pub async fn tombstone(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
) -> PortResult<bool> {
    let written = store.put(row).await?;
    if written {
        let index = row.index_rows().collect();
        store.delete_index(index, row.order).await?;
    }
    Ok(written)
}
