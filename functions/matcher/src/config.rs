//! The environment of the matcher.

use nostr_push_aws::environment::{BadEnvironment, Environment};

/// What `template.yaml` gives the function.
#[derive(Debug)]
pub struct Config {
    /// `TABLE_PREFIX`: what the tables' names begin with.
    pub table_prefix: String,
    /// `EVENT_QUEUE_URL`: where its messages come from, and the rest of a large fan-out goes to.
    pub event_queue: String,
    /// `DELIVERY_QUEUE_URL`: where deliveries go.
    pub delivery_queue: String,
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
            event_queue: env.required("EVENT_QUEUE_URL"),
            delivery_queue: env.required("DELIVERY_QUEUE_URL"),
        };
        env.finish(config)
    }
}
