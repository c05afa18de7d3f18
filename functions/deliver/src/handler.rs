//! One delivery in, one outcome per device.
//!
//! At any line the process may die. Before the claim: nothing has happened. Between claim and
//! publish: the lease runs out and the redelivered message takes over. Between publish and the note
//! that the device is done: it is published again, and the collapse id makes it one notification.
//! After that: the device is skipped.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use nostr::event::Event;
use nostr_push_core::{
    Millis, Seconds,
    app::{App, Platform},
    device::{self, Device, Registration},
    is_private,
    message::{Delivery, Outgoing, Summary},
    owner::Owner,
    ports::{
        Admission, Answer, Apps, Claim, Claims, DelayQueue, Devices, MAX_DELAY, MuteLists, Outcome,
        Presences, Publisher, Push, Rates, Unavailable, seconds,
    },
    presence::{Decision, Presence},
};

use crate::{
    apns, fcm,
    text::Text,
    zap::{self, Zap},
};

/// The time in which pushes to one recipient are counted, in seconds.
const MINUTE: Seconds = 60;

/// What came of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// Dropped as a whole, for this reason.
    Dropped(&'static str),
    /// The recipient's app looks open: it comes again, as another message, when this time is over.
    Waiting(Duration),
    /// Tried on these devices, with the result of each. The claim is completed.
    Tried(Vec<Tried>),
    /// The claim is another's until then, or some devices must be tried again: the message must
    /// come again.
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

/// Everything that delivering asks of the world, besides SNS and the queue.
pub trait Store: Apps + Devices + Presences + Claims + MuteLists + Rates {}
impl<S: Apps + Devices + Presences + Claims + MuteLists + Rates> Store for S {}

/// Delivers one event, or the summary of many, to one recipient.
///
/// # Errors
/// A dependency failed: the message must come again.
pub async fn handle<S, P, Q>(
    store: &S,
    sns: &P,
    queue: &Q,
    outgoing: &Outgoing,
    attempt: &Attempt,
) -> Result<Delivered, Unavailable>
where
    S: Store,
    P: Publisher,
    Q: DelayQueue<Outgoing>,
{
    let now = seconds(attempt.now);
    let owner = outgoing.owner();
    let Some(app) = store.app(&owner.app).await? else {
        return Ok(Delivered::Dropped("unknown_app"));
    };
    if let Outgoing::Event(delivery) = outgoing
        && let Some(reason) = unwanted(store, &delivery.event, &owner, now).await?
    {
        return Ok(Delivered::Dropped(reason));
    }
    let decision = decide(
        store,
        &owner,
        outgoing.received_at(),
        attempt.now,
        app.presence_timeout(),
    )
    .await?;
    if let Decision::Wait(seconds) = decision {
        // Another message, not this one hidden: hidden ones count as in flight, of which a queue
        // allows 120,000. Dying before this one is deleted makes two, and the claim makes them one
        // push.
        let wait = Duration::from_secs(seconds).min(MAX_DELAY);
        queue.send_after(&outgoing.clone().waited(), wait).await?;
        return Ok(Delivered::Waiting(wait));
    }
    let claim = format!("{owner}#{}", outgoing.id());
    let until = attempt.now + u64::try_from(attempt.lease.as_millis()).unwrap_or(u64::MAX);
    let done = match store
        .acquire(&claim, &attempt.holder, attempt.now, until)
        .await?
    {
        Claim::Acquired(done) => done,
        Claim::Completed => return Ok(Delivered::Dropped("duplicate")),
        // Not dropped: its holder may have died, and then this message is the one that takes over.
        Claim::Held(until) => {
            let after = Some(Duration::from_millis(
                until.saturating_sub(attempt.now) + 1_000,
            ));
            return Ok(Delivered::Again {
                after,
                reason: "claimed",
                tried: Vec::new(),
            });
        }
    };
    // Whatever is dropped from here on, its claim is completed, so that a copy from a relay's store
    // does not push it after all.
    let view = device::view(store, &owner).await?;
    let left: Vec<_> = view
        .active(now)
        .filter(|(device, _)| !done.contains(&device.id.token_hash))
        .collect();
    let devices: Vec<_> = left
        .iter()
        .copied()
        .filter(|(_, registration)| !mentions_too_many(outgoing, registration, &app))
        .collect();
    let dropped = if decision == Decision::Seen {
        Some("app_open")
    } else if !done.is_empty() {
        // It was decided on when the first device had it.
        None
    } else if left.is_empty() {
        Some("no_device")
    } else if devices.is_empty() {
        Some("too_many_mentions")
    } else {
        rate_limited(store, queue, outgoing, &owner, app.max_pushes(), now).await?
    };
    if let Some(reason) = dropped {
        store.release(&claim, &attempt.holder, true).await?;
        return Ok(Delivered::Dropped(reason));
    }
    let pushes = Pushes::of(store, outgoing, &owner, &app, now).await?;
    let each = devices.into_iter().map(|(device, registration)| {
        let push = pushes.on(registration.platform);
        one(
            store,
            sns,
            &claim,
            &attempt.holder,
            device,
            registration,
            push,
        )
    });
    let tried = join_all(each)
        .await
        .into_iter()
        .collect::<Answer<Vec<Tried>>>()?;
    let retries: Vec<(Option<Duration>, &'static str)> = tried
        .iter()
        .filter_map(|t| {
            if let Outcome::Retry { after, reason } = t.outcome {
                Some((after, reason))
            } else {
                None
            }
        })
        .collect();
    store
        .release(&claim, &attempt.holder, retries.is_empty())
        .await?;
    // The one that waits longest decides: the others are tried with it.
    Ok(match retries.into_iter().max() {
        None => Delivered::Tried(tried),
        Some((after, reason)) => Delivered::Again {
            after,
            reason,
            tried,
        },
    })
}

/// Why the event is not for its recipient, if it is not: it has expired (NIP-40), or the recipient
/// has muted it.
async fn unwanted(
    store: &impl MuteLists,
    event: &Event,
    owner: &Owner,
    now: Seconds,
) -> Answer<Option<&'static str>> {
    if event
        .tags
        .expiration()
        .is_some_and(|at| at.as_secs() <= now)
    {
        return Ok(Some("expired"));
    }
    let muted = store.mute_list(&owner.pubkey).await?;
    // A receipt is signed by the wallet: whom the recipient has muted is the zapper.
    let zapper = (event.kind.as_u16() == zap::RECEIPT)
        .then(|| Zap::of(event).sender)
        .flatten();
    Ok(muted
        .is_some_and(|list| list.suppresses(event, zapper.as_ref()))
        .then_some("muted"))
}

/// Whether the event mentions more people than this device, or else the app, puts up with.
fn mentions_too_many(outgoing: &Outgoing, registration: &Registration, app: &App) -> bool {
    let (Outgoing::Event(delivery), Some(max)) =
        (outgoing, registration.max_mentions.or(app.max_mentions))
    else {
        return false;
    };
    let tags = delivery.event.tags.iter().map(nostr::event::Tag::as_slice);
    let mentioned: BTreeSet<&String> = tags
        .filter(|tag| tag[0] == "p")
        .filter_map(|tag| tag.get(1))
        .collect();
    mentioned.len() > usize::from(max)
}

/// Counts the event among its recipient's pushes of this minute. Past so many it is only counted,
/// and the first one sees to it that a summary comes when the minute is over; but private kinds are
/// never left out.
///
/// The summary before the count: dying in between makes two, and the claim makes them one. The
/// other way round there would be none.
async fn rate_limited(
    store: &impl Rates,
    queue: &impl DelayQueue<Outgoing>,
    outgoing: &Outgoing,
    owner: &Owner,
    max: u32,
    now: Seconds,
) -> Answer<Option<&'static str>> {
    let Outgoing::Event(delivery) = outgoing else {
        return Ok(None);
    };
    let window = now / MINUTE * MINUTE;
    match store.admit(owner, window, &delivery.event.id, max).await? {
        Admission::Full { first } if !is_private(delivery.event.kind.as_u16()) => {
            if first {
                let summary = Outgoing::Summary(Summary {
                    app: owner.app.clone(),
                    recipient: owner.pubkey,
                    window,
                });
                queue
                    .send_after(&summary, Duration::from_secs(window + MINUTE - now))
                    .await?;
            }
            store.overflow(owner, window).await?;
            Ok(Some("rate_limited"))
        }
        _ => Ok(None),
    }
}

/// Decides by the recipient's presence. What is to wait is noted there, so that the next heartbeat
/// is written.
async fn decide(
    store: &impl Presences,
    owner: &Owner,
    received_at: Millis,
    now: Millis,
    timeout: Seconds,
) -> Answer<Decision> {
    loop {
        let presence = store.presence(owner).await?;
        let decision = Presence::decide(presence.as_ref(), received_at, now, timeout);
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
        Outcome::Delivered | Outcome::Rejected { .. } => {
            // Whether the claim is still ours changes nothing now: it has been published.
            store.done(claim, holder, &device.id.token_hash).await?;
        }
        // Only the row as it was published to: a registration that came meanwhile stays.
        Outcome::Gone => {
            store.commit(Some(&device::gone(device)), None).await?;
        }
        Outcome::Retry { .. } => {}
    }
    Ok(Tried {
        platform: registration.platform,
        token_hash: device.id.token_hash.clone(),
        outcome,
    })
}

/// The push, made for each platform.
enum Pushes<'a> {
    Event {
        app: &'a App,
        delivery: &'a Delivery,
        text: Text,
        now: Seconds,
    },
    Summary {
        app: &'a App,
        summary: &'a Summary,
        count: u64,
    },
}

impl<'a> Pushes<'a> {
    async fn of(
        store: &impl Rates,
        outgoing: &'a Outgoing,
        owner: &Owner,
        app: &'a App,
        now: Seconds,
    ) -> Answer<Self> {
        Ok(match outgoing {
            Outgoing::Event(delivery) => Self::Event {
                app,
                delivery,
                text: Text::of(delivery, app.content),
                now,
            },
            Outgoing::Summary(summary) => {
                // At least the one whose sender died before it was counted.
                let count = store.overflowed(owner, summary.window).await?.max(1);
                Self::Summary {
                    app,
                    summary,
                    count,
                }
            }
        })
    }

    fn on(&self, platform: Platform) -> Push {
        let apns = if platform == Platform::Apns {
            "APNS"
        } else {
            "APNS_SANDBOX"
        };
        match (self, platform) {
            (
                Self::Event {
                    delivery,
                    text,
                    now,
                    ..
                },
                Platform::Fcm,
            ) => fcm::push(delivery, text, *now),
            (
                Self::Event {
                    app,
                    delivery,
                    text,
                    now,
                },
                _,
            ) => apns::push(apns, app, delivery, text, *now),
            (Self::Summary { summary, count, .. }, Platform::Fcm) => fcm::summary(summary, *count),
            (
                Self::Summary {
                    app,
                    summary,
                    count,
                },
                _,
            ) => apns::summary(apns, app, summary, *count),
        }
    }
}
