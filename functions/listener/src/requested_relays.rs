//! The relays that owners request in their subscriptions.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use nostr_push_core::{
    Millis, Seconds,
    order::Order,
    relay_url::RelayUrl,
    subscription::{MAX_OWNER_RELAYS, Subscription},
};
use sha2::{Digest, Sha256};
use slab::Slab;

use crate::{
    address::owners_relay,
    relay_slots::{self, Ballot, host_of},
};

/// The most different URLs that are kept: about 60 MB if all have the greatest length. When they
/// are reached, a URL that only unproven owners name is not added. It would hardly get a slot.
const MAX_URLS: usize = 100_000;

/// The number of owners whose votes are counted within about 20 ms. For each such number of owners,
/// a choice is kept for one second, so that counting takes little of the listener's time.
const OWNERS_PER_SECOND: usize = 25_000;

/// How long the entry of a removed subscription is kept. It is far longer than the change feed can
/// still bring an older row.
const REMOVED_ENTRY_TTL: Seconds = Seconds::from_minutes(10);

/// The requested relays of all owners. Subscriptions without relays take no memory here.
///
/// An owner takes about 250 bytes, besides the URLs. URLs are shared between owners.
#[derive(Debug, Default)]
pub struct RequestedRelays {
    /// If `true`, owners may request relays with private addresses and without TLS. Only for a
    /// developer's machine.
    allow_private: bool,
    /// The active subscriptions with relays of each owner.
    owners: HashMap<Id, Vec<RelayRequest>>,
    /// Subscriptions whose relays were removed, also because they are dormant. Until the entry is
    /// dropped, an older row that is read late cannot restore the relays.
    removed: HashMap<(Id, Id), RemovedRequest>,
    urls: Urls,
    version: u64,
}

/// The row that removed the relays of a subscription.
#[derive(Debug)]
struct RemovedRequest {
    order: Order,
    changed_at: Millis,
    /// When the entry is dropped.
    dropped_at: Seconds,
}

/// 128 bits of the SHA-256 of an owner or of a subscription's identity.
type Id = [u8; 16];

/// The relays of one subscription.
#[derive(Debug)]
struct RelayRequest {
    identity: Id,
    order: Order,
    /// See [`Subscription::changed_at`]. Of two rows with the same order, the later one may differ
    /// in `proven` and in its state.
    changed_at: Millis,
    valid_until: Seconds,
    proven: bool,
    /// `true` if some relays are left out, because the owner or all owners together name too many.
    is_cut: bool,
    /// The numbers of the relays in [`Urls`].
    relays: Box<[u32]>,
}

impl RelayRequest {
    /// Returns `true` if the row must be applied in place of this request.
    ///
    /// A request that was cut is applied again when the whole feed is read, because there may be
    /// room for its relays by then.
    fn is_outdated_by(&self, row: &Subscription) -> bool {
        let is_same_event = row.order == self.order;
        row.order.supersedes(&self.order)
            || (is_same_event && (self.is_cut || row.changed_at > self.changed_at))
    }
}

impl RemovedRequest {
    /// Returns `true` if the row must be applied.
    fn is_outdated_by(&self, row: &Subscription) -> bool {
        row.order.supersedes(&self.order)
            || (row.order == self.order && row.changed_at > self.changed_at)
    }
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
        let owner = id(&row.owner.to_string());
        if row.relays.is_empty() && !self.owners.contains_key(&owner) {
            return false;
        }
        let identity = id(&row.identity);
        let requests = self.owners.entry(owner).or_default();
        let position = requests.iter().position(|r| r.identity == identity);
        let stored = position.and_then(|position| requests.get(position));
        let removed = self.removed.get(&(owner, identity));
        let is_removed = removed.is_some_and(|removed| !removed.is_outdated_by(row));
        if is_removed || stored.is_some_and(|stored| !stored.is_outdated_by(row)) {
            if requests.is_empty() {
                self.owners.remove(&owner);
            }
            return false;
        }
        let before = vote(requests);
        // The new relays are added before the earlier ones are released, so that a number does not
        // change its URL in between.
        let request = self.urls.request(row, identity, self.allow_private, now);
        let earlier = position.map(|position| requests.swap_remove(position));
        if !request.relays.is_empty() {
            self.removed.remove(&(owner, identity));
            requests.reserve_exact(1);
            requests.push(request);
            limit_relays(requests, &mut self.urls);
        } else if earlier.is_some() || removed.is_some() {
            let entry = RemovedRequest {
                order: row.order,
                changed_at: row.changed_at,
                dropped_at: now + REMOVED_ENTRY_TTL,
            };
            self.removed.insert((owner, identity), entry);
        }
        self.urls
            .release(earlier.iter().flat_map(|earlier| &*earlier.relays));
        let changed = vote(requests) != before;
        if requests.is_empty() {
            self.owners.remove(&owner);
        }
        self.version += u64::from(changed);
        changed
    }

    /// Removes the relays of subscriptions that have ended.
    pub fn expire(&mut self, now: Seconds) {
        let Self { owners, urls, .. } = self;
        let mut changed = false;
        owners.retain(|_, requests| {
            requests.retain(|request| {
                let is_active = request.valid_until > now;
                if !is_active {
                    urls.release(&*request.relays);
                    changed = true;
                }
                is_active
            });
            !requests.is_empty()
        });
        self.removed.retain(|_, removed| removed.dropped_at > now);
        self.version += u64::from(changed);
    }

    /// A number that grows whenever the requested relays change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How long a choice is kept before [`Self::most_requested`] is called again.
    pub fn choice_interval(&self) -> Seconds {
        Seconds((self.owners.len() / OWNERS_PER_SECOND) as u64)
    }

    /// The relays that get one of `max` slots, without those on the hosts of `operators`. See
    /// [`relay_slots`]. An owner votes for at most [`MAX_OWNER_RELAYS`] relays.
    pub fn most_requested(&self, operators: &[String], max: usize) -> Vec<String> {
        let votes: Vec<(bool, Vec<u32>)> = self.owners.values().map(|r| vote(r)).collect();
        let ballots: Vec<Ballot> = votes
            .iter()
            .map(|(proven, relays)| Ballot {
                proven: *proven,
                relays,
            })
            .collect();
        let urls = self.urls.without(operators);
        relay_slots::choose(&ballots, &urls, max)
            .into_iter()
            .filter_map(|number| urls.get(number as usize).copied().flatten())
            .map(str::to_owned)
            .collect()
    }
}

/// The vote of an owner with these requests: `true` if the owner is proven, and the numbers of the
/// relays, sorted.
fn vote(requests: &[RelayRequest]) -> (bool, Vec<u32>) {
    let mut relays: Vec<u32> = requests.iter().flat_map(|r| &*r.relays).copied().collect();
    relays.sort_unstable();
    relays.dedup();
    (requests.iter().any(|request| request.proven), relays)
}

/// Leaves out relays, so that the owner of these requests has at most [`MAX_OWNER_RELAYS`]. The
/// newest subscriptions keep theirs, so that all tasks agree.
fn limit_relays(requests: &mut [RelayRequest], urls: &mut Urls) {
    requests.sort_unstable_by(|a, b| {
        let by_time = b.order.created_at.cmp(&a.order.created_at);
        by_time
            .then(a.order.event_id.cmp(&b.order.event_id))
            .then(a.identity.cmp(&b.identity))
    });
    let mut kept: BTreeSet<u32> = BTreeSet::new();
    for request in requests {
        let (within, beyond): (Vec<u32>, Vec<u32>) = request.relays.iter().partition(|relay| {
            kept.contains(*relay) || (kept.len() < MAX_OWNER_RELAYS && kept.insert(**relay))
        });
        if !beyond.is_empty() {
            urls.release(&beyond);
            request.relays = within.into();
            request.is_cut = true;
        }
    }
}

fn id(text: &str) -> Id {
    let digest = Sha256::digest(text);
    std::array::from_fn(|n| digest[n])
}

/// The URLs of all requested relays. Each has a number while a request uses it.
#[derive(Debug, Default)]
struct Urls {
    uses: Slab<UrlUse>,
    numbers: HashMap<Arc<str>, u32>,
    /// `true` once it has been logged that [`MAX_URLS`] is reached.
    is_full: bool,
}

#[derive(Debug)]
struct UrlUse {
    url: Arc<str>,
    /// The number of requests that contain the URL.
    requests: u32,
}

impl Urls {
    /// The request in a row. Its URLs are in use from here on.
    fn request(
        &mut self,
        row: &Subscription,
        identity: Id,
        allow_private: bool,
        now: Seconds,
    ) -> RelayRequest {
        let named: BTreeSet<String> = row
            .relays
            .iter()
            .filter(|_| row.is_active(now))
            .take(MAX_OWNER_RELAYS)
            .filter_map(|url| owners_relay(url, allow_private))
            .map(String::from)
            .collect();
        let relays: Vec<u32> = named
            .iter()
            .filter_map(|url| self.acquire(url, row.proven))
            .collect();
        RelayRequest {
            identity,
            order: row.order,
            changed_at: row.changed_at,
            valid_until: row.valid_until,
            proven: row.proven,
            is_cut: relays.len() < named.len(),
            relays: relays.into(),
        }
    }

    /// The number of a URL, with one more request that uses it. `None` if there is no room for it.
    fn acquire(&mut self, url: &str, proven: bool) -> Option<u32> {
        if let Some(number) = self.numbers.get(url) {
            self.uses.get_mut(*number as usize)?.requests += 1;
            return Some(*number);
        }
        if self.uses.len() >= MAX_URLS && !proven {
            if !self.is_full {
                tracing::warn!(
                    stage = "listener",
                    urls = self.uses.len(),
                    "owners name too many relays, so new ones of unproven owners are left out"
                );
            }
            self.is_full = true;
            return None;
        }
        let url: Arc<str> = url.into();
        let number = self.uses.insert(UrlUse {
            url: Arc::clone(&url),
            requests: 1,
        });
        let number = u32::try_from(number).ok()?;
        self.numbers.insert(url, number);
        Some(number)
    }

    /// Ends the use of these URLs by one request.
    fn release<'a>(&mut self, relays: impl IntoIterator<Item = &'a u32>) {
        for number in relays {
            let Some(used) = self.uses.get_mut(*number as usize) else {
                continue;
            };
            used.requests -= 1;
            if used.requests == 0 {
                let unused = self.uses.remove(*number as usize);
                self.numbers.remove(&unused.url);
            }
        }
        self.is_full &= self.uses.len() >= MAX_URLS;
    }

    /// The URLs by number, without those on the hosts of `operators`.
    fn without(&self, operators: &[String]) -> Vec<Option<&str>> {
        let mut urls = vec![None; self.uses.capacity()];
        for (number, used) in &self.uses {
            if let Some(url) = urls.get_mut(number) {
                *url = Some(&*used.url);
            }
        }
        // A URL of the same host needs no slot either: it would only be another connection to a
        // relay that is watched.
        let operators = operators.iter().filter_map(|url| RelayUrl::parse(url));
        let hosts: Vec<String> = operators
            .map(|url| host_of(url.as_str()).to_owned())
            .collect();
        let is_operators = |url: &&str| hosts.iter().any(|host| host == host_of(url));
        for url in &mut urls {
            url.take_if(|url| is_operators(url));
        }
        urls
    }
}

#[cfg(test)]
mod tests {
    use nostr::key::Keys;
    use nostr_push_core::{owner::Owner, subscription::SubscriptionState};
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
    fn owner_has_at_most_ten_relays_those_of_the_newest_subscriptions() {
        let newest_ten: Vec<String> = (20..30).map(|n| format!("wss://r{n}.example")).collect();
        let alice = new_owner();
        let rows: Vec<Subscription> = (0..30)
            .map(|n| Subscription {
                identity: n.to_string(),
                ..row(&alice, n, &[&format!("wss://r{n}.example")])
            })
            .collect();
        let mut reversed = RequestedRelays::new(false);
        for row in rows.iter().rev() {
            reversed.apply(row, NOW);
        }
        let mut requested = RequestedRelays::new(false);
        for row in &rows {
            requested.apply(row, NOW);
        }
        assert_eq!(requested.most_requested(&[], 100), newest_ten);
        assert_eq!(reversed.most_requested(&[], 100), newest_ten);
        assert_eq!(
            requested.urls.uses.len(),
            MAX_OWNER_RELAYS,
            "others take no memory"
        );
        // There is room for others once the newest are removed and the feed is read again.
        for row in &rows[20..] {
            let removed = Subscription {
                state: SubscriptionState::Removed,
                order: Order::counter(100),
                ..row.clone()
            };
            assert!(requested.apply(&removed, NOW));
        }
        for row in &rows {
            requested.apply(row, NOW);
        }
        let next_ten: Vec<String> = (10..20).map(|n| format!("wss://r{n}.example")).collect();
        assert_eq!(requested.most_requested(&[], 100), next_ten);
    }

    #[test]
    fn relays_of_proven_owners_come_first() {
        let mut requested = RequestedRelays::new(false);
        for _ in 0..3 {
            requested.apply(&row(&new_owner(), 1, &["wss://popular.example"]), NOW);
        }
        let alice = new_owner();
        requested.apply(&row(&alice, 1, &["wss://z.example"]), NOW);
        assert_eq!(requested.most_requested(&[], 1), ["wss://popular.example"]);
        let version = requested.version();
        let proven = Subscription {
            proven: true,
            ..row(&alice, 2, &["wss://z.example"])
        };
        assert!(requested.apply(&proven, NOW));
        assert!(requested.version() > version, "the relays are chosen again");
        assert_eq!(requested.most_requested(&[], 1), ["wss://z.example"]);
    }

    #[test]
    fn later_row_of_the_same_event_updates_the_proof() {
        let (mut requested, alice) = (RequestedRelays::new(false), new_owner());
        let relays = ["wss://z.example"];
        requested.apply(&row(&new_owner(), 1, &["wss://a.example"]), NOW);
        let first = row(&alice, 1, &relays);
        requested.apply(&first, NOW);
        let proven = Subscription {
            proven: true,
            changed_at: Millis(1),
            ..first.clone()
        };
        assert!(requested.apply(&proven, NOW));
        assert!(!requested.apply(&first, NOW), "a row that is read late");
        assert_eq!(requested.most_requested(&[], 1), relays);
        let unproven = Subscription {
            changed_at: Millis(2),
            ..first
        };
        assert!(requested.apply(&unproven, NOW));
        assert_eq!(requested.most_requested(&[], 1), ["wss://a.example"]);
    }

    #[test]
    fn removed_request_is_not_restored_by_an_older_row() {
        let (mut requested, alice) = (RequestedRelays::new(false), new_owner());
        let first = row(&alice, 1, &["wss://a.example"]);
        requested.apply(&first, NOW);
        requested.apply(&row(&alice, 2, &[]), NOW);
        assert!(!requested.apply(&first, NOW));
        assert!(requested.most_requested(&[], 9).is_empty());
        assert!(requested.urls.numbers.is_empty() && requested.urls.uses.is_empty());
        assert!(requested.owners.is_empty());
        // Entries of removed requests do not stay.
        requested.expire(NOW + REMOVED_ENTRY_TTL);
        assert!(requested.removed.is_empty());
    }

    #[test]
    fn relays_of_dormant_rows_do_not_count_until_the_row_is_active_again() {
        let (mut requested, alice) = (RequestedRelays::new(false), new_owner());
        let active = row(&alice, 1, &["wss://a.example"]);
        let dormant = Subscription {
            state: SubscriptionState::Dormant { until: FAR_FUTURE },
            changed_at: Millis(1),
            ..active.clone()
        };
        assert!(!requested.apply(&dormant, NOW));
        assert!(requested.apply(
            &Subscription {
                changed_at: Millis(2),
                ..active.clone()
            },
            NOW
        ));
        assert!(requested.apply(
            &Subscription {
                changed_at: Millis(3),
                ..dormant
            },
            NOW
        ));
        assert!(!requested.apply(&active, NOW), "a row that is read late");
        assert!(requested.most_requested(&[], 9).is_empty());
        assert!(requested.apply(
            &Subscription {
                changed_at: Millis(4),
                ..active
            },
            NOW
        ));
        assert_eq!(requested.most_requested(&[], 9), ["wss://a.example"]);
    }

    #[test]
    fn relays_in_another_form_are_the_operators() {
        let mut requested = RequestedRelays::new(false);
        requested.apply(&row(&new_owner(), 1, &["wss://a.example"]), NOW);
        let operators = ["wss://A.example:443/".to_owned()];
        assert!(requested.most_requested(&operators, 9).is_empty());
    }

    #[test]
    fn number_of_urls_of_strangers_is_limited() {
        let mut requested = RequestedRelays::new(false);
        for n in 0..MAX_URLS {
            requested.urls.acquire(&format!("wss://{n}.example"), false);
        }
        assert!(!requested.apply(&row(&new_owner(), 1, &["wss://new.example"]), NOW));
        assert!(requested.owners.is_empty());
        let known = row(&new_owner(), 1, &["wss://7.example"]);
        assert!(requested.apply(&known, NOW), "a known URL is shared");
        let proven = Subscription {
            proven: true,
            ..row(&new_owner(), 1, &["wss://proven.example"])
        };
        assert!(requested.apply(&proven, NOW));
        assert_eq!(requested.most_requested(&[], 1), ["wss://proven.example"]);
    }

    #[test]
    fn url_table_is_empty_after_all_requests_have_ended() {
        let mut requested = RequestedRelays::new(false);
        let owners: Vec<Owner> = (0..3).map(|_| new_owner()).collect();
        for (n, owner) in (0..60u64).zip(owners.iter().cycle()) {
            let urls: Vec<String> = (n..n + n % 12)
                .map(|n| format!("wss://{n}.example"))
                .collect();
            let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
            let row = Subscription {
                identity: (n % 7).to_string(),
                ..row(owner, n, &urls)
            };
            requested.apply(&row, NOW);
            requested.apply(&row, NOW);
        }
        assert!(!requested.most_requested(&[], 9).is_empty());
        requested.expire(FAR_FUTURE);
        assert!(requested.most_requested(&[], 9).is_empty());
        assert!(requested.urls.numbers.is_empty() && requested.urls.uses.is_empty());
    }
}
