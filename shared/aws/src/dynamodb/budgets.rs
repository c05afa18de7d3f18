//! Budgets, in the table `rates`: key `rate` (`budget#name#window`). Each row holds what was taken
//! from a budget in one window.
//!
//! Guarantee: no more than the budget is taken, however many take at the same time. Each attempt
//! costs one write unit. A request that is retried after a lost answer may take twice.

use nostr_push_core::{
    Seconds,
    ports::{Budgets, PortResult},
};

use super::{EXPIRES_AT, Store, conditional, n, s};

const TAKE: &str = "dynamodb.budgets.take";

/// How long a row is kept. It is longer than the longest window.
const BUDGET_TTL: Seconds = Seconds::from_days(3);

impl Budgets for Store {
    async fn take(&self, budget: &str, window: Seconds, units: u64, max: u64) -> PortResult<bool> {
        let Some(most) = max.checked_sub(units) else {
            return Ok(false);
        };
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.rates)
            .key("rate", s(format!("budget#{budget}#{window}")));
        let result = request
            .update_expression(format!("ADD taken :units SET {EXPIRES_AT} = :expires_at"))
            .condition_expression("attribute_not_exists(taken) OR taken <= :most")
            .expression_attribute_values(":units", n(units))
            .expression_attribute_values(":most", n(most))
            .expression_attribute_values(":expires_at", n((window + BUDGET_TTL).0))
            .send()
            .await;
        conditional(TAKE, result)
    }
}
