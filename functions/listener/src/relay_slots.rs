//! Which of the relays that owners name get one of the limited slots.
//!
//! The slots are assigned one after the other, each to the relay with the most votes. An owner
//! votes for every relay that the owner names. If `n` of these relays have a slot already, the vote
//! counts `1 / (1 + n)`. This is sequential proportional approval voting
//! (<https://en.wikipedia.org/wiki/Sequential_proportional_approval_voting>). So a relay that many
//! owners name comes early, and no owner alone gets a second slot while another has none.
//!
//! A host has at most two slots, because one host can answer under any number of URLs.
//!
//! Proven owners vote first, and all relays that they name come before all others. So strangers,
//! whose keys are free, cannot change anything about the relays of proven owners.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

/// The vote of an owner who has none of the named relays yet. It can be divided by every number up
/// to 10, so that sums do not depend on the order of the owners.
const VOTE: u64 = 2520;

/// The most slots of one host.
const MAX_SLOTS_PER_HOST: u32 = 2;

/// The relays that one owner names, by their numbers, each at most once.
#[derive(Debug, Clone, Copy)]
pub struct Ballot<'a> {
    /// `true` if the owner has a proven device.
    pub proven: bool,
    /// The numbers of the relays.
    pub relays: &'a [u32],
}

/// Chooses at most `max` relays. `urls` contains the URL of each relay by its number, or `None` if
/// the relay needs no slot. Returns the numbers of the chosen relays, the first choice first.
///
/// The result depends on the ballots and the URLs alone, and not on their order or numbers: all
/// tasks must agree. Memory and time grow with the number of named relays over all ballots: a
/// million ballots with ten relays each take 60 MB and at most a second.
pub fn choose(ballots: &[Ballot], urls: &[Option<&str>], max: usize) -> Vec<u32> {
    let mut election = Election {
        ballots,
        candidates: urls.to_vec(),
        supporters: Supporters::of(ballots, urls.len()),
        seats: vec![0; ballots.len()],
        hosts: HashMap::new(),
        chosen: Vec::new(),
    };
    election.assign(true, max);
    election.assign(false, max);
    election.chosen
}

struct Election<'a> {
    ballots: &'a [Ballot<'a>],
    /// The URLs of the relays that can still get a slot, by number.
    candidates: Vec<Option<&'a str>>,
    supporters: Supporters,
    /// For each ballot, the number of its relays that have a slot.
    seats: Vec<u8>,
    /// The number of slots of each host.
    hosts: HashMap<&'a str, u32>,
    chosen: Vec<u32>,
}

impl Election<'_> {
    /// Assigns slots by the votes of the owners who are, or are not, proven.
    fn assign(&mut self, proven: bool, max: usize) {
        let mut votes = self.votes(proven);
        let mut ranking: BinaryHeap<_> = (0..)
            .zip(&self.candidates)
            .filter_map(|(number, url)| ranked(number, *url, &votes))
            .collect();
        while self.chosen.len() < max
            && let Some((expected, Reverse(url), number)) = ranking.pop()
        {
            if votes[number as usize] == expected {
                let slots = self.hosts.entry(host_of(url)).or_default();
                if *slots < MAX_SLOTS_PER_HOST {
                    *slots += 1;
                    self.assign_to(number, proven, &mut votes);
                }
            } else {
                // The votes have decreased since the relay was ranked.
                ranking.extend(ranked(number, Some(url), &votes));
            }
        }
    }

    /// Assigns a slot to a relay, and reduces the votes of the owners who name it.
    fn assign_to(&mut self, number: u32, proven: bool, votes: &mut [u64]) {
        self.chosen.push(number);
        self.candidates[number as usize] = None;
        for &owner in self.supporters.of_relay(number) {
            let ballot = self.ballots[owner as usize];
            let seats = &mut self.seats[owner as usize];
            let decrease = vote(*seats) - vote(*seats + 1);
            *seats += 1;
            if ballot.proven == proven {
                for relay in ballot.relays {
                    votes[*relay as usize] -= decrease;
                }
            }
        }
    }

    /// The votes for each relay by the owners who are, or are not, proven.
    fn votes(&self, proven: bool) -> Vec<u64> {
        let mut votes = vec![0; self.candidates.len()];
        let ballots = self.ballots.iter().zip(&self.seats);
        for (ballot, seats) in ballots.filter(|(ballot, _)| ballot.proven == proven) {
            for relay in ballot.relays {
                votes[*relay as usize] += vote(*seats);
            }
        }
        votes
    }
}

/// A relay in the order in which relays get slots. `None` if it cannot get one.
fn ranked<'a>(
    number: u32,
    url: Option<&'a str>,
    votes: &[u64],
) -> Option<(u64, Reverse<&'a str>, u32)> {
    let votes = votes[number as usize];
    Some((votes, Reverse(url?), number)).filter(|_| votes > 0)
}

/// The host of a URL in normal form, with its port.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

/// The vote of an owner with this number of slots.
fn vote(seats: u8) -> u64 {
    VOTE / (1 + u64::from(seats))
}

/// The ballots that name each relay.
struct Supporters {
    /// Where the ballots of each relay end in `ballots`. They start where those of the relay before
    /// end.
    ends: Vec<usize>,
    ballots: Vec<u32>,
}

impl Supporters {
    fn of(ballots: &[Ballot], relays: usize) -> Self {
        let mut ends = vec![0; relays];
        let mut total = 0;
        for relay in ballots.iter().flat_map(|ballot| ballot.relays) {
            ends[*relay as usize] += 1;
        }
        for end in &mut ends {
            // First the start of each relay's ballots. The next loop moves it to the end.
            total += std::mem::replace(end, total);
        }
        let mut supporters = vec![0; total];
        for (number, ballot) in (0..).zip(ballots) {
            for relay in ballot.relays {
                let end = &mut ends[*relay as usize];
                supporters[*end] = number;
                *end += 1;
            }
        }
        Self {
            ends,
            ballots: supporters,
        }
    }

    fn of_relay(&self, number: u32) -> &[u32] {
        let number = number as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ballots[start..self.ends[number]]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// An owner: proven or not, and the names of the owner's relays.
    type Named = (bool, Vec<&'static str>);

    /// The chosen relays by name.
    fn chosen(owners: &[Named], max: usize) -> Vec<&'static str> {
        let urls: Vec<&str> = owners
            .iter()
            .flat_map(|(_, relays)| relays.clone())
            .collect();
        let urls: Vec<&str> = BTreeSet::from_iter(urls).into_iter().collect();
        let number = |name: &&str| u32::try_from(urls.binary_search(name).unwrap()).unwrap();
        let relays: Vec<Vec<u32>> = owners
            .iter()
            .map(|(_, relays)| relays.iter().map(number).collect())
            .collect();
        let ballots: Vec<Ballot> = owners
            .iter()
            .zip(&relays)
            .map(|((proven, _), relays)| Ballot {
                proven: *proven,
                relays,
            })
            .collect();
        let candidates: Vec<Option<&str>> = urls.iter().copied().map(Some).collect();
        choose(&ballots, &candidates, max)
            .into_iter()
            .map(|number| urls[number as usize])
            .collect()
    }

    /// A name that lives as long as the test process.
    fn name(text: String) -> &'static str {
        Box::leak(text.into_boxed_str())
    }

    /// An owner who alone names ten relays.
    fn greedy(proven: bool, key: usize) -> Named {
        (
            proven,
            (0..10).map(|n| name(format!("a{key:05}.{n}"))).collect(),
        )
    }

    #[test]
    fn strangers_do_not_displace_the_relay_of_a_proven_owner() {
        let mut owners: Vec<Named> = (0..10_000).map(|key| greedy(false, key)).collect();
        // Another relay has the votes of a thousand strangers.
        owners.extend((0..1_000).map(|_| (false, vec!["popular"])));
        owners.push((true, vec!["z.proven"]));
        let chosen = chosen(&owners, 200);
        assert_eq!(
            (chosen.len(), &chosen[..2]),
            (200, &["z.proven", "popular"][..])
        );
        let keys: BTreeSet<&str> = chosen[2..].iter().map(|relay| &relay[..6]).collect();
        assert_eq!(
            keys.len(),
            198,
            "no stranger has two slots while others wait"
        );
    }

    #[test]
    fn proven_owners_share_the_slots_equally() {
        let mut owners = vec![greedy(true, 1)];
        owners.extend((0..5).map(|n| (true, vec![name(format!("z{n}"))])));
        assert_eq!(
            chosen(&owners, 6),
            ["a00001.0", "z0", "z1", "z2", "z3", "z4"]
        );
        assert_eq!(chosen(&owners, 100).len(), 15, "free slots are used");
    }

    #[test]
    fn host_has_at_most_two_slots() {
        let urls = |host: &str| (0..5).map(|n| name(format!("wss://{host}/{n}"))).collect();
        let mut owners: Vec<Named> = (0..50).map(|_| (false, urls("one.example"))).collect();
        owners.push((false, urls("one.example:444")));
        assert_eq!(
            chosen(&owners, 9),
            [
                "wss://one.example/0",
                "wss://one.example/1",
                "wss://one.example:444/0",
                "wss://one.example:444/1"
            ]
        );
    }

    #[test]
    fn two_owners_with_the_same_relays_get_two_shares() {
        let pair = || (true, vec!["a1", "a2", "a3", "a4"]);
        let owners = [pair(), pair(), (true, vec!["z1"]), (true, vec!["z2"])];
        assert_eq!(chosen(&owners, 4), ["a1", "a2", "z1", "z2"]);
    }

    #[test]
    fn relay_without_a_slot_costs_no_share() {
        let ballots = [
            Ballot {
                proven: false,
                relays: &[0, 1],
            },
            Ballot {
                proven: false,
                relays: &[2],
            },
        ];
        // The first relay is one of the operator's.
        assert_eq!(choose(&ballots, &[None, Some("a"), Some("b")], 1), [1]);
        assert!(choose(&ballots, &[None, Some("a"), Some("b")], 0).is_empty());
        assert!(choose(&[], &[], 9).is_empty());
    }

    fn any_owners() -> impl Strategy<Value = Vec<Named>> {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let relays = prop::collection::btree_set(prop::sample::select(&NAMES[..]), 0..5);
        let relays = relays.prop_map(|relays| relays.into_iter().collect());
        prop::collection::vec((any::<bool>(), relays), 0..8)
    }

    /// The rule of the voting, one slot at a time.
    fn brute_force(owners: &[Named], max: usize) -> Vec<&'static str> {
        let mut chosen: Vec<&str> = Vec::new();
        for proven in [true, false] {
            while chosen.len() < max
                && let Some(best) = next_choice(owners, proven, &chosen)
            {
                chosen.push(best);
            }
        }
        chosen
    }

    fn next_choice(owners: &[Named], proven: bool, chosen: &[&str]) -> Option<&'static str> {
        let mut votes: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, relays) in owners.iter().filter(|owner| owner.0 == proven) {
            let (with_slot, without): (Vec<&str>, Vec<&str>) =
                relays.iter().partition(|relay| chosen.contains(relay));
            for relay in without {
                *votes.entry(relay).or_default() += VOTE / (1 + with_slot.len() as u64);
            }
        }
        let ranking = votes
            .into_iter()
            .map(|(relay, votes)| (votes, Reverse(relay)));
        ranking.max().map(|(_, Reverse(relay))| relay)
    }

    proptest! {
        #[test]
        fn matches_brute_force(owners in any_owners(), max in 0..9usize) {
            prop_assert_eq!(chosen(&owners, max), brute_force(&owners, max));
        }

        #[test]
        fn strangers_change_nothing_for_proven_owners(owners in any_owners(), max in 0..9usize) {
            let proven: Vec<Named> = owners.iter().filter(|(proven, _)| *proven).cloned().collect();
            let alone = chosen(&proven, max);
            let all = chosen(&owners, max);
            prop_assert_eq!(&all[..alone.len()], &alone[..]);
        }

        #[test]
        fn order_of_owners_makes_no_difference(mut owners in any_owners(), max in 0..9usize) {
            let before = chosen(&owners, max);
            owners.reverse();
            prop_assert_eq!(chosen(&owners, max), before);
        }

        #[test]
        fn owners_with_relays_of_their_own_share_equally(
            sizes in prop::collection::vec(0..10usize, 1..8),
            proven: bool,
            max in 0..40usize,
        ) {
            let owners: Vec<Named> = sizes
                .iter()
                .enumerate()
                .map(|(key, size)| (proven, greedy(proven, key).1[..*size].to_vec()))
                .collect();
            let chosen = chosen(&owners, max);
            prop_assert_eq!(chosen.len(), max.min(sizes.iter().sum()));
            let held = |(_, relays): &Named| relays.iter().filter(|r| chosen.contains(r)).count();
            let most = owners.iter().map(held).max().unwrap_or(0);
            for owner in owners.iter().filter(|owner| held(owner) < owner.1.len()) {
                prop_assert!(held(owner) + 1 >= most, "an owner waits while another has more");
            }
        }
    }
}
