//! The change feed: new, ended and missed subscriptions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed test panics"
)]

mod support;

use listener::feed::Feed;
use nostr::key::Keys;
use nostr_push_core::{Millis, Seconds, order::Order, subscription::Subscription};
use nostr_push_testkit::{owner, subscription};
use serde_json::json;
use support::MemoryPorts;

const NOW: Millis = Millis(1_800_000_000_000);
const HOUR: Millis = Seconds::from_hours(1).to_millis();

/// A row for one tag, written at `changed_at`, that ends `ends_in` after [`NOW`].
fn row(tag: &str, changed_at: Millis, ends_in: Millis, relays: &[&str]) -> Subscription {
    let relays = relays.iter().map(|relay| (*relay).to_owned()).collect();
    Subscription {
        changed_at,
        valid_until: (NOW + ends_in).to_seconds(),
        relays,
        order: Order::counter(1),
        ..subscription(&owner(Keys::generate().public_key()), &json!({"#t": [tag]}))
    }
}

fn tags(feed: &Feed<MemoryPorts>) -> Vec<String> {
    let mut tags: Vec<String> = feed
        .view()
        .interest
        .read()
        .unwrap()
        .keys()
        .map(ToString::to_string)
        .collect();
    tags.sort();
    tags
}

fn requested_relays(feed: &Feed<MemoryPorts>) -> Vec<String> {
    let view = feed.view();
    view.requested_relays
        .lock()
        .unwrap()
        .most_requested(&[], 10)
}

#[tokio::test]
async fn follows_new_ended_and_missed_subscriptions() {
    let ports = MemoryPorts::default();
    let add = |row| ports.rows.lock().unwrap().push(row);
    let relays = ["wss://relay.example"];
    add(row("lasting", NOW - HOUR, HOUR * 1_000, &[]));
    add(row("ending", NOW - HOUR, HOUR * 2, &relays));
    let mut feed = Feed::new(ports.clone(), false);
    let mut changes = feed.changes();
    feed.read(NOW).await.unwrap();
    assert_eq!(tags(&feed), ["#t:ending", "#t:lasting"]);
    assert!(changes.has_changed().unwrap());
    assert_eq!(requested_relays(&feed), relays);

    changes.mark_unchanged();
    add(row("new", NOW + Millis(1_000), HOUR * 1_000, &[]));
    // Its `changed_at` is long ago, but it was not in the feed until now.
    add(row("missed", NOW - HOUR, HOUR * 1_000, &[]));
    feed.read(NOW + Millis(1_500)).await.unwrap();
    assert_eq!(tags(&feed), ["#t:ending", "#t:lasting", "#t:new"]);
    assert!(changes.has_changed().unwrap());

    changes.mark_unchanged();
    feed.read(NOW + Millis(3_000)).await.unwrap();
    assert!(
        !changes.has_changed().unwrap(),
        "reading the same rows again changes nothing"
    );

    feed.read(NOW + HOUR * 3).await.unwrap();
    assert_eq!(
        tags(&feed),
        ["#t:lasting", "#t:new"],
        "a subscription ends without a row in the feed"
    );
    assert!(requested_relays(&feed).is_empty());

    feed.read(NOW + HOUR * 7).await.unwrap();
    assert_eq!(
        tags(&feed),
        ["#t:lasting", "#t:missed", "#t:new"],
        "the full read finds the missed row"
    );
}
