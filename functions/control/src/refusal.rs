//! Why a control event is dropped. Each is counted under its reason and never retried.

/// A refusal, in the order of the checks. `docs/protocol.md` explains each to client developers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not a Nostr event at all, or larger than 256 KiB or 2,000 tags.
    Malformed,
    /// The id or the signature is wrong.
    BadSignature,
    /// None of our kinds.
    UnknownKind,
    /// No `p` tag names the service.
    NotForUs,
    /// Signed too long ago.
    Stale,
    /// Signed in the future.
    FromFuture,
    /// Not exactly one `app` tag.
    MissingApp,
    /// An app nobody configured.
    UnknownApp,
    /// No `expiration` tag where one must be, or not an integer.
    MissingExpiration,
    /// The `expiration` has passed.
    Expired,
    /// The content is not ciphertext of the right form.
    NotEncrypted,
    /// The ciphertext does not decrypt.
    Undecryptable,
    /// The plaintext is not what the kind expects.
    BadPayload,
    /// The filter would match the whole network.
    TooBroad,
    /// The app has no such platform.
    UnsupportedPlatform,
    /// The platform takes no such token.
    BadToken,
    /// More devices, subscriptions, index keys or bytes of token than allowed.
    OverQuota,
}

impl Refusal {
    /// The reason under which it is counted and logged.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadSignature => "bad_signature",
            Self::UnknownKind => "unknown_kind",
            Self::NotForUs => "not_for_us",
            Self::Stale => "stale",
            Self::FromFuture => "from_future",
            Self::MissingApp => "missing_app",
            Self::UnknownApp => "unknown_app",
            Self::MissingExpiration => "missing_expiration",
            Self::Expired => "expired",
            Self::NotEncrypted => "not_encrypted",
            Self::Undecryptable => "undecryptable",
            Self::BadPayload => "bad_payload",
            Self::TooBroad => "too_broad",
            Self::UnsupportedPlatform => "unsupported_platform",
            Self::BadToken => "bad_token",
            Self::OverQuota => "over_quota",
        }
    }
}
