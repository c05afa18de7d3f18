//! Makes an owner's subscriptions follow the owner's devices and settings.
//!
//! Whoever changes a device or settings reconciles the owner afterwards. What must follow:
//!
//! - the derived subscriptions ([`derived`]);
//! - whether the owner's filters are in force or dormant ([`dormancy`]);
//! - whether all these rows say that the owner is proven;
//! - the roster: when the last device ends, and whether an active device is proven.
//!
//! Several processes may reconcile the same owner at the same time, with different devices. So each
//! reads the devices and settings again after its writes, until they have not changed. If a process
//! crashes before that, its message is received again.

use std::collections::BTreeSet;

use nostr_push_core::{
    device::{OwnerDevices, Roster},
    device_store,
    owner::{Owner, OwnerClass},
    ports::{Budgets, Devices, IndexWriter, OwnerSettings, PortResult, Subscriptions},
    settings::Settings,
    subscription::{Subscription, TOMBSTONE_TTL},
};

use crate::{
    budget,
    contention::{self, MAX_ATTEMPTS},
    context::EventContext,
    derived::{self, Change, Situation},
    devices::RegistrationOutcome,
    dormancy::{self, Doubt, Step},
};

/// Reconciles the owner of a registration, and the other owners whose devices it changed.
///
/// # Errors
/// A dependency failed: apply the event again from the start.
pub async fn reconcile_transfer<S, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    registered: Option<&RegistrationOutcome>,
) -> PortResult<()>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings + Budgets,
{
    let is_return = registered.is_some_and(|registered| registered.is_return);
    reconcile_all(context, owner, BTreeSet::new(), is_return).await?;
    for owner in registered.into_iter().flat_map(|r| &r.other_owners) {
        reconcile(context, owner).await?;
    }
    Ok(())
}

/// Reconciles the owner.
///
/// # Errors
/// A dependency failed: apply the event again from the start.
pub async fn reconcile<S, E>(context: &EventContext<'_, S, E>, owner: &Owner) -> PortResult<()>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings + Budgets,
{
    reconcile_touched(context, owner, BTreeSet::new()).await
}

/// Reconciles the owner. The index rows of the filters `touched` are written or deleted in any
/// case.
///
/// # Errors
/// A dependency failed: apply the event again from the start.
pub async fn reconcile_touched<S, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    touched: BTreeSet<String>,
) -> PortResult<()>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings + Budgets,
{
    reconcile_all(context, owner, touched, false).await
}

async fn reconcile_all<S, E>(
    context: &EventContext<'_, S, E>,
    owner: &Owner,
    touched: BTreeSet<String>,
    is_return: bool,
) -> PortResult<()>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings + Budgets,
{
    let mut reconciler = Reconciler {
        context,
        owner,
        doubt: Doubt::new(touched, context.is_repeated),
        may_rest: None,
        is_charged: false,
        is_return,
    };
    for _ in 0..MAX_ATTEMPTS {
        // The subscriptions are read first. A process that changes a device or the settings after
        // that reconciles as well, and finds what was written here.
        let stored = context.store.of_owner(owner).await?;
        let view = View::read(context.store, owner).await?;
        let class = view.owner_devices.class(context.now.to_seconds());
        budget::charge_read(context, owner, class, &stored).await?;
        match reconciler.pass(&stored, &view).await? {
            Pass::Unchanged => return Ok(()),
            Pass::Written if View::read(context.store, owner).await?.is_same(&view) => {
                return Ok(());
            }
            Pass::Written | Pass::Conflict => {}
        }
    }
    Err(contention::error())
}

/// What an owner's subscriptions follow.
struct View {
    owner_devices: OwnerDevices,
    settings: Option<Settings>,
}

impl View {
    async fn read(store: &(impl Devices + OwnerSettings), owner: &Owner) -> PortResult<Self> {
        Ok(Self {
            owner_devices: device_store::owner_devices(store, owner).await?,
            settings: store.settings(owner).await?,
        })
    }

    /// Returns `true` if no device and no settings have changed. It does not suffice that the
    /// subscriptions should be the same: devices may have come and gone in between.
    fn is_same(&self, other: &Self) -> bool {
        let order = |view: &Self| view.settings.as_ref().map(|settings| settings.order);
        self.owner_devices.versions() == other.owner_devices.versions()
            && order(self) == order(other)
    }
}

/// The result of one pass.
enum Pass {
    /// Everything was as it should be.
    Unchanged,
    /// Everything was written.
    Written,
    /// Another process has written one of the rows.
    Conflict,
}

struct Reconciler<'a, S, E> {
    context: &'a EventContext<'a, S, E>,
    owner: &'a Owner,
    doubt: Doubt,
    /// Whether filters that this message has not written may become dormant, once this is decided.
    may_rest: Option<bool>,
    /// `true` once the removals are charged.
    is_charged: bool,
    /// `true` if the owner may have returned just now ([`RegistrationOutcome::is_return`]). A
    /// process that has not seen this may be about to take out of force what is in force. So that
    /// is written again, once: what the process then writes is refused, and it reads again.
    is_return: bool,
}

impl<S, E> Reconciler<'_, S, E>
where
    S: Devices + Subscriptions + IndexWriter + OwnerSettings + Budgets,
{
    async fn pass(&mut self, stored: &[Subscription], view: &View) -> PortResult<Pass> {
        let (store, now) = (self.context.store, self.context.now);
        let devices = &view.owner_devices;
        let is_known = devices.active_until(now.to_seconds()).is_some();
        let is_proven = devices.has_proven(now.to_seconds());
        let (derived, own): (Vec<Subscription>, Vec<Subscription>) =
            stored.iter().cloned().partition(Subscription::is_derived);

        self.doubt.update(devices, now.to_seconds());
        let renews = self.is_return && dormancy::may_be_resting(&devices.roster, now.to_seconds());
        let mut steps = dormancy::steps(&own, is_known, is_proven, renews, &self.doubt, now);
        let rests = self
            .decide_on_rest(&mut steps, &own, &devices.roster)
            .await?;
        let settings = view.settings.as_ref();
        let desired = derived::desired(self.context.app, devices, settings, now.to_seconds());
        let situation = Situation {
            is_proven,
            renews: self.is_return,
            is_repeated: self.context.is_repeated,
        };
        let changes = derived::changes(self.owner, desired, &derived, now, situation);
        if !is_known && !self.is_charged {
            self.charge_removals(&changes, &devices.roster).await?;
            self.is_charged = true;
        }

        // The roster first, so that the matcher stops at once when the last device has ended.
        let roster = self.roster(devices, rests);
        let mut is_written = false;
        if roster != devices.roster {
            if !store.commit(None, Some(&roster)).await? {
                return Ok(Pass::Conflict);
            }
            is_written = true;
        }
        for change in changes {
            if !change.apply(store).await? {
                return Ok(Pass::Conflict);
            }
            is_written = true;
        }
        for step in steps {
            self.doubt.touched.insert(step.row().identity.clone());
            if !step.apply(store).await? {
                return Ok(Pass::Conflict);
            }
            is_written = true;
        }
        self.is_return = false;
        Ok(if is_written {
            Pass::Written
        } else {
            Pass::Unchanged
        })
    }

    /// Takes the steps out by which filters would become dormant too often, or for which no budget
    /// is left. Returns `true` if filters become dormant.
    ///
    /// This is never a refusal: filters that stay in force without a device cause no push.
    async fn decide_on_rest(
        &mut self,
        steps: &mut Vec<Step>,
        own: &[Subscription],
        roster: &Roster,
    ) -> PortResult<bool> {
        let touched = self.doubt.touched.clone();
        // What this message has brought into force with devices that have ended since, it undoes.
        let is_rest =
            |step: &Step| matches!(step, Step::Rest(row, _) if !touched.contains(&row.identity));
        let units: u64 = steps
            .iter()
            .filter(|step| is_rest(step))
            .map(|step| budget::of_subscription(step.row()))
            .sum();
        if units == 0 {
            return Ok(false);
        }
        let may_rest = match self.may_rest {
            Some(may_rest) => may_rest,
            None => self.doubt.continues_rest() || self.pay_for_rest(units, roster).await?,
        };
        self.may_rest = Some(may_rest);
        if !may_rest {
            steps.retain(|step| !is_rest(step));
            steps.extend(dormancy::losses_of_proof(own, &touched, self.context.now));
        }
        Ok(may_rest)
    }

    async fn pay_for_rest(&self, units: u64, roster: &Roster) -> PortResult<bool> {
        let context = self.context;
        Ok(dormancy::is_due(roster, context.now.to_seconds())
            && budget::try_take(context, self.owner, last_class(roster), units).await?)
    }

    /// Charges the owner for the index rows that go with the last device.
    async fn charge_removals(&self, changes: &[Change], roster: &Roster) -> PortResult<()> {
        let units = changes.iter().map(Change::units);
        let class = last_class(roster);
        budget::charge(self.context, self.owner, class, units.sum()).await
    }

    /// The roster that follows from the devices.
    fn roster(&self, devices: &OwnerDevices, rests: bool) -> Roster {
        let now = self.context.now.to_seconds();
        let (active_until, proven) = (devices.active_until(now), devices.has_proven(now));
        let mut roster = devices
            .roster
            .clone()
            .with_standing(active_until, proven, now);
        if rests {
            roster.dormant_at = Some(now);
            roster.expires_at = roster.expires_at.max(now + TOMBSTONE_TTL);
        }
        roster
    }
}

/// The class of an owner before the last device ended.
fn last_class(roster: &Roster) -> OwnerClass {
    if roster.proven {
        OwnerClass::Proven
    } else {
        OwnerClass::Known
    }
}
