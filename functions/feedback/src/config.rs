//! The environment of feedback.

use nostr_push_aws::environment::{BadEnvironment, Environment};

/// What `template.yaml` gives the function.
#[derive(Debug)]
pub struct Config {
    /// `TABLE_PREFIX`: what the tables' names begin with.
    pub table_prefix: String,
    /// `FEEDBACK_QUEUE_URL`: where its messages come from, and what the stream tells goes to.
    pub feedback_queue: String,
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
        };
        env.finish(config)
    }
}
