//! Builders of events, owners, devices and subscriptions.

use nostr::{
    event::{Event, EventBuilder, FinalizeEvent, Kind, Tag},
    key::{Keys, PublicKey},
    nips::{nip04, nip44},
    types::Timestamp,
};
use nostr_push_core::{
    Millis, Seconds,
    app::Platform,
    device::{Device, DeviceId, DeviceState, Registration, Roster},
    filter::Filter,
    order::Order,
    owner::Owner,
    shape::PayloadOptions,
    subscription::{Subscription, SubscriptionState},
};
use serde_json::Value;

/// The app of all builders.
pub const APP: &str = "demo";

/// An end of validity that no test reaches.
pub const FAR_FUTURE: Seconds = Seconds(4_000_000_000);

/// The owner with this pubkey under the app [`APP`].
pub fn owner(pubkey: PublicKey) -> Owner {
    Owner {
        app: APP.to_owned(),
        pubkey,
    }
}

/// An active registration of an FCM token by `owner`, in force until [`FAR_FUTURE`].
pub fn registration(owner: &Owner, endpoint_arn: &str) -> Registration {
    Registration {
        owner: owner.clone(),
        order: Order::counter(1),
        platform: Platform::Fcm,
        by_settings: false,
        registered_at: Seconds(0),
        max_mentions: None,
        payload: PayloadOptions::default(),
        first_delivered_at: None,
        proven: false,
        taken_from: None,
        endpoint_arn: Some(endpoint_arn.to_owned()),
        state: DeviceState::Active,
        valid_until: FAR_FUTURE,
    }
}

/// The row of a device with this registration, before it is first written.
pub fn device(token_hash: &str, registration: Registration) -> Device {
    Device {
        id: DeviceId {
            app: registration.owner.app.clone(),
            token_hash: token_hash.to_owned(),
        },
        expires_at: registration.valid_until,
        registration: Some(registration),
        removals: [].into(),
        version: 0,
    }
}

/// The roster of an owner with these devices, before it is first written.
pub fn roster(owner: &Owner, devices: &[&Device]) -> Roster {
    Roster {
        devices: devices
            .iter()
            .map(|device| device.id.token_hash.clone())
            .collect(),
        active_until: FAR_FUTURE,
        expires_at: FAR_FUTURE,
        ..Roster::new(owner.clone())
    }
}

/// An active subscription with the lowest order, in force until [`FAR_FUTURE`].
///
/// # Panics
/// If `filter` is not a filter.
pub fn subscription(owner: &Owner, filter: &Value) -> Subscription {
    let filter = Filter::from_json(filter).expect("a filter");
    Subscription {
        owner: owner.clone(),
        identity: filter.identity(),
        filter,
        relays: Vec::new(),
        proven: false,
        order: Order::counter(1),
        since: Seconds(0),
        state: SubscriptionState::Active,
        valid_until: FAR_FUTURE,
        changed_at: Millis(0),
    }
}

/// A signed event.
///
/// # Panics
/// Never with a valid key.
pub fn event(keys: &Keys, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> Event {
    let tags = tags
        .iter()
        .map(|tag| Tag::parse(tag.iter().copied()).expect("a tag has a name"));
    EventBuilder::new(Kind::from_u16(kind), content)
        .tags(tags)
        .custom_created_at(Timestamp::from_secs(created_at))
        .finalize(keys)
        .expect("keys sign")
}

/// A control event of dialect N, encrypted to the service with NIP-44, with `tags` besides `p`.
///
/// # Panics
/// Never with valid keys.
pub fn control_event(
    keys: &Keys,
    service: PublicKey,
    kind: u16,
    created_at: u64,
    tags: &[&[&str]],
    plaintext: &str,
) -> Event {
    let content = nip44::encrypt(keys.secret_key(), &service, plaintext, nip44::Version::V2)
        .expect("encrypts");
    event_to(keys, service, kind, created_at, tags, &content)
}

/// An event of dialect H (kind 22456), encrypted to the service with NIP-04, with `tags` besides
/// `p`.
///
/// # Panics
/// Never with valid keys.
pub fn dialect_h_event(
    keys: &Keys,
    service: PublicKey,
    created_at: u64,
    tags: &[&[&str]],
    plaintext: &str,
) -> Event {
    let content = nip04::encrypt(keys.secret_key(), &service, plaintext).expect("encrypts");
    event_to(keys, service, 22456, created_at, tags, &content)
}

fn event_to(
    keys: &Keys,
    service: PublicKey,
    kind: u16,
    created_at: u64,
    tags: &[&[&str]],
    content: &str,
) -> Event {
    let service = service.to_hex();
    let p: &[&str] = &["p", &service];
    let tags: Vec<&[&str]> = std::iter::once(p).chain(tags.iter().copied()).collect();
    event(keys, kind, created_at, &tags, content)
}
