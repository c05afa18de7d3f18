//! The largest rows, as the store writes them. `docs/architecture.md` has their sizes.

use std::collections::{BTreeMap, BTreeSet};

use nostr::{event::EventId, key::Keys};
use nostr_push_core::{
    Seconds,
    app::{App, MAX_APP_ID_BYTES},
    device::{MAX_DELETED_FILTERS, MAX_DEVICES},
    message::MAX_RELAY_URL_BYTES,
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    ports::{Devices, IndexWriter, MuteLists, OwnerSettings, RelayCursor, Relays, Subscriptions},
    profile::{MAX_GROUP_ID_BYTES, MAX_NAME_BYTES, MAX_PICTURE_BYTES},
    settings::Settings,
    shape::{Os, PayloadOptions, Shape},
    subscription::{MAX_FILTER_BYTES, MAX_OWNER_RELAYS, Subscription},
};
use nostr_push_local::root;
use nostr_push_testkit::{builders, event};
use serde_json::json;

use super::item::{MAX_ITEM, Recorder, write_units};

const HASH: usize = 64;

/// The longest endpoint ARN: names of platform applications have at most 256 characters.
const ARN: usize = 20 + 12 + 20 + 256 + 40;

/// The bytes of text that the largest event of dialect H encrypts, in base64.
const SETTINGS_BYTES: usize = 256 * 1024 / 4 * 3;

fn owner() -> Owner {
    Owner {
        app: "a".repeat(MAX_APP_ID_BYTES),
        pubkey: Keys::generate().public_key(),
    }
}

fn order() -> Order {
    Order {
        created_at: Seconds(u64::from(u32::MAX)),
        event_id: EventId::from_byte_array([0xff; 32]),
    }
}

fn relays() -> Vec<String> {
    let relay = |n: usize| format!("wss://{n:0>width$}", width = MAX_RELAY_URL_BYTES - 6);
    (0..MAX_OWNER_RELAYS).map(relay).collect()
}

fn hashes(n: usize) -> BTreeSet<String> {
    (0..n).map(|n| format!("{n:0HASH$x}")).collect()
}

/// An active subscription of [`owner`] that names as many relays as it may.
fn subscription(filter: &serde_json::Value) -> Subscription {
    Subscription {
        relays: relays(),
        order: order(),
        ..builders::subscription(&owner(), filter)
    }
}

/// The bytes of the largest rows, by the name that the documentation uses.
type Sizes = BTreeMap<&'static str, usize>;

/// A device that many owners have removed, and the roster of an owner with 20 devices.
async fn devices_and_rosters(recorder: &Recorder, sizes: &mut Sizes) {
    let store = &recorder.store;
    let owner = owner();
    let mut registration = builders::registration(&owner, &"e".repeat(ARN));
    registration.order = order();
    registration.taken_from = Some(owner.clone());
    registration.max_mentions = Some(10);
    registration.payload = PayloadOptions {
        shape: Some(Shape::EmbeddedDistributor),
        os: Some(Os::Android),
        encrypt_to: Some(owner.pubkey),
    };
    let mut device = builders::device(&"f".repeat(HASH), registration);
    let removed = |n: usize| (format!("{}#{n:064x}", owner.app), order());
    device.removals = (0..20).map(removed).collect();
    let mut roster = builders::roster(&owner, &[]);
    roster.devices = hashes(MAX_DEVICES);
    roster.removed_all = Some(order());
    roster.dormant_at = Some(Seconds(u64::from(u32::MAX)));
    let deleted = |n: usize| (format!("{n:016x}"), order());
    roster.deleted_filters = (0..MAX_DELETED_FILTERS).map(deleted).collect();
    store.commit(Some(&device), Some(&roster)).await.unwrap();
    let [device, roster] = recorder.put_sizes()[..] else {
        panic!("two rows");
    };
    sizes.insert("device", device);
    sizes.insert("roster of 20 devices", roster);
}

/// A subscription with the longest filter, and the index row with the longest residual filter.
async fn subscriptions(recorder: &Recorder, sizes: &mut Sizes) {
    let store = &recorder.store;
    let owner = owner();
    let value = |n: usize| format!("{n:0512}");
    let values: Vec<String> = (0..253).map(value).collect();
    let filter = json!({"#t": values, "kinds": [1]});
    let row = subscription(&filter);
    let json = row.filter.to_json().len();
    assert!(
        (MAX_FILTER_BYTES - 1024..=MAX_FILTER_BYTES).contains(&json),
        "{json}"
    );
    store.put(&row).await.unwrap();
    sizes.insert("subscription", recorder.put_sizes()[0]);

    // The residual filter under each value of `#t` has almost 1 KiB.
    let authors: Vec<String> = (0..14).map(|n| format!("{n:064x}")).collect();
    let row = subscription(&json!({"#t": [value(1)], "authors": authors}));
    let row = Subscription {
        filter: builders::subscription(&owner, &json!({"#t": [value(1)], "authors": authors[..6]}))
            .filter,
        ..row
    };
    let rows: Vec<_> = row.index_rows().collect();
    assert!(
        rows.iter().all(|row| row.filter.is_some()),
        "it is in the row"
    );
    store.put_index(rows).await.unwrap();
    sizes.insert("index row", recorder.put_sizes()[0]);
}

/// Settings that fill an event.
async fn settings(recorder: &Recorder, sizes: &mut Sizes) {
    let store = &recorder.store;
    let owner = owner();
    let mentions: Vec<[u8; 32]> = (0..1_000u32)
        .map(|n| [u8::try_from(n % 256).unwrap(); 32])
        .collect();
    let left = SETTINGS_BYTES - 1_000 * 67;
    let group = |n: usize| format!("{n:0width$}", width = left / 1_000 - 3);
    let settings = Settings {
        kinds: Some((0..64).collect()),
        p: mentions,
        e: (0..1_000).map(|n| group(n).as_str().into()).collect(),
        relays: relays(),
        token_hash: Some("f".repeat(HASH)),
        max_mentions: Some(10),
        ..Settings::logged_out(owner.clone(), order())
    };
    store.put_settings(&settings).await.unwrap();
    sizes.insert("settings of 2,000 values", recorder.put_sizes()[0]);
}

/// A mute list, an app with all pubkeys that it may have, and a relay.
async fn lists(recorder: &Recorder, sizes: &mut Sizes) {
    let store = &recorder.store;
    let owner = owner();
    let tags: Vec<Vec<String>> = (0..2_000)
        .map(|n| vec!["word".to_owned(), format!("{n:0120}")])
        .collect();
    let tags: Vec<Vec<&str>> = tags
        .iter()
        .map(|tag| tag.iter().map(String::as_str).collect())
        .collect();
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    let list = MuteList::of(&event(&Keys::generate(), 10_000, 1, &tags, ""), Seconds(1));
    store.put_mute_list(&list).await.unwrap();
    sizes.insert("mute list", recorder.put_sizes()[0]);

    let key = Keys::generate().public_key();
    let app = App {
        allowed: vec![key; 5_000],
        ..App::named(&owner.app)
    };
    store.put_app(&app).await.unwrap();
    sizes.insert("app with 5,000 pubkeys", recorder.put_sizes()[0]);

    let status = "\u{10ffff}".repeat(200);
    let cursor = RelayCursor {
        read_until: Seconds(u64::from(u32::MAX)),
        swept_at: Seconds(u64::from(u32::MAX)),
    };
    store
        .checkpoint(&relays()[0], cursor, &status, Seconds(1))
        .await
        .unwrap();
    sizes.insert("relay", recorder.put_sizes()[0]);
}

async fn largest() -> Sizes {
    let recorder = Recorder::start().await;
    let mut sizes = Sizes::new();
    devices_and_rosters(&recorder, &mut sizes).await;
    subscriptions(&recorder, &mut sizes).await;
    settings(&recorder, &mut sizes).await;
    lists(&recorder, &mut sizes).await;
    // These rows are written in parts, so they are computed: the key, the holder (an id of SQS),
    // the numbers, and a set of hashes or of eight bytes of each event.
    let claim = MAX_APP_ID_BYTES + 1 + HASH + 1 + HASH;
    sizes.insert(
        "claim with 20 devices",
        100 + claim + 100 + MAX_DEVICES * HASH,
    );
    // The key of a group, name, picture, the times and the event's id.
    let profile = MAX_RELAY_URL_BYTES + MAX_GROUP_ID_BYTES + MAX_NAME_BYTES + MAX_PICTURE_BYTES;
    sizes.insert("profile", 100 + profile + 3 * 10 + HASH);
    sizes.insert(
        "rate of 30 pushes",
        100 + MAX_APP_ID_BYTES + HASH + 20 + 30 * 8,
    );
    sizes
}

#[tokio::test]
async fn largest_items_fit_and_have_the_documented_sizes() {
    let docs = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let sizes = largest().await;
    let mut missing = Vec::new();
    for (name, bytes) in &sizes {
        assert!(*bytes < MAX_ITEM, "{name}: {bytes}");
        let row = format!(
            "| {name} | {} KiB | {} |",
            bytes.div_ceil(1024),
            write_units(*bytes)
        );
        if !docs.contains(&row) {
            missing.push(row);
        }
    }
    assert!(
        missing.is_empty(),
        "docs/architecture.md lacks\n{missing:#?}"
    );
    // What control charges for a removal covers the roster, in a transaction.
    let roster = write_units(sizes["roster of 20 devices"]);
    assert!(2 * roster as u64 <= control::budget::REMOVAL, "{roster}");
    assert!(write_units(sizes["rate of 30 pushes"]) == 1);
}

/// What control takes from the budget is what the writes cost.
#[tokio::test]
async fn budget_estimates_cover_the_largest_filters() {
    let recorder = Recorder::start().await;
    let values: Vec<String> = (0..253).map(|n| format!("{n:0512}")).collect();
    let row = subscription(&json!({"#t": values, "kinds": [1]}));
    recorder.store.put(&row).await.unwrap();
    let actual = 2 * write_units(recorder.put_sizes()[0]);
    let estimate = usize::try_from(control::budget::of_row(&row)).unwrap();
    assert!(estimate + 2 >= actual, "{estimate} for {actual}");
    recorder
        .store
        .put_index(row.index_rows().collect())
        .await
        .unwrap();
    let actual: usize = recorder.put_sizes().into_iter().map(write_units).sum();
    let estimate = usize::try_from(control::budget::of_index(&row)).unwrap();
    assert!(estimate * 2 >= actual, "{estimate} for {actual}");
}
