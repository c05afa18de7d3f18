//! Runs the built program.

use std::collections::HashMap;

use serde_json::Value;
use tokio::process::Command;

/// Runs pushctl with these variables. Returns the exit code, the output as JSON, and the messages
/// on standard error.
pub(crate) async fn run(
    environment: &HashMap<String, String>,
    arguments: &[&str],
) -> (i32, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushctl"));
    let output = command
        .arg("--json")
        .args(arguments)
        .envs(environment)
        .output()
        .await
        .unwrap();
    (
        output.status.code().unwrap(),
        serde_json::from_slice(&output.stdout).unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Runs a command that must succeed, and returns its output.
pub(crate) async fn succeeds(environment: &HashMap<String, String>, arguments: &[&str]) -> Value {
    let (code, output, messages) = run(environment, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {messages}");
    output
}
