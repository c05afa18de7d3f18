//! The whole pipeline, from the relay to what SNS accepts, with a client that shares no code with it: nostr-tools.
//! What is asserted stands in `e2e/*.test.mjs`, and below for a listener that is killed.
//!
//! There are two relays of different make: nostr-relay-builder, and `@nostr-relay/core` (`e2e/relay.mjs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use nostr::{
    event::Event,
    key::{Keys, PublicKey},
};
use nostr_push_aws::clients;
use nostr_push_core::{DAY, ports::seconds};
use nostr_push_local::{
    aws::Ports,
    demo::publish,
    process::{Service, run},
    relay, root,
    stack::{Listening, Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::{control_event, event, free_port};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_dialects_get_their_pushes() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let e2e = root().join("infra/local/e2e");
    let mut install = tools.npm().unwrap();
    run(install.current_dir(&e2e).args(["ci", "--silent"]), "npm ci").await.unwrap();
    let addresses = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port(0))));
    let _first = relay::start(addresses[0]).await.unwrap();
    // One that the operator does not know.
    let owners = SocketAddr::from(([127, 0, 0, 1], free_port(0)));
    let _owners = relay::start(owners).await.unwrap();
    let mut node = tools.node().unwrap();
    node.current_dir(&e2e).args(["relay.mjs", &addresses[1].port().to_string()]);
    let mut second = Service::start("relay", &mut node, data.path()).unwrap();
    second.ready(async || TcpStream::connect(addresses[1]).await.is_ok()).await.unwrap();
    let relays: Vec<String> = addresses.iter().map(|address| format!("ws://{address}")).collect();
    let options = Options {
        listen: "127.0.0.1:0".to_owned(),
        relays: relays.clone(),
        relay_address: addresses[0],
        service_key: Some(Keys::generate()),
        data: data.path().to_owned(),
        ports: Ports::ANY,
        apps: vec!["second".to_owned()],
        // Time enough for an event to arrive while the app looks open, and not for a cup of coffee.
        presence_timeout: Some(30),
    };
    let mut stack = Stack::start(&tools, options).await.unwrap();
    let mut test = tools.node().unwrap();
    // One file after the other: they count what the service counts.
    test.current_dir(&e2e).args(["--test", "--test-concurrency=1", "--test-reporter=spec", "pipeline.test.mjs", "heartbeats.test.mjs"]);
    test.env("NOSTR_PUSH_URL", &stack.url).env("NOSTR_PUSH_RELAYS", relays.join(",")).env("NOSTR_PUSH_SERVICE", &stack.service_pubkey);
    test.env("NOSTR_PUSH_OWNERS_RELAY", format!("ws://{owners}"));
    let tested = run(&mut test, "node --test").await;
    let killed = match &tested {
        Ok(()) => match a_killed_listener_loses_and_repeats_nothing(&mut stack).await {
            Ok(()) => three_listeners_share_the_relays(&mut stack).await,
            failed => failed,
        },
        Err(_) => Ok(()),
    };
    let logs = if tested.is_ok() && killed.is_ok() { String::new() } else { stack.logs() };
    stack.stop().await;
    second.stop().await;
    assert!(logs.is_empty(), "{tested:?} {killed:?}\n{logs}");
}

/// A phone of somebody who wants notes that mention her.
struct Phone {
    keys: Keys,
    token: String,
}

impl Phone {
    fn new() -> Self {
        Self { keys: Keys::generate(), token: Keys::generate().public_key().to_hex() }
    }

    /// Registers the phone and its filter.
    async fn subscribe(&self, stack: &Stack) {
        let service = PublicKey::from_hex(&stack.service_pubkey).unwrap();
        let now = now();
        let expiration = (now + DAY).to_string();
        let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
        for (kind, payload) in
            [(3079, json!({"token": self.token})), (3081, json!({"filter": {"kinds": [1, 1059], "#p": [self.keys.public_key()]}}))]
        {
            publish(&stack.relays[0], &control_event(&self.keys, service, kind, now, &tags, &payload.to_string())).await.unwrap();
        }
    }

    fn note(&self, kind: u16, at: u64, content: &str) -> Event {
        event(&Keys::generate(), kind, at, &[&["p", &self.keys.public_key().to_hex()]], content)
    }

    /// How often each event was pushed to it.
    async fn pushes(&self, stack: &Stack) -> BTreeMap<String, usize> {
        let all: Value = reqwest::get(format!("{}/pushes?after=0", stack.url)).await.unwrap().json().await.unwrap();
        let mut pushes = BTreeMap::new();
        for push in all["pushes"].as_array().unwrap().iter().filter(|push| push["token"] == json!(self.token)) {
            *pushes.entry(push["message"]["event_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        pushes
    }

    async fn until_pushed(&self, stack: &Stack, events: &[Event]) -> Result<(), String> {
        let mut left = events.len();
        for _ in 0..600 {
            let pushes = self.pushes(stack).await;
            left = events.iter().filter(|event| !pushes.contains_key(&event.id.to_hex())).count();
            if left == 0 {
                return Ok(());
            }
            sleep(Duration::from_millis(200)).await;
        }
        Err(format!("{left} of {} events were not pushed", events.len()))
    }
}

/// SIGKILL while events flow; after the restart each has made exactly one push. And who registers then gets none for what
/// was before, wraps included.
async fn a_killed_listener_loses_and_repeats_nothing(stack: &mut Stack) -> Result<(), String> {
    let (alice, carol) = (Phone::new(), Phone::new());
    alice.subscribe(stack).await;
    let first = alice.note(1, now(), "the first");
    publish(&stack.relays[0], &first).await.unwrap();
    alice.until_pushed(stack, std::slice::from_ref(&first)).await?;
    let mut notes = vec![first];
    for n in 0..120 {
        let note = alice.note(1, now(), &n.to_string());
        // To the one relay, the other, or both.
        for relay in stack.relays.iter().enumerate().filter(|(i, _)| n % 3 != *i).map(|(_, relay)| relay) {
            publish(relay, &note).await.unwrap();
        }
        notes.push(note);
        if n == 60 {
            assert!(stack.check_listener().await.unwrap(), "it is ready");
            stack.listener.kill().await;
            assert!(!stack.check_listener().await.unwrap(), "it is not there");
        }
        if n % 10 == 0 {
            publish(&stack.relays[0], &carol.note(1059, now() - DAY, "for carol, too early")).await.unwrap();
        }
    }
    stack.listener = stack.another_listener("listener").await.unwrap();
    alice.until_pushed(stack, &notes).await?;
    carol.subscribe(stack).await;
    let late = carol.note(1, now() + 1, "for carol");
    publish(&stack.relays[0], &late).await.unwrap();
    carol.until_pushed(stack, std::slice::from_ref(&late)).await?;
    let repeated: Vec<_> = alice.pushes(stack).await.into_iter().filter(|(_, times)| *times != 1).collect();
    let early = carol.pushes(stack).await.len() - 1;
    if repeated.is_empty() && early == 0 { Ok(()) } else { Err(format!("pushed more than once: {repeated:?}; too early: {early}")) }
}

/// Three processes: each relay has one of them, and when it is killed another within a minute.
async fn three_listeners_share_the_relays(stack: &mut Stack) -> Result<(), String> {
    let mut others =
        vec![stack.another_listener("second-listener").await.unwrap(), stack.another_listener("third-listener").await.unwrap()];
    let watched = async |listener: &Listening| listener.says().await.map_or(0, |says| says["relays_watched"].as_u64().unwrap_or_default());
    for _ in 0..300 {
        let all = [watched(&stack.listener).await, watched(&others[0]).await, watched(&others[1]).await];
        if all.iter().sum::<u64>() == stack.relays.len() as u64 {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let dora = Phone::new();
    dora.subscribe(stack).await;
    let first = dora.note(1, now() + 1, "the first");
    publish(&stack.relays[1], &first).await.unwrap();
    dora.until_pushed(stack, std::slice::from_ref(&first)).await?;
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
    let repeated: Vec<_> = dora.pushes(stack).await.into_iter().filter(|(_, times)| *times != 1).collect();
    for victim in victims {
        victim.stop().await;
    }
    if repeated.is_empty() && took < Duration::from_secs(60) {
        Ok(())
    } else {
        Err(format!("after {took:?}, pushed more than once: {repeated:?}"))
    }
}

fn now() -> u64 {
    seconds(clients::now())
}
