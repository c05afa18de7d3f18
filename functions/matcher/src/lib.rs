//! The matcher stage: event → index keys → subscriptions → recipients. Its cost grows with matches,
//! never with the number of stored filters.
//!
//! - [`handler`]: one queue message in, deliveries out
//! - [`recipients`]: who gets it, merged over all their subscriptions
//! - [`config`]: the environment

pub mod config;
pub mod handler;
pub mod recipients;

#[cfg(test)]
mod tests;
