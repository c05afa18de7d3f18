//! The ports, app and time needed to apply an event.

use nostr_push_core::{Millis, app::App};

/// The ports, the app of the event's owner, and the time.
pub struct EventContext<'a, S, E> {
    /// The tables.
    pub store: &'a S,
    /// SNS.
    pub sns: &'a E,
    /// The app.
    pub app: &'a App,
    /// The current time.
    pub now: Millis,
}
