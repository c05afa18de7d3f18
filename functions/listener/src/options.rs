//! The options of a listener.

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
    /// The most live control events per minute from one pubkey.
    pub max_control_events: u32,
    /// The name of this task. It is unique among the listener's tasks.
    pub member: String,
}
