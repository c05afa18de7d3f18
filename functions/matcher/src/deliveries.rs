//! Queues a delivery for each recipient who has a device.

use std::collections::{BTreeMap, BTreeSet};

use nostr_push_core::{
    Seconds,
    message::{ContentMessage, Delivery, DeliveryMessage},
    owner::Owner,
    ports::{Budgets, PortResult, Queue, Standings},
};

use crate::{
    cut::CutEvent,
    limits::{DELIVERIES_PER_SEND, RECIPIENTS_PER_READ},
    newcomers::Newcomers,
    outcome::MatchOutcome,
};

/// A recipient, and the dimensions by which the event was found.
type Recipient = (Owner, BTreeSet<String>);

/// Queues a delivery for each of these recipients who has an active device. Adds to the outcome how
/// many were queued, and how many were left out and why. Only some deliveries are in memory at the
/// same time.
///
/// # Errors
/// A dependency failed. Some deliveries may have been queued.
pub async fn send<S, Q>(
    store: &S,
    queue: &Q,
    newcomers: &Newcomers,
    content: &ContentMessage,
    recipients: BTreeMap<Owner, BTreeSet<String>>,
    now: Seconds,
    outcome: &mut MatchOutcome,
) -> PortResult<()>
where
    S: Standings + Budgets,
    Q: Queue<DeliveryMessage>,
{
    let event = CutEvent::of(&content.event);
    let recipients: Vec<Recipient> = recipients.into_iter().collect();
    for chunk in recipients.chunks(RECIPIENTS_PER_READ) {
        let reached = reached(store, newcomers, chunk, now, outcome).await?;
        for chunk in reached.chunks(DELIVERIES_PER_SEND) {
            let deliveries: Vec<DeliveryMessage> = chunk
                .iter()
                .map(|recipient| delivery(content, &event, recipient))
                .collect();
            queue.send(&deliveries).await?;
            outcome.recipients += deliveries.len() as u64;
        }
    }
    Ok(())
}

/// The recipients with an active device, within the limits for newcomers.
async fn reached<'a, S: Standings + Budgets>(
    store: &S,
    newcomers: &Newcomers,
    recipients: &'a [Recipient],
    now: Seconds,
    outcome: &mut MatchOutcome,
) -> PortResult<Vec<&'a Recipient>> {
    let owners: Vec<Owner> = recipients.iter().map(|(owner, _)| owner.clone()).collect();
    let mut standings = store.standings(&owners).await?;
    standings.retain(|_, standing| standing.active_until > now);
    outcome.no_device += (recipients.len() - standings.len()) as u64;
    let is_newcomer = |owner: &&Owner| standings.get(*owner).is_some_and(|found| !found.proven);
    let unproven: Vec<&Owner> = owners.iter().filter(is_newcomer).collect();
    let unproven_count = unproven.len();
    let admitted = newcomers.admit(store, unproven, now).await?;
    outcome.newcomers_over_budget += (unproven_count - admitted.len()) as u64;
    let is_reached = |(owner, _): &&Recipient| {
        let standing = standings.get(owner);
        standing.is_some_and(|found| found.proven || admitted.contains(owner))
    };
    Ok(recipients.iter().filter(is_reached).collect())
}

fn delivery(
    content: &ContentMessage,
    event: &CutEvent<'_>,
    (owner, reasons): &Recipient,
) -> DeliveryMessage {
    DeliveryMessage::Event(Box::new(Delivery {
        app: owner.app.clone(),
        recipient: owner.pubkey,
        reasons: reasons.iter().cloned().collect(),
        relay: content.relay.clone(),
        received_at: content.received_at,
        cut: event.is_content_cut,
        mentions: event.mentions(),
        zapper: event.zapper,
        waited: false,
        event: event.for_recipient(&owner.pubkey),
    }))
}
