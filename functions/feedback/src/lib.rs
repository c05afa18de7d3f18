//! The feedback stage: removes the endpoints and rows of devices that SNS reports as failed, that
//! have expired, or whose token the platform has rejected.
//!
//! - [`handler`]: handles one queue message
//! - [`report`]: the counters and the log line of an outcome
//! - [`config`]: the environment

pub mod config;
pub mod handler;
pub mod report;

#[cfg(test)]
mod tests;
