//! One connection to one relay, kept up: connect, ask, read, and start again with backoff when it breaks.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use nostr_push_core::{
    DAY, Millis, Seconds,
    interest::Interest,
    message::{Content, Control, MAX_EVENT},
    ports::{backoff, seconds},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

use crate::{
    frame::{self, Frame},
    plan::{self, Plan},
    run::told,
    screen::{CONTROL_KINDS, Screen, Verdict},
};

/// The largest frame that is read: the largest event, and what stands around it.
const MAX_FRAME: usize = MAX_EVENT + 4 * 1024;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(15);

/// A relay that is silent this long is asked for a sign of life, and given up on after twice that.
const SILENCE: Duration = Duration::from_secs(45);

/// How long an interest that keeps changing is gathered before the REQs follow it.
const SETTLE: Duration = Duration::from_millis(300);

/// How far back before the last sign of life a reconnection resumes: relays' clocks differ.
const OVERLAP: Seconds = 60;

/// How far back control events are asked for: relays store them, and older ones are stale.
const CONTROL_HISTORY: Seconds = 7 * DAY;

/// The subscription id of the control REQ.
const CONTROL: &str = "control";

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// What a relay connection needs. Cheap to clone for each relay.
#[derive(Clone)]
pub struct Context {
    /// The service's pubkey, in hex.
    pub service: String,
    /// The hot path.
    pub screen: Arc<Screen>,
    /// The interest, for planning REQs.
    pub interest: Arc<RwLock<Interest>>,
    /// News of the interest.
    pub changes: watch::Receiver<u64>,
    /// Becomes true when everything is to stop.
    pub stop: watch::Receiver<bool>,
    /// Before the control queue.
    pub control: mpsc::Sender<Control>,
    /// Before the event queue.
    pub content: mpsc::Sender<Content>,
    /// Counts an outcome and its reason.
    pub count: fn(&'static str, &'static str),
    /// Milliseconds since the epoch.
    pub clock: fn() -> Millis,
}

/// Keeps a connection to the relay until everything is to stop.
pub async fn keep(url: String, context: Context) {
    let mut stop = context.stop.clone();
    let mut failures = 0;
    let mut alive_at: Option<Seconds> = None;
    while !*stop.borrow() {
        let started = Instant::now();
        let ended = connection(&url, &context, &mut alive_at).await;
        let Err(error) = ended else { break };
        // A connection that held for a while starts the backoff anew.
        failures = if started.elapsed() > Duration::from_secs(60) { 1 } else { failures + 1 };
        let wait = backoff(failures, f64::from(started.elapsed().subsec_micros() % 1_000) / 1_000.0) / 5;
        (context.count)("relay", "disconnected");
        tracing::warn!(stage = "listener", relay = url, outcome = "disconnected", "relay {url} lost, next try in {wait:?}: {error}");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = told(&mut stop) => break,
        }
    }
}

/// One connection, from the handshake until it breaks (`Err`) or everything is to stop.
async fn connection(url: &str, context: &Context, alive_at: &mut Option<Seconds>) -> Result<(), Error> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME));
    let connecting = timeout(CONNECT, connect_async_with_config(url, Some(config), true));
    let (mut socket, _) = connecting.await.map_err(|_| Error::Io(std::io::ErrorKind::TimedOut.into()))??;
    (context.count)("relay", "connected");
    tracing::info!(stage = "listener", relay = url, outcome = "connected", "relay {url} connected");

    let now = seconds((context.clock)());
    // All of the history each time: an event may have been signed long before it was published. And once more from the
    // last sign of life, because a relay answers a filter with only so many events.
    let mut control = vec![json!("REQ"), json!(CONTROL)];
    control.extend(
        [Some(now.saturating_sub(CONTROL_HISTORY)), alive_at.map(|at| at.saturating_sub(OVERLAP))]
            .into_iter()
            .flatten()
            .map(|since| json!({"kinds": CONTROL_KINDS, "#p": [context.service], "since": since})),
    );
    socket.send(Message::text(json!(control).to_string())).await?;
    let mut session = Session { url, socket, held: Plan::new(), live: HashSet::new() };
    session.follow(context, alive_at.unwrap_or(now).saturating_sub(OVERLAP)).await?;

    let (mut changes, mut stop) = (context.changes.clone(), context.stop.clone());
    let mut silent_since = Instant::now();
    let mut asked = false;
    loop {
        tokio::select! {
            frame = session.socket.next() => {
                let frame = frame.ok_or(Error::ConnectionClosed)??;
                (silent_since, asked) = (Instant::now(), false);
                *alive_at = Some(seconds((context.clock)()));
                match frame {
                    Message::Text(text) => session.take(&text, context).await,
                    Message::Close(_) => return Err(Error::ConnectionClosed),
                    _ => {}
                }
            }
            news = changes.changed() => {
                if news.is_err() {
                    return Ok(());
                }
                tokio::time::sleep(SETTLE).await;
                changes.mark_unchanged();
                session.follow(context, seconds((context.clock)()).saturating_sub(OVERLAP)).await?;
            }
            () = tokio::time::sleep_until(silent_since + SILENCE) => {
                if asked {
                    return Err(Error::Io(std::io::ErrorKind::TimedOut.into()));
                }
                session.socket.send(Message::Ping(Vec::new().into())).await?;
                (silent_since, asked) = (Instant::now(), true);
            }
            () = told(&mut stop) => {
                // What was read is in the buffers; the rest the relay will be asked for again.
                return session.socket.close(None).await.or(Ok(()));
            }
        }
    }
}

struct Session<'a> {
    url: &'a str,
    socket: Socket,
    held: Plan,
    /// The subscriptions whose EOSE has come.
    live: HashSet<String>,
}

impl Session<'_> {
    /// Brings the REQs in line with the interest: the new before the old are closed, so that there is no gap.
    async fn follow(&mut self, context: &Context, from: Seconds) -> Result<(), Error> {
        let wanted = plan::narrow(&context.interest.read().unwrap_or_else(PoisonError::into_inner));
        for (id, filters) in wanted.iter().filter(|(id, _)| !self.held.contains_key(*id)) {
            let mut request = vec![json!("REQ"), json!(id)];
            request.extend(plan::resumed(filters, from));
            self.socket.feed(Message::text(json!(request).to_string())).await?;
        }
        for id in self.held.keys().filter(|id| !wanted.contains_key(*id)) {
            self.live.remove(id);
            self.socket.feed(Message::text(json!(["CLOSE", id]).to_string())).await?;
        }
        self.held = wanted;
        self.socket.flush().await
    }

    /// One message from the relay.
    async fn take(&mut self, text: &str, context: &Context) {
        match frame::read(text) {
            Frame::Event { subscription, event } => {
                let backfill = !self.live.contains(&subscription);
                match context.screen.judge(self.url, event, backfill, (context.clock)()) {
                    Verdict::Drop(reason) => (context.count)("dropped", reason),
                    // Waiting here is the backpressure: a full buffer stops the reading of this socket. The buffers
                    // outlive the connections, so sending does not fail.
                    Verdict::Control(message) => drop(context.control.send(message).await),
                    Verdict::Content(message) => drop(context.content.send(*message).await),
                }
            }
            Frame::Eose(subscription) => {
                // Only of what was asked for: a relay must not fill the memory with names.
                if subscription == CONTROL || self.held.contains_key(&subscription) {
                    self.live.insert(subscription);
                }
            }
            Frame::Notice(text) => {
                (context.count)("relay", "notice");
                tracing::warn!(stage = "listener", relay = self.url, "relay {} says: {text:.256}", self.url);
            }
            Frame::Closed { subscription, reason } => {
                (context.count)("relay", "closed");
                tracing::warn!(stage = "listener", relay = self.url, "relay {} closed {subscription:.64}: {reason:.256}", self.url);
            }
            Frame::Ignored => {}
            Frame::Malformed => (context.count)("dropped", "malformed_frame"),
        }
    }
}
