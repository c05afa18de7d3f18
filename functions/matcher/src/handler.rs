//! One content message in, deliveries out.

use std::collections::{BTreeMap, BTreeSet};

use nostr::event::Event;
use nostr_push_core::{
    MUTE_LIST_KIND, Seconds,
    filter::Filter,
    max_age,
    message::{ContentMessage, Delivery, DeliveryMessage, FanOutPosition, MAX_DELIVERED_CONTENT},
    mute_list::MuteList,
    owner::Owner,
    ports::{IndexPage, IndexReader, MuteLists, PortResult, Queue, Subscriptions},
    subscription::{IndexRow, Subscription, SubscriptionState},
    tags::{expiration, is_expired},
};

use crate::{
    outcome::{MatchDropReason, MatchOutcome},
    recipients::Recipients,
};

/// Finds the recipients of an event and queues a delivery for each. A repeat queues the same
/// deliveries again, and the claim in deliver makes them one push.
///
/// # Errors
/// A dependency failed. The message must be received again.
pub async fn handle<S, Q>(
    store: &S,
    queue: &Q,
    content: &ContentMessage,
    now: Seconds,
) -> PortResult<MatchOutcome>
where
    S: IndexReader + Subscriptions + MuteLists,
    Q: Queue<DeliveryMessage> + Queue<ContentMessage>,
{
    let is_mute_list = content.event.kind.as_u16() == MUTE_LIST_KIND;
    if is_mute_list {
        let list = MuteList::of(&content.event, now);
        store.put_mute_list(&list).await?;
    }
    if let Some(reason) = drop_reason(&content.event, now) {
        return Ok(MatchOutcome {
            is_mute_list,
            // Old mute lists are still valid.
            dropped: (!is_mute_list).then_some(reason),
            ..MatchOutcome::default()
        });
    }
    let (found, rest) = find_recipients(store, content, now).await?;
    let mut outcome = MatchOutcome {
        recipients: found.reasons.len() as u64,
        requeued: rest.is_some(),
        dropped: None,
        is_mute_list,
        own_events: found.own_events,
        before_subscription_matches: found.before_subscription_matches,
        relay_not_named_matches: found.relay_not_named_matches,
    };
    let deliveries = deliveries(content, found.reasons);
    queue.send(&deliveries).await?;
    if let Some(position) = rest {
        // The rest is sent after the deliveries. If the process crashes in between, the deliveries
        // are sent again and none is lost.
        let rest = ContentMessage {
            position: Some(position),
            ..content.clone()
        };
        queue.send(&[rest]).await?;
    } else if outcome == MatchOutcome::default() {
        outcome.dropped = Some(MatchDropReason::NoMatch);
    }
    Ok(outcome)
}

/// The reason to drop the event regardless of its matches, if any.
fn drop_reason(event: &Event, now: Seconds) -> Option<MatchDropReason> {
    if is_expired(event, now) {
        return Some(MatchDropReason::Expired);
    }
    (notifies_until(event) < now).then_some(MatchDropReason::TooOld)
}

/// The last second at which the event can notify: until then the listener requests it from relays,
/// and [`handle`] does not drop it because of its age.
pub fn notifies_until(event: &Event) -> Seconds {
    let age_limit = Seconds::from(event.created_at) + max_age(event.kind.as_u16());
    // At its expiration an event no longer notifies.
    expiration(event).map_or(age_limit, |at| age_limit.min(at - Seconds(1)))
}

/// Reads the index under the event's hits, page by page, from the message's position on. The second
/// value is the position from which the next invocation must continue.
async fn find_recipients<'a, S: IndexReader + Subscriptions>(
    store: &S,
    content: &'a ContentMessage,
    now: Seconds,
) -> PortResult<(Recipients<'a>, Option<FanOutPosition>)> {
    let mut found = Recipients::new(content, now);
    let mut position = content.position.clone().unwrap_or_default();
    while let Some(key) = content.hits.get(position.hit) {
        let page = store.page(key, position.after.as_deref()).await?;
        let subscriptions = subscriptions_of_large_filters(store, &page).await?;
        for row in &page.rows {
            if let Some(filter) = filter_of(row, &subscriptions) {
                found.consider(key, row, filter);
            }
        }
        position.hit += usize::from(page.next.is_none());
        position.after = page.next;
        if found.is_full() && position.hit < content.hits.len() {
            return Ok((found, Some(position)));
        }
    }
    Ok((found, None))
}

/// The subscriptions of the rows whose filters are too large for the index.
async fn subscriptions_of_large_filters(
    store: &impl Subscriptions,
    page: &IndexPage,
) -> PortResult<Vec<Subscription>> {
    let ids: Vec<_> = page
        .rows
        .iter()
        .filter(|row| row.filter.is_none())
        .map(|row| (row.owner.clone(), row.identity.clone()))
        .collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut subscriptions = store.get(&ids).await?;
    subscriptions.retain(|subscription| subscription.state == SubscriptionState::Active);
    Ok(subscriptions)
}

/// The filter of a row, from the row itself or from its subscription.
fn filter_of<'a>(row: &'a IndexRow, subscriptions: &'a [Subscription]) -> Option<&'a Filter> {
    row.filter.as_ref().or_else(|| {
        let mut subscriptions = subscriptions.iter();
        subscriptions
            .find(|stored| stored.owner == row.owner && stored.identity == row.identity)
            .map(|stored| &stored.filter)
    })
}

/// One delivery for each recipient.
fn deliveries(
    content: &ContentMessage,
    recipients: BTreeMap<Owner, BTreeSet<String>>,
) -> Vec<DeliveryMessage> {
    let (event, cut) = cut_content(&content.event);
    let delivery = |(owner, reasons): (Owner, BTreeSet<String>)| {
        DeliveryMessage::Event(Box::new(Delivery {
            app: owner.app,
            recipient: owner.pubkey,
            reasons: reasons.into_iter().collect(),
            relay: content.relay.clone(),
            received_at: content.received_at,
            cut,
            mentions: None,
            waited: false,
            event: event.clone(),
        }))
    };
    recipients.into_iter().map(delivery).collect()
}

/// The event as deliveries contain it, and `true` if its content was cut. A push holds 4 KiB, and
/// 1,000 copies of an event of 256 KiB would be 256 MiB in the queue.
fn cut_content(event: &Event) -> (Event, bool) {
    let mut event = event.clone();
    let cut = event.content.len() > MAX_DELIVERED_CONTENT;
    if cut {
        let end = event.content.floor_char_boundary(MAX_DELIVERED_CONTENT);
        event.content.truncate(end);
    }
    (event, cut)
}
