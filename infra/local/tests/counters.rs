//! The tables of counters in `docs/local.md` list exactly the counters of the code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

#[path = "counters/emitted.rs"]
mod emitted;

use std::collections::BTreeSet;

use nostr_push_local::root;

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
fn every_counter_is_documented() {
    for (stage, counters) in emitted::counters() {
        let names = counters
            .iter()
            .map(|(outcome, reason)| format!("{stage}.{outcome}.{reason}"));
        assert_documented(stage, &names.collect());
    }
}
