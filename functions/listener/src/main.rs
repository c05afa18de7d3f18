//! The listener process: wiring only.

use std::time::Duration;

use listener::{Ports, config::Config, run};
use nostr_push_aws::{clients, dynamodb::Store, secrets, sqs::Queue, telemetry::Telemetry};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How often metrics are written.
const METRICS: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // One TLS provider for the AWS SDK and the relays: two in one process panic at the first connection.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let telemetry = Telemetry::init("listener");
    let config = Config::from_env()?;
    let aws = clients::config().await;
    let keys = secrets::service_key(&aws, &config.service_key_secret).await?;
    let ports = Ports {
        feed: Store::new(&aws, &config.table_prefix),
        control: Queue::new(&aws, config.control_queue),
        content: Queue::new(&aws, config.event_queue),
        count,
        clock: clients::now,
    };
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(METRICS).await;
            telemetry.flush();
        }
    });
    let (stop, stopping) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(stage = "listener", "told to stop: draining");
        let _ = stop.send(true);
    });
    tracing::info!(stage = "listener", service = keys.public_key().to_hex(), relays = config.relays.len(), "listening");
    let stopped = run(keys.public_key(), config.relays, ports, stopping).await;
    telemetry.flush();
    Ok(stopped?)
}

fn count(outcome: &'static str, reason: &'static str) {
    metrics::counter!("Events", "Outcome" => outcome, "Reason" => reason).increment(1);
}
