//! What stands inside the ciphertext. Unknown fields are ignored.

use std::collections::BTreeMap;

use nostr::key::PublicKey;
use nostr_push_core::{
    app::{App, Platform},
    device::MAX_TOKEN,
    filter::Filter,
    subscription::{MAX_INDEX_KEYS, MAX_SUBSCRIPTIONS},
};
use serde::Deserialize;
use serde_json::Value;

use crate::refusal::Refusal;

#[derive(Deserialize)]
struct TokenPayload {
    token: Option<String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct FilterPayload {
    filter: Option<Value>,
    filters: Option<Vec<Value>>,
}

/// The token of a registration, and its platform among those of the app.
///
/// # Errors
/// `bad_payload`, `over_quota` (a token above 4 KiB), `unsupported_platform`.
pub fn registration(plaintext: &str, app: &App) -> Result<(String, Platform), Refusal> {
    let payload: TokenPayload = object(plaintext)?;
    let token = payload.token.filter(|token| !token.is_empty()).ok_or(Refusal::BadPayload)?;
    if token.len() > MAX_TOKEN {
        return Err(Refusal::OverQuota);
    }
    let platform = app.platform_of(payload.platform, &token).ok_or(Refusal::UnsupportedPlatform)?;
    Ok((token, platform))
}

/// The token of a deregistration; `None` means all of the owner's.
///
/// # Errors
/// `bad_payload`, `over_quota`.
pub fn deregistration(plaintext: &str) -> Result<Option<String>, Refusal> {
    let payload: TokenPayload = object(plaintext)?;
    let token = payload.token.filter(|token| !token.is_empty());
    if token.as_ref().is_some_and(|token| token.len() > MAX_TOKEN) {
        return Err(Refusal::OverQuota);
    }
    Ok(token)
}

/// The filters of an upsert or a deletion, by identity.
///
/// # Errors
/// `bad_payload`, `too_broad`, `over_quota`.
pub fn filters(plaintext: &str, app: &App, owner: PublicKey) -> Result<BTreeMap<String, Filter>, Refusal> {
    let payload: FilterPayload = object(plaintext)?;
    let filters: Vec<Value> = payload.filter.into_iter().chain(payload.filters.into_iter().flatten()).collect();
    if filters.is_empty() {
        return Err(Refusal::BadPayload);
    }
    if filters.len() > MAX_SUBSCRIPTIONS {
        return Err(Refusal::OverQuota);
    }
    let read = |json| -> Result<_, Refusal> {
        let filter = Filter::from_json(&json).map_err(|_| Refusal::BadPayload)?.addressed(owner);
        let keys = filter.index_keys().len();
        if keys == 0 || (filter.is_broad() && !app.allow_broad_filters) {
            return Err(Refusal::TooBroad);
        }
        if keys > MAX_INDEX_KEYS {
            return Err(Refusal::OverQuota);
        }
        Ok((filter.identity(), filter))
    };
    filters.into_iter().map(read).collect()
}

/// Reads a JSON object. (`serde` would take an array for a struct as well.)
fn object<'a, T: Deserialize<'a>>(plaintext: &'a str) -> Result<T, Refusal> {
    if !plaintext.trim_start().starts_with('{') {
        return Err(Refusal::BadPayload);
    }
    serde_json::from_str(plaintext).map_err(|_| Refusal::BadPayload)
}
