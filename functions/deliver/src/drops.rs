//! Events that must not notify their recipient.

use nostr_push_core::{
    MAX_DELIVERY_AGE, Seconds,
    app::App,
    device::{Device, Registration},
    message::DeliveryMessage,
    ports::{MuteLists, PortResult},
    tags::is_expired,
    zap,
};

use crate::{outcome::DeliveryDropReason, zap::Zap};

/// The reason to drop the message, if there is one. It is too old: the claim of an earlier copy may
/// have gone. Or the event has expired (NIP-40,
/// <https://github.com/nostr-protocol/nips/blob/master/40.md>), or the recipient has muted it
/// (NIP-51, <https://github.com/nostr-protocol/nips/blob/master/51.md>).
///
/// # Errors
/// The store failed.
pub async fn drop_reason(
    store: &impl MuteLists,
    message: &DeliveryMessage,
    now: Seconds,
) -> PortResult<Option<DeliveryDropReason>> {
    if message.received_at().to_seconds() + MAX_DELIVERY_AGE < now {
        return Ok(Some(DeliveryDropReason::TooOld));
    }
    let DeliveryMessage::Event(delivery) = message else {
        return Ok(None);
    };
    let event = &delivery.event;
    if is_expired(event, now) {
        return Ok(Some(DeliveryDropReason::Expired));
    }
    let list = store.mute_list(&delivery.recipient).await?;
    // The wallet signs a zap receipt. The recipient mutes the zapper.
    let zapper = (event.kind.as_u16() == zap::RECEIPT_KIND)
        .then(|| Zap::of(event).sender)
        .flatten();
    let muted = list.is_some_and(|list| list.suppresses(event, zapper.as_ref()));
    Ok(muted.then_some(DeliveryDropReason::Muted))
}

/// The devices whose mention limit the event does not exceed. A device without a limit uses the
/// app's.
pub fn within_mention_limit<'a>(
    devices: &[(&'a Device, &'a Registration)],
    message: &DeliveryMessage,
    app: &App,
) -> Vec<(&'a Device, &'a Registration)> {
    let mentions = match message {
        DeliveryMessage::Event(delivery) => delivery.mentions(),
        DeliveryMessage::Summary(_) => 0,
    };
    let max = |registration: &Registration| registration.max_mentions.or(app.max_mentions);
    let allows = |(_, registration): &(&Device, &Registration)| {
        max(registration).is_none_or(|max| mentions <= usize::from(max))
    };
    devices.iter().copied().filter(allows).collect()
}
