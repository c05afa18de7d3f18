//! Upserting and deleting filters.
//!
//! The index rows are written before the subscription counts as applied, and deleted after its
//! removal is recorded; each index row carries the order of the event that wrote it, so an older
//! writer that comes late changes nothing.

use std::collections::BTreeMap;

use nostr_push_core::{
    Millis,
    filter::Filter,
    order::Order,
    owner::Owner,
    ports::{IndexWriter, Subscriptions, Unavailable, seconds},
    subscription::{IndexRow, MAX_SUBSCRIPTIONS, State, Subscription},
};

use crate::{
    handler::{Applied, Failure},
    payload::Filters,
    refusal::Refusal,
};

/// Applies an upsert.
///
/// # Errors
/// A refusal, or a dependency that failed. After the latter it may be applied again from the start.
pub async fn upsert(
    store: &(impl Subscriptions + IndexWriter),
    owner: &Owner,
    order: Order,
    valid_until: u64,
    filters: Filters,
    now: Millis,
) -> Result<Applied, Failure> {
    let Filters {
        by_identity: filters,
        relays,
    } = filters;
    let stored = store.of_owner(owner).await?;
    let of_others = |row: &&Subscription| {
        row.is_active(seconds(now)) && !row.is_derived() && !filters.contains_key(&row.subscription)
    };
    if stored.iter().filter(of_others).count() + filters.len() > MAX_SUBSCRIPTIONS {
        return Err(Refusal::OverQuota.into());
    }
    let mut applied = Applied::Superseded;
    for (subscription, filter) in filters {
        let earlier = stored.iter().find(|row| row.subscription == subscription);
        if earlier.is_some_and(|row| row.order == order) {
            // The row is written last, so all of it is there.
            applied = applied.or(Applied::Repeated);
            continue;
        }
        if let Some(row) = earlier.filter(|row| !order.supersedes(&row.order)) {
            if is_just_removed(row, now) {
                // This very event may have come before the removal, and died after its index rows.
                store
                    .delete_index(row.index_rows().collect(), order)
                    .await?;
            }
            continue;
        }
        let row = Subscription {
            owner: owner.clone(),
            subscription,
            filter,
            relays: relays.clone(),
            order,
            since: since(earlier, order.created_at, now),
            state: State::Active,
            valid_until,
            changed_at: now,
        };
        if put(store, &row).await? {
            applied = Applied::Subscribed;
        }
    }
    Ok(applied)
}

/// Whether the row was removed so short a time ago that somebody who died over its index rows may
/// not have come back yet.
pub fn is_just_removed(row: &Subscription, now: Millis) -> bool {
    const REDELIVERED: Millis = 60 * 60 * 1000;
    row.state == State::Removed && row.changed_at + REDELIVERED > now
}

/// A subscription that is renewed before it ends goes on: what was sent meanwhile still notifies.
fn since(earlier: Option<&Subscription>, created_at: u64, now: Millis) -> u64 {
    earlier
        .filter(|row| row.is_active(seconds(now)))
        .map_or(created_at, |row| row.since)
}

/// Applies a deletion.
///
/// # Errors
/// A dependency that failed: apply it again from the start.
pub async fn delete(
    store: &(impl Subscriptions + IndexWriter),
    owner: &Owner,
    order: Order,
    filters: BTreeMap<String, Filter>,
    now: Millis,
) -> Result<Applied, Failure> {
    let ids: Vec<_> = filters
        .keys()
        .map(|subscription| (owner.clone(), subscription.clone()))
        .collect();
    let stored = store.get(&ids).await?;
    let mut applied = Applied::Superseded;
    for (subscription, filter) in filters {
        let earlier = stored.iter().find(|row| row.subscription == subscription);
        let repeated = earlier.is_some_and(|row| row.order == order);
        if !repeated && earlier.is_some_and(|row| !order.supersedes(&row.order)) {
            continue;
        }
        let row = Subscription {
            owner: owner.clone(),
            subscription,
            filter,
            relays: Vec::new(),
            order,
            since: order.created_at,
            state: State::Removed,
            valid_until: earlier.map_or(0, |row| row.valid_until),
            changed_at: now,
        };
        // On a repeat the index rows are deleted again, as the first attempt may have died before
        // that.
        if repeated {
            store
                .delete_index(row.index_rows().collect(), order)
                .await?;
            applied = applied.or(Applied::Repeated);
        } else if tombstone(store, &row).await? {
            applied = Applied::Unsubscribed;
        }
    }
    Ok(applied)
}

/// Writes an active row behind its index rows. Answers whether it was still the newest.
///
/// # Errors
/// A dependency that failed.
pub async fn put(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
) -> Result<bool, Unavailable> {
    let index: Vec<IndexRow> = row.index_rows().collect();
    store.put_index(index.clone()).await?;
    if store.put(row).await? {
        return Ok(true);
    }
    // Somebody newer came in between. If it was a removal, it may have cleared the index before we
    // wrote there.
    let stored = store
        .get(&[(row.owner.clone(), row.subscription.clone())])
        .await?;
    if stored.iter().any(|stored| stored.state == State::Removed) {
        store.delete_index(index, row.order).await?;
    }
    Ok(false)
}

/// Writes a removal and then deletes the index rows. Answers whether it was still the newest.
///
/// # Errors
/// A dependency that failed.
pub async fn tombstone(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
) -> Result<bool, Unavailable> {
    let written = store.put(row).await?;
    if written {
        store
            .delete_index(row.index_rows().collect(), row.order)
            .await?;
    }
    Ok(written)
}
