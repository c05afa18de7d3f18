//! The table `filter_index`.

use std::collections::BTreeSet;

use nostr_push_aws::dynamodb::Store;
use nostr_push_core::{
    Seconds,
    ports::{IndexReader, IndexWriter},
    subscription::{IndexRow, Subscription},
};
use serde_json::json;

use crate::{new_owner, order, subscription};

pub(crate) async fn rows_are_read_in_pages(store: &Store) {
    let row = || subscription(&new_owner(), &json!({"#t": ["paged"]}), order(5, 5));
    let rows: Vec<Subscription> = (0..1_100).map(|_| row()).collect();
    let index_rows = rows.iter().flat_map(Subscription::index_rows).collect();
    store.put_index(index_rows).await.unwrap();
    let key = rows[0].filter.index_keys().remove(0);
    let (mut found, mut after, mut pages) = (BTreeSet::new(), None, 0);
    loop {
        let page = store.page(&key, after.as_deref()).await.unwrap();
        pages += 1;
        found.extend(page.rows.iter().map(IndexRow::sort_key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((found.len(), pages), (1_100, 3));
}

pub(crate) async fn older_event_changes_nothing(store: &Store) {
    let subscription = subscription(&new_owner(), &json!({"#t": ["guarded"]}), order(5, 5));
    let rows = |order| -> Vec<IndexRow> {
        let row = Subscription {
            order,
            ..subscription.clone()
        };
        row.index_rows().collect()
    };
    let key = subscription.filter.index_keys().remove(0);
    let stored = async || {
        let page = store.page(&key, None).await.unwrap();
        page.rows.first().map(|row| row.order)
    };
    let (old, new) = (order(4, 1), order(5, 5));
    store.put_index(rows(new)).await.unwrap();
    store.put_index(rows(old)).await.unwrap();
    assert_eq!(
        stored().await,
        Some(new),
        "the old row does not overwrite the new row"
    );
    store.delete_index(rows(old), old).await.unwrap();
    assert_eq!(
        stored().await,
        Some(new),
        "the old deletion does not delete the new row"
    );
    store.delete_index(rows(new), new).await.unwrap();
    assert_eq!(stored().await, None);
}

pub(crate) async fn filter_that_is_in_force_again_keeps_its_rows(store: &Store) {
    let order = order(5, 5);
    let subscription = subscription(&new_owner(), &json!({"#t": ["again"]}), order);
    let rows = |since| -> Vec<IndexRow> {
        let row = Subscription {
            since: Seconds(since),
            ..subscription.clone()
        };
        row.index_rows().collect()
    };
    let key = subscription.filter.index_keys().remove(0);
    let stored = async || {
        let page = store.page(&key, None).await.unwrap();
        page.rows.first().map(|row| row.since.0)
    };
    for since in [10, 20, 10] {
        store.put_index(rows(since)).await.unwrap();
    }
    assert_eq!(stored().await, Some(20), "the later start wins");
    store.delete_index(rows(10), order).await.unwrap();
    assert_eq!(stored().await, Some(20), "a late deletion changes nothing");
    store.delete_index(rows(u64::MAX), order).await.unwrap();
    assert_eq!(stored().await, None);
}

pub(crate) async fn large_filter_is_left_out(store: &Store) {
    let values: Vec<String> = (0..60).map(|n| format!("{n:0>30}")).collect();
    let filter = json!({"#t": ["large"], "#h": values});
    let large = subscription(&new_owner(), &filter, order(1, 1));
    store.put_index(large.index_rows().collect()).await.unwrap();
    let key = &large.filter.index_keys()[0];
    let page = store.page(key, None).await.unwrap();
    assert_eq!(page.rows.len(), 1);
    assert_eq!(
        page.rows[0].filter, None,
        "a large filter is in `subscriptions` alone"
    );
}

pub(crate) async fn relays_are_kept(store: &Store) {
    for relays in [vec![], vec!["wss://a.example", "wss://b.example"]] {
        let row = Subscription {
            relays: relays.iter().map(|url| (*url).to_owned()).collect(),
            ..subscription(&new_owner(), &json!({"#t": ["relays"]}), order(1, 1))
        };
        let rows: Vec<IndexRow> = row.index_rows().collect();
        store.put_index(rows.clone()).await.unwrap();
        let page = store.page(&rows[0].index_key, None).await.unwrap();
        let found = page.rows.iter().find(|found| found.owner == row.owner);
        assert_eq!(found, Some(&rows[0]));
        assert_eq!(rows[0].relays.len(), relays.len());
    }
}
