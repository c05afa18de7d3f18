//! The environment of the listener.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use nostr_push_aws::environment::{BadEnvironment, Environment};
use nostr_push_core::message::MAX_RELAY_URL;

/// Where the listener answers for its health, unless told otherwise.
const HEALTH_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));

/// What the task definition gives the process.
#[derive(Debug)]
pub struct Config {
    /// `RELAYS`: relay URLs (`wss://…`), separated by commas.
    pub relays: Vec<String>,
    /// `OWNERS_RELAYS`, default 200: how many relays of owners are watched besides, in all tasks
    /// together; 0: none.
    pub owners_relays: usize,
    /// `CONTROL_EVENTS_PER_MINUTE`, default 60: how many control events are taken from one pubkey.
    pub control_events: u32,
    /// `PRIVATE_RELAYS`, default false: whether owners' relays may be in private networks and
    /// without TLS. For a developer's machine alone.
    pub private_relays: bool,
    /// `HEALTH_ADDRESS`, default `127.0.0.1:8080`: where `/healthz` and `/readyz` are answered.
    pub health: SocketAddr,
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
    /// Where this process, or the one that it is to look after, answers for its health.
    ///
    /// # Errors
    /// The variable is no address.
    pub fn health_from_env() -> Result<SocketAddr, BadEnvironment> {
        let mut env = Environment::default();
        let health = env.optional("HEALTH_ADDRESS", HEALTH_ADDRESS, str::parse);
        env.finish(health)
    }

    /// Reads the environment.
    ///
    /// # Errors
    /// Every variable that is missing or bad.
    pub fn from_env() -> Result<Self, BadEnvironment> {
        let mut env = Environment::default();
        let config = Self {
            relays: env
                .required("RELAYS")
                .split(',')
                .map(|url| url.trim().to_owned())
                .filter(|url| !url.is_empty())
                .collect(),
            owners_relays: usize::try_from(env.number("OWNERS_RELAYS", 200)).unwrap_or(usize::MAX),
            control_events: env.optional("CONTROL_EVENTS_PER_MINUTE", 60, str::parse),
            private_relays: env.optional("PRIVATE_RELAYS", false, str::parse),
            health: env.optional("HEALTH_ADDRESS", HEALTH_ADDRESS, str::parse),
            table_prefix: env.required("TABLE_PREFIX"),
            control_queue: env.required("CONTROL_QUEUE_URL"),
            event_queue: env.required("EVENT_QUEUE_URL"),
            service_key_secret: env.required("SERVICE_KEY_SECRET"),
        };
        for url in &config.relays {
            if !(url.starts_with("wss://") || url.starts_with("ws://")) || url.len() > MAX_RELAY_URL
            {
                env.problem(format!("RELAYS: {url:.64} is not a ws:// or wss:// URL of at most {MAX_RELAY_URL} bytes"));
            }
        }
        env.finish(config)
    }
}
