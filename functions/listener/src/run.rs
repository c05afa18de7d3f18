//! All of the listener, until told to stop.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use nostr::key::Keys;
use nostr_push_core::{
    Millis, Seconds,
    message::{Content, Control},
    ports::{ChangeFeed, Members, Queue, Relays, seconds},
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    feed::{Feed, Known},
    forward::{self, Progress, forward},
    health::Health,
    members::{self, is_mine},
    plan::Plans,
    relay::{self, Context, Watched},
    screen::Screen,
};

/// How long draining may take; ECS kills the task at 30 s.
const DRAIN: Duration = Duration::from_secs(22);

/// How long writing the last cursors may take after that.
const LAST_CURSORS: Duration = Duration::from_secs(3);

/// How often cursors are stored: each is a write.
const CHECKPOINT: Duration = Duration::from_secs(25);

/// Everything outside the listener but the relays.
pub struct Ports<F, S, Q, R> {
    /// The change feed of subscriptions.
    pub feed: F,
    /// The relays' cursors, and the listener's tasks.
    pub store: S,
    /// The control queue.
    pub control: Q,
    /// The event queue.
    pub content: R,
    /// Counts an outcome and its reason.
    pub count: fn(&'static str, &'static str),
    /// Milliseconds since the epoch.
    pub clock: fn() -> Millis,
}

/// What is to be listened to.
#[derive(Debug, Clone)]
pub struct Options {
    /// The operator's relays.
    pub relays: Vec<String>,
    /// How many relays of owners are watched besides, in all tasks together.
    pub owners_relays: usize,
    /// Whether owners' relays may be in private networks and without TLS: on a developer's machine
    /// alone.
    pub private: bool,
    /// How many control events a minute are taken from one pubkey.
    pub control_events: u32,
    /// This task's name among the others.
    pub member: String,
}

/// Why the listener stopped.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A task inside ended by itself. The process must end too, and be started anew.
    #[error("a task ended by itself: {0}")]
    TaskEnded(String),
    /// The buffers could not be emptied in time. What was left is asked of the relays again at the
    /// next start.
    #[error("the buffers were not empty after {DRAIN:?}")]
    NotDrained,
}

/// A listener that is about to run.
pub struct Listener<F, S, Q, R> {
    keys: Keys,
    options: Options,
    ports: Ports<F, S, Q, R>,
    health: Arc<Health>,
    control: (forward::Buffer<Control>, forward::Outlet<Control>),
    content: (forward::Buffer<Content>, forward::Outlet<Content>),
}

impl<F, S, Q, R> Listener<F, S, Q, R>
where
    F: ChangeFeed + 'static,
    S: Relays + Members + Clone + 'static,
    Q: Queue<Control> + 'static,
    R: Queue<Content> + 'static,
{
    /// A listener for the service with this key.
    pub fn new(keys: Keys, options: Options, ports: Ports<F, S, Q, R>) -> Self {
        let (control, content) = (forward::buffer(), forward::buffer());
        let health = Arc::new(Health::new([control.0.progress(), content.0.progress()]));
        Self {
            keys,
            options,
            ports,
            health,
            control,
            content,
        }
    }

    /// Its signs of life.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Listens until `stop` becomes true, then drains.
    ///
    /// # Errors
    /// [`Stopped`], unless it was told to stop and could drain.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), Stopped> {
        let Self {
            keys,
            options,
            ports,
            health,
            control: (control, controls),
            content: (content, contents),
        } = self;
        let Ports {
            feed,
            store,
            control: control_queue,
            content: content_queue,
            count,
            clock,
        } = ports;
        let mut feed = Feed::new(feed, options.private);
        // Without an interest there is nothing to ask the relays for, and control events can wait:
        // they are stored.
        while let Err(error) = feed.read(clock()).await {
            tracing::warn!(
                stage = "listener",
                outcome = "retried",
                dependency = error.dependency,
                "interest not loaded: {error}"
            );
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = told(&mut stop) => return Ok(()),
            }
        }
        health.interest_read_at.store(clock(), Ordering::SeqCst);
        let known = feed.known();
        let watched_with = Context {
            screen: Arc::new(Screen::new(
                keys.public_key(),
                Arc::clone(&known.interest),
                options.control_events,
            )),
            keys,
            interest: Arc::clone(&known.interest),
            owners: Arc::clone(&known.owners),
            plans: Arc::new(Plans::default()),
            changes: feed.changes(),
            control,
            content,
            health: Arc::clone(&health),
            count,
            clock,
        };
        let mut sending = JoinSet::new();
        sending.spawn(forward(controls, control_queue, move |n| {
            (0..n).for_each(|_| count("forwarded", "control"))
        }));
        sending.spawn(forward(contents, content_queue, move |n| {
            (0..n).for_each(|_| count("forwarded", "content"))
        }));
        let mut following = JoinSet::new();
        following.spawn(feed.follow(health, clock));

        let mut watching = Watching {
            options,
            known,
            chosen: None,
            store,
            members: Vec::new(),
            joined: None,
            stop: stop.clone(),
            relays: BTreeMap::new(),
            tasks: JoinSet::new(),
            checkpoint: None,
            taken: None,
            context: Some(watched_with),
        };
        let ended = tokio::select! {
            ended = watching.keep() => Some(ended),
            Some(ended) = sending.join_next() => Some(why(ended)),
            Some(ended) = following.join_next() => Some(why(ended)),
            () = told(&mut stop) => None,
        };
        // Once told to stop, the connections end by themselves, and that is no failure.
        if let Some(ended) = ended.filter(|_| !*stop.borrow()) {
            return Err(Stopped::TaskEnded(ended));
        }
        let left = watching.leave();
        let drained = timeout(DRAIN, async {
            left.await;
            watching.context = None;
            while watching.tasks.join_next().await.is_some() {}
            while sending.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            return Err(Stopped::NotDrained);
        }
        drop(timeout(LAST_CURSORS, watching.store_last_cursors(seconds(clock()))).await);
        Ok(())
    }
}

fn why(ended: Result<(), JoinError>) -> String {
    ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned())
}

/// The relays that this task watches.
struct Watching<S> {
    options: Options,
    known: Known,
    /// The owners' relays that are to be watched, and of which version of their wishes.
    chosen: Option<(u64, Vec<String>)>,
    store: S,
    /// The listener's tasks, as last read.
    members: Vec<String>,
    joined: Option<Instant>,
    stop: watch::Receiver<bool>,
    relays: BTreeMap<String, (Arc<Watched>, watch::Sender<bool>)>,
    tasks: JoinSet<()>,
    /// Cursors that may be stored once the buffers have been emptied as far as this.
    checkpoint: Option<Checkpoint>,
    /// When cursors were last taken.
    taken: Option<Instant>,
    /// `None` once told to stop: the buffers end when nobody can put anything in.
    context: Option<Context>,
}

struct Checkpoint {
    cursors: Vec<(Arc<Watched>, Seconds)>,
    entered: Vec<(Arc<Progress>, u64)>,
}

impl<S: Relays + Members + Clone + 'static> Watching<S> {
    /// Watches what is to be watched, and stores cursors. Ends when a relay's task does, which none
    /// should.
    async fn keep(&mut self) -> String {
        let mut tick = interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(Err(panicked)) = self.tasks.join_next(), if !self.tasks.is_empty() => return panicked.to_string(),
            }
            let Some(now) = self
                .context
                .as_ref()
                .map(|context| seconds((context.clock)()))
            else {
                return "stopped".to_owned();
            };
            if self
                .joined
                .is_none_or(|joined| joined.elapsed() >= Duration::from_secs(members::RENEW))
            {
                match self
                    .store
                    .join(&self.options.member, now, now + members::LEASE)
                    .await
                {
                    Ok(members) => self.members = members,
                    // Alone with what it knows: two that watch the same relay do no harm, none that
                    // does would.
                    Err(error) => tracing::warn!(
                        stage = "listener",
                        dependency = error.dependency,
                        "members not read: {error}"
                    ),
                }
                self.joined = Some(Instant::now());
            }
            self.follow(now).await;
            self.store_cursors(now).await;
        }
    }

    /// Starts and stops watching, as the operator, the owners and the other tasks want it.
    async fn follow(&mut self, now: Seconds) {
        let Some(context) = self.context.clone() else {
            return;
        };
        let operators = &self.options.relays;
        {
            let wishes = self
                .known
                .wishes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if self
                .chosen
                .as_ref()
                .is_none_or(|(version, _)| *version != wishes.version())
            {
                self.chosen = Some((
                    wishes.version(),
                    wishes.chosen(operators, self.options.owners_relays),
                ));
            }
        }
        let owners = self.chosen.iter().flat_map(|(_, relays)| relays);
        let wanted = operators
            .iter()
            .map(|url| (url, false))
            .chain(owners.map(|url| (url, !self.options.private)));
        let mine: Vec<(String, bool)> = wanted
            .filter(|(url, _)| is_mine(url, &self.options.member, &self.members))
            .map(|(url, only_public)| (url.clone(), only_public))
            .collect();
        let names: BTreeSet<&String> = mine.iter().map(|(url, _)| url).collect();
        for (url, (_, stop)) in self.relays.iter().filter(|(url, _)| !names.contains(url)) {
            tracing::info!(
                stage = "listener",
                relay = url,
                outcome = "left",
                "relay {url} is no longer watched here"
            );
            let _ = stop.send(true);
        }
        self.relays.retain(|url, _| names.contains(url));
        context.health.watched.store(mine.len(), Ordering::SeqCst);
        for (url, only_public) in mine {
            if self.relays.contains_key(&url) {
                continue;
            }
            let cursor = match self.store.cursor(&url).await {
                Ok(cursor) => cursor,
                Err(error) => {
                    // Without it there could be a gap: the next tick tries again.
                    tracing::warn!(
                        stage = "listener",
                        relay = url,
                        dependency = error.dependency,
                        "cursor not read: {error}"
                    );
                    continue;
                }
            };
            tracing::info!(
                stage = "listener",
                relay = url,
                cursor,
                now,
                outcome = "watched",
                "relay {url} is watched from now on"
            );
            let (stop, stopping) = watch::channel(false);
            let relay = Arc::new(Watched::new(url.clone(), only_public, cursor));
            self.tasks.spawn(watch_until(
                Arc::clone(&relay),
                context.clone(),
                stopping,
                self.stop.clone(),
            ));
            self.relays.insert(url, (relay, stop));
        }
    }

    /// Stores the cursors that were taken the last time, if the queues have accepted all that was
    /// read by then, and takes new ones after a while.
    async fn store_cursors(&mut self, now: Seconds) {
        if let Some(checkpoint) = self.checkpoint.take_if(|taken| {
            taken
                .entered
                .iter()
                .all(|(buffer, n)| buffer.accepted() >= *n)
        }) {
            for (relay, cursor) in checkpoint.cursors {
                self.store_cursor(&relay, cursor, now).await;
            }
        }
        let due = self.checkpoint.is_none()
            && self.taken.is_none_or(|taken| taken.elapsed() >= CHECKPOINT);
        if let Some(context) = self.context.as_ref().filter(|_| due) {
            // In this order: what a cursor vouches for had entered before.
            let cursors = self
                .relays
                .values()
                .map(|(relay, _)| (Arc::clone(relay), relay.read_until()))
                .collect();
            let entered = context
                .health
                .buffers
                .iter()
                .map(|buffer| (Arc::clone(buffer), buffer.entered()))
                .collect();
            self.checkpoint = Some(Checkpoint { cursors, entered });
            self.taken = Some(Instant::now());
        }
    }

    /// Stores the cursors as they are: everything that was read has been accepted.
    async fn store_last_cursors(&self, now: Seconds) {
        for (relay, _) in self.relays.values() {
            self.store_cursor(relay, relay.read_until(), now).await;
        }
    }

    async fn store_cursor(&self, relay: &Watched, cursor: Seconds, now: Seconds) {
        let complaint = relay.complaint();
        // A relay that was never read, and never said why, has nothing to store.
        if (cursor > 0 || !complaint.is_empty())
            && let Err(error) = self
                .store
                .checkpoint(&relay.url, cursor, &complaint, now)
                .await
        {
            tracing::warn!(
                stage = "listener",
                relay = relay.url,
                dependency = error.dependency,
                "cursor not stored: {error}"
            );
        }
    }

    /// Gives the relays to the other tasks at once.
    fn leave(&self) -> impl Future<Output = ()> + use<S> {
        let (store, member) = (self.store.clone(), self.options.member.clone());
        async move {
            if let Err(error) = store.leave(&member).await {
                tracing::warn!(
                    stage = "listener",
                    dependency = error.dependency,
                    "membership not ended: it runs out: {error}"
                );
            }
        }
    }
}

/// Watches the relay until it is no longer this task's, or everything stops.
async fn watch_until(
    relay: Arc<Watched>,
    context: Context,
    mut mine: watch::Receiver<bool>,
    mut all: watch::Receiver<bool>,
) {
    let (stop, stopping) = watch::channel(false);
    let watching = relay::keep(relay, context, stopping);
    tokio::pin!(watching);
    tokio::select! {
        () = &mut watching => return,
        () = told(&mut mine) => {}
        () = told(&mut all) => {}
    }
    let _ = stop.send(true);
    watching.await;
}

/// Waits until everything is to stop, or nobody is left to say so.
pub(crate) async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
