//! Random numbers from a seed, so that a run has the same decisions in the same order.

use nostr_push_testkit::random::SplitMix64;

/// The decisions of a run.
#[derive(Debug, Default)]
pub(super) struct Random(SplitMix64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    /// Returns `true` with this probability.
    pub(super) fn is_below(&mut self, probability: f64) -> bool {
        let number = u32::try_from(self.0.number() >> 32).unwrap_or_default();
        f64::from(number) < probability * f64::from(u32::MAX)
    }

    /// A number from 0 to `max`.
    pub(super) fn up_to(&mut self, max: u64) -> u64 {
        self.0.number() % (max + 1)
    }
}
