//! Storing filters.
//!
//! A filter of an owner without an active device is stored without index rows, as dormant. A
//! registration may come at the same time and not see the filter. So the devices are read again
//! after the filters are written, and if they have changed, the owner is reconciled. In the same
//! way a deletion of a filter that is not stored yet is found in the roster.

use std::collections::BTreeSet;

use nostr_push_core::{
    Millis, Seconds,
    device::{OwnerDevices, Roster},
    device_store,
    filter::Filter,
    ports::{Budgets, Devices, IndexWriter, OwnerSettings, PortResult, Subscriptions, Usages},
    subscription::{
        MAX_OWNER_INDEX_KEYS, MAX_SUBSCRIPTIONS, MAX_WAIT_FOR_DEVICE, MAX_WAITING_BYTES,
        MAX_WAITING_FILTERS, Subscription, SubscriptionState,
    },
};

use crate::{
    admission, budget,
    check::DecryptedEvent,
    context::EventContext,
    outcome::{Applied, Failure},
    payload::Filters,
    reconcile,
    refusal::Refusal,
    subscriptions,
};

/// Stores the filters of an event.
///
/// # Errors
/// A refusal, or a dependency failed. In the latter case the event can be applied again from the
/// start.
pub async fn upsert<S, E>(
    context: &EventContext<'_, S, E>,
    event: &DecryptedEvent,
    filters: Filters,
) -> Result<Applied, Failure>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings + Usages + Budgets,
{
    let (store, owner, now) = (context.store, &event.owner, context.now.to_seconds());
    let stored = store.of_owner(owner).await?;
    let owner_devices = device_store::owner_devices(store, owner).await?;
    let is_known = owner_devices.active_until(now).is_some();
    let class = owner_devices.class(now);
    budget::charge_read(context, owner, class, &stored).await?;
    let plan = Plan::new(event, filters, &stored, &owner_devices, context.now);
    check_quotas(&plan, &stored, is_known, now)?;
    if plan.adds_filters(now) {
        admission::check_further_filters(store, context.limits, class).await?;
    }
    budget::take(context, owner, class, plan.units()).await?;
    if context.is_repeated {
        for row in &plan.superseded {
            // The first attempt may have crashed after it wrote index rows.
            delete_stray_index(store, row, &stored).await?;
        }
    }
    let mut applied = plan.applied();
    for write in &plan.writes {
        if write.apply(store, context.is_repeated).await? {
            applied = Applied::Subscribed;
        }
    }
    let after = device_store::owner_devices(store, owner).await?;
    for row in plan.stored_rows() {
        delete_if_remembered(store, row, &after.roster, context.now).await?;
    }
    let has_new_proof = after.has_proven(now) != after.roster.proven;
    if context.is_repeated
        || has_new_proof
        || after.versions() != owner_devices.versions()
        || plan
            .repeated
            .iter()
            .any(|row| row.is_dormant(now) == is_known)
    {
        reconcile::reconcile_touched(context, owner, plan.touched()).await?;
    }
    Ok(applied)
}

/// What an upsert does with each of its filters.
struct Plan {
    /// The rows to write.
    writes: Vec<Write>,
    /// The stored rows that this event has written before.
    repeated: Vec<Subscription>,
    /// The rows that a newer event has superseded.
    superseded: Vec<Subscription>,
}

/// A row to write.
struct Write {
    row: Subscription,
    /// The stored row.
    earlier: Option<Subscription>,
}

impl Plan {
    fn new(
        event: &DecryptedEvent,
        filters: Filters,
        stored: &[Subscription],
        owner_devices: &OwnerDevices,
        now: Millis,
    ) -> Self {
        let mut plan = Self {
            writes: Vec::new(),
            repeated: Vec::new(),
            superseded: Vec::new(),
        };
        for (identity, filter) in filters.by_identity {
            let earlier = stored.iter().find(|row| row.identity == identity);
            if let Some(row) = earlier.filter(|row| row.order == event.order) {
                plan.repeated.push(row.clone());
                continue;
            }
            let newest = earlier.map(|row| row.order);
            let deletion = owner_devices.roster.deletion_of(&identity);
            let row = row(
                event,
                identity,
                filter,
                &filters.relays,
                earlier,
                owner_devices,
                now,
            );
            if newest
                .into_iter()
                .chain(deletion)
                .all(|newest| event.order.supersedes(&newest))
            {
                let earlier = earlier.cloned();
                plan.writes.push(Write { row, earlier });
            } else {
                plan.superseded.push(row);
            }
        }
        plan
    }

    /// The outcome if nothing is written.
    fn applied(&self) -> Applied {
        if self.repeated.is_empty() {
            Applied::Superseded
        } else {
            Applied::Repeated
        }
    }

    fn units(&self) -> u64 {
        self.writes.iter().map(Write::units).sum()
    }

    /// Returns `true` if a filter is new.
    fn adds_filters(&self, now: Seconds) -> bool {
        let is_live = |row: &Subscription| row.is_active(now) || row.is_dormant(now);
        let mut writes = self.writes.iter();
        writes.any(|write| !write.earlier.as_ref().is_some_and(is_live))
    }

    /// The rows with the order of this event, as this process knows them.
    fn stored_rows(&self) -> impl Iterator<Item = &Subscription> {
        let written = self.writes.iter().map(|write| &write.row);
        written.chain(&self.repeated)
    }

    fn touched(&self) -> BTreeSet<String> {
        self.stored_rows().map(|row| row.identity.clone()).collect()
    }
}

impl Write {
    /// Writes the row. Returns `false` if a newer row is stored.
    async fn apply(
        &self,
        store: &(impl Subscriptions + IndexWriter),
        is_repeated: bool,
    ) -> PortResult<bool> {
        if self.row.state == SubscriptionState::Active {
            subscriptions::put(store, &self.row).await
        } else if self.replaces_index() || is_repeated {
            // When the first attempt was made, the owner may have had a device.
            subscriptions::put_without_index(store, &self.row).await
        } else {
            store.put(&self.row).await
        }
    }

    /// Returns `true` if the earlier row has index rows.
    fn replaces_index(&self) -> bool {
        let earlier = self.earlier.as_ref();
        earlier.is_some_and(|row| row.state == SubscriptionState::Active)
    }

    fn units(&self) -> u64 {
        if self.row.state == SubscriptionState::Active || self.replaces_index() {
            budget::of_subscription(&self.row)
        } else {
            budget::of_row(&self.row)
        }
    }
}

/// The row of a filter.
fn row(
    event: &DecryptedEvent,
    identity: String,
    filter: Filter,
    relays: &[String],
    earlier: Option<&Subscription>,
    owner_devices: &OwnerDevices,
    now: Millis,
) -> Subscription {
    let seconds = now.to_seconds();
    let live = earlier.filter(|row| row.is_active(seconds) || row.is_dormant(seconds));
    let is_known = owner_devices.active_until(seconds).is_some();
    let state = if is_known {
        SubscriptionState::Active
    } else if live.is_some_and(|row| !row.is_waiting(seconds)) {
        SubscriptionState::Dormant {
            until: event.valid_until,
        }
    } else {
        SubscriptionState::Dormant {
            until: (seconds + MAX_WAIT_FOR_DEVICE).min(event.valid_until - Seconds(1)),
        }
    };
    Subscription {
        owner: event.owner.clone(),
        identity,
        filter,
        relays: relays.to_vec(),
        proven: owner_devices.has_proven(seconds),
        order: event.order,
        // A subscription that is renewed before it ends keeps its start, so that events sent in the
        // meantime still notify.
        since: live.map_or(event.order.created_at.min(seconds), |row| row.since),
        state,
        valid_until: event.valid_until,
        changed_at: now,
    }
}

/// Checks the quotas of the owner's filters together. Derived subscriptions do not count.
fn check_quotas(
    plan: &Plan,
    stored: &[Subscription],
    is_known: bool,
    now: Seconds,
) -> Result<(), Refusal> {
    if plan.writes.is_empty() {
        return Ok(());
    }
    let is_written = |row: &Subscription| {
        let mut writes = plan.writes.iter();
        writes.any(|write| write.row.identity == row.identity)
    };
    let others = stored.iter().filter(|row| {
        (row.is_active(now) || row.is_dormant(now)) && !row.is_derived() && !is_written(row)
    });
    let all: Vec<&Subscription> = others
        .chain(plan.writes.iter().map(|write| &write.row))
        .collect();
    let keys: usize = all.iter().map(|row| row.filter.index_keys().len()).sum();
    let waiting = || all.iter().filter(|row| row.is_waiting(now));
    let bytes: usize = waiting().map(|row| row.filter.to_json().len()).sum();
    let is_over = all.len() > MAX_SUBSCRIPTIONS
        || keys > MAX_OWNER_INDEX_KEYS
        || (!is_known && (waiting().count() > MAX_WAITING_FILTERS || bytes > MAX_WAITING_BYTES));
    if is_over {
        Err(Refusal::OverQuota)
    } else {
        Ok(())
    }
}

/// Deletes the index rows that an earlier attempt at this event may have written, unless a newer
/// event is in force under the same keys.
async fn delete_stray_index(
    store: &impl IndexWriter,
    row: &Subscription,
    stored: &[Subscription],
) -> PortResult<()> {
    let is_in_force = |stored: &Subscription| {
        stored.identity == row.identity && stored.state == SubscriptionState::Active
    };
    if stored.iter().any(is_in_force) {
        return Ok(());
    }
    subscriptions::delete_index(store, row).await
}

/// Deletes a filter whose deletion was remembered in the roster while the filter was being stored.
async fn delete_if_remembered(
    store: &(impl Subscriptions + IndexWriter),
    row: &Subscription,
    roster: &Roster,
    now: Millis,
) -> PortResult<()> {
    let deletion = roster.deletion_of(&row.identity);
    if let Some(order) = deletion.filter(|deletion| deletion.supersedes(&row.order)) {
        let removed = Subscription {
            order,
            state: SubscriptionState::Removed,
            changed_at: now,
            ..row.clone()
        };
        subscriptions::put_without_index(store, &removed).await?;
    }
    Ok(())
}
