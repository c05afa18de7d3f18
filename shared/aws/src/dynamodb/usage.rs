//! The row `usage` of `relays`: what the stack holds, as the listener counts it. With several
//! listener tasks the last one to write wins, because each counts everything.

use nostr_push_core::{
    capacity::Usage,
    ports::{PortResult, Usages},
};
use serde::{Deserialize, Serialize};

use super::{Store, write};
use crate::cause::unavailable;

const GET: &str = "dynamodb.usage.get";
const PUT: &str = "dynamodb.usage.put";

const RELAY: &str = "relay";
const USAGE: &str = "usage";

#[derive(Serialize, Deserialize)]
struct Row {
    relay: String,
    #[serde(flatten)]
    usage: Usage,
}

impl Usages for Store {
    async fn usage(&self) -> PortResult<Option<Usage>> {
        let load = async {
            let row: Option<Row> = self
                .get_row(GET, &self.tables.relays, RELAY, USAGE.to_owned())
                .await?;
            Ok(row.map(|row| row.usage))
        };
        self.usage
            .try_get_with((), load)
            .await
            .map_err(|error: std::sync::Arc<nostr_push_core::ports::Unavailable>| (*error).clone())
    }

    async fn record_usage(&self, usage: &Usage) -> PortResult<()> {
        let row = Row {
            relay: USAGE.to_owned(),
            usage: *usage,
        };
        self.client
            .put_item()
            .table_name(&self.tables.relays)
            .set_item(Some(write(PUT, &row)?))
            .send()
            .await
            .map_err(unavailable(PUT))
            .map(drop)
    }
}
