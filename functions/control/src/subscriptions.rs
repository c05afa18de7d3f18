//! Writing the rows of a subscription in the right order.
//!
//! The index rows of a subscription are written before its row, and deleted after its row says that
//! it is removed or dormant. Every index row carries the order of the event that wrote it, so a
//! late writer with an older event changes nothing.

use nostr_push_core::{
    Millis, Seconds,
    ports::{IndexWriter, PortResult, Subscriptions},
    subscription::{IndexRow, Subscription, SubscriptionState},
};

/// How long after a change of the rows a message that was being processed at that time may be
/// received again, because its process crashed.
pub const REDELIVERY_WINDOW: Seconds = Seconds::from_hours(1);

/// Returns `true` if the subscription was removed within [`REDELIVERY_WINDOW`]. A process that
/// crashed in this time may have left index rows behind.
pub fn is_just_removed(row: &Subscription, now: Millis) -> bool {
    row.state == SubscriptionState::Removed && row.changed_at + REDELIVERY_WINDOW.to_millis() > now
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
    store.put_index(row.index_rows().collect()).await?;
    let is_written = store.put(row).await?;
    if !is_written {
        delete_stray_index(store, row).await?;
    }
    Ok(is_written)
}

/// Brings a stored subscription into force: writes its index rows, and then its row with the same
/// order. `read` is the `changed_at` of the row that was read. Returns `false` if another row is
/// stored by now.
///
/// # Errors
/// A dependency failed.
pub async fn wake(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
    read: Millis,
) -> PortResult<bool> {
    store.put_index(row.index_rows().collect()).await?;
    let is_written = store.replace(row, read).await?;
    if !is_written {
        delete_stray_index(store, row).await?;
    }
    Ok(is_written)
}

/// Deletes the index rows that were written for a row that was then refused. A newer event that
/// removed the subscription may have deleted the index rows before they were written.
async fn delete_stray_index(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
) -> PortResult<()> {
    let id = (row.owner.clone(), row.identity.clone());
    let stored = store.get(&[id]).await?;
    if stored
        .iter()
        .all(|stored| stored.state != SubscriptionState::Active)
    {
        delete_index(store, row).await?;
    }
    Ok(())
}

/// Writes a row that is removed or dormant, and then deletes the index rows. Returns `false` if a
/// newer row is stored.
///
/// # Errors
/// A dependency failed.
pub async fn put_without_index(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
) -> PortResult<bool> {
    let is_written = store.put(row).await?;
    if is_written {
        delete_index(store, row).await?;
    }
    Ok(is_written)
}

/// Makes a stored subscription dormant: writes its row with the same order, and then deletes the
/// index rows. Returns `false` if a row of another order is stored.
///
/// # Errors
/// A dependency failed.
pub async fn rest(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
    read: Millis,
) -> PortResult<bool> {
    let is_written = store.replace(row, read).await?;
    if is_written {
        delete_index(store, row).await?;
    }
    Ok(is_written)
}

/// Deletes the index rows of a subscription, except those of newer events.
///
/// # Errors
/// A dependency failed.
pub async fn delete_index(store: &impl IndexWriter, row: &Subscription) -> PortResult<()> {
    let index: Vec<IndexRow> = row.index_rows().collect();
    store.delete_index(index, row.order).await
}
