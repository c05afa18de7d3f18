//! Every planted fault is found within some seeds.
#![cfg(feature = "planted")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use simulator::{minimize::minimize, plan::Plan, planted::Planted, run::run};
use strum::VariantArray;

/// The most seeds until a fault must have been found.
const SEEDS: u64 = 100;

/// The first seed.
const FIRST: u64 = 301;

/// The first violation of a seed with this planted fault. Without it, the seed must have none.
fn violation(seed: u64, planted: Planted) -> Option<String> {
    let first = |planted| {
        let plan = Plan {
            planted,
            // In busy runs more happens.
            pace: Some(1),
            ..Plan::of(seed)
        };
        run(&plan).judgement.violations.into_iter().next()
    };
    first(Some(planted)).filter(|_| first(None).is_none())
}

#[test]
fn finds_every_planted_fault() {
    let mut missed = Vec::new();
    for planted in Planted::VARIANTS {
        let name: &str = planted.into();
        let found = (FIRST..FIRST + SEEDS)
            .find_map(|seed| violation(seed, *planted).map(|violation| (seed, violation)));
        if let Some((seed, violation)) = found {
            println!("{name}: seed {seed}: {violation}");
        } else {
            println!("{name}: NOT FOUND");
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn minimal_run_has_the_violation_and_fewer_parts() {
    let planted = Planted::PushToOtherEndpoint;
    let plan = |seed| Plan {
        planted: Some(planted),
        pace: Some(1),
        ..Plan::of(seed)
    };
    let seed = (FIRST..FIRST + SEEDS)
        .find(|seed| violation(*seed, planted).is_some())
        .unwrap();
    let (smallest, outcome) = minimize(&plan(seed));
    assert!(!outcome.judgement.violations.is_empty());
    let left = Plan::parts().count() - smallest.without.len();
    assert!(left <= 8, "{left} parts are left: {:?}", smallest.without);
}
