//! The queues between the stages.

use std::{marker::PhantomData, time::Duration};

use aws_config::{SdkConfig, timeout::TimeoutConfig};
use aws_lambda_events::sqs::SqsMessage;
use aws_sdk_sqs::{
    Client,
    types::{
        BatchResultErrorEntry, DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName,
        SendMessageBatchRequestEntry,
    },
};
use nostr_push_core::{
    message,
    ports::{self, FailureCause, MAX_DELAY, PortResult, Unavailable},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::cause::{cause_of_code, unavailable, unreadable};

const SEND_BATCH: &str = "sqs.send_message_batch";
const RECEIVE: &str = "sqs.receive_message";
const DELETE: &str = "sqs.delete_message_batch";

/// The most messages that are received at once
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html>).
const MAX_RECEIVED: i32 = 10;

/// How long SQS waits for a message, at most
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html>).
const LONG_POLL_SECONDS: i32 = 20;

/// The timeout of a request that waits for messages.
const LONG_POLL_TIMEOUT: Duration = Duration::from_secs(30);

/// The most messages in one request
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>).
const MAX_BATCH: usize = 10;

/// The most bytes of all bodies in one request. SQS accepts 1 MiB, of which 4 KiB are left for the
/// ids.
const MAX_BATCH_BYTES: usize = 1024 * 1024 - 4096;

/// The most attempts for entries that SQS failed to accept.
const MAX_ATTEMPTS: usize = 3;

/// The longest visibility timeout
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
const MAX_VISIBILITY_SECONDS: i32 = 12 * 60 * 60;

/// A queue of messages of type `T`.
#[derive(Debug, Clone)]
pub struct Queue<T> {
    client: Client,
    url: String,
    message: PhantomData<fn(T)>,
}

impl<T> Queue<T> {
    /// A queue by its URL.
    pub fn new(config: &SdkConfig, url: String) -> Self {
        Self {
            client: Client::new(config),
            url,
            message: PhantomData,
        }
    }
}

impl<T: Serialize + Send + Sync> ports::Queue<T> for Queue<T> {
    async fn send(&self, messages: &[T]) -> PortResult<()> {
        let encoded: Result<Vec<String>, _> = messages.iter().map(message::encode).collect();
        let bodies = encoded.map_err(unreadable(SEND_BATCH))?;
        for batch in batches(bodies) {
            self.send_batch(batch).await?;
        }
        Ok(())
    }
}

impl<T: Serialize + Send + Sync> ports::DelayQueue<T> for Queue<T> {
    async fn send_after(&self, message: &T, delay: Duration) -> PortResult<()> {
        const SEND: &str = "sqs.send_message";
        let body = message::encode(message).map_err(unreadable(SEND))?;
        let seconds = i32::try_from(delay.min(MAX_DELAY).as_secs()).unwrap_or(i32::MAX);
        let request = self
            .client
            .send_message()
            .queue_url(&self.url)
            .message_body(body)
            .delay_seconds(seconds);
        request.send().await.map_err(unavailable(SEND)).map(drop)
    }
}

impl<T> Queue<T> {
    async fn send_batch(&self, bodies: Vec<String>) -> PortResult<()> {
        let mut left: Vec<(String, String)> = bodies
            .into_iter()
            .enumerate()
            .map(|(n, body)| (n.to_string(), body))
            .collect();
        let mut failure = Unavailable::new(SEND_BATCH, "nothing was sent");
        for _ in 0..MAX_ATTEMPTS {
            let mut request = self.client.send_message_batch().queue_url(&self.url);
            for (id, body) in &left {
                let entry = SendMessageBatchRequestEntry::builder()
                    .id(id)
                    .message_body(body)
                    .build();
                request = request.entries(entry.map_err(unreadable(SEND_BATCH))?);
            }
            let answer = request.send().await.map_err(unavailable(SEND_BATCH))?;
            // A batch can be accepted in part.
            left.retain(|(id, _)| answer.failed().iter().any(|entry| entry.id() == id));
            match answer.failed().first() {
                None => return Ok(()),
                Some(entry) => failure = rejected(entry),
            }
        }
        Err(failure)
    }
}

/// The error of an entry of a batch that SQS did not accept.
fn rejected(entry: &BatchResultErrorEntry) -> Unavailable {
    let cause = cause_of_code(entry.code()).unwrap_or(FailureCause::Failed);
    let why = format!("{}: {}", entry.code(), entry.message().unwrap_or_default());
    Unavailable::caused(cause, SEND_BATCH, why)
}

impl<T: DeserializeOwned + Send + Sync> ports::Inbox<T> for Queue<T> {
    /// A message that cannot be decoded stays in the queue until it expires: a newer deployment may
    /// know it.
    async fn receive(&self) -> PortResult<Vec<ports::Received<T>>> {
        let request = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(MAX_RECEIVED)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .wait_time_seconds(LONG_POLL_SECONDS);
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(LONG_POLL_TIMEOUT)
            .operation_timeout(LONG_POLL_TIMEOUT)
            .build();
        let config = aws_sdk_sqs::config::Builder::new().timeout_config(timeouts);
        let request = request.customize().config_override(config);
        let response = request.send().await.map_err(unavailable(RECEIVE))?;
        let messages = response.messages.unwrap_or_default().into_iter();
        let decode = |received: Message| {
            let message = message::decode(received.body.as_deref()?);
            if let Err(error) = &message {
                tracing::warn!("a message stays in its queue: {error}");
            }
            let attributes = received.attributes.unwrap_or_default();
            let count = attributes.get(&MessageSystemAttributeName::ApproximateReceiveCount);
            Some(ports::Received {
                message: message.ok()?,
                receipt: received.receipt_handle?,
                receive_count: count.and_then(|count| count.parse().ok()).unwrap_or(1),
            })
        };
        Ok(messages.filter_map(decode).collect())
    }

    async fn delete(&self, receipts: &[String]) -> PortResult<()> {
        for receipts in receipts.chunks(MAX_BATCH) {
            let mut request = self.client.delete_message_batch().queue_url(&self.url);
            for (n, receipt) in receipts.iter().enumerate() {
                let entry = DeleteMessageBatchRequestEntry::builder()
                    .id(n.to_string())
                    .receipt_handle(receipt)
                    .build();
                request = request.entries(entry.map_err(unreadable(DELETE))?);
            }
            // An entry that is not deleted is received again.
            request.send().await.map_err(unavailable(DELETE))?;
        }
        Ok(())
    }
}

/// Splits bodies into requests within the limits of SQS. Their order stays.
fn batches(bodies: Vec<String>) -> Vec<Vec<String>> {
    let mut batches: Vec<Vec<String>> = Vec::new();
    let mut size = 0;
    for body in bodies {
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_BATCH && size + body.len() <= MAX_BATCH_BYTES => {
                size += body.len();
                batch.push(body);
            }
            _ => {
                size = body.len();
                batches.push(vec![body]);
            }
        }
    }
    batches
}

/// Changes the visibility of messages in the queue that invokes the function.
#[derive(Debug, Clone)]
pub struct Visibility {
    client: Client,
    url: String,
}

impl Visibility {
    /// The visibility of messages in the queue with this URL.
    pub fn new(config: &SdkConfig, url: String) -> Self {
        Self {
            client: Client::new(config),
            url,
        }
    }

    /// Hides the message for `time` from now, rounded up to seconds. If the request fails, the
    /// message stays hidden for the queue's visibility timeout.
    pub(crate) async fn hide(&self, message: &SqsMessage, time: Duration) {
        let seconds = i32::try_from(time.as_millis().div_ceil(1000))
            .unwrap_or(i32::MAX)
            .min(MAX_VISIBILITY_SECONDS);
        let request = self
            .client
            .change_message_visibility()
            .queue_url(&self.url)
            .set_receipt_handle(message.receipt_handle.clone());
        if let Err(error) = request.visibility_timeout(seconds).send().await {
            tracing::warn!(
                error = crate::clients::chain(&error),
                "cannot change the visibility: the queue's visibility timeout applies"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_order_and_limits() {
        let bodies: Vec<String> = (0..25).map(|n| n.to_string()).collect();
        let small = batches(bodies.clone());
        assert_eq!(small.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
        assert_eq!(small.concat(), bodies);
        let large = batches(vec!["x".repeat(400_000); 5]);
        assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(batches(Vec::new()).is_empty());
    }
}
