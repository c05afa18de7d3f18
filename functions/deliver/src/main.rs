//! The deliver Lambda: wiring only.

use std::time::Duration;

use deliver::{
    config::Config,
    handler::{self, Attempt, Delivered, Tried},
};
use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    dynamodb::Store,
    sns::Sns,
    sqs::{Queue, Visibility},
    telemetry::Telemetry,
};
use nostr_push_core::{message::Outgoing, ports::Outcome};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let telemetry = Telemetry::init("deliver");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let (store, sns) = (Store::new(&aws, &config.table_prefix), Sns::new(&aws));
    let visibility = Visibility::new(&aws, config.delivery_queue.clone());
    let outside = Outside {
        store,
        sns,
        queue: Queue::new(&aws, config.delivery_queue),
        lease: config.lease,
    };
    let outside = &outside;
    batch::run(telemetry, visibility, move |record| {
        handle(telemetry, outside, record)
    })
    .await
}

/// What a delivery needs.
struct Outside {
    store: Store,
    sns: Sns,
    /// Its own queue, for deliveries that wait.
    queue: Queue<Outgoing>,
    lease: Duration,
}

/// `Err` sends the message back to its queue; after 5 times the dead-letter queue has it.
async fn handle(
    telemetry: Telemetry,
    outside: &Outside,
    record: Record<Outgoing>,
) -> Result<(), Retry> {
    let outgoing = record.message;
    // The receive count makes each receipt another holder: what a dead attempt held is not ours.
    let holder = format!("{}/{}", record.message_id, record.receive_count);
    let attempt = Attempt {
        holder,
        now: clients::now(),
        lease: outside.lease,
    };
    let handled = handler::handle(
        &outside.store,
        &outside.sns,
        &outside.queue,
        &outgoing,
        &attempt,
    )
    .await;
    let (event_id, owner) = (outgoing.id(), outgoing.owner());
    let recipient = &owner.pubkey.to_hex()[..8];
    let latency_ms = clients::now().saturating_sub(outgoing.received_at());
    // Each event that the matcher queued is accepted or dropped once. Summaries are not among them,
    // and counted apart.
    let is_event = matches!(outgoing, Outgoing::Event(_));
    let (tried, outcome, reason, retry) = match handled {
        Ok(Delivered::Dropped(reason)) => {
            telemetry.count(if is_event { "dropped" } else { "summary" }, reason, 1);
            (Vec::new(), "dropped", reason, None)
        }
        Ok(Delivered::Waiting(_)) => {
            telemetry.count("waiting", "app_open", 1);
            (Vec::new(), "waiting", "app_open", None)
        }
        Ok(Delivered::Tried(tried)) => {
            telemetry.count(
                if is_event { "accepted" } else { "summary" },
                "completed",
                1,
            );
            (tried, "accepted", "completed", None)
        }
        Ok(Delivered::Again {
            after,
            reason,
            tried,
        }) => {
            telemetry.count("retried", reason, 1);
            (tried, "retried", reason, Some(Retry { after }))
        }
        Err(error) => {
            telemetry.count("retried", "unavailable", 1);
            tracing::warn!(
                stage = "deliver",
                event_id,
                recipient,
                dependency = error.dependency,
                "deliver failed on event {event_id}: {error}"
            );
            (Vec::new(), "retried", "unavailable", Some(Retry::default()))
        }
    };
    for device in &tried {
        report(telemetry, &outgoing, device);
    }
    tracing::info!(
        stage = "deliver",
        event_id,
        recipient,
        app = owner.app,
        outcome,
        reason,
        devices = tried.len(),
        latency_ms,
        "deliver {outcome} event {event_id} for {recipient}: {reason}"
    );
    retry.map_or(Ok(()), Err)
}

/// Counts one device's outcome, and logs it unless all is well.
fn report(telemetry: Telemetry, outgoing: &Outgoing, device: &Tried) {
    let platform = device.platform.as_str();
    if device.outcome != Outcome::Gone {
        telemetry.push(device.outcome != Outcome::Delivered);
    }
    match &device.outcome {
        Outcome::Delivered => {
            telemetry.count("delivered", platform, 1);
            if let Outgoing::Event(delivery) = outgoing
                && !delivery.waited
            {
                telemetry.latency(delivery.received_at, clients::now());
            }
        }
        Outcome::Retry { reason, .. } => {
            telemetry.count("failed", reason, 1);
            tracing::warn!(
                stage = "deliver",
                outcome = "failed",
                reason,
                platform,
                event_id = outgoing.id(),
                "a push failed for now: {reason}"
            );
        }
        Outcome::Gone => {
            telemetry.count("gone", platform, 1);
            tracing::info!(
                stage = "deliver",
                outcome = "gone",
                platform,
                device = device.token_hash.get(..8),
                "deliver removed a device that SNS says is gone"
            );
        }
        Outcome::Rejected { reason, why } => {
            telemetry.count("rejected", reason, 1);
            tracing::error!(
                stage = "deliver",
                outcome = "rejected",
                reason,
                platform,
                event_id = outgoing.id(),
                "SNS rejected a push: {why}"
            );
        }
    }
}
