//! The heartbeats per second that one core of the listener processes, from the relay's frame to the
//! body of the SQS message, if clients publish each heartbeat to several relays. For comparison:
//! the signatures per second that the same core verifies.

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use listener::{
    budget::Budgets,
    gate::{Gate, IncomingEvent, Verdict, parse_event},
    relay_message::RelayMessage,
    watched_relay::{RelaySource, WatchedRelay},
};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{Millis, Seconds, interest::Interest, message::encode, ports::RelayCursor};
use nostr_push_testkit::dialect_h_event;
use serde_json::json;

const HEARTBEATS: usize = 20_000;

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn per_second(n: usize, elapsed: Duration) -> f64 {
    n as f64 / elapsed.as_secs_f64()
}

fn main() {
    let service = Keys::generate();
    let relay = WatchedRelay::new(
        "wss://relay.example".to_owned(),
        RelaySource::Operator,
        RelayCursor::default(),
        Seconds(0),
    );
    let events: Vec<Event> = (0..HEARTBEATS as u64)
        .map(|n| {
            dialect_h_event(
                &Keys::generate(),
                service.public_key(),
                1_800_000_000 + n,
                &[],
                r#"{"online":1}"#,
            )
        })
        .collect();
    let frames: Vec<String> = events
        .iter()
        .map(|event| json!(["EVENT", "control", event]).to_string())
        .collect();

    let started = Instant::now();
    assert!(events.iter().all(|event| event.verify().is_ok()));
    let signatures = per_second(HEARTBEATS, started.elapsed());
    println!("signatures verified: {signatures:.0}/s");

    for relays in [1, 8, 10] {
        let gate = Gate::new(
            service.public_key(),
            Arc::new(RwLock::new(Interest::default())),
            &Budgets::unlimited(),
        );
        let started = Instant::now();
        let copies = frames
            .iter()
            .flat_map(|frame| (0..relays).map(move |_| frame));
        let bodies: Vec<usize> = copies
            .filter_map(|frame| body_length(&gate, &relay, frame))
            .collect();
        let rate = per_second(HEARTBEATS, started.elapsed());
        assert_eq!(
            bodies.len(),
            HEARTBEATS,
            "each heartbeat becomes one message"
        );
        println!(
            "{relays} copies each: {rate:.0} heartbeats/s, {:.0} frames/s, \
             {:.2} of verifying signatures; {} bytes per message",
            rate * f64::from(relays),
            rate / signatures,
            bodies.iter().sum::<usize>() / bodies.len()
        );
    }
}

/// The length of the message's body, if the frame's event is forwarded.
fn body_length(gate: &Gate, relay: &WatchedRelay, frame: &str) -> Option<usize> {
    let RelayMessage::Event { event: json, .. } = RelayMessage::parse(frame) else {
        panic!("not an event")
    };
    let Ok(event) = parse_event(json) else {
        panic!("not an event")
    };
    let verdict = gate.classify(IncomingEvent {
        relay,
        json,
        event,
        backfill: false,
        received_at: Millis(1_800_000_000_000),
    });
    match verdict {
        Verdict::Control(message) => Some(encode(&message).unwrap_or_default().len()),
        _ => None,
    }
}
