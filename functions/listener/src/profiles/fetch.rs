//! One connection to one relay, which is asked for some profiles.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nostr::key::PublicKey;
use nostr_push_core::{
    Seconds,
    profile::{ProfileKey, ProfileUpdate},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;

use super::{
    answer::{Answer, GROUP_KIND, PERSON_KIND},
    sources::Source,
};
use crate::{
    dial::{DialError, dial},
    frame::Incoming,
    limits,
    relay_message::RelayMessage,
    socket::Socket,
};

/// How long a relay may take to connect and to answer.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes that are read from a relay.
const MAX_BYTES: usize = 256 * 1024;

/// The most messages that are read from a relay, and so the most signatures that are checked.
const MAX_MESSAGES: usize = 100;

/// The id of the subscription.
const SUBSCRIPTION: &str = "profiles";

/// A relay to ask, and the profiles to ask it for.
#[derive(Debug)]
pub(super) struct Fetch<'a> {
    pub(super) source: &'a Source,
    pub(super) keys: &'a BTreeSet<ProfileKey>,
}

/// Why a relay did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection failed.
    #[error(transparent)]
    Socket(#[from] tungstenite::Error),
    /// The relay did not answer in time.
    #[error("no answer in time")]
    Timeout,
}

impl Fetch<'_> {
    /// The profiles that the relay returns. It need not have them.
    pub(super) async fn run(
        self,
        now: Seconds,
        time: Duration,
    ) -> Result<BTreeMap<ProfileKey, ProfileUpdate>, FetchError> {
        let url = self.source.url.clone();
        let answer = timeout(time, self.ask(now)).await;
        let answer = answer.unwrap_or(Err(FetchError::Timeout));
        if let Err(error) = &answer {
            tracing::info!(
                stage = "listener",
                relay = url,
                "relay {url} returns no profiles: {error}"
            );
        }
        answer
    }

    async fn ask(self, now: Seconds) -> Result<BTreeMap<ProfileKey, ProfileUpdate>, FetchError> {
        let Source { url, only_public } = self.source;
        let has_groups = self.keys.iter().any(|key| !is_person(key));
        let relay_key = if has_groups {
            relay_key(url, *only_public).await
        } else {
            None
        };
        let mut answer = Answer::new(self.keys, url, relay_key, now);
        let filters = filters(self.keys, relay_key);
        if filters.is_empty() {
            return Ok(answer.into_profiles());
        }
        let stream = dial(url, *only_public).await?;
        let mut socket = Socket::connect(url, stream).await?;
        let mut request = vec![json!("REQ"), json!(SUBSCRIPTION)];
        request.extend(filters);
        socket.send_text(&Value::from(request).to_string()).await?;
        read(&mut answer, &mut socket).await?;
        // The relay has answered. It makes no difference whether it closes the connection properly.
        drop(socket.close().await);
        Ok(answer.into_profiles())
    }
}

/// Reads until the relay has returned everything, or too much. It is not authenticated, so it may
/// also refuse.
async fn read<S>(answer: &mut Answer<'_>, socket: &mut Socket<S>) -> Result<(), tungstenite::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut bytes = 0;
    for _ in 0..MAX_MESSAGES {
        let incoming = socket.next().await?;
        bytes += incoming.bytes();
        if bytes > MAX_BYTES {
            break;
        }
        let Incoming::Text(text) = incoming else {
            continue;
        };
        match RelayMessage::parse(&text) {
            RelayMessage::Event { event, .. } => answer.read(event.get()),
            RelayMessage::Eose(_) | RelayMessage::Closed { .. } => break,
            _ => {}
        }
    }
    Ok(())
}

/// The filters for these profiles. The relay's groups cannot be asked for without its key.
fn filters(keys: &BTreeSet<ProfileKey>, relay_key: Option<PublicKey>) -> Vec<Value> {
    let (mut people, mut groups) = (Vec::new(), Vec::new());
    for key in keys {
        match key {
            ProfileKey::Person(pubkey) => people.push(pubkey),
            ProfileKey::Group { id, .. } => groups.push(id),
        }
    }
    let mut filters = Vec::new();
    if !people.is_empty() {
        filters.push(json!({"kinds": [PERSON_KIND], "authors": people}));
    }
    if let Some(relay) = relay_key.filter(|_| !groups.is_empty()) {
        filters.push(json!({"kinds": [GROUP_KIND], "#d": groups, "authors": [relay]}));
    }
    filters
}

fn is_person(key: &ProfileKey) -> bool {
    matches!(key, ProfileKey::Person(_))
}

/// The pubkey that signs the relay's groups: `self` in its information document
/// (NIP-11, <https://github.com/nostr-protocol/nips/blob/master/11.md>).
async fn relay_key(relay: &str, only_public: bool) -> Option<PublicKey> {
    let document = limits::document(relay, only_public).await?;
    let document: Value = serde_json::from_slice(&document).ok()?;
    PublicKey::from_hex(document["self"].as_str()?).ok()
}
