//! The logs of all stages.

use std::collections::BTreeSet;

use aws_sdk_cloudwatchlogs::{Client, types::QueryStatus};
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
    nips::nip19::ToBech32,
};
use nostr_push_aws::{clients, secrets};
use nostr_push_core::Seconds;
use nostr_push_local::{
    aws::STACK,
    demo::publish,
    stack::{FUNCTIONS, Stack},
};
use nostr_push_testkit::{control_event, dialect_h_event, event};
use serde_json::json;

use crate::{counters, now, wait_until};

/// A marker in every value that must not be logged. It occurs nowhere else.
const MARK: &str = "MARKED";

/// The query in `docs/operations.md` finds an event in the log groups that the page names.
pub(crate) async fn one_query_follows_an_event(stack: &Stack) -> Result<(), String> {
    let docs = include_str!("../../../../docs/operations.md");
    let section = docs.split_once("## Following one event").unwrap().1;
    let query = section.split("```").nth(1).unwrap().trim();
    let pushes = stack.aws.sns.pushes(0);
    let mut ids = pushes
        .iter()
        .rev()
        .filter_map(|push| push.message["event_id"].as_str());
    let id = ids.next().unwrap();
    let client = Client::new(&clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await);
    let groups = FUNCTIONS
        .map(|stage| format!("/aws/lambda/{STACK}-{stage}"))
        .into_iter()
        .chain([format!("/ecs/{STACK}-listener")]);
    let now = i64::try_from(now().0).unwrap();
    let request = client
        .start_query()
        .set_log_group_names(Some(groups.collect()))
        .query_string(query.replace("EVENT_ID", id));
    let request = request.start_time(now - 3600).end_time(now + 60);
    let query_id = request.send().await.unwrap().query_id;
    let mut lines = 0;
    wait_until("the query ends", async || {
        let request = client.get_query_results();
        let request = request.set_query_id(query_id.clone());
        let results = request.send().await.unwrap();
        lines = results.results().len();
        results.status() == Some(&QueryStatus::Complete)
    })
    .await?;
    // The matcher and deliver each write a line.
    if lines >= 2 {
        Ok(())
    } else {
        Err(format!("{lines} lines about event {id}"))
    }
}

/// No log line, and so no metric, contains a plaintext, the service's key, or one of the tokens of
/// the whole test.
pub(crate) async fn no_line_contains_a_secret(stack: &Stack) -> Result<(), String> {
    let token = format!("{MARK}-token");
    let alice = Keys::generate();
    publish_marked_control_events(stack, &alice, &token).await?;
    push_marked_private_event(stack, &alice, &token).await?;

    let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
    let stored = secrets::service_keys(&config, &format!("{STACK}-service-key"), None).await;
    let key = stored.unwrap().keys.current().secret_key().clone();
    let pushes = stack.aws.sns.pushes(0).into_iter();
    let tokens: BTreeSet<String> = pushes.map(|push| push.token).collect();
    let mut lines = stack.listener_log().unwrap();
    for stage in FUNCTIONS {
        let log = stack.function_log(stage).await.unwrap();
        assert!(!log.is_empty(), "{stage} has a log");
        lines.extend(log);
    }
    assert!(
        tokens.len() > 5 && lines.len() > 500,
        "{} tokens, {} lines",
        tokens.len(),
        lines.len()
    );
    let mut secrets = tokens;
    secrets.extend([
        MARK.to_owned(),
        key.to_secret_hex(),
        key.to_bech32().unwrap(),
    ]);
    let all = lines.join("\n").to_lowercase();
    secrets.retain(|secret| all.contains(&secret.to_lowercase()));
    if secrets.is_empty() {
        Ok(())
    } else {
        Err(format!("in the logs: {secrets:?}"))
    }
}

/// Registers alice's phone and a filter, publishes malformed control events, and waits until all
/// are handled.
async fn publish_marked_control_events(
    stack: &Stack,
    alice: &Keys,
    token: &str,
) -> Result<(), String> {
    let handled = async || -> u64 {
        let is_handled = |name: &str| {
            name.starts_with("control.accepted") || name.starts_with("control.refused")
        };
        let counters = counters(stack).await;
        let handled = counters.iter().filter(|(name, _)| is_handled(name));
        handled.map(|(_, n)| n).sum()
    };
    let service = PublicKey::from_hex(&stack.service_pubkey).unwrap();
    let mut events = valid_control_events(service, alice, token);
    events.extend(malformed_control_events(service, token));
    let before = handled().await;
    for event in &events {
        publish(&stack.relays[0], event).await.unwrap();
    }
    wait_until("all control events are handled", async || {
        handled().await >= before + events.len() as u64
    })
    .await
}

fn valid_control_events(service: PublicKey, alice: &Keys, token: &str) -> Vec<Event> {
    let filter = json!({
        "kinds": [1, 4],
        "#t": [MARK.to_lowercase()],
        "#p": [alice.public_key()],
    });
    let register = json!({"token": token, "platform": "fcm"});
    let subscribe = json!({"filter": filter});
    [(3079, register), (3081, subscribe)]
        .map(|(kind, payload)| dialect_n(alice, service, kind, &payload.to_string()))
        .into()
}

/// Control events whose payloads are not as expected. The error message of a parser may quote them.
fn malformed_control_events(service: PublicKey, token: &str) -> Vec<Event> {
    let of_dialect_n = [
        (3079, MARK.to_owned()),
        (
            3079,
            format!(r#"{{"token": "{token}", "platform": "{MARK}"}}"#),
        ),
        (3079, format!(r#"{{"token": ["{token}"], "{MARK}": 1}}"#)),
        (3079, format!(r#"{{"token": "{}"}}"#, MARK.repeat(1_000))),
        (3080, format!(r#"{{"token": {{"{MARK}": 1}}}}"#)),
        (3081, format!(r#"{{"filter": {{"kinds": "{MARK}"}}}}"#)),
        (3081, format!(r#"{{"filter": {{"{MARK}": ["{MARK}"]}}}}"#)),
        (3082, format!(r#"{{"filter": "{MARK}"}}"#)),
    ];
    let of_dialect_h = [
        json!({"kinds": [1], "deviceId": format!("{token}-h")}),
        json!({"kinds": MARK, "deviceId": token}),
        json!({"kinds": [1], "deviceId": [token]}),
        json!({"online": MARK}),
    ];
    let n = of_dialect_n
        .iter()
        .map(|(kind, plaintext)| dialect_n(&Keys::generate(), service, *kind, plaintext));
    let h = of_dialect_h
        .iter()
        .map(|plaintext| dialect_h(&Keys::generate(), service, &plaintext.to_string()));
    n.chain(h).collect()
}

fn dialect_n(keys: &Keys, service: PublicKey, kind: u16, plaintext: &str) -> Event {
    let now = now();
    let expiration = (now + Seconds::from_days(1)).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    control_event(keys, service, kind, now.0, &tags, plaintext)
}

fn dialect_h(keys: &Keys, service: PublicKey, plaintext: &str) -> Event {
    dialect_h_event(keys, service, now().0, &[&["app", "demo"]], plaintext)
}

/// Publishes events of a private kind until one is pushed. Their content passes through all stages.
async fn push_marked_private_event(stack: &Stack, alice: &Keys, token: &str) -> Result<(), String> {
    let owner = alice.public_key().to_hex();
    let hashtag = MARK.to_lowercase();
    wait_until("a private event is pushed", async || {
        let tags: [&[&str]; 2] = [&["p", &owner], &["t", &hashtag]];
        let content = format!("{MARK} ciphertext");
        let private = event(&Keys::generate(), 4, now().0, &tags, &content);
        publish(&stack.relays[0], &private).await.unwrap();
        let pushes = stack.aws.sns.pushes(0);
        pushes.iter().any(|push| push.token == token)
    })
    .await
}
