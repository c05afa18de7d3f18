//! Dialect N: random histories of events in any order, with repeats and crashes.

use nostr_push_core::{
    MUTE_LIST_KIND,
    device::REMOVING_LEASE,
    filter::Filter,
    subscription::{MUTE_LIST_PREFIX, TRIGGER_PREFIX},
};
use proptest::{prelude::*, sample::subsequence};

use super::*;

/// The app of the histories. It has a fixed trigger.
const APP: &str = "triggered";

/// One control event of a history. Persons, tokens and filters are indices.
#[derive(Debug, Clone)]
enum Step {
    Register {
        person: usize,
        token: usize,
        days: u64,
    },
    Remove {
        person: usize,
        token: usize,
    },
    RemoveAll {
        person: usize,
    },
    Upsert {
        person: usize,
        filter: usize,
        days: u64,
    },
    Delete {
        person: usize,
        filter: usize,
    },
}

fn filters() -> [Value; 3] {
    [
        json!({"kinds": [1, 7], "#t": ["a", "b"]}),
        json!({"#t": ["b"]}),
        json!({"kinds": [4]}),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let (person, item, days) = (0..2usize, 0..3usize, 1..40u64);
    let register = (person.clone(), item.clone(), days.clone());
    let upsert = register.clone();
    let remove = (person.clone(), item);
    let delete = remove.clone();
    prop_oneof![
        3 => register.prop_map(|(person, token, days)| Step::Register { person, token, days }),
        2 => remove.prop_map(|(person, token)| Step::Remove { person, token }),
        1 => person.prop_map(|person| Step::RemoveAll { person }),
        2 => upsert.prop_map(|(person, filter, days)| Step::Upsert { person, filter, days }),
        2 => delete.prop_map(|(person, filter)| Step::Delete { person, filter }),
    ]
}

impl Step {
    fn event(&self, f: &Fixture, people: &[Keys; 2], at: u64) -> Event {
        let (person, kind, days, payload) = match self {
            Self::Register {
                person,
                token,
                days,
            } => (person, 3079, *days, json!({"token": TOKENS[*token]})),
            Self::Remove { person, token } => (person, 3080, 1, json!({"token": TOKENS[*token]})),
            Self::RemoveAll { person } => (person, 3080, 1, json!({})),
            Self::Upsert {
                person,
                filter,
                days,
            } => (person, 3081, *days, json!({"filter": filters()[*filter]})),
            Self::Delete { person, filter } => {
                (person, 3082, 1, json!({"filter": filters()[*filter]}))
            }
        };
        let expiration = (NOW + days * DAY).to_string();
        let tags: [&[&str]; 2] = [&["app", APP], &["expiration", &expiration]];
        f.event(&people[*person], kind, at, &tags, &payload)
    }
}

/// A random history of two people. Its few different times make many events tie.
struct History {
    people: [Keys; 2],
    events: Vec<(Step, Event)>,
}

impl History {
    fn new(f: &Fixture, steps: &[(Step, u64)]) -> Self {
        let people = [Keys::generate(), Keys::generate()];
        let event = |(step, at): &(Step, u64)| (step.clone(), step.event(f, &people, NOW + at));
        Self {
            events: steps.iter().map(event).collect(),
            people,
        }
    }

    fn owner(&self, person: usize) -> Owner {
        Owner {
            app: APP.to_owned(),
            pubkey: self.people[person].public_key(),
        }
    }

    /// The event that wins among those whose step matches.
    fn latest(&self, matches: impl Fn(&Step) -> bool) -> Option<(&Step, &Event)> {
        let matching = self.events.iter().filter(|(step, _)| matches(step));
        let event = latest(matching.map(|(_, event)| event))?;
        let (step, event) = self.events.iter().find(|(_, e)| e.id == event.id)?;
        Some((step, event))
    }

    /// The owner and end of a token, if it must be in force in the end.
    fn expected_device(&self, n: usize) -> Option<(String, u64)> {
        let by_any = |step: &Step| matches!(step, Step::Register { token, .. } if *token == n);
        let (Step::Register { person, days, .. }, event) = self.latest(by_any)? else {
            return None;
        };
        let removal = self.latest(|step| match step {
            Step::Remove { person: by, token } => by == person && *token == n,
            Step::RemoveAll { person: by } => by == person,
            _ => false,
        });
        if removal.is_some_and(|(_, removal)| Order::of(removal).supersedes(&Order::of(event))) {
            return None;
        }
        Some((self.people[*person].public_key().to_hex(), NOW + days * DAY))
    }

    /// The identity and end of a person's filter, if it must be in force in the end.
    fn expected_filter(&self, person: usize, n: usize) -> Option<(String, u64)> {
        let (step, _) = self.latest(|step| match step {
            Step::Upsert {
                person: by, filter, ..
            }
            | Step::Delete { person: by, filter } => *by == person && *filter == n,
            _ => false,
        })?;
        let Step::Upsert { days, .. } = step else {
            return None;
        };
        let filter = Filter::from_json(&filters()[n]).unwrap();
        let addressed = filter.addressed(self.people[person].public_key());
        Some((addressed.identity(), NOW + days * DAY))
    }

    /// The identities of the subscriptions of every owner with a device.
    fn derived(&self, f: &Fixture, person: usize) -> Vec<String> {
        let pubkey = self.people[person].public_key();
        let mute_list = json!({"kinds": [MUTE_LIST_KIND], "authors": [pubkey.to_hex()]});
        let mute_list = Filter::from_json(&mute_list).unwrap();
        let app = f.stage.store.state().apps[APP].clone();
        let triggers = app.triggers_for(pubkey).unwrap().into_iter();
        triggers
            .map(|filter| format!("{TRIGGER_PREFIX}{}", filter.identity()))
            .chain([format!("{MUTE_LIST_PREFIX}{}", mute_list.identity())])
            .collect()
    }

    /// The state that must be reached in the end, computed from the history alone.
    fn expected(&self, f: &Fixture) -> Reached {
        let mut devices = BTreeMap::new();
        for (n, token) in TOKENS.iter().enumerate() {
            if let Some(device) = self.expected_device(n) {
                devices.insert((*token).to_owned(), device);
            }
        }
        let mut subscriptions = BTreeSet::new();
        for person in 0..self.people.len() {
            let owner = self.owner(person);
            let pubkey = owner.pubkey.to_hex();
            let own = || devices.values().filter(|(owner, _)| *owner == pubkey);
            // Without a device, all filters are dormant.
            let in_force = if own().next().is_some() {
                filters().len()
            } else {
                0
            };
            for n in 0..in_force {
                let filter = self.expected_filter(person, n);
                subscriptions.extend(filter.map(|(id, end)| (owner.clone(), id, end)));
            }
            if let Some(end) = own().map(|(_, end)| *end).max() {
                let derived = self.derived(f, person).into_iter();
                subscriptions.extend(derived.map(|id| (owner.clone(), id, end)));
            }
        }
        (devices, subscriptions)
    }
}

/// The tokens in force with owner and end, and the subscriptions in force with owner, identity and
/// end.
type Reached = (
    BTreeMap<String, (String, u64)>,
    BTreeSet<(Owner, String, u64)>,
);

fn devices(f: &Fixture) -> BTreeMap<String, (String, u64)> {
    let device = |token: &&str| {
        let registration = f.active_registration(APP, token)?;
        let owner = registration.owner.pubkey.to_hex();
        Some(((*token).to_owned(), (owner, registration.valid_until.0)))
    };
    TOKENS.iter().filter_map(device).collect()
}

/// The endpoints of the registrations in force.
fn registered_endpoints(f: &Fixture) -> BTreeSet<String> {
    let active = TOKENS
        .iter()
        .filter_map(|token| f.active_registration(APP, token));
    active.filter_map(|r| r.endpoint_arn).collect()
}

fn endpoints(f: &Fixture) -> BTreeSet<String> {
    f.stage.sns.state().endpoints.keys().cloned().collect()
}

/// The positions of a history's events, each at least once, in any order.
fn positions(len: usize, repeats: Vec<usize>, shuffled: &[usize]) -> Vec<usize> {
    let repeats = repeats.into_iter().filter(|n| *n < len);
    let mut positions: Vec<usize> = (0..len).chain(repeats).collect();
    positions.sort_by_key(|n| shuffled[*n % shuffled.len()]);
    let middle = shuffled[0] % positions.len();
    positions.rotate_left(middle);
    positions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_order_with_repeats_reaches_the_same_state(
        steps in prop::collection::vec((step(), 0..6u64), 1..12),
        shuffled in Just((0..24usize).collect::<Vec<_>>()).prop_shuffle(),
        repeats in subsequence((0..12usize).collect::<Vec<_>>(), 0..12),
    ) {
        let f = fixture();
        let history = History::new(&f, &steps);
        runtime().block_on(async {
            for n in positions(history.events.len(), repeats, &shuffled) {
                f.accept(&history.events[n].1).await;
            }
        });
        let (expected_devices, expected_subscriptions) = history.expected(&f);
        prop_assert_eq!(devices(&f), expected_devices);
        prop_assert_eq!(f.justified_subscriptions(), expected_subscriptions);
        prop_assert_eq!(f.index(), f.expected_index());
        prop_assert_eq!(endpoints(&f), registered_endpoints(&f));
    }

    #[test]
    fn a_retry_repairs_a_crash_at_any_call(
        steps in prop::collection::vec((step(), 0..3u64), 1..6),
        crash in 0..40usize,
        after_effect: bool,
        in_sns: bool,
    ) {
        let f = fixture();
        let history = History::new(&f, &steps);
        {
            let crashing = if in_sns { &f.stage.sns } else { &f.stage.store };
            let mut state = crashing.state();
            state.fail_in = Some(crash);
            state.fail_after_effect = after_effect;
        }
        runtime().block_on(async {
            for (_, event) in &history.events {
                // Each retry comes after the lease of a removal.
                let mut tries = 0;
                let retry_at = |tries| NOW + 10 + tries * (REMOVING_LEASE.0 + 1);
                while f.handle_nth(event, retry_at(tries), tries).await.is_err() {
                    tries += 1;
                    assert!(tries < 5, "the event fails at every attempt");
                }
            }
        });
        let (expected_devices, expected_subscriptions) = history.expected(&f);
        prop_assert_eq!(devices(&f), expected_devices);
        prop_assert_eq!(f.justified_subscriptions(), expected_subscriptions);
        prop_assert_eq!(f.index(), f.expected_index());
    }
}
