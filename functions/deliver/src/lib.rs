//! The deliver stage: recipient → claim → devices → SNS publish → outcome.
//!
//! - [`handler`]: one queue message in, one outcome out
//! - [`outcome`]: the outcome of a message and of each device
//! - [`drops`]: events that must not notify their recipient
//! - [`targets`]: the devices to push to
//! - [`waiting`]: deliveries to an app that looks open
//! - [`claim`]: the claim of one attempt
//! - [`rate_limit`]: the limit of pushes per minute
//! - [`push`]: publishing a push to one device
//! - [`notice`]: what a push is about, before it takes a shape
//! - [`text`]: title and body
//! - [`roles`]: who takes part in an event
//! - [`names`]: their names and pictures
//! - [`lookalike`]: names that are not shown
//! - [`profile_requests`]: requests for the profiles that a push could not show
//! - [`zap`]: zap receipts
//! - [`tags`]: tags by name
//! - [`payload`]: a payload in the shape that a device asks for, and the limit on its size
//! - [`native`], [`verse`], [`wake`], [`encrypted`]: the content of one shape each
//! - [`embedded_distributor`]: the shape of `UnifiedPush` distributors inside an app
//! - [`apns`], [`fcm`]: the message for one platform each
//! - [`report`]: counters and log lines
//! - [`config`]: environment variables

pub mod apns;
pub mod claim;
pub mod config;
pub mod drops;
pub mod embedded_distributor;
pub mod encrypted;
pub mod fcm;
pub mod handler;
pub mod lookalike;
pub mod names;
pub mod native;
pub mod notice;
pub mod outcome;
pub mod payload;
pub mod profile_requests;
pub mod push;
pub mod rate_limit;
pub mod report;
pub mod roles;
pub mod tags;
pub mod targets;
pub mod text;
pub mod verse;
pub mod waiting;
pub mod wake;
pub mod zap;

#[cfg(test)]
mod tests;
