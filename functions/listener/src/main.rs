//! The listener process: wiring only. `listener check` asks a running one whether it is ready, and
//! answers by its exit code: the container's health check, where there is no shell.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::Ordering,
    time::Duration,
};

use listener::{Listener, Options, Ports, config::Config, health};
use nostr_push_aws::{clients, dynamodb::Store, secrets, sqs::Queue, telemetry::Telemetry};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How often metrics are written.
const METRICS: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("check") {
        return Ok(health::check(Config::health_from_env()?).await?);
    }
    // One TLS provider for the AWS SDK and the relays: two in one process panic at the first
    // connection.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let telemetry = Telemetry::init("listener");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let keys = secrets::service_key(&aws, &config.service_key_secret).await?;
    let store = Store::new(&aws, &config.table_prefix);
    let ports = Ports {
        feed: store.clone(),
        store,
        control: Queue::new(&aws, config.control_queue),
        content: Queue::new(&aws, config.event_queue),
        count,
        clock: clients::now,
    };
    let (stop, stopping) = watch::channel(false);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(stage = "listener", "told to stop: draining");
        let _ = stop.send(true);
    });
    // Different for each process: a task that comes back is another one.
    let member = format!(
        "task-{:016x}",
        RandomState::new().hash_one(std::process::id())
    );
    tracing::info!(
        stage = "listener",
        service = keys.public_key().to_hex(),
        relays = config.relays.len(),
        member,
        "listening"
    );
    let options = Options {
        relays: config.relays,
        owners_relays: config.owners_relays,
        private: config.private_relays,
        control_events: config.control_events,
        member,
    };
    let listener = Listener::new(keys, options, ports);
    let seen = listener.health();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(METRICS).await;
            telemetry.relays(
                seen.watched.load(Ordering::Relaxed),
                seen.connected.load(Ordering::Relaxed),
            );
            telemetry.flush();
        }
    });
    let health = health::serve(
        TcpListener::bind(config.health).await?,
        listener.health(),
        clients::now,
    );
    let stopped = tokio::select! {
        stopped = listener.run(stopping) => stopped.map_err(anyhow::Error::from),
        ended = health => Err(anyhow::anyhow!("the health interface ended: {ended:?}")),
    };
    telemetry.flush();
    stopped
}

fn count(outcome: &'static str, reason: &'static str) {
    metrics::counter!("Events", "Outcome" => outcome, "Reason" => reason).increment(1);
}
