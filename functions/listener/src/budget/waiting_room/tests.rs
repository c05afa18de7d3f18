use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NOW: Millis = Millis(1_000_000);

fn relay(n: usize) -> Arc<str> {
    format!("wss://r{n}").into()
}

fn key(n: usize) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key
}

/// An event of this pubkey and class through relay 0. It is named by its number.
fn arrival(
    number: usize,
    pubkey: usize,
    class: OwnerClass,
    bytes: u64,
    now: Millis,
) -> Arrival<usize> {
    Arrival {
        event: number,
        pubkey: key(pubkey),
        class,
        relay: relay(0),
        bytes,
        received_at: now,
    }
}

fn room() -> WaitingRoom<usize> {
    WaitingRoom::new(ControlRates::default())
}

fn is_forwarded(offer: &Offer<usize>) -> bool {
    matches!(offer, Offer::Forward(_))
}

/// Strangers who use up their budgets through several relays, and fill the room.
fn exhaust_strangers(room: &mut WaitingRoom<usize>, now: Millis) {
    for n in 0..1_000 {
        let event = Arrival {
            relay: relay(n % 4),
            ..arrival(1_000 + n, 10_000 + n, OwnerClass::Stranger, 60_000, now)
        };
        room.offer(event, now);
    }
    assert!(room.is_scarce(now));
}

#[test]
fn default_rates_are_those_of_the_documentation() {
    let rates = ControlRates::default();
    let kib = 1_024;
    assert_eq!(rates.proven, Rate::per_second(4_096 * kib, 8 * kib));
    assert_eq!(rates.known, Rate::per_second(1_024 * kib, 2 * kib));
    assert_eq!(rates.stranger, Rate::per_second(256 * kib, 256));
    assert_eq!(rates.all_strangers, Rate::per_second(16_384 * kib, kib));
    assert_eq!(rates.all_known, Rate::per_second(16_384 * kib, 2 * kib));
    assert_eq!(
        rates.strangers_of_relay,
        Rate::per_second(8_192 * kib, kib / 2)
    );
}

/// Ten times what real clients send.
#[test]
fn real_clients_never_wait() {
    let mut room = room();
    for (pubkey, class, bytes, count) in [
        // A thousand contacts in one filter, at a first start.
        (1, OwnerClass::Stranger, 90_000, 2),
        // Five devices registered in a row, and their filters.
        (2, OwnerClass::Known, 2_000, 100),
        // Settings at every start.
        (3, OwnerClass::Known, 90_000, 10),
        (4, OwnerClass::Proven, 90_000, 40),
    ] {
        for n in 0..count {
            let offer = room.offer(arrival(n, pubkey, class, bytes, NOW), NOW);
            assert!(is_forwarded(&offer), "{pubkey}");
        }
    }
    // Heartbeats every six seconds, for a day.
    for n in 0..14_400 {
        let now = NOW + Millis(n * 6_000);
        let offer = room.offer(arrival(0, 5, OwnerClass::Known, 700, now), now);
        assert!(is_forwarded(&offer));
    }
    // The users of an app renew on the same day.
    for n in 0..20_000 {
        let now = NOW + Millis(86_400_000 + n as u64 * 4_000);
        let offer = room.offer(arrival(n, 100 + n, OwnerClass::Known, 2_000, now), now);
        assert!(is_forwarded(&offer));
    }
}

#[test]
fn newcomer_goes_before_a_hundred_who_have_used_up_their_budgets() {
    let mut room = room();
    for round in 0..100 {
        for n in 0..100 {
            room.offer(arrival(round, n, OwnerClass::Stranger, 3_000, NOW), NOW);
        }
    }
    let now = NOW + Millis(1_000);
    room.offer(arrival(777, 999, OwnerClass::Stranger, 2_500, now), now);
    let now = now + Millis(8_000);
    assert_eq!(room.release(now), Some(777));
}

#[test]
fn strangers_of_one_relay_leave_half_of_the_budget_to_others() {
    let mut room = room();
    for n in 0..300 {
        room.offer(arrival(n, n, OwnerClass::Stranger, 60_000, NOW), NOW);
    }
    let elsewhere = Arrival {
        relay: relay(1),
        ..arrival(7, 999, OwnerClass::Stranger, 60_000, NOW)
    };
    assert!(is_forwarded(&room.offer(elsewhere, NOW)));
}

#[test]
fn full_room_drops_the_last_event_of_the_pubkey_with_the_most() {
    let mut room = room();
    for n in 0..8 {
        room.offer(arrival(n, 1, OwnerClass::Stranger, 60_000, NOW), NOW);
    }
    exhaust_strangers(&mut room, NOW);
    let one_event = 60_000 + OVERHEAD_BYTES;
    let waiting = room.backlogs[&key(1)].bytes;
    assert_eq!(
        waiting, one_event,
        "others have displaced three of its four events"
    );
    let newcomer = arrival(9_000, 2, OwnerClass::Stranger, 40_000, NOW);
    let offer = room.offer(newcomer, NOW);
    assert!(matches!(offer, Offer::Waits { dropped } if dropped.len() == 1));
    let large = arrival(9_001, 3, OwnerClass::Stranger, 60_000, NOW);
    let offer = room.offer(large, NOW);
    assert!(matches!(offer, Offer::Dropped { dropped } if dropped == [9_001]));
}

#[test]
fn backlog_of_one_pubkey_is_bounded() {
    let mut room = room();
    let mut offers =
        (0..40).map(|n| room.offer(arrival(n, 1, OwnerClass::Stranger, 60_000, NOW), NOW));
    assert!(offers.by_ref().take(4).all(|offer| is_forwarded(&offer)));
    let waits = |offer: Offer<usize>| matches!(offer, Offer::Waits { .. });
    assert!(offers.by_ref().take(8).all(waits));
    assert!(offers.all(|offer| matches!(offer, Offer::Dropped { dropped } if dropped.len() == 1)));
}

#[test]
fn stranger_who_becomes_known_no_longer_waits_with_strangers() {
    let mut room = room();
    exhaust_strangers(&mut room, NOW);
    for n in 0..2 {
        let offer = room.offer(arrival(n, 1, OwnerClass::Stranger, 2_000, NOW), NOW);
        assert!(!is_forwarded(&offer));
    }
    assert!(room.waiting_strangers().contains(&key(1)));
    room.change_class(&key(1), OwnerClass::Known, NOW);
    assert_eq!([room.release(NOW), room.release(NOW)], [Some(0), Some(1)]);
}

#[test]
fn event_counts_as_waiting_until_it_is_in_the_buffer() {
    let mut room = room();
    exhaust_strangers(&mut room, NOW);
    let elsewhere = Arrival {
        relay: relay(9),
        ..arrival(7, 999, OwnerClass::Stranger, 2_000, NOW + Millis(5))
    };
    room.offer(elsewhere, NOW + Millis(5));
    let waiting_since = |room: &WaitingRoom<usize>, n| room.waiting_since().get(&relay(n)).copied();
    assert_eq!(waiting_since(&room, 0), Some(NOW));
    assert_eq!(waiting_since(&room, 9), Some(NOW + Millis(5)));
    let mut now = NOW;
    while room.release(now) != Some(7) {
        now += Millis(1_000);
    }
    assert_eq!(waiting_since(&room, 9), Some(NOW + Millis(5)));
    room.has_left();
    assert_eq!(waiting_since(&room, 9), None);
}

#[test]
fn copy_through_another_relay_moves_an_event_to_its_line() {
    let mut room = room();
    for n in 0..300 {
        room.offer(arrival(n, 100 + n, OwnerClass::Stranger, 60_000, NOW), NOW);
    }
    assert!(room.is_scarce(NOW), "of one relay as well");
    let newcomer = arrival(777, 1, OwnerClass::Stranger, 2_000, NOW);
    assert!(!is_forwarded(&room.offer(newcomer, NOW)));
    assert_eq!(room.release(NOW), None);
    room.offer_copy(&key(1), |event| *event == 777, &relay(1), NOW);
    assert_eq!(room.release(NOW), Some(777));
    assert!(room.backlogs.values().all(|backlog| backlog.bytes > 0));
}

#[test]
fn scarcity_ends_when_half_of_the_budget_is_back() {
    let mut room = room();
    assert!(!room.is_scarce(NOW));
    exhaust_strangers(&mut room, NOW);
    // Everything that waits is paid first.
    let mut now = NOW;
    while !room.is_empty() {
        now += Millis(60_000);
        while room.release(now).is_some() {}
        assert!(room.is_scarce(now));
    }
    let half = Millis(8 * 1024 * 1024 * 1_000 / 1_024);
    assert!(room.is_scarce(now + half - Millis(1_200_000)));
    assert!(!room.is_scarce(now + half + Millis(1_200_000)));
}

#[test]
fn without_a_budget_strangers_are_dropped_and_others_are_not() {
    let mut room = WaitingRoom::new(ControlRates::new(0, 4_096));
    let stranger = room.offer(arrival(1, 1, OwnerClass::Stranger, 500, NOW), NOW);
    assert!(matches!(stranger, Offer::Dropped { .. }));
    let known = room.offer(arrival(2, 2, OwnerClass::Known, 500, NOW), NOW);
    assert!(is_forwarded(&known));
}

#[test]
fn small_budgets_are_not_rounded_down_to_nothing() {
    let mut room = WaitingRoom::new(ControlRates::new(1, 1));
    for (n, class) in [(1, OwnerClass::Stranger), (2, OwnerClass::Known)] {
        let offer = room.offer(arrival(n, n, class, 500, NOW), NOW);
        assert!(is_forwarded(&offer), "{class:?}");
    }
}

/// What happens, one after another: an event comes, or time passes and events are released.
#[derive(Debug, Clone)]
enum Step {
    Arrive {
        pubkey: usize,
        class: OwnerClass,
        relay: usize,
        bytes: u64,
    },
    Pass {
        millis: u64,
        releases: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop::sample::select(vec![
        OwnerClass::Stranger,
        OwnerClass::Stranger,
        OwnerClass::Known,
        OwnerClass::Proven,
    ]);
    let bytes = prop_oneof![400..3_000u64, 200_000..262_144u64];
    let arrive = (0..12usize, class, 0..3usize, bytes).prop_map(|(pubkey, class, relay, bytes)| {
        Step::Arrive {
            pubkey,
            class,
            relay,
            bytes,
        }
    });
    let pass =
        (0..200_000u64, 0..5usize).prop_map(|(millis, releases)| Step::Pass { millis, releases });
    prop::collection::vec(prop_oneof![4 => arrive, 1 => pass], 0..300)
}

/// Every pubkey that waits has one place, and the pools have the bytes of their backlogs.
fn check(room: &WaitingRoom<usize>) -> Result<(), TestCaseError> {
    let placed: Vec<[u8; 32]> = room
        .turns
        .values()
        .flat_map(|turns| turns.iter().map(|(_, pubkey)| *pubkey))
        .chain(room.resting.iter().map(|(_, pubkey)| *pubkey))
        .collect();
    prop_assert_eq!(placed.len(), room.backlogs.len());
    let placed: BTreeSet<[u8; 32]> = placed.into_iter().collect();
    prop_assert!(room.backlogs.keys().all(|pubkey| placed.contains(pubkey)));
    for (pool, max) in [(0, MAX_STRANGERS_BYTES), (1, MAX_KNOWN_BYTES)] {
        let backlogs = room.backlogs.values();
        let backlogs = backlogs.filter(|backlog| pool_of(backlog.class).0 == pool);
        let bytes: u64 = backlogs.clone().map(|backlog| backlog.bytes).sum();
        prop_assert_eq!(room.pools[pool].bytes, bytes);
        prop_assert_eq!(room.pools[pool].largest.len(), backlogs.count());
        prop_assert!(bytes <= max + MAX_PUBKEY_BYTES * 12);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_event_is_forwarded_in_order_or_dropped(steps in steps()) {
        let mut room = WaitingRoom::new(ControlRates::new(512, 1_024));
        let (mut now, mut number) = (NOW, 0);
        let mut authors = HashMap::new();
        let (mut forwarded, mut dropped) = (Vec::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Arrive { pubkey, class, relay: n, bytes } => {
                    authors.insert(number, pubkey);
                    let event = Arrival {
                        relay: relay(n),
                        ..arrival(number, pubkey, class, bytes, now)
                    };
                    match room.offer(event, now) {
                        Offer::Forward(event) => forwarded.push(event),
                        Offer::Waits { dropped: others } => dropped.extend(others),
                        Offer::Dropped { dropped: others } => {
                            prop_assert_eq!(others.last(), Some(&number));
                            dropped.extend(others);
                        }
                    }
                    number += 1;
                }
                Step::Pass { millis, releases } => {
                    now += Millis(millis);
                    forwarded.extend((0..releases).map_while(|_| room.release(now)));
                }
            }
            check(&room)?;
        }
        // In the end everything that waits is forwarded.
        for _ in 0..20_000 {
            now += Millis(60_000);
            while let Some(event) = room.release(now) {
                forwarded.push(event);
            }
        }
        prop_assert!(room.is_empty() && room.turns.is_empty() && room.resting.is_empty());
        let distinct: BTreeSet<usize> = forwarded.iter().copied().collect();
        prop_assert_eq!(distinct.len(), forwarded.len());
        prop_assert!(distinct.is_disjoint(&dropped));
        prop_assert_eq!(distinct.len() + dropped.len(), number);
        let mut last: HashMap<usize, usize> = HashMap::new();
        for event in forwarded {
            let before = last.insert(authors[&event], event);
            prop_assert!(before.is_none_or(|before| before < event));
        }
    }

    #[test]
    fn known_owners_never_wait_for_strangers(
        strangers in prop::collection::vec((0..5_000usize, 400..262_144u64), 0..500),
        bytes in prop::collection::vec(400..20_000u64, 1..20),
    ) {
        let mut room = room();
        for (n, bytes) in strangers {
            room.offer(arrival(n, 100 + n, OwnerClass::Stranger, bytes, NOW), NOW);
        }
        for (n, bytes) in bytes.into_iter().enumerate() {
            for (pubkey, class) in [(1, OwnerClass::Known), (2, OwnerClass::Proven)] {
                let offer = room.offer(arrival(n, pubkey, class, bytes, NOW), NOW);
                prop_assert!(is_forwarded(&offer));
            }
        }
    }

    #[test]
    fn newcomer_waits_at_most_one_turn_of_each_other_pubkey(
        others in prop::collection::vec((0..40usize, 400..60_000u64), 0..400),
        pause in 0..100_000u64,
        bytes in 400..3_000u64,
    ) {
        let mut room = WaitingRoom::new(ControlRates::new(512, 1_024));
        for (n, bytes) in others {
            room.offer(arrival(1, 100 + n, OwnerClass::Stranger, bytes, NOW), NOW);
        }
        let mut now = NOW + Millis(pause);
        let mut turns = BTreeSet::new();
        let newcomer = arrival(2, 1, OwnerClass::Stranger, bytes, now);
        let mut is_out = is_forwarded(&room.offer(newcomer, now));
        // More events of others come after it.
        for n in 0..40 {
            room.offer(arrival(1, 100 + n, OwnerClass::Stranger, 5_000, now), now);
        }
        while !is_out {
            now += Millis(1_000);
            let next = room
                .next_line(now)
                .and_then(|line| room.first_turn(&line))
                .map(|(_, pubkey)| pubkey);
            if let Some(event) = room.release(now) {
                prop_assert!(turns.insert(next), "a second turn before the newcomer's");
                is_out = event == 2;
            }
        }
    }

    #[test]
    fn strangers_get_at_most_their_burst_and_refill(
        arrivals in prop::collection::vec((0..200usize, 400..60_000u64, 0..5_000u64), 0..400),
    ) {
        let rates = ControlRates::new(64, 1_024);
        let mut room = WaitingRoom::new(rates);
        let (mut now, mut bytes_of, mut granted) = (NOW, Vec::new(), 0);
        for (number, (pubkey, bytes, pause)) in arrivals.into_iter().enumerate() {
            bytes_of.push(bytes.min(rates.stranger.burst));
            let event = arrival(number, pubkey, OwnerClass::Stranger, bytes, now);
            if is_forwarded(&room.offer(event, now)) {
                granted += bytes_of[number];
            }
            now += Millis(pause);
            while let Some(event) = room.release(now) {
                granted += bytes_of[event];
            }
            let refill = 32 * (now - NOW).0 / 1_000;
            prop_assert!(granted <= rates.strangers_of_relay.burst + refill);
        }
    }
}
