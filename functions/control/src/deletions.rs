//! Deleting filters.
//!
//! A deletion may arrive before the upsert that it supersedes. Filters that are not in force are
//! remembered in the owner's roster, all of an event in one write. The roster is written before the
//! rows are read again, and an upsert writes its row before it reads the roster again. So one of
//! the two sees the other.

use std::collections::BTreeMap;

use nostr_push_core::{
    device::{self, Roster},
    device_store,
    filter::Filter,
    owner::Owner,
    ports::{Budgets, Devices, IndexWriter, PortResult, Subscriptions},
    subscription::{Subscription, SubscriptionState},
};

use crate::{
    budget,
    check::DecryptedEvent,
    contention::{self, MAX_ATTEMPTS},
    context::EventContext,
    outcome::{Applied, Failure},
    subscriptions,
};

/// Deletes the filters of an event. `roster` is the owner's, as it was read before.
///
/// # Errors
/// A refusal, or a dependency failed. In the latter case the event can be applied again from the
/// start.
pub async fn delete<S, E>(
    context: &EventContext<'_, S, E>,
    event: &DecryptedEvent,
    filters: BTreeMap<String, Filter>,
    roster: Roster,
) -> Result<Applied, Failure>
where
    S: Devices + Subscriptions + IndexWriter + Budgets,
{
    let (store, owner, order) = (context.store, &event.owner, event.order);
    let stored = get(store, owner, filters.keys()).await?;
    let mut applied = Applied::Superseded;
    let (mut removals, mut absent) = (Vec::new(), Vec::new());
    for (identity, filter) in filters {
        let earlier = stored.iter().find(|row| row.identity == identity);
        match earlier {
            Some(row) if row.order == order => {
                applied = applied.or(Applied::Repeated);
                if context.is_repeated {
                    // The first attempt may have crashed before it deleted the index rows.
                    subscriptions::delete_index(store, row).await?;
                }
            }
            Some(row) if !order.supersedes(&row.order) => {}
            Some(row) if row.state != SubscriptionState::Removed => {
                removals.push(removal(context, event, row, filter));
            }
            _ => absent.push(identity),
        }
    }
    let remembers = is_news(context, event, &absent, &roster);
    let exists = !removals.is_empty();
    let units: u64 = removals.iter().map(budget::of_subscription).sum();
    let units = units + if remembers { budget::REMOVAL } else { 0 };
    let class = roster.class(context.now.to_seconds());
    budget::take_for_removal(context, owner, class, exists, units).await?;

    for row in removals {
        if subscriptions::put_without_index(store, &row).await? {
            applied = Applied::Unsubscribed;
        }
    }
    if remembers {
        remember(context, event, &absent, roster).await?;
        applied = Applied::Unsubscribed;
        for row in get(store, owner, absent.iter()).await? {
            // An upsert has stored the filter in the meantime.
            if row.state != SubscriptionState::Removed && order.supersedes(&row.order) {
                let removal = removal(context, event, &row, row.filter.clone());
                subscriptions::put_without_index(store, &removal).await?;
            }
        }
    } else if !absent.is_empty() {
        applied = applied.or(Applied::Repeated);
    }
    Ok(applied)
}

async fn get<'a>(
    store: &impl Subscriptions,
    owner: &Owner,
    identities: impl Iterator<Item = &'a String>,
) -> PortResult<Vec<Subscription>> {
    let ids: Vec<(Owner, String)> = identities
        .map(|identity| (owner.clone(), identity.clone()))
        .collect();
    store.get(&ids).await
}

/// The row of the deletion of a stored filter.
fn removal<S, E>(
    context: &EventContext<'_, S, E>,
    event: &DecryptedEvent,
    row: &Subscription,
    filter: Filter,
) -> Subscription {
    Subscription {
        owner: event.owner.clone(),
        identity: row.identity.clone(),
        filter,
        relays: Vec::new(),
        proven: false,
        order: event.order,
        since: event.order.created_at,
        state: SubscriptionState::Removed,
        valid_until: row.valid_until,
        changed_at: context.now,
    }
}

/// Returns `true` if the roster does not yet remember the deletion of these filters.
fn is_news<S, E>(
    context: &EventContext<'_, S, E>,
    event: &DecryptedEvent,
    absent: &[String],
    roster: &Roster,
) -> bool {
    let identities = absent.iter().map(String::as_str);
    device::remember_deletions(identities, event.order, roster, context.now.to_seconds()).is_some()
}

/// Remembers the deletion of filters that are not stored.
async fn remember<S: Devices, E>(
    context: &EventContext<'_, S, E>,
    event: &DecryptedEvent,
    absent: &[String],
    mut roster: Roster,
) -> PortResult<()> {
    for _ in 0..MAX_ATTEMPTS {
        let identities = absent.iter().map(String::as_str);
        let now = context.now.to_seconds();
        let Some(row) = device::remember_deletions(identities, event.order, &roster, now) else {
            return Ok(());
        };
        if context.store.commit(None, Some(&row)).await? {
            return Ok(());
        }
        roster = device_store::roster_or_new(context.store, &event.owner).await?;
    }
    Err(contention::error())
}
