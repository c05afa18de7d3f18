//! Relays, and a simple model of the listener.
//!
//! Every event comes from three relays, each with a delay of its own, sometimes of minutes. The
//! model of the listener knows the interest from the change feed, drops events that hit nothing and
//! most copies, and sends until the queue accepts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use nostr::event::Event;
use nostr_push_core::{
    Millis, Seconds,
    index_key::IndexKey,
    interest::Interest,
    message::{ContentMessage, ControlMessage, encode},
    ports::ChangeFeed,
};
use serde_json::value::to_raw_value;

use crate::{faults::Fault, plan::REPLAYS, world::World};

/// The relays.
const RELAYS: [&str; 3] = ["wss://one", "wss://two", "wss://three"];

/// How long relays keep control events.
const KEPT: Seconds = Seconds::from_days(7);

/// The kind of dialect H, which relays do not store.
const EPHEMERAL: u16 = 22_456;

/// The kind of mute lists.
const MUTE_LIST: u16 = 10_000;

/// The relays and the listener.
pub struct Relays {
    world: Arc<World>,
    state: Mutex<RelayState>,
}

#[derive(Default)]
struct RelayState {
    interest: Interest,
    seen: BTreeMap<String, (BTreeSet<IndexKey>, bool)>,
    stored: Vec<Event>,
    mute_lists: BTreeMap<String, Event>,
}

impl Relays {
    /// The relays of a world. Starts the listener.
    pub fn start(world: &Arc<World>) -> Arc<Self> {
        let relays = Arc::new(Self {
            world: Arc::clone(world),
            state: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&relays).follow_feed());
        tokio::spawn(Arc::clone(&relays).replay());
        relays
    }

    /// Publishes an event to all relays.
    pub fn publish(self: &Arc<Self>, event: &Event) {
        let (world, kind) = (&self.world, event.kind.as_u16());
        if kind != EPHEMERAL {
            self.state().stored.push(event.clone());
        }
        if kind == MUTE_LIST {
            let mut state = self.state();
            let list = state.mute_lists.entry(event.pubkey.to_hex());
            let list = list.or_insert_with(|| event.clone());
            if event.created_at > list.created_at {
                *list = event.clone();
            }
        }
        for relay in RELAYS {
            let is_late = world.faults.happens(Fault::RelayLate);
            let delay = if is_late {
                world.random.uneven_millis(3_000, 600_000)
            } else {
                world.random.millis(20, 3_000)
            };
            let (relays, event) = (Arc::clone(self), event.clone());
            world.oracle().begin_transfer();
            tokio::spawn(async move {
                relays.world.sleep(delay).await;
                relays.receive(relay, &event, false).await;
                let (now, id) = (relays.world.now(), event.id.to_hex());
                let mut oracle = relays.world.oracle();
                oracle.copy_arrived(&id, now);
                oracle.end_transfer();
            });
        }
    }

    /// The listener receives an event.
    async fn receive(&self, relay: &str, event: &Event, backfill: bool) {
        let world = &self.world;
        let is_control = is_control(event);
        let hits = self.state().interest.hits(event);
        if !self.is_new(event, &hits, backfill) || (!is_control && hits.is_empty()) {
            return;
        }
        let received_at = world.now();
        let body = if is_control {
            let Ok(json) = to_raw_value(event) else {
                return;
            };
            encode(&ControlMessage {
                relay: relay.to_owned(),
                received_at,
                event: json,
            })
        } else {
            encode(&ContentMessage {
                relay: relay.to_owned(),
                received_at,
                backfill,
                from_owners_relay: false,
                hits,
                position: None,
                event: event.clone(),
            })
        };
        let Ok(body) = body else { return };
        let queue = if is_control {
            &world.control
        } else {
            &world.events
        };
        queue.send_until_accepted(world, body, 500..=5_000).await;
    }

    /// Returns `true` if the event is to be forwarded. Sometimes another task of the listener,
    /// which has not seen the event, forwards a copy.
    fn is_new(&self, event: &Event, hits: &[IndexKey], backfill: bool) -> bool {
        let world = &self.world;
        let mut state = self.state();
        let hits: BTreeSet<IndexKey> = hits.iter().cloned().collect();
        let seen = state.seen.get(&event.id.to_hex());
        let is_seen = seen.is_some_and(|(keys, was_backfill)| {
            hits.is_subset(keys) && (backfill || !was_backfill)
        });
        let is_new = !is_seen || world.faults.happens(Fault::CopyForwarded);
        if is_new {
            state.seen.insert(event.id.to_hex(), (hits, backfill));
        }
        is_new
    }

    /// Reads the change feed some time after each write.
    async fn follow_feed(self: Arc<Self>) {
        let world = &self.world;
        loop {
            world.feed.notified().await;
            world.pause(100, 2_000).await;
            let now = world.seconds();
            let mut after = None;
            loop {
                // Reading everything brings what a poll with an overlap brings.
                let memory = &world.memory;
                let Ok(page) = ChangeFeed::page(memory, 0, Millis(0), after.as_ref()).await else {
                    break;
                };
                let mut state = self.state();
                for row in &page.rows {
                    state.interest.apply(row, now);
                }
                after = page.next;
                if after.is_none() {
                    state.interest.expire(now, 0, usize::MAX);
                    break;
                }
            }
            self.request_mute_lists().await;
        }
    }

    /// Requests the stored mute lists of owners whose lists are wanted and were not before.
    async fn request_mute_lists(&self) {
        let lists: Vec<Event> = {
            let state = self.state();
            let is_wanted = |event: &&Event| {
                let hits = state.interest.hits(event);
                let seen = state.seen.get(&event.id.to_hex());
                !hits.is_empty() && seen.is_none_or(|(keys, _)| keys.is_empty())
            };
            state
                .mute_lists
                .values()
                .filter(is_wanted)
                .cloned()
                .collect()
        };
        for list in lists {
            self.receive(RELAYS[0], &list, true).await;
        }
    }

    /// From time to time a relay sends stored events again, as after an interruption.
    async fn replay(self: Arc<Self>) {
        let world = Arc::clone(&self.world);
        if world.plan.leaves_out(REPLAYS) {
            return;
        }
        loop {
            let time = world.random.millis(600_000, 6 * 3_600_000);
            world.sleep(world.at_pace(time)).await;
            if world.faults.is_over() {
                return;
            }
            let now = world.seconds();
            let stored: Vec<Event> = {
                let mut state = self.state();
                state
                    .stored
                    .retain(|event| Seconds::from(event.created_at) + KEPT > now);
                state.stored.clone()
            };
            world.tell(|| "a relay sends stored events again".to_owned());
            world.oracle().begin_transfer();
            for event in stored {
                let is_recent = Seconds::from(event.created_at) + Seconds(3_600) > now
                    || event.kind.as_u16() == MUTE_LIST;
                if (is_control(&event) || is_recent) && world.random.happens(300_000) {
                    self.state().seen.remove(&event.id.to_hex());
                    self.receive(RELAYS[1], &event, true).await;
                }
            }
            world.oracle().end_transfer();
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, RelayState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_control(event: &Event) -> bool {
    matches!(event.kind.as_u16(), 3079..=3082 | EPHEMERAL)
}
