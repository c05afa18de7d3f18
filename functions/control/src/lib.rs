//! The control stage: verifies, decrypts and applies control events (kinds 3079 to 3082 of dialect
//! N, 22456 of dialect H).
//!
//! - [`handler`]: handles one queue message
//! - [`check`]: the checks that every control event must pass, in order
//! - [`admission`]: who may be an owner, and the stack's capacity
//! - [`payload`]: reads the plaintext
//! - [`device_id`]: the forms of `deviceId` (dialect H)
//! - [`devices`]: registers and removes push tokens
//! - [`upserts`], [`deletions`]: store and delete filters
//! - [`subscriptions`]: writes the rows of a subscription in the right order
//! - [`settings`]: replaces an owner's settings (dialect H)
//! - [`presence`]: stores heartbeats (dialect H)
//! - [`reconcile`]: makes an owner's subscriptions follow the owner's devices and settings
//! - [`derived`]: the subscriptions that the owner did not send
//! - [`dormancy`]: the owner's filters are in force only while the owner has a device
//! - [`budget`]: what an event's writes cost, and the budgets that pay for them
//! - [`context`]: the ports, app and time needed to apply an event
//! - [`contention`]: the maximum number of attempts to write rows that keep changing
//! - [`outcome`], [`refusal`]: the outcome of an event
//! - [`report`]: the counters and the log line of an outcome
//! - [`config`]: the environment

pub mod admission;
pub mod budget;
pub mod check;
pub mod config;
pub mod contention;
pub mod context;
pub mod deletions;
pub mod derived;
pub mod device_id;
pub mod devices;
pub mod dormancy;
pub mod handler;
pub mod outcome;
pub mod payload;
pub mod presence;
pub mod reconcile;
pub mod refusal;
pub mod report;
pub mod settings;
pub mod subscriptions;
pub mod upserts;

#[cfg(test)]
mod tests;
