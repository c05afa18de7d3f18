//! `mute_lists`: key `pubkey`. Holds the public part of the pubkey's latest mute list. Only owners
//! have a row.
//!
//! Guarantee: the list of the newest event wins, whatever the order of the writes. Reads are
//! eventually consistent, at half the price, because every delivery reads the list and one that is
//! a second old is acceptable.

use nostr::key::PublicKey;
use nostr_push_core::{
    mute_list::MuteList,
    ports::{MuteLists, PortResult},
};

use super::{Store, read, s};
use crate::cause::unavailable;

const GET: &str = "dynamodb.mute_lists.get";
const PUT: &str = "dynamodb.mute_lists.put";

const PUBKEY: &str = "pubkey";

impl MuteLists for Store {
    async fn mute_list(&self, pubkey: &PublicKey) -> PortResult<Option<MuteList>> {
        let request = self
            .client
            .get_item()
            .table_name(&self.tables.mute_lists)
            .key(PUBKEY, s(pubkey.to_hex()));
        request
            .send()
            .await
            .map_err(unavailable(GET))?
            .item
            .map(|item| read(GET, item))
            .transpose()
    }

    async fn put_mute_list(&self, list: &MuteList) -> PortResult<bool> {
        self.put_newer(PUT, &self.tables.mute_lists, list, &list.order)
            .await
    }
}
