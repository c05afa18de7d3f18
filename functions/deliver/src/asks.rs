//! Asking the listener for profiles that a push could not show, or that are old.
//!
//! Only a push that a device got asks, and budgets bound how many are asked for in a day. So an
//! author who invents keys makes the service ask for few of them, and takes nothing from others.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nostr_push_core::{
    Seconds,
    message::Delivery,
    ports::{Budgets, PortResult, Profiles, Queue},
    profile::ProfileRequest,
};

use crate::names::Names;

/// The most requests per day for one recipient under one app.
pub const PER_RECIPIENT: u64 = 100;

/// The most requests per day for all recipients without a proven device.
pub const FOR_NEWCOMERS: u64 = 1_000;

/// The most requests per day for all recipients with a proven device.
pub const FOR_PROVEN: u64 = 10_000;

/// The shared budgets that an instance has found empty, and the day on which it did. They are not
/// asked again on that day, because a failed attempt costs a write as well.
#[derive(Debug, Default)]
pub struct SpentBudgets(Mutex<BTreeMap<&'static str, Seconds>>);

impl SpentBudgets {
    fn is_spent(&self, budget: &'static str, day: Seconds) -> bool {
        self.days().get(budget) == Some(&day)
    }

    fn days(&self) -> MutexGuard<'_, BTreeMap<&'static str, Seconds>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for the profiles that are due. A failure is only logged: a later push asks again.
///
/// The request is sent before it is marked. After a crash in between, the profile is requested
/// twice.
pub async fn ask<S: Budgets + Profiles>(
    store: &S,
    queue: &impl Queue<ProfileRequest>,
    spent: &SpentBudgets,
    delivery: &Delivery,
    names: &Names,
    (is_proven, now): (bool, Seconds),
) {
    for key in names.due(now) {
        let asked = async {
            if !take(store, spent, delivery, is_proven, now).await? {
                return Ok(false);
            }
            let request = ProfileRequest {
                key: key.clone(),
                relay: delivery.relay.clone(),
            };
            queue.send(&[request]).await?;
            store.mark_asked(key, now).await?;
            PortResult::Ok(true)
        };
        match asked.await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(
                    stage = "deliver",
                    dependency = error.dependency,
                    "a profile is not requested: {error}"
                );
                return;
            }
        }
    }
}

/// Takes one request from the budgets of the day. Returns `false` if one of them is used up.
async fn take(
    store: &impl Budgets,
    spent: &SpentBudgets,
    delivery: &Delivery,
    is_proven: bool,
    now: Seconds,
) -> PortResult<bool> {
    let day = now.start_of_day();
    let (shared, max) = if is_proven {
        ("profiles#proven", FOR_PROVEN)
    } else {
        ("profiles#newcomers", FOR_NEWCOMERS)
    };
    if spent.is_spent(shared, day) {
        return Ok(false);
    }
    let own = format!("profiles#{}#{}", delivery.app, delivery.recipient);
    if !store.take(&own, day, 1, PER_RECIPIENT).await? {
        return Ok(false);
    }
    let is_taken = store.take(shared, day, 1, max).await?;
    if !is_taken {
        spent.days().insert(shared, day);
    }
    Ok(is_taken)
}
