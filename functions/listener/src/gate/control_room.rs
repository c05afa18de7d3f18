//! The budgets of control events, and those that wait for theirs, for all relays.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nostr_push_core::{Millis, message::ControlMessage, owner::OwnerClass};
use tokio::sync::Notify;

use super::IncomingEvent;
use crate::budget::waiting_room::{Arrival, ControlRates, Offer, WaitingRoom};

/// The bytes that an event costs beside its JSON. Each event costs a message and reads, however
/// small it is.
pub(super) const BYTES_PER_EVENT: u64 = 512;

/// The budgets of control events, and the events that wait.
#[derive(Debug)]
pub struct ControlRoom {
    room: Mutex<WaitingRoom<WaitingControl>>,
    /// Notifies when an event begins to wait.
    waits: Notify,
}

/// A verified control event.
#[derive(Debug)]
pub(super) struct WaitingControl {
    message: ControlMessage,
    pub(super) id: [u8; 32],
    pub(super) is_ephemeral: bool,
    /// The mark of its relay that control events had no budget.
    dropped_controls: Arc<AtomicBool>,
}

/// What happens to an event.
pub(super) enum Offered {
    Forward(ControlMessage),
    Waits,
    Dropped,
}

impl ControlRoom {
    /// An empty room.
    pub(super) fn new(rates: ControlRates) -> Self {
        Self {
            room: Mutex::new(WaitingRoom::new(rates)),
            waits: Notify::new(),
        }
    }

    /// Decides what happens to a verified event. Also returns the events that are dropped. If
    /// relays store their kinds, they are requested again later.
    pub(super) fn offer(
        &self,
        incoming: &IncomingEvent<'_>,
        class: OwnerClass,
    ) -> (Offered, Vec<WaitingControl>) {
        let event = WaitingControl {
            message: ControlMessage {
                relay: incoming.relay.url.clone(),
                received_at: incoming.received_at,
                event: incoming.json.to_owned(),
            },
            id: *incoming.event.id.as_bytes(),
            is_ephemeral: incoming.event.kind.is_ephemeral(),
            dropped_controls: Arc::clone(incoming.relay.dropped_controls()),
        };
        let arrival = Arrival {
            event,
            pubkey: *incoming.event.pubkey.as_bytes(),
            class,
            relay: incoming.relay.url.as_str().into(),
            bytes: incoming.json.get().len() as u64 + BYTES_PER_EVENT,
            received_at: incoming.received_at,
        };
        let offer = self.room().offer(arrival, incoming.received_at);
        let (offered, dropped) = match offer {
            Offer::Forward(event) => (Offered::Forward(event.message), Vec::new()),
            Offer::Waits { dropped } => (Offered::Waits, dropped),
            Offer::Dropped { dropped } => (Offered::Dropped, dropped),
        };
        for event in dropped.iter().filter(|event| !event.is_ephemeral) {
            event.dropped_controls.store(true, Ordering::SeqCst);
        }
        if matches!(offered, Offered::Waits) {
            self.waits.notify_one();
        }
        (offered, dropped)
    }

    /// A copy of an event has come that was forwarded or waits.
    pub(super) fn offer_copy(&self, incoming: &IncomingEvent<'_>) {
        let mut room = self.room();
        if room.is_empty() {
            return;
        }
        let (id, pubkey) = (
            incoming.event.id.as_bytes(),
            incoming.event.pubkey.as_bytes(),
        );
        let relay = incoming.relay.url.as_str().into();
        let is_same = |event: &WaitingControl| event.id == *id;
        room.offer_copy(pubkey, is_same, &relay, incoming.received_at);
    }

    /// Waits until an event waits.
    pub async fn something_waits(&self) {
        while self.room().is_empty() {
            self.waits.notified().await;
        }
    }

    /// The next event whose turn it is. Call [`ControlRoom::has_left`] once it has entered the
    /// buffer.
    pub fn release(&self, now: Millis) -> Option<ControlMessage> {
        self.room().release(now).map(|event| event.message)
    }

    /// The event that was released last has entered the buffer.
    pub fn has_left(&self) {
        self.room().has_left();
    }

    /// Moves the waiting events of pubkeys that are no longer strangers.
    pub fn reclassify(&self, class_of: impl Fn(&[u8; 32]) -> OwnerClass, now: Millis) {
        let strangers = self.room().waiting_strangers();
        for pubkey in strangers {
            let class = class_of(&pubkey);
            if class != OwnerClass::Stranger {
                self.room().change_class(&pubkey, class, now);
            }
        }
    }

    /// For each relay, when the earliest of its events was received that waits.
    pub fn waiting_since(&self) -> HashMap<Arc<str>, Millis> {
        self.room().waiting_since()
    }

    /// Returns `true` while strangers use up their budget.
    pub(super) fn is_scarce(&self, now: Millis) -> bool {
        self.room().is_scarce(now)
    }

    fn room(&self) -> MutexGuard<'_, WaitingRoom<WaitingControl>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
