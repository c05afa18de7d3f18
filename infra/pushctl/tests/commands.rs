//! Every command against the local stack, with a client that has registered over a relay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::{path::Path, time::Duration};

use futures_util::{SinkExt, StreamExt};
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::{DAY, app::App, ports::seconds};
use nostr_push_local::{
    aws::STACK,
    demo::publish,
    stack::{Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::{control_event, event};
use serde_json::{Value, json};
use tokio::{process::Command, time::sleep};
use tokio_tungstenite::{connect_async, tungstenite::Message};

struct Operator<'a> {
    stack: &'a Stack,
}

impl Operator<'_> {
    /// Answers its exit code, its answer, and what it said besides.
    async fn run(&self, arguments: &[&str]) -> (i32, Value, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushctl"));
        let output = command
            .arg("--json")
            .args(arguments)
            .envs(self.stack.aws.environment())
            .output()
            .await
            .unwrap();
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (
            output.status.code().unwrap(),
            answer,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    async fn ok(&self, arguments: &[&str]) -> Value {
        let (code, answer, said) = self.run(arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {said}");
        answer
    }

    /// That it fails, and says so.
    async fn fails(&self, arguments: &[&str], says: &str) {
        let (code, _, said) = self.run(arguments).await;
        assert!(
            code == 1 && said.contains(says),
            "{arguments:?}: {code} {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sets_up_looks_and_mends() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let options = Options::anywhere(data.path(), vec![App::named("demo")]);
    let stack = Stack::start(&tools, options).await.unwrap();
    let operator = Operator { stack: &stack };
    apps(&operator, data.path()).await;
    let shown = operator.ok(&["key", "show"]).await;
    assert_eq!(shown["pubkey"], json!(stack.service_pubkey));
    assert!(shown["npub"].as_str().unwrap().starts_with("npub1"));
    operator.fails(&["key", "new"], "--yes").await;
    announces(&operator).await;
    owners(&operator).await;
    dead_letters(&operator).await;
    // There is no image here, and the template's relays are not on this machine.
    let (code, report, said) = operator.run(&["doctor"]).await;
    assert_eq!(code, 3, "{said}");
    let check = |name: &str| {
        report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["check"] == name)
            .unwrap()["ok"]
            .clone()
    };
    for (name, ok) in [
        ("credentials and stack", true),
        ("service key", true),
        ("apps", true),
        ("heartbeat app", true),
        ("demo on apns", true),
        ("dead letters of control", true),
        ("listener's image", false),
    ] {
        assert_eq!(check(name), ok, "{name}: {said}");
    }
    let (code, ..) = operator.run(&["owner", "show", "nobody"]).await;
    assert_eq!(code, 2, "called wrongly");
    stack.stop().await;
}

async fn apps(operator: &Operator<'_>, data: &Path) {
    let (key, account) = (data.join("key.p8"), data.join("account.json"));
    std::fs::write(
        &key,
        "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    std::fs::write(&account, r#"{"type": "service_account"}"#).unwrap();
    let (key, account) = (key.to_str().unwrap(), account.to_str().unwrap());
    operator
        .fails(&["app", "add", "mine"], "needs --apns-key or --fcm")
        .await;
    operator
        .fails(
            &["app", "add", "mine", "--fcm-service-account", key],
            "no JSON",
        )
        .await;
    operator
        .fails(
            &[
                "app",
                "add",
                "mine",
                "--fcm-service-account",
                account,
                "max_pushes=x",
            ],
            "wrong kind",
        )
        .await;
    let apns = [
        "--apns-key",
        key,
        "--apns-key-id",
        "K",
        "--apns-team-id",
        "T",
        "--apns-bundle-id",
        "com.example",
        "--apns-sandbox",
    ];
    let add = [
        &["app", "add", "mine"],
        &apns[..],
        &["--fcm-service-account", account, "content=minimal"],
    ]
    .concat();
    let app = operator.ok(&add).await;
    assert_eq!(
        app["platforms"]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["apns", "apns_sandbox", "fcm"]
    );
    assert_eq!(app["content"], "minimal");
    // New credentials for the same app, whose platform applications stay.
    assert_eq!(operator.ok(&add).await["platforms"], app["platforms"]);
    assert_eq!(
        operator
            .ok(&["app", "set", "mine", "max_pushes=5", "content=null"])
            .await["max_pushes"],
        5
    );
    let names = async || {
        operator
            .ok(&["app", "list"])
            .await
            .as_array()
            .unwrap()
            .iter()
            .map(|app| app["app"].clone())
            .collect::<Vec<_>>()
    };
    assert!(names().await.contains(&json!("mine")));
    operator.fails(&["app", "remove", "mine"], "--yes").await;
    operator.ok(&["app", "remove", "mine", "--yes"]).await;
    assert_eq!(names().await, ["demo"]);
    operator
        .fails(&["app", "set", "mine", "max_pushes=5"], "no app mine")
        .await;
}

async fn announces(operator: &Operator<'_>) {
    let relay = &operator.stack.relays[0];
    let announced = operator
        .ok(&["announce", "--name", "Mine", "--relay", relay])
        .await;
    assert!(
        announced["results"]
            .as_array()
            .unwrap()
            .iter()
            .all(|result| result["taken"] == true),
        "{announced}"
    );
    let (mut socket, _) = connect_async(relay).await.unwrap();
    let filter = json!({"authors": [operator.stack.service_pubkey], "kinds": [0, 10_002, 31_990]});
    socket
        .send(Message::text(json!(["REQ", "x", filter]).to_string()))
        .await
        .unwrap();
    let mut kinds = Vec::new();
    while let Some(frame) = socket.next().await {
        let answer: Value = serde_json::from_str(frame.unwrap().to_text().unwrap()).unwrap();
        if answer[0] == "EOSE" {
            break;
        }
        let event: Event = serde_json::from_value(answer[2].clone()).unwrap();
        event.verify().unwrap();
        kinds.push(event.kind.as_u16());
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [0, 10_002, 31_990]);
    operator
        .fails(
            &["announce", "--relay", "ws://127.0.0.1:9"],
            "no relay took anything",
        )
        .await;
    // It speaks no TLS.
    operator
        .fails(
            &["announce", "--relay", &relay.replace("ws://", "wss://")],
            "no relay took anything",
        )
        .await;
}

async fn owners(operator: &Operator<'_>) {
    let stack = operator.stack;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let me = alice.public_key().to_hex();
    let token = Keys::generate().public_key().to_hex();
    let (service, now) = (
        PublicKey::from_hex(&stack.service_pubkey).unwrap(),
        seconds(clients::now()),
    );
    let expiration = (now + DAY).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    for (kind, payload) in [
        (3079, json!({"token": token})),
        (3081, json!({"filter": {"kinds": [1], "#p": [me]}})),
    ] {
        publish(
            &stack.relays[0],
            &control_event(&alice, service, kind, now, &tags, &payload.to_string()),
        )
        .await
        .unwrap();
    }
    let mut owner = Value::Null;
    for _ in 0..300 {
        owner = operator.ok(&["owner", "show", &me]).await["apps"][0].clone();
        // The filter, and what brings the mute list.
        if owner["devices"].as_array().unwrap().len() == 1
            && owner["subscriptions"].as_array().unwrap().len() == 2
        {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(
        (
            &owner["devices"][0]["platform"],
            &owner["devices"][0]["state"]
        ),
        (&json!("apns"), &json!("active")),
        "{owner}"
    );
    assert_eq!(owner["devices"][0]["device"].as_str().unwrap().len(), 8);
    assert!(!owner.to_string().contains(&token));

    let file = tempfile::NamedTempFile::new().unwrap();
    let explain = async |event: &Event| {
        std::fs::write(file.path(), serde_json::to_string(event).unwrap()).unwrap();
        operator
            .ok(&["explain", file.path().to_str().unwrap()])
            .await
    };
    let explained = explain(&event(&bob, 1, now, &[&["p", &me]], "hello")).await;
    let recipient = &explained["recipients"][0];
    assert_eq!(
        (
            &recipient["recipient"],
            &recipient["outcome"],
            &recipient["title"]
        ),
        (&json!(me), &json!("pushed"), &json!("New mention")),
        "{explained}"
    );
    assert_eq!(
        explain(&event(&bob, 7, now, &[&["p", &me]], "+")).await["dropped"],
        "no_match"
    );
    assert_eq!(
        explain(&event(&alice, 1, now, &[&["p", &me]], "me")).await["own_event"],
        1
    );
    assert!(
        stack.aws.sns.pushes(0).is_empty(),
        "explaining sends nothing"
    );

    let sent = operator
        .ok(&["send-test", "demo", &me, "--text", "are you there?"])
        .await;
    assert_eq!(sent[0]["result"], "accepted by SNS");
    let pushes = stack.aws.sns.pushes(0);
    assert_eq!(
        (pushes.len(), pushes[0].token.as_str()),
        (1, token.as_str())
    );
    assert_eq!(pushes[0].message["aps"]["alert"]["body"], "are you there?");
    operator
        .fails(
            &["send-test", "demo", &bob.public_key().to_hex()],
            "no device",
        )
        .await;
}

async fn dead_letters(operator: &Operator<'_>) {
    let sqs = aws_sdk_sqs::Client::new(
        &clients::at(&operator.stack.aws.environment(), "AWS_ENDPOINT_URL").await,
    );
    let url = async |name: &str| {
        sqs.get_queue_url()
            .queue_name(format!("{STACK}-{name}"))
            .send()
            .await
            .unwrap()
            .queue_url
            .unwrap()
    };
    // A message that control will drop as malformed, and so be done with.
    for n in 0..12 {
        sqs.send_message()
            .queue_url(url("control-dead").await)
            .message_body(format!("broken {n}"))
            .send()
            .await
            .unwrap();
    }
    assert_eq!(
        operator.ok(&["dlq", "list"]).await,
        json!({"control": 12, "event": 0, "delivery": 0, "feedback": 0})
    );
    let moved = operator.ok(&["dlq", "redrive", "control"]).await;
    assert_eq!(moved, json!({"queue": "control", "moved": 12}));
    assert_eq!(operator.ok(&["dlq", "list"]).await["control"], 0);
    sqs.send_message()
        .queue_url(url("control-dead").await)
        .message_body("broken once more")
        .send()
        .await
        .unwrap();
    let shown = operator.ok(&["dlq", "show", "control"]).await;
    assert_eq!(shown[0]["body"], "broken once more");
    sqs.purge_queue()
        .queue_url(url("control-dead").await)
        .send()
        .await
        .unwrap();
}
