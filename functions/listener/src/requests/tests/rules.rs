//! Single rules, each against a simulated relay.

use std::time::Duration;

use nostr_push_core::Seconds;

use super::{
    relay::{Behavior, FromRelay, SimEvent},
    simulation::{SERVICE, START, World},
};
use crate::{
    counter::RelayReason,
    limits::Limits,
    req::Req,
    requests::{Access, CONTROL_ID, Command, Requests},
};

const ALICE: usize = 1;
const BOB: usize = 2;

/// A relay with the default limits, to which the listener is connected for the mentions of Alice.
fn connected() -> World {
    connected_with(Limits::default())
}

fn connected_with(limits: Limits) -> World {
    let mut world = World::new(limits, limits.page);
    world.subscribe(ALICE, 1, 0);
    world.subscribe(ALICE, 1059, 0);
    world.connect();
    world.deliver(1_000);
    assert!(world.is_caught_up());
    world
}

/// The REQs with this prefix that the relay has received on this connection.
fn requested(world: &World, prefix: &str) -> Vec<String> {
    let messages = world.relay.received.iter();
    messages
        .filter(|message| message[0] == "REQ")
        .map(|message| message[1].as_str().unwrap().to_owned())
        .filter(|id| id.starts_with(prefix))
        .collect()
}

#[test]
fn late_note_is_live_although_it_is_older_than_the_filter() {
    let mut world = connected();
    let late = world.publish(ALICE, 1, 400);
    let too_late = world.publish(ALICE, 1, 3_700);
    world.deliver(1_000);
    assert_eq!(world.received.get(&late), Some(&true));
    assert_eq!(world.received.get(&too_late), None, "it would not notify");
}

#[test]
fn backdated_wrap_is_live() {
    let mut world = connected();
    let wrap = world.publish(ALICE, 1059, Seconds::from_days(2).0);
    world.deliver(1_000);
    assert_eq!(world.received.get(&wrap), Some(&true));
}

#[test]
fn event_newer_than_its_req_is_live_before_eose() {
    let mut world = World::new(Limits::default(), 500);
    world.relay.behavior = Behavior::DelayEose;
    world.subscribe(ALICE, 1, 0);
    let stored = world.publish(ALICE, 1, 30);
    world.connect();
    world.tick(2);
    let new = world.publish(ALICE, 1, 0);
    world.deliver(1_000);
    assert_eq!(world.received.get(&stored), Some(&false));
    assert_eq!(world.received.get(&new), Some(&true));
}

#[test]
fn page_that_takes_long_is_neither_dropped_nor_counted_as_read() {
    let mut world = World::new(Limits::default(), 500);
    world.resume.cursor = Some(START);
    world.subscribe(ALICE, 1, 0);
    world.connect();
    // The REQs are live. The pages have neither events nor EOSE.
    world.relay.behavior = Behavior::Ignore;
    let missed = world.publish(ALICE, 1, 1_000);
    world
        .relay
        .outbox
        .retain(|message| !matches!(message, FromRelay::Event(..)));
    world.deliver(1_000);
    for _ in 0..100 {
        world.tick(4);
        world.deliver(1_000);
    }
    assert!(!world.is_caught_up());
    assert!(world.counted.contains(&RelayReason::NoEose));
    world.become_fair();
    assert!(world.received.contains_key(&missed));
}

#[test]
fn page_goes_on_from_the_last_event_that_came() {
    let mut world = connected();
    let ids: Vec<usize> = (0..30).map(|n| world.publish(ALICE, 1, n * 3)).collect();
    world.disconnect();
    world.connect();
    world.relay.behavior = Behavior::DelayEose;
    // The control page, the page for the notes, and twelve of its events.
    let is_note =
        |message: &FromRelay| matches!(message, FromRelay::Event(id, _) if id.starts_with("page"));
    while world
        .relay
        .outbox
        .iter()
        .filter(|message| is_note(message))
        .count()
        < 30
    {
        world.relay.send_delayed();
        world.deliver(1);
    }
    while !world.relay.outbox.front().is_some_and(is_note) {
        world.deliver(1);
    }
    world.deliver(12);
    world.relay.outbox.clear();
    for _ in 0..30 {
        world.tick(4);
    }
    world.become_fair();
    let pages = world
        .relay
        .received
        .iter()
        .filter(|message| message[0] == "REQ");
    let untils: Vec<_> = pages
        .filter_map(|message| message[2]["until"].as_u64())
        .collect();
    // Three of the twelve events are requested again.
    assert!(untils.contains(&(START.0 - 9 * 3)), "{untils:?}");
    assert!(ids.iter().all(|id| world.received.contains_key(id)));
}

#[test]
fn time_in_which_nothing_is_read_does_not_count() {
    let mut world = World::new(Limits::default(), 500);
    world.resume.cursor = Some(START);
    world.relay.behavior = Behavior::DelayEose;
    world.connect();
    // A queue fails for ten minutes, and the answers wait in the socket.
    world.now.unix += Seconds(600);
    world.tick(1);
    assert_eq!(world.counted, []);
    world.relay.behavior = Behavior::Serve;
    world.relay.send_delayed();
    world.deliver(1_000);
    assert!(world.is_caught_up());
}

#[test]
fn refused_req_that_the_plan_replaces_is_still_owed() {
    let mut world = connected();
    world.relay.behavior = Behavior::Refuse;
    world.relay.end_subscription(0);
    world.deliver(1_000);
    world.tick(4);
    let missed = world.publish(ALICE, 1, 0);
    for _ in 0..33 {
        world.tick(4);
        world.deliver(1_000);
    }
    // A kind that comes into use for the first time renews all REQs.
    world.subscribe(BOB, 7, 0);
    world.follow_plan();
    world.become_fair();
    assert!(world.received.contains_key(&missed));
}

#[test]
fn late_answer_to_an_earlier_req_is_ignored() {
    let mut world = connected();
    world.relay.end_subscription(0);
    world.deliver(1_000);
    world.relay.behavior = Behavior::Ignore;
    for _ in 0..5 {
        world.tick(4);
    }
    let content = requested(&world, "content");
    let [first, again] = content.as_slice() else {
        panic!("{content:?}")
    };
    assert_eq!(*again, format!("{first}.1"));
    world.relay.outbox.push_back(FromRelay::Eose(first.clone()));
    world.deliver(1_000);
    assert!(!world.is_caught_up());
}

#[test]
fn live_req_stays_open_until_its_replacement_is_live() {
    let mut world = connected();
    let before = requested(&world, "content");
    world.relay.behavior = Behavior::DelayEose;
    world.subscribe(BOB, 7, 0);
    world.follow_plan();
    world.deliver(1_000);
    assert!(world.relay.subscriptions.contains_key(&before[0]));
    let during = world.publish(ALICE, 1059, 100_000);
    world.relay.send_delayed();
    world.deliver(1_000);
    assert!(!world.relay.subscriptions.contains_key(&before[0]));
    assert_eq!(world.received.get(&during), Some(&true));
}

#[test]
fn control_event_signed_long_ago_and_missed_is_found_by_the_daily_sweep() {
    let mut world = connected();
    let day = Seconds::from_days(1);
    assert_eq!(world.resume.swept_at, START, "the first read covers a week");
    world.disconnect();
    let missed = world.publish(SERVICE, 3081, 2 * day.0);
    // The REQ for live events returns one stored event, the newest.
    world.publish(SERVICE, 3081, 0);
    world.tick(60);
    world.connect();
    world.deliver(1_000);
    world.tick(4);
    world.deliver(1_000);
    assert!(!world.received.contains_key(&missed));
    world.now.unix += day;
    world.tick(4);
    world.deliver(1_000);
    assert!(world.received.contains_key(&missed));
    // Without an interruption there is nothing to sweep.
    let pages = requested(&world, "page").len();
    for _ in 0..3 {
        world.now.unix += day;
        world.tick(4);
        world.deliver(1_000);
    }
    assert_eq!(requested(&world, "page").len(), pages);
}

#[test]
fn control_events_without_budget_are_requested_again_within_an_hour() {
    let mut world = connected();
    let sweeps = |world: &World| requested(world, "page").len();
    let before = sweeps(&world);
    let on_dropped_controls = |world: &mut World| {
        let requests = world.requests.as_mut();
        requests.expect("connected").on_dropped_controls();
    };
    on_dropped_controls(&mut world);
    world.tick(60);
    world.deliver(1_000);
    assert_eq!(sweeps(&world), before, "the first read was a moment ago");
    world.now.unix += Seconds::from_hours(1);
    world.tick(4);
    world.deliver(1_000);
    assert_eq!(sweeps(&world), before + 1);
    // A flood does not cause more of them.
    for _ in 0..50 {
        on_dropped_controls(&mut world);
        world.tick(60);
        world.deliver(1_000);
    }
    assert_eq!(sweeps(&world), before + 1);
    world.now.unix += Seconds::from_minutes(10);
    world.tick(4);
    world.deliver(1_000);
    assert_eq!(sweeps(&world), before + 2);
}

#[test]
fn pages_are_paced_and_never_given_up() {
    let limits = Limits {
        page: 1,
        ..Limits::default()
    };
    let mut world = World::new(limits, 1);
    world.resume.cursor = Some(START - Seconds(1));
    world.subscribe(ALICE, 1, 0);
    let ids: Vec<usize> = (0..1_200).map(|n| world.publish(ALICE, 1, n)).collect();
    world.connect();
    world.deliver(100_000);
    assert!(world.counted.contains(&RelayReason::TooManyPages));
    assert!(!world.is_caught_up());
    world.become_fair();
    assert!(ids.iter().all(|id| world.received.contains_key(id)));
}

#[test]
fn backdated_event_that_comes_last_does_not_end_a_page_early() {
    let mut world = connected();
    let ids: Vec<usize> = (0..30)
        .map(|n| world.publish(ALICE, 1059, 1_000 + n * 100))
        .collect();
    world.disconnect();
    world.relay.limits.page = 10;
    world.connect();
    // A wrap is published while a page is returned, before its EOSE.
    let is_eose_of_page =
        |message: &FromRelay| matches!(message, FromRelay::Eose(id) if id == "page-2");
    let at = loop {
        let mut outbox = world.relay.outbox.iter();
        match outbox.position(is_eose_of_page) {
            Some(at) => break at,
            None => world.deliver(1),
        }
    };
    let backdated = SimEvent {
        id: 1_000,
        created_at: START - Seconds(170_000),
        arrived_at: START,
        kind: 1059,
        key: ALICE,
    };
    let message = FromRelay::Event("page-2".to_owned(), backdated);
    world.relay.outbox.insert(at, message);
    world.become_fair();
    assert!(ids.iter().all(|id| world.received.contains_key(id)));
}

#[test]
fn relay_with_room_for_two_subscriptions_gets_control_events_only() {
    let limits = Limits {
        subscriptions: 2,
        ..Limits::default()
    };
    let mut world = World::new(limits, 500);
    let registration = world.publish(SERVICE, 3079, 600);
    world.subscribe(ALICE, 1, 0);
    world.connect();
    world.become_fair();
    assert!(world.received.contains_key(&registration));
    assert!(requested(&world, "content").is_empty());
}

#[test]
fn relay_whose_messages_are_too_short_for_any_req_gets_none() {
    let limits = Limits {
        message_bytes: 100,
        ..Limits::default()
    };
    let mut world = World::new(limits, 500);
    world.subscribe(ALICE, 1, 0);
    world.connect();
    world.tick(4);
    assert!(world.relay.received.is_empty());
    assert_eq!(
        world.counted,
        [RelayReason::ReqTooLarge, RelayReason::LimitsTooLow]
    );
}

#[test]
fn control_req_does_not_wait_for_content() {
    let mut world = connected();
    world.relay.behavior = Behavior::Refuse;
    for n in 3..200 {
        world.subscribe(n, 1, 0);
        world.follow_plan();
        world.deliver(1_000);
    }
    let control = world.relay.subscriptions.get(CONTROL_ID);
    assert!(control.is_some());
    let registration = world.publish(SERVICE, 3079, 0);
    world.deliver(1_000);
    assert_eq!(world.received.get(&registration), Some(&true));
}

#[test]
fn only_operators_relays_are_authenticated_to() {
    let now = connected().now;
    let challenge = |access| {
        let resume = connected().resume;
        let limits = Limits::default();
        let (mut requests, _) = Requests::new(&["service"], limits, access, resume, now);
        requests.on_auth("challenge")
    };
    assert_eq!(
        challenge(Access::Authenticated),
        [Command::Authenticate("challenge".to_owned())]
    );
    assert_eq!(
        challenge(Access::Anonymous),
        [Command::Count(RelayReason::AuthIgnored)]
    );
}

#[test]
fn owners_relay_that_requires_authentication_is_asked_for_public_kinds() {
    let mut world = World::new(Limits::default(), 500);
    world.access = Access::Anonymous;
    world.resume.cursor = Some(START);
    world.subscribe(ALICE, 1, 0);
    world.subscribe(ALICE, 1059, 0);
    world.connect();
    // The relay refuses the REQ, because of its private kinds.
    let content = requested(&world, "content");
    let requests = world.requests.as_mut().unwrap();
    let auth_required = RelayReason::ClosedAuthRequired;
    requests.on_closed(&content[0], auth_required, world.now);
    world.relay.subscriptions.remove(&content[0]);
    world.become_fair();
    let note = world.publish(ALICE, 1, 0);
    let wrap = world.publish(ALICE, 1059, 0);
    world.deliver(1_000);
    assert_eq!(world.received.get(&note), Some(&true));
    assert_eq!(world.received.get(&wrap), None);
    let filters = world.relay.subscriptions.values().flatten();
    let wraps = serde_json::json!([1059]);
    assert!(filters.clone().all(|filter| filter["kinds"] != wraps));
}

#[test]
fn connection_ends_if_too_many_stored_events_are_owed() {
    let mut world = connected();
    let requests = world.requests.as_mut().unwrap();
    let mut now = world.now;
    let mut ended = false;
    for n in 0..6_000_u32 {
        now.reading += Duration::from_millis(1);
        let mut owner = [0; 32];
        owner[..4].copy_from_slice(&n.to_be_bytes());
        let commands = requests.on_new_owners(&[owner], 1, now);
        ended |= commands.contains(&Command::Disconnect);
    }
    assert!(ended);
}

#[test]
fn mute_lists_are_reported_once_they_have_come() {
    let mut world = connected();
    let owners: Vec<[u8; 32]> = (0..600_u16)
        .map(|n| [u8::try_from(n % 251).unwrap(); 32])
        .collect();
    let requests = world.requests.as_mut().unwrap();
    let mut commands = requests.on_new_owners(&owners, 600, world.now);
    for page in 0.. {
        if commands.contains(&Command::RecordMuteLists(600)) {
            assert_eq!(page, Req::mute_lists(&owners, 131_072).filters.len());
            break;
        }
        let open = commands.iter().find_map(|command| match command {
            Command::Send(message) if message.contains("\"page-") => {
                let parsed: Vec<serde_json::Value> = serde_json::from_str(message).unwrap();
                (parsed[0] == "REQ").then(|| parsed[1].as_str().unwrap().to_owned())
            }
            _ => None,
        });
        commands = requests.on_eose(&open.unwrap(), world.now);
    }
}
