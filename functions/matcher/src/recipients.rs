//! Who gets an event, merged over all their subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use nostr::event::Event;
use nostr_push_core::{
    Seconds,
    filter::Filter,
    index_key::IndexKey,
    owner::Owner,
    subscription::{IndexRow, MUTE_LIST},
};

/// Past this many recipients the rest of an event's fan-out is left to another invocation.
pub const MAX_RECIPIENTS: usize = 1_000;

/// The recipients so far, and what was left out.
#[derive(Debug, Default)]
pub struct Recipients {
    /// By which dimensions the event was found, for each recipient.
    pub reasons: BTreeMap<Owner, BTreeSet<String>>,
    /// How many matching subscriptions were the author's own.
    pub own_event: u64,
    /// How many matching subscriptions were newer than the backfilled event.
    pub before_subscription: u64,
}

impl Recipients {
    /// Whether the rest should be left to another invocation.
    pub fn is_full(&self) -> bool {
        self.reasons.len() >= MAX_RECIPIENTS
    }

    /// Considers one candidate found under `key`, with its filter.
    pub fn consider(
        &mut self,
        event: &Event,
        backfill: bool,
        key: &IndexKey,
        row: &IndexRow,
        filter: &Filter,
        now: Seconds,
    ) {
        // What brings an owner's own mute list is there for the list, and pushes nothing.
        let pushes = !row.subscription.starts_with(MUTE_LIST);
        if !pushes || row.valid_until <= now || !filter.matches_for(event, &row.owner.pubkey) {
            return;
        }
        if row.owner.pubkey == event.pubkey {
            self.own_event += 1;
        } else if backfill && event.created_at.as_secs() < row.since {
            self.before_subscription += 1;
        } else {
            self.reasons
                .entry(row.owner.clone())
                .or_default()
                .insert(key.dimension());
        }
    }
}
