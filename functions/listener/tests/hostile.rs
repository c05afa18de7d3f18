//! Relays that do anything but what they should, on loopback: bounded, counted, and no harm to the
//! others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
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
use nostr::{event::Event, key::Keys};
use nostr_push_core::subscription::State;
use nostr_push_testkit::event;
use serde_json::{Value, json};
use support::{World, counted, free_address, now, publish, relay, start, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

type Socket = WebSocketStream<TcpStream>;

/// A relay that does with each connection what `script` says. Answers how often it was connected
/// to.
async fn scripted<F, Fut>(address: SocketAddr, script: F) -> Arc<AtomicUsize>
where
    F: Fn(Socket) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (script, counted) = (script.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                // What asks for the relay's information is no websocket, and is answered with an
                // error.
                if let Ok(socket) = accept_async(stream).await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    script(socket).await;
                }
            });
        }
    });
    connections
}

/// The subscription ids that are asked for, as they come.
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

/// The id of the first REQ for content, after the one for control events.
async fn content_req(socket: &mut Socket) -> String {
    loop {
        let (id, _) = next_req(socket).await.expect("it asks");
        if id.starts_with("content") {
            return id;
        }
    }
}

fn text(value: &Value) -> Message {
    Message::text(value.to_string())
}

struct Setup {
    world: World,
    p: String,
    author: Keys,
}

/// Somebody who wants mentions of herself.
fn setup() -> Setup {
    let (alice, world) = (Keys::generate(), World::default());
    let p = alice.public_key().to_hex();
    world.subscribe(&alice, &json!({"kinds": [1], "#p": [p]}), State::Active, 1);
    Setup {
        world,
        p,
        author: Keys::generate(),
    }
}

impl Setup {
    fn note(&self, content: &str) -> Event {
        event(&self.author, 1, now(), &[&["p", &self.p]], content)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_forges_is_cut_off_and_harms_nobody() {
    let (bad, good) = (free_address(), free_address());
    let setup = setup();
    let _good = relay(good).await;
    let mut forged = setup.note("forged");
    forged.content = "other".to_owned();
    let connections = scripted(bad, move |mut socket| {
        let forged = json!(forged);
        async move {
            let id = content_req(&mut socket).await;
            for n in 0..10_000 {
                let mut forged = forged.clone();
                forged["content"] = json!(n.to_string());
                if socket
                    .send(text(&json!(["EVENT", id, forged])))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    })
    .await;
    let listening = start(&[bad, good], setup.world.clone());
    until("it has forged enough", || {
        counted("dropped", "bad_signature") >= 10
    })
    .await;
    publish(good, &setup.note("genuine")).await;
    until("the other relay", || setup.world.has("genuine")).await;
    let verified = counted("dropped", "bad_signature");
    assert!(verified <= 20, "{verified} forged signatures were verified");
    assert_eq!(
        (
            connections.load(Ordering::SeqCst),
            setup.world.contents().len()
        ),
        (1, 1)
    );
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_only_complains_or_challenges_is_cut_off() {
    for word in ["NOTICE", "AUTH", "CLOSED"] {
        let address = free_address();
        let connections = scripted(address, move |mut socket| async move {
            while socket
                .send(text(&json!([word, "something", "else"])))
                .await
                .is_ok()
            {}
        })
        .await;
        let before = counted("relay", "cut_off");
        let listening = start(&[address], setup().world);
        until("it is cut off", || counted("relay", "cut_off") > before).await;
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        listening.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_of_every_form_is_counted_and_the_connection_bounded() {
    let address = free_address();
    let setup = setup();
    let (wanted, unasked) = (json!(setup.note("wanted")), json!(setup.note("unasked")));
    let nobody = json!(event(&setup.author, 1, now(), &[&["t", "x"]], "for nobody"));
    scripted(address, move |mut socket| {
        let (wanted, unasked, nobody) = (wanted.clone(), unasked.clone(), nobody.clone());
        async move {
            let id = content_req(&mut socket).await;
            let deep = format!(
                "[\"EVENT\",\"{id}\",{}{}]",
                "[".repeat(100_000),
                "]".repeat(100_000)
            );
            for bad in [
                "",
                "{",
                "[]",
                "null",
                "[\"EVENT\"]",
                "[\"EVENT\",1,2]",
                deep.as_str(),
            ] {
                socket.send(Message::text(bad.to_owned())).await.unwrap();
            }
            socket.send(Message::binary(vec![0; 1_000])).await.unwrap();
            socket
                .send(text(&json!(["EVENT", "never-asked", unasked])))
                .await
                .unwrap();
            socket
                .send(text(&json!(["EOSE", "never-asked"])))
                .await
                .unwrap();
            socket
                .send(text(&json!(["EVENT", id, nobody])))
                .await
                .unwrap();
            socket
                .send(text(&json!(["EVENT", id, wanted])))
                .await
                .unwrap();
            // A frame above every event ends the connection.
            drop(socket.send(Message::text("x".repeat(1024 * 1024))).await);
            while socket.next().await.is_some_and(|frame| frame.is_ok()) {}
        }
    })
    .await;
    let listening = start(&[address], setup.world.clone());
    until("the wanted one", || setup.world.has("wanted")).await;
    until("it is disconnected", || {
        counted("relay", "disconnected") > 0
    })
    .await;
    listening.stop().await;
    assert_eq!(setup.world.contents(), ["wanted"]);
    for reason in ["malformed_frame", "malformed", "unasked", "no_interest"] {
        assert!(counted("dropped", reason) > 0, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_nobody_wants_and_one_that_never_ends_do_not_slow_the_others() {
    let (bad, good, slow) = (free_address(), free_address(), free_address());
    let setup = setup();
    let _good = relay(good).await;
    let nobody = json!(event(&setup.author, 1, now(), &[&["t", "x"]], "for nobody"));
    scripted(bad, move |mut socket| {
        let nobody = nobody.clone();
        async move {
            let id = content_req(&mut socket).await;
            let frame = text(&json!(["EVENT", id, nobody]));
            // As fast as it is read, and never an EOSE.
            while socket.feed(frame.clone()).await.is_ok() {}
        }
    })
    .await;
    // And one that says one byte a second, and never anything.
    let listener = TcpListener::bind(slow).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut some = [0; 1024];
                let _ = stream.read(&mut some).await;
                for byte in b"HTTP/1.1 101 Switching Protocols\r\n".iter().cycle() {
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_secs(1)).await;
                }
            });
        }
    });
    let listening = start(&[bad, slow, good], setup.world.clone());
    until("a flood", || counted("dropped", "no_interest") > 10_000).await;
    let started = std::time::Instant::now();
    for n in 0..20 {
        publish(good, &setup.note(&format!("good {n}"))).await;
    }
    until("the good ones", || {
        (0..20).all(|n| setup.world.has(&format!("good {n}")))
    })
    .await;
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    until("the slow one is given up", || {
        counted("relay", "unreachable") > 0
    })
    .await;
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_refuses_is_asked_again_and_nothing_is_missed() {
    let address = free_address();
    let setup = setup();
    let (early, late) = (
        json!(setup.note("refused at first")),
        json!(setup.note("closed in between")),
    );
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    scripted(address, move |mut socket| {
        let (early, late, asked) = (early.clone(), late.clone(), Arc::clone(&asked));
        async move {
            while let Some((id, message)) = next_req(&mut socket).await {
                if !id.starts_with("content") {
                    socket.send(text(&json!(["EOSE", id]))).await.unwrap();
                    continue;
                }
                let times = {
                    let mut asked = asked.lock().unwrap();
                    asked.push(message[2]["since"].as_u64().unwrap());
                    asked.len()
                };
                match times {
                    1 => socket
                        .send(text(&json!(["CLOSED", id, "rate-limited: slow down"])))
                        .await
                        .unwrap(),
                    2 => {
                        socket
                            .send(text(&json!(["EVENT", id, early])))
                            .await
                            .unwrap();
                        socket.send(text(&json!(["EOSE", id]))).await.unwrap();
                        socket
                            .send(text(&json!(["CLOSED", id, "error: restarting"])))
                            .await
                            .unwrap();
                    }
                    _ => {
                        socket
                            .send(text(&json!(["EVENT", id, late])))
                            .await
                            .unwrap();
                        socket.send(text(&json!(["EOSE", id]))).await.unwrap();
                    }
                }
            }
        }
    })
    .await;
    let started = now();
    let listening = start(&[address], setup.world.clone());
    until("both", || {
        setup.world.has("refused at first") && setup.world.has("closed in between")
    })
    .await;
    listening.stop().await;
    assert!(counted("relay", "closed_rate_limited") > 0 && counted("relay", "closed_error") > 0);
    let asked = seen.lock().unwrap().clone();
    assert!(
        asked.len() == 3 && asked.iter().all(|since| *since <= started),
        "from where it broke off: {asked:?} {started}"
    );
}
