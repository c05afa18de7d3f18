//! What a run is to do.

use std::collections::BTreeSet;

use strum::VariantArray;

use crate::{faults::Fault, planted::Planted};

/// The people with phones, by household.
pub const HOUSEHOLDS: [[&str; 2]; 4] = [
    ["anna", "abel"],
    ["bob", "bea"],
    ["carl", "cleo"],
    ["dora", "dan"],
];

/// The part that makes queues unavailable for minutes.
pub const OUTAGES: &str = "outages";

/// The part that sends stored events again.
pub const REPLAYS: &str = "replays";

/// A run.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The fault that is planted.
    pub planted: Option<Planted>,
    /// `true` if the story is to be kept.
    pub is_traced: bool,
    /// How much longer everybody waits between two actions than in a busy run. Without it, the
    /// seed decides.
    pub pace: Option<u64>,
    /// The parts that are left out.
    pub without: BTreeSet<String>,
}

impl Plan {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// The parts that can be left out: faults and people.
    pub fn parts() -> impl Iterator<Item = &'static str> {
        let faults = Fault::VARIANTS.iter().map(|fault| fault.name());
        let people = HOUSEHOLDS.into_iter().flatten();
        faults.chain([OUTAGES, REPLAYS]).chain(people)
    }

    /// Returns `true` if this part is left out.
    pub fn leaves_out(&self, part: &str) -> bool {
        self.without.contains(part)
    }
}
