//! Profiles: deliver asks for people and groups, and this task requests their names and pictures
//! from relays.
//!
//! It has connections of its own, which last some seconds and are never authenticated. So a relay
//! that refuses such requests delays no event, and nothing that only members may read is shown to
//! others.
//!
//! - `sources`: which relays are asked
//! - `fetch`: one connection to one relay
//! - `answer`: the profiles in what a relay sends
//!
//! The task holds at most ten requests and twelve connections: one for each request, and two to the
//! operator's relays. A connection holds at most
//! [`MAX_HELD_BYTES`](crate::frame::MAX_HELD_BYTES) and the names and pictures that were asked for:
//! together about 4 MB.

mod answer;
mod fetch;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use nostr_push_core::{
    Millis,
    ports::{Inbox, PortResult, ProfileWriter, Received, backoff},
    profile::{ProfileKey, ProfileRequest, ProfileUpdate},
};
use tokio::time::{Instant, sleep_until};

pub use sources::ProfileSources;

use self::{
    answer::Answer,
    fetch::{FETCH_TIMEOUT, Fetch},
    sources::Source,
};
use crate::{
    counter::{Count, ListenerCounter, ProfileReason},
    options::Options,
    shutdown::Shutdown,
};

/// The shortest time per request: 60 requests a minute.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two attempts to receive requests. SQS itself waits for messages.
const RECEIVE_INTERVAL: Duration = Duration::from_secs(1);

/// The most relays that are asked for a person.
const MAX_SOURCES: usize = 3;

/// The most times that a request is received if no relay answers. The visibility timeout of the
/// queue passes between two receives.
const MAX_RECEIVES: u32 = 2;

/// Requests profiles.
pub struct ProfileRequests<I, S> {
    /// What deliver asks for.
    pub inbox: I,
    /// The table of profiles.
    pub store: S,
    /// Which relays may be asked.
    pub sources: ProfileSources,
    /// The shortest time per request. A batch of ten takes at least ten times as long.
    pub interval: Duration,
    /// How long a relay may take.
    pub timeout: Duration,
    /// Adds to a counter.
    pub count: Count,
    /// The current time.
    pub clock: fn() -> Millis,
}

/// A profile that a batch asks for.
struct Wanted {
    key: ProfileKey,
    /// The receipts of its requests.
    receipts: Vec<String>,
    /// How often one of its requests was received.
    receive_count: u32,
    /// The relays to ask.
    sources: Vec<Source>,
    /// `true` if a relay has answered.
    is_answered: bool,
    /// The newest that a relay has returned.
    found: Option<ProfileUpdate>,
}

impl Wanted {
    /// Adds the answer of a relay. The relay may have an older profile than others.
    fn add(&mut self, answer: &mut Answer<'_>) {
        self.is_answered |= answer.is_complete(&self.key);
        if let Some(update) = answer.take(&self.key) {
            let is_newest = |found: &ProfileUpdate| update.order.supersedes(&found.order);
            if self.found.as_ref().is_none_or(is_newest) {
                self.found = Some(update);
            }
        }
    }
}

impl<I, S> ProfileRequests<I, S> {
    /// Requests profiles for a listener with these options.
    pub fn new(inbox: I, store: S, options: &Options, count: Count, clock: fn() -> Millis) -> Self {
        Self {
            inbox,
            store,
            sources: ProfileSources::new(&options.relays, options.allow_private),
            interval: REQUEST_INTERVAL,
            timeout: FETCH_TIMEOUT,
            count,
            clock,
        }
    }
}

impl<I: Inbox<ProfileRequest>, S: ProfileWriter> ProfileRequests<I, S> {
    /// Handles requests until a stop is requested, and then ends at once. A request that is not
    /// finished is received again.
    pub async fn run(self, mut shutdown: Shutdown) {
        tokio::select! {
            () = self.receive() => {}
            () = shutdown.stop_requested() => {}
        }
    }

    /// Receives and handles requests. Never returns.
    async fn receive(&self) {
        let mut failures = 0;
        loop {
            let mut next_at = Instant::now() + RECEIVE_INTERVAL;
            let handled = match self.inbox.receive().await {
                Ok(received) if received.is_empty() => Ok(()),
                Ok(received) => {
                    let requests = u32::try_from(received.len()).unwrap_or(u32::MAX);
                    next_at = Instant::now() + self.interval * requests;
                    self.handle(received).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = handled {
                failures += 1;
                next_at = next_at.max(Instant::now() + backoff(failures, 0.5));
                tracing::warn!(
                    stage = "listener",
                    dependency = error.dependency,
                    "requests for profiles stay in the queue: {error}"
                );
            } else {
                failures = 0;
            }
            sleep_until(next_at).await;
        }
    }

    /// Asks relays for the profiles of a batch, stores what they return, and deletes the requests
    /// that are finished.
    ///
    /// # Errors
    /// The table or the queue failed. The requests stay in the queue.
    async fn handle(&self, received: Vec<Received<ProfileRequest>>) -> PortResult<()> {
        let mut batch = self.batch(received);
        let allowed = batch.iter().filter(|wanted| !wanted.sources.is_empty());
        self.count(ProfileReason::Requested, allowed.count());
        let fetches = fetches(&batch);
        let now = (self.clock)().to_seconds();
        let answers = fetches
            .iter()
            .map(|(source, keys)| Fetch { source, keys }.run(now, self.timeout));
        let answers = join_all(answers).await;
        for ((_, keys), mut answer) in fetches.iter().zip(answers) {
            for wanted in batch.iter_mut().filter(|w| keys.contains(&w.key)) {
                wanted.add(&mut answer);
            }
        }
        self.finish(batch).await
    }

    /// The profiles of a batch. Two requests for the same profile are one.
    fn batch(&self, received: Vec<Received<ProfileRequest>>) -> Vec<Wanted> {
        let mut batch: BTreeMap<ProfileKey, Wanted> = BTreeMap::new();
        for Received {
            message,
            receipt,
            receive_count,
        } in received
        {
            let sources = self.sources.of(&message);
            let wanted = batch.entry(message.key.clone()).or_insert_with(|| Wanted {
                key: message.key,
                receipts: Vec::new(),
                receive_count: 0,
                sources: Vec::new(),
                is_answered: false,
                found: None,
            });
            wanted.receipts.push(receipt);
            wanted.receive_count = wanted.receive_count.max(receive_count);
            for source in sources {
                if wanted.sources.len() < MAX_SOURCES && !wanted.sources.contains(&source) {
                    wanted.sources.push(source);
                }
            }
        }
        batch.into_values().collect()
    }

    /// Stores the profiles that were found, and deletes the requests that are finished: a relay has
    /// answered, none may be asked, or none answered for the second time. A later push makes the
    /// request again.
    async fn finish(&self, batch: Vec<Wanted>) -> PortResult<()> {
        let (mut finished, mut stored) = (Vec::new(), Ok(()));
        for wanted in batch {
            let reason = match &wanted.found {
                Some(_) if stored.is_err() => continue,
                Some(update) => match self.put(update).await {
                    Ok(reason) => reason,
                    Err(error) => {
                        stored = Err(error);
                        continue;
                    }
                },
                None if wanted.is_answered => ProfileReason::NotFound,
                None if wanted.sources.is_empty() => ProfileReason::NotAllowed,
                None => ProfileReason::Unanswered,
            };
            self.count(reason, 1);
            if reason != ProfileReason::Unanswered || wanted.receive_count >= MAX_RECEIVES {
                finished.extend(wanted.receipts);
            }
        }
        self.inbox.delete(&finished).await.and(stored)
    }

    async fn put(&self, update: &ProfileUpdate) -> PortResult<ProfileReason> {
        let now = (self.clock)().to_seconds();
        let is_written = self.store.put_profile(update, now).await?;
        Ok(if is_written {
            ProfileReason::Stored
        } else {
            ProfileReason::Outdated
        })
    }

    fn count(&self, reason: ProfileReason, n: usize) {
        if n > 0 {
            (self.count)(ListenerCounter::Profile(reason), n as u64);
        }
    }
}

/// The relays to ask, with the profiles to ask each for.
fn fetches(batch: &[Wanted]) -> BTreeMap<Source, BTreeSet<ProfileKey>> {
    let mut fetches: BTreeMap<Source, BTreeSet<ProfileKey>> = BTreeMap::new();
    for wanted in batch {
        for source in &wanted.sources {
            let keys = fetches.entry(source.clone()).or_default();
            keys.insert(wanted.key.clone());
        }
    }
    fetches
}
