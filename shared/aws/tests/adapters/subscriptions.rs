//! The table `subscriptions` and its change feed.

use std::time::Duration;

use futures_util::future::join_all;
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    Millis,
    owner::Owner,
    ports::{ChangeFeed, Subscriptions},
    subscription::{Subscription, SubscriptionState},
};
use serde_json::json;

use crate::{new_owner, order, subscription};

pub(crate) async fn newest_row_wins(store: &Store) {
    let owner = new_owner();
    let filter = json!({"kinds": [1], "#t": ["é", "#"]});
    let old = subscription(&owner, &filter, order(1, 5));
    let new = subscription(&owner, &filter, order(2, 5));
    assert!(store.put(&new).await.unwrap());
    assert!(!store.put(&old).await.unwrap(), "an older event loses");
    assert!(!store.put(&new).await.unwrap(), "a repeat changes nothing");
    let tie = Subscription {
        state: SubscriptionState::Removed,
        relays: vec!["wss://a.example".to_owned()],
        proven: true,
        ..subscription(&owner, &filter, order(2, 4))
    };
    let written = store.put(&tie).await.unwrap();
    assert!(written, "on a tie the smaller event id wins");
    // Only a row of the same event takes its place.
    let read = tie.changed_at;
    let tie = Subscription {
        changed_at: Millis(2_001),
        ..tie
    };
    assert!(store.replace(&tie, read).await.unwrap());
    let again = store.replace(&tie, read).await.unwrap();
    assert!(!again, "another process has replaced the row that was read");
    for other in [&old, &new, &subscription(&owner, &filter, order(3, 1))] {
        assert!(!store.replace(other, tie.changed_at).await.unwrap());
    }
    let of_owner = store.of_owner(&owner).await.unwrap();
    assert_eq!(of_owner, std::slice::from_ref(&tie));
    let ids = [
        (owner.clone(), tie.identity.clone()),
        (owner.clone(), "none".to_owned()),
    ];
    assert_eq!(store.get(&ids).await.unwrap(), [tie]);

    // The same holds for concurrent writers.
    let filter = json!({"#t": ["concurrent"]});
    let smaller_id = subscription(&owner, &filter, order(4, 1));
    let larger_id = subscription(&owner, &filter, order(4, 2));
    let _ = tokio::join!(store.put(&smaller_id), store.put(&larger_id));
    let ids = [(owner, smaller_id.identity.clone())];
    assert_eq!(store.get(&ids).await.unwrap(), [smaller_id]);
}

pub(crate) async fn many_rows_are_read_and_follow_the_feed(store: &Store) {
    let owner = new_owner();
    let row = |n: u16, at| subscription(&owner, &json!({"#t": [n.to_string()]}), order(at, 1));
    let mut ids = Vec::new();
    for n in 0..120 {
        let row = row(n, 3);
        assert!(store.put(&row).await.unwrap());
        ids.push((owner.clone(), row.identity));
    }
    let found = store.get(&ids).await.unwrap();
    assert_eq!(found.len(), 120, "more rows than one request can read");
    let before = stamp_after_a_pause().await;
    let changed = row(0, 4);
    assert!(store.put(&changed).await.unwrap());

    assert_eq!(changes(store, &owner, Millis(0)).await.len(), 120);
    assert_eq!(changes(store, &owner, before).await, [changed]);
}

/// A handler takes `changed_at` when it starts, and may write 30 s later. A reader of the feed that
/// has read until then must find the row.
pub(crate) async fn writes_are_stamped_at_the_write(store: &Store) {
    let owner = new_owner();
    let before = stamp_after_a_pause().await;
    let row = Subscription {
        changed_at: before - Millis(100_000),
        ..subscription(&owner, &json!({"#t": ["slow"]}), order(1, 1))
    };
    assert!(store.put(&row).await.unwrap());
    assert_eq!(changes(store, &owner, before).await, [row]);
    let after = stamp_after_a_pause().await;
    assert!(changes(store, &owner, after).await.is_empty());
}

pub(crate) async fn feed_has_pages(store: &Store) {
    let owner = new_owner();
    let before = stamp_after_a_pause().await;
    // More rows in one partition than fit into a page. Other partitions stay empty.
    let filter = json!({"#t": ["page"]});
    let row = |n: u64| Subscription {
        identity: format!("{:04}", n * 32),
        ..subscription(&owner, &filter, order(1, 1))
    };
    let same_partition = |row: &Subscription| {
        let bytes = row.owner.pubkey.as_bytes().iter().copied();
        let sum: u64 = bytes.chain(row.identity.bytes()).map(u64::from).sum();
        sum.is_multiple_of(store.partitions())
    };
    let rows: Vec<Subscription> = (0..).map(row).filter(same_partition).take(501).collect();
    for rows in rows.chunks(50) {
        join_all(rows.iter().map(|row| store.put(row))).await;
    }
    let first = store.page(0, before, None).await.unwrap();
    assert_eq!(first.rows.len(), 500);
    let next = first.next.expect("another page");
    let second = store.page(0, before, Some(&next)).await.unwrap();
    assert_eq!((second.rows.len(), second.next), (1, None));
    assert!(!first.rows.contains(&second.rows[0]));
    assert_eq!(changes(store, &owner, before).await.len(), 501);
}

/// The current time, after a pause in which a stamp becomes older than it.
async fn stamp_after_a_pause() -> Millis {
    tokio::time::sleep(Duration::from_millis(2)).await;
    clients::now()
}

/// The owner's rows that were written at or after `since`.
async fn changes(store: &Store, owner: &Owner, since: Millis) -> Vec<Subscription> {
    let mut rows = Vec::new();
    for partition in 0..store.partitions() {
        let mut after = None;
        loop {
            let page = store.page(partition, since, after.as_ref()).await.unwrap();
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    rows.retain(|row| row.owner == *owner);
    rows
}
