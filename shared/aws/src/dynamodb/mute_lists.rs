//! `mute_lists`: key `pubkey`; holds the public part of the pubkey's latest mute list.
//!
//! Guarantee: the list of the newest event wins, in whatever order they are written. Read by every
//! delivery, and so eventually consistent: at half the price, a list that is a second old will do.

use nostr::key::PublicKey;
use nostr_push_core::{
    mute_list::MuteList,
    ports::{Answer, MuteLists},
};

use super::{Store, read, s};
use crate::clients::unavailable;

const GET: &str = "dynamodb.mute_lists.get";
const PUT: &str = "dynamodb.mute_lists.put";

const PUBKEY: &str = "pubkey";

impl MuteLists for Store {
    async fn mute_list(&self, pubkey: &PublicKey) -> Answer<Option<MuteList>> {
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

    async fn put_mute_list(&self, list: &MuteList) -> Answer<bool> {
        self.put_newer(PUT, &self.tables.mute_lists, list, &list.order)
            .await
    }
}
