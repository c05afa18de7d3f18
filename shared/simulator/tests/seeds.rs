//! Runs as many seeds as fit into some seconds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::time::{Duration, Instant};

use nostr_push_core::Millis;
use simulator::{plan::Plan, run::run};

/// How long the test goes on to start runs.
const TIME: Duration = Duration::from_secs(20);

/// The fewest runs.
const MIN_RUNS: u64 = 3;

#[test]
fn no_seed_violates_the_rules_of_the_protocol() {
    let started = Instant::now();
    let (mut simulated, mut required, mut pushed) = (Millis(0), 0, 0);
    let mut seed = 0;
    while seed < MIN_RUNS || started.elapsed() < TIME {
        seed += 1;
        let outcome = run(&Plan::of(seed));
        let judgement = outcome.judgement;
        assert!(
            judgement.violations.is_empty(),
            "cargo run -p simulator -- --seed {seed} --trace\n{:#?}",
            judgement.violations
        );
        simulated += outcome.simulated;
        required += judgement.required;
        pushed += judgement.pushed;
    }
    let days = simulated.to_seconds().0 / 86_400;
    println!("{seed} seeds, {days} simulated days, {pushed} pushes, {required} required");
    assert!(required > 0, "the oracle requires nothing");
}

#[test]
fn same_seed_gives_the_same_story() {
    let story = |seed| {
        let plan = Plan {
            is_traced: true,
            ..Plan::of(seed)
        };
        run(&plan).lines
    };
    let first = story(3);
    assert!(first.len() > 100);
    for (a, b) in first.iter().zip(&story(3)) {
        assert_eq!(a, b);
    }
    assert_ne!(first, story(4));
}
