//! One delivery in, one outcome per device.
//!
//! At any line the process may die. Before the claim: nothing has happened. Between claim and publish: the lease runs
//! out and the redelivered message takes over. Between publish and the note that the device is done: it is published
//! again, and the collapse id makes it one notification. After that: the device is skipped.

use std::time::Duration;

use futures_util::future::join_all;
use nostr_push_core::{
    Millis, Seconds,
    app::Platform,
    device::{self, Device, Registration},
    message::Delivery,
    owner::Owner,
    ports::{Answer, Apps, Claim, Claims, DelayQueue, Devices, MAX_DELAY, Outcome, Presences, Publisher, Push, Unavailable, seconds},
    presence::{Decision, Presence},
};

use crate::{apns, fcm, text::Text};

/// What came of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// Dropped as a whole, for this reason.
    Dropped(&'static str),
    /// The recipient's app looks open: it comes again, as another message, when this time is over.
    Waiting(Duration),
    /// Tried on these devices, with the result of each. The claim is completed.
    Tried(Vec<Tried>),
    /// The claim is another's until then, or some devices must be tried again: the message must come again.
    Again {
        /// Not before this time is over.
        after: Option<Duration>,
        /// Why.
        reason: &'static str,
        /// Devices that were tried all the same.
        tried: Vec<Tried>,
    },
}

/// What came of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Its platform.
    pub platform: Platform,
    /// The keyed hash of its token.
    pub token_hash: String,
    /// What SNS said.
    pub outcome: Outcome,
}

/// One attempt at a message.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Different for every receipt of every message.
    pub holder: String,
    /// Now.
    pub now: Millis,
    /// How long the claim is this attempt's alone. Longer than the function can run.
    pub lease: Duration,
}

/// Delivers one event to one recipient.
///
/// # Errors
/// A dependency failed: the message must come again.
pub async fn handle<S, P, Q>(store: &S, sns: &P, queue: &Q, delivery: &Delivery, attempt: &Attempt) -> Result<Delivered, Unavailable>
where
    S: Apps + Devices + Presences + Claims,
    P: Publisher,
    Q: DelayQueue<Delivery>,
{
    let now = seconds(attempt.now);
    if delivery.event.tags.expiration().is_some_and(|at| at.as_secs() <= now) {
        return Ok(Delivered::Dropped("expired"));
    }
    let Some(app) = store.app(&delivery.app).await? else { return Ok(Delivered::Dropped("unknown_app")) };
    let owner = Owner { app: delivery.app.clone(), pubkey: delivery.recipient };
    let decision = decide(store, &owner, delivery, attempt.now, app.presence_timeout()).await?;
    if let Decision::Wait(seconds) = decision {
        // Another message, not this one hidden: hidden ones count as in flight, of which a queue allows 120,000. Dying
        // before this one is deleted makes two, and the claim makes them one push.
        let wait = Duration::from_secs(seconds).min(MAX_DELAY);
        queue.send_after(&Delivery { waited: true, ..delivery.clone() }, wait).await?;
        return Ok(Delivered::Waiting(wait));
    }
    let claim = format!("{}#{}#{}", delivery.app, delivery.recipient.to_hex(), delivery.event.id.to_hex());
    let until = attempt.now + u64::try_from(attempt.lease.as_millis()).unwrap_or(u64::MAX);
    let done = match store.acquire(&claim, &attempt.holder, attempt.now, until).await? {
        Claim::Acquired(done) => done,
        Claim::Completed => return Ok(Delivered::Dropped("duplicate")),
        // Not dropped: its holder may have died, and then this message is the one that takes over.
        Claim::Held(until) => {
            let after = Some(Duration::from_millis(until.saturating_sub(attempt.now) + 1_000));
            return Ok(Delivered::Again { after, reason: "claimed", tried: Vec::new() });
        }
    };
    if decision == Decision::Seen {
        // Completed, so that a copy from a relay's store does not push it after all.
        store.release(&claim, &attempt.holder, true).await?;
        return Ok(Delivered::Dropped("app_open"));
    }
    let view = device::view(store, &owner).await?;
    let devices: Vec<_> = view.active(now).filter(|(device, _)| !done.contains(&device.id.token_hash)).collect();
    if devices.is_empty() && done.is_empty() {
        store.release(&claim, &attempt.holder, true).await?;
        return Ok(Delivered::Dropped("no_device"));
    }
    let text = Text::of(&delivery.event);
    let each = devices.into_iter().map(|(device, registration)| {
        let push = push(registration.platform, delivery, &text, now);
        one(store, sns, &claim, &attempt.holder, device, registration, push)
    });
    let tried = join_all(each).await.into_iter().collect::<Answer<Vec<Tried>>>()?;
    let retries: Vec<Option<Duration>> =
        tried.iter().filter_map(|t| if let Outcome::Retry(after) = t.outcome { Some(after) } else { None }).collect();
    store.release(&claim, &attempt.holder, retries.is_empty()).await?;
    if retries.is_empty() {
        Ok(Delivered::Tried(tried))
    } else {
        Ok(Delivered::Again { after: retries.into_iter().flatten().max(), reason: "platform", tried })
    }
}

/// Decides by the recipient's presence. What is to wait is noted there, so that the next heartbeat is written.
async fn decide(store: &impl Presences, owner: &Owner, delivery: &Delivery, now: Millis, timeout: Seconds) -> Answer<Decision> {
    loop {
        let presence = store.presence(owner).await?;
        let decision = Presence::decide(presence.as_ref(), delivery.received_at, now, timeout);
        match (decision, presence) {
            (Decision::Wait(_), Some(presence)) if !presence.awaited => {
                if store.await_presence(owner, &presence.order).await? {
                    return Ok(decision);
                }
                // Another sign of life came in between.
            }
            _ => return Ok(decision),
        }
    }
}

/// Publishes to one device and records what that means for it.
async fn one<S: Devices + Claims>(
    store: &S,
    sns: &impl Publisher,
    claim: &str,
    holder: &str,
    device: &Device,
    registration: &Registration,
    push: Push,
) -> Answer<Tried> {
    // A registration in force has its endpoint; without one there is nothing to reach.
    let outcome = match &registration.endpoint_arn {
        Some(arn) => sns.publish(arn, &push).await,
        None => Outcome::Gone,
    };
    match &outcome {
        Outcome::Delivered | Outcome::Rejected(_) => {
            // Whether the claim is still ours changes nothing now: it has been published.
            store.done(claim, holder, &device.id.token_hash).await?;
        }
        // Only the row as it was published to: a registration that came meanwhile stays.
        Outcome::Gone => {
            store.commit(Some(&device::gone(device)), None).await?;
        }
        Outcome::Retry(_) => {}
    }
    Ok(Tried { platform: registration.platform, token_hash: device.id.token_hash.clone(), outcome })
}

fn push(platform: Platform, delivery: &Delivery, text: &Text, now: u64) -> Push {
    match platform {
        Platform::Apns => apns::push("APNS", delivery, text, now),
        Platform::ApnsSandbox => apns::push("APNS_SANDBOX", delivery, text, now),
        Platform::Fcm => fcm::push(delivery, text, now),
    }
}
