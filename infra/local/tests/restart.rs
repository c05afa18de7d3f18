//! A second start on the same data finds its state: the tables in ministack, the endpoints in SNS,
//! the pushes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use nostr_push_aws::{clients, dynamodb::Store, sns::Sns};
use nostr_push_core::{
    app::{App, Platform},
    ports::{Apps, Endpoints, Ensured, Outcome, Publisher, Push},
};
use nostr_push_local::{
    aws::{self, Aws, Ports, STACK},
    tools::Tools,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_finds_tables_endpoints_and_pushes() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let push = Push {
        message: json!({"default": "x", "GCM": "{\"n\":1}"}).to_string(),
        attributes: Vec::new(),
    };

    let aws = Aws::start(&tools, data.path(), Ports::ANY).await.unwrap();
    aws::create_tables(&tools, &aws.environment())
        .await
        .unwrap();
    let app = aws::put_app(&aws.environment(), App::named("demo"), &[Platform::Fcm])
        .await
        .unwrap();
    let sns = Sns::new(&clients::at(&aws.environment(), "AWS_ENDPOINT_URL_SNS").await);
    let mut endpoints = Vec::new();
    for token in ["kept", "disabled", "deleted"] {
        let Ensured::Endpoint(arn) = sns
            .ensure(&app.platforms[&Platform::Fcm], token)
            .await
            .unwrap()
        else {
            panic!("refused")
        };
        assert_eq!(sns.publish(&arn, &push).await, Outcome::Delivered);
        endpoints.push(arn);
    }
    assert_eq!(aws.sns.disable("disabled").await.unwrap(), 1);
    sns.delete(&endpoints[2]).await.unwrap();
    aws.stop().await;

    let aws = Aws::start(&tools, data.path(), Ports::ANY).await.unwrap();
    let store = Store::new(
        &clients::at(&aws.environment(), "AWS_ENDPOINT_URL").await,
        STACK,
    );
    assert_eq!(store.app("demo").await.unwrap(), Some(app));
    let sns = Sns::new(&clients::at(&aws.environment(), "AWS_ENDPOINT_URL_SNS").await);
    for (arn, outcome) in endpoints
        .iter()
        .zip([Outcome::Delivered, Outcome::Gone, Outcome::Gone])
    {
        assert_eq!(sns.publish(arn, &push).await, outcome, "{arn}");
    }
    let pushes: Vec<_> = aws
        .sns
        .pushes(0)
        .into_iter()
        .map(|push| (push.seq, push.token))
        .collect();
    assert_eq!(
        pushes,
        [
            (1, "kept".to_owned()),
            (2, "disabled".to_owned()),
            (3, "deleted".to_owned()),
            (4, "kept".to_owned())
        ]
    );
    aws.stop().await;
}
