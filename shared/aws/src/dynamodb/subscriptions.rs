//! `subscriptions`: key `owner` (`app#pubkey`) and `subscription` (the identity); index `by_change`
//! (`shard`, `changed_at`).
//!
//! Guarantee: the row of the newest event wins, whatever the order of the writes. A row is replaced
//! only by one of the same event. The index is the
//! change feed of the listener. Removals stay in it until no older event can be accepted.

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use nostr_push_core::{
    Millis, Seconds,
    filter::Filter,
    order::Order,
    owner::Owner,
    ports::{ChangeFeed, PortResult, Subscriptions},
    subscription::{Subscription, SubscriptionState},
};
use serde::{Deserialize, Serialize};

use super::{Item, SAME_ORDER, Store, n, read, s};
use crate::clients::unavailable;

const GET: &str = "dynamodb.subscriptions.get";
const PUT: &str = "dynamodb.subscriptions.put";
const REPLACE: &str = "dynamodb.subscriptions.replace";
const FEED: &str = "dynamodb.subscriptions.by_change";

const OWNER: &str = "owner";
const SUBSCRIPTION: &str = "subscription";
const BY_CHANGE: &str = "by_change";

/// The number of partitions of the change feed. DynamoDB limits the writes to one partition of an
/// index to 1,000 per second. The first read of the whole feed uses as many requests in parallel.
/// Polling each partition every 1.5 s costs about 28 million read units per month.
const SHARDS: u64 = 32;

#[derive(Serialize, Deserialize)]
struct Row {
    owner: Owner,
    subscription: String,
    filter: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relays: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    proven: bool,
    #[serde(flatten)]
    order: Order,
    since: Seconds,
    state: SubscriptionState,
    valid_until: Seconds,
    changed_at: Millis,
    shard: u64,
    expires_at: Seconds,
}

impl Subscriptions for Store {
    async fn get(&self, ids: &[(Owner, String)]) -> PortResult<Vec<Subscription>> {
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

    async fn of_owner(&self, owner: &Owner) -> PortResult<Vec<Subscription>> {
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

    async fn put(&self, row: &Subscription) -> PortResult<bool> {
        self.put_newer(PUT, &self.tables.subscriptions, &Row::of(row), &row.order)
            .await
    }

    async fn replace(&self, row: &Subscription) -> PortResult<bool> {
        let table = &self.tables.subscriptions;
        self.put_if(SAME_ORDER, REPLACE, table, &Row::of(row), &row.order)
            .await
    }
}

impl Row {
    fn of(row: &Subscription) -> Self {
        Self {
            owner: row.owner.clone(),
            subscription: row.identity.clone(),
            filter: row.filter.to_json(),
            relays: row.relays.clone(),
            proven: row.proven,
            order: row.order,
            since: row.since,
            state: row.state,
            valid_until: row.valid_until,
            changed_at: row.changed_at,
            shard: shard(row),
            expires_at: row.expires_at(),
        }
    }
}

impl ChangeFeed for Store {
    async fn changes(
        &self,
        since: Millis,
        mut each: impl FnMut(Subscription) + Send,
    ) -> PortResult<()> {
        // Page by page, because the first read may return a million rows.
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
    ) -> impl Stream<Item = PortResult<Vec<Item>>> + Send + use<> {
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
            .expression_attribute_values(":since", n(since.0));
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

/// The partition of the row, from the bytes of its identity. SHA-256 distributes them evenly.
fn shard(row: &Subscription) -> u64 {
    row.identity.bytes().map(u64::from).sum::<u64>() % SHARDS
}

fn subscription(row: Row) -> PortResult<Subscription> {
    let json = serde_json::from_str(&row.filter).map_err(unavailable(GET))?;
    Ok(Subscription {
        owner: row.owner,
        identity: row.subscription,
        filter: Filter::from_json(&json).map_err(unavailable(GET))?,
        relays: row.relays,
        proven: row.proven,
        order: row.order,
        since: row.since,
        state: row.state,
        valid_until: row.valid_until,
        changed_at: row.changed_at,
    })
}
