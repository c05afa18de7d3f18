//! Keeps the interest and the relays that owners request up to date, from the change feed of
//! subscriptions.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use nostr_push_core::{
    Millis, Seconds,
    interest::Interest,
    ports::{ChangeFeed, Unavailable},
    subscription::{MUTE_LIST_PREFIX, Subscription},
};
use tokio::sync::watch;

use crate::{
    health::Health, mute_list_owners::MuteListOwners, requested_relays::RequestedRelays,
    shutdown::Shutdown,
};

/// How often the feed is read. A change must reach the interest within two seconds.
const POLL_INTERVAL: Duration = Duration::from_millis(1_500);

/// How long after a failure the first read is tried again.
const LOAD_RETRY_DELAY: Duration = Duration::from_secs(1);

/// How far each read overlaps the previous one. The clocks of the writers differ, and the index
/// lags behind its table.
const READ_OVERLAP: Millis = Millis(30_000);

/// How often the whole feed is read again, to find changes that were missed.
const FULL_RESYNC_INTERVAL: Millis = Seconds::from_hours(6).to_millis();

/// How long an owner counts as new. If the owner was added shortly before this task started, the
/// previous task may not have requested the mute list.
const NEW_OWNER_WINDOW: Millis = Seconds::from_hours(1).to_millis();

/// The most subscriptions that are checked for their end in one read. This takes about a
/// millisecond.
const MAX_EXPIRY_CHECKS: usize = 20_000;

/// State that the feed maintains. Clones share it.
#[derive(Clone)]
pub struct FeedView {
    /// The index keys in use.
    pub interest: Arc<RwLock<Interest>>,
    /// The relays that owners request.
    pub requested_relays: Arc<Mutex<RequestedRelays>>,
    /// The new owners, whose mute lists are requested.
    pub mute_list_owners: Arc<MuteListOwners>,
}

/// A reader of the change feed.
pub struct Feed<F> {
    source: F,
    view: FeedView,
    changes: watch::Sender<u64>,
    read_until: Millis,
    last_full_read: Millis,
    /// The entry of the interest from which the next check for ended subscriptions starts.
    next_expiry: usize,
}

impl<F: ChangeFeed> Feed<F> {
    /// A feed that has not been read. If `allow_private` is `true`, owners may request relays with
    /// private addresses.
    pub fn new(source: F, allow_private: bool) -> Self {
        let view = FeedView {
            interest: Arc::default(),
            requested_relays: Arc::new(Mutex::new(RequestedRelays::new(allow_private))),
            mute_list_owners: Arc::default(),
        };
        Self {
            source,
            view,
            changes: watch::Sender::new(0),
            read_until: Millis(0),
            last_full_read: Millis(0),
            next_expiry: 0,
        }
    }

    /// The state that the feed maintains.
    pub fn view(&self) -> FeedView {
        self.view.clone()
    }

    /// Notifies when the keys or kinds in use change, or the requested relays.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Reads the whole feed, and tries again until it succeeds. Returns `false` if a stop was
    /// requested before.
    ///
    /// Control events are not read before the interest is loaded. Relays store them.
    pub async fn load(&mut self, clock: fn() -> Millis, shutdown: &mut Shutdown) -> bool {
        while let Err(error) = self.read(clock()).await {
            tracing::warn!(
                stage = "listener",
                dependency = error.dependency,
                "interest not loaded: {error}"
            );
            tokio::select! {
                () = tokio::time::sleep(LOAD_RETRY_DELAY) => {}
                () = shutdown.stop_requested() => return false,
            }
        }
        true
    }

    /// Reads the changes since the last read. The first read covers everything.
    ///
    /// # Errors
    /// The table failed. The next read covers the same changes.
    pub async fn read(&mut self, now: Millis) -> Result<(), Unavailable> {
        let is_full = self.last_full_read + FULL_RESYNC_INTERVAL <= now;
        let since = if is_full {
            Millis(0)
        } else {
            self.read_until - READ_OVERLAP
        };
        let view = self.view.clone();
        let mut changed = false;
        let each = |row: Subscription| changed |= view.apply(&row, now);
        self.source.changes(since, each).await?;
        self.read_until = now;
        if is_full {
            self.last_full_read = now;
        }
        changed |= self.expire(now.to_seconds());
        if changed {
            self.changes.send_modify(|version| *version += 1);
        }
        Ok(())
    }

    /// Removes ended subscriptions from the next part of the interest. Returns `true` if the keys
    /// or kinds in use changed.
    fn expire(&mut self, now: Seconds) -> bool {
        let mut interest = self
            .view
            .interest
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = interest.version();
        self.next_expiry = interest
            .expire(now, self.next_expiry, MAX_EXPIRY_CHECKS)
            .unwrap_or_default();
        let changed = interest.version() != before;
        drop(interest);
        self.view
            .requested_relays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .expire(now);
        changed
    }

    /// Reads the changes at every interval, and never returns.
    pub async fn poll(mut self, health: Arc<Health>, clock: fn() -> Millis) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            match self.read(clock()).await {
                Ok(()) => health.record_interest_read(clock()),
                Err(error) => {
                    tracing::warn!(
                        stage = "listener",
                        dependency = error.dependency,
                        "interest not refreshed: {error}"
                    );
                }
            }
        }
    }
}

impl FeedView {
    /// Applies one row. Returns `true` if it changed anything. The locks are taken for each row, so
    /// that the hot path never waits for more than one row.
    fn apply(&self, row: &Subscription, now: Millis) -> bool {
        let seconds = now.to_seconds();
        let interest_changed = self
            .interest
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(row, seconds);
        if interest_changed
            && row.identity.starts_with(MUTE_LIST_PREFIX)
            && row.is_active(seconds)
            && row.changed_at + NEW_OWNER_WINDOW > now
        {
            self.mute_list_owners.add(*row.owner.pubkey.as_bytes());
        }
        let relays_changed = self
            .requested_relays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(row, seconds);
        interest_changed || relays_changed
    }
}
