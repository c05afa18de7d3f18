//! What an event's writes cost, in write units of DynamoDB, and the budgets that pay for them.
//!
//! Budgets are taken from before the first write of an event. An event that finds a budget empty is
//! refused. What only removes something that has been paid for is counted, but never refused.
//!
//! A message that is received again is never refused, because its first attempt may have written a
//! part. It pays again, even if nothing is left.
//!
//! Strangers and known owners who are not proven have separate shared budgets, so strangers leave
//! known owners theirs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nostr_push_core::{
    Seconds,
    admission::Admission,
    app::App,
    device::{OwnerDevices, RegistrationRequest, Roster},
    device_store,
    index_key::IndexKey,
    owner::{Owner, OwnerClass},
    ports::{Budgets, Devices, OwnerSettings, PortResult, Subscriptions},
    settings::Settings,
    subscription::{MAX_INLINE_BYTES, Subscription},
};

use crate::{
    context::{EventContext, Limits},
    derived::{self, Change},
    dormancy,
    outcome::Failure,
    refusal::Refusal,
};

/// The units of a registration: the rows of device and roster, both in a transaction and with an
/// index and a stream, and those of the derived subscriptions.
pub const REGISTRATION: u64 = 30;

/// The units of a removal that is written into one row: a roster with all that it remembers, in a
/// transaction.
pub const REMOVAL: u64 = 16;

/// The bytes that can be read for the price of writing 1 KiB: a write unit costs as much as five
/// read units of 4 KiB.
const BYTES_READ_PER_UNIT: usize = 20 * 1024;

/// The units per day of one owner who is not proven: two filters with a thousand contacts. A
/// hundred such owners use half of what all of them share by default.
const NEWCOMER_UNITS: u64 = 3_000;

/// The units per day of one proven owner.
const PROVEN_UNITS: u64 = 40_000;

/// The most units of an event that is small.
const SMALL_EVENT: u64 = 50;

/// The bytes of a subscription's row without its filter and relays.
const ROW_BYTES: usize = 500;

/// The units of writing something of this size once.
fn of_bytes(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(1024)).unwrap_or(u64::MAX)
}

/// The units of writing the row of settings.
pub fn of_settings_row(settings: &Settings) -> u64 {
    let values = settings.p.len() + settings.authors.as_ref().map_or(0, Vec::len);
    let texts = settings.e.iter().map(|value| value.to_string().len());
    let relays = settings.relays.iter().map(String::len);
    of_bytes(ROW_BYTES + 66 * values + texts.chain(relays).sum::<usize>())
}

/// The units of writing a subscription's row once: in the table and in the change feed.
pub fn of_row(row: &Subscription) -> u64 {
    let relays: usize = row.relays.iter().map(String::len).sum();
    2 * of_bytes(ROW_BYTES + row.filter.to_json().len() + relays)
}

/// The units of writing or deleting a subscription's index rows once.
pub fn of_index(row: &Subscription) -> u64 {
    let residuals = row.filter.residuals();
    let units = |key: &IndexKey| {
        let bytes = residuals.bytes_under(key);
        of_bytes(ROW_BYTES + if bytes <= MAX_INLINE_BYTES { bytes } else { 0 })
    };
    row.filter.index_keys().iter().map(units).sum()
}

/// The units of writing a subscription with its index rows.
pub fn of_subscription(row: &Subscription) -> u64 {
    of_row(row) + of_index(row)
}

/// The units of this registration by the owner of these devices. The first device also brings the
/// owner's dormant filters into force.
///
/// # Errors
/// A dependency failed.
pub async fn of_registration<S: Subscriptions + OwnerSettings, E>(
    context: &EventContext<'_, S, E>,
    request: &RegistrationRequest,
    owner_devices: &OwnerDevices,
) -> PortResult<u64> {
    let now = context.now.to_seconds();
    let is_first = !request.is_superseded && owner_devices.active_until(now).is_none();
    if context.is_repeated || !is_first {
        return Ok(REGISTRATION);
    }
    let owner = &owner_devices.roster.owner;
    let rows = context.store.of_owner(owner).await?;
    let settings = context.store.settings(owner).await?;
    let of_settings = settings.map_or(0, |settings| {
        of_settings(context.app, &settings, &rows, now)
    });
    Ok(REGISTRATION + of_return(&rows, &owner_devices.roster, now) + of_settings)
}

/// The units of replacing the stored filters of settings by those of these settings.
pub fn of_settings(app: &App, settings: &Settings, rows: &[Subscription], now: Seconds) -> u64 {
    derived::changes_of_settings(app, settings, rows, now)
        .iter()
        .map(Change::units)
        .sum()
}

/// The units of bringing the dormant ones of these subscriptions into force, and of writing again
/// what another process may be taking out of force.
pub fn of_return(rows: &[Subscription], roster: &Roster, now: Seconds) -> u64 {
    let renews = dormancy::may_be_resting(roster, now);
    let had_device = roster.active_until > now;
    let is_renewed = |row: &Subscription| {
        if row.is_derived() {
            !had_device
        } else {
            renews
        }
    };
    let units = |row: &Subscription| {
        if row.is_dormant(now) {
            of_subscription(row)
        } else if row.is_active(now) && is_renewed(row) {
            of_row(row)
        } else {
            0
        }
    };
    rows.iter().map(units).sum()
}

/// Takes the units of an event.
///
/// # Errors
/// `over_budget`, or a dependency failed.
pub async fn take<S: Budgets, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    class: OwnerClass,
    units: u64,
) -> Result<(), Failure> {
    if try_take(context, owner, class, units).await? {
        Ok(())
    } else {
        Err(Refusal::OverBudget.into())
    }
}

/// Takes the units of a removal. If an owner with a device removes something that `exists`, this is
/// never refused: it has been paid for, so the budget is exceeded at most once. Whoever removes
/// what does not exist only has it remembered, and pays for that.
///
/// # Errors
/// `over_budget`, or a dependency failed.
pub async fn take_for_removal<S: Budgets, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    class: OwnerClass,
    exists: bool,
    units: u64,
) -> Result<(), Failure> {
    if class == OwnerClass::Stranger || !exists {
        return take(context, owner, class, units).await;
    }
    charge(context, owner, class, units).await?;
    Ok(())
}

/// Takes the unit that every event costs, before the owner's subscriptions are read. So an owner
/// whose budget is used up causes no more reads. An event that only removes is let in if the roster
/// has something to remove. Returns the roster.
///
/// # Errors
/// `over_budget`, or a dependency failed.
pub async fn enter<S: Devices + Budgets, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    removes: bool,
) -> Result<Roster, Failure> {
    let roster = device_store::roster_or_new(context.store, owner).await?;
    let class = roster.class(context.now.to_seconds());
    let exists = removes && !roster.devices.is_empty();
    take_for_removal(context, owner, class, exists, 1).await?;
    Ok(roster)
}

/// Charges the owner for reading these rows.
///
/// # Errors
/// A dependency failed.
pub async fn charge_read<S: Budgets, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    class: OwnerClass,
    rows: &[Subscription],
) -> PortResult<()> {
    let bytes: usize = rows
        .iter()
        .map(|row| ROW_BYTES + row.filter.to_json().len())
        .sum();
    let units = u64::try_from(bytes / BYTES_READ_PER_UNIT).unwrap_or(u64::MAX);
    charge(context, owner, class, units).await
}

/// Takes units even if less is left. What comes later is then refused.
///
/// # Errors
/// A dependency failed.
pub async fn charge<S: Budgets, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    class: OwnerClass,
    units: u64,
) -> PortResult<()> {
    take_units(context, owner, class, units, false).await?;
    Ok(())
}

/// Takes units. Returns `false` if less is left.
///
/// # Errors
/// A dependency failed.
pub async fn try_take<S: Budgets, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    class: OwnerClass,
    units: u64,
) -> PortResult<bool> {
    take_units(context, owner, class, units, true).await
}

/// Takes from the owner's budget, and for newcomers also from the one that their class shares.
/// Unless this `may_refuse`, it takes the units even if less is left.
async fn take_units<S: Budgets, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    class: OwnerClass,
    units: u64,
    may_refuse: bool,
) -> PortResult<bool> {
    if units == 0 {
        return Ok(true);
    }
    let may_refuse = may_refuse && !context.is_repeated;
    let limit = |max| if may_refuse { max } else { u64::MAX };
    let (store, window) = (context.store, context.now.to_seconds().start_of_day());
    let shared = Shared::of(class, context.app);
    if may_refuse && shared.is_some_and(|shared| context.spent.is_spent(shared, window)) {
        return Ok(false);
    }
    let of_owner = limit(match class {
        OwnerClass::Stranger | OwnerClass::Known => NEWCOMER_UNITS,
        OwnerClass::Proven => PROVEN_UNITS,
    });
    let budget = format!("owner:{owner}");
    if !store.take(&budget, window, units, of_owner).await? {
        return Ok(false);
    }
    let Some(shared) = shared else {
        return Ok(true);
    };
    let of_all = limit(shared.units(context.limits));
    let is_taken = store.take(shared.name(), window, units, of_all).await?;
    if !is_taken && units <= SMALL_EVENT {
        context.spent.remember(shared, window);
    }
    Ok(is_taken)
}

/// A budget that several owners share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// That of all strangers.
    Strangers,
    /// That of all known owners who are not proven.
    Known,
}

impl Shared {
    /// The budget of this class, if its owners share one. Strangers whom the app has admitted by
    /// work, a grant or a list do not share with others.
    fn of(class: OwnerClass, app: &App) -> Option<Self> {
        let is_open = app.admission == Admission::Open;
        match class {
            OwnerClass::Stranger if is_open => Some(Self::Strangers),
            OwnerClass::Stranger | OwnerClass::Known => Some(Self::Known),
            OwnerClass::Proven => None,
        }
    }

    /// The name of the budget.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strangers => "strangers",
            Self::Known => "known",
        }
    }

    /// The units per day: a quarter of those of all newcomers for strangers, and the rest for known
    /// owners.
    pub fn units(self, limits: &Limits) -> u64 {
        let strangers = limits.newcomer_write_units / 4;
        match self {
            Self::Strangers => strangers,
            Self::Known => limits.newcomer_write_units - strangers,
        }
    }
}

/// Which shared budgets have nothing left for even a small event. They are not asked again on the
/// same day, because a refusal costs as much as a write.
#[derive(Debug, Default)]
pub struct SpentBudgets(Mutex<[Option<Seconds>; 2]>);

impl SpentBudgets {
    fn is_spent(&self, shared: Shared, window: Seconds) -> bool {
        self.days()[shared as usize] == Some(window)
    }

    fn remember(&self, shared: Shared, window: Seconds) {
        self.days()[shared as usize] = Some(window);
    }

    fn days(&self) -> MutexGuard<'_, [Option<Seconds>; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::{owner, subscription};
    use serde_json::json;

    use super::*;

    #[test]
    fn index_rows_above_one_kib_cost_two_units() {
        let tags: Vec<String> = (0..100).map(|n| format!("tag-{n}")).collect();
        let units = |authors: u32| {
            let authors: Vec<String> = (0..authors).map(|n| format!("{n:064x}")).collect();
            let filter = json!({"#t": tags, "authors": authors});
            of_index(&subscription(
                &owner(Keys::generate().public_key()),
                &filter,
            ))
        };
        // Filters above 1 KiB are not in the index rows.
        assert_eq!([1, 14, 16, 200].map(units), [100, 200, 100, 100]);
    }
}
