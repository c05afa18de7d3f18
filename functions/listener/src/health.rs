//! The health interface:
//! - `GET /healthz`: the listener is alive: the change feed was read a moment ago, or a page of it.
//! - `GET /readyz`: the listener serves: the interest is loaded and fresh, and relays and queues
//!   are connected.
//! - `GET /check`: what the container check asks ([`Health::is_healthy`]).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use nostr_push_core::{Millis, Seconds, capacity::Usage};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::forward::BufferProgress;

/// The age of the interest at which the listener is no longer ready.
const MAX_INTEREST_AGE: Millis = Millis(30_000);

/// How long after its last progress the listener counts as stuck. It is well above the SDK's
/// timeout of a request with all its retries (12 s).
const MAX_PROGRESS_AGE: Millis = Millis(30_000);

/// The age of the interest at which the listener is no longer alive, although its reads end in
/// time. If the table is down, a new task could not load the interest at all, so the listener goes
/// on for a while. If the cause is in this process, a new one helps.
const MAX_READ_OUTAGE: Millis = Seconds::from_minutes(10).to_millis();

/// How long the container check fails while the first load runs, so that ECS keeps the task that
/// this one replaces. It is `StartPeriod` in `infra/listener.yaml`, during which ECS does not count
/// failures, and its maximum.
const START_PERIOD: Millis = Seconds::from_minutes(5).to_millis();

/// The number of consecutive failures of a queue at which the listener is no longer ready.
const MAX_QUEUE_FAILURES: u64 = 3;

/// The timeout of [`check`].
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// The most bytes of the response that [`check`] reads.
const MAX_CHECK_RESPONSE_BYTES: u64 = 4_096;

/// The state of the listener's parts.
#[derive(Debug, Default)]
pub struct Health {
    /// When the first load began, in milliseconds.
    started_at: AtomicU64,
    /// When a page of the change feed was last read, or a poll ended, in milliseconds.
    progress_at: AtomicU64,
    /// When the change feed was last read, in milliseconds. 0 while the first load runs.
    interest_read_at: AtomicU64,
    /// `true` once the listener was ready at a container check.
    has_been_ready: AtomicBool,
    /// The number of relays that are connected.
    pub connected: AtomicUsize,
    /// The number of relays that this task must watch. It may be 0 if other tasks watch them all.
    pub watched: AtomicUsize,
    /// The progress of the buffers before the queues.
    pub buffers: [Arc<BufferProgress>; 2],
    /// What the stack holds, as last counted. `None` while the first load runs.
    usage: Mutex<Option<Usage>>,
}

impl Health {
    /// The health of a listener with these buffers, before anything has been read.
    pub fn new(buffers: [Arc<BufferProgress>; 2]) -> Self {
        Self {
            buffers,
            ..Self::default()
        }
    }

    /// Records that the first load begins.
    pub fn record_start(&self, now: Millis) {
        self.started_at.store(now.0, Ordering::SeqCst);
        self.record_progress(now);
    }

    /// Records that a page of the change feed has been read, or that a poll has failed.
    pub fn record_progress(&self, now: Millis) {
        self.progress_at.store(now.0, Ordering::SeqCst);
    }

    /// Records that the change feed has been read.
    pub fn record_interest_read(&self, now: Millis) {
        self.interest_read_at.store(now.0, Ordering::SeqCst);
        self.record_progress(now);
    }

    /// Records what the stack holds.
    pub fn record_usage(&self, usage: Usage) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
    }

    /// What the stack holds, as last counted. `None` while the first load runs.
    pub fn usage(&self) -> Option<Usage> {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The times since the last progress and since the last read of the change feed. The second is
    /// `None` while the first load runs.
    fn ages(&self, now: Millis) -> (Millis, Option<Millis>) {
        let age = |at: &AtomicU64| now - Millis(at.load(Ordering::SeqCst));
        let is_loaded = self.interest_read_at.load(Ordering::SeqCst) > 0;
        (
            age(&self.progress_at),
            is_loaded.then(|| age(&self.interest_read_at)),
        )
    }

    /// Returns `true` if the listener is alive, and the details. The first load may take its time,
    /// as long as it makes progress.
    pub fn liveness(&self, now: Millis) -> (bool, Value) {
        let (progress_age, interest_age) = self.ages(now);
        let alive =
            progress_age < MAX_PROGRESS_AGE && interest_age.is_none_or(|age| age < MAX_READ_OUTAGE);
        let details = json!({
            "alive": alive,
            "loading": interest_age.is_none(),
            "progress_age_ms": progress_age,
        });
        (alive, details)
    }

    /// Returns `true` if ECS should keep the task. A listener that is not alive is not healthy.
    /// Apart from that:
    ///
    /// - While the first load runs, the listener is healthy after `START_PERIOD`. Before, ECS does
    ///   not count the failures, and does not yet stop the task that this one replaces.
    /// - After the load, the listener must be ready once. Otherwise a deployment that cannot reach
    ///   relays or queues would not be rolled back.
    /// - Then it stays healthy. If relays or queues are down, a new task would not help, and would
    ///   have to load the interest again.
    pub fn is_healthy(&self, now: Millis) -> bool {
        let (ready, _) = self.readiness(now);
        if self.has_been_ready.fetch_or(ready, Ordering::SeqCst) || ready {
            return self.liveness(now).0;
        }
        let started_at = Millis(self.started_at.load(Ordering::SeqCst));
        let is_loading = self.ages(now).1.is_none();
        is_loading && now - started_at >= START_PERIOD && self.liveness(now).0
    }

    /// Counts a connected relay until the guard is dropped.
    pub fn count_connection(&self) -> ConnectionGuard<'_> {
        self.connected.fetch_add(1, Ordering::SeqCst);
        ConnectionGuard(&self.connected)
    }

    /// Returns `true` if the listener is ready, and the details of each part.
    pub fn readiness(&self, now: Millis) -> (bool, Value) {
        let (_, interest_age) = self.ages(now);
        let (connected, watched) = (
            self.connected.load(Ordering::SeqCst),
            self.watched.load(Ordering::SeqCst),
        );
        let failures = self
            .buffers
            .iter()
            .map(|buffer| buffer.failures())
            .max()
            .unwrap_or_default();
        let ready = interest_age.is_some_and(|age| age < MAX_INTEREST_AGE)
            && (connected > 0 || watched == 0)
            && failures < MAX_QUEUE_FAILURES;
        let waiting: u64 = self
            .buffers
            .iter()
            .map(|buffer| buffer.entered().saturating_sub(buffer.accepted()))
            .sum();
        let details = json!({
            "ready": ready,
            "relays_connected": connected,
            "relays_watched": watched,
            "interest_age_ms": interest_age,
            "events_waiting": waiting,
            "queue_refusals": failures,
        });
        (ready, details)
    }
}

/// A connection in [`Health::connected`], counted until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard<'a>(&'a AtomicUsize);

impl Drop for ConnectionGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves the health interface on this socket. Returns only with an error.
pub async fn serve(
    socket: TcpListener,
    health: Arc<Health>,
    clock: fn() -> Millis,
) -> std::io::Result<()> {
    let healthz = get(move |State(health): State<Arc<Health>>| async move {
        response(health.liveness(clock()))
    });
    let readyz = get(move |State(health): State<Arc<Health>>| async move {
        response(health.readiness(clock()))
    });
    let check = get(move |State(health): State<Arc<Health>>| async move {
        let (_, details) = health.liveness(clock());
        response((health.is_healthy(clock()), details))
    });
    let router = Router::new()
        .route("/healthz", healthz)
        .route("/readyz", readyz)
        .route("/check", check)
        .with_state(health);
    axum::serve(socket, router).await
}

/// The details as JSON, with status 200 or 503.
fn response((is_ok, details): (bool, Value)) -> (StatusCode, Json<Value>) {
    let status = if is_ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(details))
}

/// The container check: asks the listener whose health interface has this address whether it is
/// healthy ([`Health::is_healthy`]).
///
/// # Errors
/// The listener is not healthy, or does not respond in time.
pub async fn check(address: SocketAddr) -> std::io::Result<()> {
    let checked = timeout(CHECK_TIMEOUT, async {
        let mut socket = TcpStream::connect(address).await?;
        socket
            .write_all(b"GET /check HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .await?;
        let mut response = String::new();
        socket
            .take(MAX_CHECK_RESPONSE_BYTES)
            .read_to_string(&mut response)
            .await?;
        let is_healthy = response.split_whitespace().nth(1) == Some("200");
        if is_healthy {
            Ok(())
        } else {
            Err(std::io::Error::other(response))
        }
    });
    checked
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_not_ready_if_one_part_fails() {
        let (buffer, _receiver) = crate::forward::buffer::<()>();
        let health = Health::new([buffer.progress(), buffer.progress()]);
        health.record_interest_read(Millis(100_000));
        let is_ready = |now| health.readiness(Millis(now)).0;
        assert!(is_ready(100_001), "no relay has to be watched");
        health.watched.store(2, Ordering::SeqCst);
        assert!(!is_ready(100_001), "no relay is connected");
        health.connected.store(1, Ordering::SeqCst);
        assert!(is_ready(100_001));
        assert!(!is_ready(130_000), "the interest is old");
    }

    #[test]
    fn a_slow_first_load_is_alive_while_it_makes_progress() {
        let health = Health::default();
        let begin = 1_000_000;
        health.record_start(Millis(begin));
        let is_alive = |now| health.liveness(Millis(now)).0;
        let is_healthy = |now| health.is_healthy(Millis(now));
        // A load of one hour, with a page every 20 s.
        for now in (begin..begin + 3_600_000).step_by(20_000) {
            health.record_progress(Millis(now));
            assert!(is_alive(now + 19_999));
            assert!(!health.readiness(Millis(now)).0);
            let counts = now - begin >= START_PERIOD.0;
            assert_eq!(is_healthy(now), counts, "{} ms", now - begin);
        }
        assert!(!is_alive(begin + 3_620_000), "the load is stuck");
        assert!(!is_healthy(begin + 3_620_000));
    }

    #[test]
    fn a_load_that_never_reads_a_page_is_stuck() {
        let health = Health::default();
        assert!(!health.liveness(Millis(1_000_000)).0, "it has not begun");
        health.record_start(Millis(1_000_000));
        assert!(health.liveness(Millis(1_029_999)).0);
        assert!(!health.liveness(Millis(1_030_000)).0);
        let after_start_period = Millis(1_000_000) + START_PERIOD;
        assert!(!health.is_healthy(after_start_period));
    }

    #[test]
    fn a_loaded_listener_is_healthy_at_once_and_while_its_reads_end() {
        let health = Health::default();
        health.record_start(Millis(1_000_000));
        health.record_interest_read(Millis(1_005_000));
        assert!(health.is_healthy(Millis(1_005_000)));
        assert!(!health.is_healthy(Millis(1_035_000)), "no read has ended");

        // The table is down: each read fails after 12 s.
        let outage = 1_005_000 + MAX_READ_OUTAGE.0;
        for now in (1_005_000..outage).step_by(12_000) {
            health.record_progress(Millis(now));
            assert!(health.is_healthy(Millis(now)));
        }
        let (ready, _) = health.readiness(Millis(outage - 1));
        assert!(!ready, "new filters do not take effect");
        health.record_progress(Millis(outage));
        assert!(!health.is_healthy(Millis(outage)), "a new task may help");
    }

    #[test]
    fn a_listener_must_be_ready_once_and_then_stays_healthy() {
        let health = Health::default();
        health.watched.store(2, Ordering::SeqCst);
        health.record_interest_read(Millis(100_000));
        assert!(!health.is_healthy(Millis(100_000)), "no relay is connected");
        health.connected.store(1, Ordering::SeqCst);
        assert!(health.is_healthy(Millis(100_000)));
        health.connected.store(0, Ordering::SeqCst);
        assert!(!health.readiness(Millis(100_000)).0);
        assert!(health.is_healthy(Millis(100_000)));
        assert!(!health.is_healthy(Millis(130_000)), "it is not alive");
    }
}
