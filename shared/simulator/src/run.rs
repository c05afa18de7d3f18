//! One run: a world, its people, faults for some hours, and the verdict.

use std::sync::Arc;

use nostr::key::Keys;
use nostr_push_core::{Millis, Seconds};

use crate::{
    authors::{self, People},
    clients::{Client, Phones},
    lambda,
    oracle::check::Judgement,
    plan::{HOUSEHOLDS, OUTAGES, Plan},
    random::Random,
    relays::Relays,
    stages::{Control, Deliver, Feedback, Match},
    trace::START,
    ttl,
    world::{World, keys},
};

/// How long the queues may take to become empty after the faults have ended.
const MAX_DRAIN: u64 = 12 * 60;

/// How long after the last action everything has ended: settings last the longest, and the rows of
/// removed devices are kept for a week more.
const EVERYTHING_ENDS: Seconds = Seconds::from_days(110);

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The simulated time with people and faults.
    pub simulated: Millis,
    /// The verdict.
    pub judgement: Judgement,
    /// The story, if it was asked for.
    pub lines: Vec<String>,
}

/// Runs a plan.
///
/// # Panics
/// If no runtime can be started.
#[expect(
    clippy::expect_used,
    reason = "without a runtime there is no simulation"
)]
pub fn run(plan: &Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime starts");
    runtime.block_on(simulate(plan))
}

async fn simulate(plan: &Plan) -> Outcome {
    let (world, seed) = (World::new(plan), plan.seed);
    world.tell(|| format!("seed {seed}, {}", world.faults.describe()));
    start_stages(&world);
    start_people(&world);
    // Short runs are as likely as long ones.
    let time = world.at_pace(world.random.uneven_millis(3_600_000, 2 * 86_400_000));
    tokio::spawn(outages(Arc::clone(&world), world.random.fork()));
    tokio::spawn(ttl::run(Arc::clone(&world)));
    world.sleep(time).await;
    let simulated = world.now() - START;
    world.tell(|| "the faults end".to_owned());
    world.faults.end();
    drain(&world).await;
    let mut judgement = judge(&world);
    world.tell(|| "all registrations end".to_owned());
    world.sleep(EVERYTHING_ENDS.to_duration()).await;
    ttl::sweep(&world, Seconds(0));
    drain(&world).await;
    // Some rows are written again in order to delete their endpoints.
    judgement.violations.extend(leftovers(&world));
    let violations = judgement.violations.clone();
    for violation in violations {
        world.tell(|| format!("VIOLATION: {violation}"));
    }
    Outcome {
        seed,
        simulated,
        lines: world.trace.lines(),
        judgement,
    }
}

fn start_stages(world: &Arc<World>) {
    for _ in 0..3 {
        tokio::spawn(lambda::run::<Control>(Arc::clone(world), |world| {
            &world.control
        }));
        tokio::spawn(lambda::run::<Match>(Arc::clone(world), |world| {
            &world.events
        }));
        tokio::spawn(lambda::run::<Deliver>(Arc::clone(world), |world| {
            &world.deliveries
        }));
    }
    for _ in 0..2 {
        tokio::spawn(lambda::run::<Feedback>(Arc::clone(world), |world| {
            &world.feedback
        }));
    }
}

/// Four households with two people each. The people of one household use the same dialect.
fn start_people(world: &Arc<World>) {
    let relays = Relays::start(world);
    let known: Vec<(&str, Keys)> = HOUSEHOLDS
        .into_iter()
        .flatten()
        .map(|name| (name, keys(&world.random)))
        .collect();
    for (name, keys) in &known {
        world.trace.name(keys.public_key().to_hex(), *name);
    }
    let people = Arc::new(People {
        clients: known
            .iter()
            .map(|(name, keys)| ((*name).to_owned(), keys.public_key()))
            .collect(),
        authors: authors::authors(world),
    });
    tokio::spawn(authors::run(
        Arc::clone(world),
        Arc::clone(&relays),
        Arc::clone(&people),
        world.random.fork(),
    ));
    for (household, pair) in known.chunks(2).enumerate() {
        let letter = char::from(b'A' + u8::try_from(household).unwrap_or(0));
        let count = usize::try_from(world.random.between(1, 3)).unwrap_or(1);
        let phones = Arc::new(Phones::new(world, &letter.to_string(), count));
        for (name, keys) in pair {
            let is_exact = world.random.happens(500_000);
            let off = i64::try_from(world.random.between(0, 600)).unwrap_or(0) - 300;
            let client = Client {
                name: (*name).to_owned(),
                keys: keys.clone(),
                random: world.random.fork(),
                skew: if is_exact { 0 } else { off },
                phones: Arc::clone(&phones),
                world: Arc::clone(world),
                relays: Arc::clone(&relays),
                people: Arc::clone(&people),
            };
            // Not before: leaving a person out changes no random numbers of the others.
            if world.plan.leaves_out(name) {
                continue;
            }
            if household < 2 {
                tokio::spawn(client.run_dialect_n());
            } else {
                tokio::spawn(client.run_dialect_h());
            }
        }
    }
}

/// From time to time a queue is unavailable for some minutes.
async fn outages(world: Arc<World>, random: Random) {
    if random.happens(500_000) || world.plan.leaves_out(OUTAGES) {
        return;
    }
    loop {
        let time = random.uneven_millis(600_000, 12 * 3_600_000);
        world.sleep(world.at_pace(time)).await;
        if world.faults.is_over() {
            return;
        }
        let queues = world.queues();
        let Some(queue) = random.pick(&queues) else {
            return;
        };
        let time = random.uneven_millis(5_000, 1_200_000);
        world.tell(|| {
            format!(
                "the {} queue is unavailable for {} s",
                queue.name,
                time.as_secs()
            )
        });
        let time = Millis(u64::try_from(time.as_millis()).unwrap_or(0));
        queue.make_unavailable(world.now() + time);
    }
}

/// Waits until all queues are empty and nothing is under way.
async fn drain(world: &Arc<World>) {
    let is_empty = || {
        let is_quiet = world.oracle().is_quiet();
        is_quiet && world.queues().iter().all(|queue| !queue.any(|_| true))
    };
    let mut quiet = 0;
    for _ in 0..MAX_DRAIN {
        world.sleep(Seconds(60).to_duration()).await;
        // A client may be between two heartbeats.
        quiet = if is_empty() { quiet + 1 } else { 0 };
        if quiet > 10 {
            return;
        }
    }
    let left = |queue: &&crate::queue::Queue| {
        let n = queue.messages().len();
        (n > 0).then(|| format!("{n} messages are left in the {} queue", queue.name))
    };
    for violation in world.queues().iter().filter_map(left) {
        world.oracle().violation(violation);
    }
    if !world.oracle().is_quiet() {
        world
            .oracle()
            .violation("something is under way for ever".to_owned());
    }
}

fn judge(world: &World) -> Judgement {
    for queue in world.queues() {
        let dead = queue.dead().len();
        if dead > 0 {
            let violation = format!(
                "{dead} messages of the {} queue are dead letters",
                queue.name
            );
            world.oracle().violation(violation);
        }
    }
    let pushes = world.sns().pushes.clone();
    let mut oracle = world.oracle();
    oracle.settle();
    oracle.judge(&pushes, &world.trace)
}

/// Endpoints that are left although every registration has ended.
fn leftovers(world: &World) -> Vec<String> {
    let sns = world.sns();
    let endpoints = sns.endpoints.values();
    endpoints
        .map(|endpoint| {
            let token = world.trace.name_of(&endpoint.token);
            format!("the endpoint of {token} is left in SNS")
        })
        .collect()
}
