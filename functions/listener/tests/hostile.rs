//! Relays on loopback that misbehave. What they send is bounded and counted, and the other relays
//! are not affected.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use listener::counter::{DropReason, RelayReason};
use nostr::{event::Event, key::Keys};
use nostr_push_core::subscription::SubscriptionState;
use nostr_push_testkit::event;
use serde_json::{Value, json};
use support::{
    MemoryPorts, dropped, free_address, now, publish, relay, relay_counter, start, start_as, until,
    url,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{
        Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

type Socket = WebSocketStream<TcpStream>;

/// Starts a relay that runs `script` on each connection. Returns the number of connections.
async fn scripted<F, Fut>(address: SocketAddr, script: F) -> Arc<AtomicUsize>
where
    F: Fn(Socket) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(run_script(stream, script.clone(), Arc::clone(&counter)));
        }
    });
    connections
}

async fn run_script<F, Fut>(stream: TcpStream, script: F, connections: Arc<AtomicUsize>)
where
    F: Fn(Socket) -> Fut,
    Fut: Future<Output = ()>,
{
    // The request for the relay's information document is no websocket and gets an error.
    if let Ok(socket) = accept_async(stream).await {
        connections.fetch_add(1, Ordering::SeqCst);
        script(socket).await;
    }
}

/// The next REQ: its subscription id and the whole message.
async fn next_req(socket: &mut Socket) -> Option<(String, Value)> {
    while let Some(Ok(frame)) = socket.next().await {
        let message: Value =
            serde_json::from_str(frame.to_text().unwrap_or_default()).unwrap_or_default();
        if message[0] == "REQ" {
            return Some((message[1].as_str().unwrap().to_owned(), message));
        }
    }
    None
}

/// The id of the first REQ for content. The REQ for control events comes before.
async fn content_req(socket: &mut Socket) -> String {
    loop {
        let (id, _) = next_req(socket).await.expect("a REQ for content");
        if id.starts_with("content") {
            return id;
        }
    }
}

fn text(value: &Value) -> Message {
    Message::text(value.to_string())
}

async fn send(socket: &mut Socket, message: Value) {
    socket.send(text(&message)).await.unwrap();
}

/// An owner who subscribes to mentions, and an author who mentions the owner.
struct Setup {
    ports: MemoryPorts,
    /// The owner's pubkey in hex.
    p: String,
    author: Keys,
}

fn setup() -> Setup {
    let (alice, ports) = (Keys::generate(), MemoryPorts::default());
    let p = alice.public_key().to_hex();
    ports.subscribe(&alice, &json!({"kinds": [1], "#p": [p]}));
    Setup {
        ports,
        p,
        author: Keys::generate(),
    }
}

impl Setup {
    /// A note that matches the subscription.
    fn note(&self, content: &str) -> Event {
        event(&self.author, 1, now(), &[&["p", &self.p]], content)
    }

    /// A note that matches no subscription.
    fn unwanted_note(&self) -> Event {
        event(&self.author, 1, now(), &[&["t", "x"]], "unwanted")
    }
}

/// Sends 10,000 events with the id and the signature of `forged` and other contents.
async fn send_forged(mut socket: Socket, mut forged: Value) {
    let id = content_req(&mut socket).await;
    for n in 0..10_000 {
        forged["content"] = json!(n.to_string());
        let frame = text(&json!(["EVENT", id, forged]));
        if socket.send(frame).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_that_sends_forged_events_is_cut_off() {
    let (bad, good) = (free_address(), free_address());
    let setup = setup();
    let _good = relay(good).await;
    let mut forged = setup.note("forged");
    forged.content = "other".to_owned();
    let forged = json!(forged);
    let connections = scripted(bad, move |socket| send_forged(socket, forged.clone())).await;
    let listening = start(&[bad, good], setup.ports.clone());
    until("ten forged events", || {
        dropped(DropReason::BadSignature) >= 10
    })
    .await;
    publish(good, &setup.note("genuine")).await;
    until("the other relay", || setup.ports.has("genuine")).await;
    let verified = dropped(DropReason::BadSignature);
    assert!(verified <= 20, "{verified} forged signatures were verified");
    assert_eq!(
        (
            connections.load(Ordering::SeqCst),
            setup.ports.contents().len()
        ),
        (1, 1)
    );
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_that_sends_only_notices_or_refusals_is_cut_off() {
    for verb in ["NOTICE", "AUTH", "CLOSED"] {
        let address = free_address();
        let connections = scripted(address, move |mut socket| async move {
            let frame = text(&json!([verb, "something", "else"]));
            while socket.send(frame.clone()).await.is_ok() {}
        })
        .await;
        let before = relay_counter(RelayReason::CutOff);
        let listening = start(&[address], setup().ports);
        until("the relay is cut off", || {
            relay_counter(RelayReason::CutOff) > before
        })
        .await;
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        listening.stop().await;
    }
}

/// Sends every form of invalid message on the subscription `id`, then `wanted`.
async fn send_invalid_messages(socket: &mut Socket, id: &str, events: [&Value; 3]) {
    let [wanted, unrequested, unwanted] = events;
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let deep = format!("[\"EVENT\",\"{id}\",{open}{close}]");
    for malformed in [
        "",
        "{",
        "[]",
        "null",
        "[\"EVENT\"]",
        "[\"EVENT\",1,2]",
        deep.as_str(),
    ] {
        let message = Message::text(malformed.to_owned());
        socket.send(message).await.unwrap();
    }
    socket.send(Message::binary(vec![0; 1_000])).await.unwrap();
    send(socket, json!(["EVENT", "never-requested", unrequested])).await;
    send(socket, json!(["EOSE", "never-requested"])).await;
    send(socket, json!(["EVENT", id, unwanted])).await;
    send(socket, json!(["EVENT", id, wanted])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_messages_are_counted_and_dropped() {
    let address = free_address();
    let setup = setup();
    let (wanted, unrequested) = (
        json!(setup.note("wanted")),
        json!(setup.note("unrequested")),
    );
    let unwanted = json!(setup.unwanted_note());
    scripted(address, move |mut socket| {
        let (wanted, unrequested) = (wanted.clone(), unrequested.clone());
        let unwanted = unwanted.clone();
        async move {
            let id = content_req(&mut socket).await;
            let events = [&wanted, &unrequested, &unwanted];
            send_invalid_messages(&mut socket, &id, events).await;
            // A reserved bit is a protocol error and ends the connection.
            socket.get_mut().write_all(&[0xc1, 0]).await.unwrap();
            while socket.next().await.is_some_and(|frame| frame.is_ok()) {}
        }
    })
    .await;
    let listening = start(&[address], setup.ports.clone());
    until("the wanted event", || setup.ports.has("wanted")).await;
    until("the connection has ended", || {
        relay_counter(RelayReason::Disconnected) > 0
    })
    .await;
    listening.stop().await;
    assert_eq!(setup.ports.contents(), ["wanted"]);
    for reason in [
        DropReason::MalformedFrame,
        DropReason::Malformed,
        DropReason::Unrequested,
        DropReason::NoInterest,
    ] {
        assert!(dropped(reason) > 0, "{reason:?}");
    }
}

/// Sends 200 large events, one in fragments, and a larger text on the subscription `id`, and then
/// `wanted`.
async fn send_large_frames(socket: &mut Socket, id: &str, large: &Value, wanted: &Value) {
    let mut large = large.clone();
    large["content"] = json!("x".repeat(300_000));
    let frame = text(&json!(["EVENT", id, large]));
    for _ in 0..200 {
        socket.send(frame.clone()).await.unwrap();
    }
    large["content"] = json!("é".repeat(1024 * 1024));
    send_in_fragments(socket, &json!(["EVENT", id, large]).to_string()).await;
    let text = format!("[\"EVENT\",\"{id}\",\"{}\"]", "x".repeat(10 * 1024 * 1024));
    socket.send(Message::text(text)).await.unwrap();
    send(socket, json!(["EVENT", id, wanted])).await;
}

/// Sends a text in fragments, with a ping after each.
async fn send_in_fragments(socket: &mut Socket, text: &str) {
    let mut data = Data::Text;
    for fragment in text.as_bytes().chunks(100_001) {
        let frame = Frame::message(fragment.to_vec(), OpCode::Data(data), false);
        socket.send(Message::Frame(frame)).await.unwrap();
        socket.send(Message::Ping("ping".into())).await.unwrap();
        data = Data::Continue;
    }
    let end = Frame::message(Vec::new(), OpCode::Data(data), true);
    socket.send(Message::Frame(end)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_frames_are_skipped_and_the_session_goes_on() {
    let address = free_address();
    let setup = setup();
    let (large, wanted) = (json!(setup.note("large")), json!(setup.note("after")));
    let connections = scripted(address, move |mut socket| {
        let (large, wanted) = (large.clone(), wanted.clone());
        async move {
            let id = content_req(&mut socket).await;
            send_large_frames(&mut socket, &id, &large, &wanted).await;
            while socket.next().await.is_some_and(|frame| frame.is_ok()) {}
        }
    })
    .await;
    let before = dropped(DropReason::TooLarge);
    let listening = start(&[address], setup.ports.clone());
    until("the event after the large frames", || {
        setup.ports.has("after")
    })
    .await;
    assert_eq!(dropped(DropReason::TooLarge), before + 202);
    listening.stop().await;
    assert_eq!(setup.ports.contents(), ["after"]);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// Starts a relay that sends one byte of its handshake per second, and never ends it.
async fn slow_relay(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(send_slowly(stream));
        }
    });
}

async fn send_slowly(mut stream: TcpStream) {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await;
    for byte in b"HTTP/1.1 101 Switching Protocols\r\n".iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flooding_and_slow_relays_do_not_delay_others() {
    let (flooding, good, slow) = (free_address(), free_address(), free_address());
    let setup = setup();
    let _good = relay(good).await;
    let unwanted = json!(setup.unwanted_note());
    scripted(flooding, move |mut socket| {
        let unwanted = unwanted.clone();
        async move {
            let id = content_req(&mut socket).await;
            let frame = text(&json!(["EVENT", id, unwanted]));
            // As fast as it is read, and without EOSE.
            while socket.feed(frame.clone()).await.is_ok() {}
        }
    })
    .await;
    slow_relay(slow).await;
    let listening = start(&[flooding, slow, good], setup.ports.clone());
    until("the flood", || dropped(DropReason::NoInterest) > 10_000).await;
    let started = std::time::Instant::now();
    for n in 0..20 {
        publish(good, &setup.note(&format!("good {n}"))).await;
    }
    until("the events of the good relay", || {
        (0..20).all(|n| setup.ports.has(&format!("good {n}")))
    })
    .await;
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    until("the connection to the slow relay has failed", || {
        relay_counter(RelayReason::Unreachable) > 0
    })
    .await;
    listening.stop().await;
}

/// Asks for authentication, and sends genuine events that match, as fast as they are read. Records
/// the messages that come.
async fn flood_with_genuine_events(
    mut socket: Socket,
    notes: Arc<Vec<String>>,
    messages: Arc<Mutex<Vec<Value>>>,
) {
    send(&mut socket, json!(["AUTH", "challenge"])).await;
    let mut notes = notes.iter();
    let mut content = None;
    loop {
        let note = notes.as_slice().first().filter(|_| content.is_some());
        tokio::select! {
            biased;
            frame = socket.next() => {
                let Some(Ok(frame)) = frame else { return };
                let message: Value =
                    serde_json::from_str(frame.to_text().unwrap_or_default()).unwrap_or_default();
                messages.lock().unwrap().push(message.clone());
                let id = message[1].as_str().unwrap_or_default().to_owned();
                if message[0] == "REQ" {
                    send(&mut socket, json!(["EOSE", id])).await;
                }
                if id.starts_with("content") {
                    content = Some(id);
                }
            }
            () = std::future::ready(()), if note.is_some() => {
                let (Some(id), Some(note)) = (&content, notes.next()) else { return };
                let event = Message::text(format!("[\"EVENT\",\"{id}\",{note}]"));
                if socket.send(event).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_relay_is_not_authenticated_to_and_is_paced() {
    let address = free_address();
    let (alice, ports) = (Keys::generate(), MemoryPorts::default());
    let p = alice.public_key().to_hex();
    let filter = json!({"kinds": [1], "#p": [p]});
    let relays = [url(&address)];
    ports.subscribe_with(&alice, &filter, SubscriptionState::Active, 1, &relays);
    let author = Keys::generate();
    let note = |n: usize| json!(event(&author, 1, now(), &[&["p", &p]], &n.to_string()));
    let notes: Arc<Vec<String>> = Arc::new((0..1_500).map(|n| note(n).to_string()).collect());
    let messages = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&messages);
    scripted(address, move |socket| {
        flood_with_genuine_events(socket, Arc::clone(&notes), Arc::clone(&recorded))
    })
    .await;
    let over_budget = relay_counter(RelayReason::OverBudget);
    let listening = start_as("one", Keys::generate(), Vec::new(), true, ports.clone());
    until("more events than the budget has at once", || {
        relay_counter(RelayReason::OverBudget) > over_budget + 10
    })
    .await;
    assert!(ports.contents().len() < 1_000, "the rest is read later");
    assert!(
        ports
            .contents
            .lock()
            .unwrap()
            .iter()
            .all(|content| content.from_owners_relay)
    );
    assert!(relay_counter(RelayReason::AuthIgnored) > 0);
    // Stopping does not wait for the pauses.
    listening.stop().await;
    let messages = messages.lock().unwrap();
    assert!(messages.iter().all(|message| message[0] != "AUTH"));
}

/// Refuses the first REQ for content. Responds to the second with `early`, and closes it. Responds
/// to further ones with `late`. Records the `since` of each.
async fn refuse_at_first(
    mut socket: Socket,
    early: Value,
    late: Value,
    requested_since: Arc<Mutex<Vec<u64>>>,
) {
    while let Some((id, message)) = next_req(&mut socket).await {
        let socket = &mut socket;
        if !id.starts_with("content") {
            send(socket, json!(["EOSE", id])).await;
            continue;
        }
        let requests = {
            let mut requested_since = requested_since.lock().unwrap();
            requested_since.push(message[2]["since"].as_u64().unwrap());
            requested_since.len()
        };
        match requests {
            1 => send(socket, json!(["CLOSED", id, "rate-limited: slow down"])).await,
            2 => {
                send(socket, json!(["EVENT", id, early])).await;
                send(socket, json!(["EOSE", id])).await;
                send(socket, json!(["CLOSED", id, "error: restarting"])).await;
            }
            _ => {
                send(socket, json!(["EVENT", id, late])).await;
                send(socket, json!(["EOSE", id])).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_req_is_sent_again_and_nothing_is_missed() {
    let address = free_address();
    let setup = setup();
    let (early, late) = (
        json!(setup.note("refused at first")),
        json!(setup.note("closed in between")),
    );
    let requested_since = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&requested_since);
    scripted(address, move |socket| {
        refuse_at_first(socket, early.clone(), late.clone(), Arc::clone(&recorded))
    })
    .await;
    let started = now();
    let listening = start(&[address], setup.ports.clone());
    until("both events", || {
        setup.ports.has("refused at first") && setup.ports.has("closed in between")
    })
    .await;
    listening.stop().await;
    for reason in [RelayReason::ClosedRateLimited, RelayReason::ClosedError] {
        assert!(relay_counter(reason) > 0, "{reason:?}");
    }
    let requested_since = requested_since.lock().unwrap().clone();
    assert!(
        requested_since.len() == 3 && requested_since.iter().all(|since| *since <= started),
        "each REQ must resume where the last one stopped: {requested_since:?} {started}"
    );
}
