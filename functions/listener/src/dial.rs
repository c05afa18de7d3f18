//! Connects to a relay's host: the only place that opens a socket. Redirects are never followed.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::MaybeTlsStream;
use url::Url;

use crate::address::is_public;

/// A connection, encrypted or not.
pub type Stream = MaybeTlsStream<TcpStream>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The URL has no host.
    #[error("not a relay URL")]
    BadUrl,
    /// Every address of the host is one that must not be connected to.
    #[error("the host has no public address")]
    Forbidden,
    /// No address, or none that answers, or TLS failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// One for all connections: the roots are many.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    Arc::new(
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
});

/// Connects to the host of a relay's URL. With `only_public`, the address that is connected to is a
/// checked one: a name that resolves to another address the next time does not get around it.
///
/// # Errors
/// [`Unreachable`].
pub async fn dial(url: &str, only_public: bool) -> Result<Stream, Unreachable> {
    let url = Url::parse(url).map_err(|_| Unreachable::BadUrl)?;
    let host = url
        .host_str()
        .ok_or(Unreachable::BadUrl)?
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let tls = url.scheme() == "wss";
    let port = url.port().unwrap_or(if tls { 443 } else { 80 });
    let mut addresses: Vec<SocketAddr> = lookup_host((host.as_str(), port)).await?.collect();
    let found = addresses.len();
    if only_public {
        addresses.retain(|address| is_public(address.ip()));
    }
    if addresses.is_empty() && found > 0 {
        return Err(Unreachable::Forbidden);
    }
    let tcp = TcpStream::connect(addresses.as_slice()).await?;
    tcp.set_nodelay(true)?;
    if !tls {
        return Ok(MaybeTlsStream::Plain(tcp));
    }
    let name = ServerName::try_from(host).map_err(|_| Unreachable::BadUrl)?;
    Ok(MaybeTlsStream::Rustls(
        TlsConnector::from(Arc::clone(&TLS))
            .connect(name, tcp)
            .await?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_forbidden_for_owners() {
        for url in [
            "ws://localhost:9",
            "ws://127.0.0.1:9",
            "ws://[::1]:9",
            "ws://[::ffff:127.0.0.1]:9",
        ] {
            assert!(
                matches!(dial(url, true).await, Err(Unreachable::Forbidden)),
                "{url}"
            );
        }
        assert!(matches!(
            dial("ws://127.0.0.1:9", false).await,
            Err(Unreachable::Io(_))
        ));
    }
}
