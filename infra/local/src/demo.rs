//! Acts as a client: registers a device, adds a filter, publishes a note that mentions its owner,
//! and waits for the push.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::Seconds;
use nostr_push_testkit::{control_event, event};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::step;

/// How long the demo waits for each counter, and for the push.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the demo on a running stack, and prints the push.
///
/// # Errors
/// The relay refused an event, or no push arrived.
pub async fn play(url: &str, relay: &str, service_pubkey: &str) -> Result<()> {
    let service = PublicKey::from_hex(service_pubkey)?;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let pubkey = alice.public_key().to_hex();
    let token = Keys::generate().public_key().to_hex();
    register(url, relay, service, &alice, &token).await?;

    step("demo: bob publishes a note that mentions alice");
    let note = event(
        &bob,
        1,
        clients::now().to_seconds().0,
        &[&["p", &pubkey]],
        "Hello alice, this note wakes your phone.",
    );
    publish(relay, &note).await?;
    let push = pushed(url, &token).await?;
    let signed_at = Seconds::from(note.created_at).to_millis();
    let latency = push["at"]
        .as_u64()
        .unwrap_or_default()
        .saturating_sub(signed_at.0);
    step(&format!(
        "demo: the push to alice's phone (at most {latency} ms after bob signed the note):"
    ));
    println!("{}", serde_json::to_string_pretty(&push)?);
    Ok(())
}

/// Registers a device and adds a filter for mentions, and waits until control has applied both.
async fn register(
    url: &str,
    relay: &str,
    service: PublicKey,
    alice: &Keys,
    token: &str,
) -> Result<()> {
    let pubkey = alice.public_key().to_hex();
    let now = clients::now().to_seconds();
    let expiration = (now + Seconds::from_days(30)).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    let control = |kind, payload: &Value| {
        control_event(alice, service, kind, now.0, &tags, &payload.to_string())
    };
    step(&format!(
        "demo: alice ({}…) registers a device (kind 3079)",
        &pubkey[..8]
    ));
    let device = control(3079, &json!({"token": token, "platform": "apns"}));
    publish(relay, &device).await?;
    step("demo: alice adds a filter for notes that mention her (kind 3081)");
    let filter = control(3081, &json!({"filter": {"kinds": [1], "#p": [pubkey]}}));
    publish(relay, &filter).await?;
    wait_for_counter(url, "control.accepted.registered").await?;
    wait_for_counter(url, "control.accepted.subscribed").await
}

/// Waits for a push to this token, and returns it.
async fn pushed(url: &str, token: &str) -> Result<Value> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while Instant::now() < deadline {
        let response = get(&format!("{url}/pushes?after=0")).await?;
        let mut pushes = response["pushes"].as_array().into_iter().flatten();
        if let Some(push) = pushes.find(|push| push["token"] == json!(token)) {
            return Ok(push.clone());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("no push after {STEP_TIMEOUT:?}: see {url}/counters")
}

/// Waits until the counter is above zero.
async fn wait_for_counter(url: &str, counter: &str) -> Result<()> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while Instant::now() < deadline {
        let counters = get(&format!("{url}/counters")).await?;
        if counters[counter].as_u64().unwrap_or_default() > 0 {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("{counter} is still 0 after {STEP_TIMEOUT:?}: see {url}/counters")
}

async fn get(url: &str) -> Result<Value> {
    Ok(reqwest::get(url).await?.json().await?)
}

/// Publishes an event, and waits until the relay accepts it.
///
/// # Errors
/// The relay refuses the event, or the connection fails.
pub async fn publish(relay: &str, event: &Event) -> Result<()> {
    let (mut socket, _) = connect_async(relay)
        .await
        .with_context(|| format!("cannot connect to {relay}"))?;
    let message = json!(["EVENT", event]).to_string();
    socket.send(Message::text(message)).await?;
    while let Some(frame) = socket.next().await {
        let response: Value = serde_json::from_str(&frame?.into_text()?).unwrap_or_default();
        if response[0] != "OK" {
            continue;
        }
        if response[2] == true {
            return Ok(());
        }
        bail!("the relay refused the event: {response}");
    }
    bail!("the relay closed the connection")
}
