//! `settings`: key `owner` (app#pubkey); holds what the owner asked for by dialect H.
//!
//! Guarantee: the row of the newest event wins, in whatever order they are written. A row that asks
//! for nothing (logged out) is kept as long as any other, and longer than an older event could
//! still be accepted.

use nostr_push_core::{
    owner::Owner,
    ports::{Answer, OwnerSettings},
    settings::Settings,
};
use serde::{Deserialize, Serialize};

use super::Store;

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
        let row: Option<Row> = self
            .get_row(GET, &self.tables.settings, OWNER, owner.to_string())
            .await?;
        Ok(row.map(|row| row.settings))
    }

    async fn put_settings(&self, settings: &Settings) -> Answer<bool> {
        let row = Row {
            settings: settings.clone(),
            expires_at: settings.valid_until,
        };
        self.put_newer(PUT, &self.tables.settings, &row, &settings.order)
            .await
    }
}
