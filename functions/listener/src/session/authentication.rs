//! Authentication (NIP-42, <https://github.com/nostr-protocol/nips/blob/master/42.md>).

use nostr::event::{EventBuilder, FinalizeEvent, Kind, Tag};
use serde_json::json;

use super::{Session, SessionEnd};
use crate::{counter::RelayReason, requests::Command};

/// The kind of an authentication.
const AUTH_KIND: u16 = 22242;

impl Session<'_> {
    /// Answers a challenge with the service's current key.
    pub(super) async fn authenticate(&mut self, challenge: &str) -> Result<(), SessionEnd> {
        let tags = [["relay", self.relay.url.as_str()], ["challenge", challenge]];
        let tags = tags.into_iter().filter_map(|tag| Tag::parse(tag).ok());
        let Ok(event) = EventBuilder::new(Kind::from_u16(AUTH_KIND), "")
            .tags(tags)
            .finalize(self.context.keys.current())
        else {
            return Ok(());
        };
        self.auth_event_id = Some(event.id.to_hex());
        let message = json!(["AUTH", event]).to_string();
        Ok(self.socket.send_text(&message).await?)
    }

    /// OK: the result of the authentication.
    pub(super) fn on_ok(&mut self, id: &str, accepted: bool, message: &str) -> Vec<Command> {
        if self.auth_event_id.as_deref() != Some(id) {
            return Vec::new();
        }
        if accepted {
            return self.requests.on_authenticated(self.now());
        }
        self.log_complaint(&format!("AUTH refused: {message:.256}"));
        vec![Command::Count(RelayReason::AuthRefused)]
    }
}
