//! Requests for profiles, on real relays and on relays that misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use listener::{
    counter::ProfileReason,
    profiles::{ProfileRequests, ProfileSources},
};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    message,
    profile::{ProfileKey, ProfileRequest},
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

/// The task, with everything in memory. It ends when the value is dropped.
struct Task {
    ports: MemoryPorts,
    task: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the task for an operator with these relays.
fn start(operators: &[SocketAddr], allow_private: bool, timeout: Duration) -> Task {
    let ports = MemoryPorts::default();
    let operators: Vec<String> = operators.iter().map(url).collect();
    let requests = ProfileRequests {
        inbox: ports.clone(),
        store: ports.clone(),
        sources: ProfileSources::new(&operators, allow_private),
        interval: Duration::ZERO,
        timeout,
        count: Arc::new(support::count),
        clock: now_ms,
    };
    Task {
        ports,
        task: tokio::spawn(requests.run()),
    }
}

const LONG: Duration = Duration::from_mins(1);

impl Task {
    fn ask(&self, receipt: &str, key: ProfileKey, relay: &str) {
        let request = ProfileRequest {
            key,
            relay: relay.to_owned(),
        };
        let body = message::encode(&request).unwrap();
        let mut state = self.ports.store.state();
        state.inbox.insert(receipt.to_owned(), body);
    }

    /// Waits until the request is deleted.
    async fn finished(&self, receipt: &str) {
        let is_deleted = || !self.ports.store.state().inbox.contains_key(receipt);
        until("the request is finished", is_deleted).await;
    }

    /// The stored name.
    fn name(&self, key: &ProfileKey) -> Option<String> {
        let state = self.ports.store.state();
        state.profiles.get(key)?.0.name.clone()
    }
}

fn person(keys: &Keys) -> ProfileKey {
    ProfileKey::Person(keys.public_key())
}

fn profile(keys: &Keys, created_at: u64, name: &str) -> Event {
    event(keys, 0, created_at, &[], &json!({"name": name}).to_string())
}

type Socket = WebSocketStream<TcpStream>;

/// Starts a relay that sends `messages` after each REQ. A message that is a string is sent as it
/// is. Its information document contains `key`.
async fn scripted(key: Option<&Keys>, messages: Vec<Value>) -> SocketAddr {
    let address = free_address();
    let listener = TcpListener::bind(address).await.unwrap();
    let document = json!({"self": key.map(Keys::public_key), "limitation": {"max_limit": "x"}});
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, document.to_string(), messages.clone()));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, document: String, messages: Vec<Value>) {
    let mut start = [0; 2_048];
    let length = stream.peek(&mut start).await.unwrap();
    if String::from_utf8_lossy(&start[..length]).contains("application/nostr+json") {
        drop(stream.read(&mut start).await);
        let length = document.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{document}");
        drop(stream.write_all(response.as_bytes()).await);
        return;
    }
    let mut socket: Socket = accept_async(stream).await.unwrap();
    while let Some(Ok(frame)) = socket.next().await {
        if frame.to_text().unwrap_or_default().starts_with("[\"REQ\"") {
            for message in &messages {
                if socket
                    .send(Message::text(message.to_string()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
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
    task.ask("2", person(&alice), &url(&address));
    task.ask("3", person(&bob), &url(&address));
    for receipt in ["1", "2", "3"] {
        task.finished(receipt).await;
    }
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
    assert_eq!(task.name(&person(&bob)), None);
    assert!(profile_counter(ProfileReason::NotFound) >= 1);
    publish_all(address, &[profile(&alice, now(), "Alice")]).await;
    task.ask("4", person(&alice), &url(&address));
    task.finished("4").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("Alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn person_unknown_to_the_relay_is_asked_for_at_the_operators() {
    let (events, operator) = (free_address(), free_address());
    let (_events, _operator) = (relay(events).await, relay(operator).await);
    let alice = Keys::generate();
    publish_all(operator, &[profile(&alice, now(), "alice")]).await;
    let task = start(&[operator], true, LONG);
    task.ask("1", person(&alice), &url(&events));
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_unrequested_events_are_not_stored() {
    let (alice, mallory) = (Keys::generate(), Keys::generate());
    let mut forged = json!(profile(&alice, now(), "forged"));
    forged["content"] = json!(r#"{"name":"mallory"}"#);
    let messages = vec![
        json!(["AUTH", "challenge"]),
        json!(["NOTICE", "hello"]),
        json!("nonsense"),
        json!(["EVENT", "profiles", forged]),
        of(&profile(&mallory, now(), "mallory")),
        of(&profile(&alice, now() + 7_200, "from the future")),
        of(&event(&alice, 1, now(), &[], r#"{"name":"note"}"#)),
        of(&profile(&alice, now() - 500, "old")),
        of(&profile(&alice, now() - 50, "alice")),
        of(&profile(&alice, now() - 500, "old")),
        eose(),
        of(&profile(&alice, now(), "after EOSE")),
    ];
    let address = scripted(None, messages).await;
    let task = start(&[], true, LONG);
    task.ask("1", person(&alice), &url(&address));
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
    assert_eq!(task.ports.store.state().profiles.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_answers_end_at_the_bounds() {
    let alice = Keys::generate();
    let many: Vec<Value> = (0..1_000)
        .map(|n| of(&profile(&alice, 1_000_000 + n, "again")))
        .collect();
    let padding = json!(["NOTICE", "x".repeat(100_000)]);
    let large = [
        vec![padding; 10],
        vec![of(&profile(&alice, now(), "too late"))],
    ]
    .concat();
    for messages in [many, large] {
        let address = scripted(None, messages).await;
        let task = start(&[], true, LONG);
        task.ask("1", person(&alice), &url(&address));
        task.finished("1").await;
        let name = task.name(&person(&alice));
        assert!(name.is_none_or(|name| name == "again"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_stays_until_a_relay_answers() {
    let silent = scripted(None, Vec::new()).await;
    let alice = Keys::generate();
    let task = start(&[], true, Duration::from_millis(200));
    let unanswered = profile_counter(ProfileReason::Unanswered);
    task.ask("1", person(&alice), &url(&silent));
    let is_counted = || profile_counter(ProfileReason::Unanswered) > unanswered + 1;
    until("the relay is asked twice", is_counted).await;
    assert!(task.ports.store.state().inbox.contains_key("1"));
    drop(task);

    // A refusal is an answer.
    let refusing = scripted(
        None,
        vec![json!(["CLOSED", "profiles", "auth-required: no"])],
    )
    .await;
    let task = start(&[], true, LONG);
    task.ask("1", person(&alice), &url(&refusing));
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_stays_if_the_table_fails() {
    let alice = Keys::generate();
    let answer = vec![of(&profile(&alice, now(), "alice")), eose()];
    let address = scripted(None, answer).await;
    let task = start(&[], true, LONG);
    task.ports.store.state().fail_in = Some(0);
    task.ask("1", person(&alice), &url(&address));
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn name_of_a_group_comes_from_its_relay() {
    let (relay_key, mallory) = (Keys::generate(), Keys::generate());
    let group = |keys: &Keys, created_at, name: &str| {
        of(&event(
            keys,
            39_000,
            created_at,
            &[&["d", "g"], &["name", name]],
            "",
        ))
    };
    let messages = vec![
        group(&mallory, now(), "mallory"),
        group(&relay_key, now() - 5, "Rust"),
        eose(),
    ];
    let of_group = |address: &SocketAddr| ProfileKey::Group {
        relay: url(address),
        id: "g".to_owned(),
    };
    let address = scripted(Some(&relay_key), messages.clone()).await;
    let task = start(&[], true, LONG);
    task.ask("1", of_group(&address), &url(&address));
    task.finished("1").await;
    assert_eq!(task.name(&of_group(&address)).as_deref(), Some("Rust"));
    // A relay that names no key cannot be asked.
    let address = scripted(None, messages).await;
    task.ask("2", of_group(&address), &url(&address));
    task.finished("2").await;
    assert_eq!(task.name(&of_group(&address)), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_relays_are_asked() {
    let alice = Keys::generate();
    let answer = vec![of(&profile(&alice, now(), "alice")), eose()];
    let address = scripted(None, answer).await;
    let task = start(&[], false, LONG);
    let before = profile_counter(ProfileReason::NotAllowed);
    task.ask("1", person(&alice), &url(&address));
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)), None);
    assert!(profile_counter(ProfileReason::NotAllowed) > before);
    // The operator's own relays may be local.
    let task = start(&[address], false, LONG);
    task.ask("1", person(&alice), &url(&address));
    task.finished("1").await;
    assert_eq!(task.name(&person(&alice)).as_deref(), Some("alice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_stops_while_a_relay_is_asked() {
    let silent = scripted(None, Vec::new()).await;
    let ports = MemoryPorts::default();
    let request = ProfileRequest {
        key: person(&Keys::generate()),
        relay: url(&silent),
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
