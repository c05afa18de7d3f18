//! What clients and authors did, and what became of their events.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use nostr::{event::Event, key::PublicKey};
use nostr_push_core::Millis;

use super::status::Span;
use crate::{
    filters::SimFilter,
    queue::{Message, Queue, Subject},
    world::APP_H,
};

/// The age at which control refuses events of dialect H.
const MAX_AGE_H: Millis = Millis(15 * 60_000);

/// The age at which control refuses events of dialect N.
const MAX_AGE_N: Millis = Millis(7 * 86_400_000);

/// The control events of one owner per day beyond which some may be refused: each costs up to 100
/// of 3,000 write units, and more if it is received again.
const MANY_WRITES: usize = 25;

/// One owner: a person under an app.
pub type Who = (&'static str, PublicKey);

/// The order of control events: the larger time wins, and on a tie the smaller id.
pub type ActionOrder = (u64, Reverse<String>);

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Registers a token.
    Register(String),
    /// Removes a token.
    Remove(String),
    /// Removes all tokens of the owner.
    RemoveAll,
    /// Adds a filter.
    Subscribe(SimFilter),
    /// Deletes a filter.
    Unsubscribe(SimFilter),
    /// Settings of dialect H: the token and the kinds. A logout has neither.
    Settings(Option<String>, Vec<u16>),
    /// Reports that the app is open or not.
    Presence(bool),
}

/// One control event.
#[derive(Debug, Clone)]
pub struct Action {
    /// Who did it.
    pub who: Who,
    /// What it asks for.
    pub what: What,
    /// The order of its event.
    pub order: ActionOrder,
    /// The id of its event.
    pub event: String,
    /// When it was published.
    pub sent_at: Millis,
    /// When what it asks for ends.
    pub valid_until: Millis,
    /// `true` if control has refused a copy because of its age. Then it is not certain whether the
    /// event was applied.
    pub is_refused: bool,
    /// When control first accepted it.
    pub accepted_at: Option<Millis>,
    /// When it was settled. Known at the end of the run.
    pub settled_at: Option<Millis>,
}

impl Action {
    /// Returns `true` if it changes the presence.
    pub fn is_presence(&self) -> bool {
        matches!(self.what, What::Presence(_) | What::Settings(None, _))
    }
}

/// An event for the recipients.
#[derive(Debug, Clone)]
pub struct Content {
    /// The event.
    pub event: Event,
    /// When it was published.
    pub at: Millis,
    /// When no queue held it any more. Known at the end of the run.
    pub done_at: Option<Millis>,
}

/// See the [module above](super).
#[derive(Debug)]
pub struct Oracle {
    /// The service.
    pub service: PublicKey,
    /// The control events.
    pub actions: Vec<Action>,
    /// The events for recipients, mute lists included.
    pub contents: Vec<Content>,
    /// When SNS disabled an endpoint, or the app was uninstalled.
    pub disabled: Vec<(String, Millis)>,
    /// Tokens whose app was uninstalled, and when.
    pub uninstalled: BTreeMap<String, Millis>,
    /// How many faults the deliveries of each event met.
    pub faults: BTreeMap<String, u64>,
    /// What went wrong so far.
    pub violations: BTreeSet<String>,
    /// Events that met a budget of newcomers.
    pub over_budget: BTreeSet<String>,
    /// When the last copy of an event was forwarded. Copies that a relay sends again later do not
    /// count.
    last_copies: BTreeMap<String, Millis>,
    /// How the number of messages about something changed.
    changes: BTreeMap<String, Vec<(Millis, i64)>>,
    transfers: i64,
    /// Whether a person had a device at some time, which is asked often.
    pub(super) had_device: RefCell<BTreeMap<(Who, Span), bool>>,
}

impl Oracle {
    /// An oracle that knows nothing yet.
    pub fn new(service: PublicKey) -> Self {
        Self {
            service,
            actions: Vec::new(),
            contents: Vec::new(),
            disabled: Vec::new(),
            uninstalled: BTreeMap::new(),
            faults: BTreeMap::new(),
            violations: BTreeSet::new(),
            over_budget: BTreeSet::new(),
            last_copies: BTreeMap::new(),
            changes: BTreeMap::new(),
            transfers: 0,
            had_device: RefCell::default(),
        }
    }

    /// A client published a control event.
    pub fn acted(&mut self, action: Action) {
        self.last_copies
            .insert(action.event.clone(), action.sent_at);
        self.actions.push(action);
    }

    /// Somebody published an event for recipients.
    pub fn published(&mut self, event: &Event, at: Millis) {
        self.last_copies.insert(event.id.to_hex(), at);
        self.contents.push(Content {
            event: event.clone(),
            at,
            done_at: None,
        });
    }

    /// A copy of an event arrived, and was forwarded if it is of interest.
    pub fn copy_arrived(&mut self, event: &str, now: Millis) {
        if let Some(at) = self.last_copies.get_mut(event) {
            *at = now.max(*at);
        }
    }

    /// Control accepted an event.
    pub fn accepted(&mut self, subject: &Subject, now: Millis) {
        let Some(id) = &subject.event else { return };
        let mut actions = self.actions.iter_mut().rev();
        if let Some(action) = actions.find(|action| action.event == *id) {
            action.accepted_at = action.accepted_at.or(Some(now));
        }
    }

    /// Control refused an event. It may refuse what has ended or is too old, and an owner without a
    /// proven device who has done very much on one day.
    pub fn refused(&mut self, subject: &Subject, reason: &str, now: Millis) {
        let event = subject.event.clone().unwrap_or_default();
        let writes = self.writes_today(subject, now);
        let mut actions = self.actions.iter_mut().rev();
        let action = actions.find(|action| action.event == event);
        let age = |action: &Action| now - Millis(action.order.0 * 1000);
        let is_right = match (reason, &action) {
            ("expired", Some(action)) => now >= action.valid_until,
            ("stale", Some(action)) if action.who.0 == APP_H => age(action) > MAX_AGE_H,
            ("stale", Some(action)) => age(action) > MAX_AGE_N,
            ("over_budget", Some(_)) => writes >= MANY_WRITES,
            _ => false,
        };
        match action {
            Some(action) if is_right => {
                action.accepted_at = action.accepted_at.or(Some(now));
                action.is_refused = true;
            }
            _ => self.violation(format!("control refuses event {event}: {reason}")),
        }
    }

    /// The control events of a pubkey on this UTC day, heartbeats left out.
    fn writes_today(&self, subject: &Subject, now: Millis) -> usize {
        let today = now.to_seconds().start_of_day().to_millis();
        let author = subject.pubkey.clone().unwrap_or_default();
        let writes = self.actions.iter().filter(|action| {
            let is_heartbeat = matches!(action.what, What::Presence(_));
            action.sent_at >= today && !is_heartbeat && action.who.1.to_hex() == author
        });
        writes.count()
    }

    /// A message was sent to a queue.
    pub fn added_to_queue(&mut self, queue: &Queue, message: &Message, now: Millis) {
        self.count(queue, &message.subject, now, 1);
    }

    /// A message was deleted from a queue.
    pub fn removed_from_queue(&mut self, queue: &Queue, message: &Message, now: Millis) {
        self.count(queue, &message.subject, now, -1);
    }

    fn count(&mut self, queue: &Queue, subject: &Subject, now: Millis, change: i64) {
        let key = match queue.name {
            "control" => &subject.pubkey,
            _ => &subject.event,
        };
        if let Some(key) = key {
            self.changes
                .entry(key.clone())
                .or_default()
                .push((now, change));
        }
    }

    /// An invocation that handled a message met faults.
    pub fn fault_met(&mut self, subject: &Subject, faults: u64) {
        if let Some(event) = &subject.event {
            *self.faults.entry(event.clone()).or_default() += faults;
        }
    }

    /// The matcher left somebody out because of the budgets of newcomers.
    pub fn over_budget(&mut self, subject: &Subject) {
        self.over_budget.extend(subject.event.clone());
    }

    /// SNS disabled the endpoint of a token.
    pub fn endpoint_disabled(&mut self, token: &str, now: Millis) {
        self.disabled.push((token.to_owned(), now));
    }

    /// Something that no queue holds is under way.
    pub fn begin_transfer(&mut self) {
        self.transfers += 1;
    }

    /// It has arrived.
    pub fn end_transfer(&mut self) {
        self.transfers -= 1;
    }

    /// Returns `true` if nothing is under way outside the queues.
    pub fn is_quiet(&self) -> bool {
        self.transfers == 0
    }

    /// Something must never happen and did.
    pub fn violation(&mut self, what: String) {
        self.violations.insert(what);
    }

    /// At the end: finds out when each action was settled and each event was done.
    pub fn settle(&mut self) {
        let quiet = |key: &str, from: Millis| first_quiet(self.changes.get(key), from);
        let copy = |event: &str| self.last_copies.get(event).copied().unwrap_or_default();
        let settled: Vec<_> = self
            .actions
            .iter()
            .map(|action| {
                if action.is_refused {
                    return None;
                }
                let accepted = action.accepted_at?.max(copy(&action.event));
                quiet(&action.who.1.to_hex(), accepted)
            })
            .collect();
        let done: Vec<_> = self
            .contents
            .iter()
            .map(|content| {
                let id = content.event.id.to_hex();
                quiet(&id, content.at.max(copy(&id)))
            })
            .collect();
        for (action, settled) in self.actions.iter_mut().zip(settled) {
            action.settled_at = settled;
        }
        for (content, done) in self.contents.iter_mut().zip(done) {
            content.done_at = done;
        }
    }
}

/// The first time at or after `from` when the count is zero.
fn first_quiet(changes: Option<&Vec<(Millis, i64)>>, from: Millis) -> Option<Millis> {
    let mut count = 0;
    let mut since = Millis(0);
    for (at, change) in changes.into_iter().flatten() {
        if count == 0 && *at > from {
            return Some(since.max(from));
        }
        count += change;
        since = *at;
    }
    (count == 0).then_some(since.max(from))
}
