//! `pushctl reconcile` deletes endpoints without a device.

use nostr::key::Keys;
use nostr_push_core::{
    app::{App, Platform},
    ports::{Devices, Endpoints, EnsuredEndpoint},
};
use nostr_push_local::aws;
use nostr_push_testkit::{builders::device, owner, registration};
use serde_json::{Value, json};

use crate::{Endpoint, STACK};

#[tokio::test(flavor = "multi_thread")]
async fn only_endpoints_without_a_device_are_deleted() {
    let endpoint = Endpoint::start().await;
    let environment = &endpoint.environment;
    let app = aws::put_app(environment, App::named("demo"), &[Platform::Fcm]).await;
    let application = &app.unwrap().platforms[&Platform::Fcm];
    let sns = endpoint.sns().await;
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
    let store = endpoint.store(STACK);
    assert!(store.commit(Some(&device), None).await.unwrap());

    let listed = endpoint.succeeds(&["reconcile"]).await;
    assert_eq!(listed["endpoints"], 3);
    assert_eq!(sorted(&listed["without_device"]), orphans);
    assert_eq!(listed["removed"], json!([]));
    let removed = endpoint
        .succeeds(&["reconcile", "--remove", "--grace", "0"])
        .await;
    assert_eq!(sorted(&removed["removed"]), orphans);
    assert_eq!(
        endpoint.succeeds(&["reconcile"]).await,
        json!({"endpoints": 1, "without_device": [], "removed": []})
    );
    assert!(sns.is_enabled(&kept).await.unwrap());
    endpoint.aws.stop().await;
}

fn sorted(list: &Value) -> Vec<String> {
    let mut list: Vec<String> = serde_json::from_value(list.clone()).unwrap();
    list.sort();
    list
}
