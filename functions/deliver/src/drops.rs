//! Events that must not notify their recipient.

use std::collections::BTreeSet;

use nostr_push_core::{
    Seconds,
    app::App,
    device::{Device, Registration},
    message::DeliveryMessage,
    ports::{MuteLists, PortResult},
    tags::{is_expired, tag_values},
};

use crate::{
    outcome::DeliveryDropReason,
    zap::{self, Zap},
};

/// The reason to drop the event, if there is one: it has expired (NIP-40,
/// <https://github.com/nostr-protocol/nips/blob/master/40.md>), or the recipient has muted it
/// (NIP-51, <https://github.com/nostr-protocol/nips/blob/master/51.md>). A summary has none.
///
/// # Errors
/// The store failed.
pub async fn drop_reason(
    store: &impl MuteLists,
    message: &DeliveryMessage,
    now: Seconds,
) -> PortResult<Option<DeliveryDropReason>> {
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

/// The devices to which the event may be pushed: those that allow as many mentions as it has. A
/// device without a limit of its own has the app's.
pub fn within_mention_limit<'a>(
    devices: &[(&'a Device, &'a Registration)],
    message: &DeliveryMessage,
    app: &App,
) -> Vec<(&'a Device, &'a Registration)> {
    let mentioned: BTreeSet<&str> = match message {
        DeliveryMessage::Event(delivery) => tag_values(&delivery.event, "p")
            .filter(|pubkey| !pubkey.is_empty())
            .collect(),
        DeliveryMessage::Summary(_) => BTreeSet::new(),
    };
    let max = |registration: &Registration| registration.max_mentions.or(app.max_mentions);
    let allows = |(_, registration): &(&Device, &Registration)| {
        max(registration).is_none_or(|max| mentioned.len() <= usize::from(max))
    };
    devices.iter().copied().filter(allows).collect()
}
