//! The limit of writes per second.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

/// Lets writes begin at even intervals.
pub(super) struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// At most this many writes per second.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `writes` more writes may begin.
    pub(super) async fn wait(&self, writes: usize) {
        let begin = {
            let mut next = self.next.lock().await;
            let begin = (*next).max(Instant::now());
            *next = begin + self.interval * u32::try_from(writes).unwrap_or(u32::MAX);
            begin
        };
        tokio::time::sleep_until(begin).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_are_spread_over_time() {
        let pace = Pace::new(100);
        let start = Instant::now();
        for _ in 0..5 {
            pace.wait(2).await;
        }
        assert!(start.elapsed() >= Duration::from_millis(80));
    }
}
