//! The checks every control event passes, in their order; the first that fails ends it.

use base64::{Engine, engine::general_purpose::STANDARD};
use nostr::{
    event::Event,
    key::Keys,
    nips::{nip04, nip44},
};
use nostr_push_core::{
    DAY, Seconds,
    app::App,
    message::{MAX_EVENT, MAX_TAGS},
    order::Order,
    owner::Owner,
    settings,
};

use crate::refusal::Refusal;

/// How far ahead of our clock an event may be signed.
const MAX_AHEAD: Seconds = 15 * 60;

/// How old a control event may be. Relays store these kinds, so one may wait this long for the
/// listener.
const MAX_AGE: Seconds = 7 * DAY;

/// How old an event of dialect H may be: it is ephemeral, and says what is so now.
const MAX_AGE_EPHEMERAL: Seconds = 15 * 60;

/// How far ahead anything is stored, whatever the event's `expiration` asks.
const MAX_LIFETIME: Seconds = 400 * DAY;

/// The decoded length of the shortest NIP-44 v2 payload: version, nonce, the smallest padded
/// plaintext, MAC.
const MIN_NIP44: usize = 1 + 32 + 2 + 32 + 32;

/// The length of an AES block, and of the initialisation vector of NIP-04.
const AES_BLOCK: usize = 16;

/// What a control event asks for, by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 3079
    Register,
    /// 3080
    Deregister,
    /// 3081
    UpsertFilters,
    /// 3082
    DeleteFilters,
    /// 22456: settings, heartbeat, offline, logout.
    DialectH,
}

/// An event that has passed the checks before its app is looked up.
#[derive(Debug)]
pub struct Addressed {
    /// The event, its id and signature right.
    pub event: Event,
    /// What it asks for.
    pub kind: Kind,
    /// Whose it is, under which app. The app may not exist.
    pub owner: Owner,
}

/// An event that has passed every check on its outside, and its plaintext.
#[derive(Debug)]
pub struct Opened {
    /// What it asks for.
    pub kind: Kind,
    /// Whose it is.
    pub owner: Owner,
    /// Its place among the others.
    pub order: Order,
    /// Until when what it asks for shall hold; 0 when it says nothing.
    pub valid_until: Seconds,
    /// The app's settings.
    pub app: App,
    /// What was encrypted.
    pub plaintext: String,
}

/// Checks 1 to 5a: everything that needs no look-up. An event of dialect H that names no app is for
/// `heartbeat_app`.
///
/// How old it is counts from when the listener received it: what waits in the queue while a
/// dependency is away does not grow stale. Relays do not keep events of dialect H, so nothing would
/// bring them back.
///
/// # Errors
/// The [`Refusal`] of the first check that fails.
pub fn address(
    json: &str,
    service: &Keys,
    heartbeat_app: Option<&str>,
    received_at: Seconds,
) -> Result<Addressed, Refusal> {
    if json.len() > MAX_EVENT {
        return Err(Refusal::Malformed);
    }
    let event: Event = serde_json::from_str(json).map_err(|_| Refusal::Malformed)?;
    if event.tags.len() > MAX_TAGS {
        return Err(Refusal::Malformed);
    }
    event.verify().map_err(|_| Refusal::BadSignature)?;
    let kind = match event.kind.as_u16() {
        3079 => Kind::Register,
        3080 => Kind::Deregister,
        3081 => Kind::UpsertFilters,
        3082 => Kind::DeleteFilters,
        22456 => Kind::DialectH,
        _ => return Err(Refusal::UnknownKind),
    };
    let service = service.public_key().to_hex();
    if !values(&event, "p").any(|value| value == service) {
        return Err(Refusal::NotForUs);
    }
    let created_at = event.created_at.as_secs();
    if created_at > received_at + MAX_AHEAD {
        return Err(Refusal::FromFuture);
    }
    let max_age = if kind == Kind::DialectH {
        MAX_AGE_EPHEMERAL
    } else {
        MAX_AGE
    };
    if created_at.saturating_add(max_age) < received_at {
        return Err(Refusal::Stale);
    }
    let app = match heartbeat_app {
        Some(app) if kind == Kind::DialectH && values(&event, "app").next().is_none() => Some(app),
        _ => only(values(&event, "app")),
    };
    let app = app
        .filter(|app| !app.is_empty())
        .ok_or(Refusal::MissingApp)?
        .to_owned();
    let owner = Owner {
        app,
        pubkey: event.pubkey,
    };
    Ok(Addressed { event, kind, owner })
}

/// Checks 5b to 8: the app, the expiration, the ciphertext.
///
/// # Errors
/// The [`Refusal`] of the first check that fails.
pub fn open(
    addressed: Addressed,
    app: Option<App>,
    service: &Keys,
    now: Seconds,
) -> Result<Opened, Refusal> {
    let Addressed { event, kind, owner } = addressed;
    let app = app.ok_or(Refusal::UnknownApp)?;
    let valid_until = expiration(&event, kind, now)?;
    let (secret, content) = (service.secret_key(), event.content.as_str());
    let decrypted = if kind == Kind::DialectH && is_nip04(content) {
        nip04::decrypt(secret, &event.pubkey, content)
    } else if is_nip44(content) {
        nip44::decrypt(secret, &event.pubkey, content)
    } else {
        return Err(Refusal::NotEncrypted);
    };
    let plaintext = decrypted.map_err(|_| Refusal::Undecryptable)?;
    Ok(Opened {
        kind,
        owner,
        order: Order::of(&event),
        valid_until,
        app,
        plaintext,
    })
}

/// The first values of all tags of this name.
fn values<'a>(event: &'a Event, name: &'a str) -> impl Iterator<Item = &'a str> {
    event
        .tags
        .iter()
        .filter(move |tag| tag.kind() == name)
        .map(|tag| tag.content().unwrap_or_default())
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

/// NIP-40. Deregistration and filter deletion may leave it out: real clients do. In dialect H it
/// says when relays may forget the event, and settings have a lifetime of their own.
fn expiration(event: &Event, kind: Kind, now: Seconds) -> Result<Seconds, Refusal> {
    if kind == Kind::DialectH {
        return Ok(event.created_at.as_secs() + settings::LIFETIME);
    }
    let optional = matches!(kind, Kind::Deregister | Kind::DeleteFilters);
    match values(event, "expiration")
        .next()
        .map(str::parse::<Seconds>)
    {
        None if optional => Ok(0),
        None | Some(Err(_)) => Err(Refusal::MissingExpiration),
        Some(Ok(at)) if at <= now => Err(Refusal::Expired),
        Some(Ok(at)) => Ok(at.min(now + MAX_LIFETIME)),
    }
}

/// Whether the content has the form of NIP-44 version 2, so that plaintext is told apart from a
/// broken ciphertext.
fn is_nip44(content: &str) -> bool {
    STANDARD
        .decode(content)
        .is_ok_and(|bytes| bytes.first() == Some(&2) && bytes.len() >= MIN_NIP44)
}

/// Whether the content has the form of NIP-04: whole blocks in base64, `?iv=`, and the vector in
/// base64.
fn is_nip04(content: &str) -> bool {
    let blocks = |bytes: Vec<u8>| !bytes.is_empty() && bytes.len().is_multiple_of(AES_BLOCK);
    content.split_once("?iv=").is_some_and(|(ciphertext, iv)| {
        STANDARD.decode(ciphertext).is_ok_and(blocks)
            && STANDARD.decode(iv).is_ok_and(|iv| iv.len() == AES_BLOCK)
    })
}
