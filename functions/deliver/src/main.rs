//! The deliver Lambda. This file only wires.

use deliver::{claim::Attempt, config::Config, handler, report};
use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    dynamodb::Store,
    sns::Sns,
    sqs::{Queue, Visibility},
    telemetry::Telemetry,
};
use nostr_push_core::{Seconds, message::DeliveryMessage};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let telemetry = Telemetry::init("deliver");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let visibility = Visibility::new(&aws, config.delivery_queue.clone());
    let dependencies = Dependencies {
        store: Store::new(&aws, &config.table_prefix),
        sns: Sns::new(&aws),
        queue: Queue::new(&aws, config.delivery_queue),
        lease: config.lease,
    };
    let dependencies = &dependencies;
    batch::run(telemetry, visibility, move |record| {
        handle(telemetry, dependencies, record)
    })
    .await
}

/// What a delivery needs.
struct Dependencies {
    store: Store,
    sns: Sns,
    /// The queue of this stage, for deliveries that wait.
    queue: Queue<DeliveryMessage>,
    lease: Seconds,
}

/// Handles one record. `Err` returns the message to its queue; after 5 receipts it moves to the
/// dead-letter queue.
async fn handle(
    telemetry: Telemetry,
    dependencies: &Dependencies,
    record: Record<DeliveryMessage>,
) -> Result<(), Retry> {
    let Dependencies {
        store,
        sns,
        queue,
        lease,
    } = dependencies;
    let (message_id, receive_count) = (&record.message_id, record.receive_count);
    let attempt = Attempt::of(message_id, receive_count, clients::now(), *lease);
    let result = handler::handle(store, sns, queue, &record.message, &attempt).await;
    report::report(telemetry, &record.message, &result, clients::now())
}
