//! The feedback Lambda: wiring only.
//!
//! Two sources invoke it: its queue, and the stream of `devices`. Records of the stream are only
//! put into the queue. There each is retried on its own and has a dead-letter queue. In the stream,
//! a record that fails would block all records behind it.

use feedback::{
    config::Config,
    handler::FeedbackStage,
    report::{report, report_stream},
};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nostr_push_aws::{
    batch::{self, Record},
    clients,
    dynamodb::Store,
    sns::Sns,
    sqs::{Queue, Visibility},
    stream,
    telemetry::Telemetry,
};
use nostr_push_core::{
    message::{FeedbackMessage, ReconcileMessage, RetiredDevice},
    ports::Queue as _,
};
use serde_json::Value;

/// The adapters that an invocation uses.
struct Lambda<'a> {
    telemetry: Telemetry,
    stage: FeedbackStage<'a, Store, Sns, Queue<ReconcileMessage>>,
    queue: Queue<RetiredDevice>,
    visibility: Visibility,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let telemetry = Telemetry::init("feedback");
    let config = Config::from_env()?;
    let aws = clients::config(telemetry.stage()).await;
    let (store, sns) = (Store::new(&aws, &config.table_prefix), Sns::new(&aws));
    let control = Queue::new(&aws, config.control_queue);
    let lambda = Lambda {
        telemetry,
        stage: FeedbackStage {
            store: &store,
            sns: &sns,
            control: &control,
        },
        queue: Queue::new(&aws, config.feedback_queue.clone()),
        visibility: Visibility::new(&aws, config.feedback_queue),
    };
    let lambda = &lambda;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let payload = event.payload;
        let response = if payload["Records"][0]["eventSource"] == stream::SOURCE {
            lambda.enqueue(payload).await?
        } else {
            lambda.process(payload).await?
        };
        telemetry.flush();
        Ok::<_, Error>(response)
    }))
    .await
}

impl Lambda<'_> {
    /// Puts records of the stream into the queue. After an error Lambda receives the whole batch
    /// again, so some records may be queued twice.
    async fn enqueue(&self, payload: Value) -> Result<Value, Error> {
        let retired = stream::retired(serde_json::from_value(payload)?);
        self.queue.send(&retired).await?;
        report_stream(self.telemetry, retired.len());
        Ok(Value::Null)
    }

    /// Handles a batch of the queue.
    async fn process(&self, payload: Value) -> Result<Value, Error> {
        let event = serde_json::from_value(payload)?;
        let handle = |record: Record<FeedbackMessage>| async move {
            let sent_at = record.sent_at.to_seconds();
            let now = clients::now().to_seconds();
            let result = self.stage.handle(&record.message, sent_at, now).await;
            report(self.telemetry, &record.message_id, &record.message, &result)
        };
        let decode = FeedbackMessage::read;
        let response =
            batch::process(self.telemetry, &self.visibility, event, decode, &handle).await;
        Ok(serde_json::to_value(response)?)
    }
}
