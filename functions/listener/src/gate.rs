//! The hot path: decides what happens to each event of a relay. The cheap checks come first:
//! looking up the event in the interest costs much less than checking a signature.

mod control_room;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::Ordering},
};

use nostr::event::Event;
use nostr_push_core::{
    MUTE_LIST_KIND, Millis, Seconds,
    announcement::AnnouncedApp,
    index_key::IndexKey,
    interest::{Hit, Interest},
    max_age,
    message::{ContentMessage, ControlMessage, MAX_EVENT_BYTES, MAX_TAGS},
    owner::OwnerClass,
    service_keys::ServicePubkeys,
};
use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::control_room::ControlRoom;
use self::control_room::Offered;
use crate::{
    admission::AdmissionRules,
    budget::{Budgets, content::ContentBudget, mute_lists::NewestMuteLists},
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
    /// It is a control event that waits for its budget.
    Waits {
        /// The number of other events that no longer wait.
        dropped: u64,
    },
    /// It is sent to the event queue.
    Content(Box<ContentMessage>),
    /// It is a control event without budget. It is dropped, and perhaps others that waited.
    OverBudget {
        /// The number of events that are dropped.
        events: u64,
    },
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
    service: ServicePubkeys,
    interest: Arc<RwLock<Interest>>,
    seen: SeenEvents,
    /// The stored kinds of control events. They are apart, so that other events do not push them
    /// out before the daily sweep returns them again.
    seen_controls: SeenEvents,
    /// Events from owners' relays, which reach only some owners. They are apart, so that such
    /// relays do not push the others out.
    seen_from_owners_relays: SeenEvents,
    hasher: RandomState,
    admission: RwLock<Arc<AdmissionRules>>,
    /// What was announced last.
    announced: RwLock<Arc<[AnnouncedApp]>>,
    control_rate: RateLimiter,
    control_room: ControlRoom,
    content_budget: Mutex<ContentBudget>,
    newest_mute_lists: Mutex<NewestMuteLists>,
}

impl Gate {
    /// A gate for the service with these pubkeys, which admits everybody.
    pub fn new(
        service: impl Into<ServicePubkeys>,
        interest: Arc<RwLock<Interest>>,
        budgets: &Budgets,
    ) -> Self {
        Self {
            service: service.into(),
            interest,
            seen: SeenEvents::default(),
            seen_controls: SeenEvents::default(),
            seen_from_owners_relays: SeenEvents::default(),
            hasher: RandomState::new(),
            admission: RwLock::default(),
            announced: RwLock::default(),
            control_rate: RateLimiter::new(budgets.max_control_events),
            control_room: ControlRoom::new(budgets.control),
            content_budget: Mutex::new(ContentBudget::new(budgets.content)),
            newest_mute_lists: Mutex::default(),
        }
    }

    /// Sets who may become an owner.
    pub fn set_admission(&self, rules: AdmissionRules) {
        let mut admission = self
            .admission
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *admission = Arc::new(rules);
    }

    /// The apps that may ask new owners for work, with whether they need it now. They ask for it
    /// once it is announced: see [`Gate::set_announced`].
    pub fn apps_to_announce(&self, now: Millis) -> Vec<AnnouncedApp> {
        let is_scarce = self.control_room.is_scarce(now);
        self.admission().announced(is_scarce)
    }

    /// Sets what was announced last. New owners need the work that it asks for.
    pub fn set_announced(&self, apps: Vec<AnnouncedApp>) {
        let mut announced = self
            .announced
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *announced = apps.into();
    }

    /// The control events that wait for their budget.
    pub fn control_room(&self) -> &ControlRoom {
        &self.control_room
    }

    /// Decides what happens to one event.
    pub fn classify(&self, incoming: IncomingEvent<'_>) -> Verdict {
        let is_control = CONTROL_KINDS.contains(&incoming.event.kind.as_u16())
            && self
                .service
                .are_addressed_by(&incoming.event, incoming.received_at.to_seconds());
        let verdict = if is_control {
            self.classify_control(&incoming)
        } else {
            self.classify_content(incoming)
        };
        verdict.unwrap_or_else(Verdict::Drop)
    }

    fn classify_control(&self, incoming: &IncomingEvent<'_>) -> Result<Verdict, DropReason> {
        let is_ephemeral = incoming.event.kind.is_ephemeral();
        let seen = self.seen_controls(is_ephemeral);
        let id = *incoming.event.id.as_bytes();
        let forwarding = Forwarding {
            hits: 0,
            live: true,
        };
        if seen.contains(&id, forwarding) {
            self.control_room.offer_copy(incoming);
            return Err(DropReason::Duplicate);
        }
        let class = self.class_of(incoming.event.pubkey.as_bytes());
        let class = self.check_admission(incoming, class)?;
        verify(&incoming.event)?;
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
        let (offered, dropped) = self.control_room.offer(incoming, class);
        // They are not duplicates when they come again.
        for event in &dropped {
            self.seen_controls(event.is_ephemeral).remove(&event.id);
        }
        let events = dropped.len() as u64;
        Ok(match offered {
            Offered::Forward(message) => Verdict::Control(message),
            Offered::Waits => Verdict::Waits { dropped: events },
            Offered::Dropped => Verdict::OverBudget { events },
        })
    }

    /// Checks whether the author may be an owner.
    fn check_admission(
        &self,
        incoming: &IncomingEvent<'_>,
        class: OwnerClass,
    ) -> Result<OwnerClass, DropReason> {
        let (event, admission) = (&incoming.event, self.admission());
        let class = admission.check(event, class, incoming.received_at.to_seconds())?;
        let checked = admission.check_work(event, class, &self.announced());
        if checked == Err(DropReason::NotAdmitted) && !event.kind.is_ephemeral() {
            // It is admitted once no work is asked for, so it is requested again.
            let dropped_controls = incoming.relay.dropped_controls();
            dropped_controls.store(true, Ordering::SeqCst);
        }
        checked.map(|()| class)
    }

    fn classify_content(&self, incoming: IncomingEvent<'_>) -> Result<Verdict, DropReason> {
        let id = *incoming.event.id.as_bytes();
        let live = !incoming.backfill;
        let from_owners_relay = incoming.relay.source != RelaySource::Operator;
        let (mut hits, mute_list, proven_owners) = self.look_up(&incoming)?;
        if hits.is_empty() {
            return Err(DropReason::NoInterest);
        }
        if is_too_old(&incoming.event, incoming.received_at.to_seconds()) {
            return Err(DropReason::TooOld);
        }
        let (seen, key) = if from_owners_relay {
            let key = self.key_from(&incoming.relay.url, id);
            (&self.seen_from_owners_relays, key)
        } else {
            (&self.seen, id)
        };
        check_new(seen, &key, self.forwarding(&hits, live))?;
        self.remove_old_mute_list(&mut hits, mute_list)?;
        let now = incoming.received_at;
        self.content_budget()
            .retain_affordable(&mut hits, proven_owners, now);
        if hits.is_empty() {
            return Err(DropReason::OverBudget);
        }
        check_new(seen, &key, self.forwarding(&hits, live))?;
        verify(&incoming.event)?;
        let hits = {
            // While the lock is held, no copy from another relay is paid for as well.
            let mut budget = self.content_budget();
            self.remove_old_mute_list(&mut hits, mute_list)?;
            budget.retain_affordable(&mut hits, proven_owners, now);
            check_new(seen, &key, self.forwarding(&hits, live))?;
            budget.spend(&mut hits, proven_owners, now);
            if hits.is_empty() {
                return Err(DropReason::OverBudget);
            }
            // A copy that finds more budget later hits more keys, so it is no duplicate.
            record(seen, key, self.forwarding(&hits, live))?;
            if let Some(list) = mute_list.filter(|_| hits.iter().any(is_of_mute_list)) {
                self.newest_mute_lists()
                    .record(list.key_id, list.created_at);
            }
            hits
        };
        Ok(Verdict::Content(Box::new(ContentMessage {
            relay: incoming.relay.url.clone(),
            received_at: incoming.received_at,
            backfill: incoming.backfill,
            from_owners_relay,
            hits: hits.into_iter().map(|hit| hit.key).collect(),
            position: None,
            event: incoming.event,
        })))
    }

    /// The keys that the event hits, whether it is an owner's mute list, and the number of proven
    /// owners.
    fn look_up(
        &self,
        incoming: &IncomingEvent<'_>,
    ) -> Result<(Vec<Hit>, Option<MuteListVersion>, u64), DropReason> {
        let event = &incoming.event;
        let interest = self.interest.read().unwrap_or_else(PoisonError::into_inner);
        let mut hits = interest.hits_of_all(event);
        if incoming.relay.source != RelaySource::Operator && !hits.is_empty() {
            let to_all = self.forwarding(&hits, !incoming.backfill);
            check_new(&self.seen, event.id.as_bytes(), to_all)?;
            let relay = incoming.relay.hash.as_ref();
            hits = relay.map_or_else(Vec::new, |relay| interest.hits_through(event, relay));
        }
        let mute_list = MuteListVersion::of(event, &interest);
        Ok((hits, mute_list, interest.proven_owners()))
    }

    /// Whether the pubkey has a device.
    pub fn class_of(&self, pubkey: &[u8; 32]) -> OwnerClass {
        let interest = self.interest.read().unwrap_or_else(PoisonError::into_inner);
        interest.class_of(pubkey)
    }

    fn seen_controls(&self, is_ephemeral: bool) -> &SeenEvents {
        if is_ephemeral {
            &self.seen
        } else {
            &self.seen_controls
        }
    }

    fn admission(&self) -> Arc<AdmissionRules> {
        let admission = self
            .admission
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&admission)
    }

    fn announced(&self) -> Arc<[AnnouncedApp]> {
        let announced = self
            .announced
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&announced)
    }

    fn content_budget(&self) -> MutexGuard<'_, ContentBudget> {
        self.content_budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn newest_mute_lists(&self) -> MutexGuard<'_, NewestMuteLists> {
        self.newest_mute_lists
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the hit by which a mute list reaches its author, unless the list is newer than all
    /// that were forwarded. Otherwise old lists would spend the author's budget.
    fn remove_old_mute_list(
        &self,
        hits: &mut Vec<Hit>,
        mute_list: Option<MuteListVersion>,
    ) -> Result<(), DropReason> {
        let is_newer = |list: MuteListVersion| {
            self.newest_mute_lists()
                .is_newer(list.key_id, list.created_at)
        };
        if mute_list.is_none_or(is_newer) {
            return Ok(());
        }
        hits.retain(|hit| !is_of_mute_list(hit));
        if hits.is_empty() {
            Err(DropReason::Duplicate)
        } else {
            Ok(())
        }
    }

    fn forwarding(&self, hits: &[Hit], live: bool) -> Forwarding {
        // The order of the keys makes no difference.
        let hashes = hits.iter().map(|hit| self.hasher.hash_one(&hit.key));
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
}

/// Which mute list of an owner an event is.
#[derive(Debug, Clone, Copy)]
struct MuteListVersion {
    /// See [`Interest::key_id`].
    key_id: u64,
    created_at: Seconds,
}

impl MuteListVersion {
    /// `None` if the event is no mute list of an owner.
    fn of(event: &Event, interest: &Interest) -> Option<Self> {
        if event.kind.as_u16() != MUTE_LIST_KIND {
            return None;
        }
        let key = IndexKey::MuteList(*event.pubkey.as_bytes());
        Some(Self {
            key_id: interest.key_id(&key)?,
            created_at: Seconds(event.created_at.as_secs()),
        })
    }
}

fn is_of_mute_list(hit: &Hit) -> bool {
    matches!(hit.key, IndexKey::MuteList(_))
}

/// Returns `true` if the event no longer notifies because of its age. The matcher would drop it,
/// unless it is a mute list: these are valid at any age.
fn is_too_old(event: &Event, now: Seconds) -> bool {
    let kind = event.kind.as_u16();
    kind != MUTE_LIST_KIND && Seconds::from(event.created_at) + max_age(kind) < now
}

/// Checks that no earlier forwarding covers this one.
fn check_new(seen: &SeenEvents, key: &[u8; 32], forwarding: Forwarding) -> Result<(), DropReason> {
    if seen.contains(key, forwarding) {
        Err(DropReason::Duplicate)
    } else {
        Ok(())
    }
}

/// Checks that id and signature are right.
fn verify(event: &Event) -> Result<(), DropReason> {
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
