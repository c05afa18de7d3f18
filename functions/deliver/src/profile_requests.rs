//! Requests for profiles that a push could not show, or that are old. The listener answers them.
//!
//! Only a push that a device got leads to requests. The delivery that claims a profile requests it.
//! Hourly budgets limit the requests for new profiles: one for each recipient, one for all
//! newcomers, and one for all proven recipients. So an author who invents keys uses up the budget
//! of one recipient. Refreshing a stored name takes from another budget, so invented authors who
//! have no profile do not prevent it.

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

/// The most requests per hour for profiles without a stored name, for one recipient under one app.
pub const PER_RECIPIENT: u64 = 30;

/// The same for all recipients without a proven device.
pub const FOR_NEWCOMERS: u64 = 100;

/// The same for all recipients with a proven device.
pub const FOR_PROVEN: u64 = 1_000;

/// The most requests per hour for profiles with a stored name.
pub const FOR_REFRESHES: u64 = 1_000;

/// How long a delivery spends on requests. Its push is out already.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The most budgets that an instance remembers.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The used-up budgets that an instance remembers, and the number of refusals.
#[derive(Debug)]
pub struct RequestBudgets {
    /// The budgets that are used up, each with its hour. They are not charged again in that hour,
    /// because a failed attempt also costs a write.
    spent: Mutex<LruCache<String, Seconds>>,
    /// Requests that a shared budget refused.
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
    /// The number of requests that a shared budget refused since the last call.
    pub fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    /// Returns `true` if one of the budgets is known to be used up.
    fn refuse(&self, required: &[Budget], hour: Seconds) -> bool {
        let is_spent = |budget: &&Budget| self.spent().get(&budget.name) == Some(&hour);
        let spent = required.iter().find(is_spent);
        spent.inspect(|budget| self.count_refused(budget)).is_some()
    }

    /// Takes one request from each budget. Returns `false` if one of them is used up.
    async fn take(
        &self,
        store: &impl Budgets,
        required: &[Budget],
        hour: Seconds,
    ) -> PortResult<bool> {
        for budget in required {
            if !store.take(&budget.name, hour, 1, budget.max).await? {
                self.spent().put(budget.name.clone(), hour);
                self.count_refused(budget);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn spent(&self) -> MutexGuard<'_, LruCache<String, Seconds>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_refused(&self, budget: &Budget) {
        if budget.is_shared {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
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

/// The budgets from which the request for a profile is taken.
fn required_budgets(delivery: &Delivery, has_name: bool, is_proven: bool) -> Vec<Budget> {
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

/// Requests the profiles that are due. A failure is only logged. If the claim was given back, the
/// next push requests the profile. If it was not (a crash, the time limit, or a failed release),
/// the profile is requested once it is due again.
pub async fn request_due<S: Budgets + Profiles>(
    store: &S,
    queue: &impl Queue<ProfileRequest>,
    budgets: &RequestBudgets,
    delivery: &Delivery,
    names: &Names,
    (is_proven, now): (bool, Seconds),
) {
    let hour = now.start_of_hour();
    let requests = async {
        for (key, has_name) in names.due(now) {
            let required = required_budgets(delivery, has_name, is_proven);
            if budgets.refuse(&required, hour) || !store.claim_request(key, now).await? {
                continue;
            }
            let sent = match budgets.take(store, &required, hour).await {
                Ok(true) => queue.send(&[request(key, delivery)]).await.map(|()| true),
                refused => refused,
            };
            if !matches!(sent, Ok(true)) {
                store.release_request(key, now).await?;
            }
            sent?;
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
