//! What is counted in the table `rates`, for `pushctl owner top`: pushes per owner and minute, and
//! what was taken from each budget.

use nostr_push_core::{Seconds, owner::Owner, ports::PortResult};

use super::{Item, Store};
use crate::cause::unavailable;

const SCAN: &str = "dynamodb.rates.scan";

/// One row of `rates`.
#[derive(Debug, PartialEq, Eq)]
pub enum Spending {
    /// Pushes to an owner in one minute.
    Pushes {
        /// The recipient.
        owner: Owner,
        /// The number of pushes.
        pushes: u64,
    },
    /// What was taken from a budget in one window.
    Budget {
        /// The name of the budget.
        name: String,
        /// The number of units.
        taken: u64,
    },
}

impl Store {
    /// Reads what was counted in windows that began at `since` or later. This reads the whole table
    /// page by page, and calls `each` for every row.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn spending(&self, since: Seconds, mut each: impl FnMut(Spending)) -> PortResult<()> {
        let scan = self
            .client
            .scan()
            .table_name(&self.tables.rates)
            .projection_expression("#rate, #events, #taken");
        let mut items = scan
            .expression_attribute_names("#rate", "rate")
            .expression_attribute_names("#events", "events")
            .expression_attribute_names("#taken", "taken")
            .into_paginator()
            .items()
            .send();
        while let Some(item) = items.next().await {
            if let Some(spending) = spending(&item.map_err(unavailable(SCAN))?, since) {
                each(spending);
            }
        }
        Ok(())
    }
}

/// The content of a row, or `None` if its window began before `since`.
fn spending(item: &Item, since: Seconds) -> Option<Spending> {
    let (name, window) = item.get("rate")?.as_s().ok()?.rsplit_once('#')?;
    if window.parse::<u64>().ok()? < since.0 {
        return None;
    }
    // The id of an app can be `budget`, so the key alone does not tell.
    if let Some(taken) = item.get("taken") {
        return Some(Spending::Budget {
            name: name.strip_prefix("budget#")?.to_owned(),
            taken: taken.as_n().ok()?.parse().ok()?,
        });
    }
    let events = item.get("events").and_then(|events| events.as_bs().ok());
    Some(Spending::Pushes {
        owner: name.parse().ok()?,
        pushes: events.map_or(0, Vec::len).try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};

    use super::*;
    use crate::dynamodb::{n, s};

    #[test]
    fn rows_are_told_apart_by_their_attributes() {
        let hex = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        let events = AttributeValue::Bs(vec![Blob::new([1; 8]), Blob::new([2; 8])]);
        let row = |rate: String, name: &str, value: AttributeValue| {
            Item::from([("rate".to_owned(), s(rate)), (name.to_owned(), value)])
        };
        let pushes = row(format!("budget#{hex}#120"), "events", events);
        let expected = Spending::Pushes {
            owner: format!("budget#{hex}").parse().unwrap(),
            pushes: 2,
        };
        assert_eq!(spending(&pushes, Seconds(120)), Some(expected));
        assert_eq!(spending(&pushes, Seconds(121)), None);
        let budget = row(format!("budget#owner:demo#{hex}#0"), "taken", n(7));
        let expected = Spending::Budget {
            name: format!("owner:demo#{hex}"),
            taken: 7,
        };
        assert_eq!(spending(&budget, Seconds(0)), Some(expected));
    }
}
