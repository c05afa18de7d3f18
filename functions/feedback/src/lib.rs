//! The feedback stage: deletes the endpoints of devices that SNS reports as failed, that have
//! expired, or whose token the platform has rejected, and marks the devices as removed.
//!
//! - [`handler`]: handles one queue message
//! - [`outcome`]: the outcome of a message
//! - [`report`]: the counters and the log line of an outcome
//! - [`config`]: the environment

pub mod config;
pub mod handler;
pub mod outcome;
pub mod report;

#[cfg(test)]
mod tests;
