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
    Seconds,
    app::App,
    device_store::owner_devices,
    message::{DeliveryMessage, ReconcileMessage},
    owner::Owner,
    ports::{
        Apps, Budgets, ClaimResult, Claims, DelayQueue, Devices, MuteLists, PortResult, Presences,
        Profiles, PublishOutcome, Publisher, Queue, Rates,
    },
    presence::PresenceDecision,
    profile::ProfileRequest,
};

use crate::{
    claim::{self, Attempt, Claim},
    drops,
    names::Names,
    notice::Notice,
    outcome::{DeliveryDropReason, DeliveryOutcome, DeviceOutcome},
    profile_requests::{self, RequestBudgets},
    push,
    targets::Targets,
    waiting,
};

/// The tables that a delivery needs.
pub trait DeliveryStore:
    Apps + Devices + Presences + Claims + MuteLists + Rates + Profiles + Budgets
{
}
impl<S> DeliveryStore for S where
    S: Apps + Devices + Presences + Claims + MuteLists + Rates + Profiles + Budgets
{
}

/// The queues to which a delivery can lead: that of this stage, that of control, and that of the
/// profiles that the listener requests.
pub trait DeliveryQueues:
    DelayQueue<DeliveryMessage> + Queue<ReconcileMessage> + Queue<ProfileRequest>
{
}
impl<Q> DeliveryQueues for Q where
    Q: DelayQueue<DeliveryMessage> + Queue<ReconcileMessage> + Queue<ProfileRequest>
{
}

/// Delivers one event, or the summary of several, to one recipient. `budgets` belongs to the
/// instance.
///
/// # Errors
/// A dependency failed. The message must be received again.
pub async fn handle<S, P, Q>(
    store: &S,
    sns: &P,
    queues: &Q,
    budgets: &RequestBudgets,
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
        return drop_claimed(store, queues, &claim, reason, owner).await;
    }
    let notice = notice(store, message, &app, now).await?;
    let publishes = targets
        .devices
        .into_iter()
        .map(|device| push::publish(store, sns, queues, &claim, device, &notice, now));
    let outcomes: PortResult<Vec<_>> = join_all(publishes).await.into_iter().collect();
    let outcomes = outcomes?;
    let is_delivered = |device: &DeviceOutcome| device.outcome == PublishOutcome::Delivered;
    let delivery = notice
        .delivery()
        .filter(|_| outcomes.iter().any(is_delivered));
    let outcome = DeliveryOutcome::of_devices(outcomes);
    let is_proven = devices.has_proven(now);
    if is_proven != devices.roster.proven {
        ask_to_reconcile(queues, owner).await;
    }
    let completed = matches!(outcome, DeliveryOutcome::Completed(_));
    claim.release(store, completed).await?;
    if let Some(delivery) = delivery {
        let names = &notice.names;
        let standing = (is_proven, now);
        profile_requests::request_due(store, queues, budgets, delivery, names, standing).await;
    }
    Ok(outcome)
}

/// Drops a message whose claim is acquired.
async fn drop_claimed(
    store: &impl Claims,
    queue: &impl Queue<ReconcileMessage>,
    claim: &Claim<'_>,
    reason: DeliveryDropReason,
    owner: Owner,
) -> PortResult<DeliveryOutcome> {
    if reason == DeliveryDropReason::NoDevice {
        // The matcher read a roster that is out of date. Control brings the filters in line with
        // the devices. This is sent before the claim is completed, so a failure leads to another
        // attempt.
        queue.send(&[ReconcileMessage { reconcile: owner }]).await?;
    }
    // The claim is completed, so that a copy from a relay's store is not pushed later.
    claim.release(store, true).await?;
    Ok(DeliveryOutcome::Dropped(reason))
}

/// The notice of a message.
async fn notice<'a>(
    store: &impl DeliveryStore,
    message: &'a DeliveryMessage,
    app: &'a App,
    now: Seconds,
) -> PortResult<Notice<'a>> {
    Ok(match message {
        DeliveryMessage::Event(delivery) => {
            let names = Names::read(store, delivery).await;
            Notice::of_event(app, delivery, names, now)
        }
        DeliveryMessage::Summary(summary) => {
            let overflow = store.overflowed(&message.owner(), summary.window).await?;
            // The process that sent the summary may have crashed before it counted.
            Notice::of_summary(app, summary, overflow.max(1), now)
        }
    })
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
