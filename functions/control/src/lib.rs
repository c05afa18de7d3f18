//! The control stage: verifies, decrypts and applies control events (kinds 3079 to 3082 of dialect
//! N, 22456 of dialect H).
//!
//! - [`handler`]: one queue message in, one outcome out
//! - [`check`]: the checks every control event passes, in their order
//! - [`payload`]: what stands inside the ciphertext
//! - [`refusal`]: why an event is dropped
//! - [`devices`]: registering and removing push tokens
//! - [`subscriptions`]: upserting and deleting filters
//! - [`settings`], [`device_id`]: dialect H: what replaces the owner's settings, and the forms of a
//!   device id
//! - [`presence`]: dialect H: heartbeats
//! - [`derived`]: subscriptions that follow from devices and settings
//! - [`config`]: the environment

pub mod check;
pub mod config;
pub mod derived;
pub mod device_id;
pub mod devices;
pub mod handler;
pub mod payload;
pub mod presence;
pub mod refusal;
pub mod settings;
pub mod subscriptions;

#[cfg(test)]
mod tests;
