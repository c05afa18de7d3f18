//! The real bootstrap against the local AWS endpoint: a bad record of a batch does not affect the
//! others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

use std::{collections::HashMap, path::Path};

use nostr::{event::Event, key::Keys};
use nostr_push_aws::{
    clients::{self, SdkConfig},
    dynamodb::Store,
};
use nostr_push_core::{
    Seconds,
    app::{App, Platform},
    message::{self, ControlMessage},
    ports::{Devices, Subscriptions},
    token_hasher::TokenHasher,
};
use nostr_push_local::{
    aws::{self, Aws, LocalPorts, STACK},
    tools::Tools,
};
use nostr_push_testkit::{control_event, event, owner, runtime_api::Bootstrap};
use serde_json::{Value, json, value::to_raw_value};

fn body(event: &Event) -> String {
    let message = ControlMessage {
        relay: "wss://relay".to_owned(),
        received_at: clients::now(),
        event: to_raw_value(event).unwrap(),
    };
    message::encode(&message).unwrap()
}

/// The local AWS endpoint with tables, the app `demo` and the service key.
struct Fixture {
    aws: Aws,
    environment: HashMap<String, String>,
    config: SdkConfig,
    service: Keys,
}

impl Fixture {
    async fn start(data: &Path) -> Self {
        let tools = Tools::install().await.unwrap();
        let aws = Aws::start(&tools, data, LocalPorts::ANY).await.unwrap();
        let environment = aws.environment();
        aws::create_tables(&tools, &environment).await.unwrap();
        aws::put_app(&environment, App::named("demo"), &[Platform::Fcm])
            .await
            .unwrap();
        let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
        let service = Keys::generate();
        let secrets = aws_sdk_secretsmanager::Client::new(&config);
        secrets
            .create_secret()
            .name("key")
            .secret_string(service.secret_key().to_secret_hex())
            .send()
            .await
            .unwrap();
        Self {
            aws,
            environment,
            config,
            service,
        }
    }

    async fn bootstrap(&self) -> Bootstrap {
        let queue = format!("{}/0/none", self.environment["AWS_ENDPOINT_URL"]);
        let aws = self.environment.iter();
        let mut variables: Vec<(&str, String)> = aws
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        variables.push(("TABLE_PREFIX", STACK.to_owned()));
        variables.push(("SERVICE_KEY_SECRET", "key".to_owned()));
        variables.push(("CONTROL_QUEUE_URL", queue));
        Bootstrap::start(env!("CARGO_BIN_EXE_control"), variables)
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_does_not_affect_its_batch() {
    let data = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(data.path()).await;
    let mut bootstrap = fixture.bootstrap().await;

    let (keys, now) = (Keys::generate(), clients::now().to_seconds());
    let expiration = (now + Seconds::from_days(1)).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    let valid = |kind, payload: Value| {
        let service = fixture.service.public_key();
        let payload = payload.to_string();
        body(&control_event(&keys, service, kind, now.0, &tags, &payload))
    };
    let register = valid(3079, json!({"token": "the-token"}));
    let subscribe = valid(3081, json!({"filter": {"#t": ["nostr"]}}));
    let not_an_event = r#"{"v":1,"m":{"relay":"r","received_at":1,"event":[[[]]]}}"#;
    let unknown_kind = body(&event(&keys, 1, now.0, &[], "hello"));
    let batch = [
        ("register", register.clone(), 1),
        ("repeat", register, 1),
        ("not an event", not_an_event.to_owned(), 1),
        ("not a message", "\u{0}\u{fffd}".to_owned(), 1),
        ("unknown kind", unknown_kind, 1),
        ("newer", r#"{"v":99,"m":{}}"#.to_owned(), 1),
        ("subscribe", subscribe, 1),
    ];
    assert_eq!(bootstrap.batch(&batch).await.unwrap(), ["newer"]);

    let store = Store::new(&fixture.config, STACK);
    let owner = owner(keys.public_key());
    let hasher = TokenHasher::new(fixture.service.secret_key().as_secret_bytes());
    let id = hasher.device("demo", "the-token");
    let devices = store.devices(&[id]).await.unwrap();
    let registration = devices[0].active_for(&owner, now).unwrap();
    assert!(registration.endpoint_arn.is_some());
    let subscriptions = store.of_owner(&owner).await.unwrap();
    let (derived, sent): (Vec<_>, Vec<_>) = subscriptions
        .iter()
        .partition(|subscription| subscription.is_derived());
    assert_eq!(
        (sent.len(), derived.len()),
        (1, 1),
        "the filter of the owner, and the one that fetches the mute list"
    );
    fixture.aws.stop().await;
}
