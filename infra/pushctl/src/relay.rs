//! Requests to a relay.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use nostr::event::Event;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// How long a relay may take to respond, including the connection.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes an event. The error is the reason why the relay did not accept it.
pub(crate) async fn publish(url: &str, event: &Event) -> Result<()> {
    let is_response = |message: &Value| message[0] == "OK";
    let response = request(url, &json!(["EVENT", event]), is_response).await?;
    if response[2] == true {
        Ok(())
    } else {
        bail!("refused: {}", response[3].as_str().unwrap_or_default())
    }
}

/// Checks that the relay serves the listener's REQ for control events to this pubkey (hex).
pub(crate) async fn check(url: &str, service: &str) -> Result<()> {
    let filter = json!({"kinds": [3079], "#p": [service], "limit": 1});
    let is_response = |message: &Value| message[0] == "EOSE" || message[0] == "CLOSED";
    let response = request(url, &json!(["REQ", "doctor", filter]), is_response).await?;
    if response[0] == "EOSE" {
        Ok(())
    } else {
        bail!("refused: {}", response[2].as_str().unwrap_or_default())
    }
}

/// The stored events that match a filter, as the relay sends them. Only their signatures have been
/// checked: the relay may send events that do not match.
pub(crate) async fn stored(url: &str, filter: &Value) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let is_response = |message: &Value| {
        if message[0] == "EVENT"
            && let Ok(event) = serde_json::from_value::<Event>(message[2].clone())
            && event.verify().is_ok()
        {
            events.push(event);
        }
        message[0] == "EOSE" || message[0] == "CLOSED"
    };
    let response = request(url, &json!(["REQ", "pushctl", filter]), is_response).await?;
    if response[0] == "EOSE" {
        Ok(events)
    } else {
        bail!("refused: {}", response[2].as_str().unwrap_or_default())
    }
}

/// Sends one message, and waits for the response.
async fn request(
    url: &str,
    message: &Value,
    mut is_response: impl FnMut(&Value) -> bool,
) -> Result<Value> {
    let exchange = async {
        let (mut socket, _) = connect_async(url).await.context("cannot connect")?;
        socket.send(Message::text(message.to_string())).await?;
        while let Some(frame) = socket.next().await {
            let text = frame?;
            let message: Value =
                serde_json::from_str(text.to_text().unwrap_or_default()).unwrap_or_default();
            if is_response(&message) {
                return Ok(message);
            }
        }
        bail!("the relay closed the connection")
    };
    timeout(RESPONSE_TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| bail!("no response after {RESPONSE_TIMEOUT:?}"))
}
