//! Reads the index under an event's hits, within the limits of one invocation.

use nostr_push_core::{
    Millis, Seconds,
    filter::Filter,
    index_key::IndexKey,
    message::{ContentMessage, FanOutPosition},
    owner::Owner,
    ports::{IndexReader, PortResult, Standings, Subscriptions},
    subscription::{IndexRow, Subscription, SubscriptionState},
};
use tokio::sync::Semaphore;

use crate::{
    large_filters::{Candidate, FilterSource, LargeFilters, groups, is_large},
    limits::{Limits, MAX_LARGE_FILTERS, MAX_ROWS_OF_OTHERS, RECIPIENTS_PER_READ},
    recipients::Recipients,
};

/// The fan-out of one event in one invocation.
pub struct FanOut<'a, S, C> {
    store: &'a S,
    clock: C,
    limits: Limits,
    /// The permits for reading large filters. The events of a batch share them.
    large_filters: &'a Semaphore,
    content: &'a ContentMessage,
    large: LargeFilters,
    now: Seconds,
    found: Recipients<'a>,
    position: FanOutPosition,
    deadline: Millis,
    queries: usize,
}

/// How the rows of a page ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageEnd {
    /// All were read.
    Read,
    /// A limit was reached before the last row.
    Stopped,
    /// The rest of the key is skipped.
    TooManyRows,
}

impl<'a, S: IndexReader + Subscriptions + Standings, C: Fn() -> Millis> FanOut<'a, S, C> {
    /// A fan-out that starts at the message's position.
    pub fn new(
        store: &'a S,
        clock: C,
        limits: Limits,
        large_filters: &'a Semaphore,
        content: &'a ContentMessage,
    ) -> Self {
        let now = clock();
        Self {
            store,
            clock,
            limits,
            large_filters,
            content,
            large: LargeFilters::default(),
            now: now.to_seconds(),
            found: Recipients::new(content, now.to_seconds()),
            position: content.position.clone().unwrap_or_default(),
            deadline: now + limits.time,
            queries: 0,
        }
    }

    /// Reads until a limit is reached. Returns the recipients, and the position from which the next
    /// invocation must continue. Each invocation considers at least one row or page, so the
    /// position always moves on.
    ///
    /// # Errors
    /// The store failed.
    pub async fn run(mut self) -> PortResult<(Recipients<'a>, Option<FanOutPosition>)> {
        while let Some(key) = self.content.hits.get(self.position.hit) {
            if self.queries >= self.limits.queries || (self.queries > 0 && self.is_full()) {
                return Ok((self.found, Some(self.position)));
            }
            self.queries += 1;
            let page = self.store.page(key, self.position.after.as_deref());
            let page = page.await?;
            let end = self.read_rows(key, &page.rows).await?;
            let is_next_too_many =
                self.position.others >= MAX_ROWS_OF_OTHERS && page.next.is_some();
            match end {
                PageEnd::Stopped => return Ok((self.found, Some(self.position))),
                PageEnd::Read if !is_next_too_many => match page.next {
                    Some(next) => self.position.after = Some(next),
                    None => self.skip_rest_of_key(),
                },
                PageEnd::Read | PageEnd::TooManyRows => {
                    self.found.too_many_rows += 1;
                    self.skip_rest_of_key();
                }
            }
        }
        Ok((self.found, None))
    }

    fn skip_rest_of_key(&mut self) {
        self.position = FanOutPosition {
            hit: self.position.hit + 1,
            ..FanOutPosition::default()
        };
    }

    /// Returns `true` if a limit is reached other than that of queries.
    fn is_full(&self) -> bool {
        self.found.reasons.len() >= self.limits.recipients
            || self.found.rows >= self.limits.rows
            || (self.clock)() >= self.deadline
    }

    /// Considers the rows of a page, and moves the position on after each.
    async fn read_rows(&mut self, key: &IndexKey, rows: &[IndexRow]) -> PortResult<PageEnd> {
        for rows in groups(rows, RECIPIENTS_PER_READ, is_large) {
            if rows.iter().any(is_large) && !self.starts_query() {
                return Ok(PageEnd::Stopped);
            }
            let (now, found) = (self.now, &self.found);
            let candidates = self.large.candidates(self.store, rows, found, now);
            let candidates = candidates.await?;
            for group in groups(&candidates, MAX_LARGE_FILTERS, is_in_subscriptions) {
                let end = self.read_group(key, group).await?;
                if end != PageEnd::Read {
                    return Ok(end);
                }
            }
        }
        Ok(PageEnd::Read)
    }

    /// Considers the rows of a group, and reads their large filters before.
    async fn read_group(&mut self, key: &IndexKey, group: &[Candidate<'_>]) -> PortResult<PageEnd> {
        let large = group
            .iter()
            .filter(|candidate| is_in_subscriptions(candidate));
        let large: Vec<(Owner, String)> = large
            .map(|candidate| (candidate.row.owner.clone(), candidate.row.identity.clone()))
            .collect();
        if large.is_empty() {
            return Ok(self.consider(key, group, &[]));
        }
        if !self.starts_query() {
            return Ok(PageEnd::Stopped);
        }
        let permit = self.large_filters.acquire().await.ok();
        let subscriptions = self.store.get(&large).await?;
        let end = self.consider(key, group, &subscriptions);
        drop(permit);
        Ok(end)
    }

    /// Counts a query behind the page. Returns `false` if a limit is reached and at least one row
    /// has been considered.
    fn starts_query(&mut self) -> bool {
        let is_stopped =
            self.found.rows > 0 && (self.queries >= self.limits.queries || self.is_full());
        self.queries += usize::from(!is_stopped);
        !is_stopped
    }

    fn consider(
        &mut self,
        key: &IndexKey,
        candidates: &[Candidate<'_>],
        subscriptions: &[Subscription],
    ) -> PageEnd {
        for candidate in candidates {
            let row = candidate.row;
            if self.found.rows > 0 && self.is_full() {
                return PageEnd::Stopped;
            }
            if key.mentions().is_some() && !row.is_own() {
                if self.position.others >= MAX_ROWS_OF_OTHERS {
                    return PageEnd::TooManyRows;
                }
                self.position.others += 1;
            }
            match candidate.source {
                FilterSource::Row => {
                    if let Some(filter) = &row.filter {
                        self.found.consider(key, row, filter);
                    }
                }
                FilterSource::Subscriptions => {
                    if let Some(filter) = filter_of(row, subscriptions) {
                        self.found.consider(key, row, filter);
                        self.found.rows += rows_of_large_filter(filter);
                    }
                }
                FilterSource::OverBudget => self.found.newcomers_over_budget += 1,
                FilterSource::Skipped => {}
            }
            self.found.rows += 1;
            self.position.after = Some(row.sort_key());
        }
        PageEnd::Read
    }
}

fn is_in_subscriptions(candidate: &Candidate<'_>) -> bool {
    candidate.source == FilterSource::Subscriptions
}

/// The filter of a row in its subscription.
fn filter_of<'a>(row: &IndexRow, subscriptions: &'a [Subscription]) -> Option<&'a Filter> {
    let mut subscriptions = subscriptions.iter();
    let is_of_row = |stored: &&Subscription| {
        stored.owner == row.owner
            && stored.identity == row.identity
            && stored.state == SubscriptionState::Active
    };
    subscriptions.find(is_of_row).map(|stored| &stored.filter)
}

/// The rows that the read of a large filter counts as: one per started 4 KiB, as DynamoDB bills
/// reads.
fn rows_of_large_filter(filter: &Filter) -> usize {
    filter.approximate_bytes().div_ceil(4 * 1024)
}
