//! Decides which relays this task watches, and starts and stops watching them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use nostr_push_core::{
    Seconds,
    ports::{Members, Relays, Usages},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    checkpoint::Checkpoints,
    feed::FeedView,
    members::Membership,
    options::Options,
    relay,
    relay_context::RelayContext,
    shutdown::{Shutdown, StopHandle},
    usage::UsageRecorder,
    watched_relay::{RelaySource, WatchedRelay},
};

/// How often the watched relays are compared with those that must be watched.
const UPDATE_INTERVAL: Duration = Duration::from_millis(500);

/// Watches the relays of this task.
pub struct RelayWatcher<S> {
    options: Options,
    view: FeedView,
    /// The relays of owners that are watched by all tasks together.
    owners_relays: Option<ChosenRelays>,
    store: S,
    membership: Membership<S>,
    /// The relays that this task watches, by URL.
    relays: BTreeMap<String, (Arc<WatchedRelay>, StopHandle)>,
    tasks: JoinSet<()>,
    checkpoints: Checkpoints<S>,
    usage: UsageRecorder,
}

/// The owners' relays that have a slot.
struct ChosenRelays {
    /// The version of the requested relays from which they were chosen.
    version: u64,
    /// When they were chosen.
    chosen_at: Seconds,
    relays: Vec<String>,
}

impl<S: Relays + Members + Usages + Clone> RelayWatcher<S> {
    /// A watcher that has not connected to any relay.
    pub fn new(options: Options, store: S, view: FeedView, context: &RelayContext) -> Self {
        Self {
            membership: Membership::new(store.clone(), options.member.clone()),
            checkpoints: Checkpoints::new(
                store.clone(),
                Arc::clone(&context.gate),
                context.health.buffers.to_vec(),
            ),
            options,
            view,
            owners_relays: None,
            store,
            relays: BTreeMap::new(),
            tasks: JoinSet::new(),
            usage: UsageRecorder::default(),
        }
    }

    /// Watches relays and stores their cursors. Returns only if the task of a relay panics.
    pub async fn run(&mut self, context: &RelayContext) -> String {
        let mut tick = interval(UPDATE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(Err(panic)) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    return panic.to_string();
                }
            }
            let now = context.now();
            self.membership.renew_if_due(now).await;
            self.update(context, now).await;
            let relays = self.relays.values().map(|(relay, _)| relay);
            self.checkpoints.update(relays, now).await;
            self.usage
                .record_if_due(&self.store, &self.view, &context.health, now)
                .await;
        }
    }

    /// Starts and stops watching, so that exactly the relays of this task are watched.
    async fn update(&mut self, context: &RelayContext, now: Seconds) {
        let assigned = self.assigned_relays(now);
        self.stop_all_except(&assigned.iter().map(|(url, _)| url).collect());
        context
            .health
            .watched
            .store(assigned.len(), Ordering::SeqCst);
        for (url, source) in assigned {
            if !self.relays.contains_key(&url) {
                self.start(url, source, context, now).await;
            }
        }
    }

    /// The URLs of the relays that this task must watch, each with who named it.
    fn assigned_relays(&mut self, now: Seconds) -> Vec<(String, RelaySource)> {
        self.choose_owners_relays(now);
        let operators = self.options.relays.iter();
        let operators = operators.map(|url| (url, RelaySource::Operator));
        let owners = self.owners_relays.iter().flat_map(|chosen| &chosen.relays);
        let source = RelaySource::Owners {
            only_public: !self.options.allow_private,
        };
        let owners = owners.map(|url| (url, source));
        operators
            .chain(owners)
            .filter(|(url, _)| self.membership.owns(url))
            .map(|(url, source)| (url.clone(), source))
            .collect()
    }

    /// Chooses the relays of owners again if the requested relays have changed. With very many
    /// owners, the choice takes a while and is made less often.
    fn choose_owners_relays(&mut self, now: Seconds) {
        let requested = self
            .view
            .requested_relays
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_current = self.owners_relays.as_ref().is_some_and(|chosen| {
            chosen.version == requested.version()
                || now < chosen.chosen_at + requested.choice_interval()
        });
        if !is_current {
            let max = self.options.max_owners_relays;
            self.owners_relays = Some(ChosenRelays {
                version: requested.version(),
                chosen_at: now,
                relays: requested.most_requested(&self.options.relays, max),
            });
        }
    }

    fn stop_all_except(&mut self, assigned: &BTreeSet<&String>) {
        self.relays.retain(|url, (_, handle)| {
            let keep = assigned.contains(url);
            if !keep {
                tracing::info!(
                    stage = "listener",
                    relay = url,
                    "relay {url} is no longer watched by this task"
                );
                handle.stop();
            }
            keep
        });
    }

    /// Starts watching a relay from its cursor. If the cursor cannot be read, the next update tries
    /// again: without it, events could be missed.
    async fn start(
        &mut self,
        url: String,
        source: RelaySource,
        context: &RelayContext,
        now: Seconds,
    ) {
        let cursor = match self.store.cursor(&url).await {
            Ok(cursor) => cursor,
            Err(error) => {
                tracing::warn!(
                    stage = "listener",
                    relay = url,
                    dependency = error.dependency,
                    "cursor not read: {error}"
                );
                return;
            }
        };
        tracing::info!(
            stage = "listener",
            relay = url,
            cursor = cursor.map(|cursor| cursor.read_until.0),
            now = now.0,
            "relay {url} is watched by this task"
        );
        let (handle, shutdown) = Shutdown::channel();
        let relay = Arc::new(WatchedRelay::new(
            url.clone(),
            source,
            cursor.unwrap_or_default(),
            now,
        ));
        let watching = relay::watch(Arc::clone(&relay), context.clone(), shutdown);
        self.tasks.spawn(watching);
        self.relays.insert(url, (relay, handle));
    }

    /// Stops watching all relays, ends the membership, and waits until all connections have ended.
    pub async fn stop(&mut self) {
        for (_, handle) in self.relays.values() {
            handle.stop();
        }
        self.membership.leave().await;
        while self.tasks.join_next().await.is_some() {}
    }

    /// Stores the cursors of all relays. Call it only when the buffers are empty.
    pub async fn store_last_cursors(&self, now: Seconds) {
        let relays = self.relays.values().map(|(relay, _)| relay);
        self.checkpoints.store_last(relays, now).await;
    }
}
