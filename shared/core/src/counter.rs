//! What a stage counts.

/// One counter of a stage, named `stage.outcome.reason`. The stage's enums implement it, so that
/// every counter is known at compile time. `docs/local.md` explains each.
pub trait Counter: Copy {
    /// The outcome, such as `accepted`, `refused`, `dropped` or `retried`.
    fn outcome(self) -> &'static str;

    /// The reason for the outcome.
    fn reason(self) -> &'static str;
}
