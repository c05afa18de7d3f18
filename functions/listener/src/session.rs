//! One connection to a relay (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>),
//! from the handshake until it ends: the loop around the socket. [`requests`](crate::requests)
//! decides what is requested.

use std::{sync::PoisonError, time::Duration};

use futures_util::FutureExt;
use nostr::event::{Event, EventBuilder, FinalizeEvent, Kind, Tag};
use nostr_push_core::Seconds;
use serde_json::{json, value::RawValue};
use tokio::{
    sync::watch,
    task::{unconstrained, yield_now},
    time::{Instant, Interval, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::tungstenite::Error;

use crate::{
    counter::{DropReason, RelayReason},
    dial::{DialError, Stream, dial},
    frame::Incoming,
    gate::{IncomingEvent, Verdict, parse_event},
    limits::Limits,
    penalty::{CHALLENGE_POINTS, COMPLAINT_POINTS, Penalty, points},
    relay_context::RelayContext,
    relay_message::RelayMessage,
    requests::{Command, Now, Requests},
    shutdown::Shutdown,
    socket::Socket,
    watched_relay::{RelaySource, WatchedRelay},
};

/// The timeout of connecting, including the handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The timeout of closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a relay may send nothing before it is pinged. After the same time again the connection
/// is lost. A message that has not come completely counts for each
/// [`PROGRESS_BYTES`](crate::frame::PROGRESS_BYTES) of it.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// How long further changes of the interest are awaited before the REQs are changed.
const INTEREST_DEBOUNCE: Duration = Duration::from_millis(300);

/// The most frames that are read before other tasks get their turn.
const FRAME_BUDGET: usize = 256;

/// The kind of an authentication (NIP-42,
/// <https://github.com/nostr-protocol/nips/blob/master/42.md>).
const AUTH_KIND: u16 = 22242;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The connection was not established.
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] DialError),
    /// The connection was lost.
    #[error("connection lost: {0}")]
    Lost(#[from] Error),
    /// The relay kept sending forged, malformed or unrequested events, or refusals and notices.
    #[error("too many forged, malformed or unrequested events, refusals or notices")]
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
    /// The number of new owners whose mute lists were requested.
    mute_lists_requested: usize,
    /// The id of the authentication that was sent.
    auth_event_id: Option<String>,
    started: Instant,
    /// The time in which a full buffer or the relay's budget kept the socket from being read.
    blocked: Duration,
    /// See [`Now::reading`]. Renewed at least every [`FRAME_BUDGET`] frames.
    reading: Duration,
    /// [`Session::reading`] when the last frame came.
    last_frame: Duration,
    /// `true` if a ping was sent after the last frame.
    pinged: bool,
}

/// Connects, and stays connected until a stop is requested.
///
/// # Errors
/// [`SessionEnd`], unless a stop was requested.
pub async fn run(
    relay: &WatchedRelay,
    context: &RelayContext,
    mut shutdown: Shutdown,
) -> Result<(), SessionEnd> {
    let connecting = async {
        tokio::join!(
            timeout(CONNECT_TIMEOUT, connect(relay)),
            Limits::fetch(&relay.url, relay.source.only_public())
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
    let now = Now {
        unix: context.now(),
        reading: Duration::ZERO,
    };
    let service = context.keys.public_key().to_hex();
    let (requests, commands) = Requests::new(&service, limits, relay.resume_point(), now);
    let mut session = Session {
        relay,
        context,
        socket,
        limits,
        requests,
        penalty: Penalty::default(),
        mute_lists_requested: relay.mute_lists_returned(),
        auth_event_id: None,
        started: Instant::now(),
        blocked: Duration::ZERO,
        reading: Duration::ZERO,
        last_frame: Duration::ZERO,
        pinged: false,
    };
    session.execute(commands).await?;
    session.follow_plan().await?;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    session.read(shutdown, tick).await
}

async fn connect(relay: &WatchedRelay) -> Result<Socket<Stream>, SessionEnd> {
    let stream = dial(&relay.url, relay.source.only_public()).await?;
    Ok(Socket::connect(&relay.url, stream).await?)
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
        let mut budget = FRAME_BUDGET;
        loop {
            // Without tokio's cooperative budget, "not ready" means that the socket is empty.
            let ready = if budget > 0 {
                unconstrained(self.socket.next()).now_or_never()
            } else {
                None
            };
            let frame = if let Some(frame) = ready {
                budget -= 1;
                frame
            } else {
                if budget == 0 {
                    // A flood must not keep other tasks of this thread waiting.
                    yield_now().await;
                } else if self.requests.is_caught_up() && self.socket.is_between_messages() {
                    // Behind the first part of a message, there may be events of an earlier time.
                    self.relay.record_read(self.context.now());
                }
                budget = FRAME_BUDGET;
                let wakeup = self.wait(&mut shutdown, &mut interest_changes, &mut tick);
                match wakeup.await? {
                    Wakeup::Frame(frame) => frame,
                    Wakeup::Handled => continue,
                    Wakeup::Stop => return Ok(()),
                }
            };
            (self.last_frame, self.pinged) = (self.reading, false);
            match frame? {
                Incoming::Text(text) => self.on_message(&text).await?,
                Incoming::NotText => self.drop_event(DropReason::MalformedFrame)?,
                Incoming::TooLarge {
                    subscription,
                    created_at,
                } => self.on_large_message(subscription.as_deref(), created_at)?,
                Incoming::Close => return Err(Error::ConnectionClosed.into()),
                Incoming::Progress | Incoming::Ping(_) | Incoming::Pong => {}
            }
        }
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
                tokio::time::sleep(INTEREST_DEBOUNCE).await;
                interest_changes.mark_unchanged();
                self.follow_plan().await?;
                Wakeup::Handled
            }
            _ = tick.tick() => {
                self.on_tick().await?;
                Wakeup::Handled
            }
            frame = self.socket.next() => Wakeup::Frame(frame),
        };
        self.reading = self.started.elapsed().saturating_sub(self.blocked);
        Ok(wakeup)
    }

    fn now(&self) -> Now {
        Now {
            unix: self.context.now(),
            reading: self.reading,
        }
    }

    /// Does what the requests need.
    async fn execute(&mut self, commands: Vec<Command>) -> Result<(), SessionEnd> {
        for command in commands {
            match command {
                Command::Send(message) => self.socket.send_text(&message).await?,
                Command::Count(reason) => self.context.count_relay(reason),
                Command::Authenticate(challenge) => self.authenticate(&challenge).await?,
                Command::RecordSweep(at) => self.relay.record_sweep(at),
                Command::RecordMuteLists(position) => self.relay.record_mute_lists(position),
                Command::Disconnect => return Err(SessionEnd::TooFarBehind),
            }
        }
        Ok(())
    }

    /// Requests what the interest needs now.
    async fn follow_plan(&mut self) -> Result<(), SessionEnd> {
        let plan = {
            let interest = self
                .context
                .interest
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            let now = self.context.now();
            self.context.plans.plan(self.limits, &interest, now)
        };
        if plan.is_none() {
            self.context.count_relay(RelayReason::LimitsTooLow);
            self.relay
                .set_status("the limits are too low for content events");
        }
        let now = self.now();
        let commands = self.requests.on_plan(plan.unwrap_or_default(), now);
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

    /// Handles one message from the relay.
    async fn on_message(&mut self, text: &str) -> Result<(), SessionEnd> {
        let now = self.now();
        let (commands, points) = match RelayMessage::parse(text) {
            RelayMessage::Event {
                subscription,
                event,
            } => return self.on_event(&subscription, event).await,
            RelayMessage::Eose(subscription) => (self.requests.on_eose(&subscription, now), 0),
            RelayMessage::Closed {
                subscription,
                reason,
            } => {
                self.log_complaint(&format!("CLOSED {subscription:.64}: {reason:.256}"));
                let reason = RelayReason::of_closed(&reason);
                let commands = self.requests.on_closed(&subscription, reason, now);
                (commands, COMPLAINT_POINTS)
            }
            RelayMessage::Notice(text) => {
                self.log_complaint(&format!("NOTICE {text:.256}"));
                (self.requests.on_notice(now), COMPLAINT_POINTS)
            }
            RelayMessage::Auth(challenge) => {
                let may_answer = self.relay.source == RelaySource::Operator;
                let commands = self.requests.on_auth(&challenge, may_answer);
                (commands, CHALLENGE_POINTS)
            }
            RelayMessage::Ok {
                id,
                accepted,
                reason,
            } => (self.on_ok(&id, accepted, &reason), 0),
            RelayMessage::Malformed => return self.drop_event(DropReason::MalformedFrame),
        };
        self.execute(commands).await?;
        self.add_points(points)
    }

    /// A message was skipped because it is too large. If its event belongs to a page, the page goes
    /// on.
    fn on_large_message(
        &mut self,
        subscription: Option<&str>,
        created_at: Option<Seconds>,
    ) -> Result<(), SessionEnd> {
        if let Some(subscription) = subscription {
            self.requests
                .on_event(subscription, created_at, self.reading);
        }
        self.drop_event(DropReason::TooLarge)
    }

    async fn on_event(&mut self, subscription: &str, json: &RawValue) -> Result<(), SessionEnd> {
        let parsed = parse_event(json);
        let created_at: Option<Seconds> = match &parsed {
            Ok(event) => Some(event.created_at.into()),
            Err(refused) => refused.created_at,
        };
        let stored = self
            .requests
            .on_event(subscription, created_at, self.reading);
        match (parsed, stored) {
            (Err(refused), _) => self.drop_event(refused.reason),
            (Ok(_), None) => self.drop_event(DropReason::Unrequested),
            (Ok(event), Some(stored)) => self.forward(event, json, stored).await,
        }
    }

    async fn forward(
        &mut self,
        event: Event,
        json: &RawValue,
        stored: bool,
    ) -> Result<(), SessionEnd> {
        let received_at = (self.context.clock)();
        let verdict = self.context.gate.classify(IncomingEvent {
            relay: self.relay,
            json,
            event,
            stored,
            received_at,
        });
        // When a buffer is full, sending to it waits, and this socket is not read.
        let waiting = Instant::now();
        match verdict {
            Verdict::Drop(reason) => return self.drop_event(reason),
            Verdict::Control(message) => {
                self.context.control.send(message, json.get().len()).await;
            }
            Verdict::Content(message) => {
                self.context.content.send(*message, json.get().len()).await;
            }
        }
        if let Some(pause) = self.relay.spend_budget(received_at) {
            self.context.count_relay(RelayReason::OverBudget);
            tokio::time::sleep(pause).await;
        }
        self.blocked += waiting.elapsed();
        Ok(())
    }

    /// Counts a dropped event or frame.
    fn drop_event(&mut self, reason: DropReason) -> Result<(), SessionEnd> {
        self.context.count_dropped(reason);
        self.add_points(points(reason))
    }

    fn add_points(&mut self, points: u32) -> Result<(), SessionEnd> {
        if self.penalty.add(points) {
            Err(SessionEnd::Misbehaving)
        } else {
            Ok(())
        }
    }

    fn log_complaint(&self, complaint: &str) {
        self.relay.set_status(complaint);
        tracing::warn!(
            stage = "listener",
            relay = self.relay.url,
            "relay {} sent {complaint}",
            self.relay.url
        );
    }

    /// AUTH (NIP-42, <https://github.com/nostr-protocol/nips/blob/master/42.md>): answers the
    /// challenge with the service's key.
    async fn authenticate(&mut self, challenge: &str) -> Result<(), SessionEnd> {
        let tags = [["relay", self.relay.url.as_str()], ["challenge", challenge]];
        let tags = tags.into_iter().filter_map(|tag| Tag::parse(tag).ok());
        let Ok(event) = EventBuilder::new(Kind::from_u16(AUTH_KIND), "")
            .tags(tags)
            .finalize(&self.context.keys)
        else {
            return Ok(());
        };
        self.auth_event_id = Some(event.id.to_hex());
        let message = json!(["AUTH", event]).to_string();
        Ok(self.socket.send_text(&message).await?)
    }

    /// OK: the result of the authentication.
    fn on_ok(&mut self, id: &str, accepted: bool, message: &str) -> Vec<Command> {
        if self.auth_event_id.as_deref() != Some(id) {
            return Vec::new();
        }
        if accepted {
            return self.requests.on_authenticated(self.now());
        }
        self.log_complaint(&format!("AUTH refused: {message:.256}"));
        vec![Command::Count(RelayReason::AuthRefused)]
    }

    /// Each second: pings a silent relay, and applies the timeouts.
    async fn on_tick(&mut self) -> Result<(), SessionEnd> {
        self.penalty.decrease();
        self.reading = self.started.elapsed().saturating_sub(self.blocked);
        if self.reading.saturating_sub(self.last_frame) > SILENCE_TIMEOUT {
            if self.pinged {
                return Err(Error::Io(std::io::ErrorKind::TimedOut.into()).into());
            }
            self.socket.ping().await?;
            (self.last_frame, self.pinged) = (self.reading, true);
        }
        let commands = self.requests.on_tick(self.now());
        self.execute(commands).await
    }
}
