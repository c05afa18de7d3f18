//! The limits of a relay: those in its information document (NIP-11,
//! <https://github.com/nostr-protocol/nips/blob/master/11.md>), or the defaults.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use url::Url;

use crate::{dial::dial, json_object::JsonObject};

/// The timeout of fetching the document.
const NIP11_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest document that is read, in bytes.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// A relay's limits. None is above the default: the listener needs no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most open subscriptions.
    pub subscriptions: usize,
    /// The most filters per REQ.
    pub filters: usize,
    /// The most bytes per message.
    pub message_bytes: usize,
    /// The most stored events that the relay returns for one filter, and the largest `limit`.
    pub page: usize,
}

impl Default for Limits {
    /// The limits of a relay without an information document: the defaults of strfry
    /// (<https://github.com/hoytech/strfry/blob/master/strfry.conf>), with fewer filters.
    fn default() -> Self {
        Self {
            subscriptions: 20,
            filters: 10,
            message_bytes: 131_072,
            page: 500,
        }
    }
}

impl Limits {
    /// Reads an information document. A limit that is missing, malformed or zero is the default.
    fn from_document(json: &[u8]) -> Self {
        let document = JsonObject::parse(json).object("limitation");
        let defaults = Self::default();
        let limit = |limit: Option<usize>, default: usize| {
            limit
                .filter(|limit| *limit > 0)
                .map_or(default, |limit| limit.min(default))
        };
        let page = [document.get("max_limit"), document.get("default_limit")];
        Self {
            subscriptions: limit(document.get("max_subscriptions"), defaults.subscriptions),
            filters: limit(document.get("max_filters"), defaults.filters),
            message_bytes: limit(document.get("max_message_length"), defaults.message_bytes),
            page: limit(page.into_iter().flatten().min(), defaults.page),
        }
    }

    /// Fetches the relay's limits. A relay without a document has the default limits.
    pub async fn fetch(relay: &str, only_public: bool) -> Self {
        document(relay, only_public)
            .await
            .map_or_else(Self::default, |json| Self::from_document(&json))
    }
}

/// The relay's information document, if it returns one in time.
pub(crate) async fn document(relay: &str, only_public: bool) -> Option<Bytes> {
    let document = timeout(NIP11_TIMEOUT, fetch_document(relay, only_public));
    document.await.ok().flatten()
}

/// Fetches the relay's information document.
async fn fetch_document(relay: &str, only_public: bool) -> Option<Bytes> {
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
    let body = async move {
        let response = sender
            .send_request(request)
            .await
            .ok()
            .filter(|response| response.status().is_success())?;
        Some(
            Limited::new(response.into_body(), MAX_DOCUMENT_BYTES)
                .collect()
                .await
                .ok()?
                .to_bytes(),
        )
    };
    tokio::pin!(body);
    tokio::select! {
        body = &mut body => body,
        // The connection has ended, and the response is in memory.
        _ = connection => body.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// The limits of a relay that sends this response to every request.
    async fn limits_from(response: String) -> Limits {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/path?x=1", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            drop(stream.write_all(response.as_bytes()).await);
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let limits = Limits::fetch(&url, false).await;
        let request = server.await.unwrap().to_lowercase();
        assert!(
            request.starts_with("get /path?x=1 http/1.1")
                && request.contains("accept: application/nostr+json"),
            "{request}"
        );
        limits
    }

    #[tokio::test]
    async fn fetches_limits_and_falls_back_to_defaults() {
        let response = |body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        assert_eq!(
            limits_from(response(r#"{"limitation":{"max_subscriptions":10}}"#))
                .await
                .subscriptions,
            10
        );
        let too_long = format!(
            r#"{{"limitation":{{"max_subscriptions":10}},"description":"{}"}}"#,
            "x".repeat(MAX_DOCUMENT_BYTES)
        );
        for invalid in [
            response(&too_long),
            "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n".to_owned(),
            "220 ftp\r\n".to_owned(),
        ] {
            assert_eq!(limits_from(invalid).await, Limits::default());
        }
        assert_eq!(
            Limits::fetch("ws://127.0.0.1:1", false).await,
            Limits::default()
        );
    }

    #[test]
    fn reads_limits_and_ignores_invalid_ones() {
        let of = |json: &str| Limits::from_document(json.as_bytes());
        assert_eq!(of("<html>"), Limits::default());
        assert_eq!(of("{}"), Limits::default());
        assert_eq!(
            of(r#"{"limitation":{"max_subscriptions":0,"max_limit":-1}}"#),
            Limits::default()
        );
        let one =
            of(r#"{"limitation":{"max_filters":"many","max_subscriptions":12},"name":"\ud83d"}"#);
        assert_eq!((one.filters, one.subscriptions), (10, 12));
        let limits = of(r#"{"limitation":{
                "max_subscriptions":12,
                "max_filters":7,
                "max_message_length":70000,
                "max_limit":1000,
                "default_limit":100
            }}"#);
        assert_eq!(
            limits,
            Limits {
                subscriptions: 12,
                filters: 7,
                message_bytes: 70_000,
                page: 100
            }
        );
        let generous = of(r#"{"limitation":{
                "max_subscriptions":300,
                "max_filters":100,
                "max_message_length":16777216,
                "max_limit":5000
            }}"#);
        assert_eq!(generous, Limits::default());
    }
}
