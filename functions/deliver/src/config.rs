//! The environment of deliver.

use std::time::Duration;

use nostr_push_aws::environment::{BadEnvironment, Environment};

/// What `template.yaml` gives the function.
#[derive(Debug)]
pub struct Config {
    /// `TABLE_PREFIX`: what the tables' names begin with.
    pub table_prefix: String,
    /// `DELIVERY_QUEUE_URL`: where its messages come from.
    pub delivery_queue: String,
    /// `CLAIM_LEASE_SECONDS`, default 60: must be above the function's timeout.
    pub lease: Duration,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// Every variable that is missing or bad.
    pub fn from_env() -> Result<Self, BadEnvironment> {
        let mut env = Environment::default();
        let config = Self {
            table_prefix: env.required("TABLE_PREFIX"),
            delivery_queue: env.required("DELIVERY_QUEUE_URL"),
            lease: Duration::from_secs(env.number("CLAIM_LEASE_SECONDS", 60)),
        };
        env.finish(config)
    }
}
