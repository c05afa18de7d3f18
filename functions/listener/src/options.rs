//! The options of a listener.

use crate::budget::Budgets;

/// The options of a listener.
#[derive(Debug, Clone)]
pub struct Options {
    /// The URLs of the operator's relays.
    pub relays: Vec<String>,
    /// The most relays of owners that are watched in addition, by all tasks together.
    pub max_owners_relays: usize,
    /// If `true`, owners' relays may have private addresses and no TLS. Only for a developer's
    /// machine.
    pub allow_private: bool,
    /// Who may cost how much.
    pub budgets: Budgets,
    /// The app of dialect H events without an `app` tag.
    pub heartbeat_app: Option<String>,
    /// The name of this task. It is unique among the listener's tasks.
    pub member: String,
}
