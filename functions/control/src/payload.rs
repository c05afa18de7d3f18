//! What stands inside the ciphertext. Unknown fields are ignored.

use std::collections::BTreeMap;

use nostr::key::PublicKey;
use nostr_push_core::{
    app::{App, Platform},
    device::MAX_TOKEN,
    filter::{Filter, MAX_TAG_VALUE, decode_hex},
    message::MAX_RELAY_URL,
    order::Order,
    owner::Owner,
    settings::{MAX_MENTIONS, Settings},
    subscription::{MAX_INDEX_KEYS, MAX_RELAYS, MAX_SUBSCRIPTIONS},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{device_id, refusal::Refusal};

#[derive(Deserialize)]
struct TokenPayload {
    token: Option<String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct FilterPayload {
    filter: Option<Value>,
    filters: Option<Vec<Value>>,
    relays: Option<Value>,
}

/// The filters of an upsert or a deletion.
#[derive(Debug)]
pub struct Filters {
    /// The filters, by identity.
    pub by_identity: BTreeMap<String, Filter>,
    /// Relays to watch for the owner.
    pub relays: Vec<String>,
}

/// The token of a registration, and its platform among those of the app.
///
/// # Errors
/// `bad_payload`, `over_quota` (a token above 4 KiB), `unsupported_platform`.
pub fn registration(plaintext: &str, app: &App) -> Result<(String, Platform), Refusal> {
    let payload: TokenPayload = object(plaintext)?;
    let token = payload
        .token
        .filter(|token| !token.is_empty())
        .ok_or(Refusal::BadPayload)?;
    if token.len() > MAX_TOKEN {
        return Err(Refusal::OverQuota);
    }
    let platform = app
        .platform_of(payload.platform, &token)
        .ok_or(Refusal::UnsupportedPlatform)?;
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

/// The filters of an upsert or a deletion.
///
/// # Errors
/// `bad_payload`, `too_broad`, `over_quota`.
pub fn filters(plaintext: &str, app: &App, owner: PublicKey) -> Result<Filters, Refusal> {
    let payload: FilterPayload = object(plaintext)?;
    let filters: Vec<Value> = payload
        .filter
        .into_iter()
        .chain(payload.filters.into_iter().flatten())
        .collect();
    if filters.is_empty() {
        return Err(Refusal::BadPayload);
    }
    if filters.len() > MAX_SUBSCRIPTIONS {
        return Err(Refusal::OverQuota);
    }
    let read = |json| -> Result<_, Refusal> {
        let filter = Filter::from_json(&json)
            .map_err(|_| Refusal::BadPayload)?
            .addressed(owner);
        let keys = filter.index_keys().len();
        if keys == 0 || (filter.is_broad() && !app.allow_broad_filters) {
            return Err(Refusal::TooBroad);
        }
        if keys > MAX_INDEX_KEYS {
            return Err(Refusal::OverQuota);
        }
        Ok((filter.identity(), filter))
    };
    let by_identity = filters.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Filters {
        by_identity,
        relays: relays(payload.relays.as_ref()),
    })
}

/// What an event of dialect H asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whether it says that the app is open (a heartbeat), or going away.
    pub online: Option<bool>,
    /// The settings that replace the owner's, if it has any.
    pub settings: Option<Replacement>,
}

/// Settings, and the token that their `token_hash` is still to be made of.
#[derive(Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The settings.
    pub settings: Settings,
    /// The token and its platform.
    pub token: Option<(String, Platform)>,
}

impl Replacement {
    /// Whether it is a logout.
    pub fn is_logout(&self) -> bool {
        self.token.is_none() && self.settings.kinds.as_ref().is_some_and(Vec::is_empty)
    }
}

#[derive(Deserialize)]
struct SettingsPayload {
    online: Option<Value>,
    kinds: Option<Vec<u16>>,
    #[serde(rename = "deviceId")]
    device_id: Option<String>,
    #[serde(rename = "deviceOs")]
    device_os: Option<String>,
    #[serde(rename = "#p")]
    p: Option<Vec<String>>,
    #[serde(rename = "#e")]
    e: Option<Vec<String>>,
    authors: Option<Value>,
    relays: Option<Value>,
    #[serde(rename = "enableMaxMentions")]
    enable_max_mentions: Option<Value>,
}

/// What an event of dialect H asks for.
///
/// A `deviceId` makes it settings: without one, `kinds` and the rest change nothing.
/// `{"online":0,"deviceId":""}` with no `kinds` is the logout.
///
/// # Errors
/// `bad_payload`, `unsupported_platform`, `bad_token`, `over_quota`.
pub fn settings(plaintext: &str, app: &App, owner: &Owner, order: Order) -> Result<Asked, Refusal> {
    let payload: SettingsPayload = object(plaintext)?;
    let online = payload.online.as_ref().map(yes_or_no).transpose()?;
    let Some(device_id) = &payload.device_id else {
        return if online.is_some() {
            Ok(Asked {
                online,
                settings: None,
            })
        } else {
            Err(Refusal::BadPayload)
        };
    };
    let settings = Settings::none(owner.clone(), order);
    if online == Some(false) && device_id.is_empty() && payload.kinds.is_none() {
        return Ok(Asked {
            online,
            settings: Some(Replacement {
                settings,
                token: None,
            }),
        });
    }
    let token = device_id::token(device_id, payload.device_os.as_deref(), app)?;
    let settings = Settings {
        kinds: payload.kinds.map(canonical),
        p: values(payload.p, |value| decode_hex(value).is_some())?,
        e: values(payload.e, |value| value.len() <= MAX_TAG_VALUE)?,
        // Not even stored unless the app wants it: it is somebody's contact list.
        authors: payload
            .authors
            .filter(|_| app.contacts_only)
            .map(authors)
            .transpose()?,
        relays: relays(payload.relays.as_ref()),
        max_mentions: payload
            .enable_max_mentions
            .as_ref()
            .map(yes_or_no)
            .transpose()?
            .unwrap_or_default()
            .then_some(MAX_MENTIONS),
        ..settings
    };
    Ok(Asked {
        online,
        settings: Some(Replacement { settings, token }),
    })
}

/// `true` and `false`, or 1 and 0.
fn yes_or_no(value: &Value) -> Result<bool, Refusal> {
    match value {
        Value::Bool(yes) => Ok(*yes),
        Value::Number(n) if n.as_u64().is_some_and(|n| n <= 1) => Ok(n.as_u64() == Some(1)),
        _ => Err(Refusal::BadPayload),
    }
}

/// Sorted, without repeats, as many as a subscription may have index keys.
fn values(
    values: Option<Vec<String>>,
    valid: impl Fn(&str) -> bool,
) -> Result<Vec<String>, Refusal> {
    let values = canonical(values.unwrap_or_default());
    if values.len() > MAX_INDEX_KEYS {
        return Err(Refusal::OverQuota);
    }
    if values.iter().all(|value| valid(value)) {
        Ok(values)
    } else {
        Err(Refusal::BadPayload)
    }
}

fn authors(value: Value) -> Result<Vec<String>, Refusal> {
    let authors: Vec<String> = serde_json::from_value(value).map_err(|_| Refusal::BadPayload)?;
    if authors.iter().all(|author| decode_hex(author).is_some()) {
        Ok(canonical(authors))
    } else {
        Err(Refusal::BadPayload)
    }
}

/// The relays that may be watched. A list of relays is advice: what is no relay in it is left out.
fn relays(value: Option<&Value>) -> Vec<String> {
    let all = value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let relays = all.filter(|url| {
        (url.starts_with("wss://") || url.starts_with("ws://")) && url.len() <= MAX_RELAY_URL
    });
    canonical(relays.map(str::to_owned).take(MAX_RELAYS).collect())
}

fn canonical<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}

/// Reads a JSON object. (`serde` would take an array for a struct as well.)
fn object<'a, T: Deserialize<'a>>(plaintext: &'a str) -> Result<T, Refusal> {
    if !plaintext.trim_start().starts_with('{') {
        return Err(Refusal::BadPayload);
    }
    serde_json::from_str(plaintext).map_err(|_| Refusal::BadPayload)
}
