//! Everything that the stages meet, and the clock.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nostr::key::Keys;
use nostr_push_core::{
    Millis, Seconds,
    app::{App, Platform},
    shape::Shape,
};
use nostr_push_testkit::memory::Memory;
use tokio::{sync::Notify, time::Instant};

use crate::{
    faults::Faults,
    oracle::Oracle,
    plan::Plan,
    planted::Planted,
    queue::Queue,
    random::Random,
    sns::SnsState,
    trace::{START, Trace},
};

/// The app of dialect N.
pub const APP_N: &str = "notes";

/// The app of dialect H.
pub const APP_H: &str = "chat";

/// The slowest pace: a run that would last two days lasts two years.
const MAX_PACE: u64 = 365;

/// The simulated world.
pub struct World {
    started: Instant,
    /// The source of all random decisions.
    pub random: Random,
    /// The faults of the run.
    pub faults: Faults,
    /// What the run is to do.
    pub plan: Plan,
    /// How much longer everybody waits between two actions than in a busy run.
    pace: u32,
    /// The story.
    pub trace: Trace,
    /// The tables.
    pub memory: Memory,
    /// Signaled after a subscription was written.
    pub feed: Notify,
    /// The control queue.
    pub control: Queue,
    /// The event queue.
    pub events: Queue,
    /// The delivery queue.
    pub deliveries: Queue,
    /// The feedback queue.
    pub feedback: Queue,
    sns: Mutex<SnsState>,
    oracle: Mutex<Oracle>,
    /// The keys of the service.
    pub service: Keys,
}

impl World {
    /// The world of a run. The clock of tokio must be paused.
    pub fn new(plan: &Plan) -> Arc<Self> {
        let random = Random::new(plan.seed);
        let app = |name: &str| App {
            platforms: [Platform::Apns, Platform::Fcm]
                .map(|platform| (platform, format!("arn:{name}/{}", platform.as_str())))
                .into(),
            // The only shape with all routing fields, whatever the dialect.
            payload: [Platform::Apns, Platform::Fcm]
                .map(|platform| (platform, Shape::Native))
                .into(),
            ..App::named(name)
        };
        let service = keys(&random);
        let is_busy = random.happens(500_000);
        let slow = random.uneven(2, MAX_PACE);
        let pace = plan.pace.unwrap_or(if is_busy { 1 } else { slow });
        Arc::new(Self {
            started: Instant::now(),
            faults: Faults::draw(&random, |part| plan.leaves_out(part)),
            plan: plan.clone(),
            pace: u32::try_from(pace).unwrap_or(u32::MAX),
            trace: Trace::new(plan.is_traced),
            memory: Memory::with_apps([app(APP_N), app(APP_H)]),
            feed: Notify::new(),
            control: Queue::new("control"),
            events: Queue::new("event"),
            deliveries: Queue::new("delivery"),
            feedback: Queue::new("feedback"),
            sns: Mutex::default(),
            oracle: Mutex::new(Oracle::new(service.public_key())),
            service,
            random,
        })
    }

    /// The current time.
    pub fn now(&self) -> Millis {
        let elapsed = self.started.elapsed().as_millis();
        START + Millis(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// The current time in seconds.
    pub fn seconds(&self) -> Seconds {
        self.now().to_seconds()
    }

    /// Waits for a random time.
    pub async fn pause(&self, min_millis: u64, max_millis: u64) {
        tokio::time::sleep(self.random.millis(min_millis, max_millis)).await;
    }

    /// Waits for a time.
    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// A time between two actions of a person or of a fault that a busy run would have chosen,
    /// adjusted to the pace of this run.
    pub fn at_pace(&self, time: Duration) -> Duration {
        time.saturating_mul(self.pace)
    }

    /// Adds a line to the story.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        self.trace.tell(self.now(), line);
    }

    /// Returns `true` if this fault is planted.
    pub fn has(&self, planted: Planted) -> bool {
        cfg!(feature = "planted") && self.plan.planted == Some(planted)
    }

    /// The oracle.
    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of SNS.
    pub fn sns(&self) -> MutexGuard<'_, SnsState> {
        self.sns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All queues, in the order of the flow.
    pub fn queues(&self) -> [&Queue; 4] {
        [
            &self.control,
            &self.events,
            &self.deliveries,
            &self.feedback,
        ]
    }
}

/// A key pair from random numbers.
pub fn keys(random: &Random) -> Keys {
    loop {
        let hex = nostr_push_core::hex::encode(&random.bytes::<32>());
        // Very few numbers are not keys.
        if let Ok(keys) = Keys::parse(&hex) {
            return keys;
        }
    }
}
