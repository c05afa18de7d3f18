//! Random numbers from a seed: the same seed gives the same run.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nostr_push_testkit::random::SplitMix64;

/// A generator of random numbers.
#[derive(Debug)]
pub struct Random(Mutex<SplitMix64>);

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(SplitMix64::new(seed)))
    }

    /// Another generator, whose numbers do not depend on what is drawn from this one later.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.number())
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .number()
    }

    /// A number from `min` to `max`.
    pub fn between(&self, min: u64, max: u64) -> u64 {
        min + self.number() % (max - min + 1)
    }

    /// `true` in `per_million` of a million cases.
    pub fn happens(&self, per_million: u64) -> bool {
        // No number is drawn for what never happens, so that faults can be switched off.
        per_million > 0 && self.number() % 1_000_000 < per_million
    }

    /// A time from `min` to `max` milliseconds.
    pub fn millis(&self, min: u64, max: u64) -> Duration {
        Duration::from_millis(self.between(min, max))
    }

    /// A time from `min` to `max` milliseconds, distributed as [`Random::uneven`].
    pub fn uneven_millis(&self, min: u64, max: u64) -> Duration {
        Duration::from_millis(self.uneven(min, max))
    }

    /// A number from `min` to `max`, where small ones are as likely as large ones: the number of
    /// digits is random.
    pub fn uneven(&self, min: u64, max: u64) -> u64 {
        let octaves = u64::from((max / min.max(1)).max(1).ilog2());
        let low = min.max(1) << self.between(0, octaves);
        self.between(low.min(max), (2 * low).min(max))
    }

    /// One of the items, if there is any.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        let last = items.len().checked_sub(1)?;
        items.get(usize::try_from(self.between(0, last as u64)).unwrap_or(0))
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        std::array::from_fn(|_| self.number().to_le_bytes()[0])
    }
}
