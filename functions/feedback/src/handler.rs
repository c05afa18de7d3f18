//! One message in, one endpoint removed or kept.
//!
//! What a message says is old by the time it comes: the owner may have registered again since. So
//! nothing is removed on its word alone. The device's row decides, and SNS is asked how the
//! endpoint is now. An endpoint is deleted under the same lease as everywhere (`State::Removing`):
//! a registration that comes meanwhile waits, and then makes it anew.

use nostr_push_core::{
    Millis, Seconds,
    device::{self, Device, DeviceId, State},
    message::{EndpointEvent, Feedback, Retired},
    ports::{Answer, Devices, Endpoints, Unavailable, seconds},
};

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// The endpoint and the registration are gone.
    Removed,
    /// Nothing was to be done, for this reason.
    Kept(&'static str),
    /// The platform refuses the app's credentials: no device is to blame, and the operator must
    /// know.
    BadCredentials,
}

/// Applies one message. Applying it again changes nothing.
///
/// # Errors
/// A dependency failed, or somebody else is just removing the endpoint: the message must come
/// again.
pub async fn handle(
    store: &impl Devices,
    sns: &impl Endpoints,
    feedback: &Feedback,
    sent_at: Millis,
    now: Seconds,
) -> Answer<Handled> {
    match feedback {
        Feedback::Retired(retired) => ended(store, sns, retired, now).await,
        Feedback::Endpoint(event) => endpoint(store, sns, event, seconds(sent_at), now).await,
    }
}

/// A row that ended by itself, or that deliver gave up.
async fn ended(
    store: &impl Devices,
    sns: &impl Endpoints,
    retired: &Retired,
    now: Seconds,
) -> Answer<Handled> {
    let id = DeviceId {
        app: retired.app.clone(),
        token_hash: retired.token_hash.clone(),
    };
    let Some(row) = read(store, &id).await? else {
        // TTL has removed the row. It is written once more, with the lease: a registration of the
        // token may be under way.
        let registration = Some(retired.registration.clone());
        let row = Device {
            id,
            registration,
            removals: std::collections::BTreeMap::new(),
            expires_at: 0,
            version: 0,
        };
        return remove(store, sns, &row, now).await;
    };
    match &row.registration {
        Some(current) if current.order != retired.registration.order => {
            Ok(Handled::Kept("registered_again"))
        }
        Some(current) if current.state == State::Active && current.valid_until > now => {
            Ok(Handled::Kept("in_force"))
        }
        _ => remove(store, sns, &row, now).await,
    }
}

/// What SNS tells of an endpoint.
async fn endpoint(
    store: &impl Devices,
    sns: &impl Endpoints,
    event: &EndpointEvent,
    sent_at: Seconds,
    now: Seconds,
) -> Answer<Handled> {
    match event.event_type.as_str() {
        "DeliveryFailure" if blames_credentials(event) => return Ok(Handled::BadCredentials),
        "EndpointDeleted" | "EndpointUpdated" | "DeliveryFailure" => {}
        _ => return Ok(Handled::Kept("not_of_interest")),
    }
    if sns.is_enabled(&event.endpoint_arn).await? {
        // Changed otherwise, enabled again, or only this one push failed (its time to live was
        // over, for example).
        return Ok(Handled::Kept("enabled"));
    }
    let Some(id) = store.device_of_endpoint(&event.endpoint_arn).await? else {
        return Ok(Handled::Kept("unknown_endpoint"));
    };
    let Some(row) = read(store, &id).await? else {
        return Ok(Handled::Kept("unknown_endpoint"));
    };
    match &row.registration {
        Some(current) if current.endpoint_arn.as_ref() != Some(&event.endpoint_arn) => {
            Ok(Handled::Kept("unknown_endpoint"))
        }
        Some(current) if current.registered_at > sent_at => Ok(Handled::Kept("registered_again")),
        _ => remove(store, sns, &row, now).await,
    }
}

/// SNS names the failure in a word and in a sentence: "Platform credentials are invalid",
/// `PlatformApplicationDisabled`.
fn blames_credentials(event: &EndpointEvent) -> bool {
    let texts = event.failure_type.iter().chain(&event.failure_message);
    texts
        .map(|text| text.to_lowercase())
        .any(|text| text.contains("credential") || text.contains("platformapplication"))
}

async fn read(store: &impl Devices, id: &DeviceId) -> Answer<Option<Device>> {
    Ok(store
        .devices(std::slice::from_ref(id))
        .await?
        .into_iter()
        .next())
}

/// Removes the endpoint of this row, if it still is as it was read.
async fn remove(
    store: &impl Devices,
    sns: &impl Endpoints,
    row: &Device,
    now: Seconds,
) -> Answer<Handled> {
    if row
        .registration
        .as_ref()
        .is_none_or(|registration| registration.endpoint_arn.is_none())
    {
        return Ok(Handled::Kept("already_removed"));
    }
    let again = |why: &str| Unavailable {
        dependency: "devices",
        why: why.to_owned(),
    };
    let retiring =
        device::retire(row, now).ok_or_else(|| again("the endpoint is being deleted"))?;
    if device::remove_endpoint(store, sns, retiring).await? {
        Ok(Handled::Removed)
    } else {
        Err(again("the row has changed"))
    }
}
