//! `pushctl owner top`: the owners who cost the most. It reads all filters and all of today's
//! counts, page by page.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    fmt::Write,
};

use anyhow::Result;
use nostr_push_aws::{
    clients,
    dynamodb::{Store, spending::Spending},
};
use nostr_push_core::{
    Millis, Seconds,
    owner::Owner,
    ports::{ChangeFeed, PortResult},
    subscription::Subscription,
};
use serde_json::{Value, json};

use crate::{context::CommandContext, cost::UnitCosts, key::npub};

/// The most owners whose costs are kept in memory, which takes about 50 MB.
const MAX_OWNERS: usize = 200_000;

/// The bytes of an index row without its filter.
const INDEX_ROW_BYTES: u64 = 300;

/// The largest filter that is stored in each of its index rows.
const MAX_INLINE_BYTES: u64 = 1024;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many owners to list.
    #[arg(long, default_value_t = 20)]
    n: usize,
    /// What to sort by.
    #[arg(long, value_enum, default_value_t = By::Cost)]
    by: By,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum By {
    /// Dollars a day, estimated from the other columns.
    Cost,
    /// Pushes since midnight UTC.
    Pushes,
    /// Write units since midnight UTC that were taken from the owner's budget.
    Writes,
    /// Index keys of all filters.
    Keys,
}

/// What an owner has and has used since midnight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    filters: u64,
    keys: u64,
    /// Bytes of the filters.
    bytes: u64,
    /// Bytes in all tables and indexes, roughly.
    stored: u64,
    pushes: u64,
    writes: u64,
}

impl Usage {
    fn add_filter(&mut self, row: &Subscription) {
        let bytes = row.filter.to_json().len() as u64;
        let keys = row.filter.index_keys().len() as u64;
        let inline = if bytes <= MAX_INLINE_BYTES { bytes } else { 0 };
        self.filters += 1;
        self.keys += keys;
        self.bytes += bytes;
        // The filter is in the table and in the index that is the change feed.
        self.stored += 2 * bytes + keys * (INDEX_ROW_BYTES + inline);
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn dollars(&self, costs: &UnitCosts) -> f64 {
        self.pushes as f64 * costs.push
            + self.writes as f64 * costs.write_unit
            + self.stored as f64 * costs.byte_day
    }

    /// A number that is higher for owners who come first.
    fn rank(&self, by: By, costs: &UnitCosts) -> u64 {
        match by {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "picodollars of one owner fit"
            )]
            By::Cost => (self.dollars(costs) * 1e12) as u64,
            By::Pushes => self.pushes,
            By::Writes => self.writes,
            By::Keys => self.keys,
        }
    }
}

/// The usage of owners, bounded in memory.
struct Ranking<'a> {
    owners: HashMap<Owner, Usage>,
    max: usize,
    by: By,
    costs: &'a UnitCosts,
}

impl Ranking<'_> {
    fn usage(&mut self, owner: Owner) -> &mut Usage {
        if self.owners.len() >= self.max && !self.owners.contains_key(&owner) {
            // The cheaper half is forgotten. If such an owner comes again, it starts at 0.
            let kept = self.first(self.max / 2);
            self.owners = kept.into_iter().collect();
        }
        self.owners.entry(owner).or_default()
    }

    /// The first `n` owners.
    fn first(&self, n: usize) -> Vec<(Owner, Usage)> {
        let mut owners: Vec<(&Owner, &Usage)> = self.owners.iter().collect();
        owners.sort_by_key(|(owner, usage)| (Reverse(usage.rank(self.by, self.costs)), *owner));
        let first = owners.into_iter().take(n);
        first
            .map(|(owner, usage)| (owner.clone(), *usage))
            .collect()
    }
}

pub(crate) async fn run(context: &CommandContext, arguments: &Arguments) -> Result<()> {
    let now = clients::now().to_seconds();
    let costs = UnitCosts::load()?;
    let mut ranking = Ranking {
        owners: HashMap::new(),
        max: MAX_OWNERS,
        by: arguments.by,
        costs: &costs,
    };
    let mut budgets: BTreeMap<String, u64> = BTreeMap::new();
    let midnight = now.start_of_day();
    let count = |spending| match spending {
        Spending::Pushes { owner, pushes } => ranking.usage(owner).pushes += pushes,
        Spending::Budget { name, taken } => match owner_of(&name) {
            Some(owner) => ranking.usage(owner).writes += taken,
            None => *budgets.entry(name).or_default() += taken,
        },
    };
    context.store.spending(midnight, count).await?;
    add_filters(&context.store, &mut ranking, now).await?;
    let top = ranking.first(arguments.n);
    let owners: Vec<Value> = top
        .iter()
        .map(|(owner, usage)| row(owner, usage, &costs))
        .collect();
    context.print(
        &json!({"owners": owners, "budgets": budgets}),
        table(&top, &budgets, &costs),
    );
    Ok(())
}

/// The owner whose budget of write units has this name.
fn owner_of(budget: &str) -> Option<Owner> {
    budget.strip_prefix("owner:")?.parse().ok()
}

/// Adds all filters that are in force or wait for a device.
async fn add_filters(store: &Store, ranking: &mut Ranking<'_>, now: Seconds) -> PortResult<()> {
    for partition in 0..store.partitions() {
        let mut next = None;
        loop {
            let page = ChangeFeed::page(store, partition, Millis(0), next.as_ref()).await?;
            for row in &page.rows {
                if row.is_active(now) || row.is_dormant(now) {
                    ranking.usage(row.owner.clone()).add_filter(row);
                }
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
    }
    Ok(())
}

fn row(owner: &Owner, usage: &Usage, costs: &UnitCosts) -> Value {
    json!({
        "app": owner.app,
        "pubkey": owner.pubkey,
        "dollars_per_day": usage.dollars(costs),
        "pushes": usage.pushes,
        "write_units": usage.writes,
        "filters": usage.filters,
        "index_keys": usage.keys,
        "filter_bytes": usage.bytes,
    })
}

/// The table as text, with what was taken from the budgets that owners share.
fn table(top: &[(Owner, Usage)], budgets: &BTreeMap<String, u64>, costs: &UnitCosts) -> String {
    let mut text = String::from(
        "  $ a day   pushes   writes  filters     keys    bytes  owner (today since midnight UTC)",
    );
    for (owner, usage) in top {
        let Usage {
            filters,
            keys,
            bytes,
            pushes,
            writes,
            ..
        } = usage;
        let dollars = usage.dollars(costs);
        let (app, npub) = (&owner.app, npub(&owner.pubkey));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{dollars:9.6} {pushes:8} {writes:8} {filters:8} {keys:8} {bytes:8}  {app} {npub}"
        );
    }
    for (name, taken) in budgets {
        let _ = write!(text, "\nbudget {name}: {taken} used today");
    }
    text
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_testkit::{owner, subscription};

    use super::*;

    fn ranking(costs: &UnitCosts, by: By, max: usize) -> Ranking<'_> {
        Ranking {
            owners: HashMap::new(),
            max,
            by,
            costs,
        }
    }

    #[test]
    fn owners_are_sorted_by_cost_or_by_one_column() {
        let costs = UnitCosts::load().unwrap();
        let [pushed, writer, holder] = [(); 3].map(|()| owner(Keys::generate().public_key()));
        let values: Vec<String> = (0..500).map(|n| format!("topic{n}")).collect();
        let filter = subscription(&holder, &json!({"kinds": [1], "#t": values}));
        for (by, first) in [
            (By::Cost, &pushed),
            (By::Pushes, &pushed),
            (By::Writes, &writer),
            (By::Keys, &holder),
        ] {
            let mut ranking = ranking(&costs, by, 10);
            ranking.usage(pushed.clone()).pushes += 1_000;
            ranking.usage(writer.clone()).writes += 4_000;
            ranking.usage(holder.clone()).add_filter(&filter);
            assert_eq!(ranking.first(1)[0].0, *first, "{by:?}");
            assert_eq!(ranking.usage(holder.clone()).keys, 500);
        }
    }

    #[test]
    fn memory_is_bounded_and_the_most_expensive_owner_stays() {
        let costs = UnitCosts::load().unwrap();
        let mut ranking = ranking(&costs, By::Cost, 10);
        let expensive = owner(Keys::generate().public_key());
        ranking.usage(expensive.clone()).pushes = 5;
        for _ in 0..50 {
            ranking.usage(owner(Keys::generate().public_key())).pushes = 1;
            assert!(ranking.owners.len() <= 10);
        }
        let (first, usage) = ranking.first(1).remove(0);
        assert_eq!((first, usage.pushes), (expensive, 5));
    }

    #[test]
    fn budgets_of_owners_are_told_from_shared_ones() {
        let alice = owner(Keys::generate().public_key());
        assert_eq!(owner_of(&format!("owner:{alice}")), Some(alice));
        assert_eq!(owner_of("newcomers"), None);
    }
}
