//! Registering and removing push tokens. The rules are `nostr_push_core::device`; here they meet
//! the store and SNS.

use nostr_push_core::{
    Seconds,
    app::App,
    device::{self, Device, DeviceId, Register, Registered, Registration, Roster, State, View},
    order::Order,
    owner::Owner,
    ports::{Devices, Endpoints, Ensured, Unavailable},
};

use crate::{
    handler::{Applied, Failure},
    refusal::Refusal,
};

/// How often a decision is made again because the rows changed under it. Two writers racing need
/// two.
pub(crate) const ATTEMPTS: usize = 10;

/// What a registration led to.
pub struct Outcome {
    /// For the counters.
    pub applied: Applied,
    /// Whose device it was until now, when it changed hands.
    pub taken_from: Option<Owner>,
}

/// Applies a registration.
///
/// # Errors
/// A refusal, or a dependency that failed. After the latter it may be applied again from the start.
pub async fn register(
    store: &impl Devices,
    sns: &impl Endpoints,
    app: &App,
    event: &Register,
    id: &DeviceId,
    token: &str,
    now: Seconds,
) -> Result<Outcome, Failure> {
    for _ in 0..ATTEMPTS {
        let (row, view) = read(store, &event.owner, id).await?;
        let (mut device, roster) = match device::register(event, id, row.as_ref(), &view, now) {
            // Whoever applied it first may have died before it looked after the earlier owner.
            Registered::Already => {
                return Ok(Outcome {
                    applied: Applied::Repeated,
                    taken_from: taken_from(row.as_ref()),
                });
            }
            Registered::Superseded => {
                return Ok(Outcome {
                    applied: Applied::Superseded,
                    taken_from: None,
                });
            }
            Registered::OverQuota => return Err(Refusal::OverQuota.into()),
            Registered::Wait => return Err(removal_under_way().into()),
            Registered::Retire(retiring) => {
                device::remove_endpoint(store, sns, *retiring).await?;
                continue;
            }
            Registered::Write(rows) => *rows,
        };
        let Some(registration) = &mut device.registration else {
            continue;
        };
        let active = registration.state == State::Active;
        if active {
            let Some(platform_application) = app.platforms.get(&event.platform) else {
                return Err(Refusal::UnsupportedPlatform.into());
            };
            // Before the row: a crash in between leaves an endpoint that the next attempt finds
            // again.
            match sns.ensure(platform_application, token).await? {
                Ensured::Endpoint(arn) => registration.endpoint_arn = Some(arn),
                Ensured::BadToken => return Err(Refusal::BadToken.into()),
            }
        }
        if store.commit(Some(&device), Some(&roster)).await? {
            device.version += 1;
            let taken_from = taken_from(Some(&device));
            device::finish_removal(store, sns, device).await?;
            return Ok(Outcome {
                applied: if active {
                    Applied::Registered
                } else {
                    Applied::Superseded
                },
                taken_from,
            });
        }
    }
    Err(contention().into())
}

fn taken_from(row: Option<&Device>) -> Option<Owner> {
    row.and_then(|row| row.registration.as_ref())
        .and_then(|registration| registration.taken_from.clone())
}

/// Removes one token of the owner.
///
/// # Errors
/// A dependency that failed: apply it again from the start.
pub async fn remove(
    store: &impl Devices,
    sns: &impl Endpoints,
    owner: &Owner,
    order: Order,
    id: &DeviceId,
    now: Seconds,
) -> Result<Applied, Failure> {
    settle(store, sns, owner, id, now, |row| {
        device::remove(owner, order, id, row, now)
    })
    .await
}

/// Removes all tokens of the owner under the app.
///
/// # Errors
/// A dependency that failed: apply it again from the start.
pub async fn remove_all(
    store: &impl Devices,
    sns: &impl Endpoints,
    owner: &Owner,
    order: Order,
    now: Seconds,
) -> Result<Applied, Failure> {
    let roster = record_removal_of_all(store, owner, order, now).await?;
    for id in roster.device_ids() {
        settle(store, sns, owner, &id, now, |row| {
            device::remove_in_roster(owner, order, row?, now)
        })
        .await?;
    }
    Ok(Applied::RemovedAll)
}

/// From here on no older registration can come into force.
async fn record_removal_of_all(
    store: &impl Devices,
    owner: &Owner,
    order: Order,
    now: Seconds,
) -> Result<Roster, Failure> {
    for _ in 0..ATTEMPTS {
        let roster = store
            .roster(owner)
            .await?
            .unwrap_or_else(|| Roster::new(owner.clone()));
        match device::remove_all(order, &roster, now) {
            // A repeat: the devices are gone through again, as the first attempt may have died
            // among them.
            None => return Ok(roster),
            Some(removed) if store.commit(None, Some(&removed)).await? => return Ok(removed),
            Some(_) => {}
        }
    }
    Err(contention().into())
}

/// Writes what `decide` makes of the token's row, and does what it asks for.
async fn settle(
    store: &impl Devices,
    sns: &impl Endpoints,
    owner: &Owner,
    id: &DeviceId,
    now: Seconds,
    decide: impl Fn(Option<&Device>) -> Option<Device>,
) -> Result<Applied, Failure> {
    for _ in 0..ATTEMPTS {
        let row = store
            .devices(std::slice::from_ref(id))
            .await?
            .into_iter()
            .next();
        let Some(device) = decide(row.as_ref()) else {
            return repeated(row.as_ref(), owner, now);
        };
        if device::remove_endpoint(store, sns, device).await? {
            return Ok(Applied::Removed);
        }
    }
    Err(contention().into())
}

/// The removal has been written before. If its endpoint may still be there, whoever was deleting it
/// may have died: come back when the lease is over.
fn repeated(row: Option<&Device>, owner: &Owner, now: Seconds) -> Result<Applied, Failure> {
    let registration = row.and_then(|row| row.registration.as_ref());
    let under_way = |r: &Registration| {
        r.owner == *owner && matches!(r.state, State::Removing { until } if until > now)
    };
    if registration.is_some_and(under_way) {
        Err(removal_under_way().into())
    } else {
        Ok(Applied::Repeated)
    }
}

/// The rows that a decision about this token and owner needs.
async fn read(
    store: &impl Devices,
    owner: &Owner,
    id: &DeviceId,
) -> Result<(Option<Device>, View), Unavailable> {
    let roster = store
        .roster(owner)
        .await?
        .unwrap_or_else(|| Roster::new(owner.clone()));
    let mut ids: Vec<DeviceId> = roster.device_ids().collect();
    if !roster.devices.contains(&id.token_hash) {
        ids.push(id.clone());
    }
    let devices = store.devices(&ids).await?;
    let row = devices.iter().find(|device| device.id == *id).cloned();
    Ok((row, View { roster, devices }))
}

fn removal_under_way() -> Unavailable {
    Unavailable {
        dependency: "devices",
        why: "the endpoint of an earlier registration is being deleted".to_owned(),
    }
}

/// The rows changed under every attempt.
pub(crate) fn contention() -> Unavailable {
    Unavailable {
        dependency: "dynamodb",
        why: format!("rows changed under {ATTEMPTS} attempts"),
    }
}
