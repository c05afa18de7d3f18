//! The rules about which part may use which: stages do not depend on each other, only `main.rs` and
//! `config.rs` use AWS, and `report.rs` uses only `batch` and `telemetry`. Core depends on neither
//! AWS nor tokio.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nostr_push_local::root;
use serde_json::Value;

const STAGES: [&str; 5] = ["listener", "control", "matcher", "deliver", "feedback"];

/// The files of a stage that may use all of AWS. `main.rs` builds the adapters, and `config.rs`
/// reads the environment.
const WIRING: [&str; 2] = ["main.rs", "config.rs"];

/// The modules of `nostr_push_aws` that `report.rs` of a stage may use.
const REPORT_MODULES: [&str; 2] = ["batch", "telemetry"];

/// The names of the crates that a workspace member lists in `[dependencies]`.
fn dependencies(member: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == member);
    let dependencies = package.unwrap()["dependencies"].as_array().unwrap();
    dependencies
        .iter()
        // Dev-dependencies have the kind "dev".
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The Rust files in a folder and its subfolders.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules of `nostr_push_aws` that a file names, such as `batch` in
/// `use nostr_push_aws::{batch::Retry};`.
fn aws_modules(text: &str) -> Vec<&str> {
    let is_separator = |c: char| !c.is_alphanumeric() && c != '_';
    let mut modules = Vec::new();
    for after in text.split("nostr_push_aws").skip(1) {
        let path = after.strip_prefix("::").unwrap_or_default();
        let paths: Vec<&str> = match path.strip_prefix('{') {
            Some(list) => list_items(list),
            None => vec![path],
        };
        let words = paths
            .iter()
            .map(|path| path.trim_start().split(is_separator).next().unwrap());
        modules.extend(words.filter(|word| !word.is_empty()));
    }
    modules
}

/// The items of a `{…}` list, of which `list` starts after the opening brace. An item can contain
/// lists.
fn list_items(list: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (position, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                items.push(&list[start..position]);
                if c == '}' {
                    break;
                }
                start = position + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn stages_depend_on_neither_the_aws_sdk_nor_each_other() {
    for stage in STAGES {
        for dependency in dependencies(stage) {
            let is_sdk = dependency.starts_with("aws-sdk-") || dependency == "aws-config";
            let is_stage = STAGES.contains(&dependency.as_str());
            assert!(!is_sdk && !is_stage, "{stage} depends on {dependency}");
        }
    }
}

/// `sam build` runs `cargo lambda build --bin NAME` in the root of the repository, and so it builds
/// with the features of all default members.
#[test]
fn functions_do_not_contain_the_ways_to_sign_in_of_pushctl() {
    let tree = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .current_dir(root())
            .args(["tree", "--offline", "--edges=normal", "--prefix=none"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let sign_in = ["aws-sdk-sso ", "aws-sdk-ssooidc ", "aws-sdk-signin "];
    let default_members = tree(&[]);
    assert!(
        STAGES
            .iter()
            .all(|stage| default_members.contains(&format!("{stage} v")))
    );
    let pushctl = tree(&["--package=pushctl"]);
    for package in sign_in {
        assert!(!default_members.contains(package), "{package}");
        assert!(pushctl.contains(package), "{package}");
    }
}

#[test]
fn core_depends_on_neither_aws_nor_tokio() {
    for dependency in dependencies("nostr-push-core") {
        let forbidden = ["aws", "lambda", "tokio", "nostr-push"];
        let is_forbidden = forbidden.iter().any(|name| dependency.starts_with(name));
        assert!(!is_forbidden, "core depends on {dependency}");
    }
}

#[test]
fn only_wiring_and_reports_use_aws() {
    for stage in STAGES {
        let source = root().join("functions").join(stage).join("src");
        for file in rust_files(&source) {
            let path = file.strip_prefix(&source).unwrap().to_str().unwrap();
            if WIRING.contains(&path) {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            for name in ["aws_sdk", "aws_config"] {
                assert!(!text.contains(name), "{stage}/src/{path} uses {name}");
            }
            if path != "report.rs" {
                let uses_aws = text.contains("nostr_push_aws");
                assert!(!uses_aws, "{stage}/src/{path} uses nostr_push_aws");
            }
            for module in aws_modules(&text) {
                let is_allowed = REPORT_MODULES.contains(&module);
                assert!(
                    is_allowed,
                    "{stage}/src/{path} uses nostr_push_aws::{module}"
                );
            }
        }
    }
}

#[test]
fn aws_modules_are_found_in_lists_and_paths() {
    let text = "use nostr_push_aws::{batch::Retry, telemetry::Telemetry};
        use nostr_push_aws::sqs::Queue;
        fn f(_: nostr_push_aws::sns::Sns) {}";
    assert_eq!(aws_modules(text), ["batch", "telemetry", "sqs", "sns"]);
    let nested = "use nostr_push_aws::{batch::{Retry}, sqs::Queue}; use std::{env, fs};";
    assert_eq!(aws_modules(nested), ["batch", "sqs"]);
}
