//! The table `subscriptions` and its change feed.

use nostr_push_aws::dynamodb::Store;
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
    let tie = Subscription {
        changed_at: Millis(2_001),
        ..tie
    };
    assert!(store.replace(&tie).await.unwrap());
    for other in [&old, &new, &subscription(&owner, &filter, order(3, 1))] {
        assert!(!store.replace(other).await.unwrap());
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
    let changed = row(0, 4);
    assert!(store.put(&changed).await.unwrap());

    assert_eq!(changes(store, &owner, 0).await.len(), 120);
    assert_eq!(changes(store, &owner, 3_000).await.len(), 120);
    assert_eq!(changes(store, &owner, 3_001).await, [changed]);
}

/// The owner's rows that changed at or after `since` (milliseconds).
async fn changes(store: &Store, owner: &Owner, since: u64) -> Vec<Subscription> {
    let mut rows = Vec::new();
    let feed = store.changes(Millis(since), |row| rows.push(row));
    feed.await.unwrap();
    rows.retain(|row| row.owner == *owner);
    rows
}
