//! Why a control event is refused. A refused event is dropped and never retried.

/// The reason for a refusal, in the order of the checks. `docs/protocol.md` explains each reason to
/// client developers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray)]
pub enum Refusal {
    /// The message is not a Nostr event, or it has more than 256 KiB or 2,000 tags.
    Malformed,
    /// The id or the signature is wrong.
    BadSignature,
    /// The kind is not a control kind.
    UnknownKind,
    /// No `p` tag contains a pubkey.
    NotForUs,
    /// The event is for the service's previous pubkey, which is no longer accepted.
    OldKey,
    /// `created_at` is too far ahead.
    FromFuture,
    /// `created_at` is too old.
    Stale,
    /// There is not exactly one `app` tag.
    MissingApp,
    /// The app is not configured.
    UnknownApp,
    /// The app does not admit the pubkey, or the operator has blocked it.
    NotAdmitted,
    /// The stack is full.
    AtCapacity,
    /// The `expiration` tag (NIP-40,
    /// <https://github.com/nostr-protocol/nips/blob/master/40.md>) is required but absent, or it is
    /// not an integer.
    MissingExpiration,
    /// The `expiration` has passed.
    Expired,
    /// The content does not have the form of ciphertext: NIP-44
    /// (<https://github.com/nostr-protocol/nips/blob/master/44.md>) or, in dialect H, NIP-04
    /// (<https://github.com/nostr-protocol/nips/blob/master/04.md>).
    NotEncrypted,
    /// The content cannot be decrypted.
    Undecryptable,
    /// The plaintext is not the JSON object that the kind requires.
    BadPayload,
    /// A filter would match the whole network.
    TooBroad,
    /// The app does not have the platform.
    UnsupportedPlatform,
    /// The token is not valid for the platform.
    BadToken,
    /// A quota (devices, filters, index keys) or the size limit of a token or filter is exceeded.
    OverQuota,
    /// The day's budget of writes is used up: the owner's, or that of all newcomers.
    OverBudget,
}

impl Refusal {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadSignature => "bad_signature",
            Self::UnknownKind => "unknown_kind",
            Self::NotForUs => "not_for_us",
            Self::OldKey => "old_key",
            Self::FromFuture => "from_future",
            Self::Stale => "stale",
            Self::MissingApp => "missing_app",
            Self::UnknownApp => "unknown_app",
            Self::NotAdmitted => "not_admitted",
            Self::AtCapacity => "at_capacity",
            Self::MissingExpiration => "missing_expiration",
            Self::Expired => "expired",
            Self::NotEncrypted => "not_encrypted",
            Self::Undecryptable => "undecryptable",
            Self::BadPayload => "bad_payload",
            Self::TooBroad => "too_broad",
            Self::UnsupportedPlatform => "unsupported_platform",
            Self::BadToken => "bad_token",
            Self::OverQuota => "over_quota",
            Self::OverBudget => "over_budget",
        }
    }
}
