//! Requests for profiles, on real relays and on relays that misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod support;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use listener::{
    counter::{ListenerCounter, ProfileReason},
    profiles::{ProfileRequests, ProfileSources},
    shutdown::{Shutdown, StopHandle},
};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    message,
    profile::{Profile, ProfileKey, ProfileRequest},
};
use nostr_push_testkit::event;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

use self::support::{
    MemoryPorts, free_address, now, now_ms, profile_counter, publish_all, relay, until, url,
};

/// A timeout that no test reaches.
const LONG: Duration = Duration::from_mins(10);

/// A timeout that a test waits for.
const SHORT: Duration = Duration::from_millis(200);

/// The task, with everything in memory. It stops when the value is dropped.
struct Task {
    ports: MemoryPorts,
    counts: Arc<Mutex<BTreeMap<ListenerCounter, u64>>>,
    stop: StopHandle,
    running: JoinHandle<()>,
}

/// Starts the task for an operator with these relays.
fn start(operators: &[SocketAddr], allow_private: bool, timeout: Duration) -> Task {
    start_with(operators, allow_private, timeout, Duration::ZERO)
}

/// Starts the task with this shortest time per request.
fn start_with(
    operators: &[SocketAddr],
    allow_private: bool,
    timeout: Duration,
    interval: Duration,
) -> Task {
    let (ports, counts) = (
        MemoryPorts::default(),
        Arc::<Mutex<BTreeMap<_, _>>>::default(),
    );
    let operators: Vec<String> = operators.iter().map(url).collect();
    let counted = Arc::clone(&counts);
    let requests = ProfileRequests {
        inbox: ports.clone(),
        store: ports.clone(),
        sources: ProfileSources::new(&operators, allow_private),
        interval,
        timeout,
        count: Arc::new(move |counter, n| {
            *counted.lock().unwrap().entry(counter).or_default() += n;
        }),
        clock: now_ms,
    };
    let (stop, shutdown) = Shutdown::channel();
    Task {
        ports,
        counts,
        stop,
        running: tokio::spawn(requests.run(shutdown)),
    }
}

impl Task {
    /// Puts requests into the queue, all at the same time.
    fn ask_all(&self, requests: impl IntoIterator<Item = (String, ProfileKey, String)>) {
        let mut state = self.ports.store.state();
        for (receipt, key, relay) in requests {
            let body = message::encode(&ProfileRequest { key, relay }).unwrap();
            state.inbox.insert(receipt, body);
        }
    }

    fn ask(&self, receipt: &str, key: ProfileKey, relay: &str) {
        self.ask_all([(receipt.to_owned(), key, relay.to_owned())]);
    }

    fn is_finished(&self, receipt: &str) -> bool {
        !self.ports.store.state().inbox.contains_key(receipt)
    }

    /// Waits until the request is deleted.
    async fn finished(&self, receipt: &str) {
        until("the request is finished", || self.is_finished(receipt)).await;
    }

    /// The stored name.
    fn name(&self, key: &ProfileKey) -> Option<String> {
        let state = self.ports.store.state();
        state.profiles.get(key)?.0.name.clone()
    }

    fn count(&self, reason: ProfileReason) -> u64 {
        let counts = self.counts.lock().unwrap();
        let count = counts.get(&ListenerCounter::Profile(reason));
        count.copied().unwrap_or_default()
    }
}

fn person(keys: &Keys) -> ProfileKey {
    ProfileKey::Person(keys.public_key())
}

/// The group `g` on this relay.
fn group(relay: String) -> ProfileKey {
    ProfileKey::Group {
        relay,
        id: "g".to_owned(),
    }
}

fn profile(keys: &Keys, created_at: u64, name: &str) -> Event {
    event(keys, 0, created_at, &[], &json!({"name": name}).to_string())
}

/// The profile of the group `id`.
fn group_profile(keys: &Keys, created_at: u64, id: &str, name: &str) -> Event {
    event(keys, 39_000, created_at, &[&["d", id], &["name", name]], "")
}

type Socket = WebSocketStream<TcpStream>;

/// What a scripted relay sends after each REQ.
#[derive(Clone)]
enum Script {
    Once(Vec<Value>),
    Endlessly(Vec<Value>),
}

/// A relay that follows a script.
struct Scripted {
    address: SocketAddr,
    /// The messages that it has received.
    received: Arc<Mutex<Vec<Value>>>,
}

impl Scripted {
    fn url(&self) -> String {
        url(&self.address)
    }

    /// The messages with this verb that the relay has received.
    fn received(&self, verb: &str) -> Vec<Value> {
        let received = self.received.lock().unwrap();
        let messages = received.iter().filter(|message| message[0] == verb);
        messages.cloned().collect()
    }
}

/// Starts a relay that follows a script. Its information document contains `key`.
async fn scripted(key: Option<&Keys>, script: Script) -> Scripted {
    let (address, received) = (free_address(), Arc::<Mutex<Vec<Value>>>::default());
    let listener = TcpListener::bind(address).await.unwrap();
    let document = json!({"self": key.map(Keys::public_key), "limitation": {"max_limit": "x"}});
    let recorded = Arc::clone(&received);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (document, script) = (document.to_string(), script.clone());
            tokio::spawn(serve(stream, document, script, Arc::clone(&recorded)));
        }
    });
    Scripted { address, received }
}

async fn serve(
    mut stream: TcpStream,
    document: String,
    script: Script,
    received: Arc<Mutex<Vec<Value>>>,
) {
    let mut start = [0; 2_048];
    let length = stream.peek(&mut start).await.unwrap();
    if String::from_utf8_lossy(&start[..length]).contains("application/nostr+json") {
        drop(stream.read(&mut start).await);
        let length = document.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{document}");
        drop(stream.write_all(response.as_bytes()).await);
        return;
    }
    let Ok(mut socket) = accept_async(stream).await else {
        received.lock().unwrap().push(json!(["no websocket"]));
        return;
    };
    while let Some(Ok(frame)) = socket.next().await {
        let Ok(message) = serde_json::from_str::<Value>(frame.to_text().unwrap_or_default()) else {
            continue;
        };
        let is_req = message[0] == "REQ";
        received.lock().unwrap().push(message);
        if is_req && play(&mut socket, &script).await.is_none() {
            return;
        }
    }
}

/// Sends what the script says. Returns `None` when the connection has ended.
async fn play(socket: &mut Socket, script: &Script) -> Option<()> {
    let (messages, is_endless) = match script {
        Script::Once(messages) => (messages, false),
        Script::Endlessly(messages) => (messages, true),
    };
    loop {
        for message in messages {
            let message = Message::text(message.to_string());
            socket.send(message).await.ok()?;
        }
        if !is_endless {
            return Some(());
        }
    }
}

fn of(event: &Event) -> Value {
    json!(["EVENT", "profiles", event])
}

fn eose() -> Value {
    json!(["EOSE", "profiles"])
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_on_the_relay_of_the_event_is_stored() {
    let address = free_address();
    let _relay = relay(address).await;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    publish_all(address, &[profile(&alice, now() - 100, "alice")]).await;
    let task = start(&[], true, LONG);
    task.ask("1", person(&alice), &url(&address));
    task.ask("2", person(&bob), &url(&address));
    for receipt in ["1", "2"] {
        task.finished(receipt).await;
    }
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
    assert_eq!(task.name(&person(&bob)), None);
    publish_all(address, &[profile(&alice, now(), "Alice")]).await;
    for receipt in ["3", "4"] {
        task.ask(receipt, person(&alice), &url(&address));
        task.finished(receipt).await;
    }
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("Alice"));
    let reasons = [
        (ProfileReason::Requested, 4),
        (ProfileReason::NotFound, 1),
        (ProfileReason::Stored, 2),
        (ProfileReason::Outdated, 1),
    ];
    for (reason, count) in reasons {
        assert_eq!(task.count(reason), count, "{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_for_one_profile_are_one() {
    let alice = Keys::generate();
    let answer = vec![of(&profile(&alice, now(), "alice")), eose()];
    let relay = scripted(None, Script::Once(answer)).await;
    let task = start(&[], true, LONG);
    task.ask_all(["1", "2"].map(|receipt| (receipt.to_owned(), person(&alice), relay.url())));
    for receipt in ["1", "2"] {
        task.finished(receipt).await;
    }
    let filter = json!({"kinds": [0], "authors": [alice.public_key()]});
    let req = json!(["REQ", "profiles", filter]);
    assert_eq!(relay.received("REQ"), [req]);
    assert_eq!(task.count(ProfileReason::Stored), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_without_a_name_removes_the_name() {
    let alice = Keys::generate();
    let answer = vec![of(&profile(&alice, now(), "")), eose()];
    let relay = scripted(None, Script::Once(answer)).await;
    let task = start(&[], true, LONG);
    let stored = Profile {
        name: Some("alice".to_owned()),
        ..Profile::default()
    };
    {
        let mut state = task.ports.store.state();
        state.profiles.insert(person(&alice), (stored, None));
    }
    task.ask("1", person(&alice), &relay.url());
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)), None);
    assert_eq!(task.count(ProfileReason::Stored), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn person_is_asked_for_at_two_of_the_operators_relays_too() {
    let addresses: [SocketAddr; 3] = std::array::from_fn(|_| free_address());
    let mut relays = Vec::new();
    for address in addresses {
        relays.push(relay(address).await);
    }
    let [events, empty, second] = addresses;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    publish_all(second, &[profile(&alice, now(), "alice")]).await;
    let answer = vec![of(&profile(&bob, now(), "bob")), eose()];
    let third = scripted(None, Script::Once(answer)).await;
    let task = start(&[empty, second, third.address], true, LONG);
    task.ask("1", person(&alice), &url(&events));
    task.ask("2", person(&bob), &url(&events));
    for receipt in ["1", "2"] {
        task.finished(receipt).await;
    }
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
    assert_eq!(task.name(&person(&bob)), None);
    assert_eq!(third.received("REQ"), [] as [Value; 0]);
    // A relay of the operator is itself not one of the two others.
    task.ask("3", person(&bob), &url(&empty));
    task.finished("3").await;
    assert_eq!(task.name(&person(&bob)).as_deref(), Some("bob"));
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_profile_of_all_relays_is_stored() {
    let (alice, operator) = (Keys::generate(), free_address());
    let _operator = relay(operator).await;
    publish_all(operator, &[profile(&alice, now(), "new")]).await;
    let old = vec![of(&profile(&alice, now() - 500, "old")), eose()];
    let events = scripted(None, Script::Once(old)).await;
    let task = start(&[operator], true, LONG);
    task.ask("1", person(&alice), &events.url());
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("new"));
    assert_eq!(task.count(ProfileReason::Stored), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn person_is_asked_for_elsewhere_if_the_relay_refuses_or_fails() {
    let alice = Keys::generate();
    let operator = free_address();
    let _operator = relay(operator).await;
    publish_all(operator, &[profile(&alice, now(), "alice")]).await;
    let refusal = vec![
        json!(["AUTH", "challenge"]),
        json!(["CLOSED", "profiles", "auth-required: no"]),
    ];
    let refusing = scripted(None, Script::Once(refusal)).await;
    let silent = scripted(None, Script::Once(Vec::new())).await;
    for (relay, timeout) in [
        (refusing.url(), LONG),
        (silent.url(), SHORT),
        (url(&free_address()), LONG),
    ] {
        let task = start(&[operator], true, timeout);
        task.ask("1", person(&alice), &relay);
        task.finished("1").await;
        assert_eq!(
            task.name(&person(&alice)).as_deref(),
            Some("alice"),
            "{relay}"
        );
    }
    // The refusal did not make the listener authenticate.
    assert_eq!(refusing.received("AUTH"), [] as [Value; 0]);
    // A refusal says nothing about the person.
    let task = start(&[], true, LONG);
    task.ask("1", person(&alice), &refusing.url());
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)), None);
    assert_eq!(task.count(ProfileReason::Unanswered), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_unrequested_events_are_not_stored() {
    let (alice, mallory) = (Keys::generate(), Keys::generate());
    let mut forged = json!(profile(&alice, now(), "forged"));
    forged["content"] = json!(r#"{"name":"mallory"}"#);
    let mut wrong_id = json!(profile(&alice, now(), "wrong id"));
    wrong_id["id"] = json!("0".repeat(64));
    let messages = vec![
        json!(["AUTH", "challenge"]),
        json!(["NOTICE", "hello"]),
        json!("nonsense"),
        json!(["EVENT", "profiles", forged]),
        json!(["EVENT", "profiles", wrong_id]),
        of(&profile(&mallory, now(), "mallory")),
        of(&profile(&alice, now() + 7_200, "from the future")),
        of(&event(&alice, 1, now(), &[], r#"{"name":"note"}"#)),
        of(&group_profile(&alice, now(), "g", "group")),
        of(&profile(&alice, now() - 500, "old")),
        of(&profile(&alice, now() - 50, "alice")),
        of(&profile(&alice, now() - 500, "old")),
        eose(),
        of(&profile(&alice, now(), "after EOSE")),
    ];
    let relay = scripted(None, Script::Once(messages)).await;
    let task = start(&[], true, LONG);
    task.ask("1", person(&alice), &relay.url());
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
    assert_eq!(task.ports.store.state().profiles.len(), 1);
    assert_eq!(relay.received("AUTH"), [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_answers_end_at_the_bounds() {
    let (alice, mallory) = (Keys::generate(), Keys::generate());
    let many = vec![of(&profile(&mallory, now(), "another"))];
    let large = vec![json!(["NOTICE", "x".repeat(100_000)])];
    let too_large = vec![json!(["EVENT", "profiles", "x".repeat(1_000_000)])];
    let too_late = |message: &Value, count: usize| {
        let mut messages = vec![message.clone(); count];
        messages.push(of(&profile(&alice, now(), "too late")));
        Script::Once(messages)
    };
    let (after_many, after_large) = (too_late(&many[0], 100), too_late(&large[0], 10));
    for script in [
        Script::Endlessly(many),
        Script::Endlessly(large),
        Script::Endlessly(too_large),
        after_many,
        after_large,
    ] {
        let relay = scripted(None, script).await;
        let task = start(&[], true, LONG);
        task.ask("1", person(&alice), &relay.url());
        task.finished("1").await;
        assert_eq!(task.ports.store.state().profiles.len(), 0);
        assert_eq!(task.count(ProfileReason::NotFound), 0);
        assert_eq!(task.count(ProfileReason::Unanswered), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_no_relay_answers_is_received_twice() {
    let silent = scripted(None, Script::Once(Vec::new())).await;
    let alice = Keys::generate();
    let task = start(&[silent.address], true, SHORT);
    task.ask("1", person(&alice), &silent.url());
    task.finished("1").await;
    assert_eq!(task.count(ProfileReason::Unanswered), 2);
    assert_eq!(silent.received("REQ").len(), 2);
    // The subscription is ended nevertheless.
    until("CLOSE", || !silent.received("CLOSE").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_before_the_timeout_is_stored() {
    let alice = Keys::generate();
    let answer = vec![of(&profile(&alice, now(), "alice"))];
    let relay = scripted(None, Script::Once(answer)).await;
    let task = start(&[], true, Duration::from_secs(2));
    task.ask("1", person(&alice), &relay.url());
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_stays_if_the_table_or_the_queue_fails() {
    let alice = Keys::generate();
    let answer = vec![of(&profile(&alice, now(), "alice")), eose()];
    let relay = scripted(None, Script::Once(answer)).await;
    let task = start(&[], true, LONG);
    task.ports.failing_profiles.store(1, Ordering::SeqCst);
    task.ask("1", person(&alice), &relay.url());
    task.finished("1").await;
    assert_eq!(task.count(ProfileReason::Requested), 2);
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
    task.ports.store.state().fail_in = Some(0);
    task.ask("2", person(&alice), &relay.url());
    task.finished("2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn name_of_a_group_comes_from_its_relay() {
    let (relay_key, mallory, alice) = (Keys::generate(), Keys::generate(), Keys::generate());
    let messages = vec![
        of(&group_profile(&mallory, now(), "g", "mallory")),
        of(&group_profile(&relay_key, now() - 5, "g", "Rust")),
        of(&group_profile(&relay_key, now(), "h", "another group")),
        of(&profile(&alice, now(), "alice")),
        eose(),
    ];
    let relay = scripted(Some(&relay_key), Script::Once(messages.clone())).await;
    let task = start(&[], true, LONG);
    task.ask_all([
        ("1".to_owned(), group(relay.url()), "ignored".to_owned()),
        ("2".to_owned(), person(&alice), relay.url()),
    ]);
    for receipt in ["1", "2"] {
        task.finished(receipt).await;
    }
    assert_eq!(task.name(&group(relay.url())).as_deref(), Some("Rust"));
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
    let people = json!({"kinds": [0], "authors": [alice.public_key()]});
    let authors = [relay_key.public_key()];
    let groups = json!({"kinds": [39_000], "#d": ["g"], "authors": authors});
    let req = json!(["REQ", "profiles", people, groups]);
    assert_eq!(relay.received("REQ"), [req]);
    // A relay that names no key has no groups.
    let relay = scripted(None, Script::Once(messages)).await;
    task.ask("3", group(relay.url()), &relay.url());
    task.finished("3").await;
    assert_eq!(task.name(&group(relay.url())), None);
    assert_eq!(relay.received("REQ"), [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn group_is_asked_for_only_at_its_relay() {
    // The operator's relay could answer, but it is not the group's.
    let operator = free_address();
    let _operator = relay(operator).await;
    let task = start(&[operator], true, LONG);
    task.ask("1", group(url(&free_address())), &url(&operator));
    task.finished("1").await;
    assert_eq!(task.count(ProfileReason::Unanswered), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_relays_are_asked() {
    let alice = Keys::generate();
    let answer = vec![of(&profile(&alice, now(), "alice")), eose()];
    let relay = scripted(Some(&alice), Script::Once(answer)).await;
    let task = start(&[], false, LONG);
    task.ask("1", person(&alice), &relay.url());
    task.ask("2", group(relay.url()), &relay.url());
    for receipt in ["1", "2"] {
        task.finished(receipt).await;
    }
    assert_eq!(task.count(ProfileReason::NotAllowed), 2);
    assert_eq!(task.count(ProfileReason::Requested), 0);
    // The name is refused once it is resolved.
    let by_name = format!("wss://localhost:{}", relay.address.port());
    task.ask("3", person(&alice), &by_name);
    task.finished("3").await;
    assert_eq!(task.count(ProfileReason::Unanswered), 2);
    drop(task);
    assert!(relay.received.lock().unwrap().is_empty());
    // The operator's own relays may be local.
    let task = start(&[relay.address], false, LONG);
    task.ask("1", person(&alice), &relay.url());
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_have_ten_requests_and_take_a_shortest_time() {
    let interval = Duration::from_millis(50);
    let relay = scripted(None, Script::Once(vec![eose()])).await;
    let task = start_with(&[], true, LONG, interval);
    let request = |n: u32| (n.to_string(), person(&Keys::generate()), relay.url());
    task.ask_all((0..30).map(request));
    until("all requests are finished", || {
        task.ports.store.state().inbox.is_empty()
    })
    .await;
    assert_eq!(task.count(ProfileReason::NotFound), 30);
    let batches = task.ports.received.lock().unwrap().clone();
    assert!(batches.iter().all(|(_, requests)| *requests == 10));
    for pair in batches.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= interval * 10, "{pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn task_stops_while_a_relay_is_asked() {
    let silent = scripted(None, Script::Once(Vec::new())).await;
    let task = start(&[], true, LONG);
    task.ask("1", person(&Keys::generate()), &silent.url());
    until("the relay is asked", || !silent.received("REQ").is_empty()).await;
    task.stop.stop();
    // Otherwise it would wait for the relay.
    task.running.await.unwrap();
    assert!(task.ports.store.state().inbox.contains_key("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_stops_while_a_relay_is_asked() {
    let silent = scripted(None, Script::Once(Vec::new())).await;
    let ports = MemoryPorts::default();
    let request = ProfileRequest {
        key: person(&Keys::generate()),
        relay: silent.url(),
    };
    let body = message::encode(&request).unwrap();
    ports.store.state().inbox.insert("1".to_owned(), body);
    let requested = profile_counter(ProfileReason::Requested);
    let listener = support::start(&[], ports.clone());
    until("the profile is requested", || {
        profile_counter(ProfileReason::Requested) > requested
    })
    .await;
    listener.stop().await;
    assert!(ports.store.state().inbox.contains_key("1"));
}
