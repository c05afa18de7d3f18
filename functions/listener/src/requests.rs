//! What is requested from one relay over one connection: the protocol rules of NIP-01
//! (<https://github.com/nostr-protocol/nips/blob/master/01.md>) as a pure state machine. It has no
//! socket, clock or lock. [`session`](crate::session) passes it what happens, and sends what it
//! returns.
//!
//! - The REQs of the plan receive live events. They have `limit: 1`.
//! - Stored events are requested page by page, one page at a time, with REQs of their own.
//! - A REQ is *live* from its EOSE until the relay ends it. What it may have missed before is
//!   recorded from the moment in which it is needed, and is requested in pages once it is live. If
//!   the plan drops a REQ that is not live, what it has missed becomes a debt, and is requested
//!   once the REQs that replace it are live. So a time that no REQ covers is always requested
//!   later.
//! - The REQ for control events is sent first and by itself, and depends on nobody's filters.

mod closed;
mod open_req;
mod pages;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nostr_push_core::{Seconds, ports::backoff};

use self::{
    closed::RecentlyClosed,
    open_req::{Debt, OpenReq, ReqState},
    pages::{Pages, Purpose, Span},
};
use crate::{
    counter::RelayReason,
    limits::Limits,
    plan::Plan,
    req::{Coverage, EventClass, MAX_CONTROL_AGE, Missed, NEW_REQ_OVERLAP, Req},
};

/// How long the end of stored events (EOSE) is awaited.
const EOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long EOSE is awaited after a NOTICE, which may be a refusal.
const EOSE_TIMEOUT_AFTER_NOTICE: Duration = Duration::from_secs(20);

/// The most spans and debts together. Beyond it the connection ends, and the next one resumes from
/// the cursor.
const MAX_OWED: usize = 5_000;

/// The most bytes of the filters of all spans and debts. They keep REQs in memory that the plan no
/// longer has.
const MAX_OWED_BYTES: usize = 8 * 1024 * 1024;

/// How often the control events of the last week are requested again after an interruption: an
/// event may have been published during the interruption and signed long before it.
const SWEEP_INTERVAL: Seconds = Seconds::from_days(1);

/// How often they are requested again after some had no budget. The ones that had are duplicates.
const SWEEP_INTERVAL_AFTER_DROPS: Seconds = Seconds::from_hours(1);

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
    /// The control events of the last week are about to be requested again.
    BeginSweep,
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

/// Whether the control events of the last week must be requested once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    /// No: nothing was missed since the last sweep.
    Unneeded,
    /// Yes, a day after the last sweep.
    Needed,
    /// The first read of the relay, which began at this time, requests them.
    ByFirstRead(Seconds),
}

/// What the relay lets the service read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The service may authenticate itself.
    Authenticated,
    /// The service does not authenticate itself: only owners named the relay, and a stranger must
    /// not read through the service what the stranger could not read.
    Anonymous,
    /// The same, and the relay has refused a REQ for lack of authentication. Relays often require
    /// it for private kinds only, so these are no longer requested.
    AnonymousPublicOnly,
}

/// The requests of one connection.
#[derive(Debug)]
pub struct Requests {
    limits: Limits,
    resume: ResumePoint,
    /// The control REQ, the REQs of the plan, and those that they replace.
    reqs: BTreeMap<String, OpenReq>,
    /// The REQs of the plan. `None` before the first plan.
    plan: Option<Arc<BTreeMap<String, Arc<Req>>>>,
    /// The lowest number of new keys that have not been requested.
    next_new_keys: u64,
    debts: Vec<Debt>,
    pages: Pages,
    sweep: Sweep,
    /// `true` if control events had no budget since the last sweep began.
    has_dropped_controls: bool,
    access: Access,
    /// The position up to which mute lists are among the spans, if it has not been reported.
    mute_lists_position: Option<usize>,
    is_caught_up: bool,
    recently_closed: RecentlyClosed,
    last_notice: Option<Duration>,
    commands: Vec<Command>,
}

impl Requests {
    /// The requests of a new connection to a relay with these limits, for these pubkeys of the
    /// service, in hex. The first command sends the control REQ.
    pub fn new(
        service: &[&str],
        limits: Limits,
        access: Access,
        resume: ResumePoint,
        now: Now,
    ) -> (Self, Vec<Command>) {
        let mut requests = Self {
            limits,
            resume,
            reqs: BTreeMap::new(),
            plan: None,
            next_new_keys: 0,
            debts: Vec::new(),
            pages: Pages::new(now),
            sweep: match resume.cursor {
                Some(_) => Sweep::Needed,
                None => Sweep::ByFirstRead(now.unix),
            },
            has_dropped_controls: false,
            access,
            mute_lists_position: None,
            is_caught_up: false,
            recently_closed: RecentlyClosed::default(),
            last_notice: None,
            commands: Vec::new(),
        };
        let control = Arc::new(Req::control(service));
        let missed = Missed::Events(resume.cursor.unwrap_or_default());
        let control = OpenReq::new(control, Some(missed), now.unix);
        requests.reqs.insert(CONTROL_ID.to_owned(), control);
        requests.advance(now);
        let commands = requests.take_commands();
        (requests, commands)
    }

    /// The plan has changed. `None` if the relay's limits are too low for any plan.
    pub fn on_plan(&mut self, plan: Option<Plan>, now: Now) -> Vec<Command> {
        let is_first = self.plan.is_none();
        if plan.is_none() && is_first {
            self.count(RelayReason::LimitsTooLow);
        }
        let plan = plan.unwrap_or_default();
        self.plan = Some(Arc::clone(&plan.reqs));
        self.drop_obsolete();
        let new: Vec<_> = plan
            .reqs
            .iter()
            .filter(|(id, _)| !self.reqs.contains_key(*id))
            .map(|(id, req)| (id.clone(), Arc::clone(req)))
            .collect();
        for (id, req) in new {
            let missed = if is_first {
                Some(self.resume.missed_content())
            } else {
                self.missed_by_new(&req.coverage, now.unix)
            };
            let opened = OpenReq::new(req, missed, now.unix);
            self.reqs.insert(id, opened);
        }
        let next = self.next_new_keys;
        let unseen = plan
            .new_keys
            .iter()
            .filter(|new| new.number >= next && !is_first);
        for new_keys in unseen {
            let missed = Missed::NewKeys(now.unix - NEW_REQ_OVERLAP);
            self.owe_missed(&new_keys.req, missed, now.unix);
        }
        if let Some(last) = plan.new_keys.last() {
            self.next_new_keys = self.next_new_keys.max(last.number + 1);
        }
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
            let span = Span::new(Arc::clone(&req), filter, None, Purpose::MuteLists);
            self.pages.owe(span);
        }
        self.advance(now);
        self.take_commands()
    }

    /// An event, or one that is too large, came on this subscription. Returns `Some(true)` if it is
    /// a stored event, `Some(false)` if it is live, and `None` if nothing was requested under this
    /// id.
    ///
    /// An event that comes before EOSE is a stored one if it is older than the REQ. An event
    /// without a known time is taken for a stored one.
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
        let page = self.pages.on_event(id, created_at, reading);
        let sent_at = page.or_else(|| self.recently_closed.sent_at(id))?;
        Some(is_older(sent_at))
    }

    /// EOSE: all stored events have been sent, and further events are live.
    pub fn on_eose(&mut self, id: &str, now: Now) -> Vec<Command> {
        if let Some(page) = self.pages.take(id) {
            self.close_subscription(page.id.clone(), page.sent_at);
            let complete = self.pages.complete(page, self.limits, &mut self.commands);
            if let Some(Purpose::Sweep(swept_at)) = complete {
                self.record_sweep(swept_at);
            }
        } else if let Some(id) = self.plan_id(id)
            && let Some(req) = self.reqs.get_mut(id).filter(|req| req.is_open())
            && !req.is_live()
        {
            req.state = ReqState::Live { since: now.reading };
            if let Some(missed) = req.missed.take() {
                let req = Arc::clone(&req.req);
                self.owe_missed(&req, missed, now.unix);
            }
        } else {
            return Vec::new();
        }
        self.advance(now);
        self.take_commands()
    }

    /// CLOSED: the relay has refused or ended a subscription. It is requested again later.
    pub fn on_closed(&mut self, id: &str, reason: RelayReason, now: Now) -> Vec<Command> {
        self.count(reason);
        if reason == RelayReason::ClosedAuthRequired && self.access == Access::Anonymous {
            self.access = Access::AnonymousPublicOnly;
            if let Some(page) = self.pages.drop_private() {
                self.close_subscription(page.id, page.sent_at);
            }
        }
        if let Some(id) = self.plan_id(id)
            && self.reqs.get(id).is_some_and(OpenReq::is_open)
        {
            self.interrupt(id, now);
        } else if let Some(page) = self.pages.take(id) {
            self.pages.defer(page, now, &mut self.commands);
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

    /// AUTH: the relay asks who we are.
    pub fn on_auth(&mut self, challenge: &str) -> Vec<Command> {
        if self.access == Access::Authenticated {
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
        self.pages.retry_now(now);
        self.send_due(now);
        self.advance(now);
        self.take_commands()
    }

    /// Time has passed. Call it about once a second.
    pub fn on_tick(&mut self, now: Now) -> Vec<Command> {
        self.expire_reqs(now);
        if let Some(page) = self.pages.take_expired(self.last_notice, now) {
            self.count(RelayReason::NoEose);
            self.close_subscription(page.id.clone(), page.sent_at);
            self.pages.defer(page, now, &mut self.commands);
        }
        self.sweep_if_due(now.unix);
        self.send_due(now);
        self.advance(now);
        self.take_commands()
    }

    /// Control events of the relay had no budget. They must be requested again.
    pub fn on_dropped_controls(&mut self) {
        self.has_dropped_controls = true;
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
            .filter(|(id, _)| *id != CONTROL_ID && !self.is_planned(id))
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
        if has_room && self.has_room() {
            let page = self.pages.request_next(self.limits, now);
            self.commands.extend(page);
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
            self.close_subscription(subscription, obsolete.sent_at.unwrap_or_default());
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
                .any(|req| req.req.coverage.shares_keys(coverage))
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
            .any(|req| !req.is_live() && req.req.coverage.shares_keys(coverage))
    }

    fn is_planned(&self, id: &str) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.contains_key(id))
    }

    /// The REQs of the plan.
    fn planned(&self) -> impl Iterator<Item = &OpenReq> {
        let planned = self.reqs.iter().filter(|(id, _)| self.is_planned(id));
        planned.map(|(_, req)| req)
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
        open + usize::from(self.pages.is_open()) < self.limits.subscriptions
    }

    /// Closes an obsolete REQ before its replacements are live, if waiting for them would not help.
    /// They then request what they miss until they are.
    fn make_room(&mut self, now: Now) -> bool {
        let is_busy = |req: &OpenReq| matches!(req.state, ReqState::Sent { .. });
        if self.pages.is_open() || self.reqs.values().any(is_busy) {
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
        let only_public = self.access == Access::AnonymousPublicOnly;
        if req.sent_at.is_some() {
            req.resent += 1;
        }
        let id = req.subscription_id(id);
        let message = req.req.message(&id, now.unix, only_public);
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

    fn close_subscription(&mut self, id: String, sent_at: Seconds) {
        let close = self.recently_closed.close(id, sent_at);
        self.commands.push(close);
    }

    /// The relay no longer sends the events of this REQ.
    fn interrupt(&mut self, id: &str, now: Now) {
        let is_kept = id == CONTROL_ID || self.is_planned(id);
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
        if id == CONTROL_ID && self.sweep == Sweep::Unneeded {
            self.sweep = Sweep::Needed;
        }
    }

    /// Adds the stored events that a REQ has missed to the spans.
    fn owe_missed(&mut self, req: &Arc<Req>, missed: Missed, now: Seconds) {
        let only_public = self.access == Access::AnonymousPublicOnly;
        for (filter, req_filter) in req.filters.iter().enumerate() {
            if only_public && req_filter.class == EventClass::Private {
                continue;
            }
            let since = req_filter.class.stored_since(missed, now);
            let span = Span::new(Arc::clone(req), filter, Some(since), Purpose::Missed);
            self.pages.owe(span);
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
            if !has_timed_out(at, notice, now) {
                continue;
            }
            if notice.is_some_and(|notice| notice >= at) {
                refused.push(id.clone());
            } else {
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

    /// Requests the control events of the last week: once a day after an interruption, and once an
    /// hour after some had no budget.
    fn sweep_if_due(&mut self, now: Seconds) {
        let control = self.reqs.get(CONTROL_ID);
        let Some(control) = control.filter(|control| control.is_live()) else {
            return;
        };
        let interval = match self.sweep {
            Sweep::ByFirstRead(_) => return,
            _ if self.has_dropped_controls => SWEEP_INTERVAL_AFTER_DROPS,
            Sweep::Needed => SWEEP_INTERVAL,
            Sweep::Unneeded => return,
        };
        if self.pages.owes_sweep() || self.resume.swept_at + interval > now {
            return;
        }
        self.sweep = Sweep::Unneeded;
        self.has_dropped_controls = false;
        self.commands.push(Command::BeginSweep);
        let since = Some(now - MAX_CONTROL_AGE);
        let span = Span::new(Arc::clone(&control.req), 0, since, Purpose::Sweep(now));
        self.pages.owe(span);
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
            self.close_subscription(subscription, req.sent_at.unwrap_or_default());
        }
    }

    /// Reports what has been received completely, and ends the connection if too much is owed.
    fn report_progress(&mut self) {
        self.is_caught_up = self.plan.is_some()
            && self.debts.is_empty()
            && self
                .reqs
                .values()
                .all(|req| req.is_live() && req.missed.is_none())
            && !self.pages.owes(Purpose::Missed);
        if !self.pages.owes(Purpose::MuteLists)
            && let Some(position) = self.mute_lists_position.take()
        {
            self.commands.push(Command::RecordMuteLists(position));
        }
        if let Sweep::ByFirstRead(swept_at) = self.sweep
            && self.is_caught_up
        {
            self.sweep = Sweep::Unneeded;
            self.record_sweep(swept_at);
        }
        let debts = self.debts.iter().map(|debt| debt.req.bytes());
        if self.pages.len() + self.debts.len() > MAX_OWED
            || self.pages.filter_bytes() + debts.sum::<usize>() > MAX_OWED_BYTES
        {
            self.commands.push(Command::Disconnect);
        }
    }

    fn record_sweep(&mut self, swept_at: Seconds) {
        self.resume.swept_at = swept_at;
        self.commands.push(Command::RecordSweep(swept_at));
    }

    fn count(&mut self, reason: RelayReason) {
        self.commands.push(Command::Count(reason));
    }

    fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }
}

/// Returns `true` if EOSE is overdue since this time. `notice` is when the last NOTICE came, which
/// may be a refusal.
fn has_timed_out(since: Duration, notice: Option<Duration>, now: Now) -> bool {
    let waiting = now.reading.saturating_sub(since);
    let is_notice_after = notice.is_some_and(|notice| notice >= since);
    waiting > EOSE_TIMEOUT || (is_notice_after && waiting > EOSE_TIMEOUT_AFTER_NOTICE)
}
