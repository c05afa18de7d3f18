//! The matcher Lambda: wiring only.

use matcher::{config::Config, handler};
use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    dynamodb::Store,
    sqs::{Queue, Visibility},
    telemetry::Telemetry,
};
use nostr_push_core::{
    message::{Content, Outgoing},
    ports::{self, Answer, seconds},
};

/// Both queues the matcher sends to.
struct Queues {
    deliveries: Queue<Outgoing>,
    rest: Queue<Content>,
}

impl ports::Queue<Outgoing> for Queues {
    async fn send(&self, messages: &[Outgoing]) -> Answer<()> {
        self.deliveries.send(messages).await
    }
}

impl ports::Queue<Content> for Queues {
    async fn send(&self, messages: &[Content]) -> Answer<()> {
        self.rest.send(messages).await
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
        rest: Queue::new(&aws, config.event_queue),
    };
    let (store, queues) = (&store, &queues);
    batch::run(telemetry, visibility, move |record| {
        handle(telemetry, store, queues, record)
    })
    .await
}

/// `Err` sends the message back to its queue; after 5 times the dead-letter queue has it.
async fn handle(
    telemetry: Telemetry,
    store: &Store,
    queues: &Queues,
    record: Record<Content>,
) -> Result<(), Retry> {
    let content = record.message;
    let (event_id, kind, received_at) = (
        content.event.id.to_hex(),
        content.event.kind.as_u16(),
        content.received_at,
    );
    let relay = content.relay.clone();
    let now = clients::now();
    match handler::handle(store, queues, content, seconds(now)).await {
        Ok(matched) => {
            let latency_ms = clients::now().saturating_sub(received_at);
            telemetry.count("accepted", "matched", matched.recipients);
            telemetry.count("accepted", "requeued", u64::from(matched.requeued));
            telemetry.count("accepted", "mute_list", u64::from(matched.mute_list));
            telemetry.count("dropped", "own_event", matched.own_event);
            telemetry.count(
                "dropped",
                "before_subscription",
                matched.before_subscription,
            );
            if let Some(reason) = matched.dropped {
                telemetry.count("dropped", reason, 1);
            }
            telemetry.latency(received_at, clients::now());
            let (outcome, reason) = matched
                .dropped
                .map_or(("accepted", "matched"), |reason| ("dropped", reason));
            tracing::info!(
                stage = "matcher",
                event_id,
                kind,
                outcome,
                reason,
                relay,
                recipients = matched.recipients,
                requeued = matched.requeued,
                latency_ms,
                "matcher {outcome} event {event_id}: {} recipients",
                matched.recipients
            );
            Ok(())
        }
        Err(error) => {
            telemetry.count("retried", "unavailable", 1);
            tracing::warn!(
                stage = "matcher",
                event_id,
                kind,
                outcome = "retried",
                reason = "unavailable",
                dependency = error.dependency,
                "matcher retries event {event_id}: {error}"
            );
            Err(Retry::default())
        }
    }
}
