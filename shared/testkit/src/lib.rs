//! Dev only: what tests of several crates need.
//!
//! - [`event`], [`control_event`], [`dialect_h_event`]: event builders
//! - [`subscription`]: a subscription in force
//! - [`free_port`]: a port of this machine that nobody has
//! - [`memory`]: the ports of `nostr_push_core`, in memory, with faults on demand
//! - [`runtime_api`]: runs a real `bootstrap` as Lambda does
//!
//! The local AWS endpoint for tests is the one of `cargo local`: `nostr_push_local::aws`.

pub mod memory;
pub mod runtime_api;

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

use nostr::{
    event::{Event, EventBuilder, FinalizeEvent, Kind, Tag},
    key::{Keys, PublicKey},
    nips::{nip04, nip44},
    types::Timestamp,
};
use nostr_push_core::{
    filter::Filter,
    order::Order,
    owner::Owner,
    subscription::{State, Subscription},
};
use serde_json::Value;

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

/// A subscription in force until far in the future, written by the first event there was.
///
/// # Panics
/// When `filter` is none.
pub fn subscription(owner: &Owner, filter: &Value) -> Subscription {
    let filter = Filter::from_json(filter).expect("a filter");
    Subscription {
        owner: owner.clone(),
        subscription: filter.identity(),
        filter,
        relays: Vec::new(),
        order: Order::counter(1),
        since: 0,
        state: State::Active,
        valid_until: 4_000_000_000,
        changed_at: 0,
    }
}

/// A control event of dialect N: encrypted to the service, with these tags besides `p`.
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
    let service = service.to_hex();
    let p: &[&str] = &["p", &service];
    let tags: Vec<&[&str]> = std::iter::once(p).chain(tags.iter().copied()).collect();
    event(keys, kind, created_at, &tags, &content)
}

/// An event of dialect H (kind 22456): encrypted to the service by NIP-04, with these tags besides
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
    let service = service.to_hex();
    let p: &[&str] = &["p", &service];
    let tags: Vec<&[&str]> = std::iter::once(p).chain(tags.iter().copied()).collect();
    event(keys, 22456, created_at, &tags, &content)
}

/// The wished port if nobody has it, else another one (0: any). Below the ports that the system
/// gives to outgoing connections: one of those could be gone again before it is used.
///
/// # Panics
/// When every port is taken.
pub fn free_port(wished: u16) -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let any = std::iter::repeat_with(|| {
        let n = std::process::id()
            .wrapping_mul(31)
            .wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        20_000 + u16::try_from(n % 12_000).expect("below 12,000")
    });
    let mut ports = Some(wished)
        .filter(|port| *port != 0)
        .into_iter()
        .chain(any.take(12_000));
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
