//! `pushctl reconcile` against the local AWS endpoint.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::collections::BTreeMap;

use nostr::key::Keys;
use nostr_push_aws::{clients, dynamodb::Store, sns::Sns};
use nostr_push_core::{
    app::{App, Platform},
    device::{Device, DeviceId, Registration, State},
    order::Order,
    owner::Owner,
    ports::{Devices, Endpoints, Ensured},
};
use nostr_push_local::{
    aws::{self, Aws, Ports, STACK},
    tools::Tools,
};
use serde_json::{Value, json};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_without_a_device_are_listed_and_removed_and_no_others() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let aws = Aws::start(&tools, data.path(), Ports::ANY).await.unwrap();
    let environment = aws.environment();
    aws::create_tables(&tools, &environment).await.unwrap();
    let app = aws::put_app(&environment, App::named("demo"), &[Platform::Fcm])
        .await
        .unwrap();
    let sns = Sns::new(&clients::at(&environment, "AWS_ENDPOINT_URL_SNS").await);
    let mut arns = Vec::new();
    for token in ["kept", "orphan-1", "orphan-2"] {
        let Ensured::Endpoint(arn) = sns
            .ensure(&app.platforms[&Platform::Fcm], token)
            .await
            .unwrap()
        else {
            panic!("refused")
        };
        arns.push(arn);
    }
    let registration = Registration {
        owner: Owner {
            app: "demo".to_owned(),
            pubkey: Keys::generate().public_key(),
        },
        order: Order::counter(1),
        platform: Platform::Fcm,
        by_settings: false,
        registered_at: 1,
        max_mentions: None,
        taken_from: None,
        endpoint_arn: Some(arns[0].clone()),
        state: State::Active,
        valid_until: 4_000_000_000,
    };
    let id = DeviceId {
        app: "demo".to_owned(),
        token_hash: "hash".to_owned(),
    };
    let device = Device {
        id,
        registration: Some(registration),
        removals: BTreeMap::new(),
        expires_at: 4_000_000_000,
        version: 0,
    };
    let store = Store::new(&clients::at(&environment, "AWS_ENDPOINT_URL").await, STACK);
    assert!(store.commit(Some(&device), None).await.unwrap());

    let reconcile = async |more: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushctl"));
        let output = command
            .args(["reconcile", "--json"])
            .args(more)
            .envs(&environment)
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let sorted = |list: &Value| {
        let mut list: Vec<String> = serde_json::from_value(list.clone()).unwrap();
        list.sort();
        list
    };
    let mut orphans = arns[1..].to_vec();
    orphans.sort();
    let listed = reconcile(&[]).await;
    assert_eq!(
        (
            &listed["endpoints"],
            sorted(&listed["without_device"]),
            &listed["removed"]
        ),
        (&json!(3), orphans.clone(), &json!([]))
    );
    assert_eq!(
        sorted(&reconcile(&["--remove", "--grace", "0"]).await["removed"]),
        orphans
    );
    assert_eq!(
        reconcile(&[]).await,
        json!({"endpoints": 1, "without_device": [], "removed": []})
    );
    assert!(sns.is_enabled(&arns[0]).await.unwrap());
    aws.stop().await;
}
