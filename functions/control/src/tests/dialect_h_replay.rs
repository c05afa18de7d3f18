//! Dialect H: random histories of settings in any order, with repeats and crashes.

use std::collections::VecDeque;

use nostr_push_core::device::REMOVING_LEASE;
use proptest::prelude::*;

use super::*;

/// Payloads that replace each other.
fn payloads() -> [Value; 6] {
    [
        json!({"deviceId": TOKENS[0], "kinds": [1], "#e": ["a"]}),
        json!({"deviceId": TOKENS[1], "kinds": [1, 7], "#e": ["b"], "online": 1}),
        json!({"deviceId": TOKENS[0], "kinds": [], "online": 0}),
        json!({"deviceId": "", "kinds": [6]}),
        json!({"deviceId": TOKENS[2], "kinds": [1], "#e": ["a", "b"]}),
        json!({"online": 0, "deviceId": ""}),
    ]
}

/// The events of a history: indices of payloads, and times after `NOW`.
fn history(f: &Fixture, keys: &Keys, steps: &[(usize, u64)]) -> Vec<Event> {
    let event = |(n, at): &(usize, u64)| f.settings(keys, NOW + at, &payloads()[*n]);
    steps.iter().map(event).collect()
}

/// The tokens and the filters in force.
type Reached = (BTreeSet<String>, BTreeSet<String>);

fn reached(f: &Fixture) -> Reached {
    let active = f.active(&TOKENS).into_keys();
    (active.map(|(_, token)| token).collect(), f.filters())
}

/// The state that the latest event alone reaches.
async fn expected(f: &Fixture, history: &[Event]) -> Reached {
    let fresh = Fixture::new(f.service.clone(), [app("demo", &BOTH_PLATFORMS)]);
    fresh.accept(latest(history).unwrap()).await;
    reached(&fresh)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_latest_settings_win_in_any_order_with_repeats(
        steps in prop::collection::vec((0..6usize, 0..4u64), 1..8),
        order in prop::collection::vec(0..8usize, 0..8),
    ) {
        let f = fixture();
        let keys = Keys::generate();
        let history = history(&f, &keys, &steps);
        runtime().block_on(async {
            // First some events in any order, and then all.
            let some = order.iter().filter_map(|n| history.get(*n));
            let mut before: Option<Order> = None;
            for event in some.chain(history.iter().rev()) {
                f.accept(event).await;
                let after = f.presence("demo", &keys).map(|presence| presence.order);
                assert!(before.is_none_or(|before| {
                    after == Some(before) || after.is_some_and(|after| after.supersedes(&before))
                }));
                before = after;
            }
            assert_eq!(reached(&f), expected(&f, &history).await);
        });
        prop_assert_eq!(f.index(), f.expected_index());
        prop_assert_eq!(f.endpoints().len(), reached(&f).0.len());
    }

    #[test]
    fn a_retry_repairs_a_crash_among_settings(
        steps in prop::collection::vec((0..6usize, 0..4u64), 1..5),
        crash in 0..60usize,
        after_effect: bool,
        in_sns: bool,
    ) {
        let f = fixture();
        let history = history(&f, &Keys::generate(), &steps);
        {
            let crashing = if in_sns { &f.stage.sns } else { &f.stage.store };
            let mut state = crashing.state();
            state.fail_in = Some(if in_sns { crash % 4 } else { crash });
            state.fail_after_effect = after_effect;
        }
        runtime().block_on(async {
            // An event that fails is retried after the others, and after the lease of a removal.
            let first_attempts = history.iter().map(|event| (event, 0));
            let mut queue: VecDeque<(&Event, u64)> = first_attempts.collect();
            while let Some((event, tries)) = queue.pop_front() {
                assert!(tries < 5, "the event fails at every attempt");
                let now = NOW + 10 + tries * (REMOVING_LEASE.0 + 1);
                if f.handle_nth(event, now, tries).await.is_err() {
                    queue.push_back((event, tries + 1));
                }
            }
            assert_eq!(reached(&f), expected(&f, &history).await);
        });
        prop_assert_eq!(f.index(), f.expected_index());
        // After a crash, SNS may have an endpoint that no row names. Nothing is published to it.
        prop_assert!(f.endpoints().len() >= reached(&f).0.len());
    }
}
