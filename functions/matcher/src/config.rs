//! The environment variables of the matcher.

use nostr_push_aws::environment::{BadEnvironment, Environment};

/// The configuration, as `template.yaml` sets it.
#[derive(Debug)]
pub struct Config {
    /// `TABLE_PREFIX`: the prefix of the tables' names.
    pub table_prefix: String,
    /// `EVENT_QUEUE_URL`: the queue of this stage. The rest of a large fan-out is sent to it again.
    pub event_queue: String,
    /// `DELIVERY_QUEUE_URL`: the queue for deliveries.
    pub delivery_queue: String,
    /// `NEWCOMER_PUSHES`, default 50,000: the most deliveries per day to all owners together who
    /// have no proven device.
    pub newcomer_pushes: u64,
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
            event_queue: env.required("EVENT_QUEUE_URL"),
            delivery_queue: env.required("DELIVERY_QUEUE_URL"),
            newcomer_pushes: env.number("NEWCOMER_PUSHES", 50_000),
        };
        env.finish(config)
    }
}
