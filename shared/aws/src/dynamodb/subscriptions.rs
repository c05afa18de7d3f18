//! `subscriptions`: key `owner` (app#pubkey) and `subscription` (identity); index `by_change`
//! (`shard`, `changed_at`).
//!
//! Guarantee: the row of the newest event wins, in whatever order they are written. The index is
//! the change feed of the listener; removals stay in it until nothing older can come.

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use nostr_push_core::{
    Millis,
    filter::Filter,
    order::Order,
    owner::Owner,
    ports::{Answer, ChangeFeed, Subscriptions},
    subscription::{State, Subscription},
};
use serde::{Deserialize, Serialize};

use super::{Item, Store, n, read, s};
use crate::clients::unavailable;

const GET: &str = "dynamodb.subscriptions.get";
const PUT: &str = "dynamodb.subscriptions.put";
const FEED: &str = "dynamodb.subscriptions.by_change";

const OWNER: &str = "owner";
const SUBSCRIPTION: &str = "subscription";
const BY_CHANGE: &str = "by_change";

/// Over how many partitions the change feed is spread: writes to one index partition are limited to
/// 1,000 a second. And over how many requests the first reading, of everything, is spread. Asking
/// each every 1.5 s costs some 28 million read units a month.
const SHARDS: u64 = 32;

#[derive(Serialize, Deserialize)]
struct Row {
    owner: Owner,
    subscription: String,
    filter: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relays: Vec<String>,
    #[serde(flatten)]
    order: Order,
    since: u64,
    state: State,
    valid_until: u64,
    changed_at: Millis,
    shard: u64,
    expires_at: u64,
}

impl Subscriptions for Store {
    async fn get(&self, ids: &[(Owner, String)]) -> Answer<Vec<Subscription>> {
        let key = |(owner, subscription): &(Owner, String)| {
            Item::from([
                (OWNER.to_owned(), s(owner.to_string())),
                (SUBSCRIPTION.to_owned(), s(subscription)),
            ])
        };
        let rows: Vec<Row> = self
            .batch_get(
                GET,
                &self.tables.subscriptions,
                ids.iter().map(key).collect(),
            )
            .await?;
        rows.into_iter().map(subscription).collect()
    }

    async fn of_owner(&self, owner: &Owner) -> Answer<Vec<Subscription>> {
        let query = self
            .client
            .query()
            .table_name(&self.tables.subscriptions)
            .consistent_read(true);
        let query = query
            .key_condition_expression("#owner = :owner")
            .expression_attribute_names("#owner", OWNER);
        let mut items = query
            .expression_attribute_values(":owner", s(owner.to_string()))
            .into_paginator()
            .items()
            .send();
        let mut rows = Vec::new();
        while let Some(item) = items.next().await {
            rows.push(subscription(read(GET, item.map_err(unavailable(GET))?)?)?);
        }
        Ok(rows)
    }

    async fn put(&self, row: &Subscription) -> Answer<bool> {
        let item = Row {
            owner: row.owner.clone(),
            subscription: row.subscription.clone(),
            filter: row.filter.to_json(),
            relays: row.relays.clone(),
            order: row.order,
            since: row.since,
            state: row.state,
            valid_until: row.valid_until,
            changed_at: row.changed_at,
            shard: shard(row),
            expires_at: row.expires_at(),
        };
        self.put_newer(PUT, &self.tables.subscriptions, &item, &row.order)
            .await
    }
}

impl ChangeFeed for Store {
    async fn changes(
        &self,
        since: Millis,
        mut each: impl FnMut(Subscription) + Send,
    ) -> Answer<()> {
        // Page by page: a first reading may bring a million rows, and they must not all be in
        // memory.
        let mut pages =
            stream::select_all((0..SHARDS).map(|shard| self.changes_in(shard, since).boxed()));
        while let Some(page) = pages.try_next().await? {
            for item in page {
                each(subscription(read(FEED, item)?)?);
            }
        }
        Ok(())
    }
}

impl Store {
    fn changes_in(
        &self,
        shard: u64,
        since: Millis,
    ) -> impl Stream<Item = Answer<Vec<Item>>> + Send + use<> {
        let query = self
            .client
            .query()
            .table_name(&self.tables.subscriptions)
            .index_name(BY_CHANGE);
        let query = query
            .key_condition_expression("#shard = :shard AND changed_at >= :since")
            .expression_attribute_names("#shard", "shard");
        let query = query
            .expression_attribute_values(":shard", n(shard))
            .expression_attribute_values(":since", n(since));
        stream::try_unfold(Some((query, None)), |state| async move {
            let Some((query, from)) = state else {
                return Ok(None);
            };
            let page = query
                .clone()
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(unavailable(FEED))?;
            let next = page.last_evaluated_key.map(|last| (query, Some(last)));
            Ok(Some((page.items.unwrap_or_default(), next)))
        })
    }
}

/// By the identity's own bytes, which a SHA-256 spreads evenly.
fn shard(row: &Subscription) -> u64 {
    row.subscription.bytes().map(u64::from).sum::<u64>() % SHARDS
}

fn subscription(row: Row) -> Answer<Subscription> {
    let json = serde_json::from_str(&row.filter).map_err(unavailable(GET))?;
    Ok(Subscription {
        owner: row.owner,
        subscription: row.subscription,
        filter: Filter::from_json(&json).map_err(unavailable(GET))?,
        relays: row.relays,
        order: row.order,
        since: row.since,
        state: row.state,
        valid_until: row.valid_until,
        changed_at: row.changed_at,
    })
}
