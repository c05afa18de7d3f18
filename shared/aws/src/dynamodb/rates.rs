//! `rates`: key `rate` (`app#recipient#minute`). Holds the events that were pushed in that minute
//! and the number of further events.
//!
//! Guarantee: at most `max` events are admitted, each once, however many are counted at the same
//! time. Each delivery costs one write, and each event beyond the limit a second one.

use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use nostr::event::EventId;
use nostr_push_core::{
    Seconds,
    owner::Owner,
    ports::{PortResult, RateAdmission, Rates},
};
use serde::Deserialize;

use super::{EXPIRES_AT, Store, conditional_update, n, s};
use crate::cause::unavailable;

const ADMIT: &str = "dynamodb.rates.admit";
const OVERFLOW: &str = "dynamodb.rates.overflow";
const GET: &str = "dynamodb.rates.get";

const RATE: &str = "rate";

/// How long a row is kept. It is longer than a summary can be late.
const RATE_TTL: Seconds = Seconds::from_days(1);

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    overflow: u64,
}

impl Rates for Store {
    async fn admit(
        &self,
        owner: &Owner,
        window: Seconds,
        event: &EventId,
        max: u32,
    ) -> PortResult<RateAdmission> {
        // Eight bytes distinguish the events of a minute and keep the row within one write unit.
        let id = Blob::new(&event.as_bytes()[..8]);
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.rates)
            .key(RATE, s(key(owner, window)));
        let result = request
            .update_expression(format!("ADD events :ids SET {EXPIRES_AT} = :expires_at"))
            .condition_expression(
                "attribute_not_exists(events) OR size(events) < :max OR contains(events, :id)",
            )
            .expression_attribute_values(":ids", AttributeValue::Bs(vec![id.clone()]))
            .expression_attribute_values(":id", AttributeValue::B(id))
            .expression_attribute_values(":max", n(max.into()))
            .expression_attribute_values(":expires_at", n((window + RATE_TTL).0))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        Ok(match conditional_update(ADMIT, result)? {
            Ok(_) => RateAdmission::Admitted,
            Err(row) => RateAdmission::Full {
                first: row.is_none_or(|row| !row.contains_key("overflow")),
            },
        })
    }

    async fn overflow(&self, owner: &Owner, window: Seconds) -> PortResult<()> {
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.rates)
            .key(RATE, s(key(owner, window)));
        let request = request
            .update_expression("ADD overflow :one")
            .expression_attribute_values(":one", n(1));
        request
            .send()
            .await
            .map_err(unavailable(OVERFLOW))
            .map(drop)
    }

    async fn overflowed(&self, owner: &Owner, window: Seconds) -> PortResult<u64> {
        let row: Option<Row> = self
            .get_row(GET, &self.tables.rates, RATE, key(owner, window))
            .await?;
        Ok(row.map_or(0, |row| row.overflow))
    }
}

fn key(owner: &Owner, window: Seconds) -> String {
    format!("{owner}#{window}")
}
