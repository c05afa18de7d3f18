//! The scripts are checked with shellcheck.

use nostr_push_local::{packages::has_package, report_skipped, root};
use tokio::process::Command;

/// The scripts of a deployment. The first line of each names its shell, which shellcheck obeys.
const SCRIPTS: [&str; 4] = [
    "infra/deploy",
    "infra/release",
    "infra/image/build",
    "infra/image/listener",
];

#[tokio::test]
async fn shellcheck_finds_no_problems() {
    let deploy = std::fs::read_to_string(root().join("infra/deploy")).unwrap();
    assert!(deploy.starts_with("#!/bin/sh\n"), "macOS has bash 3.2");
    if !has_package("shellcheck", "shellcheck").await {
        return report_skipped("shellcheck is not installed (Debian: apt-get install shellcheck)");
    }
    let mut check = Command::new("shellcheck");
    let output = check.current_dir(root()).args(SCRIPTS).output().await;
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}
