//! What the connections to all relays share.

use std::sync::{Arc, RwLock};

use nostr::event::Event;
use nostr_push_core::{
    Millis, Seconds,
    interest::Interest,
    message::{ContentMessage, ControlMessage},
    service_keys::ServiceKeys,
};
use tokio::sync::watch;

use crate::{
    counter::{Count, DropReason, ListenerCounter, RelayReason},
    forward::BufferSender,
    gate::Gate,
    health::Health,
    mute_list_owners::MuteListOwners,
    plan::Plans,
};

/// What the connections to all relays share. Clones are cheap.
#[derive(Clone)]
pub struct RelayContext {
    /// The keys of the service. The current one signs the authentication (NIP-42,
    /// <https://github.com/nostr-protocol/nips/blob/master/42.md>).
    pub keys: ServiceKeys,
    /// Decides which events are forwarded.
    pub gate: Arc<Gate>,
    /// The index keys in use, from which REQs are planned.
    pub interest: Arc<RwLock<Interest>>,
    /// The new owners, whose mute lists are requested.
    pub mute_list_owners: Arc<MuteListOwners>,
    /// The planned REQs.
    pub plans: Arc<Plans>,
    /// Notifies when the interest changes.
    pub changes: watch::Receiver<u64>,
    /// What the operator's relays must publish.
    pub announcement: watch::Receiver<Option<Arc<Event>>>,
    /// The buffer before the control queue.
    pub control: BufferSender<ControlMessage>,
    /// The buffer before the event queue.
    pub content: BufferSender<ContentMessage>,
    /// The number of connections.
    pub health: Arc<Health>,
    /// Adds to a counter.
    pub count: Count,
    /// The current time.
    pub clock: fn() -> Millis,
}

impl RelayContext {
    /// The current time in seconds.
    pub fn now(&self) -> Seconds {
        (self.clock)().to_seconds()
    }

    /// Counts a dropped event or frame.
    pub fn count_dropped(&self, reason: DropReason) {
        (self.count)(ListenerCounter::Dropped(reason), 1);
    }

    /// Counts control events without budget.
    pub fn count_over_budget(&self, events: u64) {
        (self.count)(ListenerCounter::Dropped(DropReason::OverBudget), events);
    }

    /// Counts what happened to a connection.
    pub fn count_relay(&self, reason: RelayReason) {
        (self.count)(ListenerCounter::Relay(reason), 1);
    }
}
