//! The partial-batch loop of every Lambda: each record is handled on its own, and only those that
//! must come again are reported back (`ReportBatchItemFailures`).
//!
//! - A record that cannot be read is dropped and counted (`malformed_message`): it would fail for
//!   ever. One of a newer version fails, and waits for the deployment that knows it.
//! - A record whose handler panics fails alone, and its dead-letter queue keeps it in the end.
//! - A record that fails is hidden for a while that grows with each try (with jitter), or as long
//!   as the handler says.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::{FutureExt, StreamExt, stream};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nostr_push_core::{
    Millis,
    message::{self, Unreadable},
    ports::backoff,
};
use serde::de::DeserializeOwned;

use crate::{sqs::Visibility, telemetry::Telemetry};

/// How many records of a batch are handled at once. They mostly wait for DynamoDB and SNS.
const CONCURRENCY: usize = 10;

/// One record, read.
#[derive(Debug)]
pub struct Record<T> {
    /// What the stage before wrote.
    pub message: T,
    /// The SQS message id: the same whenever this message is received.
    pub message_id: String,
    /// How often it has been received, this time included.
    pub receive_count: u32,
    /// When it was sent.
    pub sent_at: Millis,
}

/// The record must come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retry {
    /// Not before this time is over; by default as [`backoff`] says.
    pub after: Option<Duration>,
}

/// Serves invocations until the runtime ends the process.
///
/// # Errors
/// Those of the runtime.
pub async fn run<T, F, Fut>(
    telemetry: Telemetry,
    visibility: Visibility,
    handle: F,
) -> Result<(), Error>
where
    T: DeserializeOwned + Send,
    F: Fn(Record<T>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), Retry>> + Send,
{
    let (handle, visibility) = (&handle, &visibility);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
        let response = process(
            telemetry,
            visibility,
            event.payload,
            message::decode::<T>,
            handle,
        )
        .await;
        telemetry.flush();
        Ok::<_, Error>(response)
    }))
    .await
}

/// Handles one batch, whose bodies `read` reads.
pub async fn process<T, F, Fut>(
    telemetry: Telemetry,
    visibility: &Visibility,
    event: SqsEvent,
    read: fn(&str) -> Result<T, Unreadable>,
    handle: &F,
) -> SqsBatchResponse
where
    T: Send,
    F: Fn(Record<T>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), Retry>> + Send,
{
    let outcomes = stream::iter(event.records)
        .map(|record| async move { attempt(telemetry, visibility, record, read, handle).await });
    let failed: Vec<Option<String>> = outcomes.buffer_unordered(CONCURRENCY).collect().await;
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = failed
        .into_iter()
        .flatten()
        .map(|id| {
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = id;
            failure
        })
        .collect();
    response
}

/// Handles one record. Answers its id if it must come again.
async fn attempt<T, F, Fut>(
    telemetry: Telemetry,
    visibility: &Visibility,
    record: SqsMessage,
    read: fn(&str) -> Result<T, Unreadable>,
    handle: &F,
) -> Option<String>
where
    T: Send,
    F: Fn(Record<T>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), Retry>> + Send,
{
    let stage = telemetry.stage();
    let message_id = record.message_id.clone().unwrap_or_default();
    let receive_count = record
        .attributes
        .get("ApproximateReceiveCount")
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let sent_at = record
        .attributes
        .get("SentTimestamp")
        .and_then(|n| n.parse().ok())
        .unwrap_or_default();
    let retry = match read(record.body.as_deref().unwrap_or_default()) {
        Err(error @ Unreadable::Malformed) => {
            telemetry.count("dropped", "malformed_message", 1);
            tracing::error!(
                stage,
                outcome = "dropped",
                reason = "malformed_message",
                message_id,
                "{stage} dropped a message: {error}"
            );
            return None;
        }
        Err(error @ Unreadable::Version(_)) => {
            telemetry.count("retried", "unknown_version", 1);
            tracing::error!(
                stage,
                outcome = "retried",
                reason = "unknown_version",
                message_id,
                "{stage} cannot read a message: {error}"
            );
            Retry::default()
        }
        Ok(message) => {
            let handled = AssertUnwindSafe(handle(Record {
                message,
                message_id: message_id.clone(),
                receive_count,
                sent_at,
            }))
            .catch_unwind();
            match handled.await {
                Ok(Ok(())) => return None,
                Ok(Err(retry)) => retry,
                Err(_) => {
                    telemetry.count("retried", "panic", 1);
                    tracing::error!(
                        stage,
                        outcome = "retried",
                        reason = "panic",
                        message_id,
                        "{stage} panicked on a message"
                    );
                    Retry::default()
                }
            }
        }
    };
    let after = retry
        .after
        .unwrap_or_else(|| backoff(receive_count, jitter(&message_id, receive_count)));
    visibility.hide(&record, after).await;
    Some(message_id)
}

/// From 0 to 1, different for each message and try: what fails together must not come back
/// together.
fn jitter(message_id: &str, receive_count: u32) -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one((message_id, receive_count));
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
