//! The relays that owners request in their subscriptions.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
};

use nostr_push_core::{
    Seconds,
    order::Order,
    owner::Owner,
    subscription::{MAX_OWNER_RELAYS, Subscription},
};

use crate::address::normalize;

/// The requested relays of all owners. Subscriptions without relays take no memory here.
#[derive(Debug, Default)]
pub struct RequestedRelays {
    /// If `true`, owners may request relays with private addresses and without TLS. Only for a
    /// developer's machine.
    allow_private: bool,
    requests: HashMap<(Owner, String), RelayRequest>,
    version: u64,
}

/// The relays of one subscription.
#[derive(Debug)]
struct RelayRequest {
    order: Order,
    valid_until: Seconds,
    relays: Vec<String>,
}

impl RequestedRelays {
    /// No requested relays.
    pub fn new(allow_private: bool) -> Self {
        Self {
            allow_private,
            ..Self::default()
        }
    }

    /// Applies one row. Returns `true` if the requested relays changed.
    pub fn apply(&mut self, row: &Subscription, now: Seconds) -> bool {
        let id = (row.owner.clone(), row.identity.clone());
        let stored = self.requests.get(&id);
        if stored.is_some_and(|stored| !row.order.supersedes(&stored.order)) {
            return false;
        }
        let relays: Vec<String> = if row.is_active(now) {
            row.relays
                .iter()
                .filter_map(|url| normalize(url, self.allow_private))
                .collect()
        } else {
            Vec::new()
        };
        let changed = stored.map_or(&[][..], |stored| &stored.relays) != relays;
        if stored.is_some() || !relays.is_empty() {
            self.requests.insert(
                id,
                RelayRequest {
                    order: row.order,
                    valid_until: row.valid_until,
                    relays,
                },
            );
        }
        self.version += u64::from(changed);
        changed
    }

    /// Removes the relays of subscriptions that have ended.
    pub fn expire(&mut self, now: Seconds) {
        let before = self.requests.len();
        self.requests.retain(|_, request| request.valid_until > now);
        self.version += u64::from(self.requests.len() != before);
    }

    /// A number that grows whenever the requested relays change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The relays that most owners request, at most `max`, without those in `operators`. An owner
    /// counts once for each relay, and for at most [`MAX_OWNER_RELAYS`] relays.
    pub fn most_requested(&self, operators: &[String], max: usize) -> Vec<String> {
        let mut by_owner: HashMap<&Owner, HashSet<&str>> = HashMap::new();
        for ((owner, _), request) in &self.requests {
            let relays = by_owner.entry(owner).or_default();
            for relay in &request.relays {
                if relays.len() < MAX_OWNER_RELAYS || relays.contains(relay.as_str()) {
                    relays.insert(relay);
                }
            }
        }
        let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
        for relay in by_owner
            .values()
            .flatten()
            .filter(|relay| !operators.iter().any(|url| url == *relay))
        {
            *owners.entry(relay).or_default() += 1;
        }
        let mut relays: Vec<(&str, usize)> = owners.into_iter().collect();
        // Relays with the same number of owners are sorted by name, so that all tasks agree.
        relays.sort_by_key(|(relay, owners)| (Reverse(*owners), *relay));
        relays
            .into_iter()
            .take(max)
            .map(|(relay, _)| relay.to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_core::subscription::SubscriptionState;
    use nostr_push_testkit::{builders::FAR_FUTURE, owner, subscription};
    use serde_json::json;

    use super::*;

    const NOW: Seconds = Seconds(1);

    fn row(owner: &Owner, n: u64, relays: &[&str]) -> Subscription {
        let relays = relays.iter().map(|relay| (*relay).to_owned()).collect();
        Subscription {
            relays,
            order: Order::counter(n),
            ..subscription(owner, &json!({"#t": ["a"]}))
        }
    }

    fn new_owner() -> Owner {
        owner(Keys::generate().public_key())
    }

    #[test]
    fn chooses_most_requested_relays_and_drops_unrequested_ones() {
        let (mut requested, alice, bob) = (RequestedRelays::new(false), new_owner(), new_owner());
        let alices = ["wss://a.example/", "wss://b.example"];
        assert!(requested.apply(&row(&alice, 1, &alices), NOW));
        let bobs = [
            "wss://b.example",
            "ws://c.example",
            "wss://127.0.0.1",
            "wss://operators.example",
        ];
        assert!(requested.apply(&row(&bob, 1, &bobs), NOW));
        let operators = ["wss://operators.example".to_owned()];
        assert_eq!(
            requested.most_requested(&operators, 10),
            ["wss://b.example", "wss://a.example"]
        );
        assert_eq!(
            requested.most_requested(&operators, 1),
            ["wss://b.example"],
            "the most requested relay comes first"
        );
        assert!(
            !requested.apply(&row(&bob, 1, &[]), NOW),
            "a row with the same order changes nothing"
        );
        assert!(requested.apply(
            &Subscription {
                state: SubscriptionState::Removed,
                ..row(&bob, 2, &["wss://b.example"])
            },
            NOW
        ));
        assert!(requested.apply(&row(&alice, 2, &["wss://a.example"]), NOW));
        assert_eq!(
            requested.most_requested(&operators, 10),
            ["wss://a.example"]
        );
        requested.expire(FAR_FUTURE);
        assert!(requested.most_requested(&operators, 10).is_empty());
    }

    #[test]
    fn owner_has_at_most_ten_relays() {
        let (mut requested, alice) = (RequestedRelays::new(false), new_owner());
        for n in 0..30 {
            let mut row = row(&alice, 1, &[&format!("wss://r{n}.example")]);
            row.identity = n.to_string();
            requested.apply(&row, NOW);
        }
        assert_eq!(requested.most_requested(&[], 100).len(), MAX_OWNER_RELAYS);
    }
}
