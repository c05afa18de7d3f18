//! Heartbeats and going offline (dialect H). Each costs one read, and a write only if needed.

use nostr_push_core::{
    Millis, device_store,
    ports::{Devices, PortResult, Presences},
    presence::Presence,
};

use crate::{check::DecryptedEvent, outcome::Applied};

/// Stores that the owner's app is open (`online`) or goes to the background.
///
/// # Errors
/// A dependency failed: apply the event again.
pub async fn record(
    store: &(impl Presences + Devices),
    event: &DecryptedEvent,
    online: bool,
    received_at: Millis,
) -> PortResult<Applied> {
    let (owner, order) = (&event.owner, event.order);
    let timeout = event.app.presence_timeout();
    let presence = Presence::of(order, online, received_at);
    let stored = store.presence(owner).await?;
    if stored.is_some_and(|stored| stored.order == order) {
        return Ok(Applied::Repeated);
    }
    if stored.is_some_and(|stored| !order.supersedes(&stored.order)) {
        return Ok(Applied::Superseded);
    }
    if !presence.should_store(stored.as_ref(), timeout) {
        return Ok(Applied::HeartbeatUnwritten);
    }
    if stored.is_none() {
        // Nothing is delivered to an owner without a device, so the presence makes no difference.
        let roster = device_store::roster_or_new(store, owner).await?;
        if roster.active_until <= received_at.to_seconds() {
            return Ok(Applied::HeartbeatUnwritten);
        }
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
