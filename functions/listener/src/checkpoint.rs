//! The relays' cursors, and when they may be stored.
//!
//! A cursor means that the queues have accepted everything that the relay sent before it. So a
//! cursor is stored only once the queues have accepted every event that had entered the buffers
//! when the cursor was taken.

use std::{sync::Arc, time::Duration};

use nostr_push_core::{
    Seconds,
    ports::{RelayCursor, Relays},
};
use tokio::time::Instant;

use crate::{forward::BufferProgress, watched_relay::WatchedRelay};

/// How often cursors are taken. Storing them costs one write per relay.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(25);

/// Cursors that may be stored once the queues have accepted these numbers of events.
struct Checkpoint {
    cursors: Vec<(Arc<WatchedRelay>, RelayCursor)>,
    entered: Vec<(Arc<BufferProgress>, u64)>,
}

impl Checkpoint {
    /// Takes the cursors of these relays.
    fn take<'a>(
        relays: impl Iterator<Item = &'a Arc<WatchedRelay>>,
        buffers: &[Arc<BufferProgress>],
    ) -> Self {
        // The cursors come first: events that were read before a cursor have entered the buffers
        // before the numbers below are taken.
        let cursors = relays
            .map(|relay| (Arc::clone(relay), relay.cursor()))
            .collect();
        let entered = buffers
            .iter()
            .map(|buffer| (Arc::clone(buffer), buffer.entered()))
            .collect();
        Self { cursors, entered }
    }

    /// Returns `true` if the queues have accepted everything that the cursors cover.
    fn is_accepted(&self) -> bool {
        self.entered
            .iter()
            .all(|(buffer, entered)| buffer.accepted() >= *entered)
    }
}

/// Takes and stores the cursors of relays.
pub struct Checkpoints<S> {
    store: S,
    buffers: Vec<Arc<BufferProgress>>,
    /// The cursors that were taken last, if they have not been stored.
    pending: Option<Checkpoint>,
    taken_at: Option<Instant>,
}

impl<S: Relays> Checkpoints<S> {
    /// Checkpoints of relays whose events enter these buffers. None has been taken.
    pub fn new(store: S, buffers: Vec<Arc<BufferProgress>>) -> Self {
        Self {
            store,
            buffers,
            pending: None,
            taken_at: None,
        }
    }

    /// Stores the pending cursors if they may be stored, and takes new ones if it is time to.
    pub async fn update(&mut self, relays: impl Iterator<Item = &Arc<WatchedRelay>>, now: Seconds) {
        if let Some(checkpoint) = self.pending.take_if(|pending| pending.is_accepted()) {
            for (relay, cursor) in checkpoint.cursors {
                self.store_cursor(&relay, cursor, now).await;
            }
        }
        let is_due = self.pending.is_none()
            && self
                .taken_at
                .is_none_or(|taken_at| taken_at.elapsed() >= CHECKPOINT_INTERVAL);
        if is_due {
            self.pending = Some(Checkpoint::take(relays, &self.buffers));
            self.taken_at = Some(Instant::now());
        }
    }

    /// Stores the cursors as they are. Call it only when the buffers are empty.
    pub async fn store_last(&self, relays: impl Iterator<Item = &Arc<WatchedRelay>>, now: Seconds) {
        for relay in relays {
            self.store_cursor(relay, relay.cursor(), now).await;
        }
    }

    async fn store_cursor(&self, relay: &WatchedRelay, cursor: RelayCursor, now: Seconds) {
        let status = relay.status();
        // A relay that was never read and has no status has nothing to store.
        if cursor.read_until == Seconds(0) && status.is_empty() {
            return;
        }
        let stored = self.store.checkpoint(&relay.url, cursor, &status, now);
        if let Err(error) = stored.await {
            tracing::warn!(
                stage = "listener",
                relay = relay.url,
                dependency = error.dependency,
                "cursor not stored: {error}"
            );
        }
    }
}
