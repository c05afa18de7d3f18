//! Stopping the listener, or the connection to one relay.

use tokio::sync::watch;

/// Tells a task when to stop. There are two states:
///
/// - *Running*: no stop has been requested. The task does its work.
/// - *Stop requested*: [`StopHandle::stop`] was called, or the handle was dropped. The task
///   finishes what it has begun and returns. This state is final.
///
/// All clones have the same state.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Requests the stop of everything that has a clone of its [`Shutdown`].
#[derive(Debug)]
pub struct StopHandle(watch::Sender<bool>);

impl Shutdown {
    /// A new shutdown in state *running*, with the handle that ends it.
    pub fn channel() -> (StopHandle, Self) {
        let (sender, receiver) = watch::channel(false);
        (StopHandle(sender), Self(receiver))
    }

    /// Returns `true` if a stop has been requested.
    pub fn is_stop_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until a stop is requested. Returns at once if it has been.
    pub async fn stop_requested(&mut self) {
        // The error means that the handle was dropped.
        drop(self.0.wait_for(|stop| *stop).await);
    }
}

impl StopHandle {
    /// Requests the stop. Further calls change nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn all_clones_see_the_request() {
        let (handle, mut shutdown) = Shutdown::channel();
        let mut clone = shutdown.clone();
        assert!(!shutdown.is_stop_requested());
        assert_eq!(clone.stop_requested().now_or_never(), None);
        handle.stop();
        for shutdown in [&mut shutdown, &mut clone] {
            assert!(shutdown.is_stop_requested());
            assert_eq!(shutdown.stop_requested().now_or_never(), Some(()));
        }
    }

    #[tokio::test]
    async fn dropping_the_handle_requests_a_stop() {
        let (handle, mut shutdown) = Shutdown::channel();
        drop(handle);
        assert!(shutdown.is_stop_requested());
        shutdown.stop_requested().await;
    }
}
