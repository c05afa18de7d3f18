//! The requests against a simulated relay.

mod relay;
mod rules;
mod simulation;
