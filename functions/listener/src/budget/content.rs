//! The budgets of content events. Each index key that an event hits costs a query of the matcher,
//! and is paid for by those who use the key.
//!
//! | Key | Paid from |
//! |---|---|
//! | of a mute list | the owner's own bucket, and the bucket of newcomers if the owner is one |
//! | used by unproven owners only | the bucket of newcomers |
//! | mention of a proven owner | the owner's own bucket, then the bucket of proven owners |
//! | `kind:` of a proven owner | nothing: only the operator can allow such filters |
//! | any other | the bucket of proven owners |
//!
//! One key may use a quarter of a shared bucket, so that nobody can use it up with one key.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
};

use lru::LruCache;
use nostr_push_core::{Millis, index_key::IndexKey, interest::Hit};

use super::bucket::{Rate, TokenBucket};

/// The most buckets of single keys that are remembered. The one that was not used for the longest
/// time is forgotten first: it is the one that is most likely full.
const MAX_KEY_BUCKETS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();

/// One key may use `1 / KEY_PART` of a shared bucket.
const KEY_PART: u64 = 4;

/// How many index keys may be hit.
#[derive(Debug, Clone, Copy)]
pub struct ContentRates {
    /// By events that only unproven owners want, together.
    pub newcomers: Rate,
    /// By events that proven owners want, together.
    pub proven: Rate,
    /// What each proven owner adds to `proven`.
    pub per_proven: Rate,
    /// Mentions of one proven owner.
    pub mention: Rate,
    /// One owner's mute list.
    pub mute_list: Rate,
}

impl Default for ContentRates {
    fn default() -> Self {
        let per_day = 43_200;
        Self {
            newcomers: Rate {
                burst: 4_000,
                per_day,
            },
            proven: Rate {
                burst: 20_000,
                per_day,
            },
            per_proven: Rate {
                burst: 100,
                per_day: 720,
            },
            mention: Rate {
                burst: 240,
                per_day: 720,
            },
            mute_list: Rate {
                burst: 10,
                per_day: 24,
            },
        }
    }
}

impl ContentRates {
    /// Rates that are never used up.
    pub fn unlimited() -> Self {
        Self {
            newcomers: Rate::UNLIMITED,
            proven: Rate::UNLIMITED,
            per_proven: Rate::UNLIMITED,
            mention: Rate::UNLIMITED,
            mute_list: Rate::UNLIMITED,
        }
    }
}

/// A bucket of one key.
#[derive(Debug, Clone, Copy, Hash)]
enum KeyBucket {
    /// The key's own.
    Own,
    /// Its part of the bucket of proven owners.
    PartOfProven,
    /// Its part of the bucket of newcomers.
    PartOfNewcomers,
}

/// The budgets of content events.
#[derive(Debug)]
pub struct ContentBudget {
    rates: ContentRates,
    proven: TokenBucket,
    newcomers: TokenBucket,
    /// The buckets of single keys, by a hash.
    keys: LruCache<u64, TokenBucket>,
    hasher: RandomState,
}

impl ContentBudget {
    /// Full budgets.
    pub fn new(rates: ContentRates) -> Self {
        Self {
            rates,
            proven: TokenBucket::default(),
            newcomers: TokenBucket::default(),
            keys: LruCache::new(MAX_KEY_BUCKETS),
            hasher: RandomState::new(),
        }
    }

    /// Removes the hits that have no budget. It spends nothing, so it may be called for an event
    /// that may be forged. `proven` is the number of proven owners.
    pub fn retain_affordable(&self, hits: &mut Vec<Hit>, proven: u64, now: Millis) {
        hits.retain(|hit| self.price(hit, proven, now).is_some());
    }

    /// Spends the hits of a verified event, and removes those that have no budget.
    pub fn spend(&mut self, hits: &mut Vec<Hit>, proven: u64, now: Millis) {
        hits.retain(|hit| {
            let Some(price) = self.price(hit, proven, now) else {
                return false;
            };
            for (id, rate) in price.keys.into_iter().flatten() {
                let bucket = self.keys.get_or_insert_mut(id, TokenBucket::default);
                bucket.take(1, rate, now);
            }
            if price.newcomers {
                self.newcomers.take(1, self.rates.newcomers, now);
            }
            if let Some(rate) = price.proven {
                self.proven.take(1, rate, now);
            }
            true
        });
    }

    /// The buckets from which a hit is paid. `None` if they have too little.
    fn price(&self, hit: &Hit, proven: u64, now: Millis) -> Option<Price> {
        let own = |rate| self.key_bucket(hit, KeyBucket::Own, rate, now);
        let is_mute_list = matches!(hit.key, IndexKey::MuteList(_));
        let mut price = Price::default();
        if is_mute_list {
            price.keys[0] = Some(own(self.rates.mute_list)?);
        }
        if !hit.proven {
            let rate = self.rates.newcomers;
            let part = rate.part(KEY_PART);
            price.keys[1] = Some(self.key_bucket(hit, KeyBucket::PartOfNewcomers, part, now)?);
            price.newcomers = true;
            return self.newcomers.has(1, rate, now).then_some(price);
        }
        if is_mute_list || matches!(hit.key, IndexKey::Kind(_)) {
            return Some(price);
        }
        if hit.mentions_proven
            && let Some(paid) = own(self.rates.mention)
        {
            price.keys[0] = Some(paid);
            return Some(price);
        }
        let rate = self.rates.proven.plus(self.rates.per_proven, proven);
        let part = rate.part(KEY_PART);
        price.keys[1] = Some(self.key_bucket(hit, KeyBucket::PartOfProven, part, now)?);
        price.proven = Some(rate);
        self.proven.has(1, rate, now).then_some(price)
    }

    /// The id and the rate of a bucket of the hit's key. `None` if it is empty.
    fn key_bucket(
        &self,
        hit: &Hit,
        bucket: KeyBucket,
        rate: Rate,
        now: Millis,
    ) -> Option<(u64, Rate)> {
        let id = self.hasher.hash_one((&hit.key, bucket));
        let stored = self.keys.peek(&id).copied().unwrap_or_default();
        stored.has(1, rate, now).then_some((id, rate))
    }
}

/// One token is taken from each of these buckets.
#[derive(Debug, Default)]
struct Price {
    keys: [Option<(u64, Rate)>; 2],
    newcomers: bool,
    /// The rate of the bucket of proven owners, which depends on their number.
    proven: Option<Rate>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000);

    fn hit(key: &str, proven: bool, mentions_proven: bool) -> Hit {
        Hit {
            key: key.parse().unwrap(),
            proven,
            mentions_proven,
        }
    }

    /// How many events that hit this key can be paid for.
    fn count(budget: &mut ContentBudget, hit: &Hit, now: Millis) -> u64 {
        let mut is_paid = || {
            let mut hits = vec![hit.clone()];
            budget.retain_affordable(&mut hits, 2, now);
            let affordable = hits.len();
            budget.spend(&mut hits, 2, now);
            assert_eq!(hits.len(), affordable);
            affordable == 1
        };
        (0..100_000).take_while(|_| is_paid()).count() as u64
    }

    fn budget() -> ContentBudget {
        ContentBudget::new(ContentRates::default())
    }

    #[test]
    fn newcomers_share_a_bucket_that_no_key_can_use_up() {
        let mut budget = budget();
        let tag = |n: u64| hit(&format!("#t:{n}"), false, false);
        assert_eq!(count(&mut budget, &tag(0), NOW), 1_000);
        assert_eq!(count(&mut budget, &tag(1), NOW), 1_000);
        assert_eq!(count(&mut budget, &tag(2), NOW), 1_000);
        assert_eq!(count(&mut budget, &tag(3), NOW), 1_000);
        assert_eq!(count(&mut budget, &tag(4), NOW), 0);
        assert_eq!(count(&mut budget, &tag(4), NOW + Millis(10_000)), 5);
        let proven = hit("#t:5", true, false);
        assert_eq!(count(&mut budget, &proven, NOW), (20_000 + 200) / 4);
    }

    #[test]
    fn mentions_of_a_proven_owner_have_a_bucket_of_their_own() {
        let mut budget = budget();
        for n in 0..4 {
            let others = hit(&format!("#t:{n}"), true, false);
            assert_eq!(count(&mut budget, &others, NOW), 5_050);
        }
        let mention = hit(&format!("#p:{}", "ab".repeat(32)), true, true);
        assert_eq!(count(&mut budget, &mention, NOW), 240);
        let hour = NOW + Millis(3_600_000);
        // What an hour adds to the own bucket and to the shared one.
        let shared = (43_200 + 2 * 720) / 24;
        assert_eq!(count(&mut budget, &mention, hour), 30 + shared);
    }

    #[test]
    fn mention_falls_back_to_the_shared_bucket() {
        let mention = hit(&format!("#p:{}", "ab".repeat(32)), true, true);
        assert_eq!(count(&mut budget(), &mention, NOW), 240 + 5_050);
    }

    #[test]
    fn mute_lists_have_ten_at_once_and_one_per_hour() {
        let mut budget = budget();
        for proven in [true, false] {
            let list = hit(&format!("mute_list:{}", "ab".repeat(32)), proven, false);
            let expected = if proven { 10 } else { 0 };
            assert_eq!(count(&mut budget, &list, NOW), expected);
        }
        let list = hit(&format!("mute_list:{}", "ab".repeat(32)), true, false);
        assert_eq!(count(&mut budget, &list, NOW + Millis(3_600_000)), 1);
    }

    #[test]
    fn looking_spends_nothing() {
        let mut budget = budget();
        let list = hit(&format!("mute_list:{}", "ab".repeat(32)), true, false);
        for _ in 0..100 {
            let mut hits = vec![list.clone()];
            budget.retain_affordable(&mut hits, 1, NOW);
            assert_eq!(hits.len(), 1);
        }
        assert_eq!(count(&mut budget, &list, NOW), 10);
    }

    #[test]
    fn only_the_hits_without_budget_are_removed() {
        let mut budget = budget();
        let list = hit(&format!("mute_list:{}", "ab".repeat(32)), true, false);
        count(&mut budget, &list, NOW);
        let other = hit("#t:a", true, false);
        let mut hits = vec![list, other.clone()];
        budget.spend(&mut hits, 1, NOW);
        assert_eq!(hits, [other]);
    }
}
