//! Dialect N (kinds 3079 to 3082): quotas, payloads of existing clients, lifetimes and transfers.

use nostr_push_core::{
    ports::{ChangeFeed, IndexWriter, Subscriptions},
    subscription::{MAX_FILTER_KINDS, MAX_SUBSCRIPTIONS, TRIGGER_PREFIX},
};
use nostr_push_testkit::{owner, subscription};

use super::*;

/// A filter that differs from those with another `n`.
fn filter(n: usize) -> Value {
    json!({"#t": [format!("tag-{n}")]})
}

#[tokio::test]
async fn an_owner_has_at_most_20_devices() {
    let f = fixture();
    let keys = Keys::generate();
    for n in 0..20 {
        let register = f.demo(&keys, 3079, NOW, &token(n));
        assert_eq!(f.reason(&register).await, "registered");
    }
    let another = f.demo(&keys, 3079, NOW, &token(20));
    assert_eq!(f.reason(&another).await, "over_quota");
    let renewal = f.demo(&keys, 3079, NOW + 1, &token(3));
    assert_eq!(
        f.reason(&renewal).await,
        "registered",
        "a renewal does not add a device"
    );
    let removal = f.demo(&keys, 3080, NOW + 2, &token(3));
    assert_eq!(f.reason(&removal).await, "removed");
    let another = f.demo(&keys, 3079, NOW + 2, &token(20));
    assert_eq!(f.reason(&another).await, "registered");
}

#[tokio::test]
async fn an_owner_has_at_most_50_filters_per_app() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    f.register("other", &keys).await;
    let filters = |n: usize| json!({"filters": (0..n).map(filter).collect::<Vec<_>>()});
    let all = f.demo(&keys, 3081, NOW, &filters(MAX_SUBSCRIPTIONS));
    assert_eq!(f.reason(&all).await, "subscribed");
    let another = f.demo(&keys, 3081, NOW + 1, &json!({"filter": filter(50)}));
    assert_eq!(f.reason(&another).await, "over_quota");
    let renewal = f.demo(&keys, 3081, NOW + 1, &json!({"filter": filter(7)}));
    assert_eq!(
        f.reason(&renewal).await,
        "subscribed",
        "a renewal does not add a filter"
    );
    let elsewhere = f.in_app("other", &keys, 3081, NOW, &json!({"filter": filter(50)}));
    assert_eq!(
        f.reason(&elsewhere).await,
        "subscribed",
        "quotas are per app"
    );
    let too_many = f.in_app("other", &keys, 3081, NOW, &filters(MAX_SUBSCRIPTIONS + 1));
    assert_eq!(f.reason(&too_many).await, "over_quota");
}

#[tokio::test]
async fn a_filter_has_at_most_64_kinds() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let filter = |kinds: usize| json!({"#t": ["a"], "kinds": (0..kinds).collect::<Vec<_>>()});
    let all = json!({"filter": filter(MAX_FILTER_KINDS)});
    let upsert = f.demo(&keys, 3081, NOW, &all);
    assert_eq!(f.reason(&upsert).await, "subscribed");
    let mut repeated = all.clone();
    let kinds = repeated["filter"]["kinds"].as_array_mut().unwrap();
    kinds.extend(kinds.clone());
    let upsert = f.demo(&keys, 3081, NOW + 1, &repeated);
    let subscribed = f.reason(&upsert).await;
    assert_eq!(subscribed, "subscribed", "repeated kinds do not count");

    let too_many = json!({"filters": [{"#t": ["b"]}, filter(MAX_FILTER_KINDS + 1)]});
    let upsert = f.demo(&keys, 3081, NOW, &too_many);
    assert_eq!(f.reason(&upsert).await, "over_quota");
    assert_eq!(f.own().len(), 1, "nothing of the event is stored");
}

#[tokio::test]
async fn a_stored_filter_with_more_than_64_kinds_can_be_deleted() {
    let f = fixture();
    let keys = Keys::generate();
    let kinds: Vec<usize> = (0..=MAX_FILTER_KINDS).collect();
    let filter = json!({"#t": ["a"], "kinds": kinds});
    // A version without the limit stored it.
    let row = subscription(&owner(keys.public_key()), &filter);
    let store = &f.stage.store;
    store.put_index(row.index_rows().collect()).await.unwrap();
    store.put(&row).await.unwrap();
    assert_eq!(f.index().len(), 1);
    let delete = f.demo(&keys, 3082, NOW, &json!({"filter": filter}));
    assert_eq!(f.reason(&delete).await, "unsubscribed");
    assert!(f.index().is_empty() && f.subscriptions().is_empty());
}

#[tokio::test]
async fn a_slow_write_is_in_the_feed_at_the_time_of_the_write() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let started = Seconds(NOW).to_millis();
    let written = started + Millis(29_000);
    f.stage.store.state().clock = written;
    f.accept(&f.demo(&keys, 3081, NOW, &mentions(&keys))).await;
    let page = f.stage.store.page(0, written, None).await.unwrap();
    let row = page
        .rows
        .first()
        .expect("a reader of the last second finds the row");
    assert_eq!(row.changed_at, started);
}

#[tokio::test]
async fn removes_all_devices_by_an_empty_token_without_expiration() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    f.accept(&f.demo(&keys, 3079, NOW, &token(2))).await;
    assert_eq!(f.active(&["token-1", "token-2"]).len(), 2);
    let tags: &[&[&str]] = &[&["app", "demo"]];
    let remove_all = f.event(&keys, 3080, NOW + 1, tags, &json!({"token": ""}));
    assert_eq!(f.reason(&remove_all).await, "removed_all");
    assert!(f.active(&["token-1", "token-2"]).is_empty());
    assert!(
        f.stage.sns.state().endpoints.is_empty(),
        "SNS does not have the tokens any more"
    );
}

#[tokio::test]
async fn addresses_private_kinds_to_the_owner_until_deleted() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let upsert = json!({"filter": {"kinds": [1059, 4]}});
    f.accept(&f.demo(&keys, 3081, NOW, &upsert)).await;
    assert_eq!(f.own_keys(), [format!("#p:{}", keys.public_key().to_hex())]);

    // No expiration, and the values in another order.
    let tags: &[&[&str]] = &[&["app", "demo"]];
    let payload = json!({"filter": {"kinds": [4, 1059], "limit": 10}});
    let delete = f.event(&keys, 3082, NOW + 1, tags, &payload);
    assert_eq!(f.reason(&delete).await, "unsubscribed");
    assert!(f.own_keys().is_empty() && f.own().is_empty());
}

#[tokio::test]
async fn keeps_only_relay_urls_of_a_relay_list() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let relays = json!([
        "wss://b.example",
        "https://x.example",
        7,
        "WSS://A.example:443/#x",
        "wss://b.example",
        "wss://user:secret@c.example",
        format!("wss://{}.example", "x".repeat(600))
    ]);
    let payload = json!({"filter": {"#t": ["a"]}, "relays": relays});
    f.accept(&f.demo(&keys, 3081, NOW + 2, &payload)).await;
    assert_eq!(f.own()[0].relays, ["wss://a.example", "wss://b.example"]);
}

#[tokio::test]
async fn stores_broad_filters_where_the_app_allows_them() {
    let f = fixture();
    let payload = json!({"filter": {"kinds": [1]}});
    let upsert = f.in_app("broad", &Keys::generate(), 3081, NOW, &payload);
    assert_eq!(f.reason(&upsert).await, "subscribed");
}

#[tokio::test]
async fn a_lifetime_is_at_most_400_days() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let far = (NOW + 4000 * DAY).to_string();
    let tags: &[&[&str]] = &[&["app", "demo"], &["expiration", &far]];
    f.accept(&f.event(&keys, 3081, NOW, tags, &mentions(&keys)))
        .await;
    let ends: Vec<Seconds> = f.own().into_iter().map(|row| row.valid_until).collect();
    assert_eq!(ends, [Seconds(NOW + 400 * DAY)]);
}

#[tokio::test]
async fn a_transferred_token_does_not_return_to_its_old_owner() {
    let f = fixture();
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let by_alice = f.demo(&alice, 3079, NOW + 1, &token(1));
    let by_bob = f.demo(&bob, 3079, NOW + 2, &token(1));
    f.accept(&by_alice).await;
    f.accept(&by_bob).await;
    let owners: Vec<String> = f.active(&["token-1"]).into_values().collect();
    assert_eq!(owners, [bob.public_key().to_hex()]);
    assert_eq!(f.reason(&by_alice).await, "superseded");
    // Alice cannot remove Bob's token.
    f.accept(&f.demo(&alice, 3080, NOW + 5, &token(1))).await;
    assert_eq!(f.active(&["token-1"]).len(), 1);
    f.accept(&f.demo(&bob, 3080, NOW + 3, &token(1))).await;
    assert!(f.active(&["token-1"]).is_empty());
    assert_eq!(f.reason(&by_alice).await, "superseded");
    assert_eq!(f.reason(&by_bob).await, "repeated");
    assert!(f.active(&["token-1"]).is_empty());
}

#[tokio::test]
async fn only_a_newer_registration_revives_a_gone_device() {
    let f = fixture();
    let keys = Keys::generate();
    let first = f.demo(&keys, 3079, NOW, &token(1));
    f.accept(&first).await;
    let id = f.stage.hasher.device("demo", "token-1");
    let gone = f.stage.store.state().devices[&id].clone().gone();
    f.stage.store.state().devices.insert(id, gone);
    assert_eq!(f.reason(&first).await, "repeated");
    assert!(f.active(&["token-1"]).is_empty());
    f.accept(&f.demo(&keys, 3079, NOW + 1, &token(1))).await;
    assert_eq!(f.active(&["token-1"]).len(), 1);
}

#[tokio::test]
async fn fixed_triggers_end_with_the_longest_lived_device() {
    let f = fixture();
    let keys = Keys::generate();
    let register = |n, at, days: u64| {
        let expiration = (NOW + days * DAY).to_string();
        let tags: &[&[&str]] = &[&["app", "triggered"], &["expiration", &expiration]];
        f.event(&keys, 3079, at, tags, &token(n))
    };
    let remove = |n| f.in_app("triggered", &keys, 3080, NOW + 1, &token(n));
    let ends_in_days = || -> Vec<u64> {
        let subscriptions = f.subscriptions().into_iter();
        let triggers = subscriptions.filter(|(_, id, _)| id.starts_with(TRIGGER_PREFIX));
        triggers.map(|(.., end)| (end - NOW) / DAY).collect()
    };
    f.accept(&register(1, NOW, 10)).await;
    assert_eq!(ends_in_days(), [10]);
    f.accept(&register(2, NOW, 20)).await;
    assert_eq!(ends_in_days(), [20]);
    // The same filter, sent by the owner, is another subscription.
    let own = json!({"filter": {"kinds": [1, 1059], "#p": [keys.public_key().to_hex()]}});
    f.accept(&f.in_app("triggered", &keys, 3081, NOW, &own))
        .await;
    f.accept(&remove(2)).await;
    assert_eq!(ends_in_days(), [10]);
    f.accept(&remove(1)).await;
    assert!(ends_in_days().is_empty());
    assert!(f.own().is_empty(), "the owner's filter is dormant");
    assert_eq!(f.index(), f.expected_index());
}

#[tokio::test]
async fn fixed_triggers_move_with_a_transferred_token() {
    let f = fixture();
    let (alice, bob) = (Keys::generate(), Keys::generate());
    f.accept(&f.in_app("triggered", &alice, 3079, NOW, &token(1)))
        .await;
    f.accept(&f.in_app("triggered", &bob, 3079, NOW + 1, &token(1)))
        .await;
    let subscriptions = f.subscriptions().into_iter();
    let owners: BTreeSet<_> = subscriptions.map(|(owner, ..)| owner.pubkey).collect();
    assert_eq!(owners, BTreeSet::from([bob.public_key()]));
}

#[tokio::test]
async fn a_change_of_platform_deletes_the_old_endpoint() {
    let f = fixture();
    let keys = Keys::generate();
    let platforms = [Platform::Apns, Platform::Fcm, Platform::Apns];
    for (platform, at) in platforms.into_iter().zip(NOW..) {
        let payload = json!({"token": "ab".repeat(32), "platform": platform});
        f.accept(&f.demo(&keys, 3079, at, &payload)).await;
        let sns = f.stage.sns.state();
        let applications: Vec<&String> = sns.endpoints.values().map(|(arn, _)| arn).collect();
        assert_eq!(
            applications,
            [&f.stage.store.state().apps["demo"].platforms[&platform]]
        );
    }
}
