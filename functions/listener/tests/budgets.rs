//! The listener's budgets against a real relay: nothing that waits is lost, known owners do not
//! wait, and the operator's relays learn what is asked of new owners.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod support;

use futures_util::{SinkExt, StreamExt};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{announcement::HANDLER_KIND, app::App};
use nostr_push_testkit::event;
use serde_json::{Value, json};
use support::{MemoryPorts, free_address, now, publish, relay, start, start_as, until, url};
use tokio_tungstenite::{connect_async, tungstenite::Message};

#[tokio::test(flavor = "multi_thread")]
async fn backlog_of_a_stranger_delays_no_owner_and_survives_a_restart() {
    let address = free_address();
    let _relay = relay(address).await;
    let (service, alice, mallory) = (Keys::generate(), Keys::generate(), Keys::generate());
    let ports = MemoryPorts::default();
    ports.subscribe_to_mute_list(&alice);
    let start_task = |member| {
        start_as(
            member,
            service.clone(),
            vec![url(&address)],
            true,
            ports.clone(),
        )
    };
    let control = |keys: &Keys, n: u64, bytes: usize| -> Event {
        let service = service.public_key().to_hex();
        let content = "x".repeat(bytes);
        event(keys, 3081, now() - n, &[&["p", &service]], &content)
    };
    let has = |event: &Event| {
        let controls = ports.controls.lock().unwrap();
        controls
            .iter()
            .any(|json| json.contains(&event.id.to_hex()))
    };
    let listening = start_task("one");
    until("the usage", || {
        let usage = ports.store.state().usage;
        usage.is_some_and(|usage| (usage.owners, usage.index_rows) == (1, 1))
    })
    .await;
    // More than a stranger may send at once.
    let backlog: Vec<Event> = (0..6).map(|n| control(&mallory, 10 - n, 50_000)).collect();
    for event in &backlog {
        publish(address, event).await;
    }
    let register = control(&alice, 0, 1_000);
    publish(address, &register).await;
    assert_eq!(
        listening.health.usage().map(|usage| usage.owners),
        Some(1),
        "for the metrics"
    );
    until("the owner's event", || has(&register)).await;
    assert!(backlog[..5].iter().all(has));
    assert!(!has(&backlog[5]), "it waits");
    listening.stop().await;
    // Relays return the newest events first, so it comes before the others.
    let listening = start_task("two");
    until("the event that waited", || has(&backlog[5])).await;
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_relay_gets_the_announcement_of_an_app_that_may_ask_for_work() {
    let address = free_address();
    let _relay = relay(address).await;
    let ports = MemoryPorts::default();
    let demo = App {
        pow_difficulty: Some(20),
        ..App::named("demo")
    };
    ports.store.state().apps.insert("demo".to_owned(), demo);
    let (mut client, _) = connect_async(url(&address)).await.unwrap();
    let req = json!(["REQ", "handlers", {"kinds": [HANDLER_KIND]}]);
    client.send(Message::text(req.to_string())).await.unwrap();
    let listening = start(&[address], ports);
    let announced = loop {
        let message = client.next().await.unwrap().unwrap();
        let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap_or_default();
        if message[0] == "EVENT" {
            break message[2].clone();
        }
    };
    assert_eq!(announced["pubkey"], listening.service.public_key().to_hex());
    assert_eq!(announced["tags"][0], json!(["d", "nostr-push-admission"]));
    let tags = announced["tags"].as_array().unwrap();
    assert!(tags.contains(&json!(["admission", "demo", "open"])));
    assert!(
        tags.iter().all(|tag| tag[0] != "pow"),
        "no work is asked for now"
    );
    listening.stop().await;
}
