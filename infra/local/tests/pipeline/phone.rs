//! A phone with a filter for notes that mention its owner.

use std::collections::BTreeMap;

use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_core::Seconds;
use nostr_push_local::{demo::publish, stack::Stack};
use nostr_push_testkit::{control_event, event};
use serde_json::{Value, json};

use crate::{now, wait_until};

/// A phone of the app `demo`, with a new owner and a new token.
pub(crate) struct Phone {
    pub(crate) keys: Keys,
    pub(crate) token: String,
}

impl Phone {
    pub(crate) fn new() -> Self {
        Self {
            keys: Keys::generate(),
            token: Keys::generate().public_key().to_hex(),
        }
    }

    /// Registers the phone and its filter.
    pub(crate) async fn subscribe(&self, stack: &Stack) {
        let service = PublicKey::from_hex(&stack.service_pubkey).unwrap();
        let now = now();
        let expiration = (now + Seconds::from_days(1)).to_string();
        let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
        let filter = json!({"kinds": [1, 1059], "#p": [self.keys.public_key()]});
        for (kind, payload) in [
            (3079, json!({"token": self.token})),
            (3081, json!({"filter": filter})),
        ] {
            let payload = payload.to_string();
            let event = control_event(&self.keys, service, kind, now.0, &tags, &payload);
            publish(&stack.relays[0], &event).await.unwrap();
        }
    }

    /// An event by a new author that mentions the phone's owner.
    pub(crate) fn event(&self, kind: u16, created_at: Seconds, content: &str) -> Event {
        let owner = self.keys.public_key().to_hex();
        let tags: [&[&str]; 1] = [&["p", &owner]];
        event(&Keys::generate(), kind, created_at.0, &tags, content)
    }

    /// A note that is newer than the phone's registration, so that it is pushed even if the relay
    /// sends it as a stored event.
    pub(crate) fn first_note(&self) -> Event {
        self.event(1, now() + Seconds(1), "the first")
    }

    /// The number of pushes to the phone per event id.
    pub(crate) async fn pushes(&self, stack: &Stack) -> BTreeMap<String, usize> {
        let response = reqwest::get(format!("{}/pushes?after=0", stack.url)).await;
        let all: Value = response.unwrap().json().await.unwrap();
        let mut pushes = BTreeMap::new();
        for push in all["pushes"].as_array().unwrap() {
            if push["token"] == json!(self.token) {
                let id = push["message"]["event_id"].as_str().unwrap();
                *pushes.entry(id.to_owned()).or_default() += 1;
            }
        }
        pushes
    }

    /// Waits until each of the events was pushed to the phone.
    pub(crate) async fn wait_for_pushes(
        &self,
        stack: &Stack,
        events: &[Event],
    ) -> Result<(), String> {
        let mut missing = events.len();
        let all_pushed = wait_until("all events are pushed", async || {
            let pushes = self.pushes(stack).await;
            let is_missing = |event: &&Event| !pushes.contains_key(&event.id.to_hex());
            missing = events.iter().filter(is_missing).count();
            missing == 0
        });
        all_pushed
            .await
            .map_err(|error| format!("{error}: {missing} of {} are missing", events.len()))
    }

    /// The events that were pushed more than once, with their number of pushes.
    pub(crate) async fn repeated(&self, stack: &Stack) -> Vec<(String, usize)> {
        let pushes = self.pushes(stack).await;
        pushes.into_iter().filter(|(_, n)| *n != 1).collect()
    }
}
