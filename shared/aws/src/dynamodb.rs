//! The tables, one file each. [`Store`] implements the ports of all of them; which a function may
//! really use is in its policy in `template.yaml`.

mod apps;
mod claims;
pub(crate) mod devices;
mod filter_index;
mod mute_lists;
mod presence;
mod rates;
mod relays;
mod settings;
mod subscriptions;

use std::{sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{AttributeValue, KeysAndAttributes},
};
use moka::future::Cache;
use nostr_push_core::{
    app::App,
    order::Order,
    ports::{Answer, Unavailable},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::clients::unavailable;

/// One stored row.
pub(crate) type Item = std::collections::HashMap<String, AttributeValue>;

/// The attribute DynamoDB's TTL goes by, in every table. Reads never trust it.
pub(crate) const EXPIRES_AT: &str = "expires_at";

/// "No row, or one written by an older event": the condition of every write that an event orders.
pub(crate) const SUPERSEDES: &str = "attribute_not_exists(created_at) OR created_at < :created_at OR (created_at = :created_at AND event_id > :event_id)";

/// How often a batch read asks again for what DynamoDB left out.
const BATCH_ATTEMPTS: u32 = 6;

/// The tables of one deployment.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    tables: Arc<Tables>,
    apps: Cache<String, Option<App>>,
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
    rates: String,
    relays: String,
    settings: String,
    subscriptions: String,
}

impl Store {
    /// The tables whose names begin with `prefix` (the stack's name).
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
                rates: name("rates"),
                relays: name("relays"),
                settings: name("settings"),
                subscriptions: name("subscriptions"),
            }),
            apps: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_secs(60))
                .build(),
        }
    }

    /// Reads a row by its key, consistently.
    async fn get_row<T: DeserializeOwned>(
        &self,
        dependency: &'static str,
        table: &str,
        key: &str,
        value: String,
    ) -> Answer<Option<T>> {
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

    /// Writes a row unless one is stored that it does not supersede. Answers whether it wrote.
    async fn put_newer<T: Serialize>(
        &self,
        dependency: &'static str,
        table: &str,
        row: &T,
        order: &Order,
    ) -> Answer<bool> {
        let mut request = self
            .client
            .put_item()
            .table_name(table)
            .set_item(Some(write(dependency, row)?));
        for (name, value) in order_values(order) {
            request = request.expression_attribute_values(name, value);
        }
        conditional(
            dependency,
            request.condition_expression(SUPERSEDES).send().await,
        )
    }

    /// Reads rows by their keys, consistently, in requests of 100 (a DynamoDB limit).
    async fn batch_get<T: DeserializeOwned>(
        &self,
        dependency: &'static str,
        table: &str,
        keys: Vec<Item>,
    ) -> Answer<Vec<T>> {
        let mut rows = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(100) {
            let mut left = chunk.to_vec();
            for attempt in 0..BATCH_ATTEMPTS {
                if attempt > 0 {
                    // DynamoDB answers in part when it throttles or at 16 MiB.
                    tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
                }
                let request = KeysAndAttributes::builder()
                    .set_keys(Some(left))
                    .consistent_read(true)
                    .build()
                    .map_err(unavailable(dependency))?;
                let answer = self
                    .client
                    .batch_get_item()
                    .request_items(table, request)
                    .send()
                    .await
                    .map_err(unavailable(dependency))?;
                for item in answer
                    .responses
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, items)| items)
                {
                    rows.push(read(dependency, item)?);
                }
                left = answer
                    .unprocessed_keys
                    .into_iter()
                    .flatten()
                    .flat_map(|(_, keys)| keys.keys)
                    .collect();
                if left.is_empty() {
                    break;
                }
            }
            if !left.is_empty() {
                return Err(Unavailable {
                    dependency,
                    why: format!("{} keys were not read", left.len()),
                });
            }
        }
        Ok(rows)
    }
}

/// A row as its struct.
fn read<T: DeserializeOwned>(dependency: &'static str, item: Item) -> Answer<T> {
    serde_dynamo::from_item(item).map_err(unavailable(dependency))
}

/// A struct as a row.
fn write<T: Serialize>(dependency: &'static str, row: &T) -> Answer<Item> {
    serde_dynamo::to_item(row).map_err(unavailable(dependency))
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
        (":created_at", n(order.created_at)),
        (":event_id", s(order.event_id.to_hex())),
    ]
}

/// The answer of a conditional write: yes, no, or a failure.
fn conditional<
    T,
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
>(
    dependency: &'static str,
    result: Result<T, SdkError<E, R>>,
) -> Answer<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
        Err(error) => Err(unavailable(dependency)(error)),
    }
}
