//! The owner's filters are in force only while the owner has an active device.
//!
//! When the last device ends, the filters become dormant and lose their index rows; a registration
//! brings them into force again. Both happen without a new event, so the rows keep their order, and
//! two processes that have read different devices could leave an active row without its index rows.
//! So whoever has written a row reads the devices again, and if they have changed, writes the row
//! once more with its index rows ([`Doubt::touched`]).
//!
//! Filters become dormant at most once in [`DORMANCY_INTERVAL`]. Otherwise an owner who registers
//! and deregisters in turns would cause thousands of writes with small events. In between, filters
//! stay in force without a device. The matcher queues nothing for such an owner.

use std::collections::BTreeSet;

use nostr_push_core::{
    Millis, Seconds,
    device::{OwnerDevices, Roster},
    ports::{IndexWriter, PortResult, Subscriptions},
    subscription::{Subscription, SubscriptionState},
};

use crate::{
    derived,
    subscriptions::{self, REDELIVERY_WINDOW},
};

/// The shortest time between two times at which an owner's filters become dormant.
pub const DORMANCY_INTERVAL: Seconds = Seconds::from_days(7);

/// How long a process may still be making filters dormant after the roster says so. It is longer
/// than the function can run.
const REST_WINDOW: Seconds = Seconds::from_minutes(1);

/// The rows whose index rows may not be those that the row needs.
pub struct Doubt {
    /// The identities of rows that this message has written, or may have written in an attempt that
    /// crashed.
    pub touched: BTreeSet<String>,
    /// `true` if an earlier attempt may have crashed while filters became dormant.
    crashed_at_rest: bool,
    /// `true` if an earlier attempt may have crashed while filters came into force.
    crashed_at_wake: bool,
    /// `true` if the message was received before.
    is_repeated: bool,
}

impl Doubt {
    /// Without an earlier attempt, only `touched` is in doubt.
    pub fn new(touched: BTreeSet<String>, is_repeated: bool) -> Self {
        Self {
            touched,
            crashed_at_rest: false,
            crashed_at_wake: false,
            is_repeated,
        }
    }

    /// Finds out what an earlier attempt may have been doing.
    pub fn update(&mut self, owner_devices: &OwnerDevices, now: Seconds) {
        let is_recent = |time: Seconds| self.is_repeated && time + REDELIVERY_WINDOW > now;
        let registrations = owner_devices
            .devices
            .iter()
            .filter_map(|device| device.registration.as_ref());
        let mut registered = registrations.map(|registration| registration.registered_at);
        self.crashed_at_wake = registered.any(is_recent);
        self.crashed_at_rest = owner_devices.roster.dormant_at.is_some_and(is_recent);
    }

    /// Returns `true` if filters may become dormant, although they did a short time ago.
    pub fn continues_rest(&self) -> bool {
        self.crashed_at_rest
    }
}

/// Returns `true` if the owner's filters have not become dormant for [`DORMANCY_INTERVAL`].
pub fn is_due(roster: &Roster, now: Seconds) -> bool {
    roster
        .dormant_at
        .is_none_or(|at| at + DORMANCY_INTERVAL <= now)
}

/// Returns `true` if another process may still be making filters dormant that are in force.
pub fn may_be_resting(roster: &Roster, now: Seconds) -> bool {
    roster.dormant_at.is_some_and(|at| at + REST_WINDOW > now)
}

/// The change of one filter. The time is the `changed_at` of the row that was read.
pub enum Step {
    /// Write the index rows and then the row: it is in force.
    Wake(Subscription, Millis),
    /// Write the row: it is dormant. Then delete the index rows.
    Rest(Subscription, Millis),
    /// Write the row, which differs at most in whether the owner is proven. Another process that is
    /// about to make it dormant finds it changed.
    Prove(Subscription, Millis),
    /// Delete index rows that a crash may have left.
    DeleteIndex(Subscription),
}

impl Step {
    /// The row.
    pub fn row(&self) -> &Subscription {
        match self {
            Self::Wake(row, _)
            | Self::Rest(row, _)
            | Self::Prove(row, _)
            | Self::DeleteIndex(row) => row,
        }
    }

    /// Applies the step. Returns `false` if another row is stored by now.
    ///
    /// # Errors
    /// A dependency failed.
    pub async fn apply(&self, store: &(impl Subscriptions + IndexWriter)) -> PortResult<bool> {
        match self {
            Self::Wake(row, read) => subscriptions::wake(store, row, *read).await,
            Self::Rest(row, read) => subscriptions::rest(store, row, *read).await,
            Self::Prove(row, read) => store.replace(row, *read).await,
            Self::DeleteIndex(row) => {
                subscriptions::delete_index(store, row).await?;
                Ok(true)
            }
        }
    }
}

/// The steps after which the owner's filters follow the owner's devices. If `renews`, they are in
/// force afterwards whatever another process with earlier devices is doing.
pub fn steps(
    rows: &[Subscription],
    is_known: bool,
    is_proven: bool,
    renews: bool,
    doubt: &Doubt,
    now: Millis,
) -> Vec<Step> {
    let step = |row: &Subscription| {
        let is_active = row.is_active(now.to_seconds());
        let is_dormant = row.is_dormant(now.to_seconds());
        let is_touched = doubt.touched.contains(&row.identity);
        let with = |state| Subscription {
            state,
            ..derived::proven(row.clone(), is_known && is_proven, now)
        };
        if is_known {
            if is_dormant || (is_active && (is_touched || doubt.crashed_at_rest)) {
                let mut awake = with(SubscriptionState::Active);
                if is_dormant && !row.is_waiting(now.to_seconds()) {
                    // What came while there was no device must not notify now.
                    awake.since = awake.since.max(now.to_seconds());
                }
                return Some(Step::Wake(awake, row.changed_at));
            }
            if is_active && (renews || row.proven != is_proven) {
                return Some(Step::Prove(with(SubscriptionState::Active), row.changed_at));
            }
        } else if is_active {
            let until = row.valid_until;
            return Some(Step::Rest(
                with(SubscriptionState::Dormant { until }),
                row.changed_at,
            ));
        } else if is_dormant && (is_touched || doubt.crashed_at_wake) {
            return Some(Step::DeleteIndex(with_starts_until(row, now.to_seconds())));
        }
        let is_left = doubt.is_repeated && subscriptions::is_just_removed(row, now);
        is_left.then(|| Step::DeleteIndex(row.clone()))
    };
    rows.iter().filter_map(step).collect()
}

/// The row with a start of now: its index rows are deleted, but not those of a later return.
fn with_starts_until(row: &Subscription, now: Seconds) -> Subscription {
    Subscription {
        since: row.since.max(now),
        ..row.clone()
    }
}

/// The steps for filters that stay in force although the owner has no device. They do not count as
/// those of a proven owner.
pub fn losses_of_proof(
    rows: &[Subscription],
    touched: &BTreeSet<String>,
    now: Millis,
) -> Vec<Step> {
    let lose = |row: &&Subscription| {
        row.is_active(now.to_seconds()) && row.proven && !touched.contains(&row.identity)
    };
    let rows = rows.iter().filter(lose);
    rows.map(|row| Step::Prove(derived::proven(row.clone(), false, now), row.changed_at))
        .collect()
}
