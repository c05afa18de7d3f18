//! Every planted fault is found within some seeds.
#![cfg(feature = "planted")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use simulator::{planted::Planted, run::run};
use strum::VariantArray;

/// The most seeds until a fault must have been found.
const SEEDS: u64 = 60;

#[test]
fn finds_every_planted_fault() {
    let mut missed = Vec::new();
    for planted in Planted::VARIANTS {
        let name: &str = planted.into();
        let found = (1..=SEEDS).find_map(|seed| {
            let judgement = run(seed, Some(*planted), false).judgement;
            judgement
                .violations
                .first()
                .map(|first| (seed, first.clone()))
        });
        match found {
            Some((seed, violation)) => println!("{name}: seed {seed}: {violation}"),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
