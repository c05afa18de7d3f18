//! The bounded buffers before the queues. An event in a buffer is sent until the queue accepts it.
//! When a buffer is full, its senders wait, so the sockets are not read. Nothing is dropped here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesOrdered};
use nostr_push_core::ports::{Queue, backoff};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until},
};

/// The most events in a buffer.
const MAX_BUFFERED_EVENTS: usize = 2_048;

/// The most KiB of all events in a buffer together.
const MAX_BUFFERED_KIB: u32 = 32 * 1024;

/// The most events in one request:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
const MAX_BATCH_EVENTS: usize = 10;

/// The most concurrent requests to a queue.
const MAX_CONCURRENT_REQUESTS: usize = 16;

/// How long the first event of a batch waits for more. Ten events in one request cost a tenth of
/// ten requests.
const MAX_BATCH_DELAY: Duration = Duration::from_millis(20);

/// The longest time between two attempts to send a batch.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);

/// The sending side of a buffer. Clones send to the same buffer.
pub struct BufferSender<T> {
    sender: mpsc::Sender<(T, OwnedSemaphorePermit)>,
    /// The free KiB.
    room: Arc<Semaphore>,
    progress: Arc<BufferProgress>,
}

impl<T> Clone for BufferSender<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            room: Arc::clone(&self.room),
            progress: Arc::clone(&self.progress),
        }
    }
}

/// How many events have entered a buffer, and how many of them the queue has accepted.
#[derive(Debug, Default)]
pub struct BufferProgress {
    entered: AtomicU64,
    accepted: AtomicU64,
    failures: AtomicU64,
}

impl BufferProgress {
    /// The number of events that have entered the buffer. All of them have been accepted once
    /// [`BufferProgress::accepted`] has reached this number.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::SeqCst)
    }

    /// The number of events that the queue has accepted, in the order in which they entered.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The number of requests that have failed since the last successful one.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }
}

/// The receiving side of a buffer.
pub struct BufferReceiver<T> {
    receiver: mpsc::Receiver<(T, OwnedSemaphorePermit)>,
    progress: Arc<BufferProgress>,
}

/// An empty buffer.
pub fn buffer<T>() -> (BufferSender<T>, BufferReceiver<T>) {
    let (sender, receiver) = mpsc::channel(MAX_BUFFERED_EVENTS);
    let progress = Arc::<BufferProgress>::default();
    let room = Arc::new(Semaphore::new(MAX_BUFFERED_KIB as usize));
    (
        BufferSender {
            sender,
            room,
            progress: Arc::clone(&progress),
        },
        BufferReceiver { receiver, progress },
    )
}

impl<T> BufferSender<T> {
    /// Waits until there is room, then adds an event of this size. If the future is dropped before,
    /// the event has not entered the buffer.
    pub async fn send(&self, event: T, bytes: usize) {
        let kib = u32::try_from(bytes / 1024 + 1)
            .unwrap_or(MAX_BUFFERED_KIB)
            .min(MAX_BUFFERED_KIB);
        // Neither can fail: the semaphore is never closed, and the receiver outlives the
        // connections.
        if let Ok(room) = Arc::clone(&self.room).acquire_many_owned(kib).await
            && let Ok(place) = self.sender.reserve().await
        {
            self.progress.entered.fetch_add(1, Ordering::SeqCst);
            place.send((event, room));
        }
    }

    /// The progress of the buffer.
    pub fn progress(&self) -> Arc<BufferProgress> {
        Arc::clone(&self.progress)
    }
}

/// Sends the events of a buffer to a queue. Returns when all senders are dropped and the buffer is
/// empty. Calls `on_accepted` with the number of events of each accepted batch.
pub async fn forward<T: Send + Sync>(
    buffer: BufferReceiver<T>,
    queue: impl Queue<T>,
    on_accepted: impl Fn(u64),
) {
    let BufferReceiver {
        mut receiver,
        progress,
    } = buffer;
    let (queue, progress) = (&queue, &progress);
    // In order, so that `accepted` counts the events in the order in which they entered.
    let mut requests = FuturesOrdered::new();
    let mut batch = Vec::with_capacity(MAX_BATCH_EVENTS);
    let mut batch_began = None;
    let mut open = true;
    while open || !requests.is_empty() {
        let free = MAX_BATCH_EVENTS - batch.len();
        let can_receive = open && requests.len() < MAX_CONCURRENT_REQUESTS;
        tokio::select! {
            Some(n) = requests.next(), if !requests.is_empty() => {
                progress.accepted.fetch_add(n, Ordering::SeqCst);
                on_accepted(n);
            }
            received = receiver.recv_many(&mut batch, free), if can_receive => {
                open = received > 0;
                batch_began = batch_began.or_else(|| Some(Instant::now()));
            }
            () = sleep_until(batch_began.unwrap_or_else(Instant::now) + MAX_BATCH_DELAY),
                if batch_began.is_some() => {}
        }
        let is_complete = !open
            || batch.len() == MAX_BATCH_EVENTS
            || batch_began.is_some_and(|began| began.elapsed() >= MAX_BATCH_DELAY);
        if is_complete && !batch.is_empty() {
            requests.push_back(send_batch(std::mem::take(&mut batch), queue, progress));
        }
        batch_began = batch_began.filter(|_| !batch.is_empty());
    }
}

/// Sends one batch until the queue accepts it. Returns the number of its events.
async fn send_batch<T: Send + Sync>(
    batch: Vec<(T, OwnedSemaphorePermit)>,
    queue: &impl Queue<T>,
    progress: &BufferProgress,
) -> u64 {
    let (events, _room): (Vec<T>, Vec<OwnedSemaphorePermit>) = batch.into_iter().unzip();
    let mut attempts = 0;
    while let Err(error) = queue.send(&events).await {
        // The queue may have accepted some of the events. They are sent again, and the next stage
        // tolerates duplicates.
        attempts += 1;
        progress.failures.fetch_add(1, Ordering::SeqCst);
        let wait = backoff(attempts, 0.0).min(MAX_RETRY_DELAY);
        tracing::warn!(
            stage = "listener",
            dependency = error.dependency,
            waiting = events.len(),
            "events not sent to the queue, next attempt in {wait:?}: {error}"
        );
        tokio::time::sleep(wait).await;
    }
    progress.failures.store(0, Ordering::SeqCst);
    events.len() as u64
}
