//! Which faults happen in a run, and how often. Each run has some of the faults and not others,
//! because some bugs show only if a certain fault is absent.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use strum::VariantArray;

use crate::random::Random;

/// Something that goes wrong from time to time.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, VariantArray, strum::IntoStaticStr,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Fault {
    /// A table throttles a request.
    TableThrottled,
    /// A request to a table takes effect, and its answer is lost.
    TableAnswerLost,
    /// A queue refuses a request.
    QueueRefused,
    /// A queue accepts a part of a batch and refuses the rest.
    QueuePartial,
    /// A queue accepts a request, and its answer is lost.
    QueueAnswerLost,
    /// A message is delivered twice.
    MessageDuplicated,
    /// A message becomes visible up to a minute late.
    MessageLate,
    /// A handled message is not deleted, or its visibility is not changed.
    MessageKept,
    /// SNS throttles a publish.
    SnsThrottled,
    /// SNS fails.
    SnsFailed,
    /// SNS accepts a request, and its answer is lost.
    SnsAnswerLost,
    /// An invocation crashes at a random await.
    Crash,
    /// A relay sends an event minutes late.
    RelayLate,
    /// A copy that a relay sends is forwarded although another copy was forwarded before.
    CopyForwarded,
}

impl Fault {
    /// The name in `--without`.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The most cases per million.
    fn max_rate(self) -> u64 {
        match self {
            Self::TableThrottled | Self::TableAnswerLost => 20_000,
            Self::QueueRefused | Self::QueuePartial | Self::QueueAnswerLost | Self::MessageKept => {
                50_000
            }
            Self::SnsThrottled | Self::SnsFailed | Self::SnsAnswerLost => 100_000,
            Self::MessageDuplicated | Self::MessageLate | Self::Crash | Self::RelayLate => 200_000,
            Self::CopyForwarded => 300_000,
        }
    }
}

/// The faults of a run.
#[derive(Debug, Default)]
pub struct Faults {
    is_over: AtomicBool,
    /// How often each fault happens, in cases per million. Each has random numbers of its own, so
    /// that leaving one out changes as little as possible.
    rates: BTreeMap<Fault, (u64, Random)>,
}

impl Faults {
    /// Draws the faults of a run. Those that are left out never happen.
    pub fn draw(random: &Random, is_left_out: impl Fn(&str) -> bool) -> Self {
        let rate = |fault: &Fault| {
            let rate = random.between(1, fault.max_rate());
            let happens = random.happens(500_000) && !is_left_out(fault.name());
            let rate = if happens { rate } else { 0 };
            (*fault, (rate, random.fork()))
        };
        Self {
            is_over: AtomicBool::new(false),
            rates: Fault::VARIANTS.iter().map(rate).collect(),
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

    /// Decides whether this fault happens now.
    pub fn happens(&self, fault: Fault) -> bool {
        let rate = self.rates.get(&fault);
        !self.is_over() && rate.is_some_and(|(rate, random)| random.happens(*rate))
    }

    /// The rates of the run, in words.
    pub fn describe(&self) -> String {
        let rates = self.rates.iter().filter(|(_, (rate, _))| *rate > 0);
        let rates: Vec<String> = rates
            .map(|(fault, (rate, _))| format!("{} {rate}", fault.name()))
            .collect();
        format!("faults per million: {}", rates.join(", "))
    }
}
