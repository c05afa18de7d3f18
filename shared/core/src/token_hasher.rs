//! The canonical form of a push token, and the keyed hash under which it is stored.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{device::DeviceId, hex};

/// The form in which a token is hashed and given to SNS, so that all forms of a token are one
/// device. APNs tokens are bytes in hex
/// (<https://developer.apple.com/documentation/usernotifications/registering-your-app-with-apns>),
/// which clients write in upper or lower case: a token of hex digits alone becomes lowercase. The
/// case of any other token matters.
///
/// The platform does not matter, because a deregistration does not name it.
pub fn canonical_token(token: &str) -> String {
    if token.bytes().all(|b| b.is_ascii_hexdigit()) {
        token.to_ascii_lowercase()
    } else {
        token.to_owned()
    }
}

/// Derives the key that hashes tokens from the service's first secret key with HKDF-SHA256
/// (<https://www.rfc-editor.org/rfc/rfc5869>). It does not reveal the secret key, so a rotation can
/// keep it and forget the secret key.
pub fn token_key(service_secret: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    // 32 bytes are far below HKDF's limit of 255 blocks.
    let filled =
        Hkdf::<Sha256>::new(None, service_secret).expand(b"nostr-push token hash v1", &mut key);
    debug_assert!(filled.is_ok());
    key
}

/// Hashes tokens under a key derived from the service secret, so that a leaked table reveals no
/// token.
#[derive(Clone)]
pub struct TokenHasher(Hmac<Sha256>);

impl TokenHasher {
    /// Hashes tokens under the [`token_key`] of this service key.
    pub fn new(service_secret: &[u8]) -> Self {
        Self::from_key(&token_key(service_secret))
    }

    /// Hashes tokens under this key.
    ///
    /// # Panics
    /// Never: HMAC takes a key of any length.
    pub fn from_key(token_key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "see Panics")]
        Self(Hmac::new_from_slice(token_key).expect("any key length"))
    }

    /// The device of this token under this app. The token is in [canonical](canonical_token) form.
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
    fn only_tokens_of_hex_digits_become_lowercase() {
        let upper = "00FF".repeat(16);
        assert_eq!(canonical_token(&upper), "00ff".repeat(16));
        assert_eq!(canonical_token("fcm:APA91bH"), "fcm:APA91bH");
        assert_eq!(canonical_token("ABCG"), "ABCG");
        assert_eq!(canonical_token(""), "");
    }

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
