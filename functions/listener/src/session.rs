//! One connection to a relay, from the handshake until it breaks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, SinkExt, StreamExt};
use nostr::event::{EventBuilder, FinalizeEvent, Kind, Tag};
use nostr_push_core::{Seconds, message::MAX_EVENT, ports::backoff, ports::seconds};
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
    dial::{Stream, Unreachable, dial},
    frame::{self, Frame},
    limits::Limits,
    plan::{Plan, Req, Stored, stored_mute_lists},
    relay::{Connected, Context, MAX_BACK, OVERLAP, Watched},
    run::told,
    screen::{CONTROL_KINDS, Verdict, parse},
};

/// The largest frame that is read: the largest event, and what stands around it.
const MAX_FRAME: usize = MAX_EVENT + 4 * 1024;

/// How long connecting may take, with its handshakes.
const CONNECT: Duration = Duration::from_secs(15);

/// A relay that is silent this long is asked for a sign of life, and given up on after twice that.
const SILENCE: Duration = Duration::from_secs(45);

/// How long an interest that keeps changing is gathered before the REQs follow it.
const SETTLE: Duration = Duration::from_millis(300);

/// How long the end of stored events (EOSE) is waited for; and after a NOTICE, that may mean a
/// refusal.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_AFTER_NOTICE: Duration = Duration::from_secs(20);

/// So many stored events may be all that the relay answers with, and not all there are: then it is
/// asked page by page.
const SUSPECT: usize = 100;

/// The most pages asked for in one connection.
const MAX_PAGES: usize = 1_000;

/// How many frames are taken in a row before everything else gets its turn.
const IN_A_ROW: usize = 256;

/// How much a relay may lie before it is cut off. It is forgiven one point a second.
const MAX_LIES: u32 = 100;

/// The subscription id of the control REQ.
const CONTROL: &str = "control";

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// There was none.
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] Unreachable),
    /// It broke.
    #[error("connection lost: {0}")]
    Lost(#[from] Error),
    /// The relay kept sending what nobody can have sent, what it was not asked for, or nothing but
    /// complaints.
    #[error("it keeps sending forged, malformed or unasked events, or complaints")]
    Lying,
}

/// One REQ that is open, or to be opened again.
struct Subscription {
    req: Arc<Req>,
    stored: Stored,
    state: State,
    /// Stored events that it has brought.
    count: usize,
    refusals: u32,
}

impl Subscription {
    /// The relay does not want it now: to be asked again after a backoff.
    fn refuse(&mut self) {
        self.refusals += 1;
        self.state = State::Refused(Instant::now() + backoff(self.refusals, 0.0));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its stored events are coming.
    Asked(Instant),
    /// They have come.
    Live,
    /// The relay closed it; to be asked again then.
    Refused(Instant),
}

/// One filter's stored events that are older than those that have come.
struct Page {
    filter: Value,
    until: Option<Seconds>,
    /// What has come of it.
    count: usize,
    oldest: Seconds,
}

impl Page {
    fn new(filter: Value) -> Self {
        Self {
            filter,
            until: None,
            count: 0,
            oldest: Seconds::MAX,
        }
    }
}

struct Session<'a> {
    relay: &'a Watched,
    context: &'a Context,
    socket: WebSocketStream<Stream>,
    limits: Limits,
    resume: Seconds,
    subscriptions: BTreeMap<String, Subscription>,
    plan: Plan,
    pages: VecDeque<Page>,
    /// The page that is coming, its subscription id, and since when.
    paging: Option<(String, Page, Instant)>,
    pages_asked: usize,
    /// How many new owners' mute lists are among the pages.
    owners_asked: usize,
    /// Closed a short time ago: events may still be on their way.
    closed: VecDeque<String>,
    /// Whether everything stored has come; and whether it ever had since the connection was made.
    caught_up: bool,
    ever_caught_up: bool,
    /// The id of the answer to NIP-42.
    auth: Option<String>,
    noticed: Option<Instant>,
    lies: u32,
    heard: Instant,
    pinged: bool,
}

/// Connects, and stays connected until told to stop.
///
/// # Errors
/// [`Ended`], unless it was told to stop.
pub async fn run(
    relay: &Watched,
    context: &Context,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Ended> {
    let connecting = async {
        tokio::join!(
            timeout(CONNECT, connect(relay)),
            Limits::ask(&relay.url, relay.only_public)
        )
    };
    let (socket, limits) = tokio::select! {
        connected = connecting => connected,
        () = told(&mut stop) => return Ok(()),
    };
    let socket = socket.map_err(|_| Unreachable::Io(std::io::ErrorKind::TimedOut.into()))??;
    let _connected = Connected::new(&context.health.connected);
    (context.count)("relay", "connected");
    tracing::info!(
        stage = "listener",
        relay = relay.url,
        outcome = "connected",
        "relay {} connected",
        relay.url
    );

    let now = seconds((context.clock)());
    let mut session = Session {
        relay,
        context,
        socket,
        limits,
        resume: relay.resume_from(now),
        subscriptions: BTreeMap::new(),
        plan: Plan::default(),
        pages: VecDeque::new(),
        paging: None,
        pages_asked: 0,
        owners_asked: relay.owners_asked(),
        closed: VecDeque::new(),
        caught_up: false,
        ever_caught_up: false,
        auth: None,
        noticed: None,
        lies: 0,
        heard: Instant::now(),
        pinged: false,
    };
    session.ask_for_control(now).await?;
    session.follow().await?;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    session.read(stop, tick).await
}

async fn connect(relay: &Watched) -> Result<WebSocketStream<Stream>, Ended> {
    let stream = dial(&relay.url, relay.only_public).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME));
    Ok(
        client_async_with_config(relay.url.as_str(), stream, Some(config))
            .await?
            .0,
    )
}

impl Session<'_> {
    async fn read(
        &mut self,
        mut stop: watch::Receiver<bool>,
        mut tick: Interval,
    ) -> Result<(), Ended> {
        let mut changes = self.context.changes.clone();
        let mut in_a_row = 0;
        loop {
            // Without the scheduler's say, so that "nothing there" means that the socket is empty.
            let ready = if in_a_row < IN_A_ROW {
                unconstrained(self.socket.next()).now_or_never()
            } else {
                None
            };
            let frame = if let Some(frame) = ready {
                in_a_row += 1;
                frame
            } else {
                if in_a_row == IN_A_ROW {
                    // Whatever else this thread has to do: a flood must not keep the others
                    // waiting.
                    yield_now().await;
                } else if self.caught_up {
                    self.relay.has_been_read(self.now());
                }
                in_a_row = 0;
                tokio::select! {
                    biased;
                    () = told(&mut stop) => {
                        // What was read is in the buffers; the rest the relay will be asked for
                        // again.
                        drop(timeout(Duration::from_secs(1), self.socket.close(None)).await);
                        return Ok(());
                    }
                    news = changes.changed() => {
                        if news.is_err() {
                            return Ok(());
                        }
                        tokio::time::sleep(SETTLE).await;
                        changes.mark_unchanged();
                        self.follow().await?;
                        continue;
                    }
                    _ = tick.tick() => {
                        self.tick().await?;
                        continue;
                    }
                    frame = self.socket.next() => frame,
                }
            };
            (self.heard, self.pinged) = (Instant::now(), false);
            match frame.ok_or(Error::ConnectionClosed)?? {
                Message::Text(text) => self.take(&text).await?,
                Message::Close(_) => return Err(Error::ConnectionClosed.into()),
                _ => {}
            }
        }
    }

    fn now(&self) -> Seconds {
        seconds((self.context.clock)())
    }

    async fn send(&mut self, message: Value) -> Result<(), Ended> {
        Ok(self.socket.send(Message::text(message.to_string())).await?)
    }

    /// One message from the relay.
    async fn take(&mut self, text: &str) -> Result<(), Ended> {
        match frame::read(text) {
            Frame::Event {
                subscription,
                event,
            } => self.take_event(&subscription, event).await,
            Frame::Eose(subscription) => self.stored_have_come(&subscription).await,
            Frame::Closed {
                subscription,
                reason,
            } => {
                self.refused(&subscription, &reason);
                self.points(1)
            }
            Frame::Notice(text) => {
                (self.context.count)("relay", "notice");
                self.relay.complains(&text);
                self.noticed = Some(Instant::now());
                tracing::warn!(
                    stage = "listener",
                    relay = self.relay.url,
                    "relay {} says: {text:.256}",
                    self.relay.url
                );
                self.points(1)
            }
            Frame::Auth(challenge) => {
                self.authenticate(&challenge).await?;
                self.points(5)
            }
            Frame::Ok {
                id,
                accepted,
                reason,
            } => {
                self.authenticated(&id, accepted, &reason);
                Ok(())
            }
            Frame::Malformed => self.lie("malformed_frame", 5),
        }
    }

    async fn take_event(&mut self, subscription: &str, json: &RawValue) -> Result<(), Ended> {
        let event = match parse(json) {
            Ok(event) => event,
            Err(reason) => return self.lie(reason, 5),
        };
        let backfill = if let Some(subscription) = self.subscriptions.get_mut(subscription) {
            subscription.count += usize::from(subscription.state != State::Live);
            subscription.state != State::Live
        } else if let Some((_, page, _)) =
            self.paging.as_mut().filter(|(id, ..)| id == subscription)
        {
            page.count += 1;
            page.oldest = page.oldest.min(event.created_at.as_secs());
            true
        } else if self.closed.iter().any(|closed| closed == subscription) {
            true
        } else {
            return self.lie("unasked", 2);
        };
        match self.context.screen.judge(
            &self.relay.url,
            json,
            event,
            backfill,
            (self.context.clock)(),
        ) {
            Verdict::Drop("bad_signature") => self.lie("bad_signature", 10),
            Verdict::Drop(reason) => {
                (self.context.count)("dropped", reason);
                Ok(())
            }
            // Waiting here is the backpressure: a full buffer stops the reading of this socket.
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

    /// Counts what no honest relay sends often.
    fn lie(&mut self, reason: &'static str, points: u32) -> Result<(), Ended> {
        (self.context.count)("dropped", reason);
        self.points(points)
    }

    /// Each forgery, and each word that costs us a line of log or a signature, has its points.
    fn points(&mut self, points: u32) -> Result<(), Ended> {
        self.lies += points;
        if self.lies >= MAX_LIES {
            Err(Ended::Lying)
        } else {
            Ok(())
        }
    }

    /// The control REQ takes whatever comes, however long ago it was signed; what is stored comes
    /// in pages.
    async fn ask_for_control(&mut self, now: Seconds) -> Result<(), Ended> {
        let service = self.context.keys.public_key().to_hex();
        let req = Arc::new(Req::new(json!({"kinds": CONTROL_KINDS, "#p": [service]})));
        self.pages.extend(
            req.filters(
                Stored::Since(self.relay.resume_control_from(now)),
                self.limits.page,
            )
            .into_iter()
            .map(Page::new),
        );
        self.ask(
            CONTROL.to_owned(),
            req,
            Stored::None(now.saturating_sub(MAX_BACK)),
        )
        .await
    }

    async fn ask(&mut self, id: String, req: Arc<Req>, stored: Stored) -> Result<(), Ended> {
        let mut message = vec![json!("REQ"), json!(id)];
        message.extend(req.filters(stored, self.limits.page));
        let refusals = self
            .subscriptions
            .get(&id)
            .map_or(0, |subscription| subscription.refusals);
        self.subscriptions.insert(
            id,
            Subscription {
                req,
                stored,
                state: State::Asked(Instant::now()),
                count: 0,
                refusals,
            },
        );
        self.send(message.into()).await
    }

    async fn close(&mut self, id: String) -> Result<(), Ended> {
        self.subscriptions.remove(&id);
        let message = json!(["CLOSE", id]);
        self.closed.push_back(id);
        if self.closed.len() > 64 {
            self.closed.pop_front();
        }
        self.send(message).await
    }

    /// Brings the REQs in line with the interest: the new first, and the old are closed when all of
    /// the new have brought their stored events, or when the relay has no room for both.
    async fn follow(&mut self) -> Result<(), Ended> {
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
        let overlap = self.now().saturating_sub(OVERLAP);
        for (id, req) in new {
            let stored = self.stored_for(&req, overlap);
            // One is kept free for pages.
            let old = self
                .old()
                .next()
                .filter(|_| self.subscriptions.len() + 1 >= self.limits.subscriptions)
                .cloned();
            if let Some(old) = old {
                self.close(old).await?;
            }
            self.ask(id, req, stored).await?;
        }
        let (owners, count) = self.context.owners.after(self.owners_asked);
        self.owners_asked = count;
        self.pages.extend(
            stored_mute_lists(&owners, self.limits)
                .into_iter()
                .map(Page::new),
        );
        self.retire().await
    }

    /// Which stored events a new REQ has to ask for.
    fn stored_for(&self, req: &Req, overlap: Seconds) -> Stored {
        if !self.ever_caught_up {
            return Stored::Since(self.resume);
        }
        let parents = || req.parents.iter().map(|id| self.subscriptions.get(id));
        if !req.parents.is_empty()
            && parents().all(|parent| parent.is_some_and(|parent| parent.state == State::Live))
        {
            return Stored::None(overlap);
        }
        // What a parent still has to make up for, it takes over.
        let missed = parents()
            .flatten()
            .filter(|parent| parent.state != State::Live)
            .map(|parent| parent.stored.since())
            .min();
        missed.map_or(Stored::Fresh(overlap), |since| {
            Stored::Since(since.min(overlap))
        })
    }

    /// The REQs that are no longer in the plan.
    fn old(&self) -> impl Iterator<Item = &String> {
        self.subscriptions
            .keys()
            .filter(|id| *id != CONTROL && !self.plan.contains_key(*id))
    }

    async fn retire(&mut self) -> Result<(), Ended> {
        if self
            .subscriptions
            .values()
            .any(|subscription| matches!(subscription.state, State::Asked(_)))
        {
            return Ok(());
        }
        for id in self.old().cloned().collect::<Vec<_>>() {
            self.close(id).await?;
        }
        self.next_page().await
    }

    /// EOSE: what comes from now on is live.
    async fn stored_have_come(&mut self, id: &str) -> Result<(), Ended> {
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            // There may be more than the relay answers with at once, of any of the filters.
            if subscription.state != State::Live
                && subscription.count >= SUSPECT.min(self.limits.page)
            {
                let filters = subscription
                    .req
                    .filters(subscription.stored, self.limits.page);
                self.pages.extend(filters.into_iter().map(Page::new));
            }
            (subscription.state, subscription.refusals) = (State::Live, 0);
            return self.retire().await;
        }
        let Some((id, mut page, _)) = self.paging.take_if(|(paging, ..)| paging == id) else {
            // Of one that was closed meanwhile.
            return Ok(());
        };
        self.close(id).await?;
        if page.count >= SUSPECT.min(self.limits.page) {
            let until = page.until.unwrap_or(Seconds::MAX);
            if page.oldest < until {
                page.until = Some(page.oldest);
            } else {
                // NIP-01 has no way through a second that holds more than a page; but there is one
                // past it.
                (self.context.count)("relay", "page_overflow");
                page.until = Some(until.saturating_sub(1));
            }
            (page.count, page.oldest) = (0, Seconds::MAX);
            self.pages.push_front(page);
        }
        self.next_page().await
    }

    /// Asks for the next page of stored events, one at a time; when there is none, everything
    /// stored has come.
    async fn next_page(&mut self) -> Result<(), Ended> {
        if self.paging.is_some() {
            return Ok(());
        }
        let Some(page) = self.pages.pop_front() else {
            self.relay.has_been_asked_for(self.owners_asked);
            self.caught_up |= self
                .subscriptions
                .values()
                .all(|subscription| subscription.state == State::Live);
            self.ever_caught_up |= self.caught_up;
            return Ok(());
        };
        if self.pages_asked >= MAX_PAGES {
            (self.context.count)("relay", "too_many_pages");
            self.pages.clear();
            return Ok(());
        }
        self.pages_asked += 1;
        let id = format!("page-{}", self.pages_asked);
        let mut filter = page.filter.clone();
        if let Some(until) = page.until {
            filter["until"] = json!(until);
        }
        self.paging = Some((id.clone(), page, Instant::now()));
        self.send(json!(["REQ", id, filter])).await
    }

    /// CLOSED: it is asked again later, from where it broke off.
    fn refused(&mut self, id: &str, reason: &str) {
        let prefix = match reason.split(':').next() {
            Some("auth-required") => "closed_auth_required",
            Some("rate-limited") => "closed_rate_limited",
            Some("error") => "closed_error",
            Some("restricted" | "blocked") => "closed_restricted",
            _ => "closed_other",
        };
        (self.context.count)("relay", prefix);
        self.relay.complains(&format!("CLOSED {reason}"));
        tracing::warn!(
            stage = "listener",
            relay = self.relay.url,
            reason = prefix,
            "relay {} closed {id:.64}: {reason:.256}",
            self.relay.url
        );
        let overlap = self.now().saturating_sub(OVERLAP);
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            if subscription.state == State::Live {
                subscription.stored = Stored::Since(overlap);
            }
            subscription.refuse();
            self.caught_up = false;
        } else if let Some((_, page, _)) = self.paging.take_if(|(paging, ..)| paging == id) {
            // Pages go on when the relay has had time to breathe: the next tick asks for the next
            // one.
            self.pages.push_back(Page {
                count: 0,
                oldest: Seconds::MAX,
                ..page
            });
        }
    }

    /// NIP-42: says who we are.
    async fn authenticate(&mut self, challenge: &str) -> Result<(), Ended> {
        let tags = [["relay", self.relay.url.as_str()], ["challenge", challenge]];
        let tags = tags.into_iter().filter_map(|tag| Tag::parse(tag).ok());
        let Ok(event) = EventBuilder::new(Kind::from_u16(22242), "")
            .tags(tags)
            .finalize(&self.context.keys)
        else {
            return Ok(());
        };
        self.auth = Some(event.id.to_hex());
        self.send(json!(["AUTH", event])).await
    }

    fn authenticated(&mut self, id: &str, accepted: bool, reason: &str) {
        if self.auth.as_deref() != Some(id) {
            return;
        }
        (self.context.count)(
            "relay",
            if accepted {
                "authenticated"
            } else {
                "auth_refused"
            },
        );
        if !accepted {
            self.relay.complains(&format!("AUTH refused: {reason}"));
            tracing::warn!(
                stage = "listener",
                relay = self.relay.url,
                "relay {} refuses the service's key: {reason:.256}",
                self.relay.url
            );
            return;
        }
        for subscription in self
            .subscriptions
            .values_mut()
            .filter(|subscription| matches!(subscription.state, State::Refused(_)))
        {
            subscription.state = State::Refused(Instant::now());
        }
    }

    /// Each second: what was refused is asked again, and what does not come is not waited for.
    async fn tick(&mut self) -> Result<(), Ended> {
        self.lies = self.lies.saturating_sub(1);
        if self.heard.elapsed() > SILENCE {
            if self.pinged {
                return Err(Error::Io(std::io::ErrorKind::TimedOut.into()).into());
            }
            self.socket.send(Message::Ping(Vec::new().into())).await?;
            (self.heard, self.pinged) = (Instant::now(), true);
        }
        let (noticed, count) = (self.noticed, self.context.count);
        let mut again = Vec::new();
        for (id, subscription) in &mut self.subscriptions {
            match subscription.state {
                State::Refused(at) if at <= Instant::now() => again.push((
                    id.clone(),
                    Arc::clone(&subscription.req),
                    subscription.stored,
                )),
                State::Asked(at)
                    if at.elapsed() > PATIENCE_AFTER_NOTICE
                        && noticed.is_some_and(|noticed| noticed >= at) =>
                {
                    subscription.refuse();
                }
                State::Asked(at) if at.elapsed() > PATIENCE => {
                    subscription.state = State::Live;
                    count("relay", "no_eose");
                }
                _ => {}
            }
        }
        for (id, req, stored) in again {
            self.ask(id, req, stored).await?;
        }
        if let Some((id, ..)) = self
            .paging
            .take_if(|(_, _, asked)| asked.elapsed() > PATIENCE)
        {
            count("relay", "no_eose");
            self.close(id).await?;
        }
        self.retire().await
    }
}
