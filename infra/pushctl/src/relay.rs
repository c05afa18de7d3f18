//! One question to a relay: publishing an event, or whether it answers a REQ.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use nostr::event::Event;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// How long a relay may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes an event. An error is why the relay did not take it.
pub(crate) async fn publish(url: &str, event: &Event) -> Result<()> {
    let answer = ask(url, &json!(["EVENT", event]), |answer| answer[0] == "OK").await?;
    if answer[2] == true {
        Ok(())
    } else {
        bail!("refused: {}", answer[3].as_str().unwrap_or_default())
    }
}

/// Whether the relay answers a REQ for control events to this pubkey (hex), as the listener asks
/// it.
pub(crate) async fn answers(url: &str, service: &str) -> Result<()> {
    let req = json!(["REQ", "doctor", {"kinds": [3079], "#p": [service], "limit": 1}]);
    let answer = ask(url, &req, |answer| {
        answer[0] == "EOSE" || answer[0] == "CLOSED"
    })
    .await?;
    if answer[0] == "EOSE" {
        Ok(())
    } else {
        bail!("refused: {}", answer[2].as_str().unwrap_or_default())
    }
}

/// Sends one message, and waits for the answer to it.
async fn ask(url: &str, message: &Value, is_answer: impl Fn(&Value) -> bool) -> Result<Value> {
    let asked = async {
        let (mut socket, _) = connect_async(url).await.context("cannot be reached")?;
        socket.send(Message::text(message.to_string())).await?;
        while let Some(frame) = socket.next().await {
            let answer: Value =
                serde_json::from_str(frame?.to_text().unwrap_or_default()).unwrap_or_default();
            if is_answer(&answer) {
                return Ok(answer);
            }
        }
        bail!("closed the connection")
    };
    timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| bail!("no answer in {PATIENCE:?}"))
}
