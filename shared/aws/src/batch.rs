//! The partial-batch loop of every Lambda. Each record is handled on its own, and only the records
//! to retry are reported back (`ReportBatchItemFailures`,
//! <https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>).
//!
//! - A malformed record is dropped and counted, because it would fail at every attempt.
//! - A record of a newer version fails. It waits for the deployment that knows the version.
//! - A record whose handler panics fails alone. After the last attempt it is in the dead-letter
//!   queue.
//! - A record that fails is hidden until its retry, either for a time that the handler gives, or
//!   for one that grows with each attempt, with jitter.

use std::{future::Future, panic::AssertUnwindSafe, str::FromStr, time::Duration};

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use futures_util::{FutureExt, StreamExt, stream};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use nostr_push_core::{
    Millis,
    counter::Counter,
    message::{self, DecodeError},
    retry::backoff,
};
use serde::de::DeserializeOwned;

use crate::{sqs::Visibility, telemetry::Telemetry};

/// The most records of a batch that are handled at once. Most of their time they wait for DynamoDB
/// and SNS.
const MAX_CONCURRENT_RECORDS: usize = 10;

/// What the loop itself counts, in every stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray)]
pub enum BatchCounter {
    /// A record was malformed and dropped.
    MalformedMessage,
    /// A record has a newer version than this deployment knows.
    UnknownVersion,
    /// The handler of a record panicked.
    Panic,
}

impl Counter for BatchCounter {
    fn outcome(self) -> &'static str {
        match self {
            Self::MalformedMessage => "dropped",
            Self::UnknownVersion | Self::Panic => "retried",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::MalformedMessage => "malformed_message",
            Self::UnknownVersion => "unknown_version",
            Self::Panic => "panic",
        }
    }
}

/// One decoded record.
#[derive(Debug)]
pub struct Record<T> {
    /// The message.
    pub message: T,
    /// The SQS message id. It is the same at every receipt of this message.
    pub message_id: String,
    /// The number of receipts of this message so far, this one included.
    pub receive_count: u32,
    /// When the message was sent.
    pub sent_at: Millis,
}

/// A request to receive the record again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retry {
    /// The shortest time until then. `None` means the usual [`backoff`].
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
    run_decoding(telemetry, visibility, message::decode::<T>, handle).await
}

/// Serves invocations of a queue with several kinds of messages. `decode` decodes their bodies.
///
/// # Errors
/// Those of the runtime.
pub async fn run_decoding<T, F, Fut>(
    telemetry: Telemetry,
    visibility: Visibility,
    decode: fn(&str) -> Result<T, DecodeError>,
    handle: F,
) -> Result<(), Error>
where
    T: Send,
    F: Fn(Record<T>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), Retry>> + Send,
{
    let (handle, visibility) = (&handle, &visibility);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
        let response = process(telemetry, visibility, event.payload, decode, handle).await;
        telemetry.flush();
        Ok::<_, Error>(response)
    }))
    .await
}

/// Handles one batch. `decode` decodes the bodies of its records.
pub async fn process<T, F, Fut>(
    telemetry: Telemetry,
    visibility: &Visibility,
    event: SqsEvent,
    decode: fn(&str) -> Result<T, DecodeError>,
    handle: &F,
) -> SqsBatchResponse
where
    T: Send,
    F: Fn(Record<T>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), Retry>> + Send,
{
    let outcomes = stream::iter(event.records)
        .map(|record| async move { attempt(telemetry, visibility, record, decode, handle).await });
    let failed: Vec<Option<String>> = outcomes
        .buffer_unordered(MAX_CONCURRENT_RECORDS)
        .collect()
        .await;
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

/// Handles one record. Returns its id if it must be received again.
async fn attempt<T, F, Fut>(
    telemetry: Telemetry,
    visibility: &Visibility,
    record: SqsMessage,
    decode: fn(&str) -> Result<T, DecodeError>,
    handle: &F,
) -> Option<String>
where
    T: Send,
    F: Fn(Record<T>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), Retry>> + Send,
{
    let message_id = record.message_id.clone().unwrap_or_default();
    let receive_count = attribute(&record, "ApproximateReceiveCount").unwrap_or(1);
    let fail = |counter, error: &dyn std::fmt::Display| {
        report(telemetry, counter, &message_id, error);
        Retry::default()
    };
    let retry = match decode(record.body.as_deref().unwrap_or_default()) {
        Ok(message) => {
            let handled = AssertUnwindSafe(handle(Record {
                message,
                message_id: message_id.clone(),
                receive_count,
                sent_at: Millis(attribute(&record, "SentTimestamp").unwrap_or_default()),
            }))
            .catch_unwind();
            match handled.await {
                Ok(Ok(())) => return None,
                Ok(Err(retry)) => retry,
                Err(_) => fail(BatchCounter::Panic, &"the handler panicked"),
            }
        }
        Err(error @ DecodeError::Malformed) => {
            fail(BatchCounter::MalformedMessage, &error);
            return None;
        }
        Err(error @ DecodeError::Version(_)) => fail(BatchCounter::UnknownVersion, &error),
    };
    let after = retry
        .after
        .unwrap_or_else(|| backoff(receive_count, jitter(&message_id, receive_count)));
    visibility.hide(&record, after).await;
    Some(message_id)
}

/// An attribute that SQS adds to a message.
fn attribute<T: FromStr>(record: &SqsMessage, name: &str) -> Option<T> {
    record.attributes.get(name)?.parse().ok()
}

fn report(
    telemetry: Telemetry,
    counter: BatchCounter,
    message_id: &str,
    error: &dyn std::fmt::Display,
) {
    telemetry.count(counter, 1);
    let (stage, outcome, reason) = (telemetry.stage(), counter.outcome(), counter.reason());
    tracing::error!(
        stage,
        outcome,
        reason,
        message_id,
        "{stage} {outcome} a message: {error}"
    );
}

/// A random number from 0 to 1. Messages that fail together must not all be retried at once.
fn jitter(message_id: &str, receive_count: u32) -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one((message_id, receive_count));
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
