//! The deliver Lambda. This file only wires.

use std::time::Duration;

use deliver::{
    claim::Attempt,
    config::Config,
    handler,
    profile_requests::RequestBudgets,
    report::{self, DeliverCounter},
};
use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    dynamodb::Store,
    sns::Sns,
    sqs::{Queue, Visibility},
    telemetry::Telemetry,
};
use nostr_push_core::{
    Seconds,
    message::{DeliveryMessage, ReconcileMessage},
    ports::{self, DelayQueue, PortResult},
    profile::ProfileRequest,
};

/// The queues to which deliver sends.
struct Queues {
    /// The queue of this stage, for deliveries that wait.
    deliveries: Queue<DeliveryMessage>,
    control: Queue<ReconcileMessage>,
    profiles: Queue<ProfileRequest>,
}

impl DelayQueue<DeliveryMessage> for Queues {
    async fn send_after(&self, message: &DeliveryMessage, delay: Duration) -> PortResult<()> {
        self.deliveries.send_after(message, delay).await
    }
}

impl ports::Queue<ReconcileMessage> for Queues {
    async fn send(&self, messages: &[ReconcileMessage]) -> PortResult<()> {
        self.control.send(messages).await
    }
}

impl ports::Queue<ProfileRequest> for Queues {
    async fn send(&self, messages: &[ProfileRequest]) -> PortResult<()> {
        self.profiles.send(messages).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let telemetry = Telemetry::init("deliver");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let visibility = Visibility::new(&aws, config.delivery_queue.clone());
    let dependencies = Dependencies {
        store: Store::new(&aws, &config.table_prefix),
        sns: Sns::new(&aws),
        queues: Queues {
            deliveries: Queue::new(&aws, config.delivery_queue),
            control: Queue::new(&aws, config.control_queue),
            profiles: Queue::new(&aws, config.profile_queue),
        },
        budgets: RequestBudgets::default(),
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
    queues: Queues,
    budgets: RequestBudgets,
    lease: Seconds,
}

/// Handles one record. `Err` returns the message to its queue. After its last receipt it moves to
/// the dead-letter queue.
async fn handle(
    telemetry: Telemetry,
    dependencies: &Dependencies,
    record: Record<DeliveryMessage>,
) -> Result<(), Retry> {
    let Dependencies {
        store,
        sns,
        queues,
        budgets,
        lease,
    } = dependencies;
    let (message_id, receive_count) = (&record.message_id, record.receive_count);
    let attempt = Attempt::of(message_id, receive_count, clients::now(), *lease);
    let result = handler::handle(store, sns, queues, budgets, &record.message, &attempt).await;
    telemetry.count(DeliverCounter::ProfilesRefused, budgets.take_refused());
    report::report(telemetry, &record.message, &result, clients::now())
}
