//! `settings`: key `owner` (`app#pubkey`). Holds the owner's settings of dialect H.
//!
//! Guarantee: the row of the newest event wins, whatever the order of the writes. The row of an
//! owner who has logged out is kept as long as any other, which is longer than an older event is
//! accepted.

use nostr_push_core::{
    Seconds,
    owner::Owner,
    ports::{OwnerSettings, PortResult},
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
    expires_at: Seconds,
}

impl OwnerSettings for Store {
    async fn settings(&self, owner: &Owner) -> PortResult<Option<Settings>> {
        let row: Option<Row> = self
            .get_row(GET, &self.tables.settings, OWNER, owner.to_string())
            .await?;
        Ok(row.map(|row| row.settings))
    }

    async fn put_settings(&self, settings: &Settings) -> PortResult<bool> {
        let row = Row {
            settings: settings.clone(),
            expires_at: settings.valid_until,
        };
        self.put_newer(PUT, &self.tables.settings, &row, &settings.order)
            .await
    }
}
