//! The listener: a small long-lived task that keeps relay connections and forwards what somebody is
//! interested in.
//!
//! In the order in which an event comes through:
//! - [`relay`]: one relay, watched: connected to again and again
//! - [`address`], [`dial`]: which hosts may be connected to, and connecting
//! - [`limits`]: what a relay says that it takes
//! - [`session`]: one connection: REQs, stored events and live ones, refusals, NIP-42
//! - [`plan`]: which REQs the interest asks of a relay
//! - [`frame`]: what a relay says
//! - [`screen`]: the hot path: what becomes of each event
//! - [`seen`]: removes duplicates across relays
//! - [`rate`]: how many control events each registrant has sent
//! - [`forward`]: the bounded buffers before the queues
//!
//! And around it:
//! - [`feed`], [`wishes`]: the interest, and the relays that owners want, from the change feed
//! - [`owners`]: the owners that have come, whose mute lists are asked for
//! - [`members`]: how several tasks share the relays out
//! - [`run`](Listener::run): all of it, until told to stop; cursors
//! - [`health`]: what it says of itself
//! - [`config`]: the environment

pub mod address;
pub mod config;
pub mod dial;
pub mod feed;
pub mod forward;
pub mod frame;
pub mod health;
pub mod limits;
pub mod members;
pub mod owners;
pub mod plan;
pub mod rate;
pub mod relay;
pub mod screen;
pub mod seen;
pub mod session;
pub mod wishes;

mod run;

pub use run::{Listener, Options, Ports, Stopped};
