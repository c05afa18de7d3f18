//! Deliveries to an app that looks open. They wait in the queue until the app is known to have been
//! open, or until it has been silent for the timeout. See [`nostr_push_core::presence`].

use std::time::Duration;

use nostr_push_core::{
    Millis, Seconds,
    message::DeliveryMessage,
    ports::{DelayQueue, MAX_DELAY, PortResult, Presences},
    presence::{Presence, PresenceDecision},
};

/// Decides by the recipient's presence. If the delivery must wait, the stored presence is marked as
/// awaited, so that control stores the next heartbeat.
///
/// # Errors
/// The store failed.
pub async fn decide(
    store: &impl Presences,
    message: &DeliveryMessage,
    timeout: Seconds,
    now: Millis,
) -> PortResult<PresenceDecision> {
    let owner = message.owner();
    loop {
        let presence = store.presence(&owner).await?;
        let decision = Presence::decide(presence.as_ref(), message.received_at(), now, timeout);
        let unmarked = presence.filter(|presence| !presence.awaited);
        let (PresenceDecision::Wait(_), Some(presence)) = (decision, unmarked) else {
            return Ok(decision);
        };
        if store.mark_awaited(&owner, &presence.order).await? {
            return Ok(decision);
        }
        // The presence has changed since it was read, so decide again.
    }
}

/// Sends a copy of the message to the queue, with a delay. Returns the delay.
///
/// The received message is not hidden instead, because hidden messages count as in flight, and a
/// queue allows at most 120,000 of those
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html>).
/// If the process crashes before the received message is deleted, there are two messages. The claim
/// makes them one push.
///
/// # Errors
/// The queue failed.
pub async fn postpone(
    queue: &impl DelayQueue<DeliveryMessage>,
    message: &DeliveryMessage,
    time: Seconds,
) -> PortResult<Duration> {
    let delay = time.to_duration().min(MAX_DELAY);
    queue.send_after(&message.clone().waited(), delay).await?;
    Ok(delay)
}
