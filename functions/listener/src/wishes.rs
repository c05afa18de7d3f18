//! Which relays owners want watched, as their subscriptions say.

use std::collections::{BTreeMap, HashMap, HashSet};

use nostr_push_core::{
    Seconds,
    order::Order,
    owner::Owner,
    subscription::{MAX_RELAYS, Subscription},
};

use crate::address::normal;

/// The wishes of all owners. Most have none, so only those that do take any memory.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Whether owners may name relays in private networks and without TLS: on a developer's machine
    /// alone.
    private: bool,
    subscriptions: HashMap<(Owner, String), Wish>,
    version: u64,
}

#[derive(Debug)]
struct Wish {
    order: Order,
    valid_until: Seconds,
    relays: Vec<String>,
}

impl Wishes {
    /// No wishes yet.
    pub fn new(private: bool) -> Self {
        Self {
            private,
            ..Self::default()
        }
    }

    /// Takes in one row. Answers whether anything changed.
    pub fn apply(&mut self, row: &Subscription, now: Seconds) -> bool {
        let id = (row.owner.clone(), row.subscription.clone());
        let held = self.subscriptions.get(&id);
        if held.is_some_and(|held| !row.order.supersedes(&held.order)) {
            return false;
        }
        let relays: Vec<String> = if row.is_active(now) {
            row.relays
                .iter()
                .filter_map(|url| normal(url, self.private))
                .collect()
        } else {
            Vec::new()
        };
        let changed = held.map_or(&[][..], |held| &held.relays) != relays;
        if held.is_some() || !relays.is_empty() {
            self.subscriptions.insert(
                id,
                Wish {
                    order: row.order,
                    valid_until: row.valid_until,
                    relays,
                },
            );
        }
        self.version += u64::from(changed);
        changed
    }

    /// Forgets what is over.
    pub fn expire(&mut self, now: Seconds) {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|_, wish| wish.valid_until > now);
        self.version += u64::from(self.subscriptions.len() != before);
    }

    /// Grows whenever the wishes change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The relays that most owners want, at most `count`, besides those that are watched anyway.
    /// Each owner counts once for each relay, and for [`MAX_RELAYS`] relays at most.
    pub fn chosen(&self, anyway: &[String], count: usize) -> Vec<String> {
        let mut of_owner: HashMap<&Owner, HashSet<&str>> = HashMap::new();
        for ((owner, _), wish) in &self.subscriptions {
            let relays = of_owner.entry(owner).or_default();
            for relay in &wish.relays {
                if relays.len() < MAX_RELAYS || relays.contains(relay.as_str()) {
                    relays.insert(relay);
                }
            }
        }
        let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
        for relay in of_owner
            .values()
            .flatten()
            .filter(|relay| !anyway.iter().any(|watched| watched == *relay))
        {
            *wanted.entry(relay).or_default() += 1;
        }
        let mut wanted: Vec<(&str, usize)> = wanted.into_iter().collect();
        // By name among equals, so that all tasks choose the same.
        wanted.sort_by_key(|(relay, owners)| (std::cmp::Reverse(*owners), *relay));
        wanted
            .into_iter()
            .take(count)
            .map(|(relay, _)| relay.to_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_core::subscription::State;
    use nostr_push_testkit::subscription;
    use serde_json::json;

    use super::*;

    fn row(owner: &Owner, n: u64, relays: &[&str]) -> Subscription {
        let relays = relays.iter().map(|relay| (*relay).to_owned()).collect();
        Subscription {
            relays,
            order: Order::counter(n),
            ..subscription(owner, &json!({"#t": ["a"]}))
        }
    }

    fn owner() -> Owner {
        Owner {
            app: "demo".to_owned(),
            pubkey: Keys::generate().public_key(),
        }
    }

    #[test]
    fn relays_are_counted_by_owner_and_dropped_when_nobody_wants_them() {
        let (mut wishes, alice, bob) = (Wishes::new(false), owner(), owner());
        assert!(wishes.apply(&row(&alice, 1, &["wss://a.example/", "wss://b.example"]), 1));
        assert!(wishes.apply(
            &row(
                &bob,
                1,
                &[
                    "wss://b.example",
                    "ws://c.example",
                    "wss://127.0.0.1",
                    "wss://operators.example"
                ]
            ),
            1
        ));
        let anyway = ["wss://operators.example".to_owned()];
        assert_eq!(
            wishes.chosen(&anyway, 10),
            ["wss://b.example", "wss://a.example"]
        );
        assert_eq!(
            wishes.chosen(&anyway, 1),
            ["wss://b.example"],
            "the most wanted first"
        );
        assert!(
            !wishes.apply(&row(&bob, 1, &[]), 1),
            "the same again is no news"
        );
        assert!(wishes.apply(
            &Subscription {
                state: State::Removed,
                ..row(&bob, 2, &["wss://b.example"])
            },
            1
        ));
        assert!(wishes.apply(&row(&alice, 2, &["wss://a.example"]), 1));
        assert_eq!(wishes.chosen(&anyway, 10), ["wss://a.example"]);
        wishes.expire(4_000_000_000);
        assert!(wishes.chosen(&anyway, 10).is_empty());
    }

    #[test]
    fn an_owner_has_ten_relays_at_most() {
        let (mut wishes, alice) = (Wishes::new(false), owner());
        for n in 0..30 {
            let mut row = row(&alice, 1, &[&format!("wss://r{n}.example")]);
            row.subscription = n.to_string();
            wishes.apply(&row, 1);
        }
        assert_eq!(wishes.chosen(&[], 100).len(), MAX_RELAYS);
    }
}
