//! Registering and removing push tokens. The rules are in `nostr_push_core::device`. This module
//! reads the rows, lets the rules decide, and writes the result to the store and to SNS.

use nostr_push_core::{
    app::Platform,
    device::{
        self, Device, DeviceId, DeviceState, OwnerDevices, RegistrationDecision,
        RegistrationRequest, Roster,
    },
    device_store,
    order::Order,
    owner::Owner,
    ports::{
        Budgets, Devices, Endpoints, EnsuredEndpoint, FailureCause, OwnerSettings, PortResult,
        Subscriptions, Unavailable,
    },
};

use crate::{
    budget,
    contention::{self, MAX_ATTEMPTS},
    context::EventContext,
    outcome::{Applied, Failure},
    refusal::Refusal,
};

/// The outcome of a registration.
pub struct RegistrationOutcome {
    /// The effect.
    pub applied: Applied,
    /// The other owners whose devices have changed, now or in an attempt that failed.
    pub other_owners: Vec<Owner>,
    /// `true` if the owner may have had no device before.
    pub is_return: bool,
}

/// Applies a registration of `token`. Unless the registration `is_paid` for, its units are taken
/// from the budgets before the first write.
///
/// # Errors
/// A refusal, or a dependency failed. In the latter case the event can be applied again from the
/// start.
pub async fn register<S, E>(
    context: &EventContext<'_, S, E>,
    request: &RegistrationRequest,
    token: &str,
    mut is_paid: bool,
) -> Result<RegistrationOutcome, Failure>
where
    S: Devices + Subscriptions + OwnerSettings + Budgets,
    E: Endpoints,
{
    let EventContext { store, sns, .. } = context;
    let now = context.now.to_seconds();
    // An attempt that failed may have created an endpoint that no row names.
    let mut has_tried = context.is_repeated;
    for _ in 0..MAX_ATTEMPTS {
        let (row, owned) = read(*store, &request.owner, &request.device).await?;
        let decision = device::register(request, row.as_ref(), &owned, now);
        if let RegistrationDecision::Retire(_) | RegistrationDecision::Commit(_) = &decision
            && !is_paid
        {
            let units = budget::of_registration(context, request, &owned).await?;
            let class = owned.class(now);
            budget::take(context, &request.owner, class, units).await?;
            is_paid = true;
        }
        match decision {
            RegistrationDecision::Duplicate | RegistrationDecision::Superseded => {
                if has_tried
                    && let Some(row) = &row
                    && !delete_left_endpoint(context, row, request.platform, token).await?
                {
                    continue;
                }
                return Ok(match decision {
                    RegistrationDecision::Duplicate => repeated(context, row.as_ref()),
                    _ => superseded(context, row.as_ref(), &request.owner),
                });
            }
            RegistrationDecision::OverQuota => return Err(Refusal::OverQuota.into()),
            RegistrationDecision::Busy => return Err(endpoint_busy().into()),
            RegistrationDecision::Retire(retiring) => {
                device_store::remove_endpoint(*store, *sns, *retiring).await?;
            }
            RegistrationDecision::Commit(rows) => {
                let (mut device, roster) = *rows;
                if has_tried && device.is_removed() {
                    device =
                        with_unnamed_endpoint(context, device, request.platform, token).await?;
                }
                let other_owners = previous_owners(&device);
                if let Some(applied) = commit(context, device, &roster, token).await? {
                    return Ok(RegistrationOutcome {
                        applied,
                        other_owners,
                        is_return: applied == Applied::Registered
                            && owned.active_until(now).is_none(),
                    });
                }
                has_tried = true;
            }
        }
    }
    Err(contention::error().into())
}

/// The outcome of a registration that is stored. The first attempt may have failed before the
/// previous owner was reconciled.
fn repeated<S, E>(context: &EventContext<'_, S, E>, row: Option<&Device>) -> RegistrationOutcome {
    RegistrationOutcome {
        applied: Applied::Repeated,
        is_return: context.is_repeated,
        other_owners: row.map(previous_owners).unwrap_or_default(),
    }
}

/// The owner from whom the token was taken, if it was.
fn previous_owners(device: &Device) -> Vec<Owner> {
    let registration = device.registration.iter();
    registration.filter_map(|r| r.taken_from.clone()).collect()
}

/// The outcome of a registration of this owner that is older than the stored one.
fn superseded<S, E>(
    context: &EventContext<'_, S, E>,
    row: Option<&Device>,
    owner: &Owner,
) -> RegistrationOutcome {
    let mut other_owners = Vec::new();
    if context.is_repeated {
        // The first attempt may have taken the token from one of them.
        other_owners.extend(row.into_iter().flat_map(Device::owners).cloned());
        other_owners.retain(|other| other != owner);
    }
    RegistrationOutcome {
        applied: Applied::Superseded,
        other_owners,
        is_return: false,
    }
}

/// Writes the rows of a registration. Returns `None` if the rows have changed since they were read.
async fn commit<S: Devices, E: Endpoints>(
    context: &EventContext<'_, S, E>,
    mut device: Device,
    roster: &Roster,
    token: &str,
) -> Result<Option<Applied>, Failure> {
    let Some(registration) = &mut device.registration else {
        return Ok(None);
    };
    let applied = if registration.state == DeviceState::Active {
        // The endpoint is created before the row is written. After a crash in between, the next
        // attempt reuses the endpoint.
        registration.endpoint_arn =
            Some(create_endpoint(context, registration.platform, token).await?);
        Applied::Registered
    } else {
        Applied::Superseded
    };
    if !context.store.commit(Some(&device), Some(roster)).await? {
        return Ok(None);
    }
    device.version += 1;
    device_store::finish_removal(context.store, context.sns, device).await?;
    Ok(Some(applied))
}

/// Creates or reuses the endpoint of the token.
async fn create_endpoint<S, E: Endpoints>(
    context: &EventContext<'_, S, E>,
    platform: Platform,
    token: &str,
) -> Result<String, Failure> {
    let Some(platform_application) = context.app.platforms.get(&platform) else {
        return Err(Refusal::UnsupportedPlatform.into());
    };
    match context.sns.ensure(platform_application, token).await? {
        EnsuredEndpoint::Ready(arn) => Ok(arn),
        EnsuredEndpoint::BadToken => Err(Refusal::BadToken.into()),
    }
}

/// Deletes an endpoint that a failed attempt may have left: one whose removal is not finished, or
/// one that no row names. Returns `false` if the row has changed since it was read.
async fn delete_left_endpoint<S: Devices, E: Endpoints>(
    context: &EventContext<'_, S, E>,
    row: &Device,
    platform: Platform,
    token: &str,
) -> Result<bool, Failure> {
    let now = context.now.to_seconds();
    let device = match row.registration.as_ref().map(|r| r.state) {
        Some(DeviceState::Removed) => {
            with_unnamed_endpoint(context, row.clone(), platform, token).await?
        }
        Some(DeviceState::Removing { until }) if until > now => return Err(endpoint_busy().into()),
        Some(DeviceState::Removing { .. }) => match device::retire(row, now) {
            Some(device) => device,
            None => return Ok(true),
        },
        Some(DeviceState::Active | DeviceState::Gone) | None => return Ok(true),
    };
    Ok(device_store::remove_endpoint(context.store, context.sns, device).await?)
}

/// The row of a removed device that has been given the endpoint that SNS has for its token.
async fn with_unnamed_endpoint<S, E: Endpoints>(
    context: &EventContext<'_, S, E>,
    device: Device,
    platform: Platform,
    token: &str,
) -> Result<Device, Failure> {
    // SNS has no way to find the endpoint of a token but to create it.
    match create_endpoint(context, platform, token).await {
        Ok(arn) => Ok(device.removing(arn, context.now.to_seconds())),
        Err(Failure::Refused(_)) => Ok(device),
        Err(error) => Err(error),
    }
}

/// Removes one token of the owner. Unless the removal `is_paid` for, its units are taken from the
/// budgets before the first write.
///
/// # Errors
/// `over_budget`, or a dependency failed. In the latter case the event can be applied again from
/// the start.
pub async fn remove<S: Devices + Budgets, E: Endpoints>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    order: Order,
    id: &DeviceId,
    is_paid: bool,
) -> Result<Applied, Failure> {
    let now = context.now.to_seconds();
    remove_by(context, owner, id, is_paid, |row| {
        device::remove(owner, order, id, row, now)
    })
    .await
}

/// Removes all tokens of the owner under the app.
///
/// # Errors
/// `over_budget`, or a dependency failed. In the latter case the event can be applied again from
/// the start.
pub async fn remove_all<S: Devices + Budgets, E: Endpoints>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    order: Order,
) -> Result<Applied, Failure> {
    let now = context.now.to_seconds();
    let roster = record_removal_of_all(context, owner, order).await?;
    for id in roster.device_ids() {
        remove_by(context, owner, &id, true, |row| {
            device::remove_in_roster(owner, order, row?, now)
        })
        .await?;
    }
    Ok(Applied::RemovedAll)
}

/// Records in the roster that all devices are removed. After that, no older registration can come
/// into force.
async fn record_removal_of_all<S: Devices + Budgets, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    order: Order,
) -> Result<Roster, Failure> {
    let mut is_paid = false;
    for _ in 0..MAX_ATTEMPTS {
        let roster = device_store::roster_or_new(context.store, owner).await?;
        match device::remove_all(order, &roster, context.now.to_seconds()) {
            // A repeat. The caller goes through the devices again, because the first attempt may
            // have failed at one of them.
            None => return Ok(roster),
            Some(removed) => {
                if !is_paid {
                    pay_for_removal(context, &roster, !roster.devices.is_empty()).await?;
                    is_paid = true;
                }
                if context.store.commit(None, Some(&removed)).await? {
                    return Ok(removed);
                }
            }
        }
    }
    Err(contention::error().into())
}

/// Removes one token. `decide` takes the token's row and returns the row to write, or `None` for a
/// repeat.
async fn remove_by<S: Devices + Budgets, E: Endpoints>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    id: &DeviceId,
    mut is_paid: bool,
    decide: impl Fn(Option<&Device>) -> Option<Device>,
) -> Result<Applied, Failure> {
    let now = context.now.to_seconds();
    for _ in 0..MAX_ATTEMPTS {
        let rows = context.store.devices(std::slice::from_ref(id)).await?;
        let row = rows.first();
        let Some(device) = decide(row) else {
            let busy = row.is_some_and(|row| is_endpoint_busy(context, owner, row));
            return if busy {
                Err(endpoint_busy().into())
            } else {
                Ok(Applied::Repeated)
            };
        };
        if !is_paid {
            let roster = device_store::roster_or_new(context.store, owner).await?;
            let exists = row.is_some_and(|row| row.active_for(owner, now).is_some());
            pay_for_removal(context, &roster, exists).await?;
            is_paid = true;
        }
        if device_store::remove_endpoint(context.store, context.sns, device).await? {
            return Ok(Applied::Removed);
        }
    }
    Err(contention::error().into())
}

async fn pay_for_removal<S: Budgets, E>(
    context: &EventContext<'_, S, E>,
    roster: &Roster,
    exists: bool,
) -> Result<(), Failure> {
    let class = roster.class(context.now.to_seconds());
    budget::take_for_removal(context, &roster.owner, class, exists, budget::REMOVAL).await
}

/// Returns `true` if the endpoint of a removed device may still exist. The process that is deleting
/// it may have crashed, so the event must be applied again after the lease.
fn is_endpoint_busy<S, E>(context: &EventContext<'_, S, E>, owner: &Owner, row: &Device) -> bool {
    row.registration.as_ref().is_some_and(|registration| {
        registration.owner == *owner
            && matches!(
                registration.state,
                DeviceState::Removing { until } if until > context.now.to_seconds()
            )
    })
}

/// The rows that a decision about this token and owner needs.
async fn read(
    store: &impl Devices,
    owner: &Owner,
    id: &DeviceId,
) -> PortResult<(Option<Device>, OwnerDevices)> {
    let roster = device_store::roster_or_new(store, owner).await?;
    let mut ids: Vec<DeviceId> = roster.device_ids().collect();
    if !roster.devices.contains(&id.token_hash) {
        ids.push(id.clone());
    }
    let devices = store.devices(&ids).await?;
    let row = devices.iter().find(|device| device.id == *id).cloned();
    Ok((row, OwnerDevices { roster, devices }))
}

fn endpoint_busy() -> Unavailable {
    let why = "the endpoint of an earlier registration is being deleted";
    Unavailable::caused(FailureCause::Contention, "devices", why)
}
