//! Which faults happen in a run, and how often. Each run has some of the faults and not others,
//! because some bugs show only if a certain fault is absent.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::random::Random;

/// The faults of a run. Numbers are cases per million.
#[derive(Debug, Default)]
pub struct Faults {
    is_over: AtomicBool,
    rates: Rates,
}

/// How often each fault happens, per million cases.
#[derive(Debug, Default, Clone)]
pub struct Rates {
    /// A table throttles a request.
    pub table_throttled: u64,
    /// A request to a table takes effect, and its answer is lost.
    pub table_answer_lost: u64,
    /// A queue refuses a request.
    pub queue_refused: u64,
    /// A queue accepts a part of a batch and refuses the rest.
    pub queue_partial: u64,
    /// A queue accepts a request, and its answer is lost.
    pub queue_answer_lost: u64,
    /// A message is delivered twice.
    pub message_duplicated: u64,
    /// A message becomes visible up to a minute late.
    pub message_late: u64,
    /// A handled message is not deleted, or its visibility is not changed.
    pub message_kept: u64,
    /// SNS throttles a publish.
    pub sns_throttled: u64,
    /// SNS fails.
    pub sns_failed: u64,
    /// SNS accepts a request, and its answer is lost.
    pub sns_answer_lost: u64,
    /// An invocation crashes at a random await.
    pub crash: u64,
    /// A relay sends an event minutes late.
    pub relay_late: u64,
    /// A copy that a relay sends is forwarded although another copy was forwarded before.
    pub copy_forwarded: u64,
}

impl Faults {
    /// Draws the faults of a run.
    pub fn draw(random: &Random) -> Self {
        let rate = |max: u64| {
            let rate = random.between(1, max);
            if random.happens(500_000) { rate } else { 0 }
        };
        let rates = Rates {
            table_throttled: rate(20_000),
            table_answer_lost: rate(20_000),
            queue_refused: rate(50_000),
            queue_partial: rate(50_000),
            queue_answer_lost: rate(50_000),
            message_duplicated: rate(200_000),
            message_late: rate(200_000),
            message_kept: rate(50_000),
            sns_throttled: rate(100_000),
            sns_failed: rate(100_000),
            sns_answer_lost: rate(100_000),
            crash: rate(200_000),
            relay_late: rate(200_000),
            copy_forwarded: rate(300_000),
        };
        Self {
            is_over: AtomicBool::new(false),
            rates,
        }
    }

    /// From now on there are no faults.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if there are no faults any more.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The rates in force.
    pub fn rates(&self) -> Rates {
        if self.is_over() {
            Rates::default()
        } else {
            self.rates.clone()
        }
    }

    /// The rates of the run, in words.
    pub fn describe(&self) -> String {
        format!("faults per million: {:?}", self.rates)
    }
}
