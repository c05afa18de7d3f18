//! `subscriptions`: key `owner` (`app#pubkey`) and `subscription` (the identity); index `by_change`
//! (`shard`, `changed_at`).
//!
//! Guarantee: the row of the newest event wins, whatever the order of the writes. A row is replaced
//! only by one of the same event. The index is the change feed of the listener. Each write stamps
//! its row with the time of the write. Removals stay in the index until no older event can be
//! accepted.

use nostr_push_core::{
    Millis, Seconds,
    filter::Filter,
    order::Order,
    owner::Owner,
    ports::{ChangeFeed, FeedPage, FeedPosition, PortResult, Subscriptions},
    subscription::{Subscription, SubscriptionState},
};
use serde::{Deserialize, Serialize};

use super::{Item, SAME_ORDER, Store, n, order_values, read, s};
use crate::{
    cause::{unavailable, unreadable},
    clients::now,
};

const GET: &str = "dynamodb.subscriptions.get";
const PUT: &str = "dynamodb.subscriptions.put";
const REPLACE: &str = "dynamodb.subscriptions.replace";
const FEED: &str = "dynamodb.subscriptions.by_change";

const OWNER: &str = "owner";
const SUBSCRIPTION: &str = "subscription";
const BY_CHANGE: &str = "by_change";
const SHARD: &str = "shard";
const CHANGED_AT: &str = "changed_at";

/// The number of partitions of the change feed. DynamoDB limits the writes to one partition of an
/// index to 1,000 per second. Polling each partition every 1.5 s costs about 28 million read units
/// per month.
const SHARDS: u64 = 32;

/// The rows of one page of the change feed, about 300 KB. A quarter of a virtual core decodes them
/// in about 50 ms.
const PAGE_ROWS: i32 = 500;

/// The rows that are decoded before other tasks run.
const ROWS_PER_TURN: usize = 100;

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
    /// [`Subscription::changed_at`]. Rows that earlier versions wrote do not have it: their stamp
    /// was that time.
    processed_at: Option<Millis>,
    /// The time of the write, by the writer's clock: the sort key of the change feed.
    #[serde(rename = "changed_at")]
    stamp: Millis,
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

    async fn replace(&self, row: &Subscription, read: Millis) -> PortResult<bool> {
        // Rows that earlier versions wrote have their only time in `changed_at`.
        let condition = format!(
            "{SAME_ORDER} AND (processed_at = :read OR \
             (attribute_not_exists(processed_at) AND changed_at = :read))"
        );
        let values = order_values(&row.order).into_iter();
        let values = values.chain([(":read", n(read.0))]);
        let table = &self.tables.subscriptions;
        self.put_if(&condition, values, REPLACE, table, &Row::of(row))
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
            processed_at: Some(row.changed_at),
            stamp: now(),
            shard: shard(row),
            expires_at: row.expires_at(),
        }
    }
}

/// The end of a page, as DynamoDB returns it.
#[derive(Deserialize)]
struct PageEnd {
    owner: String,
    subscription: String,
    #[serde(rename = "changed_at")]
    stamp: Millis,
}

impl ChangeFeed for Store {
    fn partitions(&self) -> u64 {
        SHARDS
    }

    async fn page(
        &self,
        partition: u64,
        since: Millis,
        after: Option<&FeedPosition>,
    ) -> PortResult<FeedPage> {
        let start = after.map(|after| {
            Item::from([
                (SHARD.to_owned(), n(partition)),
                (CHANGED_AT.to_owned(), n(after.stamp.0)),
                (OWNER.to_owned(), s(&after.owner)),
                (SUBSCRIPTION.to_owned(), s(&after.identity)),
            ])
        });
        let query = self
            .client
            .query()
            .table_name(&self.tables.subscriptions)
            .index_name(BY_CHANGE)
            .limit(PAGE_ROWS)
            .set_exclusive_start_key(start);
        let query = query
            .key_condition_expression("#shard = :shard AND #changed_at >= :since")
            .expression_attribute_names("#shard", SHARD)
            .expression_attribute_names("#changed_at", CHANGED_AT);
        let query = query
            .expression_attribute_values(":shard", n(partition))
            .expression_attribute_values(":since", n(since.0));
        let page = query.send().await.map_err(unavailable(FEED))?;
        let end = page.last_evaluated_key.map(|end| read(FEED, end));
        let next = end.transpose()?.map(|end: PageEnd| FeedPosition {
            stamp: end.stamp,
            owner: end.owner,
            identity: end.subscription,
        });
        let rows = decode(page.items.unwrap_or_default()).await;
        Ok(FeedPage { rows, next })
    }
}

/// Decodes the rows of a page. Rows that cannot be decoded are left out, because otherwise one such
/// row would keep the listener from starting.
async fn decode(items: Vec<Item>) -> Vec<Subscription> {
    let total = items.len();
    let mut rows = Vec::with_capacity(total);
    for (number, item) in items.into_iter().enumerate() {
        if number % ROWS_PER_TURN == ROWS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        rows.extend(read(FEED, item).and_then(subscription).ok());
    }
    if rows.len() < total {
        tracing::error!(
            dependency = FEED,
            rows = total - rows.len(),
            "rows of the change feed cannot be decoded and are left out"
        );
    }
    rows
}

/// The partition of the row, from the bytes of the pubkey and of the identity. The same filter of
/// many owners has one identity, so the identity alone would put all of them into one partition.
fn shard(row: &Subscription) -> u64 {
    let pubkey = row.owner.pubkey.as_bytes().iter().copied();
    let bytes = pubkey.chain(row.identity.bytes());
    bytes.map(u64::from).sum::<u64>() % SHARDS
}

fn subscription(row: Row) -> PortResult<Subscription> {
    let json = serde_json::from_str(&row.filter).map_err(unreadable(GET))?;
    Ok(Subscription {
        owner: row.owner,
        identity: row.subscription,
        filter: Filter::from_json(&json).map_err(unreadable(GET))?,
        relays: row.relays,
        proven: row.proven,
        order: row.order,
        since: row.since,
        state: row.state,
        valid_until: row.valid_until,
        changed_at: row.processed_at.unwrap_or(row.stamp),
    })
}
