//! A relay that this task watches, with the state that outlives a connection.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nostr_push_core::{Seconds, ports::RelayCursor, relay_url::RelayHash};
use tokio::time::Instant;

use crate::{event_budget::EventBudget, requests::ResumePoint};

/// The longest status that is stored, in characters.
const MAX_STATUS_CHARS: usize = 256;

/// Who named a relay, and so how far it is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelaySource {
    /// The operator. The relay serves all owners.
    Operator,
    /// Only owners. The relay serves the owners who named it, and nobody else.
    Owners {
        /// `true` if only public addresses may be connected to. `false` only on a developer's
        /// machine.
        only_public: bool,
    },
}

impl RelaySource {
    /// Returns `true` if only public addresses may be connected to.
    pub fn only_public(self) -> bool {
        self == Self::Owners { only_public: true }
    }
}

/// A relay that this task watches.
#[derive(Debug)]
pub struct WatchedRelay {
    /// The relay's URL.
    pub url: String,
    /// The hash of the URL, by which subscriptions name it. `None` if no subscription can.
    pub hash: Option<RelayHash>,
    /// Who named the relay.
    pub source: RelaySource,
    /// The time in seconds up to which everything that the relay sent has been read. 0 if it has
    /// never been read.
    read_until: AtomicU64,
    /// When the control events of the last week were last requested, in seconds. 0 if never.
    swept_at: AtomicU64,
    /// When this task began to watch the relay.
    watched_since: Seconds,
    /// The events that the relay may still bring, if only owners named it.
    budget: Option<Mutex<EventBudget>>,
    /// The number of new owners whose mute lists were returned.
    mute_lists_returned: AtomicUsize,
    /// `true` if control events of the relay had no budget and must be requested again.
    has_dropped_controls: Arc<AtomicBool>,
    /// The `created_at` of the announcement that was sent to the relay.
    announced_at: AtomicU64,
    status: Mutex<String>,
}

impl WatchedRelay {
    /// A relay with its stored cursor, watched from now on.
    pub fn new(url: String, source: RelaySource, cursor: RelayCursor, now: Seconds) -> Self {
        let is_owners = source != RelaySource::Operator;
        Self {
            hash: RelayHash::of(&url),
            url,
            source,
            read_until: cursor.read_until.0.into(),
            swept_at: cursor.swept_at.0.into(),
            watched_since: now,
            budget: is_owners.then(|| Mutex::new(EventBudget::new(Instant::now()))),
            mute_lists_returned: AtomicUsize::default(),
            has_dropped_controls: Arc::default(),
            announced_at: AtomicU64::default(),
            status: Mutex::default(),
        }
    }

    /// The relay's cursor, as it may be stored.
    pub fn cursor(&self) -> RelayCursor {
        RelayCursor {
            read_until: self.read_until(),
            swept_at: Seconds(self.swept_at.load(Ordering::SeqCst)),
        }
    }

    /// The time up to which everything that the relay sent has been read.
    pub fn read_until(&self) -> Seconds {
        Seconds(self.read_until.load(Ordering::SeqCst))
    }

    /// Records that everything that the relay has sent by now has been read.
    pub fn record_read(&self, now: Seconds) {
        self.read_until.fetch_max(now.0, Ordering::SeqCst);
    }

    /// The number of new owners whose mute lists were returned.
    pub fn mute_lists_returned(&self) -> usize {
        self.mute_lists_returned.load(Ordering::SeqCst)
    }

    /// Records the number of new owners whose mute lists were returned.
    pub fn record_mute_lists(&self, returned: usize) {
        self.mute_lists_returned.store(returned, Ordering::SeqCst);
    }

    /// Where the next connection resumes.
    pub fn resume_point(&self) -> ResumePoint {
        let cursor = self.cursor();
        ResumePoint {
            cursor: Some(cursor.read_until).filter(|cursor| *cursor > Seconds(0)),
            watched_since: self.watched_since,
            swept_at: cursor.swept_at,
        }
    }

    /// Records that the control events of the last week, as of this time, have been received.
    pub fn record_sweep(&self, at: Seconds) {
        self.swept_at.fetch_max(at.0, Ordering::SeqCst);
    }

    /// The mark that control events of the relay had no budget and must be requested again.
    pub fn dropped_controls(&self) -> &Arc<AtomicBool> {
        &self.has_dropped_controls
    }

    /// Records that an announcement of this time is sent to the relay. Returns `false` if it was
    /// sent before.
    pub fn record_announcement(&self, created_at: Seconds) -> bool {
        let before = self.announced_at.fetch_max(created_at.0, Ordering::SeqCst);
        before < created_at.0
    }

    /// Spends one event of the relay's budget, which hits so many index keys. Returns how long the
    /// relay must not be read, if the budget is used up.
    pub fn spend_budget(&self, hits: usize) -> Option<Duration> {
        let budget = self.budget.as_ref()?;
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.spend(hits, Instant::now())
    }

    /// The last problem that the relay reported, or that the connection had.
    pub fn status(&self) -> String {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sets the status. It is stored in the `relays` table, for the operator.
    pub fn set_status(&self, status: &str) {
        let text: String = status.chars().take(MAX_STATUS_CHARS).collect();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}
