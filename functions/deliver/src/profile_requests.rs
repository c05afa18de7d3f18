//! Requests for profiles that a push could not show, or that are old. The listener answers them.
//!
//! Only a push that a device got leads to requests. Each profile is requested once, by the delivery
//! that claims it. Hourly budgets bound the requests: an author who invents keys uses up those of
//! one recipient, and many such recipients together those of all recipients with the same standing
//! until the next hour. Stored names have a budget of their own, so they are refreshed all the
//! same.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lru::LruCache;
use nostr_push_core::{
    Seconds,
    message::Delivery,
    ports::{Budgets, PortResult, Profiles, Queue},
    profile::{ProfileKey, ProfileRequest},
};
use tokio::time::timeout;

use crate::names::Names;

/// The most new profiles per hour for one recipient under one app.
pub const PER_RECIPIENT: u64 = 30;

/// The most new profiles per hour for all recipients without a proven device.
pub const FOR_NEWCOMERS: u64 = 100;

/// The most new profiles per hour for all recipients with a proven device.
pub const FOR_PROVEN: u64 = 1_000;

/// The most refreshed profiles per hour.
pub const FOR_REFRESHES: u64 = 1_000;

/// How long a delivery spends on requests. Its push is out already.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The most budgets that an instance remembers.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// What an instance knows of the budgets.
#[derive(Debug)]
pub struct RequestBudgets {
    /// The budgets that were found empty, and the hour in which they were. They are not asked again
    /// in that hour, because a failed attempt costs a write as well.
    spent: Mutex<LruCache<String, Seconds>>,
    /// The profiles that were not requested because a shared budget is used up.
    refused: AtomicU64,
}

impl Default for RequestBudgets {
    fn default() -> Self {
        Self {
            spent: Mutex::new(LruCache::new(MAX_REMEMBERED)),
            refused: AtomicU64::new(0),
        }
    }
}

impl RequestBudgets {
    /// The number of profiles that were not requested because a shared budget is used up, since the
    /// last call.
    pub fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    fn is_spent(&self, budget: &Budget, hour: Seconds) -> bool {
        self.spent().get(&budget.name) == Some(&hour)
    }

    fn spent(&self) -> MutexGuard<'_, LruCache<String, Seconds>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_refused(&self, budget: &Budget) {
        if budget.is_shared {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes one request from each budget. Returns `false` if one of them is used up.
    async fn take(
        &self,
        store: &impl Budgets,
        budgets: &[Budget],
        hour: Seconds,
    ) -> PortResult<bool> {
        for budget in budgets {
            if !store.take(&budget.name, hour, 1, budget.max).await? {
                self.spent().put(budget.name.clone(), hour);
                self.count_refused(budget);
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// An hourly budget.
struct Budget {
    name: String,
    max: u64,
    is_shared: bool,
}

impl Budget {
    fn shared(name: &str, max: u64) -> Self {
        Self {
            name: format!("profiles#{name}"),
            max,
            is_shared: true,
        }
    }
}

/// The budgets for a profile.
fn budgets(delivery: &Delivery, has_name: bool, is_proven: bool) -> Vec<Budget> {
    if has_name {
        return vec![Budget::shared("refreshes", FOR_REFRESHES)];
    }
    let own = Budget {
        name: format!("profiles#{}#{}", delivery.app, delivery.recipient),
        max: PER_RECIPIENT,
        is_shared: false,
    };
    let shared = if is_proven {
        Budget::shared("proven", FOR_PROVEN)
    } else {
        Budget::shared("newcomers", FOR_NEWCOMERS)
    };
    vec![own, shared]
}

/// Requests the profiles that are due. A failure is only logged: a later push requests them.
pub async fn request_due<S: Budgets + Profiles>(
    store: &S,
    queue: &impl Queue<ProfileRequest>,
    known: &RequestBudgets,
    delivery: &Delivery,
    names: &Names,
    (is_proven, now): (bool, Seconds),
) {
    let hour = now.start_of_hour();
    let requests = async {
        for (key, has_name) in names.due(now) {
            let budgets = budgets(delivery, has_name, is_proven);
            if let Some(spent) = budgets.iter().find(|budget| known.is_spent(budget, hour)) {
                known.count_refused(spent);
                continue;
            }
            if !store.claim_request(key, now).await? {
                continue;
            }
            let is_sent = async {
                if !known.take(store, &budgets, hour).await? {
                    return Ok(false);
                }
                queue.send(&[request(key, delivery)]).await?;
                PortResult::Ok(true)
            };
            let is_sent = is_sent.await;
            if !matches!(is_sent, Ok(true)) {
                store.release_request(key, now).await?;
            }
            is_sent?;
        }
        PortResult::Ok(())
    };
    match timeout(TIME_LIMIT, requests).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            stage = "deliver",
            dependency = error.dependency,
            "a profile is not requested: {error}"
        ),
        Err(_) => tracing::warn!(stage = "deliver", "a profile is not requested: timeout"),
    }
}

fn request(key: &ProfileKey, delivery: &Delivery) -> ProfileRequest {
    ProfileRequest {
        key: key.clone(),
        relay: delivery.relay.clone(),
    }
}
