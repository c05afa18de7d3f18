//! Publishing a push to one device.

use nostr_push_core::{
    Seconds,
    device::{Device, Registration},
    message::ReconcileMessage,
    ports::{Claims, Devices, PortResult, PublishOutcome, Publisher, Push, Queue},
};

use crate::{claim::Claim, notice::Notice, outcome::DeviceOutcome, payload::Payload};

/// The push of a notice to one device.
pub fn build(notice: &Notice<'_>, device: &Device, registration: &Registration) -> Push {
    Payload::of(notice, device, registration).into_push(registration.platform)
}

/// Publishes to the endpoint of a registration. An active registration has an endpoint. Without
/// one, the device cannot be reached.
pub async fn publish_to(
    sns: &impl Publisher,
    registration: &Registration,
    push: &Push,
) -> PublishOutcome {
    match &registration.endpoint_arn {
        Some(arn) => sns.publish(arn, push).await,
        None => PublishOutcome::Gone,
    }
}

/// Publishes to one device at `now` and records the outcome.
///
/// # Errors
/// The store failed after the publish. A retry may publish again.
pub async fn publish<S: Devices + Claims>(
    store: &S,
    sns: &impl Publisher,
    queue: &impl Queue<ReconcileMessage>,
    claim: &Claim<'_>,
    (device, registration): (&Device, &Registration),
    notice: &Notice<'_>,
    now: Seconds,
) -> PortResult<DeviceOutcome> {
    let push = build(notice, device, registration);
    let outcome = publish_to(sns, registration, &push).await;
    let token_hash = &device.id.token_hash;
    match &outcome {
        PublishOutcome::Delivered => {
            claim.mark_done(store, token_hash).await?;
            record_delivery(store, queue, device, now).await;
        }
        PublishOutcome::Rejected { .. } => claim.mark_done(store, token_hash).await?,
        PublishOutcome::Gone => {
            // The row is written only if it has not changed since it was read. A registration that
            // arrived in the meantime stays.
            store.commit(Some(&device.clone().gone()), None).await?;
        }
        PublishOutcome::Retry { .. } => {}
    }
    Ok(DeviceOutcome {
        platform: registration.platform,
        token_hash: token_hash.clone(),
        outcome,
    })
}

/// Records in the device's row that SNS accepted a push, if that helps to prove the device. If the
/// device is proven now, control is told, because the roster and the filters contain it as well.
///
/// A failure is only logged: the push was delivered and must not be repeated. A later push proves
/// the device as well. If only the message to control is lost, the owner's next control event does
/// what it asks for. If the row has changed since it was read, the registration may be a newer one,
/// and nothing is written.
async fn record_delivery(
    store: &impl Devices,
    queue: &impl Queue<ReconcileMessage>,
    device: &Device,
    now: Seconds,
) {
    let Some(delivered) = device.delivered(now) else {
        return;
    };
    let proven = delivered.registration.as_ref().filter(|new| new.proven);
    let recorded = async {
        let is_written = store.commit(Some(&delivered), None).await?;
        if let Some(registration) = proven.filter(|_| is_written) {
            let reconcile = registration.owner.clone();
            queue.send(&[ReconcileMessage { reconcile }]).await?;
        }
        PortResult::Ok(())
    };
    if let Err(error) = recorded.await {
        tracing::warn!(
            stage = "deliver",
            dependency = error.dependency,
            "the proof of a device is not recorded: {error}"
        );
    }
}
