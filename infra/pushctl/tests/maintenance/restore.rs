//! `pushctl restore` from tables as a point-in-time restore makes them.

use std::collections::HashMap;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use nostr::{event::EventId, key::Keys};
use nostr_push_aws::{clients, dynamodb::Store};
use nostr_push_core::{
    Millis, Seconds,
    app::{App, Platform},
    device::{Device, Roster},
    device_store::owner_devices,
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    ports::{
        ChangeFeed, Devices, IndexReader, IndexWriter, MuteLists, OwnerSettings, Presences,
        RelayCursor, Relays, Subscriptions,
    },
    presence::Presence,
    settings::Settings,
    subscription::{IndexRow, Subscription, SubscriptionState},
};
use nostr_push_local::aws;
use nostr_push_testkit::{
    builders::{FAR_FUTURE, device, roster},
    event, owner, registration, subscription,
};
use serde_json::json;

use crate::{Endpoint, STACK};

/// The platform application of the devices.
const APPLICATION: &str = "arn:aws:sns:us-east-1:000000000000:app/GCM/nostr-push.demo";

fn endpoint(token_hash: &str) -> String {
    let application = APPLICATION.replace(":app/", ":endpoint/");
    format!("{application}/{token_hash}")
}

/// The prefix of the restored tables.
const SAVED: &str = "saved-on-monday";

/// The tables whose rows are lost. The index is not restored but made again.
const LOST: [&str; 6] = [
    "devices",
    "subscriptions",
    "filter-index",
    "settings",
    "presence",
    "mute-lists",
];

/// The hashes of the tokens of one person.
const ALICE: [&str; 2] = ["a1", "a2"];

const RELAY: &str = "wss://relay.example";

const CURSOR: RelayCursor = RelayCursor {
    read_until: Seconds(500),
    swept_at: Seconds(400),
};

type Item = HashMap<String, AttributeValue>;

/// Everything that is stored of one owner.
#[derive(Debug, PartialEq)]
struct Stored {
    devices: Vec<Device>,
    roster: Option<Roster>,
    subscriptions: Vec<Subscription>,
    index: Vec<IndexRow>,
    settings: Option<Settings>,
    presence: Option<Presence>,
    mute_list: Option<MuteList>,
}

impl Stored {
    async fn read(store: &Store, owner: &Owner, hashes: &[&str]) -> Self {
        let registered = hashes.iter();
        let ids: Vec<_> = registered
            .map(|hash| device(hash, registration(owner, "arn")).id)
            .collect();
        let mut devices = store.devices(&ids).await.unwrap();
        devices.sort_by(|a, b| a.id.cmp(&b.id));
        let mut roster = store.roster(owner).await.unwrap();
        // The version only protects against concurrent writers. A restored row begins again.
        for device in &mut devices {
            device.version = 0;
        }
        if let Some(roster) = &mut roster {
            roster.version = 0;
        }
        let key = format!("#p:{}", owner.pubkey.to_hex()).parse().unwrap();
        let page = IndexReader::page(store, &key, None).await.unwrap();
        Self {
            devices,
            roster,
            subscriptions: store.of_owner(owner).await.unwrap(),
            index: page.rows,
            settings: store.settings(owner).await.unwrap(),
            presence: store.presence(owner).await.unwrap(),
            mute_list: store.mute_list(&owner.pubkey).await.unwrap(),
        }
    }
}

fn at(created_at: u64) -> Order {
    Order {
        created_at: Seconds(created_at),
        event_id: EventId::from_byte_array([1; 32]),
    }
}

/// A filter for mentions of the owner.
fn mentions(owner: &Owner, kind: u16) -> Subscription {
    let filter = json!({"kinds": [kind], "#p": [owner.pubkey.to_hex()]});
    Subscription {
        order: at(10),
        ..subscription(owner, &filter)
    }
}

async fn register(store: &Store, owner: &Owner, hashes: &[&str]) {
    let devices: Vec<Device> = hashes
        .iter()
        .map(|hash| device(hash, registration(owner, &endpoint(hash))))
        .collect();
    for device in &devices {
        assert!(store.commit(Some(device), None).await.unwrap());
    }
    let devices: Vec<&Device> = devices.iter().collect();
    let roster = roster(owner, &devices);
    assert!(store.commit(None, Some(&roster)).await.unwrap());
}

async fn subscribe(store: &Store, row: &Subscription) {
    assert!(store.put(row).await.unwrap());
    store.put_index(row.index_rows().collect()).await.unwrap();
}

/// Copies all rows of all tables, as a point-in-time restore does.
async fn save(client: &Client) {
    for table in LOST.iter().chain(&["apps", "relays"]) {
        let scan = client.scan().table_name(format!("{STACK}-{table}"));
        for item in scan.send().await.unwrap().items.unwrap_or_default() {
            let put = client.put_item().table_name(format!("{SAVED}-{table}"));
            put.set_item(Some(item)).send().await.unwrap();
        }
    }
}

/// Deletes the rows of these owners.
async fn lose(client: &Client, owners: &[&Owner]) {
    let pubkeys: Vec<String> = owners.iter().map(|owner| owner.pubkey.to_hex()).collect();
    for table in LOST {
        let name = format!("{STACK}-{table}");
        let described = client.describe_table().table_name(&name).send().await;
        let schema = described.unwrap().table.unwrap().key_schema.unwrap();
        let scan = client.scan().table_name(&name).send().await.unwrap();
        for item in scan.items.unwrap_or_default() {
            let text = format!("{item:?}");
            if !pubkeys.iter().any(|pubkey| text.contains(pubkey)) {
                continue;
            }
            let key: Item = schema
                .iter()
                .map(|key| {
                    let name = key.attribute_name().to_owned();
                    let value = item[&name].clone();
                    (name, value)
                })
                .collect();
            let delete = client.delete_item().table_name(&name).set_key(Some(key));
            delete.send().await.unwrap();
        }
    }
}

struct People {
    /// Loses everything.
    alice: Owner,
    /// Loses nothing, and changes filters after the time of the restore.
    bob: Owner,
    /// Loses everything, and registers another device.
    carol: Owner,
    /// Loses everything, and removes all devices.
    dora: Owner,
}

/// The state at the time of the restore.
async fn fill(store: &Store, people: &People) {
    let People {
        alice,
        bob,
        carol,
        dora,
    } = people;
    let app = App {
        platforms: [(Platform::Fcm, APPLICATION.to_owned())].into(),
        ..App::named("demo")
    };
    store.put_app(&app).await.unwrap();
    register(store, alice, &ALICE).await;
    for kind in [1, 7] {
        subscribe(store, &mentions(alice, kind)).await;
        subscribe(store, &mentions(bob, kind)).await;
    }
    let mut settings = Settings::logged_out(alice.clone(), at(10));
    settings.valid_until = FAR_FUTURE;
    store.put_settings(&settings).await.unwrap();
    let presence = Presence::of(at(10), false, Millis(10_000));
    let is_put = store.put_presence(alice, &presence, FAR_FUTURE).await;
    assert!(is_put.unwrap());
    let list = event(&Keys::generate(), 10_000, 10, &[&["t", "spam"]], "");
    let mut list = MuteList::of(&list, Seconds(10));
    (list.pubkey, list.expires_at) = (alice.pubkey, FAR_FUTURE);
    assert!(store.put_mute_list(&list).await.unwrap());
    let now = clients::now().to_seconds();
    store.checkpoint(RELAY, CURSOR, "", now).await.unwrap();
    register(store, bob, &["b1"]).await;
    register(store, carol, &["c1"]).await;
    register(store, dora, &["d1"]).await;
}

/// What happens after the time of the restore.
async fn change_and_lose(endpoint: &Endpoint, people: &People) {
    let store = endpoint.store(STACK);
    let mut removed = mentions(&people.bob, 7);
    removed.order = at(20);
    removed.state = SubscriptionState::Removed;
    assert!(store.put(&removed).await.unwrap());
    let rows = removed.index_rows().collect();
    store.delete_index(rows, at(20)).await.unwrap();
    let mut renewed = mentions(&people.bob, 1);
    renewed.order = at(20);
    subscribe(&store, &renewed).await;

    let lost = [&people.alice, &people.carol, &people.dora];
    lose(&Client::new(&endpoint.config), &lost).await;
    register(&store, &people.carol, &["c2"]).await;
    let mut gone = Roster::new(people.dora.clone());
    (gone.removed_all, gone.expires_at) = (Some(at(20)), FAR_FUTURE);
    assert!(store.commit(None, Some(&gone)).await.unwrap());
    // A row that has ended since.
    let mut ended = mentions(&people.alice, 9);
    ended.valid_until = Seconds(20);
    assert!(endpoint.store(SAVED).put(&ended).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_come_back_and_newer_rows_stay() {
    let endpoint = Endpoint::start().await;
    let created = aws::create_tables_with_prefix(&endpoint.tools, &endpoint.environment, SAVED);
    created.await.unwrap();
    let store = endpoint.store(STACK);
    let [alice, bob, carol, dora] = [(); 4].map(|()| owner(Keys::generate().public_key()));
    let people = People {
        alice,
        bob,
        carol,
        dora,
    };
    fill(&store, &people).await;
    save(&Client::new(&endpoint.config)).await;
    let saved = Stored::read(&store, &people.alice, &ALICE).await;
    change_and_lose(&endpoint, &people).await;
    let lost = Stored::read(&store, &people.alice, &ALICE).await;
    assert!(lost.devices.is_empty() && lost.index.is_empty());
    let of_bob = Stored::read(&store, &people.bob, &["b1"]).await;

    let dry = endpoint.succeeds(&["restore", "--from", SAVED, "--dry-run"]);
    let dry = dry.await;
    assert_eq!(dry["tables"]["subscriptions"]["copied"], 2, "{dry}");
    assert_eq!(Stored::read(&store, &people.alice, &ALICE).await, lost);

    let before = clients::now();
    let restored = endpoint.succeeds(&["restore", "--from", SAVED]).await;
    let expected = json!({"copied": 2, "kept": 2, "expired": 1});
    assert_eq!(restored["tables"]["subscriptions"], expected, "{restored}");
    assert_eq!(restored["tables"]["apps"]["kept"], 1, "{restored}");
    let claims = restored["tables"].get("claims");
    assert_eq!(claims, None, "only if it is named");
    assert_eq!(Stored::read(&store, &people.alice, &ALICE).await, saved);
    assert_eq!(Stored::read(&store, &people.bob, &["b1"]).await, of_bob);
    assert_eq!(store.cursor(RELAY).await.unwrap(), Some(CURSOR));
    check_devices(&store, &people).await;
    check_feed(&store, &people.alice, before).await;
    explains_a_push(&endpoint, &people.alice).await;

    // A repeat changes nothing.
    let again = endpoint.succeeds(&["restore", "--from", SAVED]).await;
    for table in LOST.iter().filter(|table| **table != "filter-index") {
        assert_eq!(again["tables"][table]["copied"], 0, "{table}: {again}");
    }
    assert_eq!(Stored::read(&store, &people.alice, &ALICE).await, saved);
    endpoint.aws.stop().await;
}

/// Devices are merged with those that were registered and removed since.
async fn check_devices(store: &Store, people: &People) {
    let now = clients::now().to_seconds();
    let of_carol = owner_devices(store, &people.carol).await.unwrap();
    assert_eq!(of_carol.active(now).count(), 2, "{of_carol:?}");
    let of_dora = Stored::read(store, &people.dora, &["d1"]).await;
    let active = of_dora.devices[0].active_for(&people.dora, now);
    assert!(active.is_none(), "a removed device does not come back");
}

/// The listener finds the restored subscriptions with its next poll.
async fn check_feed(store: &Store, owner: &Owner, since: Millis) {
    let mut found = 0;
    for partition in 0..store.partitions() {
        let page = ChangeFeed::page(store, partition, since, None).await;
        let rows = page.unwrap().rows;
        found += rows.iter().filter(|row| row.owner == *owner).count();
    }
    assert_eq!(found, 2);
}

/// The code of matcher and deliver finds the restored filter and devices.
async fn explains_a_push(endpoint: &Endpoint, owner: &Owner) {
    let now = clients::now().to_seconds();
    let tags: &[&[&str]] = &[&["p", &owner.pubkey.to_hex()]];
    let mention = event(&Keys::generate(), 1, now.0, tags, "hello");
    let file = endpoint.data.path().join("event.json");
    std::fs::write(&file, serde_json::to_string(&mention).unwrap()).unwrap();
    let explained = endpoint
        .succeeds(&["explain", file.to_str().unwrap()])
        .await;
    let recipient = &explained["recipients"][0];
    assert_eq!(recipient["outcome"], "pushed", "{explained}");
}

/// The index alone is lost: it is made from the stack's own subscriptions, for filters in force.
#[tokio::test(flavor = "multi_thread")]
async fn index_is_made_again_from_the_subscriptions() {
    let endpoint = Endpoint::start().await;
    let store = endpoint.store(STACK);
    let alice = owner(Keys::generate().public_key());
    let (active, mut removed) = (mentions(&alice, 1), mentions(&alice, 7));
    removed.state = SubscriptionState::Removed;
    for row in [&active, &removed] {
        assert!(store.put(row).await.unwrap());
    }
    let restore = ["restore", "filter-index", "--from", "unused"];
    let restored = endpoint.succeeds(&restore).await;
    let expected = json!({"copied": 1, "kept": 0, "expired": 1});
    assert_eq!(restored["tables"]["filter-index"], expected);
    let rows = Stored::read(&store, &alice, &[]).await.index;
    assert_eq!(rows, active.index_rows().collect::<Vec<_>>());

    let (code, _, messages) = endpoint.run(&["restore", "--from", STACK]).await;
    assert!(
        code == 1 && messages.contains("stack's own tables"),
        "{messages}"
    );
    let missing = ["restore", "devices", "--from", "unused"];
    let (code, _, messages) = endpoint.run(&missing).await;
    assert!(
        code == 1 && messages.contains("no table unused-devices"),
        "{messages}"
    );
    endpoint.aws.stop().await;
}
