//! All of the listener, until told to stop.

use std::{sync::Arc, time::Duration};

use nostr::key::PublicKey;
use nostr_push_core::{
    Millis,
    message::{Content, Control},
    ports::{ChangeFeed, Queue},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    feed::Feed,
    forward::{self, forward},
    relay::{self, Context},
    screen::Screen,
};

/// How long draining may take; ECS kills the task at 30 s.
const DRAIN: Duration = Duration::from_secs(25);

/// Everything outside the listener but the relays.
pub struct Ports<F, Q, R> {
    /// The change feed of subscriptions.
    pub feed: F,
    /// The control queue.
    pub control: Q,
    /// The event queue.
    pub content: R,
    /// Counts an outcome and its reason.
    pub count: fn(&'static str, &'static str),
    /// Milliseconds since the epoch.
    pub clock: fn() -> Millis,
}

/// Why the listener stopped.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A task inside ended by itself. The process must end too, and be started anew.
    #[error("a task ended by itself: {0}")]
    TaskEnded(String),
    /// The buffers could not be emptied in time. What was left is asked of the relays again at the next start.
    #[error("the buffers were not empty after {DRAIN:?}")]
    NotDrained,
}

/// Listens to `relays` until `stop` becomes true, then drains.
///
/// # Errors
/// [`Stopped`], unless it was told to stop and could drain.
pub async fn run<F, Q, R>(
    service: PublicKey,
    relays: Vec<String>,
    ports: Ports<F, Q, R>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Stopped>
where
    F: ChangeFeed + 'static,
    Q: Queue<Control> + 'static,
    R: Queue<Content> + 'static,
{
    let Ports { feed, control, content, count, clock } = ports;
    let mut feed = Feed::new(feed);
    // Without an interest there is nothing to ask the relays for, and control events can wait: they are stored.
    while let Err(error) = feed.read(clock()).await {
        tracing::warn!(stage = "listener", outcome = "retried", dependency = error.dependency, "interest not loaded: {error}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (control_buffer, controls) = mpsc::channel(forward::BUFFER);
    let (content_buffer, contents) = mpsc::channel(forward::BUFFER);
    let context = Context {
        service: service.to_hex(),
        screen: Arc::new(Screen::new(service, feed.interest())),
        interest: feed.interest(),
        changes: feed.changes(),
        stop: stop.clone(),
        control: control_buffer,
        content: content_buffer,
        count,
        clock,
    };

    let mut sending = JoinSet::new();
    sending.spawn(async move { forward(controls, control, |n| (0..n).for_each(|_| count("forwarded", "control"))).await });
    sending.spawn(async move { forward(contents, content, |n| (0..n).for_each(|_| count("forwarded", "content"))).await });
    let mut reading = JoinSet::new();
    for url in relays {
        reading.spawn(relay::keep(url, context.clone()));
    }
    drop(context);
    let mut following = JoinSet::new();
    following.spawn(feed.follow(clock));

    let ended = tokio::select! {
        () = told(&mut stop) => None,
        Some(ended) = sending.join_next() => Some(ended),
        Some(ended) = reading.join_next() => Some(ended),
        Some(ended) = following.join_next() => Some(ended),
    };
    // Once told to stop, the connections end by themselves, and that is no failure.
    if let Some(ended) = ended.filter(|_| !*stop.borrow()) {
        return Err(Stopped::TaskEnded(ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned())));
    }
    let drained = timeout(DRAIN, async {
        while reading.join_next().await.is_some() {}
        while sending.join_next().await.is_some() {}
    });
    drained.await.map_err(|_| Stopped::NotDrained)
}

/// Waits until everything is to stop, or nobody is left to say so.
pub(crate) async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
