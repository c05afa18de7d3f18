//! One queue message in, one outcome out.
//!
//! The process may crash at any line.
//! - Before the claim is acquired, nothing has happened.
//! - Between the claim and the publish, the lease ends and the redelivered message takes over.
//! - Between the publish and the record that the device is done, the push is published again. Its
//!   collapse id makes the two one notification.
//! - After that record, the device is skipped.

use futures_util::future::join_all;
use nostr_push_core::{
    device_store::owner_devices,
    message::{DeliveryMessage, ReconcileMessage},
    owner::Owner,
    ports::{
        Apps, ClaimResult, Claims, DelayQueue, Devices, MuteLists, PortResult, Presences,
        Publisher, Queue, Rates,
    },
    presence::PresenceDecision,
};

use crate::{
    claim::{self, Attempt, Claim},
    drops,
    outcome::{DeliveryDropReason, DeliveryOutcome},
    push::{self, PushBuilder},
    targets::Targets,
    waiting,
};

/// The tables that a delivery needs.
pub trait DeliveryStore: Apps + Devices + Presences + Claims + MuteLists + Rates {}
impl<S: Apps + Devices + Presences + Claims + MuteLists + Rates> DeliveryStore for S {}

/// The queues to which a delivery can lead: that of this stage, and that of control.
pub trait DeliveryQueues: DelayQueue<DeliveryMessage> + Queue<ReconcileMessage> {}
impl<Q: DelayQueue<DeliveryMessage> + Queue<ReconcileMessage>> DeliveryQueues for Q {}

/// Delivers one event, or the summary of several, to one recipient.
///
/// # Errors
/// A dependency failed. The message must be received again.
pub async fn handle<S, P, Q>(
    store: &S,
    sns: &P,
    queues: &Q,
    message: &DeliveryMessage,
    attempt: &Attempt,
) -> PortResult<DeliveryOutcome>
where
    S: DeliveryStore,
    P: Publisher,
    Q: DeliveryQueues,
{
    let now = attempt.now.to_seconds();
    let owner = message.owner();
    let Some(app) = store.app(&owner.app).await? else {
        return Ok(DeliveryOutcome::Dropped(DeliveryDropReason::UnknownApp));
    };
    if let Some(reason) = drops::drop_reason(store, message, now).await? {
        return Ok(DeliveryOutcome::Dropped(reason));
    }
    let presence = waiting::decide(store, message, app.presence_timeout(), attempt.now).await?;
    if let PresenceDecision::Wait(time) = presence {
        let delay = waiting::postpone(queues, message, time).await?;
        return Ok(DeliveryOutcome::Waiting(delay));
    }
    let claim = Claim::new(message, attempt);
    let done = match claim.acquire(store).await? {
        ClaimResult::Acquired(done) => done,
        ClaimResult::Completed => {
            return Ok(DeliveryOutcome::Dropped(DeliveryDropReason::Duplicate));
        }
        ClaimResult::Taken(until) => return Ok(claim::retry_after(until, attempt.now)),
    };
    let devices = owner_devices(store, &owner).await?;
    let targets = Targets::of(&devices, &done, message, &app, now);
    let drop_reason = if presence == PresenceDecision::Seen {
        Some(DeliveryDropReason::AppOpen)
    } else {
        targets
            .drop_reason(store, queues, message, &app, now)
            .await?
    };
    if let Some(reason) = drop_reason {
        if reason == DeliveryDropReason::NoDevice {
            // The matcher read a roster that is out of date. Control brings the filters in line
            // with the devices. This is sent before the claim is completed, so a failure leads to
            // another attempt.
            queues
                .send(&[ReconcileMessage { reconcile: owner }])
                .await?;
        }
        // The claim is completed, so that a copy from a relay's store is not pushed later.
        claim.release(store, true).await?;
        return Ok(DeliveryOutcome::Dropped(reason));
    }
    let pushes = PushBuilder::of(store, message, &app, now).await?;
    let publishes = targets
        .devices
        .into_iter()
        .map(|device| push::publish(store, sns, queues, &claim, device, &pushes, now));
    let outcomes: PortResult<_> = join_all(publishes).await.into_iter().collect();
    let outcome = DeliveryOutcome::of_devices(outcomes?);
    if devices.has_proven(now) != devices.roster.proven {
        ask_to_reconcile(queues, owner).await;
    }
    let completed = matches!(outcome, DeliveryOutcome::Completed(_));
    claim.release(store, completed).await?;
    Ok(outcome)
}

/// Tells control that the owner's roster does not say whether the owner is proven. The matcher
/// reads it there.
///
/// A failure is only logged: the push was tried, and the next one finds the same difference.
async fn ask_to_reconcile(queue: &impl Queue<ReconcileMessage>, owner: Owner) {
    let message = ReconcileMessage { reconcile: owner };
    if let Err(error) = queue.send(&[message]).await {
        tracing::warn!(
            stage = "deliver",
            dependency = error.dependency,
            "control is not told of an outdated roster: {error}"
        );
    }
}
