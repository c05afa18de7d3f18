//! The listener's dependencies other than relays.

use nostr_push_core::Millis;

use crate::counter::Count;

/// The ports of a listener.
pub struct Ports<F, S, Q, R, P> {
    /// The change feed of subscriptions.
    pub feed: F,
    /// The relays' cursors, the tasks of the listener, and the profiles.
    pub store: S,
    /// The control queue.
    pub control: Q,
    /// The event queue.
    pub content: R,
    /// The profiles that deliver asks for.
    pub profiles: P,
    /// Adds to a counter.
    pub count: Count,
    /// The current time.
    pub clock: fn() -> Millis,
}
