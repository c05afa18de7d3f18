//! `claims`: key `claim` (`app#recipient#event_id`).
//!
//! Guarantee: a claim has one holder at a time, and none after its completion. This holds for
//! [`CLAIM_TTL`], which is longer than an event may be accepted.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use nostr_push_core::{
    CLAIM_TTL, Millis,
    ports::{ClaimResult, Claims, PortResult},
};

use super::{EXPIRES_AT, Item, Store, conditional, conditional_update, n, s};

const ACQUIRE: &str = "dynamodb.claims.acquire";
const DONE: &str = "dynamodb.claims.done";
const RELEASE: &str = "dynamodb.claims.release";

const CLAIM: &str = "claim";
const LEASE_UNTIL: &str = "lease_until";
const DEVICES_DONE: &str = "devices_done";

impl Claims for Store {
    async fn acquire(
        &self,
        claim: &str,
        holder: &str,
        now: Millis,
        until: Millis,
    ) -> PortResult<ClaimResult> {
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.claims)
            .key(CLAIM, s(claim));
        let result = request
            .update_expression(format!(
                "SET holder = :holder, {LEASE_UNTIL} = :until, {EXPIRES_AT} = :expires_at"
            ))
            .condition_expression(format!(
                "attribute_not_exists({CLAIM}) OR \
                 (attribute_not_exists(completed) AND {LEASE_UNTIL} <= :now)"
            ))
            .expression_attribute_values(":holder", s(holder))
            .expression_attribute_values(":until", n(until.0))
            .expression_attribute_values(":now", n(now.0))
            .expression_attribute_values(":expires_at", n((now.to_seconds() + CLAIM_TTL).0))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        Ok(match conditional_update(ACQUIRE, result)? {
            Ok(row) => ClaimResult::Acquired(devices_done(row.unwrap_or_default())),
            Err(row) => taken(row.as_ref(), now),
        })
    }

    async fn done(&self, claim: &str, holder: &str, token_hash: &str) -> PortResult<bool> {
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.claims)
            .key(CLAIM, s(claim));
        let result = request
            .update_expression(format!("ADD {DEVICES_DONE} :device"))
            .condition_expression("holder = :holder AND attribute_not_exists(completed)")
            .expression_attribute_values(":holder", s(holder))
            .expression_attribute_values(":device", AttributeValue::Ss(vec![token_hash.to_owned()]))
            .send()
            .await;
        conditional(DONE, result)
    }

    async fn release(&self, claim: &str, holder: &str, completed: bool) -> PortResult<()> {
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.claims)
            .key(CLAIM, s(claim));
        let request = if completed {
            request
                .update_expression("SET completed = :end")
                .expression_attribute_values(":end", AttributeValue::Bool(true))
        } else {
            request
                .update_expression(format!("SET {LEASE_UNTIL} = :end"))
                .expression_attribute_values(":end", n(0))
        };
        let result = request
            .condition_expression("holder = :holder")
            .expression_attribute_values(":holder", s(holder))
            .send()
            .await;
        conditional(RELEASE, result).map(drop)
    }
}

fn devices_done(mut item: Item) -> Vec<String> {
    item.remove(DEVICES_DONE)
        .and_then(|value| value.as_ss().ok().cloned())
        .unwrap_or_default()
}

/// The result if the claim is taken, from the row that DynamoDB returned.
fn taken(item: Option<&Item>, now: Millis) -> ClaimResult {
    let soon = now + Millis(1_000);
    let Some(item) = item else {
        return ClaimResult::Taken(soon);
    };
    if item.contains_key("completed") {
        return ClaimResult::Completed;
    }
    let until = item
        .get(LEASE_UNTIL)
        .and_then(|value| value.as_n().ok())
        .and_then(|n| n.parse().ok());
    ClaimResult::Taken(until.map_or(soon, Millis))
}
