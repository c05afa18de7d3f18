//! The limits on deliveries to newcomers: owners without a proven device. A token that no platform
//! has accepted yet may be invented, and so may its owner.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use nostr_push_core::{
    Seconds,
    owner::Owner,
    ports::{Budgets, PortResult},
};

/// The most deliveries per newcomer and day, in one instance.
pub const MAX_DELIVERIES_PER_NEWCOMER: u32 = 200;

/// The name of the budget of all newcomers together.
pub const NEWCOMER_PUSHES: &str = "newcomer_pushes";

/// The newcomers whose deliveries an instance counts, about 2 MB. Beyond, those that were counted
/// the longest time ago are forgotten.
const MAX_COUNTED_NEWCOMERS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Admits deliveries to newcomers.
#[derive(Debug)]
pub struct Newcomers {
    /// The most deliveries to all newcomers per day, in all instances together.
    max_pushes: u64,
    today: Mutex<Today>,
}

/// What an instance remembers of the UTC day.
#[derive(Debug)]
struct Today {
    /// When the day began.
    window: Seconds,
    /// `true` if the budget of all newcomers has refused deliveries.
    is_budget_spent: bool,
    deliveries: LruCache<Owner, u32>,
}

impl Newcomers {
    /// Limits with this many deliveries to all newcomers per day.
    pub fn new(max_pushes: u64) -> Self {
        Self {
            max_pushes,
            today: Mutex::new(Today::new(Seconds(0))),
        }
    }

    /// Counts one delivery to each of these newcomers, and returns those who get it. After the
    /// budget of all newcomers has refused deliveries, it is not asked again that day.
    ///
    /// # Errors
    /// The store failed. A repeat counts the deliveries twice.
    pub async fn admit<'a>(
        &self,
        budgets: &impl Budgets,
        owners: Vec<&'a Owner>,
        now: Seconds,
    ) -> PortResult<BTreeSet<&'a Owner>> {
        let window = now.start_of_day();
        let admitted = self.within_own_limits(owners, window);
        let units = admitted.len() as u64;
        if units == 0 {
            return Ok(admitted);
        }
        let max = self.max_pushes;
        if budgets.take(NEWCOMER_PUSHES, window, units, max).await? {
            return Ok(admitted);
        }
        self.today(window).is_budget_spent = true;
        Ok(BTreeSet::new())
    }

    /// Counts one delivery to each of these newcomers who has not had
    /// [`MAX_DELIVERIES_PER_NEWCOMER`] today.
    fn within_own_limits<'a>(
        &self,
        mut owners: Vec<&'a Owner>,
        window: Seconds,
    ) -> BTreeSet<&'a Owner> {
        let mut today = self.today(window);
        if today.is_budget_spent {
            return BTreeSet::new();
        }
        owners.retain(|owner| {
            let deliveries = today.deliveries.get_or_insert_mut_ref(*owner, || 0);
            *deliveries += 1;
            *deliveries <= MAX_DELIVERIES_PER_NEWCOMER
        });
        owners.into_iter().collect()
    }

    /// The counts of the day that begins at `window`.
    fn today(&self, window: Seconds) -> MutexGuard<'_, Today> {
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.window != window {
            *today = Today::new(window);
        }
        today
    }
}

impl Today {
    fn new(window: Seconds) -> Self {
        Self {
            window,
            is_budget_spent: false,
            deliveries: LruCache::new(MAX_COUNTED_NEWCOMERS),
        }
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::{memory::Memory, owner};

    use super::*;

    const NOON: Seconds = Seconds(1_800_014_400);

    const DAY: Seconds = Seconds::from_days(1);

    fn newcomer() -> Owner {
        owner(Keys::generate().public_key())
    }

    async fn is_admitted(
        newcomers: &Newcomers,
        memory: &Memory,
        owner: &Owner,
        at: Seconds,
    ) -> bool {
        let admitted = newcomers.admit(memory, vec![owner], at).await.unwrap();
        admitted.contains(owner)
    }

    #[tokio::test]
    async fn newcomer_has_a_limit_per_day() {
        let (newcomers, memory) = (Newcomers::new(u64::MAX), Memory::default());
        let (busy, other) = (newcomer(), newcomer());
        for n in 0..310 {
            let is_within = n < MAX_DELIVERIES_PER_NEWCOMER;
            assert_eq!(
                is_admitted(&newcomers, &memory, &busy, NOON).await,
                is_within
            );
        }
        assert!(is_admitted(&newcomers, &memory, &other, NOON).await);
        assert!(is_admitted(&newcomers, &memory, &busy, NOON + DAY).await);
        // What a newcomer does not get costs the others nothing.
        let taken: Vec<u64> = memory.state().budgets.values().copied().collect();
        assert_eq!(taken, [u64::from(MAX_DELIVERIES_PER_NEWCOMER) + 1, 1]);
    }

    #[tokio::test]
    async fn newcomers_share_a_budget_across_instances() {
        let (memory, a, b) = (Memory::default(), newcomer(), newcomer());
        let (one, two) = (Newcomers::new(3), Newcomers::new(3));
        let both = one.admit(&memory, vec![&a, &b], NOON).await.unwrap();
        assert_eq!(both, BTreeSet::from([&a, &b]));
        assert!(is_admitted(&two, &memory, &a, NOON).await);
        for newcomers in [&one, &two] {
            assert!(!is_admitted(newcomers, &memory, &b, NOON).await);
        }
        assert!(is_admitted(&one, &memory, &b, NOON + DAY).await);
    }

    #[tokio::test]
    async fn spent_budget_is_not_asked_again_that_day() {
        let (newcomers, memory) = (Newcomers::new(0), Memory::default());
        assert!(!is_admitted(&newcomers, &memory, &newcomer(), NOON).await);
        // The next call of a port would fail.
        memory.state().fail_in = Some(0);
        assert!(!is_admitted(&newcomers, &memory, &newcomer(), NOON).await);
        let next_day = newcomer();
        let asked = newcomers.admit(&memory, vec![&next_day], NOON + DAY).await;
        assert!(asked.is_err());
    }
}
