//! The control stage: verifies, decrypts and applies control events (kinds 3079 to 3082).
//!
//! - [`handler`]: one queue message in, one outcome out
//! - [`check`]: the checks every control event passes, in their order
//! - [`payload`]: what stands inside the ciphertext
//! - [`refusal`]: why an event is dropped
//! - [`devices`]: registering and removing push tokens
//! - [`subscriptions`]: upserting and deleting filters
//! - [`triggers`]: the filters an app gives to every owner with a device
//! - [`config`]: the environment

pub mod check;
pub mod config;
pub mod devices;
pub mod handler;
pub mod payload;
pub mod refusal;
pub mod subscriptions;
pub mod triggers;

#[cfg(test)]
mod tests;
