//! Random numbers from a seed, so that a run has the same decisions in the same order.

/// `SplitMix64` (<https://prng.di.unimi.it/splitmix64.c>).
#[derive(Debug, Default)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns `true` with this probability.
    pub(super) fn is_below(&mut self, probability: f64) -> bool {
        let number = u32::try_from(self.next() >> 32).unwrap_or_default();
        f64::from(number) < probability * f64::from(u32::MAX)
    }

    /// A number from 0 to `max`.
    pub(super) fn up_to(&mut self, max: u64) -> u64 {
        self.next() % (max + 1)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
