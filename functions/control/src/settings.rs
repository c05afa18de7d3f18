//! Settings of dialect H. They replace the owner's earlier settings as a whole.
//!
//! The owner's device and subscriptions follow from the stored rows. After every settings event,
//! the newest or not, they are reconciled with the stored rows. So neither a crash nor the order of
//! two events makes a difference.

use nostr_push_core::{
    device::{DeviceId, DeviceState, RegistrationRequest, Roster},
    device_store,
    owner::{Owner, OwnerClass},
    ports::{Budgets, Devices, Endpoints, IndexWriter, OwnerSettings, Subscriptions, Usages},
    settings::Settings,
    token_hasher::TokenHasher,
};

use crate::{
    admission, budget,
    context::EventContext,
    derived::{self, Change},
    devices,
    outcome::{Applied, Failure},
    payload::{SettingsUpdate, TokenRegistration},
    reconcile,
};

/// Applies settings. `roster` is the owner's, as it was read before.
///
/// # Errors
/// A refusal, or a dependency failed. In the latter case the event can be applied again from the
/// start.
pub async fn replace<S, E>(
    context: &EventContext<'_, S, E>,
    hasher: &TokenHasher,
    update: SettingsUpdate,
    roster: &Roster,
) -> Result<Applied, Failure>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings + Usages + Budgets,
    E: Endpoints,
{
    let is_logout = update.is_logout();
    let SettingsUpdate {
        mut settings,
        token,
    } = update;
    let mut registration = token.map(|registration| {
        let device = hasher.device(&settings.owner.app, &registration.token);
        let request = request(&settings, device, &registration);
        (request, registration.token)
    });
    settings.token_hash = registration
        .as_ref()
        .map(|(request, _)| request.device.token_hash.clone());
    let (owner, order) = (&settings.owner, settings.order);
    let stored = context.store.settings(owner).await?;
    let mut applied = match &stored {
        Some(stored) if stored.order == order => Applied::Repeated,
        _ => Applied::Superseded,
    };
    let mut registered = None;
    if stored.is_none_or(|stored| !stored.order.supersedes(&order)) {
        if applied != Applied::Repeated {
            pay(context, &settings, roster, is_logout).await?;
        }
        // The device is registered before the settings are written, so that a refused token leaves
        // the earlier settings in force.
        if let Some((request, token)) = &registration {
            registered = Some(devices::register(context, request, token, true).await?);
        }
        if context.store.put_settings(&settings).await? {
            applied = if is_logout {
                Applied::LoggedOut
            } else {
                Applied::Configured
            };
        }
    } else if let Some((request, token)) = &mut registration {
        // The owner has moved on, but the token was the owner's for a time. So it is not an earlier
        // owner's any more.
        request.is_superseded = true;
        registered = Some(devices::register(context, request, token, false).await?);
    }
    remove_other_devices(context, owner).await?;
    reconcile::reconcile_transfer(context, owner, registered.as_ref()).await?;
    Ok(applied)
}

/// Takes what the settings cost from the budgets, before the first write.
async fn pay<S, E>(
    context: &EventContext<'_, S, E>,
    settings: &Settings,
    roster: &Roster,
    is_logout: bool,
) -> Result<(), Failure>
where
    S: Devices + Subscriptions + Usages + Budgets,
{
    let (store, owner, now) = (context.store, &settings.owner, context.now.to_seconds());
    let class = roster.class(now);
    if is_logout {
        return budget::take_for_removal(context, owner, class, true, 2 * budget::REMOVAL).await;
    }
    let mut units = budget::of_settings_row(settings);
    let registers = settings.token_hash.is_some();
    if registers {
        units += budget::REGISTRATION;
    }
    if registers || class != OwnerClass::Stranger {
        // The filters come into force, and with a first device also those that are dormant.
        let rows = store.of_owner(owner).await?;
        budget::charge_read(context, owner, class, &rows).await?;
        let changes = derived::changes_of_settings(context.app, settings, &rows, now);
        let is_new = |change: &Change| matches!(change, Change::Mark(_));
        if changes.iter().any(is_new) {
            admission::check_further_filters(store, context.limits, class).await?;
        }
        units += changes.iter().map(Change::units).sum::<u64>();
        units += budget::of_return(&rows, roster, now);
    }
    budget::take(context, owner, class, units).await
}

/// The registration of the settings' token.
fn request(
    settings: &Settings,
    device: DeviceId,
    registration: &TokenRegistration,
) -> RegistrationRequest {
    RegistrationRequest {
        device,
        owner: settings.owner.clone(),
        order: settings.order,
        platform: registration.platform,
        by_settings: true,
        max_mentions: settings.max_mentions,
        payload: registration.payload,
        valid_until: settings.valid_until,
        is_superseded: false,
    }
}

/// Removes the devices that earlier settings registered and that the stored settings do not name.
async fn remove_other_devices<S: Devices + OwnerSettings + Budgets, E: Endpoints>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
) -> Result<(), Failure> {
    let Some(settings) = context.store.settings(owner).await? else {
        return Ok(());
    };
    let owner_devices = device_store::owner_devices(context.store, owner).await?;
    let others = owner_devices.of_owner().filter(|(device, registration)| {
        registration.by_settings
            && registration.state != DeviceState::Removed
            && settings.order.supersedes(&registration.order)
            && settings.token_hash.as_ref() != Some(&device.id.token_hash)
    });
    for (device, _) in others {
        devices::remove(context, owner, settings.order, &device.id, true).await?;
    }
    Ok(())
}
