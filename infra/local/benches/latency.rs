//! From the relay's OK to SNS's acceptance, on the local stack: p50 and p99, and each stage's
//! share. The queues here are ministack's, which polls; those of AWS are another matter.
//!
//! `cargo bench -p nostr-push-local --bench latency`

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aws_sdk_cloudwatchlogs::primitives::{DateTime, DateTimeFormat};
use futures_util::{SinkExt, StreamExt};
use nostr::key::{Keys, PublicKey};
use nostr_push_aws::clients;
use nostr_push_core::{DAY, app::App};
use nostr_push_local::{
    demo::publish,
    stack::{Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::{control_event, event};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// How long apart the notes are published: far below what the stack can take.
const APART: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` has no five minutes for this.
    if !std::env::args().any(|word| word == "--bench") {
        return Ok(());
    }
    let tools = Tools::install().await?;
    let data = tempfile::tempdir()?;
    let options = Options::anywhere(
        data.path(),
        vec![App {
            max_pushes: Some(100_000),
            ..App::named("demo")
        }],
    );
    let stack = Stack::start(&tools, options).await?;
    let measured = measure(&stack, 600).await;
    stack.stop().await;
    measured
}

async fn measure(stack: &Stack, notes: usize) -> Result<()> {
    let relay = &stack.relays[0];
    let service = PublicKey::from_hex(&stack.service_pubkey)?;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let (me, token) = (
        alice.public_key().to_hex(),
        Keys::generate().public_key().to_hex(),
    );
    let now = clients::now() / 1000;
    let expiration = (now + DAY).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    for (kind, payload) in [
        (3079, json!({"token": token})),
        (3081, json!({"filter": {"kinds": [1], "#p": [me]}})),
    ] {
        publish(
            relay,
            &control_event(&alice, service, kind, now, &tags, &payload.to_string()),
        )
        .await?;
    }
    // When it is pushed, everything is warm and known.
    let first = event(&bob, 1, now + 1, &[&["p", &me]], "the first");
    publish(relay, &first).await?;
    pushed(stack, 1).await?;

    let (mut socket, _) = connect_async(relay).await?;
    let mut accepted = HashMap::new();
    for n in 0..notes {
        let note = event(
            &bob,
            1,
            clients::now() / 1000,
            &[&["p", &me]],
            &n.to_string(),
        );
        socket
            .send(Message::text(json!(["EVENT", note]).to_string()))
            .await?;
        while let Some(frame) = socket.next().await {
            let answer: Value = serde_json::from_str(&frame?.into_text()?)?;
            if answer[0] == "OK" {
                ensure!(answer[2] == true, "{answer}");
                break;
            }
        }
        accepted.insert(note.id.to_hex(), clients::now());
        sleep(APART).await;
    }
    pushed(stack, notes + 1).await?;

    let matched = matched(stack).await?;
    let mut parts: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for push in stack.aws.sns.pushes(0) {
        let id = push.message["event_id"].as_str().unwrap_or_default();
        let (Some(ok), Some((received, queued))) = (accepted.get(id), matched.get(id)) else {
            continue;
        };
        let (ok, at) = (i64::try_from(*ok)?, i64::try_from(push.at)?);
        for (part, milliseconds) in [
            ("1 relay to listener", received - ok),
            ("2 listener to matcher's end", queued - received),
            ("3 matcher's end to SNS", at - queued),
            ("4 relay to SNS", at - ok),
        ] {
            parts.entry(part).or_default().push(milliseconds);
        }
    }
    for (part, mut milliseconds) in parts {
        milliseconds.sort_unstable();
        let (count, at) = (milliseconds.len(), |share: usize| {
            milliseconds[(milliseconds.len() - 1) * share / 100]
        });
        println!("{part}: p50 {} ms, p99 {} ms, of {count}", at(50), at(99));
    }
    Ok(())
}

/// Waits for so many pushes.
async fn pushed(stack: &Stack, count: usize) -> Result<()> {
    for _ in 0..1_200 {
        if stack.aws.sns.pushes(0).len() >= count {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!(
        "{} of {count} pushes after two minutes",
        stack.aws.sns.pushes(0).len()
    )
}

/// By event: when the listener received it, and when the matcher was done with it, as the matcher's
/// log says.
async fn matched(stack: &Stack) -> Result<HashMap<String, (i64, i64)>> {
    let mut matched = HashMap::new();
    for line in stack.function_log("matcher").await? {
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if let (Some(id), Some(latency), Some(timestamp)) = (
            line["event_id"].as_str(),
            line["latency_ms"].as_i64(),
            line["timestamp"].as_str(),
        ) {
            let at = DateTime::from_str(timestamp, DateTimeFormat::DateTime)
                .context("a log line's timestamp")?
                .to_millis()?;
            matched.insert(id.to_owned(), (at - latency, at));
        }
    }
    Ok(matched)
}
