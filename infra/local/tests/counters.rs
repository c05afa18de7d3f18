//! The tables of counters in `docs/local.md` list exactly the counters of the code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::collections::BTreeSet;

use nostr_push_aws::batch::BatchCounter;
use nostr_push_core::counter::Counter;
use nostr_push_local::root;
use strum::VariantArray;

/// The counters of a stage, as `stage.outcome.reason`.
fn names<C: Counter>(stage: &str, counters: &[C]) -> BTreeSet<String> {
    counters
        .iter()
        .map(|counter| format!("{stage}.{}.{}", counter.outcome(), counter.reason()))
        .collect()
}

/// The counters of a Lambda: those of the stage, and those of the partial-batch loop.
fn lambda_names<C: Counter>(stage: &str, counters: &[C]) -> BTreeSet<String> {
    let mut all = names(stage, counters);
    all.extend(names(stage, BatchCounter::VARIANTS));
    all
}

/// The names in the first column of a stage's table.
fn documented(stage: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/local.md")).unwrap();
    let counters = page.split_once("\n## Counters\n").unwrap().1;
    let counters = counters.split("\n## ").next().unwrap();
    let heading = format!("\n### {stage}\n");
    let (_, section) = counters
        .split_once(&heading)
        .unwrap_or_else(|| panic!("docs/local.md has no section {stage}"));
    let section = section.split("\n### ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split_once('`').unwrap().0.to_owned())
        .collect()
}

fn assert_documented(stage: &str, counted: &BTreeSet<String>) {
    let rows = documented(stage);
    let documented: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), documented.len(), "{stage}: a row is repeated");
    let missing: Vec<_> = counted.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(counted).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/local.md lacks {missing:?}, and lists {unknown:?}, which do not exist"
    );
}

#[test]
fn counters_of_listener_are_documented() {
    let counters = listener::counter::ListenerCounter::all();
    assert_documented("listener", &names("listener", &counters));
}

#[test]
fn counters_of_control_are_documented() {
    let counters = control::report::ControlCounter::all();
    assert_documented("control", &lambda_names("control", &counters));
}

#[test]
fn counters_of_matcher_are_documented() {
    let counters = matcher::report::MatcherCounter::all();
    assert_documented("matcher", &lambda_names("matcher", &counters));
}

#[test]
fn counters_of_deliver_are_documented() {
    let counters = deliver::report::DeliverCounter::all();
    assert_documented("deliver", &lambda_names("deliver", &counters));
}

#[test]
fn counters_of_feedback_are_documented() {
    let counters = feedback::report::FeedbackCounter::all();
    assert_documented("feedback", &lambda_names("feedback", &counters));
}
