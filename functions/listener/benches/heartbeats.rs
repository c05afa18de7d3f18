//! Heartbeats that one core of the listener takes in, when clients publish each to many relays:
//! from the frame as it came to the body of the SQS message. Beside it the rate at which the same
//! core verifies signatures, its floor.

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use listener::{
    frame::{Frame, read},
    screen::{Screen, Verdict, parse},
};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{interest::Interest, message::encode};
use nostr_push_testkit::dialect_h_event;
use serde_json::json;

const HEARTBEATS: usize = 20_000;

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn per_second(n: usize, took: Duration) -> f64 {
    n as f64 / took.as_secs_f64()
}

fn main() {
    let service = Keys::generate();
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
    let floor = per_second(HEARTBEATS, started.elapsed());
    println!("signatures verified: {floor:.0}/s");

    for relays in [1, 8, 10] {
        let screen = Screen::new(
            service.public_key(),
            Arc::new(RwLock::new(Interest::default())),
            u32::MAX,
        );
        let (mut messages, mut bytes) = (0, 0);
        let started = Instant::now();
        for frame in &frames {
            for _ in 0..relays {
                let Frame::Event { event, .. } = read(frame) else {
                    panic!("not an event")
                };
                let Ok(parsed) = parse(event) else {
                    panic!("not an event")
                };
                if let Verdict::Control(message) = screen.judge(
                    "wss://relay.example",
                    event,
                    parsed,
                    false,
                    1_800_000_000_000,
                ) {
                    messages += 1;
                    bytes += encode(&message).unwrap_or_default().len();
                }
            }
        }
        let rate = per_second(HEARTBEATS, started.elapsed());
        assert_eq!(messages, HEARTBEATS, "each costs one message");
        println!(
            "{relays} copies each: {rate:.0} heartbeats/s, {:.0} frames/s, {:.2} of verifying; {} bytes a message",
            rate * f64::from(relays),
            rate / floor,
            bytes / messages
        );
    }
}
