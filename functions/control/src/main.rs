//! The control Lambda: wiring only.

use control::{
    config::Config,
    handler::{Control, Failure},
};
use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    dynamodb::Store,
    secrets,
    sns::Sns,
    sqs::Visibility,
    telemetry::Telemetry,
};
use nostr_push_core::message;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let telemetry = Telemetry::init("control");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let keys = secrets::service_key(&aws, &config.service_key_secret).await?;
    let control = Control::new(
        keys,
        config.heartbeat_app,
        Store::new(&aws, &config.table_prefix),
        Sns::new(&aws),
    );
    let visibility = Visibility::new(&aws, config.control_queue);
    let control = &control;
    batch::run(telemetry, visibility, move |record| {
        handle(telemetry, control, record)
    })
    .await
}

/// `Err` sends the message back to its queue; after 5 times the dead-letter queue has it. A refused
/// event is `Ok`: it would be refused for ever.
async fn handle(
    telemetry: Telemetry,
    control: &Control<Store, Sns>,
    record: Record<message::Control>,
) -> Result<(), Retry> {
    let message = record.message;
    let event_id = event_id(message.event.get());
    let handled = control.handle(&message, clients::now()).await;
    let now = clients::now();
    let latency_ms = now.saturating_sub(message.received_at);
    let (outcome, reason) = match &handled {
        Ok(applied) => ("accepted", applied.reason()),
        Err(Failure::Refused(refusal)) => ("refused", refusal.reason()),
        Err(Failure::Unavailable(_)) => ("retried", "unavailable"),
    };
    telemetry.count(outcome, reason, 1);
    match handled {
        Ok(_) | Err(Failure::Refused(_)) => {
            telemetry.latency(message.received_at, now);
            tracing::info!(
                stage = "control",
                event_id,
                outcome,
                reason,
                relay = message.relay,
                latency_ms,
                "control {outcome} event {event_id}: {reason}"
            );
            Ok(())
        }
        Err(Failure::Unavailable(error)) => {
            tracing::warn!(
                stage = "control",
                event_id,
                outcome,
                reason,
                dependency = error.dependency,
                "control retries event {event_id}: {error}"
            );
            Err(Retry::default())
        }
    }
}

/// The id an event claims, for the log: a refused event may be anything.
fn event_id(json: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Id {
        id: String,
    }
    serde_json::from_str::<Id>(json).map_or_else(
        |_| "unreadable".to_owned(),
        |id| id.id.chars().take(64).collect(),
    )
}
