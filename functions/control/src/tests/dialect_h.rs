//! Dialect H (kind 22456): payloads of the field, any order, any crash.

use nostr_push_core::{
    device,
    presence::{DEFAULT_TIMEOUT, Presence},
    subscription::MUTE_LIST,
};
use nostr_push_testkit::dialect_h_event;
use serde::Deserialize;

use super::*;

/// One payload of `dialect_h.json`, and what must come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    what: String,
    plaintext: Value,
    app: Option<String>,
    refused: Option<String>,
    applied: Option<String>,
    online: Option<bool>,
    filters: Option<Vec<Value>>,
    #[serde(default)]
    device: Value,
    relays: Option<Vec<String>>,
}

impl Fixture {
    fn settings(&self, keys: &Keys, at: Seconds, plaintext: &Value) -> Event {
        dialect_h_event(
            keys,
            self.service.public_key(),
            at,
            &[],
            &plaintext.to_string(),
        )
    }

    fn presence(&self, app: &str, keys: &Keys) -> Option<Presence> {
        let owner = Owner {
            app: app.to_owned(),
            pubkey: keys.public_key(),
        };
        self.control.store.state().presences.get(&owner).copied()
    }

    /// The filters in force that ask for pushes, as JSON.
    fn filters(&self) -> BTreeSet<String> {
        let state = self.control.store.state();
        let rows = state
            .subscriptions
            .values()
            .filter(|row| row.is_active(NOW) && !row.subscription.starts_with(MUTE_LIST));
        rows.map(|row| row.filter.to_json()).collect()
    }

    /// The tokens and platform applications that SNS has.
    fn endpoints(&self) -> Vec<(String, String)> {
        self.control
            .sns
            .state()
            .endpoints
            .values()
            .cloned()
            .collect()
    }
}

fn canonical(filters: &[Value], owner: &str) -> BTreeSet<String> {
    let text = json!(filters).to_string().replace("$owner", owner);
    let filters: Vec<Value> = serde_json::from_str(&text).unwrap();
    filters
        .iter()
        .map(|filter| Filter::from_json(filter).unwrap().to_json())
        .collect()
}

#[tokio::test]
async fn payloads_of_the_field_have_their_effect() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("dialect_h.json")).unwrap();
    for Vector {
        what,
        plaintext,
        app,
        refused,
        applied,
        online,
        filters,
        device,
        relays,
    } in vectors
    {
        let f = fixture();
        let keys = Keys::generate();
        let me = keys.public_key().to_hex();
        let app = app.unwrap_or_else(|| "demo".to_owned());
        // What was before must be gone, or stay, as a whole.
        let before = json!({"online": 1, "kinds": [30023], "deviceId": "the-token-before", "#e": ["group-before"]});
        let tags: &[&[&str]] = if app == "demo" {
            &[]
        } else {
            &[&["app", &app]]
        };
        let of = |at, text: &str| dialect_h_event(&keys, f.service.public_key(), at, tags, text);
        f.handle(&of(NOW - 500, &before.to_string())).await.unwrap();
        let (filters_before, endpoints_before) = (f.filters(), f.endpoints());

        let crowd = plaintext["enableMaxMentions"].as_bool().unwrap_or_default();
        let plaintext = plaintext.to_string().replace("$owner", &me);
        assert_eq!(
            f.reason(&of(NOW, &plaintext)).await,
            refused.clone().or(applied).unwrap(),
            "{what}"
        );
        let seen = f.presence(&app, &keys).unwrap();
        match online {
            None => assert_eq!(seen.last_seen, NOW - 500, "presence is left alone: {what}"),
            Some(online) => assert_eq!((seen.last_seen, seen.online), (NOW, online), "{what}"),
        }
        if device.is_object() {
            let devices = f.control.store.state().devices.clone();
            let active = devices
                .values()
                .filter_map(|device| device.registration.as_ref())
                .find(|r| r.state == device::State::Active);
            assert_eq!(active.unwrap().max_mentions, crowd.then_some(10), "{what}");
        }
        let endpoints: Vec<(String, String)> = match (&filters, device.as_object()) {
            (None, _) => endpoints_before,
            (Some(_), None) => Vec::new(),
            (Some(_), Some(device)) => {
                vec![(
                    format!("arn:{app}/{}", device["platform"].as_str().unwrap()),
                    device["token"].as_str().unwrap().to_owned(),
                )]
            }
        };
        assert_eq!(f.endpoints(), endpoints, "{what}");
        assert_eq!(
            f.filters(),
            filters.map_or(filters_before, |filters| canonical(&filters, &me)),
            "{what}"
        );
        assert_eq!(f.index(), f.expected_index(), "{what}");
        if let Some(relays) = relays {
            let owner = Owner {
                app,
                pubkey: keys.public_key(),
            };
            assert_eq!(
                f.control.store.state().settings[&owner].relays,
                relays,
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn every_check_of_dialect_h_has_its_reason() {
    let f = fixture();
    let keys = Keys::generate();
    let p = f.service.public_key().to_hex();
    let beat = json!({"online": 1});
    let with = |tags: &[&[&str]]| {
        dialect_h_event(&keys, f.service.public_key(), NOW, tags, &beat.to_string())
    };
    let raw = |content: &str| event(&keys, 22456, NOW, &[&["p", &p]], content);

    assert_eq!(
        f.reason(&f.settings(&keys, NOW - 15 * 60 - 1, &beat)).await,
        "stale"
    );
    assert_eq!(
        f.reason(&f.settings(&keys, NOW + 15 * 60 + 1, &beat)).await,
        "from_future"
    );
    assert_eq!(
        f.reason(&with(&[&["app", "demo"], &["app", "other"]]))
            .await,
        "missing_app"
    );
    assert_eq!(
        f.reason(&with(&[&["app", "nobody's"]])).await,
        "unknown_app"
    );
    assert_eq!(
        f.reason(&dialect_h_event(
            &keys,
            Keys::generate().public_key(),
            NOW,
            &[],
            "{}"
        ))
        .await,
        "not_for_us"
    );
    // An external signer that failed leaves nothing, or what it was given.
    let block = "AAAAAAAAAAAAAAAAAAAAAA==";
    for plain in [
        "",
        r#"{"online":1}"#,
        "?iv=",
        &format!("?iv={block}"),
        &format!("AAAA?iv={block}"),
        &format!("{block}?iv=AAAA"),
    ] {
        assert_eq!(f.reason(&raw(plain)).await, "not_encrypted", "{plain}");
    }
    assert_eq!(
        f.reason(&raw(&format!("{block}?iv={block}"))).await,
        "undecryptable"
    );
    assert_eq!(
        f.reason(&f.settings(&keys, NOW, &json!([1]))).await,
        "bad_payload"
    );
    // NIP-04 is for this dialect alone.
    let content = f.settings(&keys, NOW, &token(1)).content;
    let soon = (NOW + DAY).to_string();
    assert_eq!(
        f.reason(&event(
            &keys,
            3079,
            NOW,
            &[&["p", &p], &["app", "demo"], &["expiration", &soon]],
            &content
        ))
        .await,
        "not_encrypted"
    );
    assert!(f.control.store.state().presences.is_empty());

    // NIP-44 does as well, whatever the expiration says to relays.
    let nip44 = f.event(
        &keys,
        22456,
        NOW,
        &[&["expiration", &NOW.to_string()]],
        &beat,
    );
    assert_eq!(f.reason(&nip44).await, "heartbeat");
    // An app tag wins over the operator's heartbeat app, and without one nobody is meant.
    assert_eq!(f.reason(&with(&[&["app", "other"]])).await, "heartbeat");
    assert!(f.presence("other", &keys).is_some());
    let none = Fixture {
        control: Control {
            heartbeat_app: None,
            ..f.control
        },
        service: f.service,
    };
    assert_eq!(
        none.reason(&none.settings(&keys, NOW, &beat)).await,
        "missing_app"
    );
}

#[tokio::test]
async fn a_refused_token_leaves_the_earlier_settings_and_counts_as_no_heartbeat() {
    let f = fixture();
    let keys = Keys::generate();
    f.handle(&f.settings(&keys, NOW, &json!({"deviceId": "token-1", "kinds": [1]})))
        .await
        .unwrap();
    let before = f.filters();
    assert_eq!(
        f.reason(&f.settings(
            &keys,
            NOW + 1,
            &json!({"online": 1, "deviceId": "bad", "kinds": [7]})
        ))
        .await,
        "bad_token"
    );
    assert_eq!((f.filters(), f.active(&["token-1"]).len()), (before, 1));
    assert_eq!(f.presence("demo", &keys), None);
}

#[tokio::test]
async fn settings_touch_neither_what_dialect_n_registered_nor_another_app() {
    let f = fixture();
    let keys = Keys::generate();
    f.handle(&f.demo(&keys, 3079, NOW, &token(1)))
        .await
        .unwrap();
    f.handle(&f.demo(&keys, 3081, NOW, &mentions(&keys)))
        .await
        .unwrap();
    f.handle(&f.in_app("other", &keys, 3079, NOW, &token(2)))
        .await
        .unwrap();
    let before = f.filters();
    f.handle(&f.settings(
        &keys,
        NOW + 1,
        &json!({"online": 1, "deviceId": "token-3", "kinds": [6]}),
    ))
    .await
    .unwrap();
    assert_eq!(f.active(&["token-1", "token-2", "token-3"]).len(), 3);
    f.handle(&f.settings(&keys, NOW + 2, &json!({"online": 0, "deviceId": ""})))
        .await
        .unwrap();
    assert_eq!(f.active(&["token-1", "token-2", "token-3"]).len(), 2);
    assert_eq!(f.filters(), before);
    assert_eq!(f.presence("other", &keys), None);
}

#[tokio::test]
async fn settings_bring_no_fixed_triggers_so_that_off_is_off() {
    let f = fixture();
    let keys = Keys::generate();
    let off = dialect_h_event(
        &keys,
        f.service.public_key(),
        NOW,
        &[&["app", "triggered"]],
        &json!({"deviceId": "t", "kinds": []}).to_string(),
    );
    f.handle(&off).await.unwrap();
    assert_eq!(f.active(&["t"]).len(), 1);
    assert!(f.filters().is_empty());
}

#[tokio::test]
async fn a_token_that_another_owner_configures_changes_hands() {
    let f = fixture();
    let (alice, bob) = (Keys::generate(), Keys::generate());
    f.handle(&f.settings(&alice, NOW, &json!({"deviceId": "t", "kinds": [1]})))
        .await
        .unwrap();
    f.handle(&f.settings(&bob, NOW + 1, &json!({"deviceId": "t", "kinds": [1]})))
        .await
        .unwrap();
    assert_eq!(
        f.active(&["t"]).into_values().collect::<Vec<_>>(),
        [bob.public_key().to_hex()]
    );
    // Alice's logout, late, does not take Bob's token away.
    f.handle(&f.settings(&alice, NOW + 2, &json!({"online": 0, "deviceId": ""})))
        .await
        .unwrap();
    assert_eq!(
        f.active(&["t"]).into_values().collect::<Vec<_>>(),
        [bob.public_key().to_hex()]
    );
}

#[tokio::test]
async fn settings_end_after_90_days_unless_renewed() {
    let f = fixture();
    let keys = Keys::generate();
    let ends = || {
        f.subscriptions()
            .into_iter()
            .map(|(_, _, end)| end - NOW)
            .collect::<Vec<_>>()
    };
    f.handle(&f.settings(&keys, NOW, &json!({"deviceId": "t", "kinds": [1]})))
        .await
        .unwrap();
    // The filter, and the owner's mute list.
    assert_eq!(ends(), [90 * DAY; 2]);
    f.handle(&f.settings(&keys, NOW + 60, &json!({"deviceId": "t", "kinds": [1]})))
        .await
        .unwrap();
    assert_eq!(ends(), [90 * DAY + 60; 2]);
}

#[tokio::test]
async fn a_heartbeat_costs_one_read_and_a_write_only_when_it_matters() {
    let f = fixture();
    let keys = Keys::generate();
    let mut reasons = BTreeMap::new();
    for minute in 0..60 {
        let at = NOW + 60 * minute;
        let beat = f.settings(&keys, at, &json!({"online": 1}));
        *reasons
            .entry(f.handle_at(&beat, at).await.unwrap().reason())
            .or_insert(0) += 1;
    }
    assert_eq!(
        reasons,
        BTreeMap::from([("heartbeat", 30), ("heartbeat_unwritten", 30)])
    );
    assert_eq!(f.control.store.state().presence_reads_and_writes, (60, 30));
}

#[tokio::test]
async fn what_was_received_in_time_is_applied_however_long_it_waits() {
    let f = fixture();
    let keys = Keys::generate();
    let event = f.settings(&keys, NOW, &json!({"deviceId": "t", "kinds": [1]}));
    let received = |at: Seconds| message::Control {
        relay: "wss://relay".to_owned(),
        received_at: at * 1000,
        event: to_raw_value(&event).unwrap(),
    };
    let hours_later = (NOW + 5 * 60 * 60) * 1000;
    assert!(
        f.control
            .handle(&received(NOW + 16 * 60), hours_later)
            .await
            .is_err(),
        "a relay sent it too late"
    );
    assert_eq!(
        f.control
            .handle(&received(NOW + 1), hours_later)
            .await
            .unwrap(),
        Applied::Configured
    );
}

#[tokio::test]
async fn a_heartbeat_that_comes_late_or_twice_changes_nothing() {
    let f = fixture();
    let keys = Keys::generate();
    let (beat, away) = (
        f.settings(&keys, NOW, &json!({"online": 1})),
        f.settings(&keys, NOW + 1, &json!({"online": 0})),
    );
    assert_eq!(f.reason(&away).await, "offline");
    assert_eq!(f.reason(&beat).await, "superseded");
    assert_eq!(f.reason(&away).await, "repeated");
    assert!(!f.presence("demo", &keys).unwrap().online);
}

/// Payloads that settings replace each other with.
fn payloads() -> [Value; 6] {
    [
        json!({"deviceId": TOKENS[0], "kinds": [1], "#e": ["a"]}),
        json!({"deviceId": TOKENS[1], "kinds": [1, 7], "#e": ["b"], "online": 1}),
        json!({"deviceId": TOKENS[0], "kinds": [], "online": 0}),
        json!({"deviceId": "", "kinds": [6]}),
        json!({"deviceId": TOKENS[2], "kinds": [1], "#e": ["a", "b"]}),
        json!({"online": 0, "deviceId": ""}),
    ]
}

/// The tokens and filters in force when the latest of these events has been applied alone.
async fn alone(f: &Fixture, history: &[Event]) -> (BTreeSet<String>, BTreeSet<String>) {
    let latest = history
        .iter()
        .reduce(|a, b| {
            if Order::of(b).supersedes(&Order::of(a)) {
                b
            } else {
                a
            }
        })
        .unwrap();
    let other = Fixture {
        control: Control::new(
            f.service.clone(),
            Some("demo".to_owned()),
            Memory::with_apps([demo()]),
            Memory::default(),
        ),
        service: f.service.clone(),
    };
    other.handle(latest).await.unwrap();
    reached(&other)
}

fn demo() -> App {
    app("demo", &[Platform::Apns, Platform::Fcm])
}

fn reached(f: &Fixture) -> (BTreeSet<String>, BTreeSet<String>) {
    (
        f.active(&TOKENS)
            .into_keys()
            .map(|(_, token)| token)
            .collect(),
        f.filters(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_latest_settings_hold_in_any_order_and_with_repeats(
        steps in prop::collection::vec((0..6usize, 0..4u64), 1..8),
        order in prop::collection::vec(0..8usize, 0..8),
    ) {
        let f = fixture();
        let keys = Keys::generate();
        let history: Vec<Event> = steps.iter().map(|(n, at)| f.settings(&keys, NOW + at, &payloads()[*n])).collect();
        runtime().block_on(async {
            // Some first, in any order, and then all of them.
            let first = order.iter().filter_map(|n| history.get(*n));
            let mut stored: Option<Order> = None;
            for event in first.chain(history.iter().rev()) {
                f.handle(event).await.unwrap();
                let now = f.presence("demo", &keys).map(|presence| presence.order);
                assert!(stored.is_none_or(|stored| now == Some(stored) || now.is_some_and(|now| now.supersedes(&stored))));
                stored = now;
            }
            assert_eq!(reached(&f), alone(&f, &history).await);
        });
        prop_assert_eq!(f.index(), f.expected_index());
        prop_assert_eq!(f.endpoints().len(), reached(&f).0.len());
    }

    #[test]
    fn a_crash_among_settings_is_mended_by_the_redelivery(
        steps in prop::collection::vec((0..6usize, 0..4u64), 1..5),
        crash in 0..60usize,
        after_effect: bool,
        in_sns: bool,
    ) {
        let f = fixture();
        let keys = Keys::generate();
        let history: Vec<Event> = steps.iter().map(|(n, at)| f.settings(&keys, NOW + at, &payloads()[*n])).collect();
        {
            let mut state = if in_sns { f.control.sns.state() } else { f.control.store.state() };
            state.fail_in = Some(if in_sns { crash % 4 } else { crash });
            state.fail_after_effect = after_effect;
        }
        runtime().block_on(async {
            // What fails comes again behind the others, and at the latest when the lease of a
            // removal is over.
            let mut queue: std::collections::VecDeque<(Event, u64)> = history.iter().map(|event| (event.clone(), 0)).collect();
            while let Some((event, tries)) = queue.pop_front() {
                assert!(tries < 5, "an event keeps failing");
                if f.handle_at(&event, NOW + 10 + tries * (device::REMOVING_LEASE + 1)).await.is_err() {
                    queue.push_back((event, tries + 1));
                }
            }
            assert_eq!(reached(&f), alone(&f, &history).await);
        });
        prop_assert_eq!(f.index(), f.expected_index());
        // A crash right after SNS made an endpoint can leave one that no row names; nothing is ever
        // published to it.
        prop_assert!(f.endpoints().len() >= reached(&f).0.len());
    }
}

#[test]
fn the_default_timeout_is_above_the_slowest_known_heartbeat() {
    assert_eq!(
        fixture().control.store.state().apps["demo"].presence_timeout(),
        DEFAULT_TIMEOUT
    );
    const { assert!(DEFAULT_TIMEOUT > 180) };
}
