//! What the listener says of itself: `GET /healthz` (it runs) and `GET /readyz` (it does its work).

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

use crate::forward::Progress;

/// How old the interest may be, and how often in a row a queue may refuse.
const FRESH: Millis = 30_000;
const REFUSALS: u64 = 3;

/// The signs of life of the parts.
#[derive(Debug, Default)]
pub struct Health {
    /// When the change feed was last read.
    pub interest_read_at: AtomicU64,
    /// How many relays are connected.
    pub connected: AtomicUsize,
    /// How many relays this task is to watch. A task may have none: others have them all.
    pub watched: AtomicUsize,
    /// The buffers.
    pub buffers: [Arc<Progress>; 2],
}

impl Health {
    /// Of these buffers.
    pub fn new(buffers: [Arc<Progress>; 2]) -> Self {
        Self {
            buffers,
            ..Self::default()
        }
    }

    /// Whether it does its work, and what it says of each part.
    pub fn ready(&self, now: Millis) -> (bool, Value) {
        let age = now.saturating_sub(self.interest_read_at.load(Ordering::SeqCst));
        let (connected, watched) = (
            self.connected.load(Ordering::SeqCst),
            self.watched.load(Ordering::SeqCst),
        );
        let refused = self
            .buffers
            .iter()
            .map(|buffer| buffer.refused())
            .max()
            .unwrap_or_default();
        let ready = age < FRESH && (connected > 0 || watched == 0) && refused < REFUSALS;
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
            "queue_refusals": refused,
        });
        (ready, details)
    }
}

/// Answers on this socket for ever.
pub async fn serve(
    socket: TcpListener,
    health: Arc<Health>,
    clock: fn() -> Millis,
) -> std::io::Result<()> {
    let ready = get(move |State(health): State<Arc<Health>>| async move {
        let (ready, details) = health.ready(clock());
        (
            if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            },
            Json(details),
        )
    });
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", ready)
        .with_state(health);
    axum::serve(socket, router).await
}

/// Asks the listener at this address whether it is ready.
///
/// # Errors
/// It is not, or does not answer within a few seconds.
pub async fn check(address: SocketAddr) -> std::io::Result<()> {
    let asked = timeout(Duration::from_secs(4), async {
        let mut socket = TcpStream::connect(address).await?;
        socket
            .write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .await?;
        let mut answer = String::new();
        socket.take(4_096).read_to_string(&mut answer).await?;
        let ready = answer.split_whitespace().nth(1) == Some("200");
        if ready {
            Ok(())
        } else {
            Err(std::io::Error::other(answer))
        }
    });
    asked
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_that_fails_makes_it_unready() {
        let (buffer, _outlet) = crate::forward::buffer::<()>();
        let health = Health::new([buffer.progress(), buffer.progress()]);
        health.interest_read_at.store(100_000, Ordering::SeqCst);
        let ready = |now| health.ready(now).0;
        assert!(ready(100_001), "nothing to watch is no failure");
        health.watched.store(2, Ordering::SeqCst);
        assert!(!ready(100_001), "no relay is connected");
        health.connected.store(1, Ordering::SeqCst);
        assert!(ready(100_001));
        assert!(!ready(130_000), "the interest is old");
    }
}
