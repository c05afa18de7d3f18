//! The tables, one file each. [`Store`] implements the ports of all tables. Which of them a
//! function may use is defined by its policy in `template.yaml`.

mod apps;
mod blocklist;
mod budgets;
mod claims;
pub(crate) mod devices;
mod filter_index;
mod mute_lists;
mod presence;
mod profiles;
mod rates;
mod relays;
mod settings;
pub mod spending;
mod subscriptions;
mod transaction;
mod usage;

pub use devices::{DeviceTableRow, DevicesPage};

use std::{collections::BTreeSet, hash::Hash, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::update_item::{UpdateItemError, UpdateItemOutput},
    types::{AttributeValue, KeysAndAttributes},
};
use moka::future::Cache;
use nostr_push_core::{
    app::App,
    capacity::Usage,
    order::Order,
    ports::{FailureCause, PortResult, Unavailable},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::cause::{unavailable, unreadable};

/// One stored row.
pub(crate) type Item = std::collections::HashMap<String, AttributeValue>;

/// The TTL attribute of every table. No read relies on DynamoDB's deletion of expired rows.
pub const EXPIRES_AT: &str = "expires_at";

/// The condition of every write that an event orders: there is no row, or an older event wrote it.
pub const SUPERSEDES: &str = "attribute_not_exists(created_at) \
    OR created_at < :created_at \
    OR (created_at = :created_at AND event_id > :event_id)";

/// The condition that the stored row has the order of the new one.
pub(crate) const SAME_ORDER: &str = "created_at = :created_at AND event_id = :event_id";

/// The most keys of a batch read
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>).
const MAX_BATCH_KEYS: usize = 100;

/// The most attempts of a batch read for keys that DynamoDB leaves unprocessed.
const MAX_BATCH_ATTEMPTS: u32 = 6;

/// The tables of one deployment.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    tables: Arc<Tables>,
    apps: Cache<String, Option<App>>,
    blocked: Cache<(), Arc<BTreeSet<String>>>,
    usage: Cache<(), Option<Usage>>,
    profiles: profiles::ProfileCache,
}

/// The names of the tables.
#[derive(Debug)]
struct Tables {
    apps: String,
    claims: String,
    devices: String,
    filter_index: String,
    mute_lists: String,
    presence: String,
    profiles: String,
    rates: String,
    relays: String,
    settings: String,
    subscriptions: String,
}

impl Store {
    /// The tables of the stack named `prefix`, which all table names start with.
    pub fn new(config: &SdkConfig, prefix: &str) -> Self {
        let name = |table: &str| format!("{prefix}-{table}");
        Self {
            client: Client::new(config),
            tables: Arc::new(Tables {
                apps: name("apps"),
                claims: name("claims"),
                devices: name("devices"),
                filter_index: name("filter-index"),
                mute_lists: name("mute-lists"),
                presence: name("presence"),
                profiles: name("profiles"),
                rates: name("rates"),
                relays: name("relays"),
                settings: name("settings"),
                subscriptions: name("subscriptions"),
            }),
            apps: cache(10_000),
            blocked: cache(1),
            usage: cache(1),
            profiles: profiles::cache(),
        }
    }

    /// Reads a row by its key with a consistent read.
    async fn get_row<T: DeserializeOwned>(
        &self,
        dependency: &'static str,
        table: &str,
        key: &str,
        value: String,
    ) -> PortResult<Option<T>> {
        let request = self
            .client
            .get_item()
            .table_name(table)
            .key(key, s(value))
            .consistent_read(true);
        request
            .send()
            .await
            .map_err(unavailable(dependency))?
            .item
            .map(|item| read(dependency, item))
            .transpose()
    }

    /// Writes a row, unless the stored one is as new or newer. Returns `true` if it was written.
    async fn put_newer<T: Serialize>(
        &self,
        dependency: &'static str,
        table: &str,
        row: &T,
        order: &Order,
    ) -> PortResult<bool> {
        self.put_if(SUPERSEDES, order_values(order), dependency, table, row)
            .await
    }

    /// Writes a row if a condition with these values is true. Returns `true` if it was written.
    async fn put_if<T: Serialize>(
        &self,
        condition: &str,
        values: impl IntoIterator<Item = (&'static str, AttributeValue)>,
        dependency: &'static str,
        table: &str,
        row: &T,
    ) -> PortResult<bool> {
        let mut request = self
            .client
            .put_item()
            .table_name(table)
            .set_item(Some(write(dependency, row)?));
        for (name, value) in values {
            request = request.expression_attribute_values(name, value);
        }
        conditional(
            dependency,
            request.condition_expression(condition).send().await,
        )
    }

    /// Reads rows by their keys with consistent reads.
    async fn batch_get<T: DeserializeOwned>(
        &self,
        dependency: &'static str,
        table: &str,
        keys: Vec<Item>,
    ) -> PortResult<Vec<T>> {
        let mut rows = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(MAX_BATCH_KEYS) {
            let items = self.batch_get_chunk(dependency, table, chunk.to_vec());
            for item in items.await? {
                rows.push(read(dependency, item)?);
            }
        }
        Ok(rows)
    }

    /// Reads at most [`MAX_BATCH_KEYS`] rows. DynamoDB leaves keys unprocessed when it throttles,
    /// or beyond 16 MiB; these are read again after a pause.
    async fn batch_get_chunk(
        &self,
        dependency: &'static str,
        table: &str,
        mut keys: Vec<Item>,
    ) -> PortResult<Vec<Item>> {
        let mut items = Vec::with_capacity(keys.len());
        for attempt in 0..MAX_BATCH_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
            }
            let request = KeysAndAttributes::builder()
                .set_keys(Some(keys))
                .consistent_read(true)
                .build()
                .map_err(unreadable(dependency))?;
            let response = self
                .client
                .batch_get_item()
                .request_items(table, request)
                .send()
                .await
                .map_err(unavailable(dependency))?;
            let read = response.responses.unwrap_or_default();
            items.extend(read.into_values().flatten());
            let left = response.unprocessed_keys.unwrap_or_default();
            keys = left.into_values().flat_map(|left| left.keys).collect();
            if keys.is_empty() {
                return Ok(items);
            }
        }
        let why = format!("{} keys were not read", keys.len());
        Err(Unavailable::caused(
            FailureCause::Throttled,
            dependency,
            why,
        ))
    }
}

/// A cache whose entries are up to 60 s old.
fn cache<K, V>(capacity: u64) -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(capacity)
        .time_to_live(Duration::from_secs(60))
        .build()
}

/// Converts a row to a struct.
fn read<T: DeserializeOwned>(dependency: &'static str, item: Item) -> PortResult<T> {
    serde_dynamo::from_item(item).map_err(unreadable(dependency))
}

/// Converts a struct to a row.
fn write<T: Serialize>(dependency: &'static str, row: &T) -> PortResult<Item> {
    serde_dynamo::to_item(row).map_err(unreadable(dependency))
}

/// A string attribute.
fn s(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

/// A number attribute.
fn n(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// The values of [`SUPERSEDES`].
fn order_values(order: &Order) -> [(&'static str, AttributeValue); 2] {
    [
        (":created_at", n(order.created_at.0)),
        (":event_id", s(order.event_id.to_hex())),
    ]
}

/// The result of a conditional update: `Ok` with the updated row if the condition held, and `Err`
/// with the stored one if not. A row is there only if the request asked for it.
fn conditional_update(
    dependency: &'static str,
    result: Result<UpdateItemOutput, SdkError<UpdateItemError>>,
) -> PortResult<Result<Option<Item>, Option<Item>>> {
    let error = match result {
        Ok(updated) => return Ok(Ok(updated.attributes)),
        Err(error) => error,
    };
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
            Ok(Err(failed.item.clone()))
        }
        _ => Err(unavailable(dependency)(error)),
    }
}

/// The result of a conditional write: `true` if the condition held.
fn conditional<T, E: ProvideErrorMetadata + std::error::Error + 'static>(
    dependency: &'static str,
    result: Result<T, SdkError<E>>,
) -> PortResult<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
        Err(error) => Err(unavailable(dependency)(error)),
    }
}
