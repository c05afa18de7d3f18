//! What two stages must agree on. No AWS, no tokio, no clock and no environment: `now` is always
//! an argument.
//!
//! - [`time`]: seconds and milliseconds
//! - [`hex`]: lowercase hexadecimal
//! - [`order`]: which of two control events wins
//! - [`index_key`]: the values by which an event finds a subscription
//! - [`tags`]: the tags of an event by name, and its expiration
//! - [`filter`]: stored filters in canonical form, their identity, and exact matching
//! - [`interest`]: the set of all index keys in use
//! - [`app`]: the operator's configuration of a client application
//! - [`admission`]: which pubkeys an app admits as owners
//! - [`announcement`]: the handler information that tells clients how to become owners
//! - [`capacity`]: how much the stack may hold
//! - [`owner`]: a pubkey under one app
//! - [`relay_url`]: the URLs of relays in normal form, and their hashes
//! - [`device`]: push tokens: rows, rosters, and the rules for registering and removing them
//! - [`token_hasher`]: the keyed hash of a token
//! - [`device_store`]: procedures on devices that need the store and SNS
//! - [`presence`]: when an owner's app was last open, and what that means for a delivery
//! - [`service_keys`]: the keys of the service
//! - [`shape`]: the shapes of payloads
//! - [`profile`]: names and pictures of people and groups
//! - [`settings`]: an owner's settings of dialect H
//! - [`mute_list`]: an owner's mute list (NIP-51)
//! - [`subscription`]: stored filters and their index rows
//! - [`zap`]: who signed a zap
//! - [`message`]: the messages in the queues between the stages
//! - [`counter`]: the counters of a stage
//! - [`retry`]: failures of dependencies, and the time until the next attempt
//! - [`ports`]: what a stage needs from outside, one small trait per capability

pub mod admission;
pub mod announcement;
pub mod app;
pub mod capacity;
pub mod counter;
pub mod device;
pub mod device_store;
pub mod filter;
pub mod hex;
pub mod index_key;
pub mod interest;
pub mod message;
pub mod mute_list;
pub mod order;
pub mod owner;
pub mod ports;
pub mod presence;
pub mod profile;
pub mod relay_url;
pub mod retry;
pub mod service_keys;
pub mod settings;
pub mod shape;
pub mod subscription;
pub mod tags;
pub mod time;
pub mod token_hasher;
pub mod zap;

pub use time::{Millis, Seconds};

/// The kinds whose events are private to their addressee: messages of NIP-04, and the rumors,
/// seals and wraps of NIP-59. They match only a recipient that a `p` tag names, and their content
/// never appears in a notification.
pub const PRIVATE_KINDS: [u16; 5] = [4, 13, 14, 1059, 21059];

/// The kind of messages of NIP-04. Unlike wraps, they are not backdated.
const NIP04_KIND: u16 = 4;

/// The kind of mute lists (NIP-51,
/// <https://github.com/nostr-protocol/nips/blob/master/51.md>).
pub const MUTE_LIST_KIND: u16 = 10_000;

/// The age at which a public event or a message of NIP-04 no longer notifies. Clients that were
/// offline publish events some time after they signed them.
pub const MAX_PUBLIC_AGE: Seconds = Seconds::from_hours(1);

/// The age at which an event of any other private kind no longer notifies: wraps are backdated by
/// up to two days (NIP-59, <https://github.com/nostr-protocol/nips/blob/master/59.md>), and then
/// take some minutes to arrive.
pub const MAX_PRIVATE_AGE: Seconds = Seconds(Seconds::from_days(2).0 + Seconds::from_minutes(15).0);

/// How far ahead of the clock an event may be dated and still notify. It covers a clock in the
/// wrong time zone.
pub const MAX_AHEAD: Seconds = Seconds::from_hours(12);

/// How long the event queue and the delivery queue each keep a message, as `template.yaml` sets it.
pub const QUEUE_RETENTION: Seconds = Seconds::from_days(3);

/// The time from the receipt of an event after which its deliveries are dropped. Only deliveries
/// from a dead-letter queue can be older.
pub const MAX_DELIVERY_AGE: Seconds = Seconds(2 * QUEUE_RETENTION.0);

/// How long a claim is kept. An event may be pushed for the first time [`MAX_AHEAD`] before its
/// date, received again until [`MAX_PRIVATE_AGE`] after it, and then wait for [`MAX_DELIVERY_AGE`].
pub const CLAIM_TTL: Seconds = Seconds::from_days(9);

const _: () = assert!(
    CLAIM_TTL.0 > MAX_AHEAD.0 + MAX_PRIVATE_AGE.0 + MAX_DELIVERY_AGE.0,
    "a claim must outlive every age limit, or an event could be pushed twice"
);

/// The age at which an event of this kind no longer notifies: the listener and the matcher drop
/// older ones. The listener requests no events from relays that are older than this, except that
/// it requests [`PRIVATE_KINDS`] together.
pub fn max_age(kind: u16) -> Seconds {
    if is_private_kind(kind) && kind != NIP04_KIND {
        MAX_PRIVATE_AGE
    } else {
        MAX_PUBLIC_AGE
    }
}

/// Returns `true` if events of this kind are private to their addressee.
pub fn is_private_kind(kind: u16) -> bool {
    PRIVATE_KINDS.contains(&kind)
}
