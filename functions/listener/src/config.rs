//! The environment of the listener.

use nostr_push_aws::environment::{BadEnvironment, Environment};
use nostr_push_core::message::MAX_RELAY_URL;

/// What the task definition gives the process.
#[derive(Debug)]
pub struct Config {
    /// `RELAYS`: relay URLs (`wss://…`), separated by commas.
    pub relays: Vec<String>,
    /// `TABLE_PREFIX`: what the tables' names begin with.
    pub table_prefix: String,
    /// `CONTROL_QUEUE_URL`: where control events go.
    pub control_queue: String,
    /// `EVENT_QUEUE_URL`: where content events go.
    pub event_queue: String,
    /// `SERVICE_KEY_SECRET`: the ARN of the secret that holds the service key.
    pub service_key_secret: String,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// Every variable that is missing or bad.
    pub fn from_env() -> Result<Self, BadEnvironment> {
        let mut env = Environment::default();
        let config = Self {
            relays: env.required("RELAYS").split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect(),
            table_prefix: env.required("TABLE_PREFIX"),
            control_queue: env.required("CONTROL_QUEUE_URL"),
            event_queue: env.required("EVENT_QUEUE_URL"),
            service_key_secret: env.required("SERVICE_KEY_SECRET"),
        };
        for url in &config.relays {
            if !(url.starts_with("wss://") || url.starts_with("ws://")) || url.len() > MAX_RELAY_URL {
                env.problem(format!("RELAYS: {url:.64} is not a ws:// or wss:// URL of at most {MAX_RELAY_URL} bytes"));
            }
        }
        env.finish(config)
    }
}
