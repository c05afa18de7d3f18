//! The limit of pushes per minute to one recipient. Events beyond it become one summary.

use nostr_push_core::{
    Seconds,
    message::{DeliveryMessage, Summary},
    ports::{DelayQueue, PortResult, RateAdmission, Rates},
};

use crate::outcome::DeliveryDropReason;

/// The time in which pushes to one recipient are counted.
const RATE_WINDOW: Seconds = Seconds::from_minutes(1);

/// Counts the event as one of its recipient's pushes of this minute. Returns the reason to drop it
/// if the minute has reached `max_pushes`.
///
/// The first such event sends a summary, which is received at the end of the minute. Summaries are
/// not counted.
///
/// The summary is sent before the event is counted as left out. After a crash in between, a second
/// summary is sent, and the claim makes the two one push. With the other order, a crash would leave
/// the minute without a summary.
///
/// # Errors
/// The store or the queue failed.
pub async fn drop_reason(
    store: &impl Rates,
    queue: &impl DelayQueue<DeliveryMessage>,
    message: &DeliveryMessage,
    max_pushes: u32,
    now: Seconds,
) -> PortResult<Option<DeliveryDropReason>> {
    let DeliveryMessage::Event(delivery) = message else {
        return Ok(None);
    };
    let owner = message.owner();
    let window = now / RATE_WINDOW.0 * RATE_WINDOW.0;
    let RateAdmission::Full { first } = store
        .admit(&owner, window, &delivery.event.id, max_pushes)
        .await?
    else {
        return Ok(None);
    };
    if first {
        let summary = DeliveryMessage::Summary(Summary {
            app: owner.app.clone(),
            recipient: owner.pubkey,
            window,
        });
        let delay = (window + RATE_WINDOW - now).to_duration();
        queue.send_after(&summary, delay).await?;
    }
    store.overflow(&owner, window).await?;
    Ok(Some(DeliveryDropReason::RateLimited))
}
