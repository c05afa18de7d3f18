//! What two stages must agree on. No AWS, no tokio, no clock, no environment: `now` is always an
//! argument.
//!
//! - [`order`]: which of two control events wins
//! - [`filter`]: a stored filter in canonical form, its identity, and exact matching
//! - [`index_key`]: the values by which an event finds a subscription
//! - [`interest`]: the set of all index keys in use, and what it says of an event
//! - [`app`]: what the operator configured for a client application
//! - [`owner`]: a pubkey under one app
//! - [`device`]: push tokens: rows, rosters, and the rules for registering and removing
//! - [`presence`]: when an owner's app was last open, and what that means for a delivery
//! - [`settings`]: what an owner asked for by dialect H
//! - [`mute_list`]: what an owner does not want to hear of (NIP-51)
//! - [`subscription`]: stored filters and their index rows
//! - [`message`]: what stands in the queues between the stages
//! - [`ports`]: what a stage asks of the world, one small trait per capability

pub mod app;
pub mod device;
pub mod filter;
pub mod index_key;
pub mod interest;
pub mod message;
pub mod mute_list;
pub mod order;
pub mod owner;
pub mod ports;
pub mod presence;
pub mod settings;
pub mod subscription;

/// Seconds since the Unix epoch, as NIP-01 counts `created_at`.
pub type Seconds = u64;

/// Milliseconds since the Unix epoch, for latencies and the change feed.
pub type Millis = u64;

/// One day, in seconds.
pub const DAY: Seconds = 24 * 60 * 60;

/// The kinds whose events are for their addressee only: NIP-04 messages, NIP-59 wraps and the
/// rumours and seals inside them. They match only a recipient they name, never carry text into a
/// notification, and may be backdated.
pub const PRIVATE_KINDS: [u16; 5] = [4, 13, 14, 1059, 21059];

/// The kind of mute lists (NIP-51).
pub const MUTE_LIST: u16 = 10_000;

/// Whether events of this kind are private to their addressee.
pub fn is_private(kind: u16) -> bool {
    PRIVATE_KINDS.contains(&kind)
}
