//! Stored events, requested page by page, from the latest to the oldest, one page at a time.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use nostr_push_core::{Seconds, ports::backoff};

use super::{Command, Now, has_timed_out};
use crate::{
    counter::RelayReason,
    limits::Limits,
    req::{self, EventClass, Req},
};

/// The number of stored events from which a page may be incomplete: relays return fewer events than
/// `limit` asks for, and not all say how many.
const FULL_PAGE_MIN_EVENTS: usize = 10;

/// How long a page may take. The next page goes on from there.
const PAGE_TIMEOUT: Duration = Duration::from_secs(600);

/// The most events at the end of a page of which some may have been published just now.
const MAX_UNCERTAIN_EVENTS: usize = 50;

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

    /// The bytes of the filter.
    fn filter_bytes(&self) -> usize {
        let filter = self.req.filters.get(self.filter);
        filter.map_or(0, |filter| filter.body.len())
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
    began_at: Duration,
    /// When the last event of the page came, or when it was requested.
    progress_at: Duration,
    /// The number of events that came.
    count: usize,
    /// The times of the last events that came, the last one at the end.
    last: VecDeque<Seconds>,
}

impl Page {
    /// A time up to which the page has certainly returned everything. Relays return the newest
    /// events first, but between them may be backdated events that were published just now. So some
    /// of the last events are returned again by the next page.
    fn certain_until(&self) -> Option<Seconds> {
        let uncertain = (self.count / 4).clamp(1, MAX_UNCERTAIN_EVENTS);
        self.last.iter().rev().take(uncertain).max().copied()
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

    /// The bytes of the filters of all spans.
    pub(super) fn filter_bytes(&self) -> usize {
        self.spans.iter().map(Span::filter_bytes).sum()
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

    /// Returns `true` while the control events of the last week are being requested.
    pub(super) fn owes_sweep(&self) -> bool {
        let page = self.page.iter().map(|page| &page.span);
        page.chain(&self.spans)
            .any(|span| matches!(span.purpose, Purpose::Sweep(_)))
    }

    /// Adds a span. One for the same filter that has not begun is extended instead.
    pub(super) fn owe(&mut self, span: Span) {
        let mut spans = self.spans.iter_mut();
        if let Some(same) = spans.find(|other| other.is_same(&span) && other.until.is_none()) {
            same.since = same.since.min(span.since);
        } else {
            self.enqueue(span);
        }
    }

    fn enqueue(&mut self, span: Span) {
        if span.is_urgent() {
            self.spans.push_front(span);
        } else {
            self.spans.push_back(span);
        }
    }

    /// Drops the spans of private kinds. Returns the open page if it is one of them.
    pub(super) fn drop_private(&mut self) -> Option<Page> {
        let is_private = |span: &Span| {
            let filter = span.req.filters.get(span.filter);
            filter.is_some_and(|filter| filter.class == EventClass::Private)
        };
        self.spans.retain(|span| !is_private(span));
        self.page.take_if(|page| is_private(&page.span))
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
            self.refusals += 1;
            self.retry_at = now.reading + backoff(self.refusals, 0.0);
            self.spans.push_back(span);
            return Some(Command::Count(RelayReason::ReqTooLarge));
        }
        self.tokens -= 1;
        self.requested += 1;
        self.page = Some(Page {
            id,
            sent_at: now.unix,
            span,
            began_at: now.reading,
            progress_at: now.reading,
            count: 0,
            last: VecDeque::new(),
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
            if page.last.len() == MAX_UNCERTAIN_EVENTS {
                page.last.pop_front();
            }
            page.last.push_back(created_at);
        }
        Some(page.sent_at)
    }

    /// Takes the page with this id, if it is open.
    pub(super) fn take(&mut self, id: &str) -> Option<Page> {
        self.page.take_if(|page| page.id == id)
    }

    /// Takes the page if nothing has come on it for a while, or if it takes too long. `notice` is
    /// when the last NOTICE came, which may be a refusal.
    pub(super) fn take_expired(&mut self, notice: Option<Duration>, now: Now) -> Option<Page> {
        self.page.take_if(|page| {
            has_timed_out(page.progress_at, notice, now)
                || page.began_at + PAGE_TIMEOUT < now.reading
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
        let rest = if page.count < FULL_PAGE_MIN_EVENTS {
            Some(page.span)
        } else {
            rest_of(page, commands)
        };
        if let Some(rest) = rest {
            self.enqueue(rest);
        }
    }
}

/// What remains of a span after the events of a page.
fn rest_of(page: Page, commands: &mut Vec<Command>) -> Option<Span> {
    let end = page.certain_until().unwrap_or(page.sent_at);
    let mut span = page.span;
    match span.until {
        Some(until) if end >= until => {
            if page.last.back().is_none_or(|last| *last >= until) {
                // A REQ cannot request the rest of a second that holds more than a page.
                commands.push(Command::Count(RelayReason::PageOverflow));
            }
            span.until = Some(until - Seconds(1));
        }
        _ => span.until = Some(end),
    }
    (span.until >= span.since).then_some(span)
}
