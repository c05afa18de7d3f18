//! The only place that names an AWS SDK. One file per table and per service, each implementing the
//! ports of `nostr_push_core::ports`.
//!
//! - [`clients`]: how the SDK is configured
//! - [`dynamodb`]: the [`dynamodb::Store`], and what its tables share
//!   - `apps`, `devices`, `subscriptions`, `filter_index`, `claims` …: one table each
//! - [`sqs`]: the queues between the stages
//! - [`sns`]: platform endpoints and publishing
//! - [`secrets`]: the service key
//! - [`stream`]: the stream of `devices`
//! - [`batch`]: the partial-batch loop of every Lambda
//! - [`environment`]: reading variables, all bad ones named at once
//! - [`telemetry`]: logs and metrics

pub mod batch;
pub mod clients;
pub mod dynamodb;
pub mod environment;
pub mod secrets;
pub mod sns;
pub mod sqs;
pub mod stream;
pub mod telemetry;
