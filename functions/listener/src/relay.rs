//! Watches one relay: connects, reads, and connects again with a backoff when the connection ends.
//!
//! Relays are not trusted. What they send is bounded in size and looked up in the interest before
//! it is verified. A relay that keeps misbehaving is disconnected for a while.

use std::{sync::Arc, time::Duration};

use nostr_push_core::ports::backoff;
use tokio::time::Instant;

use crate::{
    counter::RelayReason,
    dial::DialError,
    relay_context::RelayContext,
    session::{self, SessionEnd},
    shutdown::Shutdown,
    watched_relay::WatchedRelay,
};

/// How long to wait before reconnecting to a relay that misbehaved or has no allowed address.
const CUT_OFF_DURATION: Duration = Duration::from_secs(600);

/// The age at which a connection counts as stable. The backoff then starts over.
const STABLE_CONNECTION_AGE: Duration = Duration::from_secs(60);

/// Watches the relay until a stop is requested.
pub async fn watch(relay: Arc<WatchedRelay>, context: RelayContext, mut shutdown: Shutdown) {
    let mut failures = 0;
    while !shutdown.is_stop_requested() {
        let started = Instant::now();
        let Err(end) = session::run(&relay, &context, shutdown.clone()).await else {
            break;
        };
        failures = if started.elapsed() > STABLE_CONNECTION_AGE {
            1
        } else {
            failures + 1
        };
        let jitter = f64::from(started.elapsed().subsec_micros() % 1_000) / 1_000.0;
        let retry_delay = backoff(failures, jitter) / 5;
        let (reason, wait) = match &end {
            SessionEnd::Misbehaving => (RelayReason::CutOff, CUT_OFF_DURATION),
            SessionEnd::TooFarBehind => (RelayReason::TooFarBehind, retry_delay),
            SessionEnd::Unreachable(DialError::Forbidden) => {
                (RelayReason::Forbidden, CUT_OFF_DURATION)
            }
            SessionEnd::Unreachable(_) => (RelayReason::Unreachable, retry_delay),
            SessionEnd::Lost(_) => (RelayReason::Disconnected, retry_delay),
        };
        relay.set_status(&end.to_string());
        context.count_relay(reason);
        tracing::warn!(
            stage = "listener",
            relay = relay.url,
            outcome = reason.reason(),
            "relay {}: {end}; next attempt in {wait:?}",
            relay.url
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.stop_requested() => break,
        }
    }
}
