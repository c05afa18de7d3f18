//! Whether an event's author may be an owner: the blocklist, the app's admission and the stack's
//! capacity.

use nostr_push_core::{
    Seconds,
    admission::{Admission, admits},
    app::App,
    capacity::Caps,
    owner::OwnerClass,
    ports::{Blocklist, Devices, PortResult, Usages},
};

use crate::{check::AddressedEvent, context::Limits, outcome::Failure, refusal::Refusal};

/// How full the stack is, in percent, when new owners are refused.
const FULL_FOR_NEW_OWNERS: u64 = 100;

/// How full the stack is, in percent, when further filters of proven owners are refused as well.
/// Those of other owners are refused together with new owners, so that invented tokens cannot take
/// this reserve.
const FULL_FOR_PROVEN_OWNERS: u64 = 120;

/// Checks whether the author of an event may be an owner. An owner with an active device is one
/// already.
///
/// The roster is read only if it makes a difference, so a heartbeat usually costs no read here.
///
/// # Errors
/// `not_admitted`, `at_capacity`, or a dependency failed.
pub async fn check(
    store: &(impl Devices + Blocklist + Usages),
    limits: &Limits,
    addressed: &AddressedEvent<'_>,
    app: &App,
    now: Seconds,
) -> Result<(), Failure> {
    if store.is_blocked(&addressed.owner.pubkey).await? {
        return Err(Refusal::NotAdmitted.into());
    }
    let is_full = percent_used(store, &limits.caps).await? >= FULL_FOR_NEW_OWNERS;
    if app.admission == Admission::Open && !is_full {
        return Ok(());
    }
    let roster = store.roster(&addressed.owner).await?;
    if roster.is_some_and(|roster| roster.active_until > now) {
        return Ok(());
    }
    if !admits(app, &addressed.event, now) {
        return Err(Refusal::NotAdmitted.into());
    }
    if is_full {
        return Err(Refusal::AtCapacity.into());
    }
    Ok(())
}

/// Refuses further filters of an owner of this class if the stack is full.
///
/// # Errors
/// `at_capacity`, or a dependency failed.
pub async fn check_further_filters(
    store: &impl Usages,
    limits: &Limits,
    class: OwnerClass,
) -> Result<(), Failure> {
    let full = match class {
        OwnerClass::Stranger | OwnerClass::Known => FULL_FOR_NEW_OWNERS,
        OwnerClass::Proven => FULL_FOR_PROVEN_OWNERS,
    };
    if percent_used(store, &limits.caps).await? >= full {
        return Err(Refusal::AtCapacity.into());
    }
    Ok(())
}

/// How full the stack is, in percent. 0 until a listener has counted.
async fn percent_used(store: &impl Usages, caps: &Caps) -> PortResult<u64> {
    let usage = store.usage().await?;
    Ok(usage.map_or(0, |usage| usage.percent(caps)))
}
