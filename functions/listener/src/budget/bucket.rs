//! Token buckets.

use nostr_push_core::{Millis, Seconds};

/// The units of a token: what a rate of one token a day adds in a day.
const TOKEN: u64 = Seconds::from_days(1).to_millis().0;

/// How much may be taken from a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The most tokens at once.
    pub burst: u64,
    /// The tokens that are added per day.
    pub per_day: u64,
}

impl Rate {
    /// A rate that is never used up.
    pub const UNLIMITED: Self = Self {
        burst: u64::MAX / TOKEN,
        per_day: u64::MAX,
    };

    /// A rate of so many tokens a second.
    pub const fn per_second(burst: u64, tokens: u64) -> Self {
        Self {
            burst,
            per_day: tokens.saturating_mul(Seconds::from_days(1).0),
        }
    }

    /// This rate and `n` times another.
    #[must_use]
    pub fn plus(self, other: Self, n: u64) -> Self {
        Self {
            burst: self.burst.saturating_add(other.burst.saturating_mul(n)),
            per_day: self.per_day.saturating_add(other.per_day.saturating_mul(n)),
        }
    }

    /// The part `1 / n` of this rate.
    #[must_use]
    pub fn part(self, n: u64) -> Self {
        Self {
            burst: self.burst / n,
            per_day: self.per_day / n,
        }
    }

    fn burst_units(self) -> u64 {
        self.burst.saturating_mul(TOKEN)
    }

    /// How long it takes to add these units.
    fn time_for(self, units: u64) -> Millis {
        Millis(if units == 0 {
            0
        } else {
            units.div_ceil(self.per_day.max(1))
        })
    }
}

/// A bucket. The rate is not part of it and may change. A full bucket is the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenBucket {
    /// What was missing at `at`, in units.
    missing: u64,
    at: Millis,
}

impl TokenBucket {
    fn missing(&self, rate: Rate, now: Millis) -> u64 {
        let added = rate.per_day.saturating_mul((now - self.at).0);
        self.missing.saturating_sub(added)
    }

    /// Returns `true` if so many tokens can be taken.
    pub fn has(&self, tokens: u64, rate: Rate, now: Millis) -> bool {
        let taken = self.missing(rate, now);
        taken.saturating_add(tokens.saturating_mul(TOKEN)) <= rate.burst_units()
    }

    /// Takes tokens. Call [`TokenBucket::has`] before.
    pub fn take(&mut self, tokens: u64, rate: Rate, now: Millis) {
        let missing = self.missing(rate, now);
        self.missing = missing.saturating_add(tokens.saturating_mul(TOKEN));
        // The clock may be set back.
        self.at = self.at.max(now);
    }

    /// The tokens that can be taken.
    pub fn level(&self, rate: Rate, now: Millis) -> u64 {
        let units = rate.burst_units().saturating_sub(self.missing(rate, now));
        units / TOKEN
    }

    /// When the bucket will be full.
    pub fn full_at(&self, rate: Rate, now: Millis) -> Millis {
        now + rate.time_for(self.missing(rate, now))
    }

    /// When so many tokens can be taken. `now` if they can be already.
    pub fn ready_at(&self, tokens: u64, rate: Rate, now: Millis) -> Millis {
        let wanted = self
            .missing(rate, now)
            .saturating_add(tokens.saturating_mul(TOKEN));
        now + rate.time_for(wanted.saturating_sub(rate.burst_units()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bucket_refills_up_to_its_burst() {
        let rate = Rate::per_second(100, 10);
        let mut bucket = TokenBucket::default();
        let now = Millis(5_000);
        assert!(bucket.has(100, rate, now) && !bucket.has(101, rate, now));
        bucket.take(100, rate, now);
        assert!(!bucket.has(1, rate, now));
        assert_eq!(bucket.ready_at(5, rate, now), now + Millis(500));
        assert_eq!(bucket.full_at(rate, now), now + Millis(10_000));
        let later = now + Millis(500);
        assert!(bucket.has(5, rate, later) && !bucket.has(6, rate, later));
        assert_eq!(bucket.level(rate, Millis(1_000_000)), 100);
    }

    #[test]
    fn bucket_without_burst_grants_nothing() {
        let bucket = TokenBucket::default();
        assert!(!bucket.has(1, Rate::per_second(0, 0), Millis(9)));
        assert!(TokenBucket::default().has(u64::from(u32::MAX), Rate::UNLIMITED, Millis(9)));
    }

    proptest! {
        #[test]
        fn bucket_grants_at_most_burst_and_refill(
            burst in 0..1_000u64,
            per_day in 0..10_000_000u64,
            steps in prop::collection::vec((0..600u64, 0..10_000u64), 0..60),
        ) {
            let rate = Rate { burst, per_day };
            let (mut bucket, mut now, mut granted) = (TokenBucket::default(), Millis(7), 0);
            let began = now;
            for (tokens, pause) in steps {
                prop_assert!(bucket.level(rate, now) <= burst);
                let ready_at = bucket.ready_at(tokens, rate, now);
                if bucket.has(tokens, rate, now) {
                    prop_assert_eq!(ready_at, now);
                    bucket.take(tokens, rate, now);
                    granted += tokens;
                } else if tokens <= burst && per_day > 0 {
                    prop_assert!(bucket.has(tokens, rate, ready_at));
                    prop_assert!(!bucket.has(tokens, rate, ready_at - Millis(1)));
                }
                let refill = u128::from(per_day) * u128::from((now - began).0) / u128::from(TOKEN);
                prop_assert!(u128::from(granted) <= u128::from(burst) + refill);
                now += Millis(pause);
            }
        }
    }
}
