//! Reads the plaintext of a control event. Unknown fields are ignored.

use std::{collections::BTreeMap, fmt};

use nostr::key::PublicKey;
use nostr_push_core::{
    app::{App, Platform},
    device::MAX_TOKEN_BYTES,
    filter::Filter,
    hex,
    index_key::{IndexKey, MAX_TAG_VALUE_BYTES, TagValue},
    order::Order,
    owner::Owner,
    relay_url::RelayUrl,
    settings::{MAX_MENTIONS, Settings},
    shape::{Os, PayloadOptions, Shape},
    subscription::{
        MAX_FILTER_BYTES, MAX_FILTER_KINDS, MAX_INDEX_KEYS, MAX_OWNER_RELAYS, MAX_RESIDUAL_BYTES,
        MAX_SUBSCRIPTIONS,
    },
    token_hasher::canonical_token,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{device_id, refusal::Refusal};

#[derive(Deserialize)]
struct RegistrationPayload {
    token: Option<String>,
    platform: Option<Platform>,
    payload: Option<Value>,
    os: Option<Value>,
    encrypt_to: Option<Value>,
}

/// No other field is read, so none can make a logout fail.
#[derive(Deserialize)]
struct DeregistrationPayload {
    token: Option<String>,
}

/// A token to register.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRegistration {
    /// The token, in canonical form.
    pub token: String,
    /// Its platform, which is one of the app's.
    pub platform: Platform,
    /// What the client asks for about its payloads.
    pub payload: PayloadOptions,
}

/// Leaves the token out.
impl fmt::Debug for TokenRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRegistration")
            .field("platform", &self.platform)
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
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

/// Reads a registration (kind 3079).
///
/// # Errors
/// `bad_payload`, `over_quota` (a token above 4 KiB), `unsupported_platform`.
pub fn registration(plaintext: &str, app: &App) -> Result<TokenRegistration, Refusal> {
    let payload: RegistrationPayload = object(plaintext)?;
    let token = payload
        .token
        .filter(|token| !token.is_empty())
        .ok_or(Refusal::BadPayload)?;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::OverQuota);
    }
    let platform = app
        .platform_of(payload.platform, &token)
        .ok_or(Refusal::UnsupportedPlatform)?;
    let os = payload.os.as_ref().and_then(Value::as_str).and_then(os);
    let (shape, key) = (payload.payload.as_ref(), payload.encrypt_to.as_ref());
    Ok(TokenRegistration {
        payload: payload_options(platform, os, shape, key)?,
        token: canonical_token(&token),
        platform,
    })
}

/// The operating system of this name, in any case. Other systems count as unknown.
fn os(name: &str) -> Option<Os> {
    match name.to_ascii_lowercase().as_str() {
        "ios" => Some(Os::Ios),
        "android" => Some(Os::Android),
        "web" => Some(Os::Web),
        _ => None,
    }
}

/// Reads what a registration asks for about its payloads.
///
/// A shape that is unknown or that the device cannot read is refused. So is a key that nothing can
/// be encrypted to: half of all numbers are not the x coordinate of a point of the curve. The
/// operating system only counts for FCM, because APNs implies it.
fn payload_options(
    platform: Platform,
    os: Option<Os>,
    shape: Option<&Value>,
    encrypt_to: Option<&Value>,
) -> Result<PayloadOptions, Refusal> {
    let os = os.filter(|_| platform == Platform::Fcm);
    let shape: Option<Shape> = shape
        .map(|shape| serde_json::from_value(shape.clone()))
        .transpose()
        .map_err(|_| Refusal::BadPayload)?;
    if shape.is_some_and(|shape| !shape.fits(platform, os)) {
        return Err(Refusal::BadPayload);
    }
    let key = |value: &Value| {
        let bytes = hex::decode_32(value.as_str()?)?;
        let key = PublicKey::from_byte_array(bytes);
        key.xonly().is_ok().then_some(key)
    };
    let encrypt_to = encrypt_to
        .map(|value| key(value).ok_or(Refusal::BadPayload))
        .transpose()?;
    Ok(PayloadOptions {
        shape,
        os,
        encrypt_to,
    })
}

/// Reads the token of a deregistration (kind 3080), in canonical form. `None` means all tokens of
/// the owner.
///
/// # Errors
/// `bad_payload`, `over_quota`.
pub fn deregistration(plaintext: &str) -> Result<Option<String>, Refusal> {
    let payload: DeregistrationPayload = object(plaintext)?;
    let token = payload.token.filter(|token| !token.is_empty());
    if token
        .as_ref()
        .is_some_and(|token| token.len() > MAX_TOKEN_BYTES)
    {
        return Err(Refusal::OverQuota);
    }
    Ok(token.as_deref().map(canonical_token))
}

/// Reads the filters of an upsert (kind 3081).
///
/// # Errors
/// `bad_payload`, `too_broad`, `over_quota`.
pub fn filters(plaintext: &str, app: &App, owner: PublicKey) -> Result<Filters, Refusal> {
    let filters = filters_to_delete(plaintext, app, owner)?;
    for filter in filters.by_identity.values() {
        check_kinds(filter.kinds.as_deref())?;
        if filter.to_json().len() > MAX_FILTER_BYTES {
            return Err(Refusal::OverQuota);
        }
        check_residuals(filter, owner)?;
    }
    Ok(filters)
}

/// Reads the filters of a deletion (kind 3082). They may have any number of kinds and any size,
/// because filters from before these limits can still be stored.
///
/// # Errors
/// `bad_payload`, `too_broad`, `over_quota`.
pub fn filters_to_delete(plaintext: &str, app: &App, owner: PublicKey) -> Result<Filters, Refusal> {
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
    let read = |json| {
        let filter = filter(json, app, owner)?;
        Ok((filter.identity(), filter))
    };
    Ok(Filters {
        by_identity: filters.iter().map(read).collect::<Result<_, _>>()?,
        relays: relays(payload.relays.as_ref()),
    })
}

/// Refuses more than [`MAX_FILTER_KINDS`] different kinds.
fn check_kinds(kinds: Option<&[u16]>) -> Result<(), Refusal> {
    if kinds.is_some_and(|kinds| kinds.len() > MAX_FILTER_KINDS) {
        return Err(Refusal::OverQuota);
    }
    Ok(())
}

/// Refuses residual filters above [`MAX_RESIDUAL_BYTES`], which the matcher reads for each event
/// that hits the key. Under the owner's own mention they cost reads only for events to the owner.
fn check_residuals(filter: &Filter, owner: PublicKey) -> Result<(), Refusal> {
    let residuals = filter.residuals();
    let is_too_large = |key: &IndexKey| {
        key.mentions() != Some(owner.as_bytes()) && residuals.bytes_under(key) > MAX_RESIDUAL_BYTES
    };
    if filter.index_keys().iter().any(is_too_large) {
        return Err(Refusal::OverQuota);
    }
    Ok(())
}

/// Reads one filter within its limits.
fn filter(json: &Value, app: &App, owner: PublicKey) -> Result<Filter, Refusal> {
    let filter = Filter::from_json(json)
        .map_err(|_| Refusal::BadPayload)?
        .addressed(owner);
    let keys = filter.index_keys().len();
    if keys == 0 || (filter.is_broad() && !app.allow_broad_filters) {
        Err(Refusal::TooBroad)
    } else if keys > MAX_INDEX_KEYS {
        Err(Refusal::OverQuota)
    } else {
        Ok(filter)
    }
}

/// The request of an event of dialect H.
#[derive(Debug, PartialEq, Eq)]
pub struct DialectHRequest {
    /// `true` for a heartbeat, `false` if the app goes to the background.
    pub online: Option<bool>,
    /// The new settings, if the event contains settings.
    pub settings: Option<SettingsUpdate>,
}

/// New settings. Their `token_hash` is not set yet.
#[derive(PartialEq, Eq)]
pub struct SettingsUpdate {
    /// The settings.
    pub settings: Settings,
    /// The token.
    pub token: Option<TokenRegistration>,
}

/// Leaves the token out.
impl fmt::Debug for SettingsUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingsUpdate")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl SettingsUpdate {
    /// Returns `true` for a logout.
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
    payload: Option<Value>,
    encrypt_to: Option<Value>,
    #[serde(rename = "#p")]
    p: Option<Vec<String>>,
    #[serde(rename = "#e")]
    e: Option<Vec<String>>,
    authors: Option<Value>,
    relays: Option<Value>,
    #[serde(rename = "enableMaxMentions")]
    enable_max_mentions: Option<Value>,
}

/// Reads an event of dialect H (kind 22456).
///
/// An event with a `deviceId` contains settings. Without one, only `online` has an effect.
/// `{"online":0,"deviceId":""}` without `kinds` is a logout.
///
/// # Errors
/// `bad_payload`, `unsupported_platform`, `bad_token`, `over_quota`.
pub fn settings(
    plaintext: &str,
    app: &App,
    owner: &Owner,
    order: Order,
) -> Result<DialectHRequest, Refusal> {
    let payload: SettingsPayload = object(plaintext)?;
    let online = payload.online.as_ref().map(flag).transpose()?;
    let logged_out = Settings::logged_out(owner.clone(), order);
    let settings = match payload.device_id.as_deref() {
        None if online.is_none() => return Err(Refusal::BadPayload),
        None => None,
        Some("") if online == Some(false) && payload.kinds.is_none() => Some(SettingsUpdate {
            settings: logged_out,
            token: None,
        }),
        Some(device_id) => Some(SettingsUpdate {
            token: payload.token(device_id, app)?,
            settings: payload.settings(app, logged_out)?,
        }),
    };
    Ok(DialectHRequest { online, settings })
}

impl SettingsPayload {
    /// The token to register. `None` if the client has no token yet.
    fn token(&self, device_id: &str, app: &App) -> Result<Option<TokenRegistration>, Refusal> {
        let os = self.device_os.as_deref().and_then(os);
        let Some((token, platform)) = device_id::token(device_id, os, app)? else {
            return Ok(None);
        };
        let (shape, key) = (self.payload.as_ref(), self.encrypt_to.as_ref());
        Ok(Some(TokenRegistration {
            payload: payload_options(platform, os, shape, key)?,
            token,
            platform,
        }))
    }

    /// The settings. Owner, order and end are those of `base`.
    fn settings(self, app: &App, base: Settings) -> Result<Settings, Refusal> {
        let kinds = self.kinds.map(sorted);
        check_kinds(kinds.as_deref())?;
        Ok(Settings {
            kinds,
            p: values(self.p, hex::decode_32)?,
            e: values(self.e, |value| {
                (value.len() <= MAX_TAG_VALUE_BYTES).then(|| TagValue::from(value))
            })?,
            // The authors are the user's contact list, which is not stored unless the app uses it.
            authors: self
                .authors
                .filter(|_| app.contacts_only)
                .map(authors)
                .transpose()?,
            relays: relays(self.relays.as_ref()),
            max_mentions: self
                .enable_max_mentions
                .as_ref()
                .map(flag)
                .transpose()?
                .unwrap_or_default()
                .then_some(MAX_MENTIONS),
            ..base
        })
    }
}

/// Reads `true` or `false`, or 1 or 0.
fn flag(value: &Value) -> Result<bool, Refusal> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::Number(n) if n.as_u64().is_some_and(|n| n <= 1) => Ok(n.as_u64() == Some(1)),
        _ => Err(Refusal::BadPayload),
    }
}

/// Reads the values of a tag, at most [`MAX_INDEX_KEYS`] different ones. The result is sorted and
/// has no duplicates.
fn values<T: Ord>(
    values: Option<Vec<String>>,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Refusal> {
    let values = sorted(values.unwrap_or_default());
    if values.len() > MAX_INDEX_KEYS {
        return Err(Refusal::OverQuota);
    }
    let values: Option<Vec<T>> = values.iter().map(|value| read(value)).collect();
    values.map(sorted).ok_or(Refusal::BadPayload)
}

/// Reads a list of pubkeys. The result is sorted and has no duplicates.
fn authors(value: Value) -> Result<Vec<[u8; 32]>, Refusal> {
    let authors: Vec<String> = serde_json::from_value(value).map_err(|_| Refusal::BadPayload)?;
    let authors: Option<Vec<[u8; 32]>> = authors.iter().map(|text| hex::decode_32(text)).collect();
    authors.map(sorted).ok_or(Refusal::BadPayload)
}

/// Reads a list of relays, in normal form. It is only a hint, so anything in it that is not a relay
/// URL is left out.
fn relays(value: Option<&Value>) -> Vec<String> {
    let texts = value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let relays = texts.filter_map(RelayUrl::parse).map(String::from);
    sorted(relays.take(MAX_OWNER_RELAYS).collect())
}

/// The list, sorted and without duplicates.
fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}

/// Reads a JSON object. `serde` would also accept an array for a struct.
fn object<'a, T: Deserialize<'a>>(plaintext: &'a str) -> Result<T, Refusal> {
    if !plaintext.trim_start().starts_with('{') {
        return Err(Refusal::BadPayload);
    }
    serde_json::from_str(plaintext).map_err(|_| Refusal::BadPayload)
}
