//! The matcher stage: event → index keys → subscriptions → recipients. Its cost grows with matches,
//! never with the number of stored filters.
//!
//! - [`handler`]: one queue message in, deliveries out
//! - [`fan_out`]: reads the index under an event's hits, within the limits of one invocation
//! - [`limits`]: these limits
//! - [`large_filters`]: who gets a filter read that is too large for the index
//! - [`recipients`]: the recipients of an event, merged over all their subscriptions
//! - [`deliveries`]: queues a delivery for each recipient with a device
//! - [`newcomers`]: the limits on deliveries to owners without a proven device
//! - [`cut`]: the event as deliveries contain it
//! - [`outcome`]: the outcome of a message
//! - [`report`]: counters and log lines
//! - [`config`]: environment variables

pub mod config;
pub mod cut;
pub mod deliveries;
pub mod fan_out;
pub mod handler;
pub mod large_filters;
pub mod limits;
pub mod newcomers;
pub mod outcome;
pub mod recipients;
pub mod report;

#[cfg(test)]
mod tests;
