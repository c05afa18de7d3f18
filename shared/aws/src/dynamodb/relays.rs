//! `relays`: key `relay`. There are two kinds of rows.
//!
//! - The row of a relay's URL holds its cursor, the time of its last sweep and its status.
//!   Guarantee: the cursor only grows.
//! - The row `members` has an attribute for each listener task, with the end of its lease.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use nostr_push_core::{
    Seconds,
    ports::{Members, PortResult, RelayCursor, Relays},
};
use serde::{Deserialize, Serialize};

use super::{EXPIRES_AT, Item, Store, conditional, n, s, write};
use crate::cause::unavailable;

const GET: &str = "dynamodb.relays.get";
const PUT: &str = "dynamodb.relays.put";
const JOIN: &str = "dynamodb.relays.join";

const RELAY: &str = "relay";
const MEMBERS: &str = "members";

/// How long the row of a relay is kept after its last checkpoint.
const RELAY_TTL: Seconds = Seconds::from_days(30);

/// How long after the end of its lease a task is removed from the row of members.
const ENDED_LEASE_TTL: Seconds = Seconds::from_hours(1);

#[derive(Serialize, Deserialize)]
struct Row {
    relay: String,
    cursor: Seconds,
    #[serde(default)]
    swept_at: Seconds,
    #[serde(default)]
    status: String,
    expires_at: Seconds,
}

impl Relays for Store {
    async fn cursor(&self, relay: &str) -> PortResult<Option<RelayCursor>> {
        let row: Option<Row> = self
            .get_row(GET, &self.tables.relays, RELAY, relay.to_owned())
            .await?;
        Ok(row.map(|row| RelayCursor {
            read_until: row.cursor,
            swept_at: row.swept_at,
        }))
    }

    async fn checkpoint(
        &self,
        relay: &str,
        cursor: RelayCursor,
        status: &str,
        now: Seconds,
    ) -> PortResult<()> {
        let row = Row {
            relay: relay.to_owned(),
            cursor: cursor.read_until,
            swept_at: cursor.swept_at,
            status: status.to_owned(),
            expires_at: now + RELAY_TTL,
        };
        let request = self
            .client
            .put_item()
            .table_name(&self.tables.relays)
            .set_item(Some(write(PUT, &row)?));
        let request =
            request.condition_expression("attribute_not_exists(relay) OR #cursor <= :cursor");
        let request = request
            .expression_attribute_names("#cursor", "cursor")
            .expression_attribute_values(":cursor", n(cursor.read_until.0));
        conditional(PUT, request.send().await).map(drop)
    }
}

impl Members for Store {
    async fn join(&self, member: &str, now: Seconds, until: Seconds) -> PortResult<Vec<String>> {
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.relays)
            .key(RELAY, s(MEMBERS));
        let request = request
            .update_expression("SET #member = :until")
            .expression_attribute_names("#member", member)
            .expression_attribute_values(":until", n(until.0))
            .return_values(ReturnValue::AllNew);
        let row = request
            .send()
            .await
            .map_err(unavailable(JOIN))?
            .attributes
            .unwrap_or_default();
        let (members, over) = members(row, now);
        for member in over {
            // The task has died. If it is alive after all, it joins again.
            self.leave(&member).await?;
        }
        Ok(members)
    }

    async fn leave(&self, member: &str) -> PortResult<()> {
        let request = self
            .client
            .update_item()
            .table_name(&self.tables.relays)
            .key(RELAY, s(MEMBERS));
        let request = request
            .update_expression("REMOVE #member")
            .expression_attribute_names("#member", member);
        request.send().await.map_err(unavailable(JOIN)).map(drop)
    }
}

/// The members whose lease is valid, sorted, and those whose lease ended long ago.
fn members(row: Item, now: Seconds) -> (Vec<String>, Vec<String>) {
    let until =
        |value: &AttributeValue| value.as_n().ok().and_then(|n| n.parse().ok().map(Seconds));
    let leases = row
        .into_iter()
        .filter(|(name, _)| name != RELAY && name != EXPIRES_AT);
    let leases: Vec<(String, Seconds)> = leases
        .filter_map(|(name, value)| Some((name, until(&value)?)))
        .collect();
    let mut members: Vec<String> = leases
        .iter()
        .filter(|(_, until)| *until > now)
        .map(|(member, _)| member.clone())
        .collect();
    members.sort_unstable();
    let over = leases
        .into_iter()
        .filter(|(_, until)| *until + ENDED_LEASE_TTL < now)
        .map(|(member, _)| member)
        .collect();
    (members, over)
}
