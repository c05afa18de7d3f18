//! Keeps the interest up to date from the change feed of subscriptions.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use nostr_push_core::{
    Millis,
    interest::Interest,
    ports::{ChangeFeed, Unavailable, seconds},
};
use tokio::sync::watch;

/// How often the feed is read. A change reaches the interest within two seconds.
const EVERY: Duration = Duration::from_secs(1);

/// How far back each reading overlaps the one before: clocks of writers differ, and the index lags behind its table.
const OVERLAP: Millis = 30_000;

/// The interest, and news of its changes.
pub struct Feed<F> {
    source: F,
    interest: Arc<RwLock<Interest>>,
    changed: watch::Sender<u64>,
    read_until: Millis,
}

impl<F: ChangeFeed> Feed<F> {
    /// A feed that has read nothing.
    pub fn new(source: F) -> Self {
        Self { source, interest: Arc::default(), changed: watch::Sender::new(0), read_until: 0 }
    }

    /// The interest it keeps up to date.
    pub fn interest(&self) -> Arc<RwLock<Interest>> {
        Arc::clone(&self.interest)
    }

    /// Tells when the keys or kinds in use change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads what has changed since the last reading. The first one reads everything.
    ///
    /// # Errors
    /// The table failed. The next reading takes in what this one missed.
    pub async fn read(&mut self, now: Millis) -> Result<(), Unavailable> {
        let rows = self.source.changes(self.read_until.saturating_sub(OVERLAP)).await?;
        self.read_until = now;
        let mut interest = self.interest.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for row in &rows {
            changed |= interest.apply(row, seconds(now));
        }
        changed |= interest.expire(seconds(now));
        drop(interest);
        if changed {
            self.changed.send_modify(|version| *version += 1);
        }
        Ok(())
    }

    /// Reads for ever.
    pub async fn follow(mut self, clock: impl Fn() -> Millis) {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.read(clock()).await {
                tracing::warn!(stage = "listener", outcome = "retried", dependency = error.dependency, "interest not refreshed: {error}");
            }
        }
    }
}
