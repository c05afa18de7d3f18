//! Procedures on devices that need the store and SNS. The decisions are those of [`crate::device`].

use crate::{
    device::{Device, DeviceId, DeviceState, OwnerDevices, Roster},
    owner::Owner,
    ports::{Devices, Endpoints, PortResult},
};

/// Reads the owner's devices.
///
/// The read is consistent: a token that has just passed to another owner must not count as this
/// owner's.
///
/// # Errors
/// The store failed.
pub async fn owner_devices(store: &impl Devices, owner: &Owner) -> PortResult<OwnerDevices> {
    let roster = roster_or_new(store, owner).await?;
    let ids: Vec<DeviceId> = roster.device_ids().collect();
    let devices = store.devices(&ids).await?;
    Ok(OwnerDevices { roster, devices })
}

/// Reads the owner's roster. An owner without one has an empty roster.
///
/// # Errors
/// The store failed.
pub async fn roster_or_new(store: &impl Devices, owner: &Owner) -> PortResult<Roster> {
    let roster = store.roster(owner).await?;
    Ok(roster.unwrap_or_else(|| Roster::new(owner.clone())))
}

/// Writes the row of a device that is being removed and deletes its endpoint. Returns `false`
/// without deleting anything if the row has changed since it was read.
///
/// # Errors
/// The store or SNS failed. The lease in the row may have been written. It keeps others away until
/// it ends.
pub async fn remove_endpoint(
    store: &impl Devices,
    sns: &impl Endpoints,
    mut device: Device,
) -> PortResult<bool> {
    let written = store.commit(Some(&device), None).await?;
    if written {
        device.version += 1;
        finish_removal(store, sns, device).await?;
    }
    Ok(written)
}

/// Deletes the endpoint of a device in state [`DeviceState::Removing`]. Only the process that wrote
/// that state may call this.
///
/// # Errors
/// The store or SNS failed.
pub async fn finish_removal(
    store: &impl Devices,
    sns: &impl Endpoints,
    device: Device,
) -> PortResult<()> {
    let Some(registration) = device
        .registration
        .as_ref()
        .filter(|r| matches!(r.state, DeviceState::Removing { .. }))
    else {
        return Ok(());
    };
    if let Some(arn) = &registration.endpoint_arn {
        sns.delete(arn).await?;
    }
    // If the row has changed, a newer registration has taken it over and is responsible for it.
    let removed = device.removed();
    store.commit(Some(&removed), None).await.map(drop)
}
