//! The relays' cursors, and when they may be stored.
//!
//! A cursor means that the queues have accepted everything that the relay sent before it. So a
//! cursor is stored only once the queues have accepted every event that had entered the buffers
//! when the cursor was taken, and it does not pass a control event that waits for its budget.

use std::{collections::HashMap, sync::Arc, time::Duration};

use nostr_push_core::{
    Millis, Seconds,
    ports::{RelayCursor, Relays},
};
use tokio::time::Instant;

use crate::{
    forward::BufferProgress,
    gate::{ControlRoom, Gate},
    watched_relay::WatchedRelay,
};

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
        room: &ControlRoom,
        buffers: &[Arc<BufferProgress>],
    ) -> Self {
        // The cursors come first: events that were read before a cursor have entered the room or
        // the buffers before these are looked at below, and those that left the room before it is
        // looked at have entered the buffers.
        let mut cursors: Vec<(Arc<WatchedRelay>, RelayCursor)> = relays
            .map(|relay| (Arc::clone(relay), relay.cursor()))
            .collect();
        let waiting = room.waiting_since();
        for (relay, cursor) in &mut cursors {
            hold_back(cursor, relay, &waiting);
        }
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

/// Holds a cursor back at the earliest event of the relay that waits.
fn hold_back(cursor: &mut RelayCursor, relay: &WatchedRelay, waiting: &HashMap<Arc<str>, Millis>) {
    if let Some(received_at) = waiting.get(relay.url.as_str()) {
        cursor.read_until = cursor.read_until.min(received_at.to_seconds());
    }
}

/// Takes and stores the cursors of relays.
pub struct Checkpoints<S> {
    store: S,
    gate: Arc<Gate>,
    buffers: Vec<Arc<BufferProgress>>,
    /// The cursors that were taken last, if they have not been stored.
    pending: Option<Checkpoint>,
    taken_at: Option<Instant>,
}

impl<S: Relays> Checkpoints<S> {
    /// Checkpoints of relays whose events enter these buffers. None has been taken.
    pub fn new(store: S, gate: Arc<Gate>, buffers: Vec<Arc<BufferProgress>>) -> Self {
        Self {
            store,
            gate,
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
            self.pending = Some(Checkpoint::take(
                relays,
                self.gate.control_room(),
                &self.buffers,
            ));
            self.taken_at = Some(Instant::now());
        }
    }

    /// Stores the cursors. Call it only when the buffers are empty.
    pub async fn store_last(&self, relays: impl Iterator<Item = &Arc<WatchedRelay>>, now: Seconds) {
        let waiting = self.gate.control_room().waiting_since();
        for relay in relays {
            let mut cursor = relay.cursor();
            hold_back(&mut cursor, relay, &waiting);
            self.store_cursor(relay, cursor, now).await;
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

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::event;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::{
        budget::{Budgets, waiting_room::ControlRates},
        gate::{IncomingEvent, Verdict},
        watched_relay::RelaySource,
    };

    #[test]
    fn cursor_does_not_pass_an_event_that_waits() {
        let (service, stranger) = (Keys::generate().public_key(), Keys::generate());
        let budgets = Budgets {
            control: ControlRates::new(8, 8),
            ..Budgets::default()
        };
        let gate = Gate::new(service, Arc::default(), &budgets);
        let new = |url: &str| {
            let cursor = RelayCursor::default();
            WatchedRelay::new(url.to_owned(), RelaySource::Operator, cursor, Seconds(0))
        };
        let relays = [Arc::new(new("wss://one")), Arc::new(new("wss://two"))];
        let send = |content: &str, received_at| {
            let event = event(&stranger, 3081, 1, &[&["p", &service.to_hex()]], content);
            gate.classify(IncomingEvent {
                relay: &relays[0],
                json: &to_raw_value(&event).unwrap(),
                event,
                backfill: false,
                received_at,
            })
        };
        let content = "x".repeat(1_000);
        assert!(matches!(
            send(&content, Millis(100_000)),
            Verdict::Control(_)
        ));
        assert!(matches!(
            send(&content[1..], Millis(105_000)),
            Verdict::Waits { .. }
        ));
        for relay in &relays {
            relay.record_read(Seconds(200));
        }
        let read_until = || {
            let checkpoint = Checkpoint::take(relays.iter(), gate.control_room(), &[]);
            let cursors = checkpoint.cursors.iter();
            cursors
                .map(|(_, cursor)| cursor.read_until)
                .collect::<Vec<_>>()
        };
        assert_eq!(read_until(), [Seconds(105), Seconds(200)]);
        let later = Millis(10_000_000);
        assert!(gate.control_room().release(later).is_some());
        assert_eq!(
            read_until(),
            [Seconds(105), Seconds(200)],
            "it is not in the buffer"
        );
        gate.control_room().has_left();
        assert_eq!(read_until(), [Seconds(200), Seconds(200)]);
    }
}
