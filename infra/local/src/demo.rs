//! Plays a client: registers a device, adds a filter, publishes a note that mentions it, and waits
//! for the push.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::ports::seconds;
use nostr_push_testkit::{control_event, event};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::step;

/// How long a push may take here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Plays it against a running stack, and prints the push that arrives.
///
/// # Errors
/// Something refused, or no push came.
pub async fn play(url: &str, relay: &str, service_pubkey: &str) -> Result<()> {
    let service = PublicKey::from_hex(service_pubkey)?;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let me = alice.public_key().to_hex();
    let token = Keys::generate().public_key().to_hex();
    let now = seconds(clients::now());
    let expiration = (now + 30 * nostr_push_core::DAY).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];

    step(&format!(
        "demo: alice ({}…) registers a device (kind 3079)",
        &me[..8]
    ));
    let register = control_event(
        &alice,
        service,
        3079,
        now,
        &tags,
        &json!({"token": token, "platform": "apns"}).to_string(),
    );
    publish(relay, &register).await?;
    step("demo: alice asks for notes that mention her (kind 3081)");
    let upsert = control_event(
        &alice,
        service,
        3081,
        now,
        &tags,
        &json!({"filter": {"kinds": [1], "#p": [me]}}).to_string(),
    );
    publish(relay, &upsert).await?;
    counted(url, "control.accepted.registered").await?;
    counted(url, "control.accepted.subscribed").await?;

    step("demo: bob publishes a note that mentions alice");
    let note = event(
        &bob,
        1,
        seconds(clients::now()),
        &[&["p", &me]],
        "Hello alice, this note wakes your phone.",
    );
    publish(relay, &note).await?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let pushes: Value = reqwest::get(format!("{url}/pushes?after=0"))
            .await?
            .json()
            .await?;
        let mine = pushes["pushes"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|push| push["token"] == json!(token));
        if let Some(push) = mine {
            let took = push["at"]
                .as_u64()
                .unwrap_or_default()
                .saturating_sub(note.created_at.as_secs() * 1000);
            step(&format!(
                "demo: the push that alice's phone receives (at most {took} ms after bob signed the note):"
            ));
            println!("{}", serde_json::to_string_pretty(push)?);
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("no push after {PATIENCE:?}: see {url}/counters")
}

/// Waits until the counter is above zero.
async fn counted(url: &str, counter: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let counters: Value = reqwest::get(format!("{url}/counters"))
            .await?
            .json()
            .await?;
        if counters[counter].as_u64().unwrap_or_default() > 0 {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("{counter} was not counted after {PATIENCE:?}: see {url}/counters")
}

/// Publishes an event, and waits until the relay has taken it.
///
/// # Errors
/// The relay refuses, or goes away.
pub async fn publish(relay: &str, event: &Event) -> Result<()> {
    let (mut socket, _) = connect_async(relay)
        .await
        .with_context(|| format!("cannot reach {relay}"))?;
    socket
        .send(Message::text(json!(["EVENT", event]).to_string()))
        .await?;
    while let Some(frame) = socket.next().await {
        let answer: Value = serde_json::from_str(&frame?.into_text()?).unwrap_or_default();
        if answer[0] == "OK" {
            if answer[2] == json!(true) {
                return Ok(());
            }
            bail!("the relay refused: {answer}");
        }
    }
    bail!("the relay closed the connection")
}
