//! The feedback stage: endpoint events of SNS, and rows of `devices` that ended → endpoints and
//! rows removed.
//!
//! - [`handler`]: one queue message in, one endpoint removed or kept
//! - [`config`]: the environment

pub mod config;
pub mod handler;

#[cfg(test)]
mod tests;
