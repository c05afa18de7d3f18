//! Dev only: the whole service in one process, with simulated time and random faults.
//!
//! The stages control, matcher, deliver and feedback run unchanged on simulated ports. Everything
//! random comes from one seed, and time passes only when everybody waits, so a seed always gives
//! the same run. Then an oracle decides which pushes had to come, which could and which must not.
//!
//! The listener is not part of the simulation yet. Events come from simulated relays through a
//! simple model of the listener, with delays, duplicates and in any order ([`relays`]).
//!
//! - [`plan`], [`run`]: one run, from the start to the verdict
//! - [`minimize`]: what a violation needs
//! - [`clients`], [`authors`]: what people do
//! - [`filters`]: filters as people send them
//! - [`relays`]: how events reach the queues
//! - [`lambda`]: batches, crashes and retries
//! - [`stages`]: the real stages
//! - [`queue`]: the queues of SQS
//! - [`tables`], [`ttl`]: the tables of DynamoDB
//! - [`sns`]: SNS and the phones
//! - [`oracle`]: which pushes must come
//! - [`faults`]: which faults happen, and how often
//! - [`planted`]: faults that the oracle must find
//! - [`world`]: all of it together, and the clock
//! - [`random`]: random numbers from a seed
//! - [`trace`]: the story of a run

pub mod authors;
pub mod clients;
pub mod faults;
pub mod filters;
pub mod lambda;
pub mod minimize;
pub mod oracle;
pub mod plan;
pub mod planted;
pub mod queue;
pub mod random;
pub mod relays;
pub mod run;
pub mod sns;
pub mod stages;
pub mod tables;
pub mod trace;
pub mod ttl;
pub mod world;
