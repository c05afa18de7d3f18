//! Leaves out of a run what its violations do not need.

use crate::{
    plan::Plan,
    run::{Outcome, run},
};

/// Leaves out one part after another, as long as the run still has a violation. Returns the
/// smallest plan that was found, and its outcome. A part is tried again after others have gone. A
/// plan without a violation stays as it is.
pub fn minimize(plan: &Plan) -> (Plan, Outcome) {
    let mut smallest = (plan.clone(), run(plan));
    if smallest.1.judgement.violations.is_empty() {
        return smallest;
    }
    loop {
        let before = smallest.0.without.len();
        for part in Plan::parts() {
            let mut plan = smallest.0.clone();
            if !plan.without.insert(part.to_owned()) {
                continue;
            }
            let outcome = run(&plan);
            if !outcome.judgement.violations.is_empty() {
                smallest = (plan, outcome);
            }
        }
        if smallest.0.without.len() == before {
            return smallest;
        }
    }
}
