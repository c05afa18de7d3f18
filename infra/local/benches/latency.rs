//! The time from the relay's OK to the acceptance by SNS on the local stack: p50 and p99, in total
//! and per stage. ministack polls its queues, so the times on AWS differ.
//!
//! `cargo bench -p nostr-push-local --bench latency`

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_cloudwatchlogs::primitives::{DateTime, DateTimeFormat};
use futures_util::{SinkExt, StreamExt};
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::{Millis, Seconds, app::App};
use nostr_push_local::{
    demo::publish,
    stack::{Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::{control_event, event};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// The number of notes.
const NOTES: usize = 600;

/// The time between two notes. The stack can take many more.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long the bench waits for pushes.
const PUSH_TIMEOUT: Duration = Duration::from_secs(120);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` does not run the bench: it takes five minutes.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let tools = Tools::install().await?;
    let data = tempfile::tempdir()?;
    let app = App {
        max_pushes: Some(100_000),
        ..App::named("demo")
    };
    let options = Options::anywhere(data.path(), vec![app]);
    let stack = Stack::start(&tools, options).await?;
    let measured = measure(&stack).await;
    stack.stop().await;
    measured
}

async fn measure(stack: &Stack) -> Result<()> {
    let relay = &stack.relays[0];
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let recipient = alice.public_key().to_hex();
    let note = |created_at: Seconds, content: &str| {
        event(&bob, 1, created_at.0, &[&["p", &recipient]], content)
    };
    subscribe(stack, &alice).await?;
    // Once this note is pushed, the registration is applied and all functions are warm.
    let in_a_second = clients::now().to_seconds() + Seconds(1);
    publish(relay, &note(in_a_second, "the first")).await?;
    wait_for_pushes(stack, 1).await?;

    let (mut socket, _) = connect_async(relay).await?;
    let mut accepted = HashMap::new();
    for n in 0..NOTES {
        let note = note(clients::now().to_seconds(), &n.to_string());
        publish_on(&mut socket, &note).await?;
        accepted.insert(note.id.to_hex(), clients::now());
        sleep(INTERVAL).await;
    }
    wait_for_pushes(stack, NOTES + 1).await?;

    let matched = matcher_times(stack).await?;
    let mut parts: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for push in stack.aws.sns.pushes(0) {
        let id = push.message["event_id"].as_str().unwrap_or_default();
        let (Some(ok), Some((received, queued))) = (accepted.get(id), matched.get(id)) else {
            continue;
        };
        let (ok, pushed) = (signed(*ok)?, signed(push.at)?);
        for (part, milliseconds) in [
            ("1 relay to listener", received - ok),
            ("2 listener to matcher's end", queued - received),
            ("3 matcher's end to SNS", pushed - queued),
            ("4 relay to SNS", pushed - ok),
        ] {
            parts.entry(part).or_default().push(milliseconds);
        }
    }
    print_percentiles(parts);
    Ok(())
}

/// A time as a signed number of milliseconds: differences can be negative.
fn signed(time: Millis) -> Result<i64> {
    Ok(i64::try_from(time.0)?)
}

fn print_percentiles(parts: BTreeMap<&str, Vec<i64>>) {
    for (part, mut milliseconds) in parts {
        milliseconds.sort_unstable();
        let last = milliseconds.len() - 1;
        let percentile = |share: usize| milliseconds[last * share / 100];
        println!(
            "{part}: p50 {} ms, p99 {} ms, of {}",
            percentile(50),
            percentile(99),
            milliseconds.len()
        );
    }
}

/// Registers a device and a filter for notes that mention its owner.
async fn subscribe(stack: &Stack, alice: &Keys) -> Result<()> {
    let service = PublicKey::from_hex(&stack.service_pubkey)?;
    let token = Keys::generate().public_key().to_hex();
    let now = clients::now().to_seconds();
    let expiration = (now + Seconds::from_days(1)).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    let filter = json!({"kinds": [1], "#p": [alice.public_key()]});
    for (kind, payload) in [
        (3079, json!({"token": token})),
        (3081, json!({"filter": filter})),
    ] {
        let payload = payload.to_string();
        let event = control_event(alice, service, kind, now.0, &tags, &payload);
        publish(&stack.relays[0], &event).await?;
    }
    Ok(())
}

/// Publishes on an open connection, and waits for the relay's OK.
async fn publish_on(socket: &mut Socket, event: &Event) -> Result<()> {
    let message = json!(["EVENT", event]).to_string();
    socket.send(Message::text(message)).await?;
    while let Some(frame) = socket.next().await {
        let response: Value = serde_json::from_str(&frame?.into_text()?)?;
        if response[0] == "OK" {
            ensure!(response[2] == true, "{response}");
            return Ok(());
        }
    }
    bail!("the relay closed the connection")
}

async fn wait_for_pushes(stack: &Stack, count: usize) -> Result<()> {
    let pushed = || stack.aws.sns.pushes(0).len();
    let deadline = Instant::now() + PUSH_TIMEOUT;
    while Instant::now() < deadline {
        if pushed() >= count {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("{} of {count} pushes after {PUSH_TIMEOUT:?}", pushed())
}

/// When the listener received each event, and when the matcher had queued its deliveries, according
/// to the matcher's log. By event id, in milliseconds.
async fn matcher_times(stack: &Stack) -> Result<HashMap<String, (i64, i64)>> {
    let mut times = HashMap::new();
    for line in stack.function_log("matcher").await? {
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        if let (Some(id), Some(latency), Some(timestamp)) = (
            line["event_id"].as_str(),
            line["latency_ms"].as_i64(),
            line["timestamp"].as_str(),
        ) {
            let queued = DateTime::from_str(timestamp, DateTimeFormat::DateTime)
                .context("a log line has a bad timestamp")?
                .to_millis()?;
            times.insert(id.to_owned(), (queued - latency, queued));
        }
    }
    Ok(times)
}
