//! The environment of control.

use nostr_push_aws::environment::{BadEnvironment, Environment};
use nostr_push_core::capacity::Caps;

use crate::context::Limits;

/// The environment variables that `template.yaml` sets.
#[derive(Debug)]
pub struct Config {
    /// `TABLE_PREFIX`: the prefix of the tables' names.
    pub table_prefix: String,
    /// `CONTROL_QUEUE_URL`: the queue of control events.
    pub control_queue: String,
    /// `SERVICE_KEY_SECRET`: the ARN of the secret that holds the service key.
    pub service_key_secret: String,
    /// `KEY_VERSION`: the version of that secret. If it is not set, the current one is read.
    pub key_version: Option<String>,
    /// `HEARTBEAT_APP`: the app of dialect H events without an `app` tag. If it is not set,
    /// such events are refused.
    pub heartbeat_app: Option<String>,
    /// `MAX_OWNERS`, `MAX_INDEX_KEYS`, `MAX_INDEX_ROWS`: the caps of the stack.
    /// `NEWCOMER_WRITE_UNITS`: the write units of all newcomers per day.
    pub limits: Limits,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    /// Every variable that is missing or bad.
    pub fn from_env() -> Result<Self, BadEnvironment> {
        let mut env = Environment::default();
        let default = Limits::default();
        let config = Self {
            table_prefix: env.required("TABLE_PREFIX"),
            control_queue: env.required("CONTROL_QUEUE_URL"),
            service_key_secret: env.required("SERVICE_KEY_SECRET"),
            key_version: env.text("KEY_VERSION"),
            heartbeat_app: env.text("HEARTBEAT_APP"),
            limits: Limits {
                caps: Caps {
                    owners: env.number("MAX_OWNERS", default.caps.owners),
                    index_keys: env.number("MAX_INDEX_KEYS", default.caps.index_keys),
                    index_rows: env.number("MAX_INDEX_ROWS", default.caps.index_rows),
                },
                newcomer_write_units: env
                    .number("NEWCOMER_WRITE_UNITS", default.newcomer_write_units),
            },
        };
        env.finish(config)
    }
}
