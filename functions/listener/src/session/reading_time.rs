//! How long the socket has been read, and since when the relay is silent. The time in which a full
//! buffer or the relay's budget keeps the socket from being read does not count.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

/// How long a relay may send nothing before it is pinged. After the same time again the connection
/// is lost. A message that has not come completely counts for each
/// [`PROGRESS_BYTES`](crate::frame::PROGRESS_BYTES) of it.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// The reading time of one connection.
#[derive(Debug)]
pub(super) struct ReadingTime {
    started: Instant,
    /// The time in which the socket was not read.
    blocked: Duration,
    /// The reading time at the last update.
    now: Duration,
    /// The reading time when the last frame came, or when the relay was pinged.
    last_frame: Duration,
    /// `true` if a ping was sent after the last frame.
    pinged: bool,
    /// The pause in which the socket is not read.
    pause: Option<Pause>,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    began: Instant,
    end: Instant,
}

impl ReadingTime {
    /// The reading time of a connection that begins.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            blocked: Duration::ZERO,
            now: Duration::ZERO,
            last_frame: Duration::ZERO,
            pinged: false,
            pause: None,
        }
    }

    /// The reading time at the last update.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// Updates the reading time.
    pub(super) fn update(&mut self, now: Instant) {
        if self.pause.is_none() {
            let elapsed = now.duration_since(self.started);
            self.now = self.now.max(elapsed.saturating_sub(self.blocked));
        }
    }

    /// The socket was not read for this time.
    pub(super) fn record_blocked(&mut self, time: Duration) {
        self.blocked += time;
    }

    /// Begins a pause in which the socket is not read.
    pub(super) fn begin_pause(&mut self, pause: Duration, now: Instant) {
        self.pause = Some(Pause {
            began: now,
            end: now + pause,
        });
    }

    /// Ends the pause.
    pub(super) fn end_pause(&mut self, now: Instant) {
        if let Some(pause) = self.pause.take() {
            self.record_blocked(now.duration_since(pause.began));
        }
    }

    /// Returns `true` during a pause.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Waits for the end of the pause. Without a pause it waits for ever.
    pub(super) async fn pause_over(&self) {
        match self.pause {
            Some(pause) => sleep_until(pause.end).await,
            None => pending().await,
        }
    }

    /// A frame came.
    pub(super) fn record_frame(&mut self) {
        (self.last_frame, self.pinged) = (self.now, false);
    }

    /// The relay was pinged.
    pub(super) fn record_ping(&mut self) {
        (self.last_frame, self.pinged) = (self.now, true);
    }

    /// Returns `true` if no frame came since the relay was pinged.
    pub(super) fn has_pinged(&self) -> bool {
        self.pinged
    }

    /// Returns `true` if nothing came for too long.
    pub(super) fn is_relay_silent(&self) -> bool {
        self.now.saturating_sub(self.last_frame) > SILENCE_TIMEOUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_in_which_the_socket_is_read_counts() {
        let started = Instant::now();
        let at = |seconds| started + Duration::from_secs(seconds);
        let mut time = ReadingTime::new(started);
        time.update(at(10));
        assert_eq!(time.now(), Duration::from_secs(10));
        time.record_blocked(Duration::from_secs(100));
        time.update(at(110));
        assert_eq!(time.now(), Duration::from_secs(10));
        time.begin_pause(Duration::from_secs(50), at(110));
        time.update(at(140));
        assert_eq!(time.now(), Duration::from_secs(10));
        time.end_pause(at(160));
        time.update(at(196));
        assert_eq!(time.now(), Duration::from_secs(46));
        assert!(time.is_relay_silent() && !time.has_pinged());
        time.record_ping();
        assert!(!time.is_relay_silent() && time.has_pinged());
        time.record_frame();
        assert!(!time.has_pinged());
    }
}
