//! Connects to a relay's host. All connections to relays are opened here. Redirects are not
//! followed.

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

/// A connection, with or without TLS.
pub type Stream = MaybeTlsStream<TcpStream>;

/// Why a connection attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The URL has no host.
    #[error("not a relay URL")]
    BadUrl,
    /// The host has no address that may be connected to.
    #[error("the host has no public address")]
    Forbidden,
    /// The name was not resolved, no address answered, or the TLS handshake failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The TLS configuration of all connections. It is shared because it contains all root
/// certificates.
static TLS_CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    Arc::new(
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
});

/// Connects to the host of a relay's URL. With `only_public`, only public addresses are used. The
/// check is made on the address that is then connected to, so a name that resolves to another
/// address the next time does not bypass it.
///
/// # Errors
/// [`DialError`].
pub async fn dial(url: &str, only_public: bool) -> Result<Stream, DialError> {
    let url = Url::parse(url).map_err(|_| DialError::BadUrl)?;
    let host = url
        .host_str()
        .ok_or(DialError::BadUrl)?
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let tls = url.scheme() == "wss";
    let port = url.port().unwrap_or(if tls { 443 } else { 80 });
    let mut addresses: Vec<SocketAddr> = lookup_host((host.as_str(), port)).await?.collect();
    let resolved = addresses.len();
    if only_public {
        addresses.retain(|address| is_public(address.ip()));
    }
    if addresses.is_empty() && resolved > 0 {
        return Err(DialError::Forbidden);
    }
    let tcp = TcpStream::connect(addresses.as_slice()).await?;
    tcp.set_nodelay(true)?;
    if !tls {
        return Ok(MaybeTlsStream::Plain(tcp));
    }
    let name = ServerName::try_from(host).map_err(|_| DialError::BadUrl)?;
    Ok(MaybeTlsStream::Rustls(
        TlsConnector::from(Arc::clone(&TLS_CONFIG))
            .connect(name, tcp)
            .await?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refuses_local_addresses_for_owners_relays() {
        for url in [
            "ws://localhost:9",
            "ws://127.0.0.1:9",
            "ws://[::1]:9",
            "ws://[::ffff:127.0.0.1]:9",
        ] {
            assert!(
                matches!(dial(url, true).await, Err(DialError::Forbidden)),
                "{url}"
            );
        }
        assert!(matches!(
            dial("ws://127.0.0.1:9", false).await,
            Err(DialError::Io(_))
        ));
    }
}
