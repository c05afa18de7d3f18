//! The change feed: what changes comes in, what is over goes out, and what was missed is found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

mod support;

use listener::feed::Feed;
use nostr::key::Keys;
use nostr_push_core::{Millis, order::Order, owner::Owner, subscription::Subscription};
use nostr_push_testkit::subscription;
use serde_json::json;
use support::World;

const NOW: Millis = 1_800_000_000_000;
const HOUR: Millis = 60 * 60 * 1000;

/// A row over one tag, written at `changed_at`, that ends `ends_in` milliseconds after [`NOW`].
fn row(tag: &str, changed_at: Millis, ends_in: Millis, relays: &[&str]) -> Subscription {
    let owner = Owner {
        app: "demo".to_owned(),
        pubkey: Keys::generate().public_key(),
    };
    let relays = relays.iter().map(|relay| (*relay).to_owned()).collect();
    let valid_until = (NOW + ends_in) / 1000;
    Subscription {
        changed_at,
        valid_until,
        relays,
        order: Order::counter(1),
        ..subscription(&owner, &json!({"#t": [tag]}))
    }
}

fn tags(feed: &Feed<World>) -> Vec<String> {
    let mut tags: Vec<String> = feed
        .known()
        .interest
        .read()
        .unwrap()
        .keys()
        .map(ToString::to_string)
        .collect();
    tags.sort();
    tags
}

#[tokio::test]
async fn what_changes_comes_in_what_is_over_goes_out_and_what_was_missed_is_found() {
    let world = World::default();
    let add = |row| world.rows.lock().unwrap().push(row);
    add(row("lasting", NOW - HOUR, 1_000 * HOUR, &[]));
    add(row(
        "ending",
        NOW - HOUR,
        2 * HOUR,
        &["wss://relay.example"],
    ));
    let mut feed = Feed::new(world.clone(), false);
    let mut changes = feed.changes();
    feed.read(NOW).await.unwrap();
    assert_eq!(tags(&feed), ["#t:ending", "#t:lasting"]);
    assert!(changes.has_changed().unwrap());
    assert_eq!(
        feed.known().wishes.lock().unwrap().chosen(&[], 10),
        ["wss://relay.example"]
    );

    changes.mark_unchanged();
    add(row("new", NOW + 1_000, 1_000 * HOUR, &[]));
    // Written long ago by its own clock, and not in the index until now.
    add(row("missed", NOW - HOUR, 1_000 * HOUR, &[]));
    feed.read(NOW + 1_500).await.unwrap();
    assert_eq!(tags(&feed), ["#t:ending", "#t:lasting", "#t:new"]);
    assert!(changes.has_changed().unwrap());

    changes.mark_unchanged();
    feed.read(NOW + 3_000).await.unwrap();
    assert!(
        !changes.has_changed().unwrap(),
        "read again, nothing is new"
    );

    feed.read(NOW + 3 * HOUR).await.unwrap();
    assert_eq!(
        tags(&feed),
        ["#t:lasting", "#t:new"],
        "over, though no row says so"
    );
    assert!(
        feed.known()
            .wishes
            .lock()
            .unwrap()
            .chosen(&[], 10)
            .is_empty()
    );

    feed.read(NOW + 7 * HOUR).await.unwrap();
    assert_eq!(
        tags(&feed),
        ["#t:lasting", "#t:missed", "#t:new"],
        "everything is read once more"
    );
}
