//! One relay, watched: connect, ask, read, and start again with backoff when it breaks.
//!
//! A relay is not trusted with anything. What it sends is bounded in size, judged before it is
//! verified, and a relay that keeps lying is cut off for a while.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nostr::key::Keys;
use nostr_push_core::{
    DAY, Millis, Seconds,
    interest::Interest,
    message::{Content, Control},
    ports::backoff,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    dial::Unreachable,
    forward::Buffer,
    health::Health,
    owners::NewOwners,
    plan::Plans,
    run::told,
    screen::Screen,
    session::{self, Ended},
};

/// How long a relay that keeps lying, or that must not be connected to, is left alone.
const CUT_OFF: Duration = Duration::from_secs(600);

/// How far back a relay is asked when a REQ is new: relays' clocks differ, and events travel.
pub const OVERLAP: Seconds = 60;

/// How far back before its cursor a relay is asked again: events may be published some minutes
/// after they were signed.
const RESUME_OVERLAP: Seconds = 300;

/// How far back a relay is asked at most: older control events are stale, and older content does
/// not notify.
pub const MAX_BACK: Seconds = 7 * DAY;

/// A relay that this task watches.
#[derive(Debug)]
pub struct Watched {
    /// Its URL.
    pub url: String,
    /// Whether it must have a public address: an owner named it, not the operator.
    pub only_public: bool,
    /// Up to when everything it sent has been read, in seconds; 0: never.
    read_until: AtomicU64,
    /// Of how many new owners it has been asked for the mute lists.
    owners_asked: AtomicUsize,
    complaint: Mutex<String>,
}

impl Watched {
    /// A relay, with its stored cursor.
    pub fn new(url: String, only_public: bool, cursor: Option<Seconds>) -> Self {
        Self {
            url,
            only_public,
            read_until: cursor.unwrap_or_default().into(),
            owners_asked: AtomicUsize::default(),
            complaint: Mutex::default(),
        }
    }

    /// Up to when everything it sent has been read.
    pub fn read_until(&self) -> Seconds {
        self.read_until.load(Ordering::SeqCst)
    }

    /// Everything it has sent by now has been read.
    pub fn has_been_read(&self, now: Seconds) {
        self.read_until.fetch_max(now, Ordering::SeqCst);
    }

    /// Of how many new owners it has been asked for the mute lists.
    pub fn owners_asked(&self) -> usize {
        self.owners_asked.load(Ordering::SeqCst)
    }

    /// It has answered for so many.
    pub fn has_been_asked_for(&self, owners: usize) {
        self.owners_asked.store(owners, Ordering::SeqCst);
    }

    /// From when on to ask: a relay that was never watched from now.
    pub fn resume_from(&self, now: Seconds) -> Seconds {
        let cursor = match self.read_until() {
            0 => return now.saturating_sub(OVERLAP),
            cursor => cursor,
        };
        cursor
            .saturating_sub(RESUME_OVERLAP)
            .max(now.saturating_sub(MAX_BACK))
    }

    /// From when on to ask for control events: of a relay that was never watched, all that are not
    /// stale.
    pub fn resume_control_from(&self, now: Seconds) -> Seconds {
        if self.read_until() > 0 {
            self.resume_from(now)
        } else {
            now.saturating_sub(MAX_BACK)
        }
    }

    /// What it last complained of.
    pub fn complaint(&self) -> String {
        self.complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes what it complains of: for the operator, in the `relays` table.
    pub fn complains(&self, of: &str) {
        let text: String = of.chars().take(256).collect();
        *self
            .complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// What watching a relay needs. Cheap to clone for each relay.
#[derive(Clone)]
pub struct Context {
    /// The service's key, which answers NIP-42.
    pub keys: Keys,
    /// The hot path.
    pub screen: Arc<Screen>,
    /// The interest, for planning REQs.
    pub interest: Arc<RwLock<Interest>>,
    /// The owners that have come.
    pub owners: Arc<NewOwners>,
    /// The plans made of it.
    pub plans: Arc<Plans>,
    /// News of the interest.
    pub changes: watch::Receiver<u64>,
    /// Before the control queue.
    pub control: Buffer<Control>,
    /// Before the event queue.
    pub content: Buffer<Content>,
    /// Where a connection counts.
    pub health: Arc<Health>,
    /// Counts an outcome and its reason.
    pub count: fn(&'static str, &'static str),
    /// Milliseconds since the epoch.
    pub clock: fn() -> Millis,
}

/// Watches the relay until told to stop.
pub async fn keep(relay: Arc<Watched>, context: Context, mut stop: watch::Receiver<bool>) {
    let mut failures = 0;
    while !*stop.borrow() {
        let started = Instant::now();
        let Err(ended) = session::run(&relay, &context, stop.clone()).await else {
            break;
        };
        // A connection that held for a while starts the backoff anew.
        failures = if started.elapsed() > Duration::from_secs(60) {
            1
        } else {
            failures + 1
        };
        let jitter = f64::from(started.elapsed().subsec_micros() % 1_000) / 1_000.0;
        let (reason, wait) = match &ended {
            Ended::Lying => ("cut_off", CUT_OFF),
            Ended::Unreachable(Unreachable::Forbidden) => ("forbidden", CUT_OFF),
            Ended::Unreachable(_) => ("unreachable", backoff(failures, jitter) / 5),
            Ended::Lost(_) => ("disconnected", backoff(failures, jitter) / 5),
        };
        relay.complains(&ended.to_string());
        (context.count)("relay", reason);
        tracing::warn!(
            stage = "listener",
            relay = relay.url,
            outcome = reason,
            "relay {}: {ended}; next try in {wait:?}",
            relay.url
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = told(&mut stop) => break,
        }
    }
}

/// Counts a connection for as long as it lives.
pub(crate) struct Connected<'a>(&'a AtomicUsize);

impl<'a> Connected<'a> {
    pub(crate) fn new(connected: &'a AtomicUsize) -> Self {
        connected.fetch_add(1, Ordering::SeqCst);
        Self(connected)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
