//! Stored events, requested page by page, from the latest to the oldest, one page at a time.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use nostr_push_core::{Seconds, ports::backoff};

use super::{Command, EOSE_TIMEOUT, EOSE_TIMEOUT_AFTER_NOTICE, Now};
use crate::{
    counter::RelayReason,
    limits::Limits,
    req::{self, EventClass, Req},
};

/// The number of stored events from which a page may be incomplete: relays return fewer events than
/// `limit` asks for, and not all say how many.
const FULL_PAGE_MIN_EVENTS: usize = 10;

/// The most pages that are requested without a pause.
const PAGE_BURST: u32 = 1_000;

/// How many pages more may be requested after each second.
const PAGES_PER_SECOND: u32 = 10;

/// Stored events of one filter that must still be requested.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) req: Arc<Req>,
    /// The index of the filter.
    pub(super) filter: usize,
    /// `None` for events of any age.
    pub(super) since: Option<Seconds>,
    /// The end of the next page. `None` for the first page.
    until: Option<Seconds>,
    pub(super) purpose: Purpose,
}

/// Why stored events are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A REQ has missed them. The cursor must not pass them.
    Missed,
    /// They are all control events of the last week, as of this time.
    Sweep(Seconds),
    /// They are mute lists of new owners.
    MuteLists,
}

impl Span {
    /// A span of which nothing has been requested.
    pub(super) fn new(
        req: Arc<Req>,
        filter: usize,
        since: Option<Seconds>,
        purpose: Purpose,
    ) -> Self {
        Self {
            req,
            filter,
            since,
            until: None,
            purpose,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.req, &other.req)
            && self.filter == other.filter
            && self.purpose == other.purpose
    }

    /// Returns `true` if the span goes before all others.
    fn is_urgent(&self) -> bool {
        let filter = self.req.filters.get(self.filter);
        self.purpose == Purpose::Missed
            && filter.is_some_and(|filter| filter.class == EventClass::Control)
    }
}

/// The page that is being received.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) id: String,
    pub(super) sent_at: Seconds,
    span: Span,
    /// When the last event of the page came, or when it was requested.
    progress_at: Duration,
    /// The number of events that came.
    count: usize,
    /// The times of the last two events that came, the last one first. Relays send the newest events
    /// first, so both are old. But the last one may be a backdated event that was published just
    /// now.
    last_two: [Option<Seconds>; 2],
}

impl Page {
    /// The time of the oldest event that came, as far as it is certain.
    fn oldest(&self) -> Option<Seconds> {
        let [last, before_last] = self.last_two;
        last.max(before_last)
    }
}

/// The stored events that must be requested over one connection.
#[derive(Debug)]
pub(super) struct Pages {
    spans: VecDeque<Span>,
    page: Option<Page>,
    /// The number of pages that were requested.
    requested: u64,
    /// The number of pages that may be requested without a pause.
    tokens: u32,
    /// When the last tokens were added.
    tokens_at: Duration,
    /// The number of pages that were refused, or have stopped, since the last complete one.
    refusals: u32,
    /// No page is requested before this time.
    retry_at: Duration,
}

impl Pages {
    /// Nothing is owed.
    pub(super) fn new(now: Now) -> Self {
        Self {
            spans: VecDeque::new(),
            page: None,
            requested: 0,
            tokens: PAGE_BURST,
            tokens_at: now.reading,
            refusals: 0,
            retry_at: Duration::ZERO,
        }
    }

    /// The number of spans that are owed.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns `true` if a page is open.
    pub(super) fn is_open(&self) -> bool {
        self.page.is_some()
    }

    /// Returns `true` if spans with this purpose are owed.
    pub(super) fn owes(&self, purpose: Purpose) -> bool {
        let page = self.page.iter().map(|page| &page.span);
        page.chain(&self.spans).any(|span| span.purpose == purpose)
    }

    /// Adds a span. One for the same filter that has not begun is extended instead.
    pub(super) fn owe(&mut self, span: Span) {
        let mut spans = self.spans.iter_mut();
        if let Some(same) = spans.find(|other| other.is_same(&span) && other.until.is_none()) {
            same.since = same.since.min(span.since);
        } else if span.is_urgent() {
            self.spans.push_front(span);
        } else {
            self.spans.push_back(span);
        }
    }

    /// Allows pages to be requested at once, after earlier ones were refused.
    pub(super) fn retry_now(&mut self, now: Now) {
        self.retry_at = now.reading;
    }

    /// Requests the next page, unless one is open.
    pub(super) fn request_next(&mut self, limits: Limits, now: Now) -> Option<Command> {
        if self.page.is_some() || now.reading < self.retry_at {
            return None;
        }
        self.add_tokens(now.reading);
        let span = self.spans.pop_front()?;
        if self.tokens == 0 {
            self.retry_at = now.reading + Duration::from_secs(1);
            self.spans.push_front(span);
            return Some(Command::Count(RelayReason::TooManyPages));
        }
        let filter = span.req.filters.get(span.filter)?;
        let id = format!("page-{}", self.requested);
        let filter = filter.encode(span.since, span.until, limits.page);
        let message = req::message(&id, [filter]);
        if message.len() > limits.message_bytes {
            return Some(Command::Count(RelayReason::ReqTooLarge));
        }
        self.tokens -= 1;
        self.requested += 1;
        self.page = Some(Page {
            id,
            sent_at: now.unix,
            span,
            progress_at: now.reading,
            count: 0,
            last_two: [None; 2],
        });
        Some(Command::Send(message))
    }

    fn add_tokens(&mut self, reading: Duration) {
        let seconds = reading.saturating_sub(self.tokens_at).as_secs();
        let earned = u32::try_from(seconds)
            .unwrap_or(u32::MAX)
            .saturating_mul(PAGES_PER_SECOND);
        self.tokens = self.tokens.saturating_add(earned).min(PAGE_BURST);
        self.tokens_at += Duration::from_secs(seconds);
    }

    /// An event came. Returns when the page was requested, if it is the open one.
    pub(super) fn on_event(
        &mut self,
        id: &str,
        created_at: Option<Seconds>,
        reading: Duration,
    ) -> Option<Seconds> {
        let page = self.page.as_mut().filter(|page| page.id == id)?;
        page.count += 1;
        page.progress_at = reading;
        // What is newer than the page was published just now.
        if let Some(created_at) = created_at.filter(|at| *at <= page.sent_at) {
            page.last_two = [Some(created_at), page.last_two[0]];
        }
        Some(page.sent_at)
    }

    /// Takes the page with this id, if it is open.
    pub(super) fn take(&mut self, id: &str) -> Option<Page> {
        self.page.take_if(|page| page.id == id)
    }

    /// Takes the page if nothing has come on it for a while. `notice` is when the last NOTICE came,
    /// which may be a refusal.
    pub(super) fn take_expired(&mut self, notice: Option<Duration>, now: Now) -> Option<Page> {
        self.page.take_if(|page| {
            let waiting = now.reading.saturating_sub(page.progress_at);
            let is_refused = notice.is_some_and(|notice| notice >= page.progress_at);
            waiting > EOSE_TIMEOUT || (is_refused && waiting > EOSE_TIMEOUT_AFTER_NOTICE)
        })
    }

    /// EOSE has come for a page. If the relay may have more events, the rest is still owed.
    /// Returns the purpose if nothing more is owed.
    pub(super) fn complete(
        &mut self,
        page: Page,
        limits: Limits,
        commands: &mut Vec<Command>,
    ) -> Option<Purpose> {
        self.refusals = 0;
        let purpose = page.span.purpose;
        if page.count >= FULL_PAGE_MIN_EVENTS.min(limits.page)
            && let Some(rest) = rest_of(page, commands)
        {
            self.spans.push_front(rest);
            return None;
        }
        Some(purpose)
    }

    /// A page was refused or has stopped: the rest is requested later.
    pub(super) fn defer(&mut self, page: Page, now: Now, commands: &mut Vec<Command>) {
        self.refusals += 1;
        self.retry_at = now.reading + backoff(self.refusals, 0.0);
        let rest = if page.oldest().is_none() {
            Some(page.span)
        } else {
            rest_of(page, commands)
        };
        self.spans.extend(rest);
    }
}

/// What remains of a span after the events of a page.
fn rest_of(page: Page, commands: &mut Vec<Command>) -> Option<Span> {
    let oldest = page.oldest().unwrap_or(page.sent_at);
    let mut span = page.span;
    match span.until {
        Some(until) if oldest >= until => {
            let [last, _] = page.last_two;
            if last.is_none_or(|last| last >= until) {
                // A REQ cannot request the rest of a second that holds more than a page.
                commands.push(Command::Count(RelayReason::PageOverflow));
            }
            span.until = Some(until - Seconds(1));
        }
        _ => span.until = Some(oldest),
    }
    (span.until >= span.since).then_some(span)
}
