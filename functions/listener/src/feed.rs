//! Keeps the interest and the relays that owners request up to date, from the change feed of
//! subscriptions.
//!
//! [`Feed::load`] reads all of it once, before the listener serves. Then [`Feed::poll`] reads it in
//! three ways, at the same time:
//! - A poll reads what is new, at every [`POLL_INTERVAL`].
//! - Late rows: the last minutes are read again, once a minute.
//! - A full read reads all of it again every few hours, slowly.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use nostr_push_core::{
    Millis, Seconds,
    capacity::Usage,
    interest::Interest,
    ports::{ChangeFeed, FeedPage, FeedPosition, Unavailable},
    subscription::{MUTE_LIST_PREFIX, Subscription},
};
use tokio::sync::watch;

use crate::{
    health::Health, mute_list_owners::MuteListOwners, requested_relays::RequestedRelays,
    shutdown::Shutdown,
};

/// How often the feed is read. A change must reach the interest within two seconds.
pub const POLL_INTERVAL: Duration = Duration::from_millis(1_500);

/// How long after a failure a page of the first or the full read is requested again.
const PAGE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// How far each poll overlaps the previous one. A row is stamped before the first attempt to write
/// it, and the SDK tries for up to 12 s. The rest is for the index, which lags behind its table,
/// and for the clocks of the writers, which differ.
const READ_OVERLAP: Millis = Millis(15_000);

/// How often the last minutes are read again.
const LATE_ROWS_INTERVAL: Millis = Millis(60_000);

/// How far a read of late rows overlaps the previous one. A row that becomes visible so late after
/// its stamp is found within [`LATE_ROWS_INTERVAL`]. A function runs for at most 30 s. The rest is
/// for an index that lags because DynamoDB throttles or has a problem.
const LATE_ROWS_OVERLAP: Millis = Seconds::from_minutes(5).to_millis();

/// The most partitions that one poll reads at the same time.
const MAX_POLL_QUERIES: usize = 8;

/// The partitions that the first read reads at the same time. A quarter of a virtual core decodes
/// as many pages well within the SDK's timeout of one attempt (4 s). More would wait for the CPU
/// and take memory.
const LOAD_QUERIES: u64 = 4;

/// How often the whole feed is read again, to find changes that were missed. Each task reduces it
/// by up to a quarter, so that the tasks do not read at the same time.
const FULL_RESYNC_INTERVAL: Millis = Seconds::from_hours(6).to_millis();

/// The pause between two pages of the full read. With pages of 500 rows a million rows take about
/// ten minutes, and about an eighth of a quarter of a virtual core.
const RESYNC_PAUSE: Duration = Duration::from_millis(250);

/// The rows that are applied before other tasks run.
const ROWS_PER_TURN: usize = 100;

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

/// The change feed of subscriptions, and the state that follows from it.
pub struct Feed<F> {
    reader: Reader<F>,
    position: PollPosition,
    /// When the last read of late rows that succeeded began.
    late_rows_read_at: Millis,
}

/// How far the feed has been polled.
#[derive(Default)]
struct PollPosition {
    /// When the last poll that succeeded began.
    read_at: Millis,
    /// The entry of the interest from which the next check for ended subscriptions starts.
    next_expiry: usize,
}

/// What polls and full reads share. Both can run at the same time.
struct Reader<F> {
    source: F,
    view: FeedView,
    health: Arc<Health>,
    clock: fn() -> Millis,
    changes: watch::Sender<u64>,
    /// `true` if a row changed something since `changes` was notified.
    is_changed: AtomicBool,
}

impl<F: ChangeFeed> Feed<F> {
    /// A feed that has not been read. If `allow_private` is `true`, owners may request relays with
    /// private addresses.
    pub fn new(source: F, health: Arc<Health>, clock: fn() -> Millis, allow_private: bool) -> Self {
        let view = FeedView {
            interest: Arc::default(),
            requested_relays: Arc::new(Mutex::new(RequestedRelays::new(allow_private))),
            mute_list_owners: Arc::default(),
        };
        Self {
            reader: Reader {
                source,
                view,
                health,
                clock,
                changes: watch::Sender::new(0),
                is_changed: AtomicBool::new(false),
            },
            position: PollPosition::default(),
            late_rows_read_at: Millis(0),
        }
    }

    /// The state that the feed maintains.
    pub fn view(&self) -> FeedView {
        self.reader.view.clone()
    }

    /// Notifies when the keys or kinds in use change, or the requested relays.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.reader.changes.subscribe()
    }

    /// Reads the whole feed. A page that fails is requested again until it succeeds. Returns
    /// `false` if a stop was requested before the end.
    ///
    /// Control events are not read before the interest is loaded. Relays store them.
    pub async fn load(&mut self, shutdown: &mut Shutdown) -> bool {
        let reader = &self.reader;
        let began = (reader.clock)();
        reader.health.record_start(began);
        tokio::select! {
            _ = join_all((0..LOAD_QUERIES).map(|first| reader.load_every_nth(first))) => {}
            () = shutdown.stop_requested() => return false,
        }
        self.position.read_at = began;
        self.late_rows_read_at = began;
        reader.health.record_interest_read((reader.clock)());
        reader.notify();
        true
    }

    /// Reads the last minutes again if that is due, and then what was written since the last read.
    ///
    /// # Errors
    /// The table failed. What was read is applied, and the next read covers the same changes.
    pub async fn read(&mut self) -> Result<(), Unavailable> {
        self.reader
            .read_late_rows(&mut self.late_rows_read_at)
            .await?;
        self.reader.poll(&mut self.position).await
    }

    /// Reads the whole feed again, slowly.
    pub async fn resync(&self) {
        self.reader.resync().await;
    }

    /// Reads what is new, the last minutes and the whole feed, each at its interval. Never returns.
    /// `jitter` (0 to 1) reduces the time between two full reads.
    ///
    /// The three run at the same time. Otherwise new filters would wait for the longer reads.
    pub async fn poll(mut self, jitter: f64) {
        // The load was the first full read.
        let loaded_at = self.late_rows_read_at;
        tokio::join!(
            self.reader.poll_at_intervals(&mut self.position),
            self.reader
                .read_late_rows_at_intervals(&mut self.late_rows_read_at),
            self.reader.resync_at_intervals(loaded_at, jitter)
        );
    }
}

impl<F: ChangeFeed> Reader<F> {
    /// Reads the partition `first`, and every [`LOAD_QUERIES`]th after it.
    async fn load_every_nth(&self, first: u64) {
        let mut partition = first;
        while partition < self.source.partitions() {
            let mut after = None;
            loop {
                after = self.page_of_all(partition, after).await;
                self.health.record_progress((self.clock)());
                if after.is_none() {
                    break;
                }
            }
            partition += LOAD_QUERIES;
        }
    }

    /// Reads one page of all rows of a partition, and applies it. A page that fails is requested
    /// again until it succeeds. Returns where the next page starts.
    async fn page_of_all(
        &self,
        partition: u64,
        after: Option<FeedPosition>,
    ) -> Option<FeedPosition> {
        loop {
            match self.source.page(partition, Millis(0), after.as_ref()).await {
                Ok(FeedPage { rows, next }) => {
                    self.apply(&rows).await;
                    return next;
                }
                Err(error) => {
                    tracing::warn!(
                        stage = "listener",
                        dependency = error.dependency,
                        "page of the change feed not read: {error}"
                    );
                    tokio::time::sleep(PAGE_RETRY_DELAY).await;
                }
            }
        }
    }

    async fn poll_at_intervals(&self, position: &mut PollPosition) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            match self.poll(position).await {
                Ok(()) => self.health.record_interest_read((self.clock)()),
                Err(error) => {
                    // The read has ended, so the task is not stuck.
                    self.health.record_progress((self.clock)());
                    tracing::warn!(
                        stage = "listener",
                        dependency = error.dependency,
                        "interest not refreshed: {error}"
                    );
                }
            }
        }
    }

    /// Reads what was written since the last read, with an overlap, and removes what has ended.
    async fn poll(&self, position: &mut PollPosition) -> Result<(), Unavailable> {
        let now = (self.clock)();
        let read = self.read_since(position.read_at - READ_OVERLAP).await;
        if read.is_ok() {
            position.read_at = now;
        }
        position.next_expiry = self.expire(position.next_expiry);
        // Rows that were applied before a failure come again, but they change nothing then.
        self.notify();
        read
    }

    async fn read_late_rows_at_intervals(&self, late_rows_read_at: &mut Millis) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            if let Err(error) = self.read_late_rows(late_rows_read_at).await {
                tracing::warn!(
                    stage = "listener",
                    dependency = error.dependency,
                    "interest not refreshed: {error}"
                );
            }
        }
    }

    /// If [`LATE_ROWS_INTERVAL`] has passed since the last read of late rows, reads what was
    /// written since then, with a long overlap. The next poll notifies of changes.
    async fn read_late_rows(&self, late_rows_read_at: &mut Millis) -> Result<(), Unavailable> {
        let now = (self.clock)();
        if *late_rows_read_at + LATE_ROWS_INTERVAL <= now {
            self.read_since(*late_rows_read_at - LATE_ROWS_OVERLAP)
                .await?;
            *late_rows_read_at = now;
        }
        Ok(())
    }

    /// Reads and applies the rows of all partitions that were stamped at or after `since`.
    async fn read_since(&self, since: Millis) -> Result<(), Unavailable> {
        let partitions = (0..self.source.partitions()).map(|n| self.read_partition(n, since));
        let mut read = stream::iter(partitions).buffer_unordered(MAX_POLL_QUERIES);
        while let Some(partition) = read.next().await {
            partition?;
        }
        Ok(())
    }

    async fn read_partition(&self, partition: u64, since: Millis) -> Result<(), Unavailable> {
        let mut after = None;
        loop {
            let page = self.source.page(partition, since, after.as_ref()).await?;
            self.apply(&page.rows).await;
            self.health.record_progress((self.clock)());
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn resync_at_intervals(&self, mut last: Millis, jitter: f64) {
        let interval = FULL_RESYNC_INTERVAL.to_duration();
        let interval = interval.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 4.0);
        let interval = Millis(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            if last + interval <= (self.clock)() {
                last = (self.clock)();
                self.resync().await;
            }
        }
    }

    /// Reads all rows again, one page at a time with pauses, so that events and polls are processed
    /// meanwhile. The next poll notifies of changes.
    async fn resync(&self) {
        let began = (self.clock)();
        for partition in 0..self.source.partitions() {
            let mut after = None;
            loop {
                after = self.page_of_all(partition, after).await;
                tokio::time::sleep(RESYNC_PAUSE).await;
                if after.is_none() {
                    break;
                }
            }
        }
        tracing::info!(
            stage = "listener",
            seconds = ((self.clock)() - began).to_seconds().0,
            "the whole change feed was read again"
        );
    }

    /// Applies rows. Lets other tasks run after every [`ROWS_PER_TURN`] rows.
    async fn apply(&self, rows: &[Subscription]) {
        for rows in rows.chunks(ROWS_PER_TURN) {
            let now = (self.clock)();
            for row in rows {
                if self.view.apply(row, now) {
                    self.is_changed.store(true, Ordering::SeqCst);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Removes ended subscriptions from the next part of the interest, from entry `from` on.
    /// Returns where the next part starts.
    fn expire(&self, from: usize) -> usize {
        let now = (self.clock)().to_seconds();
        let mut interest = self
            .view
            .interest
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = interest.version();
        let next = interest.expire(now, from, MAX_EXPIRY_CHECKS);
        if interest.version() != before {
            self.is_changed.store(true, Ordering::SeqCst);
        }
        drop(interest);
        self.view
            .requested_relays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .expire(now);
        next.unwrap_or_default()
    }

    /// Notifies of the changes since the last call, if there are any.
    fn notify(&self) {
        if self.is_changed.swap(false, Ordering::SeqCst) {
            self.changes.send_modify(|version| *version += 1);
        }
    }
}

impl FeedView {
    /// What the stack holds.
    pub fn usage(&self, now: Seconds) -> Usage {
        let interest = self.interest.read().unwrap_or_else(PoisonError::into_inner);
        interest.usage(now)
    }

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
