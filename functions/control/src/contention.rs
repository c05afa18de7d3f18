//! The maximum number of attempts to write rows that keep changing.
//!
//! A writer that finds the rows changed reads them and decides again. Two concurrent writers need
//! two attempts.

use nostr_push_core::ports::{FailureCause, Unavailable};

/// The maximum number of attempts.
pub const MAX_ATTEMPTS: usize = 10;

/// The error after [`MAX_ATTEMPTS`].
pub fn error() -> Unavailable {
    let why = format!("rows changed during each of {MAX_ATTEMPTS} attempts");
    Unavailable::caused(FailureCause::Contention, "dynamodb", why)
}
