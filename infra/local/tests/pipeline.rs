//! The whole pipeline, from the relay to what SNS accepts, with a client that shares no code with it: nostr-tools.
//! What is asserted stands in `e2e/*.test.mjs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]

use std::net::SocketAddr;

use nostr_push_local::{
    aws::Ports,
    process::run,
    relay, root,
    stack::{Options, Stack},
    tools::Tools,
};
use nostr_push_testkit::free_port;

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_dialects_get_their_pushes() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let addresses = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port(0))));
    let (_first, _second) = (relay::start(addresses[0]).await.unwrap(), relay::start(addresses[1]).await.unwrap());
    let relays: Vec<String> = addresses.iter().map(|address| format!("ws://{address}")).collect();
    let options = Options {
        listen: "127.0.0.1:0".to_owned(),
        relays: relays.clone(),
        relay_address: addresses[0],
        service_key: Some(nostr::key::Keys::generate()),
        data: data.path().to_owned(),
        ports: Ports::ANY,
        apps: vec!["second".to_owned()],
        // Time enough for an event to arrive while the app looks open, and not for a cup of coffee.
        presence_timeout: Some(30),
    };
    let stack = Stack::start(&tools, options).await.unwrap();
    let e2e = root().join("infra/local/e2e");
    let mut install = tools.npm().unwrap();
    let installed = run(install.current_dir(&e2e).args(["ci", "--silent"]), "npm ci").await;
    let mut test = tools.node().unwrap();
    // One file after the other: they count what the service counts.
    test.current_dir(&e2e).args(["--test", "--test-concurrency=1", "--test-reporter=spec", "pipeline.test.mjs", "heartbeats.test.mjs"]);
    test.env("NOSTR_PUSH_URL", &stack.url).env("NOSTR_PUSH_RELAYS", relays.join(",")).env("NOSTR_PUSH_SERVICE", &stack.service_pubkey);
    let tested = run(&mut test, "node --test").await;
    let logs = if installed.is_ok() && tested.is_ok() { String::new() } else { stack.logs() };
    stack.stop().await;
    assert!(logs.is_empty(), "{installed:?} {tested:?}\n{logs}");
}
