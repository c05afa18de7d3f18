//! Forwards the control events that wait when it is their turn.

use std::time::Duration;

use nostr_push_core::Millis;
use tokio::time::sleep;

use crate::{relay_context::RelayContext, shutdown::Shutdown};

/// How often the room is searched for events whose turn it is.
const RELEASE_INTERVAL: Duration = Duration::from_millis(200);

/// How often the strangers who wait are compared with the known owners. A stranger becomes known
/// when a registration takes effect.
const RECLASSIFY_INTERVAL: Millis = Millis(1_000);

/// Forwards waiting events until a stop is requested. What waits then stays at the relays: the
/// cursor does not pass it.
pub async fn release_waiting(context: RelayContext, mut shutdown: Shutdown) {
    let RelayContext { gate, clock, .. } = &context;
    let mut classified_at = Millis(0);
    loop {
        let wait = async {
            gate.control_room().something_waits().await;
            sleep(RELEASE_INTERVAL).await;
        };
        tokio::select! {
            () = wait => {}
            () = shutdown.stop_requested() => {}
        }
        let now = clock();
        if classified_at + RECLASSIFY_INTERVAL <= now {
            let class_of = |pubkey: &[u8; 32]| gate.class_of(pubkey);
            gate.control_room().reclassify(class_of, now);
            classified_at = now;
        }
        while let Some(message) = gate.control_room().release(clock()) {
            let bytes = message.event.get().len();
            context.control.send(message, bytes).await;
            gate.control_room().has_left();
        }
        if shutdown.is_stop_requested() {
            return;
        }
    }
}
