//! Heartbeats of dialect H, and going offline: one read, and a write when it matters.

use nostr_push_core::{
    Millis, Seconds,
    order::Order,
    owner::Owner,
    ports::{Presences, Unavailable},
    presence::Presence,
};

use crate::handler::Applied;

/// Notes that the app is open, or is going away.
///
/// # Errors
/// A dependency that failed: apply it again.
pub async fn note(
    store: &impl Presences,
    owner: &Owner,
    order: Order,
    online: bool,
    received_at: Millis,
    timeout: Seconds,
) -> Result<Applied, Unavailable> {
    let presence = Presence::of(order, online, received_at);
    let stored = store.presence(owner).await?;
    if stored.is_some_and(|stored| stored.order == order) {
        return Ok(Applied::Repeated);
    }
    if stored.is_some_and(|stored| !order.supersedes(&stored.order)) {
        return Ok(Applied::Superseded);
    }
    if !presence.matters(stored.as_ref(), timeout) {
        return Ok(Applied::HeartbeatUnwritten);
    }
    let written = store
        .put_presence(owner, &presence, presence.expires_at(timeout))
        .await?;
    Ok(match (written, online) {
        (false, _) => Applied::Superseded,
        (true, true) => Applied::Heartbeat,
        (true, false) => Applied::Offline,
    })
}
