//! `pushctl reconcile` against the local AWS endpoint.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::collections::HashMap;

use nostr::key::Keys;
use nostr_push_aws::{clients, dynamodb::Store, sns::Sns};
use nostr_push_core::{
    app::{App, Platform},
    ports::{Devices, Endpoints, EnsuredEndpoint},
};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK},
    tools::Tools,
};
use nostr_push_testkit::{builders::device, owner, registration};
use serde_json::{Value, json};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn only_endpoints_without_a_device_are_deleted() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let aws = Aws::start(&tools, data.path(), LocalPorts::ANY)
        .await
        .unwrap();
    let environment = aws.environment();
    aws::create_tables(&tools, &environment).await.unwrap();
    let app = aws::put_app(&environment, App::named("demo"), &[Platform::Fcm]).await;
    let application = &app.unwrap().platforms[&Platform::Fcm];
    let sns = Sns::new(&clients::at(&environment, "AWS_ENDPOINT_URL_SNS").await);
    let mut arns = Vec::new();
    for token in ["kept", "orphan-1", "orphan-2"] {
        let EnsuredEndpoint::Ready(arn) = sns.ensure(application, token).await.unwrap() else {
            panic!("SNS refuses the token {token}")
        };
        arns.push(arn);
    }
    let kept = arns.remove(0);
    let mut orphans = arns;
    orphans.sort();
    let owner = owner(Keys::generate().public_key());
    let device = device("hash", registration(&owner, &kept));
    let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
    let store = Store::new(&config, STACK);
    assert!(store.commit(Some(&device), None).await.unwrap());

    let listed = reconcile(&environment, &[]).await;
    assert_eq!(listed["endpoints"], 3);
    assert_eq!(sorted(&listed["without_device"]), orphans);
    assert_eq!(listed["removed"], json!([]));
    let removed = reconcile(&environment, &["--remove", "--grace", "0"]).await;
    assert_eq!(sorted(&removed["removed"]), orphans);
    assert_eq!(
        reconcile(&environment, &[]).await,
        json!({"endpoints": 1, "without_device": [], "removed": []})
    );
    assert!(sns.is_enabled(&kept).await.unwrap());
    aws.stop().await;
}

/// Runs `pushctl reconcile`, and returns its output.
async fn reconcile(environment: &HashMap<String, String>, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pushctl"));
    let output = command
        .args(["reconcile", "--json"])
        .args(arguments)
        .envs(environment)
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sorted(list: &Value) -> Vec<String> {
    let mut list: Vec<String> = serde_json::from_value(list.clone()).unwrap();
    list.sort();
    list
}
