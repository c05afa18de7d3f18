//! One connection to a relay (NIP-01, <https://github.com/nostr-protocol/nips/blob/master/01.md>),
//! from the handshake until it ends.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, SinkExt, StreamExt};
use nostr::event::{EventBuilder, FinalizeEvent, Kind, Tag};
use nostr_push_core::{Seconds, message::MAX_EVENT_BYTES, ports::backoff};
use serde_json::{Value, json, value::RawValue};
use tokio::{
    sync::watch,
    task::{unconstrained, yield_now},
    time::{Instant, Interval, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

use crate::{
    counter::{DropReason, RelayReason},
    dial::{DialError, Stream, dial},
    gate::{CONTROL_KINDS, IncomingEvent, Verdict, parse_event},
    limits::Limits,
    plan::{Plan, Req, StoredRange, mute_list_filters},
    relay_context::RelayContext,
    relay_message::RelayMessage,
    shutdown::Shutdown,
    watched_relay::{MAX_LOOKBACK, NEW_REQ_OVERLAP, WatchedRelay},
};

/// The largest frame that is read, in bytes: the largest event and the message around it.
const MAX_FRAME_BYTES: usize = MAX_EVENT_BYTES + 4 * 1024;

/// The timeout of connecting, including the handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The timeout of closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a relay may send nothing before it is pinged. After the same time again the connection
/// is lost.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// How long further changes of the interest are awaited before the REQs are changed.
const INTEREST_DEBOUNCE: Duration = Duration::from_millis(300);

/// How long the end of stored events (EOSE) is awaited.
const EOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long EOSE is awaited after a NOTICE, which may be a refusal.
const EOSE_TIMEOUT_AFTER_NOTICE: Duration = Duration::from_secs(20);

/// The number of stored events from which a response may be incomplete. The stored events are then
/// requested page by page.
const FULL_PAGE_MIN_EVENTS: usize = 100;

/// The most pages that are requested in one connection.
const MAX_PAGES: usize = 1_000;

/// The most frames that are read before other tasks get their turn.
const FRAME_BUDGET: usize = 256;

/// The maximum penalty. The penalty decreases by 1 per second. At 100 the relay is disconnected.
const MAX_PENALTY: u32 = 100;

/// The number of closed subscriptions that are remembered.
const MAX_RECENTLY_CLOSED: usize = 64;

/// The subscription id of the REQ for control events.
const CONTROL_ID: &str = "control";

/// The kind of an authentication (NIP-42,
/// <https://github.com/nostr-protocol/nips/blob/master/42.md>).
const AUTH_KIND: u16 = 22242;

/// Later than every `created_at`.
const END_OF_TIME: Seconds = Seconds(u64::MAX);

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
}

/// A REQ that is open, or that will be sent again.
struct RelaySubscription {
    req: Arc<Req>,
    stored: StoredRange,
    state: ReqState,
    /// The number of stored events that were received.
    stored_events: usize,
    refusals: u32,
}

impl RelaySubscription {
    /// Schedules the REQ to be sent again after a backoff.
    fn schedule_retry(&mut self) {
        self.refusals += 1;
        self.state = ReqState::Refused(Instant::now() + backoff(self.refusals, 0.0));
    }
}

/// The state of a REQ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReqState {
    /// The REQ was sent at this time, and stored events are being received.
    Sent(Instant),
    /// All stored events have been received.
    Live,
    /// The relay refused the REQ. It is sent again at this time.
    Refused(Instant),
}

/// Why waiting for a frame ended.
enum Wakeup {
    /// A frame came, or the connection ended.
    Frame(Option<Result<Message, Error>>),
    /// Another event came and was handled.
    Handled,
    /// The session must end.
    Stop,
}

/// The stored events of one filter, requested page by page, from the latest to the oldest.
struct PagedFilter {
    filter: Value,
    /// The end of the page. `None` for the first page.
    until: Option<Seconds>,
    /// The number of events of the page that were received.
    count: usize,
    /// The time of the oldest event of the page.
    oldest: Seconds,
}

impl PagedFilter {
    fn new(filter: Value) -> Self {
        Self {
            filter,
            until: None,
            count: 0,
            oldest: END_OF_TIME,
        }
    }
}

struct Session<'a> {
    relay: &'a WatchedRelay,
    context: &'a RelayContext,
    socket: WebSocketStream<Stream>,
    limits: Limits,
    resume_from: Seconds,
    subscriptions: BTreeMap<String, RelaySubscription>,
    plan: Plan,
    /// The pages that have not been requested.
    pages: VecDeque<PagedFilter>,
    /// The page that is being received, with its subscription id and when it was requested.
    open_page: Option<(String, PagedFilter, Instant)>,
    pages_requested: usize,
    /// The number of new owners whose mute lists were requested.
    mute_lists_requested: usize,
    /// Subscriptions that were closed a short time ago. Their events may still arrive.
    recently_closed: VecDeque<String>,
    /// `true` if all stored events have been received.
    caught_up: bool,
    /// `true` if `caught_up` was ever `true` in this connection.
    ever_caught_up: bool,
    /// The id of the authentication that was sent.
    auth_event_id: Option<String>,
    last_notice: Option<Instant>,
    penalty: u32,
    last_frame: Instant,
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

    let now = context.now();
    let mut session = Session {
        relay,
        context,
        socket,
        limits,
        resume_from: relay.resume_from(now),
        subscriptions: BTreeMap::new(),
        plan: Plan::default(),
        pages: VecDeque::new(),
        open_page: None,
        pages_requested: 0,
        mute_lists_requested: relay.mute_lists_returned(),
        recently_closed: VecDeque::new(),
        caught_up: false,
        ever_caught_up: false,
        auth_event_id: None,
        last_notice: None,
        penalty: 0,
        last_frame: Instant::now(),
        pinged: false,
    };
    session.request_control_events(now).await?;
    session.follow_plan().await?;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    session.read(shutdown, tick).await
}

async fn connect(relay: &WatchedRelay) -> Result<WebSocketStream<Stream>, SessionEnd> {
    let stream = dial(&relay.url, relay.source.only_public()).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES));
    Ok(
        client_async_with_config(relay.url.as_str(), stream, Some(config))
            .await?
            .0,
    )
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
                } else if self.caught_up {
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
            (self.last_frame, self.pinged) = (Instant::now(), false);
            match frame.ok_or(Error::ConnectionClosed)?? {
                Message::Text(text) => self.on_message(&text).await?,
                Message::Close(_) => return Err(Error::ConnectionClosed.into()),
                _ => {}
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
        tokio::select! {
            biased;
            () = shutdown.stop_requested() => {
                // What was read is in the buffers. The rest is requested again later.
                drop(timeout(CLOSE_TIMEOUT, self.socket.close(None)).await);
                Ok(Wakeup::Stop)
            }
            result = interest_changes.changed() => {
                if result.is_err() {
                    return Ok(Wakeup::Stop);
                }
                tokio::time::sleep(INTEREST_DEBOUNCE).await;
                interest_changes.mark_unchanged();
                self.follow_plan().await?;
                Ok(Wakeup::Handled)
            }
            _ = tick.tick() => {
                self.on_tick().await?;
                Ok(Wakeup::Handled)
            }
            frame = self.socket.next() => Ok(Wakeup::Frame(frame)),
        }
    }

    async fn send(&mut self, message: Value) -> Result<(), SessionEnd> {
        Ok(self.socket.send(Message::text(message.to_string())).await?)
    }

    /// Handles one message from the relay.
    async fn on_message(&mut self, text: &str) -> Result<(), SessionEnd> {
        match RelayMessage::parse(text) {
            RelayMessage::Event {
                subscription,
                event,
            } => self.on_event(&subscription, event).await,
            RelayMessage::Eose(subscription) => self.on_eose(&subscription).await,
            RelayMessage::Closed {
                subscription,
                reason,
            } => {
                self.on_closed(&subscription, &reason);
                self.add_penalty(1)
            }
            RelayMessage::Notice(text) => {
                self.on_notice(&text);
                self.add_penalty(1)
            }
            RelayMessage::Auth(challenge) => {
                self.authenticate(&challenge).await?;
                self.add_penalty(5)
            }
            RelayMessage::Ok {
                id,
                accepted,
                reason,
            } => {
                self.on_ok(&id, accepted, &reason);
                Ok(())
            }
            RelayMessage::Malformed => self.penalize(DropReason::MalformedFrame, 5),
        }
    }

    async fn on_event(&mut self, subscription: &str, json: &RawValue) -> Result<(), SessionEnd> {
        let event = match parse_event(json) {
            Ok(event) => event,
            Err(reason) => return self.penalize(reason, 5),
        };
        let Some(backfill) = self.count_event(subscription, event.created_at.into()) else {
            return self.penalize(DropReason::Unrequested, 2);
        };
        let verdict = self.context.gate.classify(IncomingEvent {
            relay: &self.relay.url,
            json,
            event,
            backfill,
            received_at: (self.context.clock)(),
        });
        // When a buffer is full, sending to it waits, and this socket is not read.
        match verdict {
            Verdict::Drop(DropReason::BadSignature) => self.penalize(DropReason::BadSignature, 10),
            Verdict::Drop(reason) => {
                self.context.count_dropped(reason);
                Ok(())
            }
            Verdict::Control(message) => {
                self.context.control.send(message, json.get().len()).await;
                Ok(())
            }
            Verdict::Content(message) => {
                self.context.content.send(*message, json.get().len()).await;
                Ok(())
            }
        }
    }

    /// Counts an event on its subscription or page. Returns `Some(true)` if the event is a stored
    /// one, `Some(false)` if it is live, and `None` if no subscription has this id.
    fn count_event(&mut self, id: &str, created_at: Seconds) -> Option<bool> {
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            let is_stored = subscription.state != ReqState::Live;
            subscription.stored_events += usize::from(is_stored);
            return Some(is_stored);
        }
        if let Some((_, page, _)) = self.open_page.as_mut().filter(|(open, ..)| open == id) {
            page.count += 1;
            page.oldest = page.oldest.min(created_at);
            return Some(true);
        }
        self.recently_closed
            .iter()
            .any(|closed| closed == id)
            .then_some(true)
    }

    /// Counts a dropped event or frame and adds to the penalty.
    fn penalize(&mut self, reason: DropReason, penalty: u32) -> Result<(), SessionEnd> {
        self.context.count_dropped(reason);
        self.add_penalty(penalty)
    }

    /// Adds to the penalty. Notices, refusals and challenges add to the penalty too, because each
    /// causes a log line or a signature.
    fn add_penalty(&mut self, penalty: u32) -> Result<(), SessionEnd> {
        self.penalty += penalty;
        if self.penalty >= MAX_PENALTY {
            Err(SessionEnd::Misbehaving)
        } else {
            Ok(())
        }
    }

    /// Sends the REQ for live control events, which may have been signed up to [`MAX_LOOKBACK`]
    /// ago. Stored control events are requested page by page.
    async fn request_control_events(&mut self, now: Seconds) -> Result<(), SessionEnd> {
        let service = self.context.keys.public_key().to_hex();
        let req = Arc::new(Req::new(json!({"kinds": CONTROL_KINDS, "#p": [service]})));
        let stored = StoredRange::Resume(self.relay.resume_control_from(now));
        let filters = req.filters(stored, self.limits.page);
        self.pages.extend(filters.into_iter().map(PagedFilter::new));
        let live = StoredRange::LiveOnly(now - MAX_LOOKBACK);
        self.send_req(CONTROL_ID.to_owned(), req, live).await
    }

    async fn send_req(
        &mut self,
        id: String,
        req: Arc<Req>,
        stored: StoredRange,
    ) -> Result<(), SessionEnd> {
        let mut message = vec![json!("REQ"), json!(id)];
        message.extend(req.filters(stored, self.limits.page));
        let refusals = self
            .subscriptions
            .get(&id)
            .map_or(0, |subscription| subscription.refusals);
        self.subscriptions.insert(
            id,
            RelaySubscription {
                req,
                stored,
                state: ReqState::Sent(Instant::now()),
                stored_events: 0,
                refusals,
            },
        );
        self.send(message.into()).await
    }

    async fn close(&mut self, id: String) -> Result<(), SessionEnd> {
        self.subscriptions.remove(&id);
        let message = json!(["CLOSE", id]);
        self.recently_closed.push_back(id);
        if self.recently_closed.len() > MAX_RECENTLY_CLOSED {
            self.recently_closed.pop_front();
        }
        self.send(message).await
    }

    /// Makes the REQs follow the plan for the interest. New REQs are sent first. Obsolete ones are
    /// closed once all new ones have received their stored events, or at once if the relay has no
    /// room for both.
    async fn follow_plan(&mut self) -> Result<(), SessionEnd> {
        self.plan = {
            let interest = self
                .context
                .interest
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            self.context.plans.plan(self.limits, &interest)
        };
        let new = self
            .plan
            .iter()
            .filter(|(id, _)| !self.subscriptions.contains_key(*id));
        let new: Vec<(String, Arc<Req>)> =
            new.map(|(id, req)| (id.clone(), Arc::clone(req))).collect();
        let overlap = self.context.now() - NEW_REQ_OVERLAP;
        for (id, req) in new {
            let stored = self.stored_range(&req, overlap);
            // One subscription is kept free for pages.
            let obsolete = self
                .obsolete()
                .next()
                .filter(|_| self.subscriptions.len() + 1 >= self.limits.subscriptions)
                .cloned();
            if let Some(obsolete) = obsolete {
                self.close(obsolete).await?;
            }
            self.send_req(id, req, stored).await?;
        }
        let (owners, position) = self
            .context
            .mute_list_owners
            .after(self.mute_lists_requested);
        self.mute_lists_requested = position;
        let filters = mute_list_filters(&owners, self.limits);
        self.pages.extend(filters.into_iter().map(PagedFilter::new));
        self.close_obsolete().await
    }

    /// The stored events that a new REQ must request.
    fn stored_range(&self, req: &Req, overlap: Seconds) -> StoredRange {
        if !self.ever_caught_up {
            return StoredRange::Resume(self.resume_from);
        }
        let parents = || req.parents.iter().map(|id| self.subscriptions.get(id));
        if !req.parents.is_empty()
            && parents().all(|parent| parent.is_some_and(|parent| parent.state == ReqState::Live))
        {
            return StoredRange::LiveOnly(overlap);
        }
        // The REQ takes over the stored events that a parent has not received.
        let missed = parents()
            .flatten()
            .filter(|parent| parent.state != ReqState::Live)
            .map(|parent| parent.stored.since())
            .min();
        missed.map_or(StoredRange::Recent(overlap), |since| {
            StoredRange::Resume(since.min(overlap))
        })
    }

    /// The REQs that are no longer in the plan.
    fn obsolete(&self) -> impl Iterator<Item = &String> {
        self.subscriptions
            .keys()
            .filter(|id| *id != CONTROL_ID && !self.plan.contains_key(*id))
    }

    /// Closes the obsolete REQs and requests the next page, unless stored events are being
    /// received.
    async fn close_obsolete(&mut self) -> Result<(), SessionEnd> {
        if self
            .subscriptions
            .values()
            .any(|subscription| matches!(subscription.state, ReqState::Sent(_)))
        {
            return Ok(());
        }
        for id in self.obsolete().cloned().collect::<Vec<_>>() {
            self.close(id).await?;
        }
        self.request_next_page().await
    }

    /// EOSE: all stored events have been sent, and further events are live.
    async fn on_eose(&mut self, id: &str) -> Result<(), SessionEnd> {
        let full_page = FULL_PAGE_MIN_EVENTS.min(self.limits.page);
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            // The relay may have more stored events of each filter.
            if subscription.state != ReqState::Live && subscription.stored_events >= full_page {
                let filters = subscription
                    .req
                    .filters(subscription.stored, self.limits.page);
                self.pages.extend(filters.into_iter().map(PagedFilter::new));
            }
            (subscription.state, subscription.refusals) = (ReqState::Live, 0);
            return self.close_obsolete().await;
        }
        let Some((id, mut page, _)) = self.open_page.take_if(|(open, ..)| open == id) else {
            // The subscription was closed in the meantime.
            return Ok(());
        };
        self.close(id).await?;
        if page.count >= full_page {
            let until = page.until.unwrap_or(END_OF_TIME);
            if page.oldest < until {
                page.until = Some(page.oldest);
            } else {
                // A REQ (NIP-01) cannot request the rest of a second that holds more than a page.
                // The next page starts before that second.
                self.context.count_relay(RelayReason::PageOverflow);
                page.until = Some(until - Seconds(1));
            }
            (page.count, page.oldest) = (0, END_OF_TIME);
            self.pages.push_front(page);
        }
        self.request_next_page().await
    }

    /// Requests the next page of stored events, one at a time. When there is none, all stored
    /// events have been received.
    async fn request_next_page(&mut self) -> Result<(), SessionEnd> {
        if self.open_page.is_some() {
            return Ok(());
        }
        let Some(page) = self.pages.pop_front() else {
            self.relay.record_mute_lists(self.mute_lists_requested);
            self.caught_up |= self
                .subscriptions
                .values()
                .all(|subscription| subscription.state == ReqState::Live);
            self.ever_caught_up |= self.caught_up;
            return Ok(());
        };
        if self.pages_requested >= MAX_PAGES {
            self.context.count_relay(RelayReason::TooManyPages);
            self.pages.clear();
            return Ok(());
        }
        self.pages_requested += 1;
        let id = format!("page-{}", self.pages_requested);
        let mut filter = page.filter.clone();
        if let Some(until) = page.until {
            filter["until"] = json!(until);
        }
        self.open_page = Some((id.clone(), page, Instant::now()));
        self.send(json!(["REQ", id, filter])).await
    }

    fn on_notice(&mut self, text: &str) {
        self.context.count_relay(RelayReason::Notice);
        self.relay.set_status(text);
        self.last_notice = Some(Instant::now());
        tracing::warn!(
            stage = "listener",
            relay = self.relay.url,
            "relay {} sent a notice: {text:.256}",
            self.relay.url
        );
    }

    /// CLOSED: the REQ is sent again later, from where it stopped.
    fn on_closed(&mut self, id: &str, message: &str) {
        let reason = RelayReason::of_closed(message);
        self.context.count_relay(reason);
        self.relay.set_status(&format!("CLOSED {message}"));
        tracing::warn!(
            stage = "listener",
            relay = self.relay.url,
            reason = reason.reason(),
            "relay {} closed {id:.64}: {message:.256}",
            self.relay.url
        );
        let overlap = self.context.now() - NEW_REQ_OVERLAP;
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            if subscription.state == ReqState::Live {
                subscription.stored = StoredRange::Resume(overlap);
            }
            subscription.schedule_retry();
            self.caught_up = false;
        } else if let Some((_, page, _)) = self.open_page.take_if(|(open, ..)| open == id) {
            // The next tick requests the next page, so that the relay has a pause.
            self.pages.push_back(PagedFilter {
                count: 0,
                oldest: END_OF_TIME,
                ..page
            });
        }
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
        self.send(json!(["AUTH", event])).await
    }

    /// OK: the result of the authentication. After a success, refused REQs are sent again.
    fn on_ok(&mut self, id: &str, accepted: bool, message: &str) {
        if self.auth_event_id.as_deref() != Some(id) {
            return;
        }
        if !accepted {
            self.context.count_relay(RelayReason::AuthRefused);
            self.relay.set_status(&format!("AUTH refused: {message}"));
            tracing::warn!(
                stage = "listener",
                relay = self.relay.url,
                "relay {} refused the authentication: {message:.256}",
                self.relay.url
            );
            return;
        }
        self.context.count_relay(RelayReason::Authenticated);
        for subscription in self
            .subscriptions
            .values_mut()
            .filter(|subscription| matches!(subscription.state, ReqState::Refused(_)))
        {
            subscription.state = ReqState::Refused(Instant::now());
        }
    }

    /// Each second: sends refused REQs again, and applies the timeouts.
    async fn on_tick(&mut self) -> Result<(), SessionEnd> {
        self.penalty = self.penalty.saturating_sub(1);
        if self.last_frame.elapsed() > SILENCE_TIMEOUT {
            if self.pinged {
                return Err(Error::Io(std::io::ErrorKind::TimedOut.into()).into());
            }
            self.socket.send(Message::Ping(Vec::new().into())).await?;
            (self.last_frame, self.pinged) = (Instant::now(), true);
        }
        let mut due = Vec::new();
        for (id, subscription) in &mut self.subscriptions {
            match subscription.state {
                ReqState::Refused(at) if at <= Instant::now() => due.push((
                    id.clone(),
                    Arc::clone(&subscription.req),
                    subscription.stored,
                )),
                ReqState::Sent(at)
                    if at.elapsed() > EOSE_TIMEOUT_AFTER_NOTICE
                        && self.last_notice.is_some_and(|notice| notice >= at) =>
                {
                    subscription.schedule_retry();
                }
                ReqState::Sent(at) if at.elapsed() > EOSE_TIMEOUT => {
                    subscription.state = ReqState::Live;
                    self.context.count_relay(RelayReason::NoEose);
                }
                _ => {}
            }
        }
        for (id, req, stored) in due {
            self.send_req(id, req, stored).await?;
        }
        if let Some((id, ..)) = self
            .open_page
            .take_if(|(_, _, requested_at)| requested_at.elapsed() > EOSE_TIMEOUT)
        {
            self.context.count_relay(RelayReason::NoEose);
            self.close(id).await?;
        }
        self.close_obsolete().await
    }
}
