//! The matcher stage: event → index keys → subscriptions → recipients. Its cost grows with matches,
//! never with the number of stored filters.
//!
//! - [`handler`]: one queue message in, deliveries out
//! - [`recipients`]: the recipients of an event, merged over all their subscriptions
//! - [`outcome`]: the outcome of a message
//! - [`report`]: counters and log lines
//! - [`config`]: environment variables

pub mod config;
pub mod handler;
pub mod outcome;
pub mod recipients;
pub mod report;

#[cfg(test)]
mod tests;
