//! The budget of a relay that only owners named. A relay that brings more is read more slowly, so
//! other relays do not wait.

use std::time::Duration;

use tokio::time::Instant;

/// What a relay may bring at once.
const BURST: u32 = 600;

/// How long it takes until one more event may come.
const INTERVAL: Duration = Duration::from_millis(100);

/// The number of index keys that an event may hit for the price of one event. The matcher queries
/// each of them.
const HITS_PER_EVENT: usize = 16;

/// A budget of 600 events at once, and then of ten per second.
#[derive(Debug)]
pub struct EventBudget {
    /// When the whole burst is available again.
    full_at: Instant,
}

impl EventBudget {
    /// A budget with its whole burst.
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Spends one event that hits so many index keys. Returns how long to wait before the next one,
    /// if the budget is used up.
    pub fn spend(&mut self, hits: usize, now: Instant) -> Option<Duration> {
        let price = u32::try_from(1 + hits / HITS_PER_EVENT).unwrap_or(u32::MAX);
        self.full_at = self.full_at.max(now) + INTERVAL.saturating_mul(price);
        let wait = self.full_at.duration_since(now);
        wait.checked_sub(INTERVAL * BURST)
            .filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_is_paced_beyond_its_burst() {
        let now = Instant::now();
        let mut budget = EventBudget::new(now);
        assert!((0..BURST).all(|_| budget.spend(0, now).is_none()));
        assert_eq!(budget.spend(0, now), Some(INTERVAL));
        let later = now + INTERVAL;
        assert_eq!(budget.spend(0, later), Some(INTERVAL));
        let full = later + INTERVAL * (BURST + 1);
        assert!((0..BURST).all(|_| budget.spend(0, full).is_none()));
    }

    #[test]
    fn event_that_hits_many_keys_costs_as_much_as_several() {
        let now = Instant::now();
        let mut budget = EventBudget::new(now);
        let events = (0..).take_while(|_| budget.spend(2_000, now).is_none());
        assert_eq!(events.count(), 4);
    }
}
