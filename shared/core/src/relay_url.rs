//! The URLs of relays: their normal form, and the hashes by which index rows refer to them.
//!
//! Control, listener and matcher compare relays by this form. The listener alone decides to which
//! relays it connects.

use sha2::{Digest, Sha256};
use url::{Host, Url};

use crate::message::MAX_RELAY_URL_BYTES;

/// The number of bytes of a [`RelayHash`].
const HASH_BYTES: usize = 16;

/// A relay's URL in normal form: scheme and host in lowercase, without a default port, without a
/// fragment, and without the slash of an empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUrl {
    url: Url,
    text: String,
}

impl RelayUrl {
    /// Reads a URL with the scheme `ws` or `wss`. Returns `None` for any other text, for a URL with
    /// credentials, and for a URL of more than [`MAX_RELAY_URL_BYTES`].
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.len() > MAX_RELAY_URL_BYTES {
            return None;
        }
        let mut url = Url::parse(text).ok()?;
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        if !matches!(url.scheme(), "ws" | "wss")
            || has_credentials
            || url.host_str().is_none_or(str::is_empty)
        {
            return None;
        }
        url.set_fragment(None);
        let mut text = url.to_string();
        if url.path() == "/" && url.query().is_none() {
            text.truncate(text.len() - 1);
        }
        // Percent-encoding makes a URL longer, and the normal form must be readable again.
        (text.len() <= MAX_RELAY_URL_BYTES).then_some(Self { url, text })
    }

    /// The URL in normal form.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns `true` if the scheme is `wss`.
    pub fn has_tls(&self) -> bool {
        self.url.scheme() == "wss"
    }

    /// The host.
    pub fn host(&self) -> Option<Host<&str>> {
        self.url.host()
    }

    /// The hash of the normal form.
    pub fn hash(&self) -> RelayHash {
        let digest = Sha256::digest(&self.text);
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&digest[..HASH_BYTES]);
        RelayHash(hash)
    }
}

impl From<RelayUrl> for String {
    fn from(url: RelayUrl) -> Self {
        url.text
    }
}

/// The first 128 bits of the SHA-256 of a relay's URL in normal form. Index rows contain it in
/// place of the URL, which can have 512 bytes.
///
/// 128 bits are enough that nobody can find another URL with the same hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayHash([u8; HASH_BYTES]);

impl RelayHash {
    /// The hash of a URL. `None` if the text is not the URL of a relay.
    pub fn of(text: &str) -> Option<Self> {
        RelayUrl::parse(text).map(|url| url.hash())
    }

    /// The bytes of several hashes, one hash after the other.
    pub fn to_bytes(hashes: &[Self]) -> Vec<u8> {
        hashes.iter().flat_map(|hash| hash.0).collect()
    }

    /// Reads what [`Self::to_bytes`] wrote. An incomplete hash at the end is left out.
    pub fn from_bytes(bytes: &[u8]) -> Vec<Self> {
        let (hashes, _) = bytes.as_chunks::<HASH_BYTES>();
        hashes.iter().copied().map(Self).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> Option<String> {
        RelayUrl::parse(text).map(String::from)
    }

    #[test]
    fn one_relay_has_one_normal_form() {
        for (text, expected) in [
            ("wss://Relay.Example.com:443/", "wss://relay.example.com"),
            ("WSS://relay.example.com", "wss://relay.example.com"),
            (
                " wss://relay.example.com/path/#x ",
                "wss://relay.example.com/path/",
            ),
            (
                "wss://relay.example.com/?a=b",
                "wss://relay.example.com/?a=b",
            ),
            ("ws://127.0.0.1:7777/", "ws://127.0.0.1:7777"),
            ("ws://127.0.0.1:80", "ws://127.0.0.1"),
        ] {
            assert_eq!(normal(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_relay_url() {
        for bad in [
            "",
            "relay.example.com",
            "https://relay.example.com",
            "wss://user:secret@relay.example.com",
            "wss://",
            &format!("wss://{}.example", "x".repeat(600)),
            // 306 bytes, and 906 when encoded.
            &format!("wss://relay.example/{}", "é".repeat(143)),
        ] {
            assert_eq!(normal(bad), None, "{bad}");
        }
    }

    #[test]
    fn hash_depends_on_the_normal_form_alone() {
        let hash = RelayHash::of("wss://relay.example");
        assert!(hash.is_some());
        assert_eq!(RelayHash::of("wss://RELAY.example:443/#x"), hash);
        for other in ["ws://relay.example", "wss://relay.example/a"] {
            assert_ne!(RelayHash::of(other), hash, "{other}");
        }
        assert_eq!(RelayHash::of("not a url"), None);
    }

    #[test]
    fn hashes_survive_their_bytes() {
        let hashes: Vec<RelayHash> = ["wss://a.example", "wss://b.example"]
            .iter()
            .filter_map(|url| RelayHash::of(url))
            .collect();
        let mut bytes = RelayHash::to_bytes(&hashes);
        assert_eq!(
            (bytes.len(), RelayHash::from_bytes(&bytes)),
            (32, hashes.clone())
        );
        bytes.push(0);
        assert_eq!(RelayHash::from_bytes(&bytes), hashes);
    }

    proptest! {
        #[test]
        fn normal_form_is_its_own_normal_form(rest in ".{0,80}") {
            if let Some(url) = normal(&format!("wss://{rest}")) {
                prop_assert_eq!(normal(&url), Some(url.clone()));
                prop_assert!(url.len() <= MAX_RELAY_URL_BYTES);
            }
        }
    }
}
