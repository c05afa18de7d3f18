//! Profiles of `~/.aws/config` with which operators sign in.

use std::{collections::HashMap, os::unix::fs::PermissionsExt};

use crate::{Endpoint, pushctl};

/// The endpoint's environment without keys, with this profile of this configuration.
fn environment(endpoint: &Endpoint, profile: &str, config: &str) -> HashMap<String, String> {
    let home = endpoint.data.path();
    let file = home.join("config");
    std::fs::write(&file, config).unwrap();
    let mut environment = endpoint.environment.clone();
    environment.retain(|name, _| !name.contains("ACCESS_KEY"));
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    environment.extend([
        ("HOME".to_owned(), text(home)),
        ("AWS_CONFIG_FILE".to_owned(), text(&file)),
        ("AWS_PROFILE".to_owned(), profile.to_owned()),
    ]);
    environment
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_of_all_kinds_are_read() {
    let endpoint = Endpoint::start().await;
    // A program that prints credentials.
    let (script, ran) = (
        endpoint.data.path().join("keys"),
        endpoint.data.path().join("ran"),
    );
    let keys = r#"{"Version": 1, "AccessKeyId": "local", "SecretAccessKey": "local"}"#;
    let program = format!("#!/bin/sh\ntouch {}\necho '{keys}'\n", ran.display());
    std::fs::write(&script, program).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!(
        "[profile program]\ncredential_process = {}\n",
        script.display()
    );
    let program = environment(&endpoint, "program", &config);
    let (code, apps, messages) = pushctl::run(&program, &["app", "list"]).await;
    assert_eq!((code, &apps), (0, &serde_json::json!([])), "{messages}");
    assert!(ran.exists());

    // Nobody has signed in.
    let sso = "[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://s.example/start\n\
               [profile corp]\nsso_session = s\nsso_account_id = 111122223333\nsso_role_name = r\n";
    let login = "[profile corp]\nlogin_session = arn:aws:iam::111122223333:user/u\n";
    for (config, expected) in [
        (sso, "run aws sso login --profile corp"),
        (login, "run aws login --profile corp"),
    ] {
        let environment = environment(&endpoint, "corp", config);
        let (code, _, messages) = pushctl::run(&environment, &["app", "list"]).await;
        assert_eq!(code, 1);
        assert!(messages.contains(expected), "{messages}");
    }
    endpoint.aws.stop().await;
}
