//! The devices to push to, once the claim is acquired.

use nostr_push_core::{
    Seconds,
    app::App,
    device::{Device, OwnerDevices, Registration},
    message::DeliveryMessage,
    ports::{DelayQueue, PortResult, Rates},
};

use crate::{drops, outcome::DeliveryDropReason, rate_limit};

/// The devices to push to.
#[derive(Debug)]
pub struct Targets<'a> {
    /// The active devices that are not done and whose mention limit allows the event.
    pub devices: Vec<(&'a Device, &'a Registration)>,
    /// `true` if an earlier attempt is done with at least one device.
    is_resumed: bool,
    /// `true` if no active device remains to be tried.
    is_none_left: bool,
}

impl<'a> Targets<'a> {
    /// Selects the targets. `done` contains the token hashes of the devices that are done.
    pub fn of(
        devices: &'a OwnerDevices,
        done: &[String],
        message: &DeliveryMessage,
        app: &App,
        now: Seconds,
    ) -> Self {
        let remaining: Vec<_> = devices
            .active(now)
            .filter(|(device, _)| !done.contains(&device.id.token_hash))
            .collect();
        Self {
            devices: drops::within_mention_limit(&remaining, message, app),
            is_resumed: !done.is_empty(),
            is_none_left: remaining.is_empty(),
        }
    }

    /// The reason to drop the message instead of pushing it to the targets, if any.
    ///
    /// # Errors
    /// The store or the queue failed.
    pub async fn drop_reason(
        &self,
        store: &impl Rates,
        queue: &impl DelayQueue<DeliveryMessage>,
        message: &DeliveryMessage,
        app: &App,
        now: Seconds,
    ) -> PortResult<Option<DeliveryDropReason>> {
        if self.is_resumed {
            // The earlier attempt decided to push, and did so to some devices.
            Ok(None)
        } else if self.is_none_left {
            Ok(Some(DeliveryDropReason::NoDevice))
        } else if self.devices.is_empty() {
            Ok(Some(DeliveryDropReason::TooManyMentions))
        } else {
            rate_limit::drop_reason(store, queue, message, app.max_pushes(), now).await
        }
    }
}
