//! The keyed hash under which a push token is stored.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{device::DeviceId, hex};

/// Hashes tokens under a key derived from the service secret, so that a leaked table reveals no
/// token.
#[derive(Clone)]
pub struct TokenHasher(Hmac<Sha256>);

impl TokenHasher {
    /// Derives the key from the service's secret key with HKDF-SHA256
    /// (<https://www.rfc-editor.org/rfc/rfc5869>).
    ///
    /// # Panics
    /// Never: HMAC takes a key of any length.
    pub fn new(service_secret: &[u8]) -> Self {
        let mut key = [0; 32];
        // 32 bytes are far below HKDF's limit of 255 blocks.
        let filled =
            Hkdf::<Sha256>::new(None, service_secret).expand(b"nostr-push token hash v1", &mut key);
        debug_assert!(filled.is_ok());
        #[expect(clippy::expect_used, reason = "see Panics")]
        Self(Hmac::new_from_slice(&key).expect("any key length"))
    }

    /// The device of this token under this app.
    pub fn device(&self, app: &str, token: &str) -> DeviceId {
        let mut mac = self.0.clone();
        mac.update(token.as_bytes());
        DeviceId {
            app: app.to_owned(),
            token_hash: hex::encode(&mac.finalize().into_bytes()),
        }
    }
}

impl fmt::Debug for TokenHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHasher(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_depends_on_key_and_token_and_hides_the_token() {
        let hasher = TokenHasher::new(b"secret");
        let device = hasher.device("demo", "token");
        assert_eq!(device, TokenHasher::new(b"secret").device("demo", "token"));
        let under_another_key = TokenHasher::new(b"other").device("demo", "token");
        assert_ne!(device.token_hash, under_another_key.token_hash);
        let of_another_token = hasher.device("demo", "token2");
        assert_ne!(device.token_hash, of_another_token.token_hash);
        assert_eq!(device.token_hash.len(), 64);
        assert_eq!(format!("{hasher:?}"), "TokenHasher(redacted)");
    }
}
