//! The feedback Lambda: wiring only. Two sources invoke it: its queue, and the stream of `devices`,
//! whose records it only puts into that queue. There each is tried again by itself and has a
//! dead-letter queue; in the stream, one that fails would hold up all behind it.

use feedback::{
    config::Config,
    handler::{self, Handled},
};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nostr_push_aws::{
    batch::{self, Record, Retry},
    clients,
    dynamodb::Store,
    sns::Sns,
    sqs::{Queue, Visibility},
    stream,
    telemetry::Telemetry,
};
use nostr_push_core::{
    message::{Feedback, Retired},
    ports::{Queue as _, seconds},
};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let telemetry = Telemetry::init("feedback");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let (store, sns) = (Store::new(&aws, &config.table_prefix), Sns::new(&aws));
    let visibility = Visibility::new(&aws, config.feedback_queue.clone());
    let queue = Queue::<Retired>::new(&aws, config.feedback_queue);
    let (store, sns, queue, visibility) = (&store, &sns, &queue, &visibility);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let answer = if event.payload["Records"][0]["eventSource"] == stream::SOURCE {
            let retired = stream::retired(serde_json::from_value(event.payload)?);
            // An error makes the stream bring the whole batch again: some may then come twice.
            queue.send(&retired).await?;
            telemetry.count("accepted", "stream", retired.len() as u64);
            Value::Null
        } else {
            let event = serde_json::from_value(event.payload)?;
            let handle = |record| handle(telemetry, store, sns, record);
            serde_json::to_value(
                batch::process(telemetry, visibility, event, Feedback::read, &handle).await,
            )?
        };
        telemetry.flush();
        Ok::<_, Error>(answer)
    }))
    .await
}

/// `Err` sends the message back to its queue; after 5 times the dead-letter queue has it.
async fn handle(
    telemetry: Telemetry,
    store: &Store,
    sns: &Sns,
    record: Record<Feedback>,
) -> Result<(), Retry> {
    let message_id = record.message_id;
    let (outcome, reason) = match handler::handle(
        store,
        sns,
        &record.message,
        record.sent_at,
        seconds(clients::now()),
    )
    .await
    {
        Ok(Handled::Removed) => ("accepted", "removed"),
        Ok(Handled::Kept(reason)) => ("dropped", reason),
        Ok(Handled::BadCredentials) => ("failed", "bad_credentials"),
        Err(error) => {
            telemetry.count("retried", "unavailable", 1);
            tracing::warn!(
                stage = "feedback",
                message_id,
                outcome = "retried",
                dependency = error.dependency,
                "feedback retries: {error}"
            );
            return Err(Retry::default());
        }
    };
    telemetry.count(outcome, reason, 1);
    // An endpoint's ARN names no token.
    let endpoint = match &record.message {
        Feedback::Retired(retired) => retired
            .registration
            .endpoint_arn
            .as_deref()
            .unwrap_or_default(),
        Feedback::Endpoint(event) => &event.endpoint_arn,
    };
    tracing::info!(
        stage = "feedback",
        message_id,
        endpoint,
        outcome,
        reason,
        "feedback {outcome} endpoint {endpoint}: {reason}"
    );
    Ok(())
}
