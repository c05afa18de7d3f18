//! A second start with the same data continues with its state: tables, endpoints and pushes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use nostr_push_aws::{clients, dynamodb::Store, sns::Sns};
use nostr_push_core::{
    app::{App, Platform},
    ports::{Apps, Endpoints, EnsuredEndpoint, PublishOutcome, Publisher, Push},
};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK},
    tools::Tools,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn second_start_keeps_tables_endpoints_and_pushes() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let push = Push {
        message: json!({"default": "x", "GCM": "{\"n\":1}"}).to_string(),
        attributes: Vec::new(),
    };

    let aws = Aws::start(&tools, data.path(), LocalPorts::ANY)
        .await
        .unwrap();
    let environment = aws.environment();
    aws::create_tables(&tools, &environment).await.unwrap();
    let app = aws::put_app(&environment, App::named("demo"), &[Platform::Fcm]).await;
    let app = app.unwrap();
    let sns = sns(&aws).await;
    let mut endpoints = Vec::new();
    for token in ["kept", "disabled", "deleted"] {
        let application = &app.platforms[&Platform::Fcm];
        let EnsuredEndpoint::Ready(arn) = sns.ensure(application, token).await.unwrap() else {
            panic!("SNS refuses the token {token}")
        };
        assert_eq!(sns.publish(&arn, &push).await, PublishOutcome::Delivered);
        endpoints.push(arn);
    }
    assert_eq!(aws.sns.disable("disabled").await.unwrap(), 1);
    sns.delete(&endpoints[2]).await.unwrap();
    aws.stop().await;

    let aws = Aws::start(&tools, data.path(), LocalPorts::ANY)
        .await
        .unwrap();
    let config = clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await;
    let stored = Store::new(&config, STACK).app("demo").await.unwrap();
    assert_eq!(stored, Some(app));
    let sns = self::sns(&aws).await;
    let outcomes = [
        PublishOutcome::Delivered,
        PublishOutcome::Gone,
        PublishOutcome::Gone,
    ];
    for (arn, outcome) in endpoints.iter().zip(outcomes) {
        assert_eq!(sns.publish(arn, &push).await, outcome, "{arn}");
    }
    let pushes = aws.sns.pushes(0);
    let pushes: Vec<_> = pushes
        .iter()
        .map(|push| (push.seq, push.token.as_str()))
        .collect();
    assert_eq!(
        pushes,
        [(1, "kept"), (2, "disabled"), (3, "deleted"), (4, "kept")]
    );
    aws.stop().await;
}

async fn sns(aws: &Aws) -> Sns {
    Sns::new(&clients::at(&aws.environment(), "AWS_ENDPOINT_URL_SNS").await)
}
