//! The counters that the code can emit.

use std::collections::{BTreeMap, BTreeSet};

use nostr_push_aws::batch::BatchCounter;
use nostr_push_core::counter::Counter;
use strum::VariantArray;

/// Outcomes, each with its reason.
type Reasons = BTreeSet<(&'static str, &'static str)>;

fn reasons<C: Counter>(counters: &[C]) -> Reasons {
    let reasons = counters.iter().map(|c| (c.outcome(), c.reason()));
    reasons.collect()
}

/// The counters of a Lambda: those of the stage, and those of the partial-batch loop.
fn of_lambda<C: Counter>(counters: &[C]) -> Reasons {
    let mut all = reasons(counters);
    all.extend(reasons(BatchCounter::VARIANTS));
    all
}

/// All counters, by stage.
pub(crate) fn counters() -> BTreeMap<&'static str, Reasons> {
    BTreeMap::from([
        (
            "listener",
            reasons(&listener::counter::ListenerCounter::all()),
        ),
        (
            "control",
            of_lambda(&control::report::ControlCounter::all()),
        ),
        (
            "matcher",
            of_lambda(&matcher::report::MatcherCounter::all()),
        ),
        (
            "deliver",
            of_lambda(&deliver::report::DeliverCounter::all()),
        ),
        (
            "feedback",
            of_lambda(&feedback::report::FeedbackCounter::all()),
        ),
    ])
}
