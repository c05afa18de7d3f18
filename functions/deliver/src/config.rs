//! The environment variables of deliver.

use nostr_push_aws::environment::{BadEnvironment, Environment};
use nostr_push_core::Seconds;

/// The configuration, as `template.yaml` sets it.
#[derive(Debug)]
pub struct Config {
    /// `TABLE_PREFIX`: the prefix of the tables' names.
    pub table_prefix: String,
    /// `DELIVERY_QUEUE_URL`: the queue of this stage.
    pub delivery_queue: String,
    /// `CONTROL_QUEUE_URL`: the queue of control.
    pub control_queue: String,
    /// `PROFILE_QUEUE_URL`: the queue of profiles that the listener requests.
    pub profile_queue: String,
    /// `CLAIM_LEASE_SECONDS`, default 60: how long an attempt holds a claim. It must be longer than
    /// the function's timeout.
    pub lease: Seconds,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// All variables that are missing or bad.
    pub fn from_env() -> Result<Self, BadEnvironment> {
        let mut env = Environment::default();
        let config = Self {
            table_prefix: env.required("TABLE_PREFIX"),
            delivery_queue: env.required("DELIVERY_QUEUE_URL"),
            control_queue: env.required("CONTROL_QUEUE_URL"),
            profile_queue: env.required("PROFILE_QUEUE_URL"),
            lease: Seconds(env.number("CLAIM_LEASE_SECONDS", 60)),
        };
        env.finish(config)
    }
}
