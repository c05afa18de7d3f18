//! One connection to a relay (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>),
//! from the handshake until it ends: the loop around the socket. [`requests`](crate::requests)
//! decides what is requested.
//!
//! - `incoming`: what happens to each message of the relay
//! - `authentication`: NIP-42
//! - `reading_time`: how long the socket has been read, and since when the relay is silent

mod authentication;
mod incoming;
mod reading_time;

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use nostr::event::Event;
use serde_json::json;
use tokio::{
    sync::watch,
    task::{unconstrained, yield_now},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Error;

use self::reading_time::ReadingTime;
use crate::{
    counter::RelayReason,
    dial::{DialError, Stream, dial},
    frame::Incoming,
    limits::Limits,
    penalty::Penalty,
    relay_context::RelayContext,
    requests::{Access, Command, Now, Requests},
    shutdown::Shutdown,
    socket::Socket,
    watched_relay::{RelaySource, WatchedRelay},
};

/// The timeout of connecting, including the handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The timeout of closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after a stop was requested the session is given up, whatever it waits for. What has not
/// entered a buffer by then is requested again later.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How long further changes of the interest are awaited before the REQs are changed.
const INTEREST_DEBOUNCE: Duration = Duration::from_millis(300);

/// How much is read before other tasks get their turn: so many frames, or so many KiB.
const TURN_BUDGET: usize = 256;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The connection was not established.
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] DialError),
    /// The connection was lost.
    #[error("connection lost: {0}")]
    Lost(#[from] Error),
    /// The relay kept sending forged or unrequested events, malformed frames, refusals or notices.
    #[error("too many forged or unrequested events, malformed frames, refusals or notices")]
    Misbehaving,
    /// The relay returns stored events more slowly than they are needed.
    #[error("too many stored events are still to be requested")]
    TooFarBehind,
}

struct Session<'a> {
    relay: &'a WatchedRelay,
    context: &'a RelayContext,
    socket: Socket<Stream>,
    limits: Limits,
    requests: Requests,
    penalty: Penalty,
    time: ReadingTime,
    /// The number of new owners whose mute lists were requested.
    mute_lists_requested: usize,
    /// The id of the authentication that was sent.
    auth_event_id: Option<String>,
    /// When the last complaint of the relay was logged.
    complaint_logged_at: Option<Duration>,
}

/// Connects, and stays connected until a stop is requested.
///
/// # Errors
/// [`SessionEnd`], unless a stop was requested.
pub async fn run(
    relay: &WatchedRelay,
    context: &RelayContext,
    shutdown: Shutdown,
) -> Result<(), SessionEnd> {
    let mut stopping = shutdown.clone();
    let give_up = async {
        stopping.stop_requested().await;
        sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        ended = connect_and_read(relay, context, shutdown) => ended,
        () = give_up => Ok(()),
    }
}

async fn connect_and_read(
    relay: &WatchedRelay,
    context: &RelayContext,
    mut shutdown: Shutdown,
) -> Result<(), SessionEnd> {
    let only_public = relay.source.only_public();
    let connecting = async {
        tokio::join!(
            timeout(CONNECT_TIMEOUT, connect(&relay.url, only_public)),
            Limits::fetch(&relay.url, only_public)
        )
    };
    let (socket, limits) = tokio::select! {
        connected = connecting => connected,
        () = shutdown.stop_requested() => return Ok(()),
    };
    let socket = socket.map_err(|_| DialError::Io(std::io::ErrorKind::TimedOut.into()))??;
    let _connection = context.health.count_connection();
    context.count_relay(RelayReason::Connected);
    tracing::info!(
        stage = "listener",
        relay = relay.url,
        outcome = RelayReason::Connected.reason(),
        "relay {} connected",
        relay.url
    );
    let time = ReadingTime::new(Instant::now());
    let now = Now {
        unix: context.now(),
        reading: time.now(),
    };
    let service = context.keys.pubkeys();
    let service: Vec<&str> = service.accepted(now.unix).collect();
    let access = match relay.source {
        RelaySource::Operator => Access::Authenticated,
        RelaySource::Owners { .. } => Access::Anonymous,
    };
    let resume = relay.resume_point();
    let (requests, commands) = Requests::new(&service, limits, access, resume, now);
    let mut session = Session {
        relay,
        context,
        socket,
        limits,
        requests,
        penalty: Penalty::default(),
        time,
        mute_lists_requested: relay.mute_lists_returned(),
        auth_event_id: None,
        complaint_logged_at: None,
    };
    session.execute(commands).await?;
    session.follow_plan().await?;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    session.read(shutdown, tick).await
}

async fn connect(url: &str, only_public: bool) -> Result<Socket<Stream>, SessionEnd> {
    let stream = dial(url, only_public).await?;
    Ok(Socket::connect(url, stream).await?)
}

/// Why waiting for a frame ended.
enum Wakeup {
    /// A frame came, or the connection ended.
    Frame(Result<Incoming, Error>),
    /// Another event came and was handled.
    Handled,
    /// The session must end.
    Stop,
}

impl Session<'_> {
    /// Reads the socket until a stop is requested or the connection ends.
    async fn read(&mut self, mut shutdown: Shutdown, mut tick: Interval) -> Result<(), SessionEnd> {
        let mut interest_changes = self.context.changes.clone();
        let mut budget = TURN_BUDGET;
        loop {
            // Without tokio's cooperative budget, "not ready" means that the socket is empty.
            let ready = if budget > 0 && !self.time.is_paused() {
                unconstrained(self.socket.next()).now_or_never()
            } else {
                None
            };
            let frame = if let Some(frame) = ready {
                frame
            } else {
                if budget == 0 {
                    // A flood must not keep other tasks of this thread waiting.
                    yield_now().await;
                } else if self.is_caught_up() {
                    self.relay.record_read(self.context.now());
                }
                budget = TURN_BUDGET;
                let wakeup = self.wait(&mut shutdown, &mut interest_changes, &mut tick);
                match wakeup.await? {
                    Wakeup::Frame(frame) => frame,
                    Wakeup::Handled => continue,
                    Wakeup::Stop => return Ok(()),
                }
            };
            let frame = frame?;
            budget = budget.saturating_sub(1 + frame.bytes() / 1024);
            self.time.record_frame();
            self.on_frame(frame).await?;
        }
    }

    /// Returns `true` if everything that the relay has sent has been read, and nothing else must be
    /// requested. Behind the first part of a message, there may be events of an earlier time.
    fn is_caught_up(&self) -> bool {
        self.requests.is_caught_up() && self.socket.is_between_messages() && !self.time.is_paused()
    }

    /// Waits for the next frame, and handles the other reasons to wake up.
    async fn wait(
        &mut self,
        shutdown: &mut Shutdown,
        interest_changes: &mut watch::Receiver<u64>,
        tick: &mut Interval,
    ) -> Result<Wakeup, SessionEnd> {
        let wakeup = tokio::select! {
            biased;
            () = shutdown.stop_requested() => {
                // What was read is in the buffers. The rest is requested again later.
                drop(timeout(CLOSE_TIMEOUT, self.socket.close()).await);
                Wakeup::Stop
            }
            result = interest_changes.changed() => {
                if result.is_err() {
                    return Ok(Wakeup::Stop);
                }
                sleep(INTEREST_DEBOUNCE).await;
                interest_changes.mark_unchanged();
                self.follow_plan().await?;
                Wakeup::Handled
            }
            _ = tick.tick() => {
                self.on_tick().await?;
                Wakeup::Handled
            }
            () = self.time.pause_over() => {
                self.time.end_pause(Instant::now());
                Wakeup::Handled
            }
            frame = self.socket.next(), if !self.time.is_paused() => Wakeup::Frame(frame),
        };
        self.time.update(Instant::now());
        Ok(wakeup)
    }

    fn now(&self) -> Now {
        Now {
            unix: self.context.now(),
            reading: self.time.now(),
        }
    }

    /// Does what the requests need.
    async fn execute(&mut self, commands: Vec<Command>) -> Result<(), SessionEnd> {
        for command in commands {
            match command {
                Command::Send(message) => self.socket.send_text(&message).await?,
                Command::Count(reason) => self.context.count_relay(reason),
                Command::Authenticate(challenge) => self.authenticate(&challenge).await?,
                Command::BeginSweep => {
                    let dropped = self.relay.dropped_controls();
                    dropped.store(false, Ordering::SeqCst);
                }
                Command::RecordSweep(at) => self.relay.record_sweep(at),
                Command::RecordMuteLists(position) => self.relay.record_mute_lists(position),
                Command::Disconnect => return Err(SessionEnd::TooFarBehind),
            }
        }
        Ok(())
    }

    /// Requests what the interest needs now.
    async fn follow_plan(&mut self) -> Result<(), SessionEnd> {
        let now = self.now();
        let plan = {
            let interest = self
                .context
                .interest
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            self.context.plans.plan(self.limits, &interest, now.unix)
        };
        let commands = self.requests.on_plan(plan, now);
        self.execute(commands).await?;
        let (owners, position) = self
            .context
            .mute_list_owners
            .after(self.mute_lists_requested);
        if position > self.mute_lists_requested {
            self.mute_lists_requested = position;
            let commands = self.requests.on_new_owners(&owners, position, now);
            self.execute(commands).await?;
        }
        Ok(())
    }

    /// Each second: pings a silent relay, and applies the timeouts.
    async fn on_tick(&mut self) -> Result<(), SessionEnd> {
        self.penalty.decrease();
        self.time.update(Instant::now());
        if self.time.is_relay_silent() {
            if self.time.has_pinged() {
                return Err(Error::Io(std::io::ErrorKind::TimedOut.into()).into());
            }
            self.socket.ping().await?;
            self.time.record_ping();
        }
        if self.relay.dropped_controls().load(Ordering::SeqCst) {
            self.requests.on_dropped_controls();
        }
        let commands = self.requests.on_tick(self.now());
        self.execute(commands).await?;
        self.announce().await
    }

    /// Publishes the service's announcement, if the operator named the relay.
    async fn announce(&mut self) -> Result<(), SessionEnd> {
        if self.relay.source != RelaySource::Operator {
            return Ok(());
        }
        let announcement = self.context.announcement.borrow().clone();
        let is_new = |event: &Arc<Event>| self.relay.record_announcement(event.created_at.into());
        if let Some(event) = announcement.filter(is_new) {
            let message = json!(["EVENT", *event]).to_string();
            self.socket.send_text(&message).await?;
        }
        Ok(())
    }
}
