//! Every planted fault is found within some seeds.
#![cfg(feature = "planted")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use simulator::{planted::Planted, run::run};
use strum::VariantArray;

/// The most seeds until a fault must have been found.
const SEEDS: u64 = 100;

/// The first seed.
const FIRST: u64 = 301;

/// The first violation of a seed with this planted fault. Without it, the seed must have none.
fn violation(seed: u64, planted: Planted) -> Option<String> {
    let first = |planted| {
        let mut violations = run(seed, planted, false).judgement.violations.into_iter();
        violations.next()
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
