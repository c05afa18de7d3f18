//! The bounded buffers before the queues. What is in one is sent, however long the queue refuses; when it is full its
//! senders wait, and the sockets behind them are no longer read. So nothing is dropped here.

use std::time::Duration;

use nostr_push_core::ports::{Queue, backoff};
use tokio::sync::mpsc;

/// How many events wait for a queue at most. At 1 KiB each, 2 MiB; at 256 KiB each, 512 MiB.
pub const BUFFER: usize = 2_048;

/// The most sent at once: a few requests of 10.
const BATCH: usize = 50;

/// How long the first event of a batch waits for more. Ten events in one request cost a tenth.
const LINGER: Duration = Duration::from_millis(20);

/// Sends what comes in until every sender is gone and the buffer is empty.
pub async fn forward<T: Send + Sync>(mut buffer: mpsc::Receiver<T>, queue: impl Queue<T>, sent: impl Fn(u64)) {
    let mut batch = Vec::with_capacity(BATCH);
    while buffer.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH {
            tokio::time::sleep(LINGER).await;
            while batch.len() < BATCH
                && let Ok(more) = buffer.try_recv()
            {
                batch.push(more);
            }
        }
        let mut tries = 0;
        while let Err(error) = queue.send(&batch).await {
            // Some may have been accepted: they come twice, and the stages take that.
            tries += 1;
            let wait = backoff(tries, 0.0).min(Duration::from_secs(10));
            tracing::warn!(
                stage = "listener",
                outcome = "retried",
                dependency = error.dependency,
                waiting = batch.len(),
                "queue refuses, next try in {wait:?}: {error}"
            );
            tokio::time::sleep(wait).await;
        }
        sent(batch.len() as u64);
        batch.clear();
    }
}
