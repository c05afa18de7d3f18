//! The environment of feedback.

use nostr_push_aws::environment::{BadEnvironment, Environment};

/// The environment variables that `template.yaml` sets.
#[derive(Debug)]
pub struct Config {
    /// `TABLE_PREFIX`: the prefix of the tables' names.
    pub table_prefix: String,
    /// `FEEDBACK_QUEUE_URL`: the queue of endpoint events and retired devices.
    pub feedback_queue: String,
    /// `CONTROL_QUEUE_URL`: the queue of control, for owners whose device was removed.
    pub control_queue: String,
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
            feedback_queue: env.required("FEEDBACK_QUEUE_URL"),
            control_queue: env.required("CONTROL_QUEUE_URL"),
        };
        env.finish(config)
    }
}
