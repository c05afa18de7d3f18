//! `settings`: key `owner` (app#pubkey); holds what the owner asked for by dialect H.
//!
//! Guarantee: the row of the newest event wins, in whatever order they are written. A row that asks for nothing (logged
//! out) is kept as long as any other, and longer than an older event could still be accepted.

use nostr_push_core::{
    owner::Owner,
    ports::{Answer, OwnerSettings},
    settings::Settings,
};
use serde::{Deserialize, Serialize};

use super::{SUPERSEDES, Store, conditional, order_values, read, s, write};
use crate::clients::unavailable;

const GET: &str = "dynamodb.settings.get";
const PUT: &str = "dynamodb.settings.put";

const OWNER: &str = "owner";

#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    settings: Settings,
    expires_at: u64,
}

impl OwnerSettings for Store {
    async fn settings(&self, owner: &Owner) -> Answer<Option<Settings>> {
        let request = self.client.get_item().table_name(&self.tables.settings).key(OWNER, s(owner.to_string())).consistent_read(true);
        let Some(item) = request.send().await.map_err(unavailable(GET))?.item else { return Ok(None) };
        read::<Row>(GET, item).map(|row| Some(row.settings))
    }

    async fn put_settings(&self, settings: &Settings) -> Answer<bool> {
        let row = Row { settings: settings.clone(), expires_at: settings.valid_until };
        let mut request = self.client.put_item().table_name(&self.tables.settings).set_item(Some(write(PUT, &row)?));
        for (name, value) in order_values(&settings.order) {
            request = request.expression_attribute_values(name, value);
        }
        conditional(PUT, request.condition_expression(SUPERSEDES).send().await)
    }
}
