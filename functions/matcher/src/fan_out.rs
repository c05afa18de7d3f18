//! Reads the index under an event's hits, within the limits of one invocation.

use nostr_push_core::{
    Millis,
    filter::Filter,
    index_key::IndexKey,
    message::{ContentMessage, FanOutPosition},
    owner::Owner,
    ports::{IndexReader, PortResult, Subscriptions},
    subscription::{IndexRow, Subscription, SubscriptionState},
};
use tokio::sync::Semaphore;

use crate::{
    limits::{Limits, MAX_LARGE_FILTERS, MAX_ROWS_OF_OTHERS},
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

impl<'a, S: IndexReader + Subscriptions, C: Fn() -> Millis> FanOut<'a, S, C> {
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
        for group in groups(rows) {
            let large = self.large_filters_of(group);
            let mut permit = None;
            let mut subscriptions = Vec::new();
            if !large.is_empty() {
                if self.found.rows > 0 && self.queries >= self.limits.queries {
                    return Ok(PageEnd::Stopped);
                }
                self.queries += 1;
                permit = self.large_filters.acquire().await.ok();
                subscriptions = self.store.get(&large).await?;
            }
            let end = self.consider(key, group, &subscriptions);
            drop(permit);
            if end != PageEnd::Read {
                return Ok(end);
            }
        }
        Ok(PageEnd::Read)
    }

    /// The subscriptions of the rows whose filters are too large for the index.
    fn large_filters_of(&self, rows: &[IndexRow]) -> Vec<(Owner, String)> {
        let large = rows
            .iter()
            .filter(|row| is_large(row) && self.found.is_in_force(row));
        large
            .map(|row| (row.owner.clone(), row.identity.clone()))
            .collect()
    }

    fn consider(
        &mut self,
        key: &IndexKey,
        rows: &[IndexRow],
        subscriptions: &[Subscription],
    ) -> PageEnd {
        for row in rows {
            if self.found.rows > 0 && self.is_full() {
                return PageEnd::Stopped;
            }
            if key.mentions().is_some() && !row.is_own() {
                if self.position.others >= MAX_ROWS_OF_OTHERS {
                    return PageEnd::TooManyRows;
                }
                self.position.others += 1;
            }
            if let Some(filter) = filter_of(row, subscriptions) {
                self.found.consider(key, row, filter);
            }
            self.found.rows += 1;
            self.position.after = Some(row.sort_key());
        }
        PageEnd::Read
    }
}

fn is_large(row: &IndexRow) -> bool {
    row.filter.is_none()
}

/// The rows in groups of at most [`MAX_LARGE_FILTERS`] large filters.
fn groups(rows: &[IndexRow]) -> impl Iterator<Item = &[IndexRow]> {
    let mut large = 0;
    rows.split_inclusive(move |row| {
        large += usize::from(is_large(row));
        let is_complete = large == MAX_LARGE_FILTERS;
        large %= MAX_LARGE_FILTERS;
        is_complete
    })
}

/// The filter of a row, from the row itself or from its subscription.
fn filter_of<'a>(row: &'a IndexRow, subscriptions: &'a [Subscription]) -> Option<&'a Filter> {
    row.filter.as_ref().or_else(|| {
        let mut subscriptions = subscriptions.iter();
        let is_of_row = |stored: &&Subscription| {
            stored.owner == row.owner
                && stored.identity == row.identity
                && stored.state == SubscriptionState::Active
        };
        subscriptions.find(is_of_row).map(|stored| &stored.filter)
    })
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::{owner, subscription};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn groups_keep_the_order_and_have_few_large_filters(
            large in prop::collection::vec(any::<bool>(), 0..100),
        ) {
            let owner = owner(Keys::generate().public_key());
            let row = subscription(&owner, &json!({"#t": ["a"]})).index_rows().next().unwrap();
            let row = |(n, is_large): (usize, &bool)| IndexRow {
                identity: n.to_string(),
                filter: row.filter.clone().filter(|_| !is_large),
                ..row.clone()
            };
            let rows: Vec<IndexRow> = large.iter().enumerate().map(row).collect();
            let groups: Vec<&[IndexRow]> = groups(&rows).collect();
            for group in &groups {
                let large = group.iter().filter(|row| is_large(row)).count();
                prop_assert!(large <= MAX_LARGE_FILTERS);
            }
            prop_assert_eq!(groups.concat(), rows);
        }
    }
}
