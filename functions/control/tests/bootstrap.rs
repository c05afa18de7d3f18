//! The real bootstrap against the local AWS endpoint: a bad record fails alone, or is refused
//! alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use nostr::{event::Event, key::Keys};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    DAY,
    app::{App, Platform},
    device::TokenHasher,
    message,
    owner::Owner,
    ports::{Devices, Subscriptions, seconds},
};
use nostr_push_local::{
    aws::{self, Aws, Ports, STACK},
    tools::Tools,
};
use nostr_push_testkit::{control_event, event, runtime_api::Bootstrap};
use serde_json::{json, value::to_raw_value};

fn body(event: &Event) -> String {
    let message = message::Control {
        relay: "wss://relay".to_owned(),
        received_at: clients::now(),
        event: to_raw_value(event).unwrap(),
    };
    message::encode(&message).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_does_not_harm_its_batch() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let aws = Aws::start(&tools, data.path(), Ports::ANY).await.unwrap();
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
    let mut variables: Vec<(&str, String)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    variables.push(("TABLE_PREFIX", STACK.to_owned()));
    variables.push(("SERVICE_KEY_SECRET", "key".to_owned()));
    variables.push((
        "CONTROL_QUEUE_URL",
        format!("{}/0/none", environment["AWS_ENDPOINT_URL"]),
    ));
    let mut bootstrap = Bootstrap::start(env!("CARGO_BIN_EXE_control"), variables)
        .await
        .unwrap();

    let (keys, now) = (Keys::generate(), seconds(clients::now()));
    let expiration = (now + DAY).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    let good = |kind, payload: serde_json::Value| {
        body(&control_event(
            &keys,
            service.public_key(),
            kind,
            now,
            &tags,
            &payload.to_string(),
        ))
    };
    let register = good(3079, json!({"token": "the-token"}));
    let batch = [
        ("register", register.clone(), 1),
        ("repeat", register, 1),
        (
            "not an event",
            r#"{"v":1,"m":{"relay":"r","received_at":1,"event":[[[]]]}}"#.to_owned(),
            1,
        ),
        ("not a message", "\u{0}\u{fffd}".to_owned(), 1),
        ("unknown kind", body(&event(&keys, 1, now, &[], "hello")), 1),
        ("newer", r#"{"v":99,"m":{}}"#.to_owned(), 1),
        (
            "subscribe",
            good(3081, json!({"filter": {"#t": ["nostr"]}})),
            1,
        ),
    ];
    assert_eq!(bootstrap.batch(&batch).await.unwrap(), ["newer"]);

    let store = Store::new(&config, STACK);
    let owner = Owner {
        app: "demo".to_owned(),
        pubkey: keys.public_key(),
    };
    let id = TokenHasher::new(service.secret_key().as_secret_bytes()).device("demo", "the-token");
    let devices = store.devices(&[id]).await.unwrap();
    assert!(
        devices[0]
            .active_for(&owner, now)
            .unwrap()
            .endpoint_arn
            .is_some()
    );
    let subscriptions = store.of_owner(&owner).await.unwrap();
    let own = subscriptions
        .iter()
        .filter(|subscription| !subscription.is_derived())
        .count();
    assert_eq!(
        (own, subscriptions.len()),
        (1, 2),
        "the filter, and the mute list of who has a device"
    );
    aws.stop().await;
}
