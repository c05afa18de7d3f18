//! The hot path: decides what happens to each event of a relay. The cheap checks come first:
//! looking up the event in the interest costs much less than checking a signature.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, PoisonError, RwLock},
};

use nostr::{event::Event, key::PublicKey};
use nostr_push_core::{
    Millis, Seconds,
    index_key::IndexKey,
    interest::Interest,
    message::{ContentMessage, ControlMessage, MAX_EVENT_BYTES, MAX_TAGS},
    tags::tag_values,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    counter::DropReason,
    rate::RateLimiter,
    seen::{Forwarding, SeenEvents},
    watched_relay::{RelaySource, WatchedRelay},
};

/// The kinds of control events.
///
/// - 3079 to 3082 are of dialect N,
///   <https://github.com/verse-pbc/nostr_push_service/blob/HEAD/docs/nip-xx-push-notifications.md>.
///   Relays store them.
/// - 22456 is of dialect H,
///   <https://github.com/0xchat-app/0xchat-core/blob/main/doc/nofitications.md>. The kind is
///   ephemeral (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>), and the next
///   event repairs a lost one.
pub const CONTROL_KINDS: [u16; 5] = [3079, 3080, 3081, 3082, 22456];

/// An event from a relay.
pub struct IncomingEvent<'a> {
    /// The relay.
    pub relay: &'a WatchedRelay,
    /// The event's JSON, as the relay sent it.
    pub json: &'a RawValue,
    /// The event, as [`parse_event`] read it.
    pub event: Event,
    /// See [`ContentMessage::backfill`].
    pub backfill: bool,
    /// When it was received.
    pub received_at: Millis,
}

/// What happens to an event.
#[derive(Debug)]
pub enum Verdict {
    /// It is sent to the control queue.
    Control(ControlMessage),
    /// It is sent to the event queue.
    Content(Box<ContentMessage>),
    /// It is dropped.
    Drop(DropReason),
}

/// An event that is dropped before anything else is known about it.
#[derive(Debug)]
pub struct RefusedEvent {
    /// Why it is dropped.
    pub reason: DropReason,
    /// Its time, if that can be read. Pages of stored events go on from there.
    pub created_at: Option<Seconds>,
}

/// Parses an event and checks its size.
///
/// # Errors
/// Why the event is dropped.
pub fn parse_event(json: &RawValue) -> Result<Event, RefusedEvent> {
    let refused = |reason| RefusedEvent {
        reason,
        created_at: created_at(json),
    };
    if json.get().len() > MAX_EVENT_BYTES {
        return Err(refused(DropReason::TooLarge));
    }
    let event: Event =
        serde_json::from_str(json.get()).map_err(|_| refused(DropReason::Malformed))?;
    if event.tags.len() > MAX_TAGS {
        Err(refused(DropReason::TooLarge))
    } else {
        Ok(event)
    }
}

/// The time of an event that may be refused. Nothing else is read into memory.
fn created_at(json: &RawValue) -> Option<Seconds> {
    #[derive(Deserialize)]
    struct Head {
        created_at: Seconds,
    }
    let head: Head = serde_json::from_str(json.get()).ok()?;
    Some(head.created_at)
}

/// Decides which events are forwarded. All relays share one gate.
pub struct Gate {
    /// The service's pubkey in hex.
    service: String,
    interest: Arc<RwLock<Interest>>,
    seen: SeenEvents,
    /// The stored kinds of control events. They are apart, so that other events do not push them
    /// out before the daily sweep returns them again.
    seen_controls: SeenEvents,
    /// Events from owners' relays, which reach only some owners. They are apart, so that such
    /// relays do not push the others out.
    seen_from_owners_relays: SeenEvents,
    hasher: RandomState,
    control_rate: RateLimiter,
}

impl Gate {
    /// A gate for the service with this pubkey. It admits at most `control_events` live control
    /// events per minute from each pubkey.
    pub fn new(service: PublicKey, interest: Arc<RwLock<Interest>>, control_events: u32) -> Self {
        Self {
            service: service.to_hex(),
            interest,
            seen: SeenEvents::default(),
            seen_controls: SeenEvents::default(),
            seen_from_owners_relays: SeenEvents::default(),
            hasher: RandomState::new(),
            control_rate: RateLimiter::new(control_events),
        }
    }

    /// Decides what happens to one event.
    pub fn classify(&self, incoming: IncomingEvent<'_>) -> Verdict {
        let is_control = CONTROL_KINDS.contains(&incoming.event.kind.as_u16())
            && self.is_addressed_to_service(&incoming.event);
        let verdict = if is_control {
            self.classify_control(&incoming)
        } else {
            self.classify_content(incoming)
        };
        verdict.unwrap_or_else(Verdict::Drop)
    }

    fn classify_control(&self, incoming: &IncomingEvent<'_>) -> Result<Verdict, DropReason> {
        let is_ephemeral = incoming.event.kind.is_ephemeral();
        let seen = if is_ephemeral {
            &self.seen
        } else {
            &self.seen_controls
        };
        let id = *incoming.event.id.as_bytes();
        let forwarding = Forwarding {
            hits: 0,
            live: true,
        };
        verify_new(seen, id, &incoming.event, forwarding)?;
        // Backfill is not limited: it was published over a longer time and arrives at once. No
        // relay stores ephemeral events.
        let is_limited = !incoming.backfill || is_ephemeral;
        if is_limited
            && !self
                .control_rate
                .admits(&incoming.event, incoming.received_at)
        {
            // It is not recorded as seen, so another copy may be admitted later.
            return Err(DropReason::RateLimited);
        }
        record(seen, id, forwarding)?;
        Ok(Verdict::Control(ControlMessage {
            relay: incoming.relay.url.clone(),
            received_at: incoming.received_at,
            event: incoming.json.to_owned(),
        }))
    }

    fn classify_content(&self, incoming: IncomingEvent<'_>) -> Result<Verdict, DropReason> {
        let id = *incoming.event.id.as_bytes();
        let live = !incoming.backfill;
        let from_owners_relay = incoming.relay.source != RelaySource::Operator;
        let hits = {
            let interest = self.interest.read().unwrap_or_else(PoisonError::into_inner);
            let mut hits = interest.hits(&incoming.event);
            if from_owners_relay && !hits.is_empty() {
                let to_all = self.forwarding(&hits, live);
                if self.seen.contains(&id, to_all) {
                    return Err(DropReason::Duplicate);
                }
                let relay = incoming.relay.hash.as_ref();
                hits = relay.map_or_else(Vec::new, |relay| {
                    interest.hits_through(&incoming.event, relay)
                });
            }
            hits
        };
        if hits.is_empty() {
            return Err(DropReason::NoInterest);
        }
        let forwarding = self.forwarding(&hits, live);
        let (seen, key) = if from_owners_relay {
            let key = self.key_from(&incoming.relay.url, id);
            (&self.seen_from_owners_relays, key)
        } else {
            (&self.seen, id)
        };
        verify_new(seen, key, &incoming.event, forwarding)?;
        record(seen, key, forwarding)?;
        Ok(Verdict::Content(Box::new(ContentMessage {
            relay: incoming.relay.url.clone(),
            received_at: incoming.received_at,
            backfill: incoming.backfill,
            from_owners_relay,
            hits,
            position: None,
            event: incoming.event,
        })))
    }

    fn forwarding(&self, hits: &[IndexKey], live: bool) -> Forwarding {
        // The order of the keys makes no difference.
        let hashes = hits.iter().map(|key| self.hasher.hash_one(key));
        Forwarding {
            hits: hashes.fold(0, |sum, hash| sum ^ hash),
            live,
        }
    }

    /// The key of an event that came from an owners' relay. It reaches the owners who named that
    /// relay, so it suppresses no copy of another relay.
    fn key_from(&self, relay: &str, mut id: [u8; 32]) -> [u8; 32] {
        let hash = self.hasher.hash_one(relay).to_be_bytes();
        for (byte, hash) in id.iter_mut().zip(hash) {
            *byte ^= hash;
        }
        id
    }

    fn is_addressed_to_service(&self, event: &Event) -> bool {
        tag_values(event, "p").any(|value| value == self.service)
    }
}

/// Checks that the event is new and that its id and signature are right.
fn verify_new(
    seen: &SeenEvents,
    key: [u8; 32],
    event: &Event,
    forwarding: Forwarding,
) -> Result<(), DropReason> {
    if seen.contains(&key, forwarding) {
        return Err(DropReason::Duplicate);
    }
    event.verify().map_err(|_| DropReason::BadSignature)
}

/// Records a verified event as seen. A copy from another relay may have been verified in the
/// meantime.
fn record(seen: &SeenEvents, key: [u8; 32], forwarding: Forwarding) -> Result<(), DropReason> {
    if seen.insert(key, forwarding) {
        Ok(())
    } else {
        Err(DropReason::Duplicate)
    }
}

#[cfg(test)]
mod tests;
