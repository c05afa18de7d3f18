//! Every command against the local stack, with a client that has registered over a relay.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod pushctl;

use std::{path::Path, time::Duration};

use futures_util::{SinkExt, StreamExt};
use nostr::{
    event::{Event, Tag},
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::{Seconds, announcement::ADMISSION, app::App};
use nostr_push_local::{
    aws::STACK,
    demo::publish,
    stack::{Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::{control_event, event};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_tungstenite::{connect_async, tungstenite::Message};

struct Operator<'a> {
    stack: &'a Stack,
}

impl Operator<'_> {
    async fn run(&self, arguments: &[&str]) -> (i32, Value, String) {
        pushctl::run(&self.stack.aws.environment(), arguments).await
    }

    async fn succeeds(&self, arguments: &[&str]) -> Value {
        pushctl::succeeds(&self.stack.aws.environment(), arguments).await
    }

    /// Runs a command that must fail with this text in its messages.
    async fn fails(&self, arguments: &[&str], text: &str) {
        let (code, _, messages) = self.run(arguments).await;
        assert!(
            code == 1 && messages.contains(text),
            "{arguments:?}: {code} {messages}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_on_the_local_stack() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let options = Options::anywhere(data.path(), vec![App::named("demo")]);
    let stack = Stack::start(&tools, options).await.unwrap();
    let operator = Operator { stack: &stack };
    adds_changes_and_removes_apps(&operator, data.path()).await;
    shows_the_key(&operator).await;
    announces_the_service(&operator).await;
    decides_who_is_admitted(&operator, data.path()).await;
    let (alice, token) = shows_an_owner(&operator).await;
    explains_events(&operator, &alice).await;
    sends_a_test_push(&operator, &alice, &token).await;
    blocks_pubkeys(&operator).await;
    lists_and_evicts_owners(&operator, &alice).await;
    counts_shows_and_redrives_dead_letters(&operator).await;
    diagnoses_the_stack(&operator).await;
    rotates_the_key(&operator).await;
    let (code, ..) = operator.run(&["owner", "show", "nobody"]).await;
    assert_eq!(code, 2, "not a pubkey");
    stack.stop().await;
}

async fn adds_changes_and_removes_apps(operator: &Operator<'_>, data: &Path) {
    let (key, account) = (data.join("key.p8"), data.join("account.json"));
    let pem = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n";
    std::fs::write(&key, pem).unwrap();
    std::fs::write(&account, r#"{"type": "service_account"}"#).unwrap();
    let (key, account) = (key.to_str().unwrap(), account.to_str().unwrap());
    let add = ["app", "add", "mine"];
    operator.fails(&add, "needs --apns-key or --fcm").await;
    let bad_account = [&add[..], &["--fcm-service-account", key]].concat();
    operator.fails(&bad_account, "not JSON").await;
    let fcm = ["--fcm-service-account", account];
    let bad_option = [&add[..], &fcm, &["max_pushes=x"]].concat();
    operator.fails(&bad_option, "wrong type").await;

    let apns = "--apns-key-id K --apns-team-id T --apns-bundle-id com.example --apns-sandbox";
    let apns: Vec<&str> = apns.split(' ').collect();
    let credentials = [&["--apns-key", key], &apns[..], &fcm].concat();
    let add = [&add[..], &credentials, &["content=minimal"]].concat();
    let app = operator.succeeds(&add).await;
    let platforms = app["platforms"].as_object().unwrap().keys();
    assert_eq!(
        platforms.collect::<Vec<_>>(),
        ["apns", "apns_sandbox", "fcm"]
    );
    assert_eq!(app["content"], "minimal");
    // New credentials do not replace the platform applications.
    let again = operator.succeeds(&add).await;
    assert_eq!(again["platforms"], app["platforms"]);
    let set = ["app", "set", "mine", "max_pushes=5", "content=null"];
    assert_eq!(operator.succeeds(&set).await["max_pushes"], 5);

    let names = async || -> Vec<Value> {
        let list = operator.succeeds(&["app", "list"]).await;
        let rows = list.as_array().unwrap().iter();
        rows.map(|app| app["app"].clone()).collect()
    };
    assert!(names().await.contains(&json!("mine")));
    operator.fails(&["app", "remove", "mine"], "--yes").await;
    operator.succeeds(&["app", "remove", "mine", "--yes"]).await;
    assert_eq!(names().await, ["demo"]);
    operator.fails(&set, "no app mine").await;
}

async fn shows_the_key(operator: &Operator<'_>) {
    let shown = operator.succeeds(&["key", "show"]).await;
    assert_eq!(shown["pubkey"], json!(operator.stack.service_pubkey));
    assert!(shown["npub"].as_str().unwrap().starts_with("npub1"));
    operator.fails(&["key", "new"], "--yes").await;
}

/// Runs last, because the deployed programs keep the key that they started with.
async fn rotates_the_key(operator: &Operator<'_>) {
    let before = operator.succeeds(&["key", "show"]).await;
    assert_eq!(before["previous"], Value::Null);
    // The stack names no version yet, so programs that start would use the new key too early.
    let at_once = ["key", "new", "--overlap-days", "0", "--yes"];
    operator.fails(&at_once, "is not deployed yet").await;
    let rotate = ["key", "new", "--overlap-days", "7", "--yes"];
    let rotated = operator.succeeds(&rotate).await;
    assert_ne!(rotated["pubkey"], before["pubkey"]);
    assert_ne!(rotated["version"], before["version"]);
    assert_eq!(rotated["previous"], before["pubkey"]);
    let days = rotated["previous_until"].as_u64().unwrap() - now().0;
    assert!((6 * 86_400..=7 * 86_400).contains(&days), "{rotated}");
    assert_eq!(operator.succeeds(&["key", "show"]).await, rotated);

    operator
        .fails(&["key", "new"], "is still accepted for 7 days")
        .await;
    // Nothing is deployed since, so another key would end the one that all clients know.
    let again = ["key", "new", "--yes"];
    operator.fails(&again, "is not deployed yet").await;
    assert_eq!(operator.succeeds(&["key", "show"]).await, rotated);
}

async fn announces_the_service(operator: &Operator<'_>) {
    let relay = &operator.stack.relays[0];
    let announce = ["announce", "--name", "Mine", "--relay", relay];
    let announced = operator.succeeds(&announce).await;
    for result in announced["results"].as_array().unwrap() {
        assert_eq!(result["taken"], true, "{announced}");
    }
    let (mut socket, _) = connect_async(relay).await.unwrap();
    let filter = json!({"authors": [operator.stack.service_pubkey], "kinds": [0, 10_002, 31_990]});
    let req = json!(["REQ", "x", filter]).to_string();
    socket.send(Message::text(req)).await.unwrap();
    let mut kinds = Vec::new();
    while let Some(frame) = socket.next().await {
        let message: Value = serde_json::from_str(frame.unwrap().to_text().unwrap()).unwrap();
        if message[0] == "EOSE" {
            break;
        }
        let event: Event = serde_json::from_value(message[2].clone()).unwrap();
        event.verify().unwrap();
        let is_of_listener = |tag: &Tag| tag.as_slice() == ["d", ADMISSION];
        if event.tags.iter().any(is_of_listener) {
            continue;
        }
        kinds.push(event.kind.as_u16());
        if event.kind.as_u16() == 31_990 {
            let tags = serde_json::to_value(&event.tags).unwrap();
            let admission = json!(["admission", "demo", "open"]);
            assert!(tags.as_array().unwrap().contains(&admission), "{tags}");
        }
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [0, 10_002, 31_990]);
    // Nothing listens on the first relay, and the second one does not use TLS.
    let without_tls = relay.replace("ws://", "wss://");
    for relay in ["ws://127.0.0.1:9", &without_tls] {
        let announce = ["announce", "--relay", relay];
        operator.fails(&announce, "no relay accepted").await;
    }
}

/// Sets each mode, makes a grant and reads a follow list. Restores the mode `open`.
async fn decides_who_is_admitted(operator: &Operator<'_>, data: &Path) {
    let relay = &operator.stack.relays[0];
    let set = async |options: &[&str]| {
        let set = [&["app", "set", "demo"], options].concat();
        operator.succeeds(&set).await
    };
    let keys = Keys::generate();
    let (hex, file) = (keys.public_key().to_hex(), data.join("grant.key"));
    std::fs::write(&file, keys.secret_key().to_secret_hex()).unwrap();
    let grant = ["app", "grant", "demo", &hex, "--key-file"];
    let grant = [&grant[..], &[file.to_str().unwrap()]].concat();
    operator.fails(&grant, "not the grant_key of demo").await;
    let grant_key = format!("grant_key={hex}");
    set(&["admission=grant", &grant_key]).await;
    let tag = operator.succeeds(&grant).await;
    assert_eq!(tag[0], "grant");
    assert_eq!(tag[2].as_str().unwrap().len(), 128, "a signature in hex");

    let follows = ["app", "follows", "demo", "--relay", relay];
    operator.fails(&follows, "no follow_lists").await;
    let lists = format!("follow_lists={hex}");
    set(&["admission=allow", "grant_key=null", &lists]).await;
    operator
        .fails(&follows, "no relay has the follow list")
        .await;
    let list = event(&keys, 3, now().0, &[&["p", &hex]], "");
    publish(relay, &list).await.unwrap();
    let followed = operator.succeeds(&follows).await;
    assert_eq!(followed, json!({"followed": 1, "added": 1, "removed": 0}));
    let apps = operator.succeeds(&["app", "list"]).await;
    assert_eq!(apps[0]["followed"], json!([hex]));
    let open = set(&["admission=null", "follow_lists=null"]).await;
    assert_eq!(open["followed"], Value::Null);
}

async fn blocks_pubkeys(operator: &Operator<'_>) {
    let pubkey = Keys::generate().public_key().to_hex();
    let is_blocked = async || {
        let shown = operator.succeeds(&["owner", "show", &pubkey]).await;
        let listed = operator.succeeds(&["owner", "blocked"]).await;
        let listed = listed.as_array().unwrap().contains(&json!(pubkey));
        assert_eq!(shown["blocked"], listed);
        listed
    };
    assert!(!is_blocked().await);
    operator.succeeds(&["owner", "block", &pubkey]).await;
    assert!(is_blocked().await);
    operator.succeeds(&["owner", "unblock", &pubkey]).await;
    assert!(!is_blocked().await);
}

async fn lists_and_evicts_owners(operator: &Operator<'_>, alice: &Keys) {
    let pubkey = alice.public_key().to_hex();
    let top = operator.succeeds(&["owner", "top", "--by", "keys"]).await;
    let mut owners = top["owners"].as_array().unwrap().iter();
    let owner = owners.find(|owner| owner["pubkey"] == json!(pubkey));
    assert_eq!(owner.unwrap()["filters"], 2, "{top}");
    let evict = ["owner", "evict", &pubkey, "--app", "demo"];
    operator.fails(&evict, "confirm with --yes").await;
    let evict = [&evict[..], &["--yes"]].concat();
    let removed = json!([{"app": "demo", "devices": 1, "filters": 1}]);
    assert_eq!(operator.succeeds(&evict).await["removed"], removed);
    let shown = operator.succeeds(&["owner", "show", &pubkey]).await;
    let owner = &shown["apps"][0];
    assert_eq!(owner["devices"][0]["state"], "removed", "{owner}");
    assert_eq!(owner["subscriptions"], json!([]), "{owner}");
}

/// Registers a device and a filter, and shows their owner. Returns the owner and the token.
async fn shows_an_owner(operator: &Operator<'_>) -> (Keys, String) {
    let stack = operator.stack;
    let alice = Keys::generate();
    let pubkey = alice.public_key().to_hex();
    let token = Keys::generate().public_key().to_hex();
    let service = PublicKey::from_hex(&stack.service_pubkey).unwrap();
    let now = now();
    let expiration = (now + Seconds::from_days(1)).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    for (kind, payload) in [
        (3079, json!({"token": token})),
        (3081, json!({"filter": {"kinds": [1], "#p": [pubkey]}})),
    ] {
        let event = control_event(&alice, service, kind, now.0, &tags, &payload.to_string());
        publish(&stack.relays[0], &event).await.unwrap();
    }
    let mut owner = Value::Null;
    let count = |owner: &Value, field: &str| owner[field].as_array().unwrap().len();
    for _ in 0..300 {
        let shown = operator.succeeds(&["owner", "show", &pubkey]).await;
        owner = shown["apps"][0].clone();
        // The subscriptions are the filter and the one that fetches the mute list.
        if count(&owner, "devices") == 1 && count(&owner, "subscriptions") == 2 {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let device = &owner["devices"][0];
    assert_eq!(device["platform"], "apns", "{owner}");
    assert_eq!(device["state"], "active", "{owner}");
    assert_eq!(device["device"].as_str().unwrap().len(), 8);
    assert!(!owner.to_string().contains(&token));
    (alice, token)
}

async fn explains_events(operator: &Operator<'_>, alice: &Keys) {
    let bob = Keys::generate();
    let pubkey = alice.public_key().to_hex();
    let file = tempfile::NamedTempFile::new().unwrap();
    let explain_at = async |author: &Keys, kind, at: Seconds, content: &str| {
        let event = event(author, kind, at.0, &[&["p", &pubkey]], content);
        std::fs::write(file.path(), serde_json::to_string(&event).unwrap()).unwrap();
        let path = file.path().to_str().unwrap();
        operator.succeeds(&["explain", path]).await
    };
    let explain =
        async |author: &Keys, kind, content: &str| explain_at(author, kind, now(), content).await;
    let explained = explain(&bob, 1, "hello").await;
    let recipient = &explained["recipients"][0];
    assert_eq!(recipient["recipient"], json!(pubkey), "{explained}");
    assert_eq!(recipient["outcome"], "pushed", "{explained}");
    assert_eq!(recipient["title"], "New mention", "{explained}");
    assert_eq!(explain(&bob, 7, "+").await["dropped"], "no_match");
    assert_eq!(explain(alice, 1, "me").await["own_event"], 1);
    let old = explain_at(&bob, 1, Seconds(1_764_106_205), "old").await;
    assert_eq!(old["dropped"], "too_old", "{old}");
    assert_eq!(old["notifies_until"], "2025-11-25T22:30:05Z", "{old}");
    let pushes = operator.stack.aws.sns.pushes(0);
    assert!(pushes.is_empty(), "explain sends nothing");
}

async fn sends_a_test_push(operator: &Operator<'_>, alice: &Keys, token: &str) {
    let pubkey = alice.public_key().to_hex();
    let send = ["send-test", "demo", &pubkey, "--text", "are you there?"];
    let results = operator.succeeds(&send).await;
    assert_eq!(results[0]["result"], "accepted by SNS");
    let pushes = operator.stack.aws.sns.pushes(0);
    assert_eq!(pushes.len(), 1);
    assert_eq!(pushes[0].token, token);
    assert_eq!(pushes[0].message["aps"]["alert"]["body"], "are you there?");
    let unknown = Keys::generate().public_key().to_hex();
    let send = ["send-test", "demo", &unknown];
    operator.fails(&send, "no device").await;
}

async fn counts_shows_and_redrives_dead_letters(operator: &Operator<'_>) {
    let environment = operator.stack.aws.environment();
    let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
    let sqs = aws_sdk_sqs::Client::new(&config);
    let request = sqs
        .get_queue_url()
        .queue_name(format!("{STACK}-control-dead"));
    let url = request.send().await.unwrap().queue_url.unwrap();
    let add = async |body: String| {
        let request = sqs.send_message().queue_url(&url).message_body(body);
        request.send().await.unwrap();
    };
    // Control drops these messages as malformed, so they do not come back.
    for n in 0..12 {
        add(format!("broken {n}")).await;
    }
    assert_eq!(
        operator.succeeds(&["dlq", "list"]).await,
        json!({"control": 12, "event": 0, "delivery": 0, "feedback": 0})
    );
    let moved = operator.succeeds(&["dlq", "redrive", "control"]).await;
    assert_eq!(moved, json!({"queue": "control", "moved": 12}));
    assert_eq!(operator.succeeds(&["dlq", "list"]).await["control"], 0);
    add("broken again".to_owned()).await;
    let shown = operator.succeeds(&["dlq", "show", "control"]).await;
    assert_eq!(shown[0]["body"], "broken again");
    let purge = sqs.purge_queue().queue_url(&url);
    purge.send().await.unwrap();
}

/// On the local stack there is no listener image, the listener does not watch the relays of the
/// template, and the tables have neither a TTL nor recovery, because ministack's CloudFormation
/// ignores both.
async fn diagnoses_the_stack(operator: &Operator<'_>) {
    let (code, report, messages) = operator.run(&["doctor"]).await;
    assert_eq!(code, 3, "{messages}");
    let checks = report["checks"].as_array().unwrap();
    for (name, ok) in [
        ("credentials and stack", true),
        ("service key", true),
        ("apps", true),
        ("heartbeat app", true),
        ("region", true),
        ("table devices", false),
        ("platform applications of demo", true),
        ("demo on apns", true),
        ("dead letters of control", true),
        ("listener's image", false),
    ] {
        let mut checks = checks.iter();
        let check = checks.find(|check| check["check"] == name).unwrap();
        assert_eq!(check["ok"], ok, "{name}: {messages}");
    }
}

fn now() -> Seconds {
    clients::now().to_seconds()
}
