//! Keeps the interest and the wishes for relays up to date from the change feed of subscriptions.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::Ordering},
    time::Duration,
};

use nostr_push_core::{
    Millis,
    interest::Interest,
    ports::{ChangeFeed, Unavailable, seconds},
    subscription::{MUTE_LIST, Subscription},
};
use tokio::sync::watch;

use crate::{health::Health, owners::NewOwners, wishes::Wishes};

/// How often the feed is read. A change reaches the interest within two seconds.
const EVERY: Duration = Duration::from_millis(1_500);

/// How far back each reading overlaps the one before: clocks of writers differ, and the index lags
/// behind its table.
const OVERLAP: Millis = 30_000;

/// How often everything is read once more, whatever may have been missed.
const WHOLE: Millis = 6 * 60 * 60 * 1000;

/// Owners that came in so long before the start may not have been seen by the task that was here
/// before.
const RECENT: Millis = 60 * 60 * 1000;

/// How many subscriptions are looked through at once for those that are over: about a millisecond.
const PART: usize = 20_000;

/// What is known of the subscriptions. Clones know the same.
#[derive(Clone)]
pub struct Known {
    /// The index keys in use.
    pub interest: Arc<RwLock<Interest>>,
    /// The relays that owners want.
    pub wishes: Arc<Mutex<Wishes>>,
    /// The owners that have come.
    pub owners: Arc<NewOwners>,
}

/// The source, and what has been read of it.
pub struct Feed<F> {
    source: F,
    known: Known,
    changed: watch::Sender<u64>,
    read_until: Millis,
    whole_at: Millis,
    looked_through: usize,
}

impl<F: ChangeFeed> Feed<F> {
    /// A feed that has read nothing. `private`: whether owners may name private relays.
    pub fn new(source: F, private: bool) -> Self {
        let known = Known {
            interest: Arc::default(),
            wishes: Arc::new(Mutex::new(Wishes::new(private))),
            owners: Arc::default(),
        };
        Self {
            source,
            known,
            changed: watch::Sender::new(0),
            read_until: 0,
            whole_at: 0,
            looked_through: 0,
        }
    }

    /// What it keeps up to date.
    pub fn known(&self) -> Known {
        self.known.clone()
    }

    /// Tells when the keys or kinds in use change, or the relays that are wanted.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads what has changed since the last reading. The first one reads everything.
    ///
    /// # Errors
    /// The table failed. The next reading takes in what this one missed.
    pub async fn read(&mut self, now: Millis) -> Result<(), Unavailable> {
        let whole = self.whole_at + WHOLE <= now;
        let since = if whole {
            0
        } else {
            self.read_until.saturating_sub(OVERLAP)
        };
        let known = self.known.clone();
        let mut changed = false;
        let each = |row: Subscription| {
            // For each row anew, so that the hot path never waits for more than one.
            let news = known
                .interest
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .apply(&row, seconds(now));
            if news
                && row.subscription.starts_with(MUTE_LIST)
                && row.is_active(seconds(now))
                && row.changed_at + RECENT > now
            {
                known.owners.add(*row.owner.pubkey.as_bytes());
            }
            changed |= news;
            changed |= known
                .wishes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .apply(&row, seconds(now));
        };
        self.source.changes(since, each).await?;
        self.read_until = now;
        if whole {
            self.whole_at = now;
        }
        changed |= self.expire(now);
        if changed {
            self.changed.send_modify(|version| *version += 1);
        }
        Ok(())
    }

    /// Forgets some of what is over: with each reading the next part.
    fn expire(&mut self, now: Millis) -> bool {
        let mut interest = self
            .known
            .interest
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = interest.version();
        self.looked_through = interest
            .expire(seconds(now), self.looked_through, PART)
            .unwrap_or_default();
        let changed = interest.version() != before;
        drop(interest);
        self.known
            .wishes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .expire(seconds(now));
        changed
    }

    /// Reads for ever.
    pub async fn follow(mut self, health: Arc<Health>, clock: fn() -> Millis) {
        loop {
            tokio::time::sleep(EVERY).await;
            match self.read(clock()).await {
                Ok(()) => health.interest_read_at.store(clock(), Ordering::SeqCst),
                Err(error) => {
                    tracing::warn!(
                        stage = "listener",
                        outcome = "retried",
                        dependency = error.dependency,
                        "interest not refreshed: {error}"
                    );
                }
            }
        }
    }
}
