//! A relay that this task watches, with the state that outlives a connection.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use nostr_push_core::Seconds;

/// How far back the events of a new REQ are requested. The clocks of relays differ, and events take
/// time to arrive.
pub const NEW_REQ_OVERLAP: Seconds = Seconds(60);

/// How far before its cursor a relay's events are requested again. An event may be published some
/// minutes after it was signed.
const RESUME_OVERLAP: Seconds = Seconds::from_minutes(5);

/// How far back events are requested at most. Older control events are stale, and older content
/// does not notify.
pub const MAX_LOOKBACK: Seconds = Seconds::from_days(7);

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
    /// Who named the relay.
    pub source: RelaySource,
    /// The time in seconds up to which everything that the relay sent has been read. 0 if it has
    /// never been read.
    read_until: AtomicU64,
    /// The number of new owners whose mute lists were returned.
    mute_lists_returned: AtomicUsize,
    status: Mutex<String>,
}

impl WatchedRelay {
    /// A relay with its stored cursor.
    pub fn new(url: String, source: RelaySource, cursor: Option<Seconds>) -> Self {
        Self {
            url,
            source,
            read_until: cursor.unwrap_or_default().0.into(),
            mute_lists_returned: AtomicUsize::default(),
            status: Mutex::default(),
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

    /// The time from which content is requested. If the relay has never been read, this is shortly
    /// before now.
    pub fn resume_from(&self, now: Seconds) -> Seconds {
        match self.read_until() {
            Seconds(0) => now - NEW_REQ_OVERLAP,
            cursor => (cursor - RESUME_OVERLAP).max(now - MAX_LOOKBACK),
        }
    }

    /// The time from which control events are requested. If the relay has never been read, these
    /// are all events that are not stale.
    pub fn resume_control_from(&self, now: Seconds) -> Seconds {
        if self.read_until() > Seconds(0) {
            self.resume_from(now)
        } else {
            now - MAX_LOOKBACK
        }
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
