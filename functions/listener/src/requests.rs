//! What is requested from one relay over one connection: the protocol rules of NIP-01
//! (<https://github.com/nostr-protocol/nips/blob/master/01.md>) as a pure state machine. It has no
//! socket, clock or lock. [`session`](crate::session) passes it what happens, and sends what it
//! returns.
//!
//! - The REQs of the plan receive live events. They have `limit: 1`.
//! - Stored events are requested page by page, one page at a time, with REQs of their own.
//! - A REQ is *live* from its EOSE until the relay ends it. What it may have missed before is
//!   recorded from the moment in which it is needed, and becomes [`Span`]s of stored events once it
//!   is live. If the plan drops a REQ that is not live, what it has missed becomes a [`Debt`], and
//!   spans once the REQs that replace it are live. So a time that no REQ covers is always requested
//!   later.
//! - The REQ for control events is sent first and by itself, and depends on nobody's filters.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use nostr_push_core::{Seconds, ports::backoff};
use serde_json::json;

use crate::{
    counter::RelayReason,
    limits::Limits,
    plan::Plan,
    req::{self, Coverage, MAX_CONTROL_AGE, Missed, NEW_REQ_OVERLAP, Req},
};

/// How long the end of stored events (EOSE) is awaited.
const EOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long EOSE is awaited after a NOTICE, which may be a refusal.
const EOSE_TIMEOUT_AFTER_NOTICE: Duration = Duration::from_secs(20);

/// How long a REQ must have been live for its earlier refusals to be forgotten.
const STABLE_REQ_AGE: Duration = Duration::from_secs(60);

/// The number of stored events from which a page may be incomplete: relays return fewer events than
/// `limit` asks for, and not all say how many.
const FULL_PAGE_MIN_EVENTS: usize = 10;

/// The most pages that are requested without a pause, and how many more after each second.
const PAGE_BURST: u32 = 1_000;
const PAGES_PER_SECOND: u32 = 10;

/// The most spans that may be owed. Beyond it the connection ends, and the next one resumes from the
/// cursor.
const MAX_SPANS: usize = 20_000;

/// How often the control events of the last week are requested again after an interruption: an event
/// may have been published during the interruption and signed long before it.
const SWEEP_INTERVAL: Seconds = Seconds::from_days(1);

/// The number of closed subscriptions that are remembered.
const MAX_RECENTLY_CLOSED: usize = 64;

/// Later than every `created_at`.
const END_OF_TIME: Seconds = Seconds(u64::MAX);

/// The subscription id of the REQ for control events.
pub const CONTROL_ID: &str = "control";

/// A moment of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// The time.
    pub unix: Seconds,
    /// How long the socket has been read since the connection began. The time in which a full
    /// buffer kept it from being read does not count.
    pub reading: Duration,
}

/// What the session must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send this message.
    Send(String),
    /// Count this.
    Count(RelayReason),
    /// Answer this challenge (NIP-42,
    /// <https://github.com/nostr-protocol/nips/blob/master/42.md>).
    Authenticate(String),
    /// All control events of the last week, as of this time, have been received.
    RecordSweep(Seconds),
    /// The stored mute lists of the new owners up to this position have been received.
    RecordMuteLists(usize),
    /// End the connection: the relay is too far behind.
    Disconnect,
}

/// Where a connection resumes.
#[derive(Debug, Clone, Copy)]
pub struct ResumePoint {
    /// The time up to which everything has been read. `None` if the relay has never been read.
    pub cursor: Option<Seconds>,
    /// When the listener began to watch the relay.
    pub watched_since: Seconds,
    /// When the control events of the last week were last requested.
    pub swept_at: Seconds,
}

impl ResumePoint {
    fn missed_content(self) -> Missed {
        let new = Missed::NewKeys(self.watched_since - NEW_REQ_OVERLAP);
        self.cursor.map_or(new, Missed::Events)
    }
}

/// A REQ of the plan, or one that the plan no longer has, or the control REQ.
#[derive(Debug)]
struct OpenReq {
    req: Arc<Req>,
    state: ReqState,
    /// When it was last sent.
    sent_at: Option<Seconds>,
    /// How often it was sent before. It is part of the subscription id, so that a late answer to an
    /// earlier REQ is not taken for one to a later REQ.
    resent: u32,
    /// The stored events that it needs once it is live. `None` if other REQs or debts cover them.
    missed: Option<Missed>,
    /// When the plan got it.
    planned_at: Seconds,
    refusals: u32,
}

/// The state of a REQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReqState {
    /// It waits for a free subscription.
    Waiting,
    /// It was sent. EOSE has not come.
    Sent { at: Duration },
    /// EOSE has not come in time. Live events may come, but nothing is certain. It is sent again at
    /// this time.
    Overdue { retry_at: Duration },
    /// EOSE has come.
    Live { since: Duration },
    /// The relay refused or ended it. It is sent again at this time.
    Refused { retry_at: Duration },
}

impl OpenReq {
    fn is_live(&self) -> bool {
        matches!(self.state, ReqState::Live { .. })
    }

    /// Returns `true` if the relay may have it open.
    fn is_open(&self) -> bool {
        !matches!(self.state, ReqState::Waiting | ReqState::Refused { .. })
    }

    /// Returns `true` if it covers its keys, unless the relay refuses it.
    fn is_covering(&self) -> bool {
        matches!(self.state, ReqState::Live { .. } | ReqState::Sent { .. })
    }

    /// Since when its events are needed.
    fn needed_at(&self) -> Seconds {
        self.sent_at.unwrap_or(self.planned_at)
    }

    fn add_missed(&mut self, missed: Missed) {
        self.missed = Some(self.missed.map_or(missed, |earlier| earlier.or(missed)));
    }

    /// The subscription id under which it was last sent.
    fn subscription_id(&self, id: &str) -> String {
        match self.resent {
            0 => id.to_owned(),
            resent => format!("{id}.{resent}"),
        }
    }

    /// Schedules it to be sent again.
    fn refused(&mut self, now: Now) {
        if let ReqState::Live { since } = self.state
            && since + STABLE_REQ_AGE < now.reading
        {
            self.refusals = 0;
        }
        self.refusals += 1;
        let retry_at = now.reading + backoff(self.refusals, 0.0);
        self.state = ReqState::Refused { retry_at };
    }
}

/// The stored events that a REQ missed which the plan no longer has. They are requested once the
/// REQs that replace it are live.
#[derive(Debug)]
struct Debt {
    req: Arc<Req>,
    missed: Missed,
    /// Since when its events were needed.
    needed_at: Seconds,
}

/// Stored events of one filter that must still be requested.
#[derive(Debug, Clone)]
struct Span {
    req: Arc<Req>,
    /// The index of the filter.
    filter: usize,
    since: Option<Seconds>,
    /// The end of the next page. `None` for the first page.
    until: Option<Seconds>,
    purpose: Purpose,
}

/// Why stored events are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A REQ has missed them. The cursor must not pass them.
    Missed,
    /// They are all control events of the last week, as of this time.
    Sweep(Seconds),
    /// They are mute lists of new owners.
    MuteLists,
}

impl Span {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.req, &other.req)
            && self.filter == other.filter
            && self.purpose == other.purpose
    }
}

/// The page that is being received.
#[derive(Debug)]
struct Page {
    id: String,
    span: Span,
    sent_at: Seconds,
    /// When the last event of the page came, or when it was requested.
    progress_at: Duration,
    /// The number of events that came.
    count: usize,
    /// The times of the last two events that came, the last one first. Relays send the newest events
    /// first, so both are old. But the last one may be a backdated event that was published just
    /// now.
    last_two: [Seconds; 2],
}

/// A closed subscription. Its events may still arrive.
#[derive(Debug)]
struct ClosedSubscription {
    id: String,
    sent_at: Seconds,
}

/// The requests of one connection.
#[derive(Debug)]
pub struct Requests {
    limits: Limits,
    resume: ResumePoint,
    /// The control REQ, the REQs of the plan, and those that they replace.
    reqs: BTreeMap<String, OpenReq>,
    plan: Plan,
    /// `true` after the first plan.
    has_plan: bool,
    debts: Vec<Debt>,
    spans: VecDeque<Span>,
    page: Option<Page>,
    pages_requested: u64,
    page_tokens: u32,
    page_refusals: u32,
    /// No page is requested before this time.
    page_retry_at: Duration,
    /// `true` if control events were missed since the last sweep.
    needs_sweep: bool,
    /// When the first read of a relay began. It covers the control events of the last week.
    first_read: Option<Seconds>,
    /// The position up to which mute lists are among the spans, if it has not been reported.
    mute_lists_position: Option<usize>,
    is_caught_up: bool,
    recently_closed: VecDeque<ClosedSubscription>,
    last_notice: Option<Duration>,
    last_tick: Duration,
    commands: Vec<Command>,
}

impl Requests {
    /// The requests of a new connection to a relay with these limits, for this service's pubkey in
    /// hex. The first command sends the control REQ.
    pub fn new(
        service: &str,
        limits: Limits,
        resume: ResumePoint,
        now: Now,
    ) -> (Self, Vec<Command>) {
        let mut requests = Self {
            limits,
            resume,
            reqs: BTreeMap::new(),
            plan: Plan::default(),
            has_plan: false,
            debts: Vec::new(),
            spans: VecDeque::new(),
            page: None,
            pages_requested: 0,
            page_tokens: PAGE_BURST,
            page_refusals: 0,
            page_retry_at: Duration::ZERO,
            needs_sweep: resume.cursor.is_some(),
            first_read: resume.cursor.is_none().then_some(now.unix),
            mute_lists_position: None,
            is_caught_up: false,
            recently_closed: VecDeque::new(),
            last_notice: None,
            last_tick: now.reading,
            commands: Vec::new(),
        };
        let control = OpenReq {
            req: Arc::new(Req::control(service)),
            state: ReqState::Waiting,
            sent_at: None,
            resent: 0,
            missed: Some(Missed::Events(resume.cursor.unwrap_or_default())),
            planned_at: now.unix,
            refusals: 0,
        };
        requests.reqs.insert(CONTROL_ID.to_owned(), control);
        requests.advance(now);
        let commands = requests.take_commands();
        (requests, commands)
    }

    /// The plan has changed.
    pub fn on_plan(&mut self, plan: Plan, now: Now) -> Vec<Command> {
        if plan.unfit_keys > self.plan.unfit_keys {
            self.count(RelayReason::KeyTooLong);
        }
        self.plan = plan;
        self.drop_obsolete();
        let new: Vec<_> = self
            .plan
            .reqs
            .iter()
            .filter(|(id, _)| !self.reqs.contains_key(*id))
            .map(|(id, req)| (id.clone(), Arc::clone(req)))
            .collect();
        for (id, req) in new {
            let opened = OpenReq {
                missed: self.missed_by_new(&req.coverage, now.unix),
                req,
                state: ReqState::Waiting,
                sent_at: None,
                resent: 0,
                planned_at: now.unix,
                refusals: 0,
            };
            self.reqs.insert(id, opened);
        }
        self.has_plan = true;
        self.advance(now);
        self.take_commands()
    }

    /// The stored mute lists of these new owners must be requested. `position` is that after the
    /// last of them.
    pub fn on_new_owners(
        &mut self,
        owners: &[[u8; 32]],
        position: usize,
        now: Now,
    ) -> Vec<Command> {
        self.mute_lists_position = Some(position);
        let req = Arc::new(Req::mute_lists(owners, self.limits.message_bytes));
        for filter in 0..req.filters.len() {
            self.owe(Span {
                req: Arc::clone(&req),
                filter,
                since: None,
                until: None,
                purpose: Purpose::MuteLists,
            });
        }
        self.advance(now);
        self.take_commands()
    }

    /// An event, or one that is too large, came on this subscription. Returns `Some(true)` if it is
    /// a stored event, `Some(false)` if it is live, and `None` if nothing was requested under this
    /// id.
    ///
    /// An event that comes before EOSE is a stored one if it is older than the REQ. An event without
    /// a known time is taken for a stored one.
    pub fn on_event(
        &mut self,
        id: &str,
        created_at: Option<Seconds>,
        reading: Duration,
    ) -> Option<bool> {
        let is_older = |sent_at: Seconds| created_at.is_none_or(|created_at| created_at < sent_at);
        if let Some(req) = self.plan_id(id).and_then(|id| self.reqs.get(id)) {
            let is_live = matches!(req.state, ReqState::Live { .. } | ReqState::Overdue { .. });
            return req.sent_at.map(|sent_at| !is_live && is_older(sent_at));
        }
        if let Some(page) = self.page.as_mut().filter(|page| page.id == id) {
            page.count += 1;
            page.progress_at = reading;
            // What is newer than the page was published just now.
            if let Some(created_at) = created_at.filter(|at| *at <= page.sent_at) {
                page.last_two = [created_at, page.last_two[0]];
            }
            return Some(is_older(page.sent_at));
        }
        let mut closed = self.recently_closed.iter();
        let closed = closed.find(|closed| closed.id == id)?;
        Some(is_older(closed.sent_at))
    }

    /// EOSE: all stored events have been sent, and further events are live.
    pub fn on_eose(&mut self, id: &str, now: Now) -> Vec<Command> {
        if let Some(page) = self.page.take_if(|page| page.id == id) {
            self.end_page(page);
        } else if let Some(id) = self.plan_id(id)
            && let Some(req) = self.reqs.get_mut(id).filter(|req| req.is_open())
            && !req.is_live()
        {
            req.state = ReqState::Live { since: now.reading };
            if let Some(missed) = req.missed.take() {
                let req = Arc::clone(&req.req);
                self.owe_missed(&req, missed, now.unix);
            }
        }
        self.advance(now);
        self.take_commands()
    }

    /// CLOSED: the relay has refused or ended a subscription. It is requested again later.
    pub fn on_closed(&mut self, id: &str, reason: RelayReason, now: Now) -> Vec<Command> {
        self.count(reason);
        if let Some(id) = self.plan_id(id)
            && self.reqs.get(id).is_some_and(OpenReq::is_open)
        {
            self.interrupt(id, now);
        } else if let Some(page) = self.page.take_if(|page| page.id == id) {
            self.defer_page(page, now);
        }
        // The next tick requests more, so that the relay has a pause.
        self.report_progress();
        self.take_commands()
    }

    /// A NOTICE may be a refusal of any request.
    pub fn on_notice(&mut self, now: Now) -> Vec<Command> {
        self.count(RelayReason::Notice);
        self.last_notice = Some(now.reading);
        self.take_commands()
    }

    /// AUTH: the relay asks who we are. `may_answer` is `false` for relays that only owners named:
    /// a stranger must not read through this service what the stranger could not read.
    pub fn on_auth(&mut self, challenge: &str, may_answer: bool) -> Vec<Command> {
        if may_answer {
            self.commands
                .push(Command::Authenticate(challenge.to_owned()));
        } else {
            self.count(RelayReason::AuthIgnored);
        }
        self.take_commands()
    }

    /// The relay has accepted the authentication: what it refused before is requested again.
    pub fn on_authenticated(&mut self, now: Now) -> Vec<Command> {
        self.count(RelayReason::Authenticated);
        for req in self.reqs.values_mut() {
            if let ReqState::Refused { retry_at } = &mut req.state {
                *retry_at = now.reading;
            }
        }
        self.page_retry_at = now.reading;
        self.send_due(now);
        self.advance(now);
        self.take_commands()
    }

    /// Time has passed. Call it about once a second.
    pub fn on_tick(&mut self, now: Now) -> Vec<Command> {
        let seconds = (now.reading - self.last_tick).as_secs();
        if seconds > 0 {
            let earned = u32::try_from(seconds)
                .unwrap_or(u32::MAX)
                .saturating_mul(PAGES_PER_SECOND);
            self.page_tokens = self.page_tokens.saturating_add(earned).min(PAGE_BURST);
            self.last_tick += Duration::from_secs(seconds);
        }
        self.expire_reqs(now);
        self.expire_page(now);
        self.sweep_if_due(now.unix);
        self.send_due(now);
        self.advance(now);
        self.take_commands()
    }

    /// Returns `true` if everything that reached the relay so far, and that the plan requests, has
    /// been requested and received.
    pub fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    /// The id in the plan of the REQ that was last sent under this subscription id.
    fn plan_id<'a>(&self, subscription: &'a str) -> Option<&'a str> {
        let (id, resent) = match subscription.split_once('.') {
            Some((id, resent)) => (id, resent.parse().ok()?),
            None => (subscription, 0),
        };
        let req = self.reqs.get(id)?;
        (req.resent == resent).then_some(id)
    }

    /// What a REQ with this coverage must request when it is new.
    fn missed_by_new(&self, coverage: &Coverage, now: Seconds) -> Option<Missed> {
        if !self.has_plan {
            return Some(self.resume.missed_content());
        }
        let reqs = self.reqs.iter().filter(|(id, _)| *id != CONTROL_ID);
        let covering = reqs
            .filter(|(_, req)| req.is_covering())
            .map(|(_, req)| &req.req.coverage);
        let owed = self.debts.iter().map(|debt| &debt.req.coverage);
        let covered: Vec<&Coverage> = covering.chain(owed).collect();
        (!coverage.is_within(&covered)).then_some(Missed::NewKeys(now - NEW_REQ_OVERLAP))
    }

    /// The REQs that the plan no longer has, and that meet a condition.
    fn obsolete(&self, condition: impl Fn(&OpenReq) -> bool) -> Vec<String> {
        self.reqs
            .iter()
            .filter(|(id, _)| *id != CONTROL_ID && !self.plan.reqs.contains_key(*id))
            .filter(|(_, req)| condition(req))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Does everything that has become possible: closes obsolete REQs, sends waiting ones, and
    /// requests the next page.
    fn advance(&mut self, now: Now) {
        self.drop_obsolete();
        for id in self.obsolete(|req| self.is_replaced(&req.req.coverage)) {
            self.close_obsolete(&id, None);
        }
        self.settle_debts(now.unix);
        let mut has_room = true;
        while has_room && let Some(id) = self.next_waiting() {
            has_room = self.has_room() || self.make_room(now);
            if has_room {
                self.send(&id, now);
            }
        }
        // Otherwise another REQ or a page is about to end.
        if has_room {
            self.request_next_page(now);
        }
        self.report_progress();
    }

    /// Drops the obsolete REQs that cover nothing.
    fn drop_obsolete(&mut self) {
        for id in self.obsolete(|req| !req.is_covering()) {
            self.close_obsolete(&id, None);
        }
    }

    /// Closes an obsolete REQ. What it has missed becomes a debt.
    fn close_obsolete(&mut self, id: &str, missed_from_now: Option<Missed>) {
        let Some(obsolete) = self.reqs.remove(id) else {
            return;
        };
        if obsolete.is_open() {
            let subscription = obsolete.subscription_id(id);
            self.send_close(subscription, obsolete.sent_at.unwrap_or_default());
        }
        let before = obsolete.missed.map(|missed| match obsolete.sent_at {
            Some(sent_at) => missed.or(Missed::Events(sent_at - NEW_REQ_OVERLAP)),
            None => missed,
        });
        if let Some(missed) = before.into_iter().chain(missed_from_now).reduce(Missed::or) {
            self.debts.push(Debt {
                needed_at: obsolete.needed_at(),
                req: obsolete.req,
                missed,
            });
        }
    }

    /// Requests what is owed for obsolete REQs whose replacements are live.
    fn settle_debts(&mut self, now: Seconds) {
        for debt in std::mem::take(&mut self.debts) {
            let coverage = &debt.req.coverage;
            if !self.is_replaced(coverage) {
                self.debts.push(debt);
            } else if self
                .planned()
                .any(|(_, req)| req.req.coverage.shares_keys(coverage))
            {
                let missed = debt.missed.after_waiting(debt.needed_at, now);
                self.owe_missed(&debt.req, missed, now);
            }
        }
    }

    /// Returns `true` if every REQ of the plan with these keys is live.
    fn is_replaced(&self, coverage: &Coverage) -> bool {
        !self
            .planned()
            .any(|(_, req)| !req.is_live() && req.req.coverage.shares_keys(coverage))
    }

    fn planned(&self) -> impl Iterator<Item = (&String, &OpenReq)> {
        self.reqs
            .iter()
            .filter(|(id, _)| self.plan.reqs.contains_key(*id))
    }

    /// The next REQ to send. The control REQ comes first.
    fn next_waiting(&self) -> Option<String> {
        let is_waiting = |req: &OpenReq| req.state == ReqState::Waiting;
        if self.reqs.get(CONTROL_ID).is_some_and(is_waiting) {
            return Some(CONTROL_ID.to_owned());
        }
        let mut waiting = self.reqs.iter().filter(|(_, req)| is_waiting(req));
        waiting.next().map(|(id, _)| id.clone())
    }

    /// Returns `true` if the relay has room for one more subscription.
    fn has_room(&self) -> bool {
        let open = self.reqs.values().filter(|req| req.is_open()).count();
        open + usize::from(self.page.is_some()) < self.limits.subscriptions
    }

    /// Closes an obsolete REQ before its replacements are live, if waiting for them would not help.
    /// They then request what they miss until they are.
    fn make_room(&mut self, now: Now) -> bool {
        let is_busy = |req: &OpenReq| matches!(req.state, ReqState::Sent { .. });
        if self.page.is_some() || self.reqs.values().any(is_busy) {
            return false;
        }
        let Some(id) = self.obsolete(|_| true).into_iter().next() else {
            return false;
        };
        self.close_obsolete(&id, Some(Missed::Events(now.unix - NEW_REQ_OVERLAP)));
        true
    }

    /// Sends a REQ. One that does not fit into a message of the relay is dropped alone.
    fn send(&mut self, id: &str, now: Now) {
        let Some(req) = self.reqs.get_mut(id) else {
            return;
        };
        if req.sent_at.is_some() {
            req.resent += 1;
        }
        let message = req.req.message(&req.subscription_id(id), now.unix);
        if message.len() > self.limits.message_bytes || req.req.filters.len() > self.limits.filters
        {
            self.commands.push(Command::Count(RelayReason::ReqTooLarge));
            req.refused(now);
            return;
        }
        let needed_at = req.needed_at();
        if req.sent_at.is_some() {
            req.add_missed(Missed::Events(needed_at - NEW_REQ_OVERLAP));
        }
        let missed = req.missed;
        req.missed = missed.map(|missed| missed.after_waiting(needed_at, now.unix));
        req.state = ReqState::Sent { at: now.reading };
        req.sent_at = Some(now.unix);
        self.commands.push(Command::Send(message));
    }

    fn send_close(&mut self, id: String, sent_at: Seconds) {
        let message = json!(["CLOSE", id]).to_string();
        self.commands.push(Command::Send(message));
        if self.recently_closed.len() == MAX_RECENTLY_CLOSED {
            self.recently_closed.pop_front();
        }
        self.recently_closed
            .push_back(ClosedSubscription { id, sent_at });
    }

    /// The relay no longer sends the events of this REQ.
    fn interrupt(&mut self, id: &str, now: Now) {
        let is_kept = id == CONTROL_ID || self.plan.reqs.contains_key(id);
        if !is_kept {
            if let Some(req) = self.reqs.get_mut(id) {
                // It is no longer open, so it needs no CLOSE.
                req.state = ReqState::Waiting;
            }
            let missed = Missed::Events(now.unix - NEW_REQ_OVERLAP);
            self.close_obsolete(id, Some(missed));
            return;
        }
        if let Some(req) = self.reqs.get_mut(id) {
            let covered_until = if req.is_live() {
                now.unix
            } else {
                req.sent_at.unwrap_or(now.unix)
            };
            req.add_missed(Missed::Events(covered_until - NEW_REQ_OVERLAP));
            req.refused(now);
        }
        self.needs_sweep |= id == CONTROL_ID;
    }

    /// Adds the stored events that a REQ has missed to the spans.
    fn owe_missed(&mut self, req: &Arc<Req>, missed: Missed, now: Seconds) {
        for (filter, req_filter) in req.filters.iter().enumerate() {
            self.owe(Span {
                req: Arc::clone(req),
                filter,
                since: Some(req_filter.class.stored_since(missed, now)),
                until: None,
                purpose: Purpose::Missed,
            });
        }
    }

    /// Adds a span. One for the same filter that has not begun is extended instead. Control events
    /// come first.
    fn owe(&mut self, span: Span) {
        let mut spans = self.spans.iter_mut();
        if let Some(same) = spans.find(|other| other.is_same(&span) && other.until.is_none()) {
            same.since = same.since.min(span.since);
            return;
        }
        let is_control = self
            .reqs
            .get(CONTROL_ID)
            .is_some_and(|control| Arc::ptr_eq(&control.req, &span.req));
        if is_control && span.purpose == Purpose::Missed {
            self.spans.push_front(span);
        } else {
            self.spans.push_back(span);
        }
    }

    /// Requests the next page of stored events, one at a time.
    fn request_next_page(&mut self, now: Now) {
        if self.page.is_some() || now.reading < self.page_retry_at || !self.has_room() {
            return;
        }
        let Some(span) = self.spans.pop_front() else {
            return;
        };
        if self.page_tokens == 0 {
            // The next ticks bring more.
            self.count(RelayReason::TooManyPages);
            self.page_retry_at = now.reading + Duration::from_secs(1);
            self.spans.push_front(span);
            return;
        }
        self.page_tokens -= 1;
        self.pages_requested += 1;
        let id = format!("page-{}", self.pages_requested);
        let Some(filter) = span.req.filters.get(span.filter) else {
            return;
        };
        let filter = filter.encode(span.since, span.until, self.limits.page);
        let message = req::message(&id, [filter]);
        if message.len() > self.limits.message_bytes {
            self.count(RelayReason::ReqTooLarge);
            return;
        }
        self.commands.push(Command::Send(message));
        self.page = Some(Page {
            id,
            span,
            sent_at: now.unix,
            progress_at: now.reading,
            count: 0,
            last_two: [END_OF_TIME; 2],
        });
    }

    /// EOSE has come for a page. If the relay may have more events, the rest is still owed.
    fn end_page(&mut self, page: Page) {
        self.page_refusals = 0;
        let (count, purpose) = (page.count, page.span.purpose);
        let is_full = count >= FULL_PAGE_MIN_EVENTS.min(self.limits.page);
        self.send_close(page.id.clone(), page.sent_at);
        let rest = is_full.then(|| self.rest_of(page)).flatten();
        if let Some(rest) = rest {
            self.spans.push_front(rest);
        } else if let Purpose::Sweep(swept_at) = purpose {
            self.resume.swept_at = swept_at;
            self.commands.push(Command::RecordSweep(swept_at));
        }
    }

    /// What remains of a span after the events of a page. Relays send the newest events first.
    fn rest_of(&mut self, page: Page) -> Option<Span> {
        let mut span = page.span;
        let until = span.until.unwrap_or(END_OF_TIME);
        let [last, before_last] = page.last_two;
        let end = if before_last == END_OF_TIME {
            last
        } else {
            last.max(before_last)
        };
        if end < until {
            span.until = Some(end);
        } else {
            if last >= until {
                // A REQ cannot request the rest of a second that holds more than a page.
                self.count(RelayReason::PageOverflow);
            }
            span.until = Some(until.min(page.sent_at) - Seconds(1));
        }
        (span.until >= span.since).then_some(span)
    }

    /// A page was refused or has stopped: the rest is requested later.
    fn defer_page(&mut self, page: Page, now: Now) {
        self.page_refusals += 1;
        self.page_retry_at = now.reading + backoff(self.page_refusals, 0.0);
        if page.last_two == [END_OF_TIME; 2] {
            self.spans.push_back(page.span);
        } else if let Some(rest) = self.rest_of(page) {
            self.spans.push_back(rest);
        }
    }

    /// Applies the timeouts to REQs without EOSE.
    fn expire_reqs(&mut self, now: Now) {
        let notice = self.last_notice;
        let mut refused = Vec::new();
        for (id, req) in &mut self.reqs {
            let ReqState::Sent { at } = req.state else {
                continue;
            };
            let waiting = now.reading - at;
            let is_refused = notice.is_some_and(|notice| notice >= at);
            if is_refused && waiting > EOSE_TIMEOUT_AFTER_NOTICE {
                refused.push(id.clone());
            } else if waiting > EOSE_TIMEOUT {
                self.commands.push(Command::Count(RelayReason::NoEose));
                req.refusals += 1;
                let retry_at = now.reading + backoff(req.refusals, 0.0);
                req.state = ReqState::Overdue { retry_at };
            }
        }
        for id in refused {
            self.close_open(&id);
            self.interrupt(&id, now);
        }
    }

    /// Ends a page on which nothing has come for a while.
    fn expire_page(&mut self, now: Now) {
        let notice = self.last_notice;
        let is_over = |page: &mut Page| {
            let waiting = now.reading - page.progress_at;
            let is_refused = notice.is_some_and(|notice| notice >= page.progress_at);
            waiting > EOSE_TIMEOUT || (is_refused && waiting > EOSE_TIMEOUT_AFTER_NOTICE)
        };
        if let Some(page) = self.page.take_if(is_over) {
            self.count(RelayReason::NoEose);
            self.send_close(page.id.clone(), page.sent_at);
            self.defer_page(page, now);
        }
    }

    /// After an interruption, requests the control events of the last week once a day.
    fn sweep_if_due(&mut self, now: Seconds) {
        let control = self.reqs.get(CONTROL_ID);
        let Some(control) = control.filter(|control| control.is_live()) else {
            return;
        };
        if !self.needs_sweep || self.resume.swept_at + SWEEP_INTERVAL > now {
            return;
        }
        self.needs_sweep = false;
        let span = Span {
            req: Arc::clone(&control.req),
            filter: 0,
            since: Some(now - MAX_CONTROL_AGE),
            until: None,
            purpose: Purpose::Sweep(now),
        };
        self.owe(span);
    }

    /// Sends the REQs again whose time has come.
    fn send_due(&mut self, now: Now) {
        let mut overdue = Vec::new();
        for (id, req) in &mut self.reqs {
            match req.state {
                ReqState::Refused { retry_at } if retry_at <= now.reading => {
                    req.state = ReqState::Waiting;
                }
                ReqState::Overdue { retry_at } if retry_at <= now.reading => {
                    overdue.push(id.clone());
                }
                _ => {}
            }
        }
        for id in overdue {
            self.close_open(&id);
            self.send(&id, now);
        }
    }

    /// Closes the subscription of a REQ that will be sent again.
    fn close_open(&mut self, id: &str) {
        if let Some(req) = self.reqs.get(id) {
            let subscription = req.subscription_id(id);
            self.send_close(subscription, req.sent_at.unwrap_or_default());
        }
    }

    /// Reports what has been received completely, and ends the connection if too much is owed.
    fn report_progress(&mut self) {
        let pending = |purpose: fn(Purpose) -> bool| {
            let page = self.page.iter().map(|page| &page.span);
            page.chain(&self.spans).any(|span| purpose(span.purpose))
        };
        self.is_caught_up = self.has_plan
            && self.debts.is_empty()
            && self
                .reqs
                .values()
                .all(|req| req.is_live() && req.missed.is_none())
            && !pending(|purpose| purpose == Purpose::Missed);
        if !pending(|purpose| purpose == Purpose::MuteLists)
            && let Some(position) = self.mute_lists_position.take()
        {
            self.commands.push(Command::RecordMuteLists(position));
        }
        if self.is_caught_up
            && let Some(swept_at) = self.first_read.take()
        {
            self.resume.swept_at = swept_at;
            self.commands.push(Command::RecordSweep(swept_at));
        }
        if self.spans.len() + self.debts.len() > MAX_SPANS {
            self.commands.push(Command::Disconnect);
        }
    }

    fn count(&mut self, reason: RelayReason) {
        self.commands.push(Command::Count(reason));
    }

    fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }
}

#[cfg(test)]
mod tests;
