//! One connection to one relay, which is asked for some profiles.

use std::{collections::BTreeSet, time::Duration};

use nostr::key::PublicKey;
use nostr_push_core::{Seconds, profile::ProfileKey};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, error::Elapsed, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite;

use super::{
    answer::{Answer, GROUP_KIND, PERSON_KIND},
    sources::Source,
};
use crate::{
    dial::{DialError, Stream, dial},
    frame::Incoming,
    json_object::JsonObject,
    limits,
    relay_message::RelayMessage,
    socket::Socket,
};

/// How long a relay may take to connect and to answer.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of closing a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Why an answer is not complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection failed.
    #[error(transparent)]
    Socket(#[from] tungstenite::Error),
    /// The relay has no information document, so the signer of its groups is not known.
    #[error("no information document")]
    NoDocument,
    /// The relay refused the request. It may require authentication. The relay chose the text, so
    /// only its beginning is shown.
    #[error("refused: {0:.256}")]
    Refused(String),
    /// The relay sent more than is read.
    #[error("it sends too much")]
    TooMuch,
    /// The relay did not answer in time.
    #[error("no answer in time")]
    Timeout,
}

impl From<Elapsed> for FetchError {
    fn from(_: Elapsed) -> Self {
        Self::Timeout
    }
}

impl<'a> Fetch<'a> {
    /// Asks the relay. If it fails or takes longer than `time`, what it has sent until then counts.
    pub(super) async fn run(self, now: Seconds, time: Duration) -> Answer<'a> {
        let Source { url, .. } = self.source;
        let mut answer = Answer::new(self.keys, url, now);
        if let Err(error) = self.ask(&mut answer, Instant::now() + time).await {
            tracing::info!(
                stage = "listener",
                relay = url,
                "relay {url} does not return all profiles: {error}"
            );
        }
        answer
    }

    async fn ask(&self, answer: &mut Answer<'_>, deadline: Instant) -> Result<(), FetchError> {
        let Source { url, only_public } = self.source;
        let (people, groups): (BTreeSet<_>, BTreeSet<_>) =
            self.keys.iter().cloned().partition(is_person);
        let mut wanted = people;
        let mut has_document = true;
        if !groups.is_empty() {
            match timeout_at(deadline, relay_key(url, *only_public)).await? {
                Some(Some(relay_key)) => {
                    answer.set_relay_key(relay_key);
                    wanted.extend(groups);
                }
                // A relay that names no key signs no groups.
                Some(None) => answer.complete(groups),
                None => has_document = false,
            }
        }
        if !wanted.is_empty() {
            let mut socket = timeout_at(deadline, connect(url, *only_public)).await??;
            let request = request(&wanted, answer.relay_key()).to_string();
            let answered = timeout_at(deadline, exchange(&mut socket, &request, answer)).await;
            if !matches!(answered, Ok(Err(FetchError::Socket(_)))) {
                // It makes no difference whether the relay closes the connection properly.
                drop(timeout(CLOSE_TIMEOUT, close(&mut socket)).await);
            }
            answered??;
            answer.complete(wanted);
        }
        has_document.then_some(()).ok_or(FetchError::NoDocument)
    }
}

async fn connect(url: &str, only_public: bool) -> Result<Socket<Stream>, FetchError> {
    let stream = dial(url, only_public).await?;
    Ok(Socket::connect(url, stream).await?)
}

/// Sends the request, and reads until the relay has returned everything. The connection is not
/// authenticated.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut Socket<S>,
    request: &str,
    answer: &mut Answer<'_>,
) -> Result<(), FetchError> {
    socket.send_text(request).await?;
    let mut bytes = 0;
    for _ in 0..MAX_MESSAGES {
        let incoming = socket.next().await?;
        bytes += incoming.bytes();
        if bytes > MAX_BYTES {
            return Err(FetchError::TooMuch);
        }
        match &incoming {
            Incoming::Close => return Err(tungstenite::Error::ConnectionClosed.into()),
            Incoming::Text(text) => match RelayMessage::parse(text) {
                RelayMessage::Event { event, .. } => answer.read(event.get()),
                RelayMessage::Eose(_) => return Ok(()),
                RelayMessage::Closed { reason, .. } => return Err(FetchError::Refused(reason)),
                _ => {}
            },
            _ => {}
        }
    }
    Err(FetchError::TooMuch)
}

/// Ends the subscription and the connection.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut Socket<S>,
) -> Result<(), tungstenite::Error> {
    let message = json!(["CLOSE", SUBSCRIPTION]).to_string();
    socket.send_text(&message).await?;
    socket.close().await
}

/// The REQ for these profiles. The relay's groups cannot be asked for without its key.
fn request(keys: &BTreeSet<ProfileKey>, relay_key: Option<PublicKey>) -> Value {
    let (mut people, mut groups) = (Vec::new(), Vec::new());
    for key in keys {
        match key {
            ProfileKey::Person(pubkey) => people.push(pubkey),
            ProfileKey::Group { id, .. } => groups.push(id),
        }
    }
    let mut request = vec![json!("REQ"), json!(SUBSCRIPTION)];
    if !people.is_empty() {
        request.push(json!({"kinds": [PERSON_KIND], "authors": people}));
    }
    if let Some(relay) = relay_key.filter(|_| !groups.is_empty()) {
        request.push(json!({"kinds": [GROUP_KIND], "#d": groups, "authors": [relay]}));
    }
    Value::from(request)
}

fn is_person(key: &ProfileKey) -> bool {
    matches!(key, ProfileKey::Person(_))
}

/// The pubkey that signs the relay's groups: `self` in its information document
/// (NIP-11, <https://github.com/nostr-protocol/nips/blob/master/11.md>). `None` if the relay does
/// not return a document, and `Some(None)` if the document names no pubkey.
async fn relay_key(relay: &str, only_public: bool) -> Option<Option<PublicKey>> {
    let document = limits::document(relay, only_public).await?;
    let relay_key: Option<String> = JsonObject::parse(&document).get("self");
    Some(relay_key.and_then(|hex| PublicKey::from_hex(&hex).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_refusal_is_cut() {
        let refusal = FetchError::Refused("x".repeat(100_000));
        assert!(refusal.to_string().len() < 300);
    }
}
