//! Each table, queue and SNS adapter against the local AWS endpoint.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says so when something is wrong"
)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use futures_util::future::join_all;
use nostr::{event::EventId, key::Keys};
use nostr_push_aws::{clients, dynamodb::Store, secrets, sns::Sns, sqs::Queue};
use nostr_push_core::{
    app::{App, Content, Platform},
    device::{Device, DeviceId, Registration, Roster, State as DeviceState},
    message::{self, Position},
    mute_list::MuteList,
    order::Order,
    owner::Owner,
    ports::{
        Admission, Apps, ChangeFeed, Claim, Claims, DelayQueue as _, Devices, Endpoints, Ensured,
        IndexReader, IndexWriter, Members, MuteLists, Outcome, OwnerSettings, Presences, Publisher,
        Push, Queue as _, Rates, Relays, Subscriptions,
    },
    presence::Presence,
    settings::Settings,
    subscription::{State, Subscription},
};
use nostr_push_local::{
    aws::{self, Aws, Ports, STACK},
    tools::Tools,
};
use serde_json::{Value, json};

/// One endpoint for all of them: it takes a second to start, and must be stopped at the end.
#[tokio::test(flavor = "multi_thread")]
async fn the_adapters_keep_their_guarantees() {
    let tools = Tools::install().await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let aws = Aws::start(&tools, data.path(), Ports::ANY).await.unwrap();
    aws::create_tables(&tools, &aws.environment())
        .await
        .unwrap();
    let environment = aws.environment();
    let config = clients::at(&environment, "AWS_ENDPOINT_URL").await;
    let store = Store::new(&config, STACK);

    an_app_is_read_as_it_was_written(&store).await;
    devices_are_written_whole_and_only_if_unchanged(&store).await;
    the_newest_subscription_wins(&store).await;
    the_index_is_paged_and_keeps_newer_rows(&store).await;
    presence_is_monotonic(&store).await;
    the_newest_settings_win(&store).await;
    the_newest_mute_list_wins(&store).await;
    a_minute_admits_so_many_however_they_race(&store).await;
    cursors_grow_and_members_come_and_go(&store).await;
    a_claim_has_one_holder(&store).await;
    a_queue_takes_everything_it_is_given(&environment).await;
    a_queue_holds_a_message_back(&environment).await;
    endpoints_are_found_enabled_and_deleted(&environment).await;
    a_secret_that_is_no_key_is_not_told(&environment).await;
    aws.stop().await;
}

fn owner() -> Owner {
    Owner {
        app: "demo".to_owned(),
        pubkey: Keys::generate().public_key(),
    }
}

fn order(created_at: u64, id: u8) -> Order {
    Order {
        created_at,
        event_id: EventId::from_byte_array([id; 32]),
    }
}

async fn an_app_is_read_as_it_was_written(store: &Store) {
    let app = App {
        app: "demo".to_owned(),
        platforms: BTreeMap::from([(Platform::ApnsSandbox, "arn".to_owned())]),
        triggers: vec![json!({"kinds": [1], "#p": ["$owner"]})],
        allow_broad_filters: true,
        presence_timeout: Some(20),
        default_kinds: Some(vec![1]),
        contacts_only: true,
        token_prefixes: vec!["com.example.app".to_owned()],
        content: Content::Minimal,
        localized: true,
        max_pushes: Some(5),
        max_mentions: Some(20),
    };
    store.put_app(&app).await.unwrap();
    assert_eq!(store.app("demo").await.unwrap(), Some(app.clone()));
    assert_eq!(store.app("nobody's").await.unwrap(), None);
    assert_eq!(store.all_apps().await.unwrap(), [app]);
}

async fn devices_are_written_whole_and_only_if_unchanged(store: &Store) {
    let owner = owner();
    let id = DeviceId {
        app: "demo".to_owned(),
        token_hash: "ab".repeat(32),
    };
    let registration = Registration {
        owner: owner.clone(),
        order: order(5, 1),
        platform: Platform::Fcm,
        by_settings: true,
        registered_at: 4,
        max_mentions: Some(10),
        taken_from: Some(self::owner()),
        endpoint_arn: Some("arn".to_owned()),
        state: DeviceState::Removing { until: 9 },
        valid_until: 10,
    };
    let device = Device {
        id: id.clone(),
        registration: Some(registration),
        removals: BTreeMap::from([("cd".repeat(32), order(3, 2))]),
        expires_at: 11,
        version: 0,
    };
    let roster = Roster {
        devices: BTreeSet::from([id.token_hash.clone()]),
        removed_all: Some(order(2, 3)),
        ..Roster::new(owner.clone())
    };
    assert!(store.commit(Some(&device), Some(&roster)).await.unwrap());
    let (stored, stored_roster) = (
        Device {
            version: 1,
            ..device.clone()
        },
        Roster {
            version: 1,
            ..roster.clone()
        },
    );
    assert_eq!(
        store
            .devices(&[
                id.clone(),
                DeviceId {
                    token_hash: "none".to_owned(),
                    ..id.clone()
                }
            ])
            .await
            .unwrap(),
        std::slice::from_ref(&stored)
    );
    assert_eq!(
        store.roster(&owner).await.unwrap(),
        Some(stored_roster.clone())
    );
    assert_eq!(
        store.device_of_endpoint("arn").await.unwrap(),
        Some(id.clone())
    );
    assert_eq!(store.device_of_endpoint("another").await.unwrap(), None);
    assert_eq!(store.roster(&self::owner()).await.unwrap(), None);

    // One of two is stale: neither is written.
    assert!(
        !store
            .commit(
                Some(&Device {
                    expires_at: 99,
                    ..stored.clone()
                }),
                Some(&roster)
            )
            .await
            .unwrap()
    );
    assert_eq!(
        store.devices(std::slice::from_ref(&id)).await.unwrap(),
        std::slice::from_ref(&stored)
    );
    // Two writers racing: one wins.
    let (a, b) = (
        Device {
            expires_at: 20,
            ..stored.clone()
        },
        Device {
            expires_at: 21,
            ..stored.clone()
        },
    );
    let (a, b) = tokio::join!(store.commit(Some(&a), None), store.commit(Some(&b), None));
    assert_ne!(a.unwrap(), b.unwrap());
    assert_eq!(store.devices(&[id]).await.unwrap()[0].version, 2);
}

fn subscription(owner: &Owner, filter: &Value, order: Order) -> Subscription {
    Subscription {
        order,
        changed_at: order.created_at * 1000,
        ..nostr_push_testkit::subscription(owner, filter)
    }
}

async fn the_newest_subscription_wins(store: &Store) {
    let owner = owner();
    let filter = json!({"kinds": [1], "#t": ["é", "#"]});
    let (old, new) = (
        subscription(&owner, &filter, order(1, 5)),
        subscription(&owner, &filter, order(2, 5)),
    );
    assert!(store.put(&new).await.unwrap());
    assert!(!store.put(&old).await.unwrap(), "an older one does not win");
    assert!(!store.put(&new).await.unwrap(), "nor the same");
    let tie = Subscription {
        state: State::Removed,
        ..subscription(&owner, &filter, order(2, 4))
    };
    assert!(store.put(&tie).await.unwrap(), "on a tie the smaller id");
    assert_eq!(
        store.of_owner(&owner).await.unwrap(),
        std::slice::from_ref(&tie)
    );
    assert_eq!(
        store
            .get(&[
                (owner.clone(), tie.subscription.clone()),
                (owner.clone(), "none".to_owned())
            ])
            .await
            .unwrap(),
        [tie]
    );

    let many: Vec<Subscription> = (0..120u16)
        .map(|n| subscription(&owner, &json!({"#t": [n.to_string()]}), order(3, 1)))
        .collect();
    for row in &many {
        assert!(store.put(row).await.unwrap());
    }
    let ids: Vec<_> = many
        .iter()
        .map(|row| (owner.clone(), row.subscription.clone()))
        .collect();
    assert_eq!(
        store.get(&ids).await.unwrap().len(),
        120,
        "more than one batch"
    );
    let (a, b) = (
        subscription(&owner, &json!({"#t": ["0"]}), order(4, 1)),
        subscription(&owner, &json!({"#t": ["0"]}), order(4, 2)),
    );
    let _ = tokio::join!(store.put(&a), store.put(&b));
    assert_eq!(
        store
            .get(&[(owner.clone(), a.subscription.clone())])
            .await
            .unwrap(),
        std::slice::from_ref(&a),
        "racing or not"
    );

    let mine = |rows: Vec<Subscription>| rows.into_iter().filter(|row| row.owner == owner).count();
    assert_eq!(mine(changes(store, 0).await), 121);
    assert_eq!(mine(changes(store, 3_000).await), 120);
    assert_eq!(
        changes(store, 3_001)
            .await
            .into_iter()
            .filter(|row| row.owner == owner)
            .collect::<Vec<_>>(),
        [a]
    );
}

async fn changes(store: &Store, since: u64) -> Vec<Subscription> {
    let mut rows = Vec::new();
    store.changes(since, |row| rows.push(row)).await.unwrap();
    rows
}

async fn the_newest_mute_list_wins(store: &Store) {
    let keys = Keys::generate();
    let list = |at, word: &str| {
        MuteList::of(
            &nostr_push_testkit::event(&keys, 10_000, at, &[&["word", word]], ""),
            10,
        )
    };
    assert_eq!(store.mute_list(&keys.public_key()).await.unwrap(), None);
    assert!(store.put_mute_list(&list(2, "new")).await.unwrap());
    assert!(!store.put_mute_list(&list(1, "old")).await.unwrap());
    assert_eq!(
        store.mute_list(&keys.public_key()).await.unwrap(),
        Some(list(2, "new"))
    );
    // A list that mutes nobody any more.
    let empty = MuteList::of(&nostr_push_testkit::event(&keys, 10_000, 3, &[], ""), 10);
    assert!(store.put_mute_list(&empty).await.unwrap());
    assert_eq!(
        store.mute_list(&keys.public_key()).await.unwrap(),
        Some(empty)
    );
}

async fn a_minute_admits_so_many_however_they_race(store: &Store) {
    let owner = owner();
    let event = |n: u8| EventId::from_byte_array([n; 32]);
    let admit = async |n| store.admit(&owner, 60, &event(n), 5).await.unwrap();
    let answers = join_all((0..20).map(admit)).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| **answer == Admission::Admitted)
            .count(),
        5
    );
    let admitted = answers
        .iter()
        .position(|answer| *answer == Admission::Admitted)
        .unwrap();
    assert_eq!(
        admit(u8::try_from(admitted).unwrap()).await,
        Admission::Admitted,
        "the same once more"
    );
    assert_eq!(admit(99).await, Admission::Full { first: true });
    join_all((0..3).map(|_| store.overflow(&owner, 60)))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    assert_eq!(admit(99).await, Admission::Full { first: false });
    assert_eq!(store.overflowed(&owner, 60).await.unwrap(), 3);
    assert_eq!(store.overflowed(&owner, 120).await.unwrap(), 0);
    assert_eq!(
        store.admit(&owner, 120, &event(99), 5).await.unwrap(),
        Admission::Admitted,
        "another minute"
    );
}

async fn cursors_grow_and_members_come_and_go(store: &Store) {
    assert_eq!(store.cursor("wss://r").await.unwrap(), None);
    store.checkpoint("wss://r", 100, "", 100).await.unwrap();
    store.checkpoint("wss://r", 90, "late", 100).await.unwrap();
    assert_eq!(store.cursor("wss://r").await.unwrap(), Some(100));
    assert_eq!(store.join("a", 100, 130).await.unwrap(), ["a"]);
    assert_eq!(store.join("b", 110, 140).await.unwrap(), ["a", "b"]);
    assert_eq!(
        store.join("b", 131, 160).await.unwrap(),
        ["b"],
        "a's lease is over"
    );
    assert_eq!(
        store.join("a", 140, 170).await.unwrap(),
        ["a", "b"],
        "and a is back"
    );
    store.leave("b").await.unwrap();
    assert_eq!(store.join("a", 141, 171).await.unwrap(), ["a"]);
    assert_eq!(store.join("c", 10_000, 10_030).await.unwrap(), ["c"]);
    store.leave("c").await.unwrap();
}

async fn the_index_is_paged_and_keeps_newer_rows(store: &Store) {
    let row = |order| subscription(&owner(), &json!({"#t": ["paged"]}), order);
    let rows: Vec<Subscription> = (0..1_100).map(|_| row(order(5, 5))).collect();
    store
        .put_index(rows.iter().flat_map(Subscription::index_rows).collect())
        .await
        .unwrap();
    let key = rows[0].filter.index_keys().remove(0);
    let (mut found, mut after, mut pages) = (BTreeSet::new(), None, 0);
    loop {
        let page = store.page(&key, after.as_deref()).await.unwrap();
        pages += 1;
        found.extend(
            page.rows
                .iter()
                .map(nostr_push_core::subscription::IndexRow::sort_key),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((found.len(), pages), (1_100, 3));

    let one = subscription(&owner(), &json!({"#t": ["guarded"]}), order(5, 5));
    let index = |order| {
        Subscription {
            order,
            ..one.clone()
        }
        .index_rows()
        .collect::<Vec<_>>()
    };
    let key = one.filter.index_keys().remove(0);
    let stored = async || {
        store
            .page(&key, None)
            .await
            .unwrap()
            .rows
            .first()
            .map(|row| row.order)
    };
    store.put_index(index(order(5, 5))).await.unwrap();
    store.put_index(index(order(4, 1))).await.unwrap();
    assert_eq!(
        stored().await,
        Some(order(5, 5)),
        "an older one does not overwrite"
    );
    store
        .delete_index(index(order(4, 1)), order(4, 1))
        .await
        .unwrap();
    assert_eq!(stored().await, Some(order(5, 5)), "nor delete");
    store
        .delete_index(index(order(5, 5)), order(5, 5))
        .await
        .unwrap();
    assert_eq!(stored().await, None);

    let large: Vec<String> = (0..60).map(|n| format!("{n:0>30}")).collect();
    let large = subscription(
        &owner(),
        &json!({"#t": ["large"], "#h": large}),
        order(1, 1),
    );
    store.put_index(large.index_rows().collect()).await.unwrap();
    let page = store
        .page(&large.filter.index_keys()[0], None)
        .await
        .unwrap();
    assert_eq!(
        (page.rows.len(), page.rows[0].filter.clone()),
        (1, None),
        "a large filter stands elsewhere"
    );
}

async fn presence_is_monotonic(store: &Store) {
    let owner = owner();
    let sign = |at, id, online| Presence {
        order: order(at, id),
        online,
        last_seen: at - 1,
        awaited: false,
    };
    assert_eq!(store.presence(&owner).await.unwrap(), None);
    assert!(
        store
            .put_presence(&owner, &sign(5, 5, true), 9)
            .await
            .unwrap()
    );
    assert!(
        !store
            .put_presence(&owner, &sign(4, 1, false), 9)
            .await
            .unwrap(),
        "an older one does not win"
    );
    assert!(
        store
            .put_presence(&owner, &sign(5, 4, false), 9)
            .await
            .unwrap(),
        "on a tie the smaller id"
    );
    assert!(
        !store.await_presence(&owner, &order(5, 5)).await.unwrap(),
        "it has changed"
    );
    assert_eq!(
        store.presence(&owner).await.unwrap(),
        Some(sign(5, 4, false))
    );
    assert!(store.await_presence(&owner, &order(5, 4)).await.unwrap());
    assert_eq!(
        store.presence(&owner).await.unwrap(),
        Some(Presence {
            awaited: true,
            ..sign(5, 4, false)
        })
    );
    assert!(
        !store
            .await_presence(&self::owner(), &order(5, 4))
            .await
            .unwrap(),
        "nobody's is not made"
    );
    assert!(
        store
            .put_presence(&owner, &sign(6, 1, true), 9)
            .await
            .unwrap()
    );
    assert_eq!(
        store.presence(&owner).await.unwrap(),
        Some(sign(6, 1, true)),
        "the next sign of life takes the mark away"
    );
}

async fn the_newest_settings_win(store: &Store) {
    let owner = owner();
    let old = Settings::none(owner.clone(), order(5, 5));
    let new = Settings {
        kinds: None,
        p: vec!["ab".repeat(32)],
        e: vec!["é".to_owned()],
        authors: Some(vec!["cd".repeat(32)]),
        relays: vec!["wss://relay".to_owned()],
        token_hash: Some("hash".to_owned()),
        ..Settings::none(owner.clone(), order(6, 1))
    };
    assert_eq!(store.settings(&owner).await.unwrap(), None);
    assert!(store.put_settings(&new).await.unwrap());
    assert!(!store.put_settings(&old).await.unwrap());
    assert_eq!(store.settings(&owner).await.unwrap(), Some(new));
    let racing: Vec<Settings> = (0..4)
        .map(|id| Settings::none(owner.clone(), order(7, id)))
        .collect();
    futures_util::future::join_all(racing.iter().map(|settings| store.put_settings(settings)))
        .await;
    assert_eq!(
        store.settings(&owner).await.unwrap().as_ref(),
        Some(&racing[0]),
        "racing or not"
    );
}

async fn a_claim_has_one_holder(store: &Store) {
    let acquired = |done: &[&str]| Claim::Acquired(done.iter().map(|d| (*d).to_owned()).collect());
    assert_eq!(
        store.acquire("c", "a", 1_000, 2_000).await.unwrap(),
        acquired(&[])
    );
    assert_eq!(
        store.acquire("c", "b", 1_500, 2_500).await.unwrap(),
        Claim::Held(2_000)
    );
    assert!(store.done("c", "a", "device").await.unwrap());
    assert_eq!(
        store.acquire("c", "b", 2_000, 3_000).await.unwrap(),
        acquired(&["device"]),
        "the lease is over"
    );
    assert!(
        !store.done("c", "a", "other").await.unwrap(),
        "no longer its holder"
    );
    store.release("c", "a", true).await.unwrap();
    store.release("c", "b", false).await.unwrap();
    assert_eq!(
        store.acquire("c", "c", 2_100, 3_100).await.unwrap(),
        acquired(&["device"]),
        "released, not completed"
    );
    store.release("c", "c", true).await.unwrap();
    assert_eq!(
        store.acquire("c", "d", 9_000, 9_900).await.unwrap(),
        Claim::Completed
    );

    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let racing = futures_util::future::join_all(
        names
            .iter()
            .map(|name| store.acquire("raced", name, 1_000, 2_000)),
    )
    .await;
    assert_eq!(
        racing
            .into_iter()
            .filter(|claim| matches!(claim, Ok(Claim::Acquired(_))))
            .count(),
        1
    );
}

async fn a_queue_takes_everything_it_is_given(environment: &HashMap<String, String>) {
    let config = clients::at(environment, "AWS_ENDPOINT_URL").await;
    let sqs = aws_sdk_sqs::Client::new(&config);
    let url = sqs
        .create_queue()
        .queue_name("taken")
        .send()
        .await
        .unwrap()
        .queue_url
        .unwrap();
    let sent: Vec<Position> = (0..25)
        .map(|hit| Position {
            hit,
            after: Some("x".repeat(60_000)),
        })
        .collect();
    Queue::new(&config, url.clone()).send(&sent).await.unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let answer = sqs
            .receive_message()
            .queue_url(&url)
            .max_number_of_messages(10)
            .visibility_timeout(600)
            .send()
            .await
            .unwrap();
        let messages = answer.messages.unwrap_or_default();
        assert!(
            !messages.is_empty(),
            "{} of {} messages came",
            received.len(),
            sent.len()
        );
        received.extend(
            messages
                .iter()
                .map(|m| message::decode::<Position>(m.body().unwrap()).unwrap()),
        );
    }
    received.sort_by_key(|position| position.hit);
    assert_eq!(received, sent);
    let gone = Queue::<Position>::new(&config, url.replace("taken", "missing"));
    assert_eq!(
        gone.send(&sent[..1]).await.unwrap_err().dependency,
        "sqs.send_message_batch"
    );
}

async fn a_queue_holds_a_message_back(environment: &HashMap<String, String>) {
    let config = clients::at(environment, "AWS_ENDPOINT_URL").await;
    let sqs = aws_sdk_sqs::Client::new(&config);
    let url = sqs
        .create_queue()
        .queue_name("delayed")
        .send()
        .await
        .unwrap()
        .queue_url
        .unwrap();
    let sent = Position {
        hit: 1,
        after: None,
    };
    let started = std::time::Instant::now();
    Queue::new(&config, url.clone())
        .send_after(&sent, Duration::from_secs(3))
        .await
        .unwrap();
    loop {
        let received = sqs
            .receive_message()
            .queue_url(&url)
            .wait_time_seconds(1)
            .send()
            .await
            .unwrap();
        if let Some(message) = received.messages.unwrap_or_default().first() {
            assert_eq!(
                message::decode::<Position>(message.body().unwrap()).unwrap(),
                sent
            );
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "it never comes"
        );
    }
    assert!(
        started.elapsed() >= Duration::from_secs(2),
        "it came at once"
    );
}

async fn endpoints_are_found_enabled_and_deleted(environment: &HashMap<String, String>) {
    let app = aws::put_app(environment, App::named("endpoints"), &[Platform::Fcm])
        .await
        .unwrap();
    let config = clients::at(environment, "AWS_ENDPOINT_URL_SNS").await;
    let (sns, client) = (Sns::new(&config), aws_sdk_sns::Client::new(&config));
    let platform = &app.platforms[&Platform::Fcm];
    let push = Push {
        message: json!({"default": "x", "GCM": "{}"}).to_string(),
        attributes: vec![("AWS.SNS.MOBILE.FCM.TTL", "5".to_owned())],
    };
    let ensure = async |token: &str| match sns.ensure(platform, token).await.unwrap() {
        Ensured::Endpoint(arn) => arn,
        Ensured::BadToken => panic!("refused"),
    };
    let arn = ensure("token").await;
    assert_eq!(ensure("token").await, arn);
    assert_eq!(sns.publish(&arn, &push).await, Outcome::Delivered);

    // What an uninstalled app looks like; and its registering again.
    client
        .set_endpoint_attributes()
        .endpoint_arn(&arn)
        .attributes("Enabled", "false")
        .send()
        .await
        .unwrap();
    assert_eq!(sns.publish(&arn, &push).await, Outcome::Gone);
    assert!(!sns.is_enabled(&arn).await.unwrap());
    assert_eq!(ensure("token").await, arn);
    assert!(sns.is_enabled(&arn).await.unwrap());
    let attributes = client
        .get_endpoint_attributes()
        .endpoint_arn(&arn)
        .send()
        .await
        .unwrap()
        .attributes
        .unwrap();
    assert_eq!(attributes["Enabled"], "true");

    // "already exists with the same Token, but different attributes".
    let other = client
        .create_platform_endpoint()
        .platform_application_arn(platform)
        .token("other")
        .custom_user_data("another program's")
        .send()
        .await;
    assert_eq!(ensure("other").await, other.unwrap().endpoint_arn.unwrap());

    sns.delete(&arn).await.unwrap();
    sns.delete(&arn).await.unwrap();
    assert!(!sns.is_enabled(&arn).await.unwrap());
    assert_eq!(sns.publish(&arn, &push).await, Outcome::Gone);
    assert_ne!(ensure("token").await, arn, "a new endpoint");

    let nobody = clients::at(
        &HashMap::from([(
            "AWS_ENDPOINT_URL_SNS".to_owned(),
            "http://127.0.0.1:9".to_owned(),
        )]),
        "AWS_ENDPOINT_URL_SNS",
    )
    .await;
    let started = std::time::Instant::now();
    assert_eq!(
        Sns::new(&nobody).publish(&arn, &push).await,
        Outcome::Retry {
            after: None,
            reason: "no_answer"
        }
    );
    assert!(started.elapsed() < Duration::from_secs(30));
}

async fn a_secret_that_is_no_key_is_not_told(environment: &HashMap<String, String>) {
    let config = clients::at(environment, "AWS_ENDPOINT_URL").await;
    let client = aws_sdk_secretsmanager::Client::new(&config);
    client
        .create_secret()
        .name("no-key")
        .secret_string("hunter2")
        .send()
        .await
        .unwrap();
    let error = secrets::service_key(&config, "no-key")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        !error.contains("hunter2") && error.contains("neither 64 hex"),
        "{error}"
    );
    let keys = Keys::generate();
    client
        .create_secret()
        .name("key")
        .secret_string(keys.secret_key().to_secret_hex())
        .send()
        .await
        .unwrap();
    assert_eq!(
        secrets::service_key(&config, "key")
            .await
            .unwrap()
            .public_key(),
        keys.public_key()
    );
}
