//! The checks that every control event must pass, in order. The first check that fails decides the
//! refusal.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use nostr::{
    event::Event,
    key::Keys,
    nips::{nip04, nip44},
};
use nostr_push_core::{
    Seconds,
    admission::app_of,
    app::{App, MAX_APP_ID_BYTES},
    message::{MAX_EVENT_BYTES, MAX_TAGS},
    order::Order,
    owner::Owner,
    service_keys::{NotAddressed, ServiceKeys},
    tags::{self, first_tag_value},
};

use crate::{outcome::Failure, refusal::Refusal};

/// How far `created_at` may be ahead of the receipt.
const MAX_CLOCK_SKEW: Seconds = Seconds::from_minutes(15);

/// The maximum age of an event of dialect N. Relays store these kinds, so that an event can reach a
/// listener that was down.
const MAX_STORED_AGE: Seconds = Seconds::from_days(7);

/// The maximum age of an event of dialect H. Its kind is ephemeral, and it reports the current
/// state.
const MAX_EPHEMERAL_AGE: Seconds = Seconds::from_minutes(15);

/// The longest time for which a device or a subscription is stored. A later `expiration` is
/// shortened to it.
const MAX_LIFETIME: Seconds = Seconds::from_days(400);

/// The shortest NIP-44 v2 payload, in bytes after base64 decoding: version, nonce, plaintext
/// length, padded plaintext and MAC (<https://github.com/nostr-protocol/nips/blob/master/44.md>).
const MIN_NIP44: usize = 1 + 32 + 2 + 32 + 32;

/// The bytes of an AES block, and of the initialization vector of NIP-04
/// (<https://github.com/nostr-protocol/nips/blob/master/04.md>).
const AES_BLOCK: usize = 16;

/// The request of a control event, by its kind. Kinds 3079 to 3082 are dialect N
/// (<https://github.com/verse-pbc/nostr_push_service/blob/HEAD/docs/nip-xx-push-notifications.md>),
/// and 22456 is dialect H
/// (<https://github.com/0xchat-app/0xchat-core/blob/main/doc/nofitications.md>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlKind {
    /// 3079
    Register,
    /// 3080
    Deregister,
    /// 3081
    UpsertFilters,
    /// 3082
    DeleteFilters,
    /// 22456: settings, heartbeat, offline or logout.
    DialectH,
}

impl ControlKind {
    fn of(event: &Event) -> Option<Self> {
        match event.kind.as_u16() {
            3079 => Some(Self::Register),
            3080 => Some(Self::Deregister),
            3081 => Some(Self::UpsertFilters),
            3082 => Some(Self::DeleteFilters),
            22456 => Some(Self::DialectH),
            _ => None,
        }
    }
}

/// An event that has passed the checks before the lookup of its app.
#[derive(Debug)]
pub struct AddressedEvent<'a> {
    /// The event. Its id is right, so a proof of work counts. Its signature has not been verified.
    pub event: Event,
    /// The request.
    pub kind: ControlKind,
    /// The owner. The app may not exist.
    pub owner: Owner,
    /// The keys of the service to which it is addressed.
    pub keys: Vec<&'a Keys>,
}

/// An event that has passed all checks of its envelope, with its plaintext.
pub struct DecryptedEvent {
    /// The request.
    pub kind: ControlKind,
    /// The owner.
    pub owner: Owner,
    /// The order of the event.
    pub order: Order,
    /// When the device or the filters of the event end. 0 for a removal without `expiration`, and
    /// for dialect H, whose settings have their own lifetime.
    pub valid_until: Seconds,
    /// The owner's app.
    pub app: App,
    /// The decrypted content.
    pub plaintext: String,
}

/// Leaves the plaintext out.
impl fmt::Debug for DecryptedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecryptedEvent")
            .field("kind", &self.kind)
            .field("owner", &self.owner)
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}

/// The checks that need no lookup. Dialect H events without an `app` tag are for `heartbeat_app`.
///
/// The age is measured at `received_at`, when the listener received the event. Otherwise an event
/// of dialect H that waits in the queue while a dependency is down would become stale and be lost,
/// because relays do not store its kind. At the same time, the previous key of the service must
/// have been accepted.
///
/// # Errors
/// The [`Refusal`] of the first check that fails, or [`Failure::UnknownKey`].
pub fn check_envelope<'a>(
    json: &str,
    service: &'a ServiceKeys,
    heartbeat_app: Option<&str>,
    received_at: Seconds,
) -> Result<AddressedEvent<'a>, Failure> {
    let event = parse(json)?;
    if !event.verify_id() {
        return Err(Refusal::BadSignature.into());
    }
    let kind = ControlKind::of(&event).ok_or(Refusal::UnknownKind)?;
    let keys = service.addressed_by(&event, received_at);
    let keys = keys.map_err(|not_addressed| match not_addressed {
        NotAddressed::Nobody => Refusal::NotForUs.into(),
        NotAddressed::OldKey => Refusal::OldKey.into(),
        NotAddressed::UnknownKey => Failure::UnknownKey,
    })?;
    check_age(&event, kind, received_at)?;
    let owner = Owner {
        app: app_id(&event, heartbeat_app)?,
        pubkey: event.pubkey,
    };
    Ok(AddressedEvent {
        event,
        kind,
        owner,
        keys,
    })
}

/// The checks after the lookup: the signature is valid, the event has not expired, and its content
/// decrypts.
///
/// # Errors
/// The [`Refusal`] of the first check that fails.
pub fn check_content(
    addressed: AddressedEvent<'_>,
    app: App,
    now: Seconds,
) -> Result<DecryptedEvent, Refusal> {
    let AddressedEvent {
        event,
        kind,
        owner,
        keys,
    } = addressed;
    if !event.verify_signature() {
        return Err(Refusal::BadSignature);
    }
    let valid_until = valid_until(&event, kind, now)?;
    let plaintext = decrypt(&event, kind, &keys)?;
    Ok(DecryptedEvent {
        kind,
        owner,
        order: Order::of(&event),
        valid_until,
        app,
        plaintext,
    })
}

fn parse(json: &str) -> Result<Event, Refusal> {
    if json.len() > MAX_EVENT_BYTES {
        return Err(Refusal::Malformed);
    }
    let event: Event = serde_json::from_str(json).map_err(|_| Refusal::Malformed)?;
    if event.tags.len() > MAX_TAGS {
        return Err(Refusal::Malformed);
    }
    Ok(event)
}

fn check_age(event: &Event, kind: ControlKind, received_at: Seconds) -> Result<(), Refusal> {
    let created_at = Seconds::from(event.created_at);
    let max_age = match kind {
        ControlKind::DialectH => MAX_EPHEMERAL_AGE,
        _ => MAX_STORED_AGE,
    };
    if created_at > received_at + MAX_CLOCK_SKEW {
        Err(Refusal::FromFuture)
    } else if created_at + max_age < received_at {
        Err(Refusal::Stale)
    } else {
        Ok(())
    }
}

/// The id of the event's app.
fn app_id(event: &Event, heartbeat_app: Option<&str>) -> Result<String, Refusal> {
    let app = app_of(event, heartbeat_app).ok_or(Refusal::MissingApp)?;
    // No app has such an id, and DynamoDB refuses longer keys.
    if app.len() > MAX_APP_ID_BYTES {
        return Err(Refusal::UnknownApp);
    }
    Ok(app.to_owned())
}

/// When the device or the filters of the event end.
///
/// In dialect N this is the `expiration` (NIP-40,
/// <https://github.com/nostr-protocol/nips/blob/master/40.md>). Removals may omit it, because
/// existing clients do. In dialect H the `expiration` only tells relays when to delete the event.
fn valid_until(event: &Event, kind: ControlKind, now: Seconds) -> Result<Seconds, Refusal> {
    let is_optional = match kind {
        ControlKind::DialectH => return Ok(Seconds(0)),
        ControlKind::Register | ControlKind::UpsertFilters => false,
        ControlKind::Deregister | ControlKind::DeleteFilters => true,
    };
    if is_optional && first_tag_value(event, "expiration").is_none() {
        return Ok(Seconds(0));
    }
    let expiration = tags::expiration(event).ok_or(Refusal::MissingExpiration)?;
    if expiration <= now {
        Err(Refusal::Expired)
    } else {
        Ok(expiration.min(now + MAX_LIFETIME))
    }
}

/// Decrypts the content with the first of the keys that can. NIP-04 has no MAC, so a wrong key can
/// produce a text: then it is not a JSON object, and the next key is tried.
fn decrypt(event: &Event, kind: ControlKind, keys: &[&Keys]) -> Result<String, Refusal> {
    let content = event.content.as_str();
    let is_nip04 = kind == ControlKind::DialectH && is_nip04(content);
    if !is_nip04 && !is_nip44(content) {
        return Err(Refusal::NotEncrypted);
    }
    let plaintexts = keys.iter().filter_map(|keys| {
        let secret = keys.secret_key();
        if is_nip04 {
            nip04::decrypt(secret, &event.pubkey, content).ok()
        } else {
            nip44::decrypt(secret, &event.pubkey, content).ok()
        }
    });
    let mut last = Err(Refusal::Undecryptable);
    for plaintext in plaintexts {
        let is_object = plaintext.trim_start().starts_with('{');
        last = Ok(plaintext);
        if is_object {
            break;
        }
    }
    last
}

/// Returns `true` if the content has the form of NIP-44 version 2
/// (<https://github.com/nostr-protocol/nips/blob/master/44.md>). This distinguishes plaintext from
/// ciphertext that is broken.
fn is_nip44(content: &str) -> bool {
    STANDARD
        .decode(content)
        .is_ok_and(|bytes| bytes.first() == Some(&2) && bytes.len() >= MIN_NIP44)
}

/// Returns `true` if the content has the form of NIP-04
/// (<https://github.com/nostr-protocol/nips/blob/master/04.md>): AES blocks in base64, `?iv=`, and
/// the initialization vector in base64.
fn is_nip04(content: &str) -> bool {
    let is_blocks = |bytes: Vec<u8>| !bytes.is_empty() && bytes.len().is_multiple_of(AES_BLOCK);
    content.split_once("?iv=").is_some_and(|(ciphertext, iv)| {
        STANDARD.decode(ciphertext).is_ok_and(is_blocks)
            && STANDARD.decode(iv).is_ok_and(|iv| iv.len() == AES_BLOCK)
    })
}
