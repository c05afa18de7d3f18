//! A relay in memory. It panics if a message that it receives is beyond its limits.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

use nostr_push_core::{MUTE_LIST_KIND, Seconds};
use serde_json::Value;

use crate::{limits::Limits, requests::CONTROL_ID};

/// An event that mentions one owner, or the mute list of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SimEvent {
    pub(super) id: usize,
    pub(super) created_at: Seconds,
    pub(super) arrived_at: Seconds,
    pub(super) kind: u16,
    /// The number of the owner whom it mentions, or who wrote it if it is a mute list.
    pub(super) key: usize,
}

/// A message from the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FromRelay {
    Event(String, SimEvent),
    Eose(String),
    Closed(String),
    Notice,
}

/// What the relay does with a REQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behavior {
    Serve,
    /// EOSE comes later.
    DelayEose,
    /// EOSE comes twice.
    RepeatEose,
    /// The REQ is refused with a CLOSED.
    Refuse,
    /// The REQ is refused with a NOTICE that does not name it.
    Notice,
    /// Nothing happens.
    Ignore,
}

#[derive(Debug)]
pub(super) struct SimRelay {
    pub(super) limits: Limits,
    /// The most stored events that it returns for a filter.
    page: usize,
    pub(super) behavior: Behavior,
    pub(super) stored: Vec<SimEvent>,
    pub(super) subscriptions: BTreeMap<String, Vec<Value>>,
    pub(super) outbox: VecDeque<FromRelay>,
    /// The subscriptions whose EOSE is delayed.
    delayed: Vec<String>,
    /// The messages that it has received on this connection.
    pub(super) received: Vec<Vec<Value>>,
}

/// The value that stands for an owner in filters.
pub(super) fn value(key: usize) -> String {
    format!("{key:064x}")
}

fn matches(filter: &Value, event: &SimEvent) -> bool {
    let has = |field: &str, wanted: Value| {
        let values = filter.get(field).and_then(Value::as_array);
        values.is_none_or(|values| values.contains(&wanted))
    };
    let time = |field: &str| filter[field].as_u64().map(Seconds);
    let (author, mentioned) = if event.kind == MUTE_LIST_KIND {
        (value(event.key), String::new())
    } else {
        (String::new(), value(event.key))
    };
    has("kinds", event.kind.into())
        && has("authors", author.into())
        && has("#p", mentioned.into())
        && time("since").is_none_or(|since| event.created_at >= since)
        && time("until").is_none_or(|until| event.created_at <= until)
}

impl SimRelay {
    pub(super) fn new(limits: Limits, page: usize) -> Self {
        Self {
            limits,
            page: page.min(limits.page),
            behavior: Behavior::Serve,
            stored: Vec::new(),
            subscriptions: BTreeMap::new(),
            outbox: VecDeque::new(),
            delayed: Vec::new(),
            received: Vec::new(),
        }
    }

    /// Receives a message from the listener.
    pub(super) fn receive(&mut self, message: &str) {
        assert!(message.len() <= self.limits.message_bytes, "{message}");
        let parsed: Vec<Value> = serde_json::from_str(message).unwrap();
        let id = parsed[1].as_str().unwrap().to_owned();
        if self.received.is_empty() {
            assert_eq!(id, CONTROL_ID, "the control REQ comes first");
        }
        self.received.push(parsed.clone());
        if parsed[0] == "CLOSE" {
            self.subscriptions.remove(&id);
            return;
        }
        assert_eq!(parsed[0], "REQ");
        let filters = parsed[2..].to_vec();
        assert!(!filters.is_empty() && filters.len() <= self.limits.filters);
        assert!(
            !id.starts_with(CONTROL_ID) || filters.len() == 1,
            "it is alone"
        );
        match self.behavior {
            Behavior::Serve => {
                self.serve(&id, filters);
                self.outbox.push_back(FromRelay::Eose(id));
            }
            Behavior::DelayEose => {
                self.serve(&id, filters);
                self.delayed.push(id);
            }
            Behavior::RepeatEose => {
                self.serve(&id, filters);
                self.outbox.push_back(FromRelay::Eose(id.clone()));
                self.outbox.push_back(FromRelay::Eose(id));
            }
            Behavior::Refuse => {
                self.subscriptions.remove(&id);
                self.outbox.push_back(FromRelay::Closed(id));
            }
            Behavior::Notice => self.outbox.push_back(FromRelay::Notice),
            Behavior::Ignore => {}
        }
    }

    /// Opens a subscription, and returns its stored events.
    fn serve(&mut self, id: &str, filters: Vec<Value>) {
        for filter in &filters {
            let limit = usize::try_from(filter["limit"].as_u64().unwrap()).unwrap();
            assert!((1..=self.limits.page).contains(&limit));
            let stored = self.stored.iter().filter(|event| matches(filter, event));
            let mut stored: Vec<SimEvent> = stored.copied().collect();
            stored.sort_by_key(|event| Reverse(event.created_at));
            stored.truncate(limit.min(self.page));
            let events = stored.into_iter();
            self.outbox
                .extend(events.map(|event| FromRelay::Event(id.to_owned(), event)));
        }
        self.subscriptions.insert(id.to_owned(), filters);
        assert!(self.subscriptions.len() <= self.limits.subscriptions);
    }

    /// Stores an event, and sends it to the open subscriptions.
    pub(super) fn publish(&mut self, event: SimEvent) {
        self.stored.push(event);
        for (id, filters) in &self.subscriptions {
            if filters.iter().any(|filter| matches(filter, &event)) {
                // A relay may send live events before all stored ones.
                let is_eose = |message: &FromRelay| *message == FromRelay::Eose(id.clone());
                let at = self.outbox.iter().position(is_eose);
                let at = at.unwrap_or(self.outbox.len());
                self.outbox.insert(at, FromRelay::Event(id.clone(), event));
            }
        }
    }

    /// Ends the `n`th subscription.
    pub(super) fn end_subscription(&mut self, n: usize) {
        let count = self.subscriptions.len().max(1);
        if let Some(id) = self.subscriptions.keys().nth(n % count).cloned() {
            self.subscriptions.remove(&id);
            self.outbox.push_back(FromRelay::Closed(id));
        }
    }

    pub(super) fn send_delayed(&mut self) {
        let delayed = self.delayed.drain(..);
        self.outbox.extend(delayed.map(FromRelay::Eose));
    }

    /// The connection is lost.
    pub(super) fn disconnect(&mut self) {
        self.subscriptions.clear();
        self.outbox.clear();
        self.delayed.clear();
        self.received.clear();
    }
}
