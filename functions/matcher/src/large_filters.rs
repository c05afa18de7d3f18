//! Filters that are too large for the index: who gets theirs read. A read costs up to 128 KiB, and
//! a newcomer's device may be invented, so newcomers share a few reads.

use std::collections::{BTreeMap, BTreeSet};

use nostr_push_core::{
    Seconds,
    owner::Owner,
    ports::{PortResult, Standing, Standings},
    subscription::IndexRow,
};

use crate::{limits::MAX_LARGE_FILTERS_OF_NEWCOMERS, recipients::Recipients};

/// A row, and how its filter is found.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'r> {
    /// The row.
    pub row: &'r IndexRow,
    /// How its filter is found.
    pub source: FilterSource,
}

/// How the filter of a row is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterSource {
    /// In the row itself.
    Row,
    /// In `subscriptions`.
    Subscriptions,
    /// Not at all: the row has ended, or its owner has no active device.
    Skipped,
    /// Not at all: the owner is a newcomer, and enough filters of newcomers have been read.
    OverBudget,
}

/// Decides how the filters are found. Counts the large filters of newcomers.
#[derive(Debug, Default)]
pub struct LargeFilters {
    of_newcomers: usize,
}

impl LargeFilters {
    /// How the filter of each row is found. Reads the standings of the owners of large filters.
    ///
    /// # Errors
    /// The store failed.
    pub async fn candidates<'r>(
        &mut self,
        store: &impl Standings,
        rows: &'r [IndexRow],
        found: &Recipients<'_>,
        now: Seconds,
    ) -> PortResult<Vec<Candidate<'r>>> {
        let is_read = |row: &&IndexRow| is_large(row) && found.is_in_force(row);
        let owners = rows.iter().filter(is_read).map(|row| row.owner.clone());
        let owners: Vec<Owner> = owners.collect::<BTreeSet<_>>().into_iter().collect();
        let standings = if owners.is_empty() {
            BTreeMap::new()
        } else {
            store.standings(&owners).await?
        };
        let candidate = |row| {
            let source = if is_read(&row) {
                self.source(standings.get(&row.owner), now)
            } else if is_large(row) {
                FilterSource::Skipped
            } else {
                FilterSource::Row
            };
            Candidate { row, source }
        };
        Ok(rows.iter().map(candidate).collect())
    }

    /// How the large filter of an owner with this standing is found.
    fn source(&mut self, standing: Option<&Standing>, now: Seconds) -> FilterSource {
        match standing.filter(|standing| standing.active_until > now) {
            None => FilterSource::Skipped,
            Some(standing) if standing.proven => FilterSource::Subscriptions,
            Some(_) if self.of_newcomers < MAX_LARGE_FILTERS_OF_NEWCOMERS => {
                self.of_newcomers += 1;
                FilterSource::Subscriptions
            }
            Some(_) => FilterSource::OverBudget,
        }
    }
}

/// Returns `true` if the filter of the row is in `subscriptions`.
pub fn is_large(row: &IndexRow) -> bool {
    row.filter.is_none()
}

/// The items in groups, each with at most `max` for which `is_counted` is `true`.
pub fn groups<T>(
    items: &[T],
    max: usize,
    is_counted: impl Fn(&T) -> bool,
) -> impl Iterator<Item = &[T]> {
    let mut counted = 0;
    items.split_inclusive(move |item| {
        counted += usize::from(is_counted(item));
        let is_complete = counted == max;
        counted %= max;
        is_complete
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn groups_keep_the_order_and_have_few_counted_items(
            items in prop::collection::vec(any::<bool>(), 0..100),
            max in 1..9usize,
        ) {
            let groups: Vec<&[bool]> = groups(&items, max, |is_counted| *is_counted).collect();
            for group in &groups {
                let counted = group.iter().filter(|is_counted| **is_counted).count();
                prop_assert!(counted <= max);
            }
            prop_assert_eq!(groups.concat(), items);
        }
    }
}
