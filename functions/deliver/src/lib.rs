//! The deliver stage: recipient → claim → devices → SNS publish → outcome.
//!
//! - [`handler`]: one queue message in, one outcome per device
//! - [`text`]: title and body, from the event alone
//! - [`zap`]: what a zap receipt says
//! - [`routing`]: what every push carries besides its text, and how it is cut to size
//! - [`apns`], [`fcm`]: the message for one platform each, of the same shape
//! - [`config`]: the environment

pub mod apns;
pub mod config;
pub mod fcm;
pub mod handler;
pub mod routing;
pub mod text;
pub mod zap;

#[cfg(test)]
mod tests;
