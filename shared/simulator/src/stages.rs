//! The real stages, each on the ports of the simulated world. This is what the `main.rs` of each
//! stage does, without AWS.

use std::{future::Future, sync::Arc, time::Duration};

use control::{
    context::{Limits, Receipt},
    handler::ControlStage,
    outcome::Failure,
};
use deliver::{
    claim::Attempt,
    outcome::{DeliveryDropReason, DeliveryOutcome},
    profile_requests::RequestBudgets,
};
use feedback::handler::FeedbackStage;
use matcher::handler::Matcher;
use nostr_push_core::{
    Seconds,
    message::{
        ContentMessage, ControlInput, DeliveryMessage, FeedbackMessage, ReconcileMessage, decode,
        encode,
    },
    ports::{self, DelayQueue, PortResult, Unavailable},
    profile::ProfileRequest,
};
use serde::Serialize;

use crate::{
    lambda::Verdict,
    queue::{Message, Queue},
    sns::Sns,
    tables::{Scope, Tables},
    world::{APP_H, World},
};

/// How long an attempt holds a claim, as `template.yaml` sets it.
const LEASE: Seconds = Seconds(60);

/// The most pushes per day to all newcomers, as `template.yaml` sets it.
const NEWCOMER_PUSHES: u64 = 50_000;

/// A stage that takes messages from a queue.
pub trait Stage: Send + Sync {
    /// Its name in the story.
    const NAME: &'static str;

    /// Starts an instance.
    fn start(world: &Arc<World>, scope: &Arc<Scope>) -> Self;

    /// Handles one message.
    fn handle(&self, message: &Message) -> impl Future<Output = Verdict> + Send;
}

/// What one instance of a stage reaches.
struct Ports {
    tables: Tables,
    sns: Sns,
    queues: Queues,
}

impl Ports {
    fn new(world: &Arc<World>, scope: &Arc<Scope>) -> Self {
        Self {
            tables: Tables {
                world: Arc::clone(world),
                scope: Arc::clone(scope),
            },
            sns: Sns {
                world: Arc::clone(world),
                scope: Arc::clone(scope),
            },
            queues: Queues {
                world: Arc::clone(world),
                scope: Arc::clone(scope),
            },
        }
    }

    fn world(&self) -> &Arc<World> {
        &self.tables.world
    }
}

/// A message that cannot be read is dropped. None should exist.
fn malformed(world: &World, stage: &str) -> Verdict {
    let violation = format!("{stage} receives a malformed message");
    world.oracle().violation(violation);
    Verdict::Done
}

/// A failed dependency.
fn retry(world: &World, stage: &str, message: &Message, error: &Unavailable) -> Verdict {
    world.tell(|| {
        let about = about(world, message);
        format!(
            "{stage} will retry {about} (receipt {}): {error}",
            message.receives
        )
    });
    Verdict::Retry(error.retry_after())
}

/// What a message is about, in words.
fn about(world: &World, message: &Message) -> String {
    let subject = &message.subject;
    let name = |text: &Option<String>| text.as_ref().map(|text| world.trace.name_of(text));
    let event = name(&subject.event);
    match (event, name(&subject.recipient), name(&subject.pubkey)) {
        (Some(event), Some(recipient), _) => format!("{event} for {recipient}"),
        (Some(event), None, _) => event,
        (None, _, Some(owner)) => format!("the devices of {owner}"),
        (None, ..) => "a message".to_owned(),
    }
}

/// The control stage.
pub struct Control {
    stage: ControlStage<Tables, Sns>,
    world: Arc<World>,
}

impl Stage for Control {
    const NAME: &'static str = "control";

    fn start(world: &Arc<World>, scope: &Arc<Scope>) -> Self {
        let Ports { tables, sns, .. } = Ports::new(world, scope);
        let (keys, app) = (world.service.clone(), Some(APP_H.to_owned()));
        Self {
            stage: ControlStage::new(keys, app, Limits::default(), tables, sns),
            world: Arc::clone(world),
        }
    }

    async fn handle(&self, message: &Message) -> Verdict {
        let world = &self.world;
        let Ok(input) = ControlInput::read(&message.body) else {
            return malformed(world, Self::NAME);
        };
        let receipt = Receipt {
            now: world.now(),
            count: message.receives,
        };
        let result = self.stage.handle(&input, receipt).await;
        let about = about(world, message);
        match result {
            Ok(applied) => {
                world.tell(|| format!("control applies {about}: {}", applied.reason()));
                let now = world.now();
                world.oracle().accepted(&message.subject, now);
                Verdict::Done
            }
            Err(Failure::Refused(refusal)) => {
                world.tell(|| format!("control refuses {about}: {}", refusal.reason()));
                let (now, reason) = (world.now(), refusal.reason());
                world.oracle().refused(&message.subject, reason, now);
                Verdict::Done
            }
            Err(Failure::UnknownKey) => Verdict::Retry(None),
            Err(Failure::Unavailable(error)) => retry(world, Self::NAME, message, &error),
        }
    }
}

/// The queues to which stages send.
#[derive(Clone)]
struct Queues {
    world: Arc<World>,
    scope: Arc<Scope>,
}

impl Queues {
    async fn send<T: Serialize>(
        &self,
        queue: &Queue,
        messages: &[T],
        delay: Duration,
    ) -> PortResult<()> {
        let encoded = messages.iter().map(encode).collect::<Result<Vec<_>, _>>();
        let encoded = encoded.map_err(|error| Unavailable::new("sqs.send", error.to_string()))?;
        for bodies in encoded.chunks(10) {
            let sent = queue.send(&self.world, bodies.to_vec(), delay).await;
            sent.inspect_err(|_| self.scope.meet_fault())?;
        }
        Ok(())
    }
}

impl ports::Queue<DeliveryMessage> for Queues {
    async fn send(&self, messages: &[DeliveryMessage]) -> PortResult<()> {
        let queue = &self.world.deliveries;
        self.send(queue, messages, Duration::ZERO).await
    }
}

impl ports::Queue<ContentMessage> for Queues {
    async fn send(&self, messages: &[ContentMessage]) -> PortResult<()> {
        let queue = &self.world.events;
        self.send(queue, messages, Duration::ZERO).await
    }
}

impl ports::Queue<ReconcileMessage> for Queues {
    async fn send(&self, messages: &[ReconcileMessage]) -> PortResult<()> {
        let queue = &self.world.control;
        self.send(queue, messages, Duration::ZERO).await
    }
}

impl ports::Queue<ProfileRequest> for Queues {
    /// The listener is not part of the simulation, so nobody answers requests for profiles.
    async fn send(&self, _messages: &[ProfileRequest]) -> PortResult<()> {
        Ok(())
    }
}

impl DelayQueue<DeliveryMessage> for Queues {
    async fn send_after(&self, message: &DeliveryMessage, delay: Duration) -> PortResult<()> {
        let queue = &self.world.deliveries;
        self.send(queue, std::slice::from_ref(message), delay).await
    }
}

/// The matcher stage.
pub struct Match {
    matcher: Matcher,
    ports: Ports,
}

impl Stage for Match {
    const NAME: &'static str = "matcher";

    fn start(world: &Arc<World>, scope: &Arc<Scope>) -> Self {
        Self {
            matcher: Matcher::new(NEWCOMER_PUSHES),
            ports: Ports::new(world, scope),
        }
    }

    async fn handle(&self, message: &Message) -> Verdict {
        let (ports, world) = (&self.ports, self.ports.world());
        let Ok(content) = decode::<ContentMessage>(&message.body) else {
            return malformed(world, Self::NAME);
        };
        let clock = || world.now();
        let handled = self
            .matcher
            .handle(&ports.tables, &ports.queues, &content, clock);
        match handled.await {
            Ok(outcome) => {
                world.tell(|| {
                    let (about, n) = (about(world, message), outcome.recipients);
                    match outcome.dropped {
                        Some(reason) => format!("matcher drops {about}: {reason:?}"),
                        None => format!("matcher finds {n} recipients of {about}"),
                    }
                });
                if outcome.newcomers_over_budget > 0 {
                    world.oracle().over_budget(&message.subject);
                }
                Verdict::Done
            }
            Err(error) => retry(world, Self::NAME, message, &error),
        }
    }
}

/// The deliver stage.
pub struct Deliver {
    ports: Ports,
    budgets: RequestBudgets,
}

impl Stage for Deliver {
    const NAME: &'static str = "deliver";

    fn start(world: &Arc<World>, scope: &Arc<Scope>) -> Self {
        Self {
            ports: Ports::new(world, scope),
            budgets: RequestBudgets::default(),
        }
    }

    async fn handle(&self, message: &Message) -> Verdict {
        let (ports, world) = (&self.ports, self.ports.world());
        let Ok(delivery) = decode::<DeliveryMessage>(&message.body) else {
            return malformed(world, Self::NAME);
        };
        let (id, receives) = (message.id.to_string(), message.receives);
        let attempt = Attempt::of(&id, receives, world.now(), LEASE);
        let (tables, sns, queues) = (&ports.tables, &ports.sns, &ports.queues);
        let handled =
            deliver::handler::handle(tables, sns, queues, &self.budgets, &delivery, &attempt);
        let outcome = match handled.await {
            Ok(outcome) => outcome,
            Err(error) => return retry(world, Self::NAME, message, &error),
        };
        world.tell(|| {
            let about = about(world, message);
            match &outcome {
                DeliveryOutcome::Dropped(reason) => {
                    format!("deliver drops {about}: {}", reason.reason())
                }
                DeliveryOutcome::Waiting(time) => {
                    format!("deliver waits {} s with {about}", time.as_secs())
                }
                DeliveryOutcome::Completed(devices) => {
                    format!("deliver completes {about} on {} devices", devices.len())
                }
                DeliveryOutcome::Retry { reason, .. } => {
                    format!("deliver will retry {about}: {}", reason.reason())
                }
            }
        });
        match outcome {
            DeliveryOutcome::Retry { after, .. } => Verdict::Retry(after),
            DeliveryOutcome::Dropped(DeliveryDropReason::UnknownApp) => {
                malformed(world, Self::NAME)
            }
            _ => Verdict::Done,
        }
    }
}

/// The feedback stage.
pub struct Feedback {
    ports: Ports,
}

impl Stage for Feedback {
    const NAME: &'static str = "feedback";

    fn start(world: &Arc<World>, scope: &Arc<Scope>) -> Self {
        Self {
            ports: Ports::new(world, scope),
        }
    }

    async fn handle(&self, message: &Message) -> Verdict {
        let (ports, world) = (&self.ports, self.ports.world());
        let Ok(input) = FeedbackMessage::read(&message.body) else {
            return malformed(world, Self::NAME);
        };
        let stage = FeedbackStage {
            store: &ports.tables,
            sns: &ports.sns,
            control: &ports.queues,
        };
        let (sent_at, now) = (message.sent_at.to_seconds(), world.seconds());
        match stage.handle(&input, sent_at, now).await {
            Ok(outcome) => {
                world.tell(|| format!("feedback: {outcome:?}"));
                Verdict::Done
            }
            Err(error) => retry(world, Self::NAME, message, &error),
        }
    }
}
