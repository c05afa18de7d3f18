//! The AWS adapters of the stages: one file per table and per service, each implementing ports of
//! `nostr_push_core::ports`. No stage depends on an AWS SDK itself.
//!
//! - [`clients`]: the configuration of the SDK
//! - `cause`: the cause of a failed request
//! - [`dynamodb`]: the [`dynamodb::Store`] and what its tables have in common
//!   - `apps`, `devices`, `subscriptions`, `filter_index`, `claims` …: one table each
//! - [`sqs`]: the queues between the stages
//! - [`sns`]: platform endpoints and publishing
//! - [`secrets`]: the service key
//! - [`stream`]: the stream of `devices`
//! - [`batch`]: the partial-batch loop of every Lambda
//! - [`environment`]: environment variables
//! - [`telemetry`]: logs and metrics

pub mod batch;
mod cause;
pub mod clients;
pub mod dynamodb;
pub mod environment;
pub mod secrets;
pub mod sns;
pub mod sqs;
pub mod stream;
pub mod telemetry;
