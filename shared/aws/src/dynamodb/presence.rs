//! `presence`: key `owner` (`app#pubkey`). Holds the owner's last heartbeat or offline event.
//!
//! Guarantee: an older event never overwrites the row of a newer one.

use aws_sdk_dynamodb::types::AttributeValue;
use nostr_push_core::{
    Seconds,
    order::Order,
    owner::Owner,
    ports::{PortResult, Presences},
    presence::Presence,
};
use serde::{Deserialize, Serialize};

use super::{Store, conditional, order_values, s};

const GET: &str = "dynamodb.presence.get";
const AWAIT: &str = "dynamodb.presence.await";
const PUT: &str = "dynamodb.presence.put";

const OWNER: &str = "owner";

#[derive(Serialize, Deserialize)]
struct Row {
    owner: Owner,
    #[serde(flatten)]
    presence: Presence,
    expires_at: Seconds,
}

impl Presences for Store {
    async fn presence(&self, owner: &Owner) -> PortResult<Option<Presence>> {
        let row: Option<Row> = self
            .get_row(GET, &self.tables.presence, OWNER, owner.to_string())
            .await?;
        Ok(row.map(|row| row.presence))
    }

    async fn mark_awaited(&self, owner: &Owner, order: &Order) -> PortResult<bool> {
        let mut request = self
            .client
            .update_item()
            .table_name(&self.tables.presence)
            .key(OWNER, s(owner.to_string()));
        for (name, value) in order_values(order) {
            request = request.expression_attribute_values(name, value);
        }
        let request = request
            .update_expression("SET awaited = :awaited")
            .expression_attribute_values(":awaited", AttributeValue::Bool(true));
        conditional(
            AWAIT,
            request
                .condition_expression("created_at = :created_at AND event_id = :event_id")
                .send()
                .await,
        )
    }

    async fn put_presence(
        &self,
        owner: &Owner,
        presence: &Presence,
        expires_at: Seconds,
    ) -> PortResult<bool> {
        let row = Row {
            owner: owner.clone(),
            presence: *presence,
            expires_at,
        };
        self.put_newer(PUT, &self.tables.presence, &row, &presence.order)
            .await
    }
}
