//! `profiles`: key `profile` (a pubkey, or the relay and the id of a group). Holds names and
//! pictures, and when each profile was last requested. A row without a name remembers that there is
//! none.
//!
//! Guarantee: the newest event wins, whatever the order of the writes. Reads are eventually
//! consistent, at half the price, and cached as long as [`Profile::cache_time`] says.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure,
};
use moka::{Expiry, future::Cache};
use nostr_push_core::{
    Seconds,
    ports::{PortResult, ProfileWriter, Profiles},
    profile::{PROFILE_TTL, Profile, ProfileKey, ProfileUpdate, REFRESH_AFTER, RETRY_AFTER},
};
use serde::Deserialize;

use super::{
    EXPIRES_AT, Item, MAX_BATCH_KEYS, SUPERSEDES, Store, conditional, conditional_update, n,
    order_values, read, s,
};
use crate::{
    cause::{unavailable, unreadable},
    clients,
};

const GET: &str = "dynamodb.profiles.get";
const CLAIM: &str = "dynamodb.profiles.claim_request";
const RELEASE: &str = "dynamodb.profiles.release_request";
const PUT: &str = "dynamodb.profiles.put";

const PROFILE: &str = "profile";

/// The most profiles in the cache, at most 10 MB.
const MAX_CACHED: u64 = 10_000;

/// The profiles that were read lately. `None`: there was no row.
pub(super) type ProfileCache = Cache<ProfileKey, Arc<Option<Profile>>>;

/// An empty cache.
pub(super) fn cache() -> ProfileCache {
    Cache::builder()
        .max_capacity(MAX_CACHED)
        .expire_after(ByContent)
        .build()
}

/// How long an entry of the cache is used.
struct ByContent;

impl Expiry<ProfileKey, Arc<Option<Profile>>> for ByContent {
    fn expire_after_create(
        &self,
        _: &ProfileKey,
        profile: &Arc<Option<Profile>>,
        _: Instant,
    ) -> Option<Duration> {
        let now = clients::now().to_seconds();
        Some(Profile::cache_time(profile.as_ref().as_ref(), now).to_duration())
    }

    fn expire_after_update(
        &self,
        key: &ProfileKey,
        profile: &Arc<Option<Profile>>,
        at: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, profile, at)
    }
}

/// A row, with its key.
#[derive(Deserialize)]
struct Row {
    profile: String,
    #[serde(flatten)]
    content: Profile,
}

impl Profiles for Store {
    async fn profiles(
        &self,
        keys: &[ProfileKey],
    ) -> PortResult<BTreeMap<ProfileKey, Option<Profile>>> {
        let mut profiles = BTreeMap::new();
        let mut missing = Vec::new();
        for key in keys {
            match self.profiles.get(key).await {
                Some(cached) => {
                    profiles.insert(key.clone(), cached.as_ref().clone());
                }
                None => missing.push(key),
            }
        }
        for keys in missing.chunks(MAX_BATCH_KEYS) {
            for (key, profile) in self.read_profiles(keys).await? {
                self.cache_profile(&key, profile.clone()).await;
                profiles.insert(key, profile);
            }
        }
        Ok(profiles)
    }

    async fn claim_request(&self, key: &ProfileKey, now: Seconds) -> PortResult<bool> {
        // The condition is that of `Profile::is_due`.
        let is_due = "attribute_not_exists(asked_at) OR asked_at <= :refreshed \
            OR (attribute_not_exists(#name) AND asked_at <= :retried)";
        let update = format!("SET asked_at = :now, {EXPIRES_AT} = :expires_at");
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.profiles)
            .key(PROFILE, s(key.to_string()))
            .update_expression(update)
            .condition_expression(is_due)
            // `name` is a reserved word of DynamoDB.
            .expression_attribute_names("#name", "name")
            .expression_attribute_values(":now", n(now.0))
            .expression_attribute_values(":refreshed", n((now - REFRESH_AFTER).0))
            .expression_attribute_values(":retried", n((now - RETRY_AFTER).0))
            .expression_attribute_values(":expires_at", n((now + PROFILE_TTL).0))
            // The whole row costs no read unit, and may have a name that the cache does not have.
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let claimed = conditional_update(CLAIM, request.send().await)?;
        let is_claimed = claimed.is_ok();
        let (Ok(row) | Err(row)) = claimed;
        self.cache_row(CLAIM, key, row).await?;
        Ok(is_claimed)
    }

    async fn release_request(&self, key: &ProfileKey, now: Seconds) -> PortResult<()> {
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.profiles)
            .key(PROFILE, s(key.to_string()))
            .update_expression("REMOVE asked_at")
            .condition_expression("asked_at = :now")
            .expression_attribute_values(":now", n(now.0))
            .return_values(ReturnValue::AllNew);
        if let Ok(row) = conditional_update(RELEASE, request.send().await)? {
            self.cache_row(RELEASE, key, row).await?;
        }
        Ok(())
    }
}

impl Store {
    async fn cache_profile(&self, key: &ProfileKey, profile: Option<Profile>) {
        self.profiles.insert(key.clone(), Arc::new(profile)).await;
    }

    /// Caches the row that an update returned, if there is one.
    async fn cache_row(
        &self,
        dependency: &'static str,
        key: &ProfileKey,
        row: Option<Item>,
    ) -> PortResult<()> {
        if let Some(row) = row {
            let row: Row = read(dependency, row)?;
            self.cache_profile(key, Some(row.content)).await;
        }
        Ok(())
    }

    /// Reads at most [`MAX_BATCH_KEYS`] rows. Keys that DynamoDB does not process, because it
    /// throttles, are left out: a push does not wait for them.
    async fn read_profiles(
        &self,
        keys: &[&ProfileKey],
    ) -> PortResult<Vec<(ProfileKey, Option<Profile>)>> {
        let by_text: HashMap<String, &ProfileKey> =
            keys.iter().map(|key| (key.to_string(), *key)).collect();
        let items = by_text
            .keys()
            .map(|text| HashMap::from([(PROFILE.to_owned(), s(text))]));
        let request = KeysAndAttributes::builder()
            .set_keys(Some(items.collect()))
            .build()
            .map_err(unreadable(GET))?;
        let response = self
            .client
            .batch_get_item()
            .request_items(&self.tables.profiles, request)
            .send()
            .await
            .map_err(unavailable(GET))?;
        let mut profiles: HashMap<String, Option<Profile>> =
            by_text.keys().map(|text| (text.clone(), None)).collect();
        for keys in response.unprocessed_keys.unwrap_or_default().into_values() {
            for key in &keys.keys {
                if let Some(AttributeValue::S(text)) = key.get(PROFILE) {
                    profiles.remove(text);
                }
            }
        }
        for item in response
            .responses
            .unwrap_or_default()
            .into_values()
            .flatten()
        {
            let row: Row = read(GET, item)?;
            profiles.insert(row.profile, Some(row.content));
        }
        let with_keys = profiles
            .into_iter()
            .filter_map(|(text, profile)| Some(((*by_text.get(&text)?).clone(), profile)));
        Ok(with_keys.collect())
    }
}

impl ProfileWriter for Store {
    async fn put_profile(&self, update: &ProfileUpdate, now: Seconds) -> PortResult<bool> {
        let mut set = vec![
            "created_at = :created_at".to_owned(),
            "event_id = :event_id".to_owned(),
            format!("{EXPIRES_AT} = :expires_at"),
        ];
        let mut remove = Vec::new();
        let mut request = self
            .client
            .update_item()
            .table_name(&self.tables.profiles)
            .key(PROFILE, s(update.key.to_string()))
            .condition_expression(SUPERSEDES)
            .expression_attribute_values(":expires_at", n((now + PROFILE_TTL).0));
        for (name, value) in order_values(&update.order) {
            request = request.expression_attribute_values(name, value);
        }
        // `name` is a reserved word of DynamoDB.
        for (attribute, value) in [("name", &update.name), ("picture", &update.picture)] {
            request = request.expression_attribute_names(format!("#{attribute}"), attribute);
            if let Some(value) = value {
                set.push(format!("#{attribute} = :{attribute}"));
                request = request.expression_attribute_values(format!(":{attribute}"), s(value));
            } else {
                remove.push(format!("#{attribute}"));
            }
        }
        let mut expression = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            expression = format!("{expression} REMOVE {}", remove.join(", "));
        }
        conditional(PUT, request.update_expression(expression).send().await)
    }
}
