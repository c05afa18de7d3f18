//! The recipients of an event, merged over all their subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use nostr_push_core::{
    Seconds,
    filter::Filter,
    index_key::IndexKey,
    message::ContentMessage,
    owner::Owner,
    relay_url::RelayHash,
    subscription::{IndexRow, MUTE_LIST_PREFIX},
};

/// The recipients of a message found so far, and the numbers of matches left out.
#[derive(Debug)]
pub struct Recipients<'a> {
    content: &'a ContentMessage,
    /// The relay that sent the event. `None` if no subscription can name it.
    relay: Option<RelayHash>,
    now: Seconds,
    /// The number of rows read. Each large filter that was read adds its weight.
    pub rows: usize,
    /// For each recipient, the dimensions by which the event was found.
    pub reasons: BTreeMap<Owner, BTreeSet<String>>,
    /// The number of matching subscriptions that belong to the event's author.
    pub own_events: u64,
    /// The number of matching subscriptions that are newer than the backfilled event.
    pub before_subscription_matches: u64,
    /// The number of matching subscriptions that do not name the owners' relay that sent the event.
    pub relay_not_named_matches: u64,
    /// The number of mentions under which not all rows of others were read.
    pub too_many_rows: u64,
    /// The number of large filters of newcomers that were not read.
    pub newcomers_over_budget: u64,
}

impl<'a> Recipients<'a> {
    /// No recipients yet.
    pub fn new(content: &'a ContentMessage, now: Seconds) -> Self {
        Self {
            content,
            relay: RelayHash::of(&content.relay),
            now,
            rows: 0,
            reasons: BTreeMap::new(),
            own_events: 0,
            before_subscription_matches: 0,
            relay_not_named_matches: 0,
            too_many_rows: 0,
            newcomers_over_budget: 0,
        }
    }

    /// Returns `true` if the row can cause a push. The subscription that fetches an owner's own
    /// mute list causes none.
    pub fn is_in_force(&self, row: &IndexRow) -> bool {
        row.valid_until > self.now && !row.identity.starts_with(MUTE_LIST_PREFIX)
    }

    /// Adds the owner of a row found under `key`, if the row's filter matches the event.
    pub fn consider(&mut self, key: &IndexKey, row: &IndexRow, filter: &Filter) {
        let event = &self.content.event;
        if !self.is_in_force(row) || !filter.matches_for(event, &row.owner.pubkey) {
            return;
        }
        if row.owner.pubkey == event.pubkey {
            self.own_events += 1;
        } else if self.content.backfill && Seconds::from(event.created_at) < row.since {
            self.before_subscription_matches += 1;
        } else if !self.may_reach(row) {
            self.relay_not_named_matches += 1;
        } else {
            self.reasons
                .entry(row.owner.clone())
                .or_default()
                .insert(key.dimension());
        }
    }

    /// Returns `true` if the event's relay serves the owner of this row: it is a relay of the
    /// operator, or the subscription names it.
    fn may_reach(&self, row: &IndexRow) -> bool {
        let is_named = || self.relay.is_some_and(|relay| row.relays.contains(&relay));
        !self.content.from_owners_relay || is_named()
    }
}
