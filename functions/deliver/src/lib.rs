//! The deliver stage: recipient → claim → devices → SNS publish → outcome.
//!
//! - [`handler`]: one queue message in, one outcome out
//! - [`outcome`]: the outcome of a message and of each device
//! - [`drops`]: events that must not notify their recipient
//! - [`targets`]: the devices to push to
//! - [`waiting`]: deliveries to an app that looks open
//! - [`claim`]: the claim of one attempt
//! - [`rate_limit`]: the limit of pushes per minute
//! - [`push`]: building a push for each platform, and publishing it to one device
//! - [`text`]: title and body
//! - [`zap`]: zap receipts
//! - [`tags`]: tags by name
//! - [`payload`]: routing fields, and the limit on the size of a payload
//! - [`apns`], [`fcm`]: the message for one platform each
//! - [`report`]: counters and log lines
//! - [`config`]: environment variables

pub mod apns;
pub mod claim;
pub mod config;
pub mod drops;
pub mod fcm;
pub mod handler;
pub mod outcome;
pub mod payload;
pub mod push;
pub mod rate_limit;
pub mod report;
pub mod tags;
pub mod targets;
pub mod text;
pub mod waiting;
pub mod zap;

#[cfg(test)]
mod tests;
