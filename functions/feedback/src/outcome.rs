//! The outcome of one feedback message.

/// The outcome of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedbackOutcome {
    /// The endpoint and the registration were removed.
    Removed,
    /// Nothing was removed.
    Kept(KeptReason),
    /// The platform refuses the app's credentials. The device is not the cause, and the operator
    /// must act.
    BadCredentials,
}

/// Why nothing was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::VariantArray)]
pub enum KeptReason {
    /// The token was registered again since.
    RegisteredAgain,
    /// The registration is still active.
    InForce,
    /// SNS reported an event that needs no action.
    NotOfInterest,
    /// The endpoint is enabled.
    Enabled,
    /// No device has this endpoint.
    UnknownEndpoint,
    /// The endpoint was already deleted.
    AlreadyRemoved,
}

impl KeptReason {
    /// The reason in counters and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::RegisteredAgain => "registered_again",
            Self::InForce => "in_force",
            Self::NotOfInterest => "not_of_interest",
            Self::Enabled => "enabled",
            Self::UnknownEndpoint => "unknown_endpoint",
            Self::AlreadyRemoved => "already_removed",
        }
    }
}
