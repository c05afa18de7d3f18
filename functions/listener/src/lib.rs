//! The listener: a long-running process that watches relays and forwards the events that match an
//! interest.
//!
//! In the order in which an event flows:
//! - [`relay`]: watches one relay and connects again with a backoff
//! - [`watched_relay`], [`relay_context`]: the state of one relay, and what all relays share
//! - [`address`], [`dial`]: which hosts may be connected to, and connecting
//! - [`limits`]: the limits of a relay (NIP-11,
//!   <https://github.com/nostr-protocol/nips/blob/master/11.md>)
//! - [`session`]: one connection: the loop around its socket
//! - [`socket`]: the websocket: the handshake, reading and writing
//! - [`frame`]: decodes what the relay sends, and skips messages that are too large
//! - [`requests`]: what is requested from the relay: REQs, stored events, refusals
//! - [`plan`]: which REQs a relay receives for the interest
//! - [`req`]: one REQ, and how far back it asks
//! - [`penalty`]: when a relay is disconnected because of what it sends
//! - [`relay_message`]: one message from a relay
//! - [`gate`]: the hot path: decides what happens to each event
//! - [`seen`]: removes duplicates across relays
//! - [`admission`]: which pubkeys may become owners, before the signature is checked
//! - [`rate`]: limits the control events of each pubkey
//! - [`budget`]: who may cost how much, and the control events that wait for their budget
//! - [`event_budget`]: limits the events of a relay that only owners named
//! - [`forward`]: the bounded buffers before the queues
//!
//! Around it:
//! - [`feed`], [`requested_relays`]: the interest, and the relays that owners request
//! - [`relay_slots`]: which of these relays get a slot
//! - [`mute_list_owners`]: the new owners, whose mute lists are requested
//! - [`relay_watcher`]: which relays this task watches
//! - [`members`]: how several tasks share the relays
//! - [`checkpoint`]: when the relays' cursors are stored
//! - [`profiles`]: requests the names and pictures that pushes show
//! - [`usage`]: records what the stack holds
//! - [`announcement`]: announces the work that is asked of new owners
//! - [`run`](Listener): the whole listener, until a stop is requested
//! - [`options`], [`ports`], [`error`]: what the listener gets, and why it fails
//! - [`shutdown`]: how tasks are stopped
//! - [`counter`]: what the listener counts
//! - [`health`]: the health interface
//! - [`json_object`]: JSON of relays, of which each field is read by itself
//! - [`config`]: the environment

pub mod address;
pub mod admission;
pub mod announcement;
pub mod budget;
pub mod checkpoint;
pub mod config;
pub mod counter;
pub mod dial;
pub mod error;
pub mod event_budget;
pub mod feed;
pub mod forward;
pub mod frame;
pub mod gate;
pub mod health;
pub mod json_object;
pub mod limits;
pub mod members;
pub mod mute_list_owners;
pub mod options;
pub mod penalty;
pub mod plan;
pub mod ports;
pub mod profiles;
pub mod rate;
pub mod relay;
pub mod relay_context;
pub mod relay_message;
pub mod relay_slots;
pub mod relay_watcher;
pub mod req;
pub mod requested_relays;
pub mod requests;
pub mod seen;
pub mod session;
pub mod shutdown;
pub mod socket;
pub mod usage;
pub mod watched_relay;

mod run;

pub use error::ListenerError;
pub use options::Options;
pub use ports::Ports;
pub use run::Listener;
