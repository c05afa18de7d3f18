//! `pushctl doctor` and the logging of the platforms' answers.

use nostr_push_core::app::{App, Platform};
use nostr_push_local::aws;
use serde_json::Value;

use crate::{Endpoint, STACK};

/// The check with this name: whether it succeeded, and what it found.
fn check(report: &Value, name: &str) -> (bool, String) {
    let mut checks = report["checks"].as_array().unwrap().iter();
    let check = checks.find(|check| check["check"] == name);
    let check = check.unwrap_or_else(|| panic!("no check {name}: {report}"));
    let found = check["found"].as_str().unwrap().to_owned();
    (check["ok"].as_bool().unwrap(), found)
}

/// A restored table has neither a TTL nor recovery, and one does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_what_tables_lack() {
    let endpoint = Endpoint::start().await;
    let client = aws_sdk_dynamodb::Client::new(&endpoint.config);
    let name = format!("{STACK}-settings");
    let ttl = aws_sdk_dynamodb::types::TimeToLiveSpecification::builder()
        .enabled(true)
        .attribute_name("expires_at")
        .build()
        .unwrap();
    let request = client.update_time_to_live().table_name(&name);
    request
        .time_to_live_specification(ttl)
        .send()
        .await
        .unwrap();
    let recovery = aws_sdk_dynamodb::types::PointInTimeRecoverySpecification::builder()
        .point_in_time_recovery_enabled(true)
        .build()
        .unwrap();
    let request = client.update_continuous_backups().table_name(&name);
    let request = request.point_in_time_recovery_specification(recovery);
    request.send().await.unwrap();
    let delete = client
        .delete_table()
        .table_name(format!("{STACK}-presence"));
    delete.send().await.unwrap();

    let (code, report, messages) = endpoint.run(&["doctor"]).await;
    assert_eq!(code, 3, "{messages}");
    assert_eq!(check(&report, "table settings"), (true, name));
    let (ok, found) = check(&report, "table devices");
    assert!(!ok && found.contains("update-time-to-live --table-name nostr-push-devices"));
    assert!(found.contains("update-continuous-backups") && found.contains("no stream"));
    let (ok, found) = check(&report, "table presence");
    assert!(
        !ok && found.contains("there is no table nostr-push-presence"),
        "{found}"
    );
    assert_eq!(check(&report, "region"), (true, "us-east-1".to_owned()));
    endpoint.aws.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_platforms_are_logged_if_it_is_asked_for() {
    let endpoint = Endpoint::start().await;
    let app = aws::put_app(&endpoint.environment, App::named("demo"), &[Platform::Fcm]).await;
    app.unwrap();
    let found = async || {
        let (_, report, _) = endpoint.run(&["doctor"]).await;
        let own = check(&report, "platform applications of demo");
        assert_eq!(own, (true, "nostr-push.demo".to_owned()));
        check(&report, "demo on fcm").1
    };
    let set = async |percent: &str| {
        let add = ["app", "add", "demo", "--delivery-status", percent];
        endpoint.succeeds(&add).await;
        found().await
    };
    // The topic is not set in this platform application until an app is added with credentials.
    assert!(found().await.contains("does not report endpoint events"));
    let account = endpoint.data.path().join("account.json");
    std::fs::write(&account, r#"{"type": "service_account"}"#).unwrap();
    let add = [
        "app",
        "add",
        "demo",
        "--fcm-service-account",
        account.to_str().unwrap(),
    ];
    endpoint.succeeds(&add).await;
    assert!(
        found()
            .await
            .ends_with("SNS logs no answers of the platform")
    );
    let logged = set("5").await;
    assert!(
        logged.ends_with("logs failures and 5 % of delivered pushes"),
        "{logged}"
    );
    assert!(set("0").await.contains("failures and 0 %"));
    assert!(
        set("off")
            .await
            .ends_with("SNS logs no answers of the platform")
    );
    let (code, ..) = endpoint
        .run(&["app", "add", "demo", "--delivery-status", "101"])
        .await;
    assert_eq!(code, 2);
    endpoint.aws.stop().await;
}

/// `doctor` is for stacks with problems, so it must not need the stack.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_reports_that_there_is_no_stack() {
    let endpoint = Endpoint::start().await;
    let (code, report, _) = endpoint.run(&["doctor", "--stack", "absent"]).await;
    assert_eq!(code, 3);
    let (ok, found) = check(&report, "tables");
    assert!(
        !ok && found.contains("cannot read the stack absent"),
        "{found}"
    );
    let (code, _, messages) = endpoint.run(&["app", "list", "--stack", "absent"]).await;
    assert!(
        code == 1 && messages.contains("is it deployed in this region?"),
        "{messages}"
    );
    endpoint.aws.stop().await;
}
