//! Settings of dialect H: they replace the owner's earlier ones whole.
//!
//! The row is the truth, and the owner's device and subscriptions follow from it: whoever has
//! looked at an event of settings, the newest or not, brings them in line with the row that is
//! stored by then. So it does not matter who died where, or which of two came first.

use nostr_push_core::{
    Millis,
    app::App,
    device::{self, DeviceId, Register, State},
    order::Order,
    owner::Owner,
    ports::{Devices, Endpoints, IndexWriter, OwnerSettings, Subscriptions, seconds},
};

use crate::{
    derived, devices,
    handler::{Applied, Failure},
    payload::Replacement,
};

/// Applies settings. `device` is the id of the replacement's token.
///
/// # Errors
/// A refusal, or a dependency that failed. After the latter it may be applied again from the start.
pub async fn replace(
    store: &(impl Devices + Subscriptions + IndexWriter + OwnerSettings),
    sns: &impl Endpoints,
    app: &App,
    replacement: Replacement,
    device: Option<DeviceId>,
    now: Millis,
) -> Result<Applied, Failure> {
    let logout = replacement.is_logout();
    let Replacement {
        mut settings,
        token,
    } = replacement;
    settings.token_hash = device.as_ref().map(|device| device.token_hash.clone());
    let (owner, order) = (settings.owner.clone(), settings.order);
    let stored = store.settings(&owner).await?;
    let repeated = stored.as_ref().is_some_and(|stored| stored.order == order);
    let mut taken_from = None;
    let mut applied = if repeated {
        Applied::Repeated
    } else {
        Applied::Superseded
    };
    if stored.is_none_or(|stored| !stored.order.supersedes(&order)) {
        // The device before the row: a token that is refused leaves the earlier settings as they
        // are.
        if let (Some(id), Some((token, platform))) = (&device, &token) {
            let event = Register {
                owner: owner.clone(),
                order,
                platform: *platform,
                by_settings: true,
                max_mentions: settings.max_mentions,
                valid_until: settings.valid_until,
            };
            taken_from = devices::register(store, sns, app, &event, id, token, seconds(now))
                .await?
                .taken_from;
        }
        if store.put_settings(&settings).await? {
            applied = if logout {
                Applied::LoggedOut
            } else {
                Applied::Configured
            };
        }
    }
    remove_others(store, sns, &owner, now).await?;
    derived::reconcile(store, app, &owner, now).await?;
    if let Some(earlier) = &taken_from {
        derived::reconcile(store, app, earlier, now).await?;
    }
    Ok(applied)
}

/// Removes the devices that earlier settings registered and the stored ones do not name.
async fn remove_others(
    store: &(impl Devices + OwnerSettings),
    sns: &impl Endpoints,
    owner: &Owner,
    now: Millis,
) -> Result<(), Failure> {
    let Some(settings) = store.settings(owner).await? else {
        return Ok(());
    };
    let order: Order = settings.order;
    let view = device::view(store, owner).await?;
    let others = view.of_owner().filter(|(device, registration)| {
        registration.by_settings
            && registration.state != State::Removed
            && order.supersedes(&registration.order)
            && settings.token_hash.as_ref() != Some(&device.id.token_hash)
    });
    for (device, _) in others {
        devices::remove(store, sns, owner, order, &device.id, seconds(now)).await?;
    }
    Ok(())
}
