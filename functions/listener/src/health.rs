//! The health interface: `GET /healthz` (the process runs) and `GET /readyz` (the listener works).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use nostr_push_core::Millis;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::forward::BufferProgress;

/// The age of the interest at which the listener is no longer ready.
const MAX_INTEREST_AGE: Millis = Millis(30_000);

/// The number of consecutive failures of a queue at which the listener is no longer ready.
const MAX_QUEUE_FAILURES: u64 = 3;

/// The timeout of [`check`].
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// The most bytes of the response that [`check`] reads.
const MAX_CHECK_RESPONSE_BYTES: u64 = 4_096;

/// The state of the listener's parts.
#[derive(Debug, Default)]
pub struct Health {
    /// When the change feed was last read, in milliseconds.
    interest_read_at: AtomicU64,
    /// The number of relays that are connected.
    pub connected: AtomicUsize,
    /// The number of relays that this task must watch. It may be 0 if other tasks watch them all.
    pub watched: AtomicUsize,
    /// The progress of the buffers before the queues.
    pub buffers: [Arc<BufferProgress>; 2],
}

impl Health {
    /// The health of a listener with these buffers, before anything has been read.
    pub fn new(buffers: [Arc<BufferProgress>; 2]) -> Self {
        Self {
            buffers,
            ..Self::default()
        }
    }

    /// Records that the change feed has been read.
    pub fn record_interest_read(&self, now: Millis) {
        self.interest_read_at.store(now.0, Ordering::SeqCst);
    }

    /// Counts a connected relay until the guard is dropped.
    pub fn count_connection(&self) -> ConnectionGuard<'_> {
        self.connected.fetch_add(1, Ordering::SeqCst);
        ConnectionGuard(&self.connected)
    }

    /// Returns `true` if the listener is ready, and the details of each part.
    pub fn readiness(&self, now: Millis) -> (bool, Value) {
        let age = now - Millis(self.interest_read_at.load(Ordering::SeqCst));
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
        let ready = age < MAX_INTEREST_AGE
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
            "interest_age_ms": age,
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
    let readyz = get(move |State(health): State<Arc<Health>>| async move {
        let (ready, details) = health.readiness(clock());
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, Json(details))
    });
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", readyz)
        .with_state(health);
    axum::serve(socket, router).await
}

/// Checks that the listener whose health interface has this address is ready.
///
/// # Errors
/// The listener is not ready, or does not respond in time.
pub async fn check(address: SocketAddr) -> std::io::Result<()> {
    let checked = timeout(CHECK_TIMEOUT, async {
        let mut socket = TcpStream::connect(address).await?;
        socket
            .write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .await?;
        let mut response = String::new();
        socket
            .take(MAX_CHECK_RESPONSE_BYTES)
            .read_to_string(&mut response)
            .await?;
        let ready = response.split_whitespace().nth(1) == Some("200");
        if ready {
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
}
