//! The filter index. It is not copied, but made from the stack's subscriptions: a copied row could
//! belong to a filter that its owner has removed since.

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use nostr_push_core::{
    owner::Owner,
    ports::{IndexWriter, Subscriptions},
    subscription::{IndexRow, Subscription},
};

use super::{Counts, Outcome, Restore};

/// The table.
pub(super) const TABLE: &str = "filter-index";

/// The most subscriptions whose index rows are written at the same time. Each writes up to 32 rows
/// at a time.
const CONCURRENCY: usize = 8;

/// Writes the index rows of all subscriptions in force. Rows that exist stay. Counts subscriptions.
pub(super) async fn rebuild(restore: &Restore<'_>) -> Result<Counts> {
    let mut counts = Counts::default();
    let scan = restore.dynamodb.scan();
    let scan = scan
        .table_name(format!("{}-subscriptions", restore.context.prefix))
        .projection_expression("#owner, #subscription")
        .expression_attribute_names("#owner", "owner")
        .expression_attribute_names("#subscription", "subscription");
    let mut pages = scan.consistent_read(true).into_paginator().send();
    while let Some(page) = pages.next().await {
        let items = page.context("cannot read the subscriptions")?;
        let items = items.items.unwrap_or_default();
        let ids: Vec<(Owner, String)> = items
            .iter()
            .filter_map(|item| {
                let owner = item.get("owner")?.as_s().ok()?.parse().ok()?;
                Some((owner, item.get("subscription")?.as_s().ok()?.clone()))
            })
            .collect();
        for ids in ids.chunks(100) {
            let rows = restore.context.store.get(ids).await?;
            let writes = stream::iter(rows).map(|row| write(restore, row));
            let mut writes = writes.buffer_unordered(CONCURRENCY);
            while let Some(outcome) = writes.try_next().await? {
                counts.add(outcome);
            }
        }
        restore.report(TABLE, &counts);
    }
    Ok(counts)
}

/// Writes the index rows of one subscription, if it is in force.
async fn write(restore: &Restore<'_>, subscription: Subscription) -> Result<Outcome> {
    if !subscription.is_active(restore.now) {
        return Ok(Outcome::Expired);
    }
    let store = &restore.context.store;
    let rows: Vec<IndexRow> = subscription.index_rows().collect();
    if restore.is_dry_run {
        return Ok(Outcome::Copied);
    }
    restore.pace.wait(rows.len()).await;
    store.put_index(rows.clone()).await?;
    // Control may have removed the filter after it was read, and its index rows before these were
    // written. A newer upsert has written its own rows, and its order protects them.
    let id = (subscription.owner, subscription.identity);
    let current = store.get(std::slice::from_ref(&id)).await?;
    if let Some(current) = current.first().filter(|row| !row.is_active(restore.now)) {
        store.delete_index(rows, current.order).await?;
        return Ok(Outcome::Kept);
    }
    Ok(Outcome::Copied)
}
