//! The environment of the listener.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use nostr_push_aws::environment::{BadEnvironment, Environment};
use nostr_push_core::message::MAX_RELAY_URL_BYTES;

use crate::budget::{
    Budgets, DEFAULT_CONTROL_EVENTS,
    waiting_room::{
        ControlRates, DEFAULT_NEWCOMER_BYTES_PER_SECOND, DEFAULT_STRANGER_BYTES_PER_SECOND,
    },
};

/// The default address of the health interface.
const DEFAULT_HEALTH_ADDRESS: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));

/// The configuration that the task definition sets.
#[derive(Debug)]
pub struct Config {
    /// `RELAYS`: relay URLs (`wss://…`), separated by commas.
    pub relays: Vec<String>,
    /// `OWNERS_RELAYS`, default 200: the most relays of owners that are watched in addition, by all
    /// tasks together. With 0, none are.
    pub max_owners_relays: usize,
    /// What may be used:
    ///
    /// - `CONTROL_EVENTS_PER_MINUTE`, default 60: the most control events per minute from one
    ///   pubkey
    /// - `STRANGER_BYTES_PER_SECOND`, default 1,024: control events of all pubkeys without a device
    /// - `NEWCOMER_BYTES_PER_SECOND`, default 2,048: control events of all owners with a device
    ///   that is not proven
    pub budgets: Budgets,
    /// `HEARTBEAT_APP`: the app of dialect H events without an `app` tag.
    pub heartbeat_app: Option<String>,
    /// `PRIVATE_RELAYS`, default `false`: if `true`, owners' relays may have private addresses and
    /// no TLS. Only for a developer's machine.
    pub allow_private: bool,
    /// `HEALTH_ADDRESS`, default `127.0.0.1:8080`: the address of the health interface.
    pub health: SocketAddr,
    /// `TABLE_PREFIX`: the prefix of the tables' names.
    pub table_prefix: String,
    /// `CONTROL_QUEUE_URL`: the queue for control events.
    pub control_queue: String,
    /// `EVENT_QUEUE_URL`: the queue for all other events.
    pub event_queue: String,
    /// `PROFILE_QUEUE_URL`: the queue of the profiles that deliver asks for.
    pub profile_queue: String,
    /// `SERVICE_KEY_SECRET`: the ARN of the secret that holds the service key.
    pub service_key_secret: String,
    /// `KEY_VERSION`: the version of that secret. If it is not set, the current one is read.
    pub key_version: Option<String>,
}

impl Config {
    /// The address of the health interface: of this process, or of the one that it checks.
    ///
    /// # Errors
    /// The variable is not an address.
    pub fn health_from_env() -> Result<SocketAddr, BadEnvironment> {
        let mut env = Environment::default();
        let health = env.optional("HEALTH_ADDRESS", DEFAULT_HEALTH_ADDRESS, str::parse);
        env.finish(health)
    }

    /// Reads the environment.
    ///
    /// # Errors
    /// Every variable that is missing or bad.
    pub fn from_env() -> Result<Self, BadEnvironment> {
        let mut env = Environment::default();
        let strangers = env.number(
            "STRANGER_BYTES_PER_SECOND",
            DEFAULT_STRANGER_BYTES_PER_SECOND,
        );
        let newcomers = env.number(
            "NEWCOMER_BYTES_PER_SECOND",
            DEFAULT_NEWCOMER_BYTES_PER_SECOND,
        );
        let max_control_events = env.optional(
            "CONTROL_EVENTS_PER_MINUTE",
            DEFAULT_CONTROL_EVENTS,
            str::parse,
        );
        let config = Self {
            relays: env
                .required("RELAYS")
                .split(',')
                .map(|url| url.trim().to_owned())
                .filter(|url| !url.is_empty())
                .collect(),
            max_owners_relays: usize::try_from(env.number("OWNERS_RELAYS", 200))
                .unwrap_or(usize::MAX),
            budgets: Budgets {
                max_control_events,
                control: ControlRates::new(strangers, newcomers),
                ..Budgets::default()
            },
            heartbeat_app: env.text("HEARTBEAT_APP"),
            allow_private: env.optional("PRIVATE_RELAYS", false, str::parse),
            health: env.optional("HEALTH_ADDRESS", DEFAULT_HEALTH_ADDRESS, str::parse),
            table_prefix: env.required("TABLE_PREFIX"),
            control_queue: env.required("CONTROL_QUEUE_URL"),
            event_queue: env.required("EVENT_QUEUE_URL"),
            profile_queue: env.required("PROFILE_QUEUE_URL"),
            service_key_secret: env.required("SERVICE_KEY_SECRET"),
            key_version: env.text("KEY_VERSION"),
        };
        for url in &config.relays {
            if !(url.starts_with("wss://") || url.starts_with("ws://"))
                || url.len() > MAX_RELAY_URL_BYTES
            {
                env.problem(format!(
                    "RELAYS: {url:.64} is not a ws:// or wss:// URL \
                     of at most {MAX_RELAY_URL_BYTES} bytes"
                ));
            }
        }
        env.finish(config)
    }
}
