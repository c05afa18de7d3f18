//! A relay: nostr-relay-builder in this process. It keeps its events in memory.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use nostr_relay_builder::{LocalRelay, RelayBuilder, builder::RateLimit};

/// Starts a relay at this address. It stops when the value is dropped.
///
/// # Errors
/// The address is in use.
pub async fn start(address: SocketAddr) -> Result<LocalRelay> {
    // The default of 60 notes per minute is too low for tests and benches.
    let rate = RateLimit {
        max_reqs: 10_000,
        notes_per_minute: 1_000_000,
    };
    let relay = LocalRelay::new(
        RelayBuilder::default()
            .addr(address.ip())
            .port(address.port())
            .rate_limit(rate),
    );
    relay
        .run()
        .await
        .with_context(|| format!("cannot start a relay at {address}"))?;
    Ok(relay)
}
