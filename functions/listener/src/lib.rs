//! The listener: a small long-lived task that keeps relay connections and forwards what somebody is interested in.
//!
//! In the order in which an event comes through:
//! - [`relay`]: one connection to one relay, kept up
//! - [`plan`]: which REQs the interest asks of a relay
//! - [`frame`]: what a relay says
//! - [`screen`]: the hot path: what becomes of each frame
//! - [`seen`]: removes duplicates across relays
//! - [`forward`]: the bounded buffers before the queues
//! - [`feed`]: keeps the interest up to date from the change feed
//! - [`run`](run()): all of it, until told to stop
//! - [`config`]: the environment

pub mod config;
pub mod feed;
pub mod forward;
pub mod frame;
pub mod plan;
pub mod relay;
pub mod screen;
pub mod seen;

mod run;

pub use run::{Ports, Stopped, run};
