//! Properties that hold whatever the relay does, while plans change and time passes:
//!
//! - Coverage: every event that the interest wants is received in the end.
//! - Bounds: every message is within the relay's limits ([`SimRelay::receive`]).
//! - Progress: once the relay serves every REQ, everything becomes live.

use std::{collections::BTreeMap, time::Duration};

use nostr_push_core::{
    MUTE_LIST_KIND, Seconds,
    interest::Interest,
    is_private_kind, max_age,
    order::Order,
    subscription::{Subscription, SubscriptionState},
};
use nostr_push_testkit::{owner, subscription};
use proptest::prelude::*;
use serde_json::json;

use super::relay::{Behavior, FromRelay, SimEvent, SimRelay, value};
use crate::{
    counter::RelayReason,
    gate::CONTROL_KINDS,
    limits::Limits,
    plan::{Plan, Plans},
    req::NEW_REQ_OVERLAP,
    requests::{Access, Command, Now, Requests, ResumePoint},
};

pub(super) const START: Seconds = Seconds(1_800_000_000);

/// The number of the service among the keys.
pub(super) const SERVICE: usize = 999;

/// The numbers of other kinds with which a key is subscribed to. With the last one, filters name no
/// kinds.
const MORE_KINDS: [u16; 4] = [0, 1, 2, 25];

/// The keys of a crowd: more than fit into a narrow plan of the smallest class.
const CROWD: usize = 60;

/// How late a control event may be published and still be found without the daily sweep.
const CONTROL_LATENESS: u64 = 240;

/// How long a fair relay may take until everything is live. Backoffs are up to five minutes.
const MAX_FAIR_TIME: Seconds = Seconds::from_minutes(30);

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// An event that was signed `late` seconds ago reaches the relay.
    Publish {
        key: usize,
        kind: u16,
        late: u64,
    },
    /// A kind comes into use with a key, and `more` other kinds as well.
    Subscribe {
        key: usize,
        kind: u16,
        more: u16,
    },
    Unsubscribe {
        key: usize,
        kind: u16,
    },
    /// Many other keys come into use, or go. The plan of a relay with low limits becomes wide.
    Crowd {
        comes: bool,
    },
    FollowPlan,
    /// So many messages of the relay are read.
    Deliver(usize),
    Tick(u64),
    /// Time passes in which the socket is not read.
    Block(u64),
    Behave(Behavior),
    SendDelayed,
    EndSubscription(usize),
    Notice,
    Disconnect,
    Connect,
}

/// A listener's connections to a simulated relay.
pub(super) struct World {
    pub(super) now: Now,
    pub(super) relay: SimRelay,
    pub(super) requests: Option<Requests>,
    /// What the requests have counted.
    pub(super) counted: Vec<RelayReason>,
    /// The events that have been received, each with whether it came as a live one.
    pub(super) received: BTreeMap<usize, bool>,
    pub(super) resume: ResumePoint,
    pub(super) access: Access,
    plans: Plans,
    interest: Interest,
    order: u64,
    /// Since when each key is in the plan with each kind.
    planned: BTreeMap<(usize, u16), Option<Seconds>>,
    /// When the cursor was first recorded.
    first_cursor: Option<Seconds>,
}

impl World {
    pub(super) fn new(limits: Limits, page: usize) -> Self {
        Self {
            now: Now {
                unix: START,
                reading: Duration::ZERO,
            },
            relay: SimRelay::new(limits, page),
            requests: None,
            counted: Vec::new(),
            received: BTreeMap::new(),
            resume: ResumePoint {
                cursor: None,
                watched_since: START,
                swept_at: Seconds(0),
            },
            access: Access::Authenticated,
            plans: Plans::default(),
            interest: Interest::default(),
            order: 0,
            planned: BTreeMap::new(),
            first_cursor: None,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Publish { key, kind, late } => {
                self.publish(key, kind, late);
            }
            Step::Subscribe { key, kind, more } => self.subscribe(key, kind, more),
            Step::Unsubscribe { key, kind } => self.unsubscribe(key, kind),
            Step::Crowd { comes } => {
                let state = if comes {
                    SubscriptionState::Active
                } else {
                    SubscriptionState::Removed
                };
                for key in 100..100 + CROWD {
                    self.apply(key, 1, 0, state);
                }
            }
            Step::FollowPlan => self.follow_plan(),
            Step::Deliver(count) => self.deliver(count),
            Step::Tick(seconds) => self.tick(seconds),
            Step::Block(seconds) => self.now.unix += Seconds(seconds),
            Step::Behave(behavior) => self.relay.behavior = behavior,
            Step::SendDelayed => self.relay.send_delayed(),
            Step::EndSubscription(n) => self.relay.end_subscription(n),
            Step::Notice => self.relay.outbox.push_back(FromRelay::Notice),
            Step::Disconnect => self.disconnect(),
            Step::Connect => self.connect(),
        }
    }

    /// Publishes an event that was signed `late` seconds ago. Returns its number.
    pub(super) fn publish(&mut self, key: usize, kind: u16, late: u64) -> usize {
        let id = self.relay.stored.len();
        let created_at = self.now.unix - Seconds(late);
        let is_same = |event: &&SimEvent| event.created_at == created_at;
        // A second with more events than a page cannot be read completely.
        if self.relay.stored.iter().filter(is_same).count() < 3 {
            self.relay.publish(SimEvent {
                id,
                created_at,
                arrived_at: self.now.unix,
                kind,
                key,
            });
        }
        id
    }

    pub(super) fn subscribe(&mut self, key: usize, kind: u16, more: u16) {
        self.apply(key, kind, more, SubscriptionState::Active);
        self.planned.entry((key, kind)).or_insert(None);
    }

    pub(super) fn unsubscribe(&mut self, key: usize, kind: u16) {
        for more in MORE_KINDS {
            self.apply(key, kind, more, SubscriptionState::Removed);
        }
        self.planned.remove(&(key, kind));
    }

    fn apply(&mut self, key: usize, kind: u16, more: u16, state: SubscriptionState) {
        let keys = nostr::key::Keys::parse(&"11".repeat(32)).unwrap();
        self.order += 1;
        let kinds: Vec<u16> = (0..more).map(|n| 20_000 + n).chain([kind]).collect();
        let filter = if kind == MUTE_LIST_KIND {
            json!({"kinds": [kind], "authors": [value(key)]})
        } else {
            json!({"kinds": kinds, "#p": [value(key)]})
        };
        let row = Subscription {
            state,
            order: Order::counter(self.order),
            ..subscription(&owner(keys.public_key()), &filter)
        };
        self.interest.apply(&row, Seconds(1));
    }

    pub(super) fn connect(&mut self) {
        if self.requests.is_some() {
            return;
        }
        let service = value(SERVICE);
        let (requests, commands) = Requests::new(
            &[&service],
            self.relay.limits,
            self.access,
            self.resume,
            self.now,
        );
        self.requests = Some(requests);
        self.execute(commands);
        self.follow_plan();
    }

    pub(super) fn disconnect(&mut self) {
        self.relay.disconnect();
        self.requests = None;
    }

    pub(super) fn follow_plan(&mut self) {
        let plan = self.plan(self.relay.limits);
        let Some(requests) = &mut self.requests else {
            return;
        };
        let commands = requests.on_plan(plan, self.now);
        self.execute(commands);
        for planned_at in self.planned.values_mut() {
            planned_at.get_or_insert(self.now.unix);
        }
    }

    /// The plan for a relay with these limits.
    pub(super) fn plan(&self, limits: Limits) -> Option<Plan> {
        self.plans.plan(limits, &self.interest, self.now.unix)
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Send(message) => self.relay.receive(&message),
                Command::Count(reason) => self.counted.push(reason),
                Command::RecordSweep(at) => self.resume.swept_at = at,
                Command::BeginSweep | Command::RecordMuteLists(_) | Command::Authenticate(_) => {}
                Command::Disconnect => panic!("too far behind"),
            }
        }
    }

    /// Reads so many messages of the relay.
    pub(super) fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            let Some(requests) = &mut self.requests else {
                return;
            };
            let Some(message) = self.relay.outbox.pop_front() else {
                break;
            };
            let commands = match message {
                FromRelay::Event(id, event) => {
                    let reading = self.now.reading;
                    let requested = requests.on_event(&id, Some(event.created_at), reading);
                    if let Some(stored) =
                        requested.filter(|_| is_of_interest(&self.interest, &event))
                    {
                        *self.received.entry(event.id).or_default() |= !stored;
                    }
                    Vec::new()
                }
                FromRelay::Eose(id) => requests.on_eose(&id, self.now),
                FromRelay::Closed(id) => {
                    requests.on_closed(&id, RelayReason::ClosedOther, self.now)
                }
                FromRelay::Notice => requests.on_notice(self.now),
            };
            self.execute(commands);
        }
        if self.is_caught_up() {
            assert_eq!(self.missed(), [], "the cursor must not pass these");
            self.resume.cursor = Some(self.now.unix);
            self.first_cursor.get_or_insert(self.now.unix);
        }
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.requests.as_ref().is_some_and(Requests::is_caught_up) && self.relay.outbox.is_empty()
    }

    pub(super) fn tick(&mut self, seconds: u64) {
        for _ in 0..seconds.min(4) {
            let part = seconds / seconds.min(4);
            self.now.unix += Seconds(part);
            self.now.reading += Duration::from_secs(part);
            if let Some(requests) = &mut self.requests {
                let commands = requests.on_tick(self.now);
                self.execute(commands);
            }
        }
    }

    /// Lets the relay serve every REQ until everything is live.
    pub(super) fn become_fair(&mut self) {
        self.relay.behavior = Behavior::Serve;
        self.relay.send_delayed();
        self.connect();
        self.follow_plan();
        let end = self.now.unix + MAX_FAIR_TIME;
        loop {
            self.deliver(10_000);
            if self.is_caught_up() {
                return;
            }
            assert!(self.now.unix < end, "no progress: {:#?}", self.requests);
            self.tick(5);
        }
    }

    /// Returns `true` if the event must have been received in the end.
    fn is_wanted(&self, event: &SimEvent) -> bool {
        if event.key == SERVICE {
            return event.created_at + Seconds(CONTROL_LATENESS) >= event.arrived_at;
        }
        let planned_at = self.planned.get(&(event.key, event.kind)).copied();
        let Some(planned_at) = planned_at.flatten() else {
            return false;
        };
        if self.access != Access::Authenticated && is_private_kind(event.kind) {
            return false;
        }
        let may_notify = event.created_at + max_age(event.kind) >= self.now.unix;
        let is_new = event.created_at + NEW_REQ_OVERLAP >= planned_at;
        let was_covered = event.arrived_at >= planned_at + NEW_REQ_OVERLAP
            && self
                .first_cursor
                .is_some_and(|first| first < event.arrived_at);
        may_notify && (is_new || was_covered)
    }

    /// The events that should have been received.
    pub(super) fn missed(&self) -> Vec<SimEvent> {
        let stored = self.relay.stored.iter();
        stored
            .filter(|event| self.is_wanted(event) && !self.received.contains_key(&event.id))
            .copied()
            .collect()
    }
}

/// Returns `true` if the gate lets the event pass.
fn is_of_interest(interest: &Interest, event: &SimEvent) -> bool {
    let value = value(event.key);
    let key = if event.kind == MUTE_LIST_KIND {
        format!("mute_list:{value}")
    } else {
        format!("#p:{value}")
    };
    event.key == SERVICE || interest.contains(&key.parse().unwrap())
}

fn kind() -> impl Strategy<Value = u16> {
    prop_oneof![8 => Just(1_u16), 6 => Just(1059), 2 => Just(7), 1 => Just(MUTE_LIST_KIND)]
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..12_usize;
    let late = prop_oneof![0..5_u64, 0..CONTROL_LATENESS, 0..1_200_u64];
    let publish = (key(), kind(), late).prop_map(|(key, kind, late)| {
        // Wraps are backdated by up to two days.
        let late = if kind == 1059 { late * 140 } else { late };
        Step::Publish { key, kind, late }
    });
    let control = (0..4_usize, 0..CONTROL_LATENESS).prop_map(|(kind, late)| Step::Publish {
        key: SERVICE,
        kind: CONTROL_KINDS[kind],
        late,
    });
    let more = prop::sample::select(&[0, 0, 0, 1, 1, 2, 25][..]);
    let subscribe =
        (key(), kind(), more).prop_map(|(key, kind, more)| Step::Subscribe { key, kind, more });
    let unsubscribe = (key(), kind()).prop_map(|(key, kind)| Step::Unsubscribe { key, kind });
    let behavior = prop_oneof![
        4 => Just(Behavior::Serve),
        2 => Just(Behavior::DelayEose),
        1 => Just(Behavior::RepeatEose),
        2 => Just(Behavior::Refuse),
        1 => Just(Behavior::Notice),
        1 => Just(Behavior::Ignore),
    ];
    prop_oneof![
        8 => publish,
        2 => control,
        5 => subscribe,
        2 => unsubscribe,
        1 => any::<bool>().prop_map(|comes| Step::Crowd { comes }),
        5 => Just(Step::FollowPlan),
        8 => prop_oneof![0..4_usize, Just(1_000)].prop_map(Step::Deliver),
        5 => prop_oneof![1..4_u64, 1..100_u64].prop_map(Step::Tick),
        1 => (1..100_u64).prop_map(Step::Block),
        4 => behavior.prop_map(Step::Behave),
        2 => Just(Step::SendDelayed),
        2 => (0..10_usize).prop_map(Step::EndSubscription),
        1 => Just(Step::Notice),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
    ]
}

/// The limits of a relay, and the number of stored events that it really returns.
fn limits() -> impl Strategy<Value = (Limits, usize)> {
    (
        prop_oneof![3..8_usize, Just(20)],
        prop_oneof![Just(1_usize), 2..6_usize, Just(10)],
        prop_oneof![Just(4_096_usize), Just(65_536), Just(131_072)],
        10..500_usize,
        10..500_usize,
    )
        .prop_map(|(subscriptions, filters, message_bytes, limit, page)| {
            let limits = Limits {
                subscriptions,
                filters,
                message_bytes,
                page: limit,
            };
            (limits, page)
        })
}

proptest! {
    #[test]
    fn everything_wanted_is_received_whatever_the_relay_does(
        (limits, page) in limits(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(limits, page);
        world.connect();
        for step in &steps {
            world.take(step);
        }
        world.become_fair();
        prop_assert_eq!(world.missed(), vec![]);
    }
}
