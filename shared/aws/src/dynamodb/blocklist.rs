//! The row `#blocked` of `apps`: the pubkeys that the operator has blocked. No app can have this
//! id, because ids contain no `#`. Reads go through a cache of 60 s. DynamoDB limits the row to 400
//! KB, which is about 5,000 pubkeys.

use std::{collections::BTreeSet, sync::Arc};

use aws_sdk_dynamodb::types::AttributeValue;
use nostr::key::PublicKey;
use nostr_push_core::ports::{Blocklist, PortResult, Unavailable};

use super::{Store, s};
use crate::cause::unavailable;

const GET: &str = "dynamodb.blocklist.get";
const UPDATE: &str = "dynamodb.blocklist.update";

const APP: &str = "app";
/// The key of the row.
pub(super) const BLOCKED: &str = "#blocked";
const PUBKEYS: &str = "pubkeys";

impl Blocklist for Store {
    async fn is_blocked(&self, pubkey: &PublicKey) -> PortResult<bool> {
        let blocked = self
            .blocked
            .try_get_with((), self.load_blocked())
            .await
            .map_err(|error: Arc<Unavailable>| (*error).clone())?;
        Ok(blocked.contains(&pubkey.to_hex()))
    }
}

impl Store {
    /// The blocked pubkeys, in hex.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn blocked(&self) -> PortResult<BTreeSet<String>> {
        self.load_blocked().await.map(|blocked| (*blocked).clone())
    }

    async fn load_blocked(&self) -> PortResult<Arc<BTreeSet<String>>> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.tables.apps)
            .key(APP, s(BLOCKED))
            .send()
            .await
            .map_err(unavailable(GET))?;
        let pubkeys = answer
            .item
            .and_then(|mut item| item.remove(PUBKEYS))
            .and_then(|value| value.as_ss().ok().cloned());
        Ok(Arc::new(pubkeys.into_iter().flatten().collect()))
    }

    /// Blocks a pubkey, or no longer blocks it. Functions see it within 60 s.
    ///
    /// # Errors
    /// DynamoDB failed.
    pub async fn set_blocked(&self, pubkey: &PublicKey, blocked: bool) -> PortResult<()> {
        let expression = if blocked { "ADD" } else { "DELETE" };
        self.client
            .update_item()
            .table_name(&self.tables.apps)
            .key(APP, s(BLOCKED))
            .update_expression(format!("{expression} {PUBKEYS} :pubkeys"))
            .expression_attribute_values(":pubkeys", AttributeValue::Ss(vec![pubkey.to_hex()]))
            .send()
            .await
            .map_err(unavailable(UPDATE))
            .map(drop)
    }
}
