//! The control stage: verifies, decrypts and applies control events (kinds 3079 to 3082 of dialect
//! N, 22456 of dialect H).
//!
//! - [`handler`]: handles one queue message
//! - [`check`]: the checks that every control event must pass, in order
//! - [`payload`]: reads the plaintext
//! - [`device_id`]: the forms of `deviceId` (dialect H)
//! - [`devices`]: registers and removes push tokens
//! - [`subscriptions`]: stores and deletes filters
//! - [`settings`]: replaces an owner's settings (dialect H)
//! - [`presence`]: stores heartbeats (dialect H)
//! - [`derived`]: subscriptions that follow from devices and settings
//! - [`context`]: the ports, app and time needed to apply an event
//! - [`contention`]: the maximum number of attempts to write rows that keep changing
//! - [`outcome`], [`refusal`]: the outcome of an event
//! - [`report`]: the counters and the log line of an outcome
//! - [`config`]: the environment

pub mod check;
pub mod config;
pub mod contention;
pub mod context;
pub mod derived;
pub mod device_id;
pub mod devices;
pub mod handler;
pub mod outcome;
pub mod payload;
pub mod presence;
pub mod refusal;
pub mod report;
pub mod settings;
pub mod subscriptions;

#[cfg(test)]
mod tests;
