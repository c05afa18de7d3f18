//! What a relay says that it takes (NIP-11), and what is assumed of one that says nothing.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use crate::dial::dial;

/// How long asking may take, and how long the answer may be.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 64 * 1024;

/// A relay's limits, rounded down to a few classes: relays of one class share one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Open subscriptions.
    pub subscriptions: usize,
    /// Filters per REQ.
    pub filters: usize,
    /// Bytes per message.
    pub message: usize,
    /// Stored events that a filter is answered with at most.
    pub page: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            subscriptions: 20,
            filters: 10,
            message: 128 * 1024,
            page: 500,
        }
    }
}

#[derive(Deserialize, Default)]
struct Document {
    #[serde(default)]
    limitation: Limitation,
}

#[derive(Deserialize, Default)]
struct Limitation {
    max_subscriptions: Option<usize>,
    max_filters: Option<usize>,
    max_message_length: Option<usize>,
    max_limit: Option<usize>,
    default_limit: Option<usize>,
}

impl Limits {
    /// Reads a relay information document. What is absurd is taken as not said.
    fn of(json: &[u8]) -> Self {
        let said = serde_json::from_slice::<Document>(json)
            .unwrap_or_default()
            .limitation;
        let usual = Self::default();
        let class = |said: Option<usize>, usual: usize, classes: &[usize]| {
            said.filter(|said| *said > 0).map_or(usual, |said| {
                classes
                    .iter()
                    .copied()
                    .rfind(|class| *class <= said)
                    .unwrap_or_else(|| classes.first().copied().unwrap_or(usual))
            })
        };
        Self {
            subscriptions: class(
                said.max_subscriptions,
                usual.subscriptions,
                &[3, 5, 10, 20, 50],
            ),
            filters: class(said.max_filters, usual.filters, &[1, 2, 5, 10]),
            message: class(
                said.max_message_length,
                usual.message,
                &[4 * 1024, 16 * 1024, 64 * 1024, 128 * 1024],
            ),
            page: class(
                said.max_limit.into_iter().chain(said.default_limit).min(),
                usual.page,
                &[10, 50, 100, 500],
            ),
        }
    }

    /// Asks the relay. One that does not answer gets the usual limits.
    pub async fn ask(relay: &str, only_public: bool) -> Self {
        timeout(PATIENCE, fetch(relay, only_public))
            .await
            .ok()
            .flatten()
            .map_or_else(Self::default, |json| Self::of(&json))
    }
}

async fn fetch(relay: &str, only_public: bool) -> Option<Bytes> {
    let url = Url::parse(relay).ok()?;
    let stream = dial(relay, only_public).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get(&url[url::Position::BeforePath..])
        .header(
            "Host",
            &url[url::Position::BeforeHost..url::Position::AfterPort],
        )
        .header("Accept", "application/nostr+json")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answer = async move {
        let answer = sender
            .send_request(request)
            .await
            .ok()
            .filter(|answer| answer.status().is_success())?;
        Some(
            Limited::new(answer.into_body(), MAX_ANSWER)
                .collect()
                .await
                .ok()?
                .to_bytes(),
        )
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // All has been read, and the answer only has to be taken.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// What is made of a relay that answers everything with this.
    async fn asked(answer: String) -> Limits {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/path?x=1", listener.local_addr().unwrap());
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            drop(stream.write_all(answer.as_bytes()).await);
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let limits = Limits::ask(&url, false).await;
        let request = answering.await.unwrap().to_lowercase();
        assert!(
            request.starts_with("get /path?x=1 http/1.1")
                && request.contains("accept: application/nostr+json"),
            "{request}"
        );
        limits
    }

    #[tokio::test]
    async fn a_relay_is_asked_and_one_that_answers_nonsense_gets_the_usual_limits() {
        let answer = |body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        assert_eq!(
            asked(answer(r#"{"limitation":{"max_subscriptions":10}}"#))
                .await
                .subscriptions,
            10
        );
        let endless = format!(
            r#"{{"limitation":{{"max_subscriptions":10}},"description":"{}"}}"#,
            "x".repeat(MAX_ANSWER)
        );
        for nonsense in [
            answer(&endless),
            "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n".to_owned(),
            "220 ftp\r\n".to_owned(),
        ] {
            assert_eq!(asked(nonsense).await, Limits::default());
        }
        assert_eq!(
            Limits::ask("ws://127.0.0.1:1", false).await,
            Limits::default()
        );
    }

    #[test]
    fn what_a_relay_says_is_rounded_down_and_nonsense_ignored() {
        let of = |json: &str| Limits::of(json.as_bytes());
        assert_eq!(of("<html>"), Limits::default());
        assert_eq!(of("{}"), Limits::default());
        assert_eq!(
            of(r#"{"limitation":{"max_subscriptions":0,"max_limit":-1}}"#),
            Limits::default()
        );
        let said = of(
            r#"{"limitation":{"max_subscriptions":12,"max_filters":7,"max_message_length":70000,"max_limit":1000,"default_limit":100}}"#,
        );
        assert_eq!(
            said,
            Limits {
                subscriptions: 10,
                filters: 5,
                message: 64 * 1024,
                page: 100
            }
        );
        assert_eq!(
            of(r#"{"limitation":{"max_subscriptions":1}}"#).subscriptions,
            3
        );
    }
}
