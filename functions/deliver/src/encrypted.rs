//! Payloads that SNS, Apple and Google cannot read. All that identifies a person or an event is
//! encrypted to a key of the device, and title and body are the same for every notice.
//!
//! What they still learn is the time of the push, and its size rounded up to one of [`SIZES`].

use nostr::{
    key::{Keys, PublicKey},
    nips::nip44,
};
use nostr_push_core::device::Device;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    native,
    notice::Notice,
    payload::{Content, MAX_TIME_TO_LIVE, Truncation},
    text::Text,
};

/// The sizes of plaintexts, in bytes. NIP-44 adds no padding to these
/// (<https://github.com/nostr-protocol/nips/blob/master/44.md>). The largest one fits into APNs and
/// FCM, the second largest also into the shape `embedded-distributor`.
pub const SIZES: [usize; 4] = [512, 1_024, 1_792, 2_560];

/// The length of a collapse id, in hex digits.
const COLLAPSE_ID_DIGITS: usize = 32;

/// Encrypts from a key that is used for one push only, so that two pushes have nothing in common.
#[derive(Debug)]
pub struct Cipher {
    from: Keys,
    to: PublicKey,
}

impl Cipher {
    /// Encrypts to this key.
    pub fn new(to: PublicKey) -> Self {
        Self {
            from: Keys::generate(),
            to,
        }
    }

    /// The ciphertext of the fields. `None` if the key is not a point on the curve, which control
    /// refuses.
    fn encrypt(&self, fields: Map<String, Value>) -> Option<String> {
        let mut plaintext = Value::from(fields).to_string();
        let size = SIZES.into_iter().find(|size| plaintext.len() <= *size);
        let padding = size.map_or(0, |size| size - plaintext.len());
        plaintext.extend(std::iter::repeat_n(' ', padding));
        let secret = self.from.secret_key();
        nip44::encrypt(secret, &self.to, plaintext, nip44::Version::V2).ok()
    }
}

/// The content of a notice. The plaintext has the fields of the shape `native`, and title, body and
/// thread.
pub fn content(
    notice: &Notice<'_>,
    device: &Device,
    cipher: &Cipher,
    truncation: Truncation,
) -> Content {
    let mut plain = native::content(notice, truncation);
    for (name, text) in [("title", &plain.text.title), ("body", &plain.text.body)] {
        plain.fields.insert(name.to_owned(), json!(text.plain));
    }
    plain
        .fields
        .insert("thread".to_owned(), json!(plain.thread));
    let mut fields = Map::new();
    if let Some(encrypted) = cipher.encrypt(plain.fields) {
        fields.insert("encrypted".to_owned(), json!(encrypted));
        fields.insert("encrypted_by".to_owned(), json!(cipher.from.public_key()));
    }
    Content {
        text: Text::generic(),
        fields,
        thread: None,
        collapse_id: collapse_id(notice, device),
        // When the event expires would help to recognise it.
        time_to_live: MAX_TIME_TO_LIVE,
    }
}

/// The collapse id: a hash of the device's and the notice's ids. The hash of the token is secret,
/// so nobody can find the event by trying.
fn collapse_id(notice: &Notice<'_>, device: &Device) -> String {
    let id = format!("{}#{}", device.id, notice.id());
    let mut digits = nostr_push_core::hex::encode(&Sha256::digest(id));
    digits.truncate(COLLAPSE_ID_DIGITS);
    digits
}
