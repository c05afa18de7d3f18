//! The listener process: wiring only. `listener check` checks that a running listener is healthy,
//! and reports the result in its exit code. The container's health check uses it, because the image
//! has no shell.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use listener::{
    Listener, Options, Ports,
    config::Config,
    health::{self, Health},
    shutdown::{Shutdown, StopHandle},
};
use nostr_push_aws::{clients, dynamodb::Store, secrets, sqs::Queue, telemetry::Telemetry};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

/// How often metrics are written.
const METRICS_INTERVAL: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("check") {
        return Ok(health::check(Config::health_from_env()?).await?);
    }
    // The AWS SDK and the relays' connections share one TLS provider. With two in one process, the
    // first connection panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let telemetry = Telemetry::init("listener");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let (secret, version) = (&config.service_key_secret, config.key_version.as_deref());
    let keys = secrets::service_keys(&aws, secret, version).await?.keys;
    let store = Store::new(&aws, &config.table_prefix);
    let ports = Ports {
        feed: store.clone(),
        store,
        control: Queue::new(&aws, config.control_queue),
        content: Queue::new(&aws, config.event_queue),
        profiles: Queue::new(&aws, config.profile_queue),
        count: Arc::new(move |counter, n| telemetry.count(counter, n)),
        clock: clients::now,
    };
    let (stop, shutdown) = Shutdown::channel();
    tokio::spawn(stop_on_signal(
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        stop,
    ));
    // Unique for each process: a task that is started again is another member.
    let member = format!(
        "task-{:016x}",
        RandomState::new().hash_one(std::process::id())
    );
    tracing::info!(
        stage = "listener",
        service = keys.current().public_key().to_hex(),
        relays = config.relays.len(),
        member,
        "listening"
    );
    let options = Options {
        relays: config.relays,
        max_owners_relays: config.max_owners_relays,
        allow_private: config.allow_private,
        budgets: config.budgets,
        heartbeat_app: config.heartbeat_app,
        member,
    };
    let listener = Listener::new(keys, options, ports);
    tokio::spawn(write_metrics(telemetry, listener.health()));
    // A task of its own, so that it responds while the listener loads the interest.
    let health = tokio::spawn(health::serve(
        TcpListener::bind(config.health).await?,
        listener.health(),
        clients::now,
    ));
    let result = tokio::select! {
        result = listener.run(shutdown) => result.map_err(anyhow::Error::from),
        ended = health => Err(anyhow::anyhow!("the health interface ended: {ended:?}")),
    };
    telemetry.flush();
    result
}

async fn stop_on_signal(mut terminate: Signal, mut interrupt: Signal, stop: StopHandle) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(stage = "listener", "stop requested: draining");
    stop.stop();
}

async fn write_metrics(telemetry: Telemetry, health: Arc<Health>) {
    loop {
        tokio::time::sleep(METRICS_INTERVAL).await;
        telemetry.relays(
            health.watched.load(Ordering::Relaxed),
            health.connected.load(Ordering::Relaxed),
        );
        if let Some(usage) = health.usage() {
            telemetry.usage(&usage);
        }
        telemetry.flush();
    }
}
