//! The matcher Lambda. This file only wires.

use matcher::{config::Config, handler::Matcher, report};
use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    dynamodb::Store,
    sqs::{Queue, Visibility},
    telemetry::Telemetry,
};
use nostr_push_core::{
    message::{ContentMessage, DeliveryMessage},
    ports::{self, PortResult},
};

/// The two queues to which the matcher sends.
struct Queues {
    deliveries: Queue<DeliveryMessage>,
    events: Queue<ContentMessage>,
}

impl ports::Queue<DeliveryMessage> for Queues {
    async fn send(&self, messages: &[DeliveryMessage]) -> PortResult<()> {
        self.deliveries.send(messages).await
    }
}

impl ports::Queue<ContentMessage> for Queues {
    async fn send(&self, messages: &[ContentMessage]) -> PortResult<()> {
        self.events.send(messages).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let telemetry = Telemetry::init("matcher");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let store = Store::new(&aws, &config.table_prefix);
    let visibility = Visibility::new(&aws, config.event_queue.clone());
    let queues = Queues {
        deliveries: Queue::new(&aws, config.delivery_queue),
        events: Queue::new(&aws, config.event_queue),
    };
    let matcher = Matcher::new(config.newcomer_pushes);
    let (matcher, store, queues) = (&matcher, &store, &queues);
    batch::run(telemetry, visibility, move |record| {
        handle(telemetry, matcher, store, queues, record)
    })
    .await
}

/// Handles one record. `Err` returns the message to its queue. After its last receipt it moves to
/// the dead-letter queue.
async fn handle(
    telemetry: Telemetry,
    matcher: &Matcher,
    store: &Store,
    queues: &Queues,
    record: Record<ContentMessage>,
) -> Result<(), Retry> {
    let content = &record.message;
    let result = matcher.handle(store, queues, content, clients::now).await;
    report::report(telemetry, content, &result, clients::now())
}
