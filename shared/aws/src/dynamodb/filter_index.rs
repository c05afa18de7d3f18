//! `filter_index`: key `index_key` and `owner_subscription` (`own#app#pubkey#identity` or
//! `sub#app#pubkey#identity`, see [`IndexRow::sort_key`]). Holds the row's filter, unless it is
//! in `subscriptions` alone. The attribute `relays` holds the hashes of the relays that the
//! subscription names, if it names any.
//!
//! Guarantee: an older event neither overwrites nor deletes the row of a newer one. If a dormant
//! filter comes into force again, a process that was making it dormant does not delete the row.

use std::fmt;

use futures_util::{StreamExt, TryStreamExt, stream};
use nostr_push_core::{
    Seconds,
    filter::Filter,
    index_key::IndexKey,
    order::Order,
    owner::Owner,
    ports::{IndexPage, IndexReader, IndexWriter, PortResult},
    relay_url::RelayHash,
    subscription::IndexRow,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use super::{SAME_ORDER, SUPERSEDES, Store, conditional, n, order_values, read, s};
use crate::cause::{unavailable, unreadable};

const PUT: &str = "dynamodb.filter_index.put";
const DELETE: &str = "dynamodb.filter_index.delete";
const QUERY: &str = "dynamodb.filter_index.query";

const INDEX_KEY: &str = "index_key";
const OWNER_SUBSCRIPTION: &str = "owner_subscription";

/// The rows of a page. With filters of typical size a page is below DynamoDB's limit of 1 MiB.
const PAGE_ROWS: i32 = 500;

/// The most writes at the same time. A subscription has at most 1,000 index keys; most have one.
const MAX_CONCURRENT_WRITES: usize = 32;

#[derive(Serialize, Deserialize)]
struct Row {
    index_key: String,
    owner_subscription: String,
    owner: Owner,
    subscription: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    #[serde(default, skip_serializing_if = "RelayHashes::is_empty")]
    relays: RelayHashes,
    #[serde(flatten)]
    order: Order,
    since: Seconds,
    expires_at: Seconds,
}

/// The hashes of relays, as one binary attribute.
#[derive(Default)]
struct RelayHashes(Vec<RelayHash>);

impl RelayHashes {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for RelayHashes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&RelayHash::to_bytes(&self.0))
    }
}

impl<'de> Deserialize<'de> for RelayHashes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(RelayHashesVisitor)
    }
}

struct RelayHashesVisitor;

impl Visitor<'_> for RelayHashesVisitor {
    type Value = RelayHashes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the hashes of relays")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<RelayHashes, E> {
        Ok(RelayHashes(RelayHash::from_bytes(bytes)))
    }
}

impl IndexWriter for Store {
    async fn put_index(&self, rows: Vec<IndexRow>) -> PortResult<()> {
        let put = |row: IndexRow| async move {
            let item = Row {
                index_key: row.index_key.to_string(),
                owner_subscription: row.sort_key(),
                owner: row.owner,
                subscription: row.identity,
                filter: row.filter.as_ref().map(Filter::to_json),
                relays: RelayHashes(row.relays),
                order: row.order,
                since: row.since,
                expires_at: row.valid_until,
            };
            let condition = format!("{SUPERSEDES} OR ({SAME_ORDER} AND since < :since)");
            let values = order_values(&row.order).into_iter();
            let values = values.chain([(":since", n(row.since.0))]);
            let table = &self.tables.filter_index;
            self.put_if(&condition, values, PUT, table, &item).await
        };
        stream::iter(rows)
            .map(put)
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    async fn delete_index(&self, rows: Vec<IndexRow>, order: Order) -> PortResult<()> {
        let delete = |row: IndexRow| async move {
            let mut request = self
                .client
                .delete_item()
                .table_name(&self.tables.filter_index);
            request = request
                .key(INDEX_KEY, s(row.index_key.to_string()))
                .key(OWNER_SUBSCRIPTION, s(row.sort_key()));
            for (name, value) in order_values(&order) {
                request = request.expression_attribute_values(name, value);
            }
            request = request.expression_attribute_values(":since", n(row.since.0));
            // The rows of this very order are deleted too, unless they started later.
            let condition = format!("{SUPERSEDES} OR ({SAME_ORDER} AND since <= :since)");
            conditional(DELETE, request.condition_expression(condition).send().await)
        };
        stream::iter(rows)
            .map(delete)
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .try_for_each(|_| async { Ok(()) })
            .await
    }
}

impl IndexReader for Store {
    async fn page(&self, key: &IndexKey, after: Option<&str>) -> PortResult<IndexPage> {
        let key = key.to_string();
        let mut query = self
            .client
            .query()
            .table_name(&self.tables.filter_index)
            .limit(PAGE_ROWS);
        query = query
            .key_condition_expression("index_key = :key")
            .expression_attribute_values(":key", s(&key));
        if let Some(after) = after {
            query = query
                .exclusive_start_key(INDEX_KEY, s(&key))
                .exclusive_start_key(OWNER_SUBSCRIPTION, s(after));
        }
        let answer = query.send().await.map_err(unavailable(QUERY))?;
        let last = answer
            .last_evaluated_key
            .and_then(|mut key| key.remove(OWNER_SUBSCRIPTION));
        let next = last.and_then(|value| value.as_s().ok().cloned());
        let rows = answer
            .items
            .unwrap_or_default()
            .into_iter()
            .map(|item| index_row(read(QUERY, item)?))
            .collect::<PortResult<_>>()?;
        Ok(IndexPage { rows, next })
    }
}

fn index_row(row: Row) -> PortResult<IndexRow> {
    let filter = row
        .filter
        .map(|json| serde_json::from_str(&json))
        .transpose()
        .map_err(unreadable(QUERY))?;
    Ok(IndexRow {
        index_key: row.index_key.parse().map_err(unreadable(QUERY))?,
        owner: row.owner,
        identity: row.subscription,
        filter,
        relays: row.relays.0,
        order: row.order,
        since: row.since,
        valid_until: row.expires_at,
    })
}
