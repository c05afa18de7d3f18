//! SNS endpoints, and publishing to them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use aws_sdk_sns::Client;
use nostr_push_aws::{clients, sns::Sns};
use nostr_push_core::{
    app::{App, Platform},
    ports::{Endpoints, EnsuredEndpoint, PublishOutcome, Publisher, Push, RetryReason},
};
use nostr_push_local::aws;
use serde_json::json;

fn push() -> Push {
    Push {
        message: json!({"default": "x", "GCM": "{}"}).to_string(),
        attributes: vec![("AWS.SNS.MOBILE.FCM.TTL".to_owned(), "5".to_owned())],
    }
}

pub(crate) async fn endpoints_are_created_enabled_and_deleted(
    environment: &HashMap<String, String>,
) {
    let app = aws::put_app(environment, App::named("endpoints"), &[Platform::Fcm]).await;
    let platform = &app.unwrap().platforms[&Platform::Fcm];
    let config = clients::at(environment, "AWS_ENDPOINT_URL_SNS").await;
    let (sns, client) = (Sns::new(&config), Client::new(&config));
    let ensure = async |token: &str| match sns.ensure(platform, token).await.unwrap() {
        EnsuredEndpoint::Ready(arn) => arn,
        EnsuredEndpoint::BadToken => panic!("SNS refuses the token {token}"),
    };
    let publish = async |arn: &str| sns.publish(arn, &push()).await;
    let arn = ensure("token").await;
    assert_eq!(ensure("token").await, arn);
    assert_eq!(publish(&arn).await, PublishOutcome::Delivered);

    // The app is uninstalled, which disables the endpoint, and registers again.
    let request = client.set_endpoint_attributes().endpoint_arn(&arn);
    let disabled = request.attributes("Enabled", "false").send().await;
    disabled.unwrap();
    assert_eq!(publish(&arn).await, PublishOutcome::Gone);
    assert!(!sns.is_enabled(&arn).await.unwrap());
    assert_eq!(ensure("token").await, arn);
    assert!(sns.is_enabled(&arn).await.unwrap());
    let request = client.get_endpoint_attributes().endpoint_arn(&arn);
    let attributes = request.send().await.unwrap().attributes.unwrap();
    assert_eq!(attributes["Enabled"], "true");

    // SNS refuses to create an endpoint that exists with other attributes.
    let request = client.create_platform_endpoint();
    let request = request
        .platform_application_arn(platform)
        .token("other")
        .custom_user_data("of another program");
    let other = request.send().await.unwrap().endpoint_arn.unwrap();
    assert_eq!(ensure("other").await, other);

    sns.delete(&arn).await.unwrap();
    sns.delete(&arn).await.unwrap();
    assert!(!sns.is_enabled(&arn).await.unwrap());
    assert_eq!(publish(&arn).await, PublishOutcome::Gone);
    assert_ne!(ensure("token").await, arn, "a new endpoint is created");
}

pub(crate) async fn publish_without_an_answer_is_retried() {
    const ENDPOINT: &str = "AWS_ENDPOINT_URL_SNS";
    let variables = HashMap::from([(ENDPOINT.to_owned(), "http://127.0.0.1:9".to_owned())]);
    let sns = Sns::new(&clients::at(&variables, ENDPOINT).await);
    let started = Instant::now();
    assert_eq!(
        sns.publish("arn:endpoint", &push()).await,
        PublishOutcome::Retry {
            after: None,
            reason: RetryReason::NoResponse
        }
    );
    assert!(started.elapsed() < Duration::from_secs(30));
}
