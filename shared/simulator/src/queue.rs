//! SQS: a queue that delays, reorders, duplicates and keeps messages, and that can be unavailable.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nostr_push_core::{
    Millis,
    ports::{PortResult, Unavailable},
};
use serde_json::Value;
use tokio::{sync::Notify, time::timeout};

use crate::{faults::Fault, planted::Planted, world::World};

/// How long a received message is hidden, as `template.yaml` sets it.
const VISIBILITY_TIMEOUT: Millis = Millis(180_000);

/// After how many receives a message is moved to the dead letters, as `template.yaml` sets it.
const MAX_RECEIVES: u32 = 30;

/// The most messages of one batch.
const BATCH: usize = 10;

/// A queue.
#[derive(Debug)]
pub struct Queue {
    /// Its name in the story.
    pub name: &'static str,
    state: Mutex<QueueState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    sent: u64,
    messages: BTreeMap<u64, Message>,
    dead: Vec<Message>,
    unavailable_until: Millis,
}

/// A message in a queue.
#[derive(Debug, Clone)]
pub struct Message {
    /// The number of this copy. A duplicate has another.
    pub copy: u64,
    /// The id of the message. A duplicate has the same.
    pub id: u64,
    /// The body.
    pub body: String,
    /// What it is about.
    pub subject: Subject,
    /// When it was sent.
    pub sent_at: Millis,
    /// How often it has been received.
    pub receives: u32,
    visible_at: Millis,
}

/// What a message is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The event, if it contains one.
    pub event: Option<String>,
    /// The author of the event, or the owner.
    pub pubkey: Option<String>,
    /// The owner to whom the event is delivered.
    pub recipient: Option<String>,
}

impl Subject {
    /// The subject of a message with this body.
    pub fn of(body: &str) -> Self {
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        let message = &value["m"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let delivery = &message["event"];
        let event = match &delivery["event"] {
            Value::Null => delivery,
            event => event,
        };
        let owner = text(&message["reconcile"])
            .and_then(|owner| owner.split('#').nth(1).map(str::to_owned));
        Self {
            event: text(&event["id"]),
            pubkey: text(&event["pubkey"]).or(owner),
            recipient: text(&delivery["recipient"]),
        }
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Sends messages that are visible after `delay` at the earliest.
    ///
    /// # Errors
    /// The queue is unavailable, or the answer is lost. Some messages may have been accepted.
    pub async fn send(
        &self,
        world: &World,
        mut bodies: Vec<String>,
        delay: Duration,
    ) -> PortResult<()> {
        world.pause(1, 20).await;
        let unavailable = |why: &str| Unavailable::new("sqs.send", why);
        if self.is_unavailable(world) || world.faults.happens(Fault::QueueRefused) {
            world.tell(|| format!("the {} queue refuses messages", self.name));
            return Err(unavailable("refused"));
        }
        if world.has(Planted::LastMessageLost) && world.random.happens(50_000) {
            bodies.pop();
        }
        let partial = bodies.len() > 1 && world.faults.happens(Fault::QueuePartial);
        if partial {
            bodies.truncate(bodies.len() / 2);
        }
        self.accept(world, bodies, delay);
        if partial {
            world.tell(|| format!("the {} queue refuses a part of a batch", self.name));
            return Err(unavailable("a part was refused"));
        }
        if world.faults.happens(Fault::QueueAnswerLost) {
            world.tell(|| format!("an answer of the {} queue is lost", self.name));
            world.pause(500, 3_000).await;
            return Err(unavailable("no answer"));
        }
        world.pause(1, 10).await;
        Ok(())
    }

    /// Sends a message again and again until the queue accepts it. Between two attempts passes a
    /// random time of `pause` milliseconds.
    pub async fn send_until_accepted(
        &self,
        world: &World,
        body: String,
        pause: RangeInclusive<u64>,
    ) {
        let send = || self.send(world, vec![body.clone()], Duration::ZERO);
        while send().await.is_err() {
            world.pause(*pause.start(), *pause.end()).await;
        }
    }

    /// Puts messages into the queue.
    fn accept(&self, world: &World, bodies: Vec<String>, delay: Duration) {
        let now = world.now();
        let delay = u64::try_from(delay.as_millis()).unwrap_or(0);
        let mut state = self.state();
        let mut oracle = world.oracle();
        for body in bodies {
            let subject = Subject::of(&body);
            let id = state.sent;
            let copies = 1 + u64::from(world.faults.happens(Fault::MessageDuplicated));
            for _ in 0..copies {
                let late = if world.faults.happens(Fault::MessageLate) {
                    world.random.between(1_000, 60_000)
                } else {
                    world.random.between(5, 500)
                };
                let copy = state.sent;
                state.sent += 1;
                let message = Message {
                    copy,
                    id,
                    body: body.clone(),
                    subject: subject.clone(),
                    sent_at: now,
                    receives: 0,
                    visible_at: now + Millis(delay + late),
                };
                oracle.added_to_queue(self, &message, now);
                state.messages.insert(copy, message);
            }
        }
        drop((state, oracle));
        self.changed.notify_waiters();
    }

    /// Waits for messages, and returns at most ten, in any order.
    pub async fn receive(&self, world: &World) -> Vec<Message> {
        loop {
            if self.is_unavailable(world) {
                world.pause(5_000, 30_000).await;
                continue;
            }
            let (messages, next) = self.take_visible(world);
            if !messages.is_empty() {
                return messages;
            }
            let changed = self.changed.notified();
            match next {
                Some(next) => {
                    let wait = (next - world.now()).to_duration();
                    // Either a message becomes visible, or another is sent.
                    let _ = timeout(wait.max(Duration::from_millis(1)), changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Takes visible messages, and returns when the next one becomes visible.
    fn take_visible(&self, world: &World) -> (Vec<Message>, Option<Millis>) {
        let now = world.now();
        let mut state = self.state();
        let visible = state.messages.values().filter(|m| m.visible_at <= now);
        let mut copies: Vec<u64> = visible.map(|message| message.copy).collect();
        let count = usize::try_from(world.random.between(1, BATCH as u64)).unwrap_or(BATCH);
        let mut taken = Vec::new();
        while !copies.is_empty() && taken.len() < count {
            let n = usize::try_from(world.random.between(0, copies.len() as u64 - 1));
            let copy = copies.swap_remove(n.unwrap_or(0));
            let Some(message) = state.messages.get_mut(&copy) else {
                continue;
            };
            message.receives += 1;
            message.visible_at = now + VISIBILITY_TIMEOUT;
            if message.receives <= MAX_RECEIVES {
                taken.push(message.clone());
            } else if let Some(dead) = state.messages.remove(&copy) {
                world.tell(|| format!("a message of the {} queue is dead", self.name));
                state.dead.push(dead);
            }
        }
        let next = state.messages.values().map(|message| message.visible_at);
        (taken, next.min())
    }

    /// Deletes a message.
    pub fn delete(&self, world: &World, message: &Message) {
        if world.faults.happens(Fault::MessageKept) {
            world.tell(|| format!("a message is not deleted from the {} queue", self.name));
            return;
        }
        let removed = self.state().messages.remove(&message.copy);
        if removed.is_some() {
            world
                .oracle()
                .removed_from_queue(self, message, world.now());
        }
    }

    /// Hides a message for a time.
    pub fn hide(&self, world: &World, message: &Message, time: Duration) {
        if world.faults.happens(Fault::MessageKept) {
            return;
        }
        let time = Millis(u64::try_from(time.as_millis()).unwrap_or(0));
        if let Some(stored) = self.state().messages.get_mut(&message.copy) {
            stored.visible_at = world.now() + time;
        }
        self.changed.notify_waiters();
    }

    /// Makes the queue unavailable until this time.
    pub fn make_unavailable(&self, until: Millis) {
        self.state().unavailable_until = until;
    }

    fn is_unavailable(&self, world: &World) -> bool {
        !world.faults.is_over() && self.state().unavailable_until > world.now()
    }

    /// The messages in the queue, hidden ones included.
    pub fn messages(&self) -> Vec<Message> {
        self.state().messages.values().cloned().collect()
    }

    /// Returns `true` if a message satisfies the condition.
    pub fn any(&self, condition: impl FnMut(&Message) -> bool) -> bool {
        self.state().messages.values().any(condition)
    }

    /// The dead letters.
    pub fn dead(&self) -> Vec<Message> {
        self.state().dead.clone()
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
