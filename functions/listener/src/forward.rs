//! The bounded buffers before the queues. What is in one is sent, however long the queue refuses;
//! when it is full its senders wait, and the sockets behind them are no longer read. So nothing is
//! dropped here.

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

/// How many events wait for a queue at most, and how many KiB they may have together.
const EVENTS: usize = 2_048;
const KIB: u32 = 32 * 1024;

/// The most sent in one request.
const BATCH: usize = 10;

/// How many requests are under way at once.
const REQUESTS: usize = 16;

/// How long the first event of a batch waits for more. Ten events in one request cost a tenth.
const LINGER: Duration = Duration::from_millis(20);

/// The way into a buffer. Clones lead into the same.
pub struct Buffer<T> {
    sender: mpsc::Sender<(T, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    progress: Arc<Progress>,
}

impl<T> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            room: Arc::clone(&self.room),
            progress: Arc::clone(&self.progress),
        }
    }
}

/// How many events have come to a buffer, and how many of them, from the first on, the queue has
/// accepted.
#[derive(Debug, Default)]
pub struct Progress {
    entered: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Progress {
    /// How many events have come so far. Whatever was in the buffer at this moment has been
    /// accepted once [`Progress::accepted`] is as high.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::SeqCst)
    }

    /// How many events, from the first on, the queue has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How often in a row the queue has refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }
}

/// The other end of a buffer.
pub struct Outlet<T> {
    receiver: mpsc::Receiver<(T, OwnedSemaphorePermit)>,
    progress: Arc<Progress>,
}

/// An empty buffer.
pub fn buffer<T>() -> (Buffer<T>, Outlet<T>) {
    let (sender, receiver) = mpsc::channel(EVENTS);
    let progress = Arc::<Progress>::default();
    let room = Arc::new(Semaphore::new(KIB as usize));
    (
        Buffer {
            sender,
            room,
            progress: Arc::clone(&progress),
        },
        Outlet { receiver, progress },
    )
}

impl<T> Buffer<T> {
    /// Puts in an event of so many bytes, as soon as there is room.
    pub async fn send(&self, event: T, bytes: usize) {
        self.progress.entered.fetch_add(1, Ordering::SeqCst);
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(KIB).min(KIB);
        // The buffer outlives the connections, and its room is never closed.
        if let Ok(room) = Arc::clone(&self.room).acquire_many_owned(kib).await {
            drop(self.sender.send((event, room)).await);
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }
}

/// Sends what comes in until every way in is gone and the buffer is empty.
pub async fn forward<T: Send + Sync>(outlet: Outlet<T>, queue: impl Queue<T>, sent: impl Fn(u64)) {
    let Outlet {
        mut receiver,
        progress,
    } = outlet;
    let (queue, progress) = (&queue, &progress);
    // In order, so that `accepted` counts from the first event on.
    let mut under_way = FuturesOrdered::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut since = None;
    let mut open = true;
    while open || !under_way.is_empty() {
        let room = BATCH - batch.len();
        tokio::select! {
            Some(n) = under_way.next(), if !under_way.is_empty() => {
                progress.accepted.fetch_add(n, Ordering::SeqCst);
                sent(n);
            }
            received = receiver.recv_many(&mut batch, room), if open && under_way.len() < REQUESTS => {
                open = received > 0;
                since = since.or_else(|| Some(Instant::now()));
            }
            () = sleep_until(since.unwrap_or_else(Instant::now) + LINGER), if since.is_some() => {}
        }
        let over =
            !open || batch.len() == BATCH || since.is_some_and(|since| since.elapsed() >= LINGER);
        if over && !batch.is_empty() {
            under_way.push_back(send(std::mem::take(&mut batch), queue, progress));
        }
        since = since.filter(|_| !batch.is_empty());
    }
}

/// Sends one batch until it is accepted. Answers how many events it had.
async fn send<T: Send + Sync>(
    batch: Vec<(T, OwnedSemaphorePermit)>,
    queue: &impl Queue<T>,
    progress: &Progress,
) -> u64 {
    let (events, _room): (Vec<T>, Vec<OwnedSemaphorePermit>) = batch.into_iter().unzip();
    let mut tries = 0;
    while let Err(error) = queue.send(&events).await {
        // Some may have been accepted: they come twice, and the stages take that.
        tries += 1;
        progress.refused.fetch_add(1, Ordering::SeqCst);
        let wait = backoff(tries, 0.0).min(Duration::from_secs(10));
        tracing::warn!(
            stage = "listener",
            outcome = "retried",
            dependency = error.dependency,
            waiting = events.len(),
            "queue refuses, next try in {wait:?}: {error}"
        );
        tokio::time::sleep(wait).await;
    }
    progress.refused.store(0, Ordering::SeqCst);
    events.len() as u64
}
