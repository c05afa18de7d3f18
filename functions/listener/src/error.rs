//! Why the listener stopped without a request.

use std::time::Duration;

/// Why the listener stopped without a request, or without having stored everything.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// A task inside the listener ended. The process must end too, so that it is started again.
    #[error("a task ended: {0}")]
    TaskEnded(String),
    /// The buffers were not empty in time. The events in them are requested again after the next
    /// start.
    #[error("the buffers were not empty after {0:?}")]
    NotDrained(Duration),
}
