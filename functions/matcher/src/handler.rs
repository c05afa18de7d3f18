//! One content message in, deliveries out.

use nostr::event::Event;
use nostr_push_core::{
    MUTE_LIST, Seconds, is_private,
    message::{Content, Delivery, MAX_DELIVERED_CONTENT, Outgoing, Position},
    mute_list::MuteList,
    ports::{IndexReader, MuteLists, Page, Queue, Subscriptions, Unavailable},
    subscription::State,
};

use crate::recipients::Recipients;

/// Older events do not notify, unless they are of a private kind: wraps are backdated on purpose.
pub const MAX_AGE: Seconds = 60 * 60;

/// What came of one message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matched {
    /// Deliveries queued.
    pub recipients: u64,
    /// Whether the rest of the fan-out was queued again.
    pub requeued: bool,
    /// Why the whole event was dropped, if it was.
    pub dropped: Option<&'static str>,
    /// Whether it was a mute list, which is stored for deliver.
    pub mute_list: bool,
    /// Matches left out because the event was the recipient's own.
    pub own_event: u64,
    /// Matches left out because the backfilled event was older than the subscription.
    pub before_subscription: u64,
}

/// Finds the recipients of an event and queues a delivery for each. Done again, it queues them
/// again: the claim in deliver makes it one push.
///
/// # Errors
/// A dependency failed: the message must come again.
pub async fn handle<S, Q>(
    store: &S,
    queue: &Q,
    content: Content,
    now: Seconds,
) -> Result<Matched, Unavailable>
where
    S: IndexReader + Subscriptions + MuteLists,
    Q: Queue<Outgoing> + Queue<Content>,
{
    let mute_list = content.event.kind.as_u16() == MUTE_LIST;
    if mute_list {
        store
            .put_mute_list(&MuteList::of(&content.event, now))
            .await?;
    }
    if let Some(reason) = drop_reason(&content.event, now) {
        // A mute list is none the worse for being old.
        return Ok(Matched {
            mute_list,
            dropped: Some(reason).filter(|_| !mute_list),
            ..Matched::default()
        });
    }
    let (found, rest) = find(store, &content, now).await?;
    let mut matched = Matched {
        recipients: found.reasons.len() as u64,
        requeued: rest.is_some(),
        dropped: None,
        mute_list,
        own_event: found.own_event,
        before_subscription: found.before_subscription,
    };
    let (event, cut) = deliverable(&content.event);
    let deliveries: Vec<Outgoing> = found
        .reasons
        .into_iter()
        .map(|(owner, reasons)| Delivery {
            app: owner.app,
            recipient: owner.pubkey,
            reasons: reasons.into_iter().collect(),
            relay: content.relay.clone(),
            received_at: content.received_at,
            cut,
            waited: false,
            event: event.clone(),
        })
        .map(|delivery| Outgoing::Event(Box::new(delivery)))
        .collect();
    queue.send(&deliveries).await?;
    if rest.is_some() {
        // After the deliveries: dying in between repeats these, and loses none.
        queue
            .send(&[Content {
                position: rest,
                ..content
            }])
            .await?;
    } else if deliveries.is_empty()
        && matched.own_event == 0
        && matched.before_subscription == 0
        && !mute_list
    {
        matched.dropped = Some("no_match");
    }
    Ok(matched)
}

fn drop_reason(event: &Event, now: Seconds) -> Option<&'static str> {
    if event
        .tags
        .expiration()
        .is_some_and(|at| at.as_secs() <= now)
    {
        return Some("expired");
    }
    let old = event.created_at.as_secs() + MAX_AGE < now;
    (old && !is_private(event.kind.as_u16())).then_some("too_old")
}

/// Reads the index under the event's hits, page by page, from its position on. The second value is
/// where the next invocation has to go on.
async fn find<S: IndexReader + Subscriptions>(
    store: &S,
    content: &Content,
    now: Seconds,
) -> Result<(Recipients, Option<Position>), Unavailable> {
    let mut found = Recipients::default();
    let mut position = content.position.clone().unwrap_or(Position {
        hit: 0,
        after: None,
    });
    while let Some(key) = content.hits.get(position.hit) {
        let page = store.page(key, position.after.as_deref()).await?;
        let large = large_filters(store, &page).await?;
        for row in &page.rows {
            let elsewhere = || {
                large
                    .iter()
                    .find(|s| s.owner == row.owner && s.subscription == row.subscription)
                    .map(|s| &s.filter)
            };
            if let Some(filter) = row.filter.as_ref().or_else(elsewhere) {
                found.consider(&content.event, content.backfill, key, row, filter, now);
            }
        }
        position = match page.next {
            Some(after) => Position {
                hit: position.hit,
                after: Some(after),
            },
            None => Position {
                hit: position.hit + 1,
                after: None,
            },
        };
        if found.is_full() && position.hit < content.hits.len() {
            return Ok((found, Some(position)));
        }
    }
    Ok((found, None))
}

/// The subscriptions of those rows whose filter is too large for the index.
async fn large_filters<S: Subscriptions>(
    store: &S,
    page: &Page,
) -> Result<Vec<nostr_push_core::subscription::Subscription>, Unavailable> {
    let ids: Vec<_> = page
        .rows
        .iter()
        .filter(|row| row.filter.is_none())
        .map(|row| (row.owner.clone(), row.subscription.clone()))
        .collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows = store.get(&ids).await?;
    rows.retain(|row| row.state == State::Active);
    Ok(rows)
}

/// The event as it travels on: an event of 256 KiB for 1,000 recipients would be 256 MiB of queue,
/// and a push holds 4 KiB.
fn deliverable(event: &Event) -> (Event, bool) {
    let mut event = event.clone();
    let cut = event.content.len() > MAX_DELIVERED_CONTENT;
    if cut {
        let end = event.content.floor_char_boundary(MAX_DELIVERED_CONTENT);
        event.content.truncate(end);
    }
    (event, cut)
}
