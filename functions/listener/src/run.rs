//! The whole listener, until a stop is requested.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use nostr_push_core::{
    message::{ContentMessage, ControlMessage},
    ports::{AllApps, ChangeFeed, Inbox, Members, ProfileWriter, Queue, Relays, Usages},
    profile::ProfileRequest,
    service_keys::ServiceKeys,
};
use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

use crate::{
    admission::follow_apps,
    announcement::Announcements,
    budget::release::release_waiting,
    counter::{Count, ListenerCounter, MessageKind},
    error::ListenerError,
    feed::Feed,
    forward::{self, BufferReceiver, BufferSender, forward},
    gate::Gate,
    health::Health,
    options::Options,
    plan::Plans,
    ports::Ports,
    profiles::ProfileRequests,
    relay_context::RelayContext,
    relay_watcher::RelayWatcher,
    shutdown::Shutdown,
};

/// The timeout of ending all connections and emptying the buffers. ECS kills the task after 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(22);

/// The timeout of storing the last cursors, after the buffers are empty.
const LAST_CURSORS_TIMEOUT: Duration = Duration::from_secs(3);

/// A listener that has not been started.
pub struct Listener<F, S, Q, R, P> {
    keys: ServiceKeys,
    options: Options,
    ports: Ports<F, S, Q, R, P>,
    health: Arc<Health>,
    control: (BufferSender<ControlMessage>, BufferReceiver<ControlMessage>),
    content: (BufferSender<ContentMessage>, BufferReceiver<ContentMessage>),
}

impl<F, S, Q, R, P> Listener<F, S, Q, R, P>
where
    F: ChangeFeed + 'static,
    S: Relays + Members + Usages + AllApps + ProfileWriter + Clone + 'static,
    Q: Queue<ControlMessage> + 'static,
    R: Queue<ContentMessage> + 'static,
    P: Inbox<ProfileRequest> + 'static,
{
    /// A listener for the service with these keys.
    pub fn new(
        keys: impl Into<ServiceKeys>,
        options: Options,
        ports: Ports<F, S, Q, R, P>,
    ) -> Self {
        let (control, content) = (forward::buffer(), forward::buffer());
        let health = Arc::new(Health::new([control.0.progress(), content.0.progress()]));
        Self {
            keys: keys.into(),
            options,
            ports,
            health,
            control,
            content,
        }
    }

    /// The state of the listener's parts.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Listens until a stop is requested. Then ends all connections, empties the buffers and stores
    /// the cursors.
    ///
    /// # Errors
    /// [`ListenerError`].
    pub async fn run(self, mut shutdown: Shutdown) -> Result<(), ListenerError> {
        let Self { ports, health, .. } = self;
        let (control_sender, control_receiver) = self.control;
        let (content_sender, content_receiver) = self.content;
        let allow_private = self.options.allow_private;
        let mut feed = Feed::new(ports.feed, Arc::clone(&health), ports.clock, allow_private);
        if !feed.load(&mut shutdown).await {
            return Ok(());
        }
        let view = feed.view();
        let announcements = Announcements::new(None);
        let (service, interest) = (self.keys.pubkeys(), Arc::clone(&view.interest));
        let context = RelayContext {
            gate: Arc::new(Gate::new(service, interest, &self.options.budgets)),
            keys: self.keys,
            interest: Arc::clone(&view.interest),
            mute_list_owners: Arc::clone(&view.mute_list_owners),
            plans: Arc::new(Plans::default()),
            changes: feed.changes(),
            announcement: announcements.subscribe(),
            control: control_sender,
            content: content_sender,
            health: Arc::clone(&health),
            count: Arc::clone(&ports.count),
            clock: ports.clock,
        };

        let mut forwarding = JoinSet::new();
        let on_control = counting(&ports.count, MessageKind::Control);
        forwarding.spawn(forward(control_receiver, ports.control, on_control));
        let on_content = counting(&ports.count, MessageKind::Content);
        forwarding.spawn(forward(content_receiver, ports.content, on_content));
        let mut polling = JoinSet::new();
        polling.spawn(feed.poll(jitter(&self.options.member)));
        let (store, count) = (ports.store.clone(), Arc::clone(&ports.count));
        polling.spawn(follow_apps(
            store.clone(),
            &context,
            &self.options,
            announcements,
        ));
        let profiles =
            ProfileRequests::new(ports.profiles, store, &self.options, count, ports.clock);
        polling.spawn(profiles.run(shutdown.clone()));
        forwarding.spawn(release_waiting(context.clone(), shutdown.clone()));
        let mut watcher = RelayWatcher::new(self.options, ports.store, view, &context);

        let ended = tokio::select! {
            panic = watcher.run(&context) => Some(panic),
            Some(ended) = forwarding.join_next() => Some(describe(ended)),
            Some(ended) = polling.join_next() => Some(describe(ended)),
            () = shutdown.stop_requested() => None,
        };
        if let Some(ended) = ended.filter(|_| !shutdown.is_stop_requested()) {
            return Err(ListenerError::TaskEnded(ended));
        }
        drain(&mut watcher, context, forwarding).await?;
        let now = (ports.clock)().to_seconds();
        drop(timeout(LAST_CURSORS_TIMEOUT, watcher.store_last_cursors(now)).await);
        Ok(())
    }
}

/// Ends all connections and empties the buffers.
async fn drain<S: Relays + Members + Usages + Clone>(
    watcher: &mut RelayWatcher<S>,
    context: RelayContext,
    mut forwarding: JoinSet<()>,
) -> Result<(), ListenerError> {
    let drained = timeout(DRAIN_TIMEOUT, async {
        watcher.stop().await;
        // The buffers end when the last sender is dropped.
        drop(context);
        while forwarding.join_next().await.is_some() {}
    });
    drained
        .await
        .map_err(|_| ListenerError::NotDrained(DRAIN_TIMEOUT))
}

/// A function that counts forwarded messages of this kind.
fn counting(count: &Count, kind: MessageKind) -> impl Fn(u64) + use<> {
    let count = Arc::clone(count);
    move |n| count(ListenerCounter::Forwarded(kind), n)
}

/// A number from 0 to 1 that differs between the listener's tasks.
fn jitter(member: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    member.hash(&mut hasher);
    let thousandths = u16::try_from(hasher.finish() % 1_000).unwrap_or_default();
    f64::from(thousandths) / 1_000.0
}

/// Why a task ended that should never end.
fn describe(ended: Result<(), JoinError>) -> String {
    ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned())
}
