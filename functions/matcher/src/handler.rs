//! One content message in, deliveries out.

use nostr::event::Event;
use nostr_push_core::{
    MAX_AHEAD, MUTE_LIST_KIND, Millis, Seconds,
    index_key::IndexKey,
    max_age,
    message::{ContentMessage, DeliveryMessage},
    mute_list::MuteList,
    ports::{Budgets, IndexReader, MuteLists, PortResult, Queue, Standings, Subscriptions},
    subscription::{IndexRow, MUTE_LIST_PREFIX},
    tags::{expiration, is_expired},
};
use tokio::sync::Semaphore;

use crate::{
    deliveries,
    fan_out::FanOut,
    limits::Limits,
    newcomers::Newcomers,
    outcome::{MatchDropReason, MatchOutcome},
};

/// The tables that a match needs.
pub trait MatchStore: IndexReader + Subscriptions + MuteLists + Standings + Budgets {}
impl<S: IndexReader + Subscriptions + MuteLists + Standings + Budgets> MatchStore for S {}

/// The queues to which the matcher sends: deliveries, and the rest of a fan-out.
pub trait MatchQueues: Queue<DeliveryMessage> + Queue<ContentMessage> {}
impl<Q: Queue<DeliveryMessage> + Queue<ContentMessage>> MatchQueues for Q {}

/// One instance of the matcher, with what it keeps between messages.
#[derive(Debug)]
pub struct Matcher {
    /// The limits of one invocation for one event.
    pub limits: Limits,
    newcomers: Newcomers,
    /// Only one event at a time has large filters in memory.
    large_filters: Semaphore,
}

impl Matcher {
    /// An instance with at most `newcomer_pushes` deliveries per day to all owners together who
    /// have no proven device.
    pub fn new(newcomer_pushes: u64) -> Self {
        Self {
            limits: Limits::default(),
            newcomers: Newcomers::new(newcomer_pushes),
            large_filters: Semaphore::new(1),
        }
    }

    /// Finds the recipients of an event and queues a delivery for each. A repeat queues the same
    /// deliveries again, and the claim in deliver makes them one push.
    ///
    /// # Errors
    /// A dependency failed. The message must be received again.
    pub async fn handle<S: MatchStore, Q: MatchQueues>(
        &self,
        store: &S,
        queues: &Q,
        content: &ContentMessage,
        clock: impl Fn() -> Millis,
    ) -> PortResult<MatchOutcome> {
        let now = clock().to_seconds();
        let is_mute_list = is_own_mute_list(store, content, now).await?;
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
        let fan_out = FanOut::new(store, clock, self.limits, &self.large_filters, content);
        let (found, rest) = fan_out.run().await?;
        let mut outcome = MatchOutcome {
            requeued: rest.is_some(),
            is_mute_list,
            own_events: found.own_events,
            before_subscription_matches: found.before_subscription_matches,
            relay_not_named_matches: found.relay_not_named_matches,
            too_many_rows: found.too_many_rows,
            newcomers_over_budget: found.newcomers_over_budget,
            ..MatchOutcome::default()
        };
        let (newcomers, recipients) = (&self.newcomers, found.reasons);
        deliveries::send(
            store,
            queues,
            newcomers,
            content,
            recipients,
            now,
            &mut outcome,
        )
        .await?;
        if let Some(position) = rest {
            // The rest is sent after the deliveries. If the process crashes in between, the
            // deliveries are sent again and none is lost.
            let rest = ContentMessage {
                position: Some(position),
                ..content.clone()
            };
            queues.send(&[rest]).await?;
        } else if outcome == MatchOutcome::default() {
            outcome.dropped = Some(MatchDropReason::NoMatch);
        }
        Ok(outcome)
    }
}

/// Returns `true` if the event is the mute list of an owner: the owner's own subscription to it is
/// in force. Own rows come first, so they are on the first page. The rest of a fan-out is not
/// checked again.
async fn is_own_mute_list(
    store: &impl IndexReader,
    content: &ContentMessage,
    now: Seconds,
) -> PortResult<bool> {
    let event = &content.event;
    let key = IndexKey::MuteList(*event.pubkey.as_bytes());
    if event.kind.as_u16() != MUTE_LIST_KIND
        || content.position.is_some()
        || !content.hits.contains(&key)
    {
        return Ok(false);
    }
    let is_in_force = |row: &IndexRow| {
        row.is_own() && row.identity.starts_with(MUTE_LIST_PREFIX) && row.valid_until > now
    };
    let page = store.page(&key, None).await?;
    Ok(page.rows.iter().any(is_in_force))
}

/// The reason to drop the event regardless of its matches, if any.
fn drop_reason(event: &Event, now: Seconds) -> Option<MatchDropReason> {
    if is_expired(event, now) {
        Some(MatchDropReason::Expired)
    } else if notifies_until(event) < now {
        Some(MatchDropReason::TooOld)
    } else {
        let is_ahead = now + MAX_AHEAD < Seconds::from(event.created_at);
        is_ahead.then_some(MatchDropReason::FromFuture)
    }
}

/// The last second at which the event can notify: until then the listener requests it from relays,
/// and the matcher does not drop it because of its age.
pub fn notifies_until(event: &Event) -> Seconds {
    let age_limit = Seconds::from(event.created_at) + max_age(event.kind.as_u16());
    // At its expiration an event no longer notifies.
    expiration(event).map_or(age_limit, |at| age_limit.min(at - Seconds(1)))
}
