//! What one event can cause is bounded.

use nostr_push_core::device::MAX_DELETED_FILTERS;

use super::*;

/// Counts the calls of an event to the tables.
async fn calls(f: &Fixture, event: &Event) -> usize {
    const MANY: usize = 1_000_000;
    f.stage.store.state().fail_in = Some(MANY);
    f.accept(event).await;
    MANY - f.stage.store.state().fail_in.take().unwrap()
}

fn filters(names: impl Iterator<Item = String>) -> Value {
    let filters: Vec<Value> = names.map(|name| json!({"#t": [name]})).collect();
    json!({"filters": filters})
}

#[tokio::test]
async fn deletions_of_filters_that_never_existed_leave_one_row() {
    let f = fixture();
    let keys = Keys::generate();
    for n in 0..10 {
        let names = (0..50).map(|m| format!("{n}-{m}"));
        let delete = f.demo(&keys, 3082, NOW + n, &filters(names));
        assert_eq!(f.reason(&delete).await, "unsubscribed");
        assert_eq!(f.reason(&delete).await, "repeated");
    }
    let state = f.stage.store.state();
    let roster = state.rosters.values().next().unwrap();
    assert_eq!(roster.deleted_filters.len(), MAX_DELETED_FILTERS);
    assert!(state.subscriptions.is_empty() && state.devices.is_empty());
}

#[tokio::test]
async fn a_remembered_deletion_supersedes_an_older_upsert() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let tag = json!({"filter": {"#t": ["a"]}});
    f.accept(&f.demo(&keys, 3082, NOW + 5, &tag)).await;
    let older = f.demo(&keys, 3081, NOW + 4, &tag);
    assert_eq!(f.reason(&older).await, "superseded");
    let newer = f.demo(&keys, 3081, NOW + 6, &tag);
    assert_eq!(f.reason(&newer).await, "subscribed");
    f.accept(&f.demo(&keys, 3082, NOW + 7, &tag)).await;
    // The filter is already deleted, so the next deletion is only remembered.
    f.accept(&f.demo(&keys, 3082, NOW + 9, &tag)).await;
    let between = f.demo(&keys, 3081, NOW + 8, &tag);
    assert_eq!(f.reason(&between).await, "superseded");
    assert!(f.own().is_empty() && f.own_keys().is_empty());
}

#[tokio::test]
async fn each_settings_event_costs_the_same() {
    let f = fixture();
    let keys = Keys::generate();
    let mut counts = Vec::new();
    for n in 0..8 {
        let groups: Vec<String> = (0..50).map(|m| format!("group-{n}-{m}")).collect();
        let settings = json!({"deviceId": "t", "kinds": [1], "#e": groups});
        counts.push(calls(&f, &f.settings(&keys, NOW + n, &settings)).await);
    }
    assert!(
        counts[2..].iter().all(|count| *count == counts[1]),
        "{counts:?}"
    );
    assert!(counts[1] < 50 + 50 + 40, "{counts:?}");
}

#[tokio::test]
async fn settings_at_each_start_write_no_index_rows() {
    let f = fixture();
    let keys = Keys::generate();
    let groups: Vec<String> = (0..500).map(|m| format!("group-{m}")).collect();
    let settings = json!({"deviceId": "t", "kinds": [1], "#e": groups});
    let first = calls(&f, &f.settings(&keys, NOW, &settings)).await;
    let second = calls(&f, &f.settings(&keys, NOW + 60, &settings)).await;
    assert!(first > 500 && second < 50, "{first} {second}");
}

#[tokio::test]
async fn residual_filters_have_at_most_16_kib() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    f.prove(&format!("device of {}", keys.public_key()));
    let authors = |n: u32| (0..n).map(|n| format!("{n:064x}")).collect::<Vec<_>>();
    let (own, other) = (keys.public_key().to_hex(), "cd".repeat(32));
    for (filter, reason) in [
        (
            json!({"authors": authors(1_000), "kinds": [1]}),
            "subscribed",
        ),
        (json!({"#t": ["a"], "authors": authors(240)}), "subscribed"),
        (json!({"#t": ["a"], "authors": authors(250)}), "over_quota"),
        (
            json!({"#p": [own], "authors": authors(1_900)}),
            "subscribed",
        ),
        (
            json!({"#p": [other], "authors": authors(250)}),
            "over_quota",
        ),
        (
            json!({"#p": [own, other], "authors": authors(250)}),
            "over_quota",
        ),
        (
            json!({"ids": [other], "authors": authors(250)}),
            "over_quota",
        ),
    ] {
        let upsert = f.demo(&keys, 3081, NOW, &json!({"filter": filter}));
        let shown = &filter.to_string()[..40];
        assert_eq!(f.reason(&upsert).await, reason, "{shown}");
    }
    // A filter from before this limit can still be deleted.
    let large = json!({"filter": {"#t": ["a"], "authors": authors(250)}});
    let delete = f.demo(&keys, 3082, NOW, &large);
    assert_eq!(f.reason(&delete).await, "unsubscribed");
}

#[tokio::test]
async fn filters_of_an_owner_have_at_most_10_000_index_keys() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let device = format!("device of {}", keys.public_key());
    f.prove(&device);
    let filter = |n: usize, keys: usize| {
        let values: Vec<String> = (0..keys).map(|m| format!("{n}-{m}")).collect();
        json!({"filter": {"#t": values}})
    };
    for n in 0..9 {
        let upsert = f.demo(&keys, 3081, NOW, &filter(n, 1_000));
        assert_eq!(f.reason(&upsert).await, "subscribed");
    }
    let too_many = json!({"filters": [
        filter(9, 1_000)["filter"], filter(10, 1)["filter"],
    ]});
    let upsert = f.demo(&keys, 3081, NOW, &too_many);
    assert_eq!(f.reason(&upsert).await, "over_quota");
    let upsert = f.demo(&keys, 3081, NOW, &filter(9, 1_000));
    assert_eq!(f.reason(&upsert).await, "subscribed");
    // A renewal adds nothing.
    let upsert = f.demo(&keys, 3081, NOW + 1, &filter(3, 1_000));
    assert_eq!(f.reason(&upsert).await, "subscribed");
}
