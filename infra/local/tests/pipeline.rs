//! The whole pipeline, from the relay to what SNS accepts, with a client that shares no code with
//! it: nostr-tools. What is asserted stands in `e2e/*.test.mjs`, and below for faults of SNS and
//! for a listener that is killed.
//!
//! There are two relays of different make: nostr-relay-builder, and `@nostr-relay/core`
//! (`e2e/relay.mjs`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use aws_sdk_cloudwatchlogs::types::QueryStatus;
use aws_sdk_sqs::types::QueueAttributeName;
use nostr::{
    event::Event,
    key::{Keys, PublicKey},
    nips::nip19::ToBech32,
};
use nostr_push_aws::{clients, secrets};
use nostr_push_core::{
    DAY,
    app::{App, Content},
    ports::seconds,
};
use nostr_push_local::{
    aws::STACK,
    demo::publish,
    process::{Service, run},
    relay, root,
    sns_proxy::Fault,
    stack::{Listening, Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::{control_event, dialect_h_event, event, free_port};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, sleep},
};

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_dialects_get_their_pushes() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let e2e = root().join("infra/local/e2e");
    let mut install = tools.npm().unwrap();
    run(install.current_dir(&e2e).args(["ci", "--silent"]), "npm ci")
        .await
        .unwrap();
    let addresses = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port(0))));
    let _first = relay::start(addresses[0]).await.unwrap();
    // One that the operator does not know.
    let owners = SocketAddr::from(([127, 0, 0, 1], free_port(0)));
    let _owners = relay::start(owners).await.unwrap();
    let mut node = tools.node().unwrap();
    node.current_dir(&e2e)
        .args(["relay.mjs", &addresses[1].port().to_string()]);
    let mut second = Service::start("relay", &mut node, data.path()).unwrap();
    second
        .ready(async || TcpStream::connect(addresses[1]).await.is_ok())
        .await
        .unwrap();
    let relays: Vec<String> = addresses
        .iter()
        .map(|address| format!("ws://{address}"))
        .collect();
    let options = Options {
        relays: relays.clone(),
        service_key: Some(Keys::generate()),
        ..Options::anywhere(data.path(), apps())
    };
    let mut stack = Stack::start(&tools, options).await.unwrap();
    let mut test = tools.node().unwrap();
    // One file after the other: they count what the service counts.
    test.current_dir(&e2e).args([
        "--test",
        "--test-concurrency=1",
        "--test-reporter=spec",
        "pipeline.test.mjs",
        "heartbeats.test.mjs",
        "delivery.test.mjs",
    ]);
    test.env("NOSTR_PUSH_URL", &stack.url)
        .env("NOSTR_PUSH_RELAYS", relays.join(","))
        .env("NOSTR_PUSH_SERVICE", &stack.service_pubkey);
    test.env("NOSTR_PUSH_OWNERS_RELAY", format!("ws://{owners}"));
    let tested = run(&mut test, "node --test").await;
    let tested = match tested {
        Ok(()) => the_rest(&mut stack).await,
        Err(error) => Err(error.to_string()),
    };
    let logs = if tested.is_ok() {
        String::new()
    } else {
        stack.logs()
    };
    stack.stop().await;
    second.stop().await;
    assert!(logs.is_empty(), "{tested:?}\n{logs}");
}

async fn the_rest(stack: &mut Stack) -> Result<(), String> {
    a_fault_at_sns_ends_as_its_outcome_says(stack).await?;
    a_killed_listener_loses_and_repeats_nothing(stack).await?;
    three_listeners_share_the_relays(stack).await?;
    every_delivery_is_accounted_for(stack).await?;
    no_log_line_holds_a_secret(stack).await?;
    one_query_follows_an_event(stack).await
}

/// The query that `docs/operations.md` gives, over the log groups that it names.
async fn one_query_follows_an_event(stack: &Stack) -> Result<(), String> {
    let docs = include_str!("../../../docs/operations.md");
    let query = docs
        .split_once("## Following one event")
        .unwrap()
        .1
        .split("```")
        .nth(1)
        .unwrap()
        .trim();
    let pushes = stack.aws.sns.pushes(0);
    let id = pushes
        .iter()
        .rev()
        .find_map(|push| push.message["event_id"].as_str())
        .unwrap();
    let client = aws_sdk_cloudwatchlogs::Client::new(
        &clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await,
    );
    let functions = ["control", "matcher", "deliver", "feedback"]
        .map(|stage| format!("/aws/lambda/{STACK}-{stage}"));
    let groups: Vec<String> = functions
        .into_iter()
        .chain([format!("/ecs/{STACK}-listener")])
        .collect();
    let now = i64::try_from(now()).unwrap();
    let started = client
        .start_query()
        .set_log_group_names(Some(groups))
        .query_string(query.replace("EVENT_ID", id));
    let started = started
        .start_time(now - 3600)
        .end_time(now + 60)
        .send()
        .await
        .unwrap();
    let mut lines = 0;
    until("the query ends", async || {
        let results = client
            .get_query_results()
            .set_query_id(started.query_id.clone())
            .send()
            .await
            .unwrap();
        lines = results.results().len();
        results.status() == Some(&QueryStatus::Complete)
    })
    .await?;
    // The matcher's, and deliver's.
    if lines >= 2 {
        Ok(())
    } else {
        Err(format!("{lines} lines of event {id}"))
    }
}

/// Whatever was said in confidence, well formed or not, stands in no line of any log, and so in no
/// metric; nor does the service's key, or any of the tokens that the whole of this test has used.
async fn no_log_line_holds_a_secret(stack: &Stack) -> Result<(), String> {
    const MARK: &str = "MARKED";
    let service = PublicKey::from_hex(&stack.service_pubkey).unwrap();
    let expiration = (now() + DAY).to_string();
    let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
    let token = format!("{MARK}-token");
    let alice = Keys::generate();
    let register = control_event(
        &alice,
        service,
        3079,
        now(),
        &tags,
        &json!({"token": token, "platform": "fcm"}).to_string(),
    );
    let (me, topic) = (alice.public_key().to_hex(), MARK.to_lowercase());
    let filter = json!({"filter": {"kinds": [1, 4], "#t": [topic], "#p": [me]}});
    let subscribe = control_event(&alice, service, 3081, now(), &tags, &filter.to_string());
    let mut said = vec![register, subscribe];
    // What a parser would like to quote.
    for (kind, plaintext) in [
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
    ] {
        said.push(control_event(
            &Keys::generate(),
            service,
            kind,
            now(),
            &tags,
            &plaintext,
        ));
    }
    for plaintext in [
        json!({"kinds": [1], "deviceId": format!("{token}-h")}),
        json!({"kinds": MARK, "deviceId": token}),
        json!({"kinds": [1], "deviceId": [token]}),
        json!({"online": MARK}),
    ] {
        said.push(dialect_h_event(
            &Keys::generate(),
            service,
            now(),
            &[&["app", "demo"]],
            &plaintext.to_string(),
        ));
    }
    let handled = async || {
        let counters = counters(stack).await;
        counters
            .iter()
            .filter(|(name, _)| {
                name.starts_with("control.accepted") || name.starts_with("control.refused")
            })
            .map(|(_, n)| n)
            .sum()
    };
    let before: u64 = handled().await;
    for event in &said {
        publish(&stack.relays[0], event).await.unwrap();
    }
    until("all that was said is handled", async || {
        handled().await >= before + said.len() as u64
    })
    .await?;
    // The content of a private kind passes through all stages.
    let pushed = async || {
        stack
            .aws
            .sns
            .pushes(0)
            .iter()
            .any(|push| push.token == token)
    };
    until("a private event is pushed", async || {
        let private = event(
            &Keys::generate(),
            4,
            now(),
            &[&["p", &me], &["t", &topic]],
            &format!("{MARK} ciphertext"),
        );
        publish(&stack.relays[0], &private).await.unwrap();
        pushed().await
    })
    .await?;

    let config = clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await;
    let key = secrets::service_key(&config, &format!("{STACK}-service-key"))
        .await
        .unwrap();
    let mut secrets: BTreeSet<String> = stack
        .aws
        .sns
        .pushes(0)
        .into_iter()
        .map(|push| push.token)
        .collect();
    let tokens = secrets.len();
    secrets.extend([
        MARK.to_owned(),
        key.secret_key().to_secret_hex(),
        key.secret_key().to_bech32().unwrap(),
    ]);
    let mut lines = stack.listener_log().unwrap();
    for stage in ["control", "matcher", "deliver", "feedback"] {
        let log = stack.function_log(stage).await.unwrap();
        assert!(!log.is_empty(), "{stage} has a log");
        lines.extend(log);
    }
    assert!(
        tokens > 5 && lines.len() > 500,
        "{tokens} tokens, {} lines",
        lines.len()
    );
    let all = lines.join("\n").to_lowercase();
    let found: Vec<&String> = secrets
        .iter()
        .filter(|secret| all.contains(&secret.to_lowercase()))
        .collect();
    if found.is_empty() {
        Ok(())
    } else {
        Err(format!("in the logs: {found:?}"))
    }
}

/// Faults at the edge of SNS, each with the state that its outcome promises.
async fn a_fault_at_sns_ends_as_its_outcome_says(stack: &Stack) -> Result<(), String> {
    let said = async |name: &str| counters(stack).await.get(name).copied().unwrap_or_default();
    let accepted = Arc::new(Notify::new());
    for (fault, counter, pushes) in [
        (
            Fault::Answer(400, "Throttled"),
            "deliver.failed.throttled",
            1,
        ),
        (
            Fault::Answer(500, "InternalError"),
            "deliver.failed.unavailable",
            1,
        ),
        // Accepted, and nobody hears of it: it is published again, under the same collapse id.
        (
            Fault::HoldAfter(Arc::clone(&accepted)),
            "deliver.failed.no_answer",
            2,
        ),
        (
            Fault::Answer(400, "InvalidParameter"),
            "deliver.rejected.invalid_message",
            0,
        ),
        // The operator's to mend: it waits for minutes, and the device stays.
        (
            Fault::Answer(400, "PlatformApplicationDisabled"),
            "deliver.failed.bad_credentials",
            0,
        ),
        (
            Fault::Answer(400, "EndpointDisabled"),
            "deliver.gone.apns",
            0,
        ),
    ] {
        let phone = Phone::new();
        phone.subscribe(stack).await;
        let first = phone.note(1, now() + 1, "the first");
        publish(&stack.relays[0], &first).await.unwrap();
        phone
            .until_pushed(stack, std::slice::from_ref(&first))
            .await?;
        let (before, removed) = (said(counter).await, said("feedback.accepted.removed").await);
        stack.aws.sns.inject(fault);
        let note = phone.note(1, now(), counter);
        publish(&stack.relays[0], &note).await.unwrap();
        until(counter, async || said(counter).await > before).await?;
        let got = async || {
            phone
                .pushes(stack)
                .await
                .get(&note.id.to_hex())
                .copied()
                .unwrap_or_default()
        };
        until(counter, async || got().await >= pushes).await?;
        let later = phone.note(1, now(), "the last");
        publish(&stack.relays[0], &later).await.unwrap();
        if counter == "deliver.gone.apns" {
            // Through the stream of `devices`: row and endpoint go.
            until("feedback", async || {
                said("feedback.accepted.removed").await > removed
            })
            .await?;
        } else {
            phone
                .until_pushed(stack, std::slice::from_ref(&later))
                .await?;
        }
        let got = got().await;
        if got != pushes {
            return Err(format!("{counter}: {got} pushes"));
        }
    }
    Ok(())
}

/// What the matcher queued = what was completed + what was dropped, by whatever reason + what still
/// waits in the queue.
async fn every_delivery_is_accounted_for(stack: &Stack) -> Result<(), String> {
    let sqs =
        aws_sdk_sqs::Client::new(&clients::at(&stack.aws.environment(), "AWS_ENDPOINT_URL").await);
    let url = sqs
        .get_queue_url()
        .queue_name(format!("{STACK}-delivery"))
        .send()
        .await
        .unwrap()
        .queue_url
        .unwrap();
    let mut sums = (0, 0, 0);
    let balanced = until("the deliveries add up", async || {
        let answer = sqs
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .unwrap();
        let attributes = answer.attributes.unwrap();
        let waiting = attributes
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("ApproximateNumberOf"));
        let waiting: u64 = waiting.filter_map(|(_, n)| n.parse::<u64>().ok()).sum();
        let counters = counters(stack).await;
        let ended = |(name, _): &(&String, &u64)| {
            *name == "deliver.accepted.completed" || name.starts_with("deliver.dropped.")
        };
        sums = (
            counters["matcher.accepted.matched"],
            counters.iter().filter(ended).map(|(_, n)| n).sum(),
            waiting,
        );
        sums.0 == sums.1 + sums.2
    });
    balanced
        .await
        .map_err(|error| format!("{error}: accepted, ended, waiting: {sums:?}"))
}

async fn counters(stack: &Stack) -> BTreeMap<String, u64> {
    reqwest::get(format!("{}/counters", stack.url))
        .await
        .unwrap()
        .json()
        .await
        .unwrap()
}

/// Waits for a condition, with a limit that no working service reaches.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<(), String> {
    for _ in 0..600 {
        if holds().await {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(format!("not after two minutes: {what}"))
}

fn apps() -> Vec<App> {
    // Time enough for an event to arrive while the app looks open, and not for a cup of coffee.
    let presence_timeout = Some(30);
    vec![
        // Some tests send hundreds of events to one phone.
        App {
            presence_timeout,
            max_pushes: Some(1_000),
            ..App::named("demo")
        },
        App {
            presence_timeout,
            max_pushes: Some(3),
            max_mentions: Some(5),
            content: Content::Minimal,
            ..App::named("second")
        },
    ]
}

/// A phone of somebody who wants notes that mention her.
struct Phone {
    keys: Keys,
    token: String,
}

impl Phone {
    fn new() -> Self {
        Self {
            keys: Keys::generate(),
            token: Keys::generate().public_key().to_hex(),
        }
    }

    /// Registers the phone and its filter.
    async fn subscribe(&self, stack: &Stack) {
        let service = PublicKey::from_hex(&stack.service_pubkey).unwrap();
        let now = now();
        let expiration = (now + DAY).to_string();
        let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
        for (kind, payload) in [
            (3079, json!({"token": self.token})),
            (
                3081,
                json!({"filter": {"kinds": [1, 1059], "#p": [self.keys.public_key()]}}),
            ),
        ] {
            publish(
                &stack.relays[0],
                &control_event(&self.keys, service, kind, now, &tags, &payload.to_string()),
            )
            .await
            .unwrap();
        }
    }

    fn note(&self, kind: u16, at: u64, content: &str) -> Event {
        event(
            &Keys::generate(),
            kind,
            at,
            &[&["p", &self.keys.public_key().to_hex()]],
            content,
        )
    }

    /// How often each event was pushed to it.
    async fn pushes(&self, stack: &Stack) -> BTreeMap<String, usize> {
        let all: Value = reqwest::get(format!("{}/pushes?after=0", stack.url))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let mut pushes = BTreeMap::new();
        for push in all["pushes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|push| push["token"] == json!(self.token))
        {
            *pushes
                .entry(push["message"]["event_id"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        pushes
    }

    async fn until_pushed(&self, stack: &Stack, events: &[Event]) -> Result<(), String> {
        let mut left = events.len();
        for _ in 0..600 {
            let pushes = self.pushes(stack).await;
            left = events
                .iter()
                .filter(|event| !pushes.contains_key(&event.id.to_hex()))
                .count();
            if left == 0 {
                return Ok(());
            }
            sleep(Duration::from_millis(200)).await;
        }
        Err(format!("{left} of {} events were not pushed", events.len()))
    }
}

/// SIGKILL while events flow; after the restart each has made exactly one push. And who registers
/// then gets none for what was before, wraps included.
async fn a_killed_listener_loses_and_repeats_nothing(stack: &mut Stack) -> Result<(), String> {
    let (alice, carol) = (Phone::new(), Phone::new());
    alice.subscribe(stack).await;
    let first = alice.note(1, now(), "the first");
    publish(&stack.relays[0], &first).await.unwrap();
    alice
        .until_pushed(stack, std::slice::from_ref(&first))
        .await?;
    let mut notes = vec![first];
    for n in 0..120 {
        let note = alice.note(1, now(), &n.to_string());
        // To the one relay, the other, or both.
        for relay in stack
            .relays
            .iter()
            .enumerate()
            .filter(|(i, _)| n % 3 != *i)
            .map(|(_, relay)| relay)
        {
            publish(relay, &note).await.unwrap();
        }
        notes.push(note);
        if n == 60 {
            assert!(stack.check_listener().await.unwrap(), "it is ready");
            stack.listener.kill().await;
            assert!(!stack.check_listener().await.unwrap(), "it is not there");
        }
        if n % 10 == 0 {
            publish(
                &stack.relays[0],
                &carol.note(1059, now() - DAY, "for carol, too early"),
            )
            .await
            .unwrap();
        }
    }
    stack.listener = stack.another_listener("listener").await.unwrap();
    alice.until_pushed(stack, &notes).await?;
    carol.subscribe(stack).await;
    let late = carol.note(1, now() + 1, "for carol");
    publish(&stack.relays[0], &late).await.unwrap();
    carol
        .until_pushed(stack, std::slice::from_ref(&late))
        .await?;
    let repeated: Vec<_> = alice
        .pushes(stack)
        .await
        .into_iter()
        .filter(|(_, times)| *times != 1)
        .collect();
    let early = carol.pushes(stack).await.len() - 1;
    if repeated.is_empty() && early == 0 {
        Ok(())
    } else {
        Err(format!(
            "pushed more than once: {repeated:?}; too early: {early}"
        ))
    }
}

/// Three processes: each relay has one of them, and when it is killed another within a minute.
async fn three_listeners_share_the_relays(stack: &mut Stack) -> Result<(), String> {
    let mut others = vec![
        stack.another_listener("second-listener").await.unwrap(),
        stack.another_listener("third-listener").await.unwrap(),
    ];
    let watched = async |listener: &Listening| {
        listener.says().await.map_or(0, |says| {
            says["relays_watched"].as_u64().unwrap_or_default()
        })
    };
    for _ in 0..300 {
        let all = [
            watched(&stack.listener).await,
            watched(&others[0]).await,
            watched(&others[1]).await,
        ];
        if all.iter().sum::<u64>() == stack.relays.len() as u64 {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let dora = Phone::new();
    dora.subscribe(stack).await;
    let first = dora.note(1, now() + 1, "the first");
    publish(&stack.relays[1], &first).await.unwrap();
    dora.until_pushed(stack, std::slice::from_ref(&first))
        .await?;
    // Whoever watches a relay dies.
    let mut victims = vec![std::mem::replace(&mut stack.listener, others.remove(0))];
    victims.extend(others);
    let mut notes = vec![first];
    let mut killed = 0;
    for victim in &mut victims {
        if killed == 0 && watched(victim).await > 0 {
            victim.kill().await;
            killed += 1;
        }
    }
    if killed == 0 {
        let third = victims.pop().unwrap();
        std::mem::replace(&mut stack.listener, third).kill().await;
    }
    let died = Instant::now();
    for n in 0..10 {
        for relay in &stack.relays {
            let note = dora.note(1, now(), &format!("{n} at {relay}"));
            publish(relay, &note).await.unwrap();
            notes.push(note);
        }
    }
    dora.until_pushed(stack, &notes).await?;
    let took = died.elapsed();
    let repeated: Vec<_> = dora
        .pushes(stack)
        .await
        .into_iter()
        .filter(|(_, times)| *times != 1)
        .collect();
    for victim in victims {
        victim.stop().await;
    }
    if repeated.is_empty() && took < Duration::from_secs(60) {
        Ok(())
    } else {
        Err(format!(
            "after {took:?}, pushed more than once: {repeated:?}"
        ))
    }
}

fn now() -> u64 {
    seconds(clients::now())
}
