//! The budgets of content events. Each index key that an event hits costs a query of the matcher,
//! and is paid for by those who use the key.
//!
//! | Key | Paid from |
//! |---|---|
//! | of a mute list | the owner's own bucket, and the bucket of newcomers if the owner is one |
//! | used by unproven owners only | the bucket of newcomers |
//! | mention of a proven owner | the owner's own bucket |
//! | the same, in a mass mention | the bucket of mass mentions |
//! | `kind:` of a proven owner | nothing: only the operator can allow such filters |
//! | any other | the bucket of proven owners |
//!
//! One key may use only a part of the buckets of newcomers and of proven owners, so that nobody can
//! use them up with a few keys. An event with more than [`MAX_MENTIONS`] mentions of proven owners
//! is a mass mention. Whatever others send, a mention of an owner in any other event is paid once a
//! minute.

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

/// The most mentions of proven owners in an event for which these owners pay. Otherwise one event
/// could take from the buckets of a thousand owners.
pub const MAX_MENTIONS: usize = 10;

/// One key may use `1 / KEY_PART_OF_PROVEN` of the bucket of proven owners.
const KEY_PART_OF_PROVEN: u64 = 4;

/// One key may use `1 / KEY_PART_OF_NEWCOMERS` of the bucket of newcomers. It is less, because keys
/// of newcomers cost nothing.
const KEY_PART_OF_NEWCOMERS: u64 = 100;

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
    /// Mentions of proven owners in mass mentions, together.
    pub mass_mentions: Rate,
    /// One owner's mute list.
    pub mute_list: Rate,
}

/// The subscriptions of newcomers under one key that cost one more token.
const USES_PER_TOKEN: u64 = 16;

/// The most tokens of one hit. A key has twice as many at once.
const MAX_TOKENS: u64 = 100;

impl Default for ContentRates {
    fn default() -> Self {
        let per_day = 43_200;
        Self {
            newcomers: Rate {
                burst: 20_000,
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
                // One a minute, so that a flood never silences an owner.
                per_day: 1_440,
            },
            mass_mentions: Rate::per_second(5_000, 1),
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
            mass_mentions: Rate::UNLIMITED,
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
    mass_mentions: TokenBucket,
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
            mass_mentions: TokenBucket::default(),
            keys: LruCache::new(MAX_KEY_BUCKETS),
            hasher: RandomState::new(),
        }
    }

    /// Removes the hits that have no budget. It spends nothing, so it may be called for an event
    /// that may be forged. `proven` is the number of proven owners. Of a mass mention all mentions
    /// stay or none, so that what is left of it is still one.
    pub fn retain_affordable(&self, hits: &mut Vec<Hit>, proven: u64, now: Millis) {
        let is_mass = is_mass_mention(hits);
        hits.retain(|hit| self.price(hit, is_mass, proven, now).is_some());
    }

    /// Spends the hits of a verified event, and removes those that have no budget.
    pub fn spend(&mut self, hits: &mut Vec<Hit>, proven: u64, now: Millis) {
        let is_mass = is_mass_mention(hits);
        hits.retain(|hit| {
            let Some(price) = self.price(hit, is_mass, proven, now) else {
                return false;
            };
            for (id, rate) in price.keys.into_iter().flatten() {
                let bucket = self.keys.get_or_insert_mut(id, TokenBucket::default);
                bucket.take(price.tokens, rate, now);
            }
            if price.newcomers {
                self.newcomers.take(price.tokens, self.rates.newcomers, now);
            }
            if price.mass_mentions {
                self.mass_mentions
                    .take(price.tokens, self.rates.mass_mentions, now);
            }
            if let Some(rate) = price.proven {
                self.proven.take(price.tokens, rate, now);
            }
            true
        });
    }

    /// The buckets from which a hit is paid. `None` if they have too little.
    fn price(&self, hit: &Hit, is_mass: bool, proven: u64, now: Millis) -> Option<Price> {
        let own = |rate| self.key_bucket(hit, KeyBucket::Own, 1, rate, now);
        let is_mute_list = matches!(hit.key, IndexKey::MuteList(_));
        let mut price = Price {
            tokens: 1,
            keys: [None; 2],
            newcomers: false,
            mass_mentions: false,
            proven: None,
        };
        if is_mute_list {
            price.keys[0] = Some(own(self.rates.mute_list)?);
        }
        if !hit.proven {
            let rate = self.rates.newcomers;
            let part = rate.part(KEY_PART_OF_NEWCOMERS);
            price.tokens = tokens_of_newcomers(hit);
            price.keys[1] =
                Some(self.key_bucket(hit, KeyBucket::PartOfNewcomers, price.tokens, part, now)?);
            price.newcomers = true;
            return self.newcomers.has(price.tokens, rate, now).then_some(price);
        }
        if is_mute_list || matches!(hit.key, IndexKey::Kind(_)) {
            return Some(price);
        }
        if is_mention(hit) && is_mass {
            price.mass_mentions = true;
            let rate = self.rates.mass_mentions;
            return self.mass_mentions.has(1, rate, now).then_some(price);
        }
        if is_mention(hit) {
            price.keys[0] = Some(own(self.rates.mention)?);
            return Some(price);
        }
        let rate = self.rates.proven.plus(self.rates.per_proven, proven);
        let part = rate.part(KEY_PART_OF_PROVEN);
        price.keys[1] = Some(self.key_bucket(hit, KeyBucket::PartOfProven, 1, part, now)?);
        price.proven = Some(rate);
        self.proven.has(1, rate, now).then_some(price)
    }

    /// The id and the rate of a bucket of the hit's key. `None` if it is empty.
    fn key_bucket(
        &self,
        hit: &Hit,
        bucket: KeyBucket,
        tokens: u64,
        rate: Rate,
        now: Millis,
    ) -> Option<(u64, Rate)> {
        let id = self.hasher.hash_one((&hit.key, bucket));
        let stored = self.keys.peek(&id).copied().unwrap_or_default();
        stored.has(tokens, rate, now).then_some((id, rate))
    }
}

/// The tokens of a hit on a key that only newcomers use. The matcher reads the roster of each, so
/// a key with many subscriptions costs more than one.
fn tokens_of_newcomers(hit: &Hit) -> u64 {
    (1 + u64::from(hit.uses) / USES_PER_TOKEN).min(MAX_TOKENS)
}

/// From each of these buckets so many tokens are taken.
#[derive(Debug)]
struct Price {
    tokens: u64,
    keys: [Option<(u64, Rate)>; 2],
    newcomers: bool,
    mass_mentions: bool,
    /// The rate of the bucket of proven owners, which depends on their number.
    proven: Option<Rate>,
}

/// Returns `true` if the hit is a mention of a proven owner that newcomers do not pay.
fn is_mention(hit: &Hit) -> bool {
    hit.proven && hit.mentions_proven
}

fn is_mass_mention(hits: &[Hit]) -> bool {
    hits.iter().filter(|hit| is_mention(hit)).count() > MAX_MENTIONS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Millis = Millis(1_000);

    fn hit(key: &str, proven: bool, mentions_proven: bool) -> Hit {
        Hit {
            uses: 1,
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

    /// A mention of proven owner `n`.
    fn mention(n: u64) -> Hit {
        hit(&format!("#p:{n:064x}"), true, true)
    }

    fn mass_mention(owners: u64) -> Vec<Hit> {
        (0..owners).map(mention).collect()
    }

    /// How many hits of an event are paid for.
    fn spend(budget: &mut ContentBudget, event: &[Hit], now: Millis) -> Vec<Hit> {
        let mut hits = event.to_vec();
        budget.retain_affordable(&mut hits, 2, now);
        budget.spend(&mut hits, 2, now);
        hits
    }

    #[test]
    fn keys_of_many_newcomers_cost_more() {
        let mut budget = ContentBudget::new(ContentRates::default());
        let crowded = Hit {
            uses: 1_600,
            ..hit("#t:crowded", false, false)
        };
        let forwarded = (0..10).filter(|_| {
            let mut hits = vec![crowded.clone()];
            budget.spend(&mut hits, 0, Millis(5));
            !hits.is_empty()
        });
        assert_eq!(forwarded.count(), 2, "200 tokens at once, 100 for each");
    }

    #[test]
    fn newcomers_share_a_bucket_that_few_keys_cannot_use_up() {
        let mut budget = budget();
        let tag = |n: u64| hit(&format!("#t:{n}"), false, false);
        for n in 0..99 {
            assert_eq!(count(&mut budget, &tag(n), NOW), 200);
        }
        assert_eq!(count(&mut budget, &tag(0), NOW + Millis(1_000_000)), 5);
        assert_eq!(count(&mut budget, &tag(99), NOW), 200);
        for n in 100..103 {
            count(&mut budget, &tag(n), NOW + Millis(1_000_000));
        }
        assert_eq!(count(&mut budget, &tag(103), NOW + Millis(1_000_000)), 0);
        assert_eq!(count(&mut budget, &tag(103), NOW + Millis(1_010_000)), 5);
        let proven = hit("#t:5", true, false);
        assert_eq!(count(&mut budget, &proven, NOW), (20_000 + 200) / 4);
    }

    #[test]
    fn mentions_are_paid_by_the_owner_alone() {
        let mut budget = budget();
        for owner in 0..200 {
            assert_eq!(count(&mut budget, &mention(owner), NOW), 240);
        }
        for n in 0..4 {
            let others = hit(&format!("#t:{n}"), true, false);
            assert_eq!(count(&mut budget, &others, NOW), 5_050);
        }
        let hour = NOW + Millis(3_600_000);
        assert_eq!(count(&mut budget, &mention(1), hour), 60);
    }

    #[test]
    fn mass_mentions_take_only_from_their_own_bucket() {
        let mut budget = budget();
        let all = mass_mention(1_000);
        for _ in 0..5 {
            assert_eq!(spend(&mut budget, &all, NOW).len(), 1_000);
        }
        assert!(spend(&mut budget, &all, NOW).is_empty());
        assert!(spend(&mut budget, &mass_mention(11), NOW).is_empty());
        let ten = mass_mention(10);
        for _ in 0..240 {
            assert_eq!(spend(&mut budget, &ten, NOW).len(), 10);
        }
        assert!(spend(&mut budget, &ten, NOW).is_empty());
        let later = NOW + Millis(3_000);
        assert_eq!(spend(&mut budget, &all, later).len(), 3, "one a second");
        let others = hit("#t:a", true, false);
        assert_eq!(count(&mut budget, &others, NOW), 5_050);
        let with_others = [all, vec![hit("#t:b", true, false)]].concat();
        assert_eq!(
            spend(&mut budget, &with_others, later),
            with_others[1_000..]
        );
    }

    proptest! {
        /// Owner 0 is mentioned by events of others, of which some are mass mentions.
        #[test]
        fn owner_is_reached_once_a_minute_whatever_others_send(
            steps in prop::collection::vec((1..20u64, 1..60u64, 0..20_000u64), 1..40),
        ) {
            let (mut budget, mut now) = (budget(), NOW);
            let mut reached_at: Option<Millis> = None;
            for (mentions, events, pause) in steps {
                let mut event = mass_mention(mentions);
                event.push(hit("#t:a", true, false));
                event.push(hit("#t:b", false, false));
                for _ in 0..events {
                    let is_reached = spend(&mut budget, &event, now).contains(&mention(0));
                    if mentions > 10 {
                        continue;
                    }
                    if is_reached {
                        reached_at = Some(now);
                    }
                    prop_assert!(reached_at.is_some_and(|at| now - at < Millis(60_000)));
                }
                now += Millis(pause);
            }
        }
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
