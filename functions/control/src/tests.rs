//! The stage as a whole, on the ports in memory: each reason, each payload seen in the field, any
//! order, any crash.

mod dialect_h;

use std::collections::{BTreeMap, BTreeSet};

use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    DAY, Seconds,
    app::{App, Platform},
    device::{self, State},
    filter::{Filter, MAX_TAG_VALUE},
    message,
    order::Order,
    owner::Owner,
    subscription::{MAX_SUBSCRIPTIONS, MUTE_LIST, TRIGGER},
};
use nostr_push_testkit::{control_event, event, memory::Memory};
use proptest::{prelude::*, sample::subsequence};
use serde_json::{Value, json, value::to_raw_value};

use crate::handler::{Applied, Control, Failure};

const NOW: Seconds = 1_800_000_000;

struct Fixture {
    control: Control<Memory, Memory>,
    service: Keys,
}

fn app(name: &str, platforms: &[Platform]) -> App {
    App {
        app: name.to_owned(),
        platforms: platforms
            .iter()
            .map(|p| (*p, format!("arn:{name}/{}", p.as_str())))
            .collect(),
        ..App::default()
    }
}

fn fixture() -> Fixture {
    let apps = [
        App {
            token_prefixes: vec!["com.oxchat.nostr".to_owned()],
            ..app("demo", &[Platform::Apns, Platform::Fcm])
        },
        app("other", &[Platform::Fcm]),
        App {
            contacts_only: true,
            token_prefixes: vec!["com.oxchat.nostr".to_owned()],
            ..app("contacts", &[Platform::Apns, Platform::Fcm])
        },
        App {
            allow_broad_filters: true,
            ..app("broad", &[Platform::Fcm])
        },
        App {
            triggers: vec![json!({"kinds": [1, 1059], "#p": ["$owner"]})],
            ..app("triggered", &[Platform::Fcm])
        },
    ];
    let service = Keys::generate();
    Fixture {
        control: Control::new(
            service.clone(),
            Some("demo".to_owned()),
            Memory::with_apps(apps),
            Memory::default(),
        ),
        service,
    }
}

impl Fixture {
    fn event(
        &self,
        keys: &Keys,
        kind: u16,
        at: Seconds,
        tags: &[&[&str]],
        plaintext: &Value,
    ) -> Event {
        control_event(
            keys,
            self.service.public_key(),
            kind,
            at,
            tags,
            &plaintext.to_string(),
        )
    }

    fn demo(&self, keys: &Keys, kind: u16, at: Seconds, plaintext: &Value) -> Event {
        self.in_app("demo", keys, kind, at, plaintext)
    }

    fn in_app(&self, app: &str, keys: &Keys, kind: u16, at: Seconds, plaintext: &Value) -> Event {
        self.event(
            keys,
            kind,
            at,
            &[
                &["app", app],
                &["expiration", &(NOW + 30 * DAY).to_string()],
            ],
            plaintext,
        )
    }

    async fn handle_at(&self, event: &Event, now: Seconds) -> Result<Applied, Failure> {
        self.handle_json(&to_raw_value(event).unwrap(), now).await
    }

    async fn handle_json(
        &self,
        event: &serde_json::value::RawValue,
        now: Seconds,
    ) -> Result<Applied, Failure> {
        let message = message::Control {
            relay: "wss://relay".to_owned(),
            received_at: now * 1000,
            event: event.to_owned(),
        };
        self.control.handle(&message, now * 1000).await
    }

    async fn handle(&self, event: &Event) -> Result<Applied, Failure> {
        self.handle_at(event, NOW).await
    }

    async fn reason(&self, event: &Event) -> String {
        match self.handle(event).await {
            Ok(applied) => applied.reason().to_owned(),
            Err(Failure::Refused(refusal)) => refusal.reason().to_owned(),
            Err(Failure::Unavailable(error)) => error.to_string(),
        }
    }

    /// Who owns each token in force, under which app.
    fn active(&self, tokens: &[&str]) -> BTreeMap<(String, String), String> {
        let state = self.control.store.state();
        let mut active = BTreeMap::new();
        for app in state.apps.keys() {
            for token in tokens {
                let id = self.control.hasher.device(app, token);
                if let Some(registration) = state
                    .devices
                    .get(&id)
                    .and_then(|row| row.registration.as_ref())
                    && registration.state == State::Active
                    && registration.valid_until > NOW
                {
                    active.insert(
                        (app.clone(), (*token).to_owned()),
                        registration.owner.pubkey.to_hex(),
                    );
                }
            }
        }
        active
    }

    /// The subscriptions in force: owner, identity, end.
    fn subscriptions(&self) -> BTreeSet<(Owner, String, Seconds)> {
        let state = self.control.store.state();
        state
            .subscriptions
            .values()
            .filter(|row| row.is_active(NOW))
            .map(|row| (row.owner.clone(), row.subscription.clone(), row.valid_until))
            .collect()
    }

    /// The index rows: key, owner, identity.
    fn index(&self) -> BTreeSet<(String, Owner, String)> {
        let state = self.control.store.state();
        state
            .index
            .values()
            .map(|row| {
                (
                    row.index_key.to_string(),
                    row.owner.clone(),
                    row.subscription.clone(),
                )
            })
            .collect()
    }

    /// The index rows that the subscriptions in force should have.
    fn expected_index(&self) -> BTreeSet<(String, Owner, String)> {
        let state = self.control.store.state();
        let active = state
            .subscriptions
            .values()
            .filter(|row| row.is_active(NOW));
        active
            .flat_map(|row| {
                row.index_rows()
                    .map(|i| (i.index_key.to_string(), i.owner, i.subscription))
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

fn token(n: u64) -> Value {
    json!({"token": format!("token-{n}")})
}

fn mentions(keys: &Keys) -> Value {
    json!({"filter": {"kinds": [1, 7], "#p": [keys.public_key().to_hex()]}})
}

#[tokio::test]
async fn every_check_has_its_reason() {
    let f = fixture();
    let keys = Keys::generate();
    let p = f.service.public_key().to_hex();
    let (soon, past) = ((NOW + DAY).to_string(), NOW.to_string());
    let good: &[&[&str]] = &[&["app", "demo"], &["expiration", &soon]];
    let register = |at, tags: &[&[&str]]| f.event(&keys, 3079, at, tags, &token(1));
    let raw = |kind, content: &str| {
        event(
            &keys,
            kind,
            NOW,
            &[&["p", &p], &["app", "demo"], &["expiration", &soon]],
            content,
        )
    };
    let of_payload = |kind, payload: Value| f.event(&keys, kind, NOW, good, &payload);
    let text = |kind, plaintext: &str| {
        control_event(&keys, f.service.public_key(), kind, NOW, good, plaintext)
    };

    let mut forged = register(NOW, good);
    forged.content.push('x');
    assert_eq!(f.reason(&forged).await, "bad_signature");
    assert_eq!(f.reason(&of_payload(3083, token(1))).await, "unknown_kind");
    assert_eq!(
        f.reason(&control_event(
            &keys,
            Keys::generate().public_key(),
            3079,
            NOW,
            good,
            "{}"
        ))
        .await,
        "not_for_us"
    );
    assert_eq!(
        f.reason(&event(&keys, 3079, NOW, good, "")).await,
        "not_for_us"
    );
    assert_eq!(f.reason(&register(NOW - 7 * DAY - 1, good)).await, "stale");
    assert_eq!(
        f.reason(&register(NOW + 15 * 60 + 1, good)).await,
        "from_future"
    );
    assert_eq!(
        f.reason(&register(NOW, &[&["expiration", &soon]])).await,
        "missing_app"
    );
    assert_eq!(
        f.reason(&register(NOW, &[&["app"], &["expiration", &soon]]))
            .await,
        "missing_app"
    );
    assert_eq!(
        f.reason(&register(
            NOW,
            &[&["app", "demo"], &["app", "other"], &["expiration", &soon]]
        ))
        .await,
        "missing_app"
    );
    assert_eq!(
        f.reason(&register(
            NOW,
            &[&["app", "nobody's"], &["expiration", &soon]]
        ))
        .await,
        "unknown_app"
    );
    assert_eq!(
        f.reason(&register(NOW, &[&["app", "demo"]])).await,
        "missing_expiration"
    );
    assert_eq!(
        f.reason(&register(
            NOW,
            &[&["app", "demo"], &["expiration", "tomorrow"]]
        ))
        .await,
        "missing_expiration"
    );
    assert_eq!(
        f.reason(&register(NOW, &[&["app", "demo"], &["expiration", &past]]))
            .await,
        "expired"
    );
    assert_eq!(
        f.reason(&f.event(
            &keys,
            3082,
            NOW,
            &[&["app", "demo"], &["expiration", &past]],
            &mentions(&keys)
        ))
        .await,
        "expired"
    );
    for plain in [
        "",
        "{\"token\":\"t\"}",
        "AgAA",
        "not base64 at all",
        &"A".repeat(64 * 1024),
    ] {
        assert_eq!(
            f.reason(&raw(3079, plain)).await,
            "not_encrypted",
            "{plain:.20}"
        );
    }
    assert_eq!(
        f.reason(&raw(3081, &format!("Ag{}", "A".repeat(64 * 1024 - 2))))
            .await,
        "undecryptable"
    );
    let mut broken_mac = of_payload(3079, token(1)).content;
    broken_mac.replace_range(60..61, if &broken_mac[60..61] == "A" { "B" } else { "A" });
    assert_eq!(f.reason(&raw(3079, &broken_mac)).await, "undecryptable");
    for bad in [
        "",
        "null",
        "[]",
        "[\"t\"]",
        "\"t\"",
        "{",
        "{}",
        "{\"token\":\"\"}",
        "{\"token\":1}",
        "{\"token\":\"t\",\"platform\":\"windows\"}",
        "{\"token\":\"\\ud800\"}",
    ] {
        assert_eq!(
            f.reason(&text(3079, if bad.is_empty() { " " } else { bad }))
                .await,
            "bad_payload",
            "{bad}"
        );
    }
    for bad in [
        json!({}),
        json!({"filter": []}),
        json!({"filters": []}),
        json!({"filter": {"kinds": "1"}}),
        json!({"filter": {"#p": ["x"]}}),
        json!({"filter": {"#t": ["x".repeat(MAX_TAG_VALUE + 1)]}}),
    ] {
        assert_eq!(
            f.reason(&of_payload(3081, bad.clone())).await,
            "bad_payload",
            "{bad}"
        );
        assert_eq!(
            f.reason(&of_payload(3082, bad.clone())).await,
            "bad_payload",
            "{bad}"
        );
    }
    assert_eq!(
        f.reason(&of_payload(3080, json!({"token": 5}))).await,
        "bad_payload"
    );
    assert_eq!(
        f.reason(&of_payload(3081, json!({"filter": {"kinds": [1]}})))
            .await,
        "too_broad"
    );
    assert_eq!(
        f.reason(&of_payload(3081, json!({"filter": {}}))).await,
        "too_broad"
    );
    assert_eq!(
        f.reason(&of_payload(
            3079,
            json!({"token": "t", "platform": "apns_sandbox"})
        ))
        .await,
        "unsupported_platform"
    );
    assert_eq!(
        f.reason(&of_payload(3079, json!({"token": "x".repeat(4097)})))
            .await,
        "over_quota"
    );
    let keys_1001: Vec<String> = (0..1001).map(|n| format!("tag-{n}")).collect();
    assert_eq!(
        f.reason(&of_payload(3081, json!({"filter": {"#t": keys_1001}})))
            .await,
        "over_quota"
    );
}

#[tokio::test]
async fn what_is_no_event_is_malformed() {
    let f = fixture();
    let huge = event(
        &Keys::generate(),
        3079,
        NOW,
        &vec![["t", "x"].as_slice(); 2_001],
        "",
    );
    let large = event(&Keys::generate(), 3079, NOW, &[], &"x".repeat(256 * 1024));
    for json in [
        "null",
        "1",
        "[]",
        "{}",
        r#"{"id":"x"}"#,
        &format!("{}{}", "[".repeat(200), "]".repeat(200)),
        &serde_json::to_string(&huge).unwrap(),
        &serde_json::to_string(&large).unwrap(),
    ] {
        let raw = serde_json::value::RawValue::from_string(json.to_owned()).unwrap();
        assert!(
            matches!(
                f.handle_json(&raw, NOW).await,
                Err(Failure::Refused(crate::refusal::Refusal::Malformed))
            ),
            "{json:.40}"
        );
    }
}

#[tokio::test]
async fn a_token_that_sns_refuses_is_refused() {
    let f = fixture();
    let register = f.demo(&Keys::generate(), 3079, NOW, &json!({"token": "bad"}));
    assert_eq!(f.reason(&register).await, "bad_token");
}

#[tokio::test]
async fn quotas_hold() {
    let f = fixture();
    let keys = Keys::generate();
    for n in 0..20 {
        assert_eq!(
            f.reason(&f.demo(&keys, 3079, NOW, &token(n))).await,
            "registered"
        );
    }
    assert_eq!(
        f.reason(&f.demo(&keys, 3079, NOW, &token(20))).await,
        "over_quota"
    );
    assert_eq!(
        f.reason(&f.demo(&keys, 3079, NOW + 1, &token(3))).await,
        "registered",
        "a renewal is no new device"
    );
    assert_eq!(
        f.reason(&f.demo(&keys, 3080, NOW + 2, &token(3))).await,
        "removed"
    );
    assert_eq!(
        f.reason(&f.demo(&keys, 3079, NOW + 2, &token(20))).await,
        "registered"
    );

    let filter = |n: usize| json!({"#t": [format!("tag-{n}")]});
    let many: Vec<Value> = (0..MAX_SUBSCRIPTIONS).map(filter).collect();
    assert_eq!(
        f.reason(&f.demo(&keys, 3081, NOW, &json!({"filters": many})))
            .await,
        "subscribed"
    );
    assert_eq!(
        f.reason(&f.demo(&keys, 3081, NOW + 1, &json!({"filter": filter(50)})))
            .await,
        "over_quota"
    );
    assert_eq!(
        f.reason(&f.demo(&keys, 3081, NOW + 1, &json!({"filter": filter(7)})))
            .await,
        "subscribed",
        "a renewal is no new one"
    );
    assert_eq!(
        f.reason(&f.in_app("other", &keys, 3081, NOW, &json!({"filter": filter(50)})))
            .await,
        "subscribed",
        "quotas are per app"
    );
    let more: Vec<Value> = (0..=MAX_SUBSCRIPTIONS).map(filter).collect();
    assert_eq!(
        f.reason(&f.in_app("other", &keys, 3081, NOW, &json!({"filters": more})))
            .await,
        "over_quota"
    );
}

#[tokio::test]
async fn payloads_of_clients_in_the_field_are_understood() {
    let f = fixture();
    let keys = Keys::generate();
    let me = keys.public_key().to_hex();
    let no_expiration: &[&[&str]] = &[&["app", "demo"]];
    f.handle(&f.demo(&keys, 3079, NOW, &token(1)))
        .await
        .unwrap();
    f.handle(&f.demo(&keys, 3079, NOW, &token(2)))
        .await
        .unwrap();
    assert_eq!(f.active(&["token-1", "token-2"]).len(), 2);

    // {"token":""} in a 3080 without expiration: all devices.
    assert_eq!(
        f.reason(&f.event(&keys, 3080, NOW + 1, no_expiration, &json!({"token": ""})))
            .await,
        "removed_all"
    );
    assert!(f.active(&["token-1", "token-2"]).is_empty());
    assert!(
        f.control.sns.state().endpoints.is_empty(),
        "the tokens are gone from SNS as well"
    );

    // {"kinds":[4,1059]} without #p: addressed to me.
    f.handle(&f.demo(&keys, 3081, NOW, &json!({"filter": {"kinds": [1059, 4]}})))
        .await
        .unwrap();
    assert_eq!(
        f.index()
            .into_iter()
            .map(|(key, ..)| key)
            .collect::<Vec<_>>(),
        [format!("#p:{me}")]
    );

    // A 3082 without expiration, its values in another order.
    let delete = f.event(
        &keys,
        3082,
        NOW + 1,
        no_expiration,
        &json!({"filter": {"kinds": [4, 1059], "limit": 10}}),
    );
    assert_eq!(f.reason(&delete).await, "unsubscribed");
    assert!(f.index().is_empty() && f.subscriptions().is_empty());

    // Relays to watch, and what is none among them.
    let relays = json!([
        "wss://b.example",
        "https://x.example",
        7,
        "wss://a.example",
        "wss://b.example"
    ]);
    f.handle(&f.demo(
        &keys,
        3081,
        NOW + 2,
        &json!({"filter": {"#t": ["a"]}, "relays": relays}),
    ))
    .await
    .unwrap();
    let stored = f
        .control
        .store
        .state()
        .subscriptions
        .values()
        .find(|row| row.is_active(NOW))
        .unwrap()
        .relays
        .clone();
    assert_eq!(stored, ["wss://a.example", "wss://b.example"]);

    // Broad filters where the operator allows them.
    assert_eq!(
        f.reason(&f.in_app(
            "broad",
            &keys,
            3081,
            NOW,
            &json!({"filter": {"kinds": [1]}})
        ))
        .await,
        "subscribed"
    );
}

#[tokio::test]
async fn a_lifetime_ends_after_400_days_at_the_latest() {
    let f = fixture();
    let keys = Keys::generate();
    let far = (NOW + 4000 * DAY).to_string();
    f.handle(&f.event(
        &keys,
        3081,
        NOW,
        &[&["app", "demo"], &["expiration", &far]],
        &mentions(&keys),
    ))
    .await
    .unwrap();
    assert_eq!(
        f.subscriptions()
            .into_iter()
            .map(|(_, _, end)| end)
            .collect::<Vec<_>>(),
        [NOW + 400 * DAY]
    );
}

#[tokio::test]
async fn a_token_changes_hands_and_never_comes_back() {
    let f = fixture();
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let (a1, b2) = (
        f.demo(&alice, 3079, NOW + 1, &token(1)),
        f.demo(&bob, 3079, NOW + 2, &token(1)),
    );
    let b3 = f.demo(&bob, 3080, NOW + 3, &token(1));
    f.handle(&a1).await.unwrap();
    f.handle(&b2).await.unwrap();
    assert_eq!(
        f.active(&["token-1"]).into_values().collect::<Vec<_>>(),
        [bob.public_key().to_hex()]
    );
    assert_eq!(f.reason(&a1).await, "superseded");
    // Alice cannot remove what is Bob's.
    f.handle(&f.demo(&alice, 3080, NOW + 5, &token(1)))
        .await
        .unwrap();
    assert_eq!(f.active(&["token-1"]).len(), 1);
    f.handle(&b3).await.unwrap();
    assert!(f.active(&["token-1"]).is_empty());
    for old in [&a1, &b2] {
        assert_eq!(
            f.reason(old).await,
            if old == &a1 { "superseded" } else { "repeated" }
        );
    }
    assert!(f.active(&["token-1"]).is_empty());
}

#[tokio::test]
async fn a_dead_device_is_revived_by_a_newer_registration_only() {
    let f = fixture();
    let keys = Keys::generate();
    let first = f.demo(&keys, 3079, NOW, &token(1));
    f.handle(&first).await.unwrap();
    let id = f.control.hasher.device("demo", "token-1");
    let gone = device::gone(&f.control.store.state().devices[&id]);
    f.control.store.state().devices.insert(id, gone);
    assert_eq!(f.reason(&first).await, "repeated");
    assert!(f.active(&["token-1"]).is_empty());
    f.handle(&f.demo(&keys, 3079, NOW + 1, &token(1)))
        .await
        .unwrap();
    assert_eq!(f.active(&["token-1"]).len(), 1);
}

#[tokio::test]
async fn fixed_triggers_live_as_long_as_the_longest_lived_device() {
    let f = fixture();
    let keys = Keys::generate();
    let register = |n, at, days: u64| {
        f.event(
            &keys,
            3079,
            at,
            &[
                &["app", "triggered"],
                &["expiration", &(NOW + days * DAY).to_string()],
            ],
            &token(n),
        )
    };
    let ends = || {
        f.subscriptions()
            .into_iter()
            .filter(|(_, id, _)| id.starts_with(TRIGGER))
            .map(|(_, _, end)| (end - NOW) / DAY)
            .collect::<Vec<_>>()
    };
    f.handle(&register(1, NOW, 10)).await.unwrap();
    assert_eq!(ends(), [10]);
    f.handle(&register(2, NOW, 20)).await.unwrap();
    assert_eq!(ends(), [20]);
    // The same filter of the owner's own is another subscription.
    f.handle(&f.in_app(
        "triggered",
        &keys,
        3081,
        NOW,
        &json!({"filter": {"kinds": [1, 1059], "#p": [keys.public_key().to_hex()]}}),
    ))
    .await
    .unwrap();
    f.handle(&f.in_app("triggered", &keys, 3080, NOW + 1, &token(2)))
        .await
        .unwrap();
    assert_eq!(ends(), [10]);
    f.handle(&f.in_app("triggered", &keys, 3080, NOW + 1, &token(1)))
        .await
        .unwrap();
    assert!(ends().is_empty());
    assert_eq!(f.subscriptions().len(), 1);
    assert_eq!(f.index(), f.expected_index());
}

#[tokio::test]
async fn a_transfer_takes_the_triggers_along() {
    let f = fixture();
    let (alice, bob) = (Keys::generate(), Keys::generate());
    f.handle(&f.in_app("triggered", &alice, 3079, NOW, &token(1)))
        .await
        .unwrap();
    f.handle(&f.in_app("triggered", &bob, 3079, NOW + 1, &token(1)))
        .await
        .unwrap();
    let owners: BTreeSet<_> = f
        .subscriptions()
        .into_iter()
        .map(|(owner, ..)| owner.pubkey)
        .collect();
    assert_eq!(owners, BTreeSet::from([bob.public_key()]));
}

#[tokio::test]
async fn a_token_that_moves_to_another_platform_leaves_no_endpoint_behind() {
    let f = fixture();
    let keys = Keys::generate();
    let on = |platform: &str| json!({"token": "ab".repeat(32), "platform": platform});
    for (n, platform) in ["apns", "fcm", "apns"].into_iter().enumerate() {
        f.handle(&f.in_app("demo", &keys, 3079, NOW + n as u64, &on(platform)))
            .await
            .unwrap();
        let endpoints: Vec<_> = f
            .control
            .sns
            .state()
            .endpoints
            .values()
            .map(|(application, _)| application.clone())
            .collect();
        assert_eq!(
            endpoints,
            [f.control.store.state().apps["demo"].platforms
                [&serde_json::from_value(json!(platform)).unwrap()]
                .clone()]
        );
    }
}

/// One control event of the random histories below.
#[derive(Debug, Clone)]
enum Step {
    Register {
        who: usize,
        token: usize,
        days: u64,
    },
    Remove {
        who: usize,
        token: usize,
    },
    RemoveAll {
        who: usize,
    },
    Upsert {
        who: usize,
        filter: usize,
        days: u64,
    },
    Delete {
        who: usize,
        filter: usize,
    },
}

const TOKENS: [&str; 3] = ["token-a", "token-b", "token-c"];

fn filters() -> [Value; 3] {
    [
        json!({"kinds": [1, 7], "#t": ["a", "b"]}),
        json!({"#t": ["b"]}),
        json!({"kinds": [4]}),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..2usize, 0..3usize, 1..40u64).prop_map(|(who, token, days)| Step::Register { who, token, days }),
        2 => (0..2usize, 0..3usize).prop_map(|(who, token)| Step::Remove { who, token }),
        1 => (0..2usize).prop_map(|who| Step::RemoveAll { who }),
        2 => (0..2usize, 0..3usize, 1..40u64).prop_map(|(who, filter, days)| Step::Upsert { who, filter, days }),
        2 => (0..2usize, 0..3usize).prop_map(|(who, filter)| Step::Delete { who, filter }),
    ]
}

impl Step {
    fn event(&self, f: &Fixture, people: &[Keys; 2], at: Seconds) -> Event {
        let of = |who: usize, kind, days: u64, payload: Value| {
            let expiration = (NOW + days * DAY).to_string();
            f.event(
                &people[who],
                kind,
                at,
                &[&["app", "triggered"], &["expiration", &expiration]],
                &payload,
            )
        };
        match self {
            Self::Register { who, token, days } => {
                of(*who, 3079, *days, json!({"token": TOKENS[*token]}))
            }
            Self::Remove { who, token } => of(*who, 3080, 1, json!({"token": TOKENS[*token]})),
            Self::RemoveAll { who } => of(*who, 3080, 1, json!({})),
            Self::Upsert { who, filter, days } => {
                of(*who, 3081, *days, json!({"filter": filters()[*filter]}))
            }
            Self::Delete { who, filter } => {
                of(*who, 3082, 1, json!({"filter": filters()[*filter]}))
            }
        }
    }
}

/// The tokens in force with their owner and end, and the subscriptions in force with theirs.
type Reached = (
    BTreeMap<String, (String, Seconds)>,
    BTreeSet<(Owner, String, Seconds)>,
);

/// What must hold in the end, worked out from the history alone.
fn model(f: &Fixture, people: &[Keys; 2], history: &[(Step, Event)]) -> Reached {
    let owner = |who: usize| Owner {
        app: "triggered".to_owned(),
        pubkey: people[who].public_key(),
    };
    let latest = |matches: &dyn Fn(&Step) -> bool| {
        let matching = history.iter().filter(|(step, _)| matches(step));
        matching.reduce(|a, b| {
            if Order::of(&b.1).supersedes(&Order::of(&a.1)) {
                b
            } else {
                a
            }
        })
    };
    let mut devices = BTreeMap::new();
    for (n, name) in TOKENS.iter().enumerate() {
        let Some((Step::Register { who, days, .. }, event)) =
            latest(&|step| matches!(step, Step::Register { token, .. } if *token == n))
        else {
            continue;
        };
        let removed = latest(&|step| match step {
            Step::Remove { who: w, token } => w == who && *token == n,
            Step::RemoveAll { who: w } => w == who,
            _ => false,
        });
        if removed.is_none_or(|(_, removal)| !Order::of(removal).supersedes(&Order::of(event))) {
            devices.insert(
                (*name).to_owned(),
                (people[*who].public_key().to_hex(), NOW + days * DAY),
            );
        }
    }
    let mut subscriptions = BTreeSet::new();
    for (who, person) in people.iter().enumerate() {
        for (n, filter) in filters().iter().enumerate() {
            let last = latest(
                &|step| matches!(step, Step::Upsert { who: w, filter, .. } | Step::Delete { who: w, filter } if *w == who && *filter == n),
            );
            if let Some((Step::Upsert { days, .. }, _)) = last {
                let filter = Filter::from_json(filter)
                    .unwrap()
                    .addressed(person.public_key());
                subscriptions.insert((owner(who), filter.identity(), NOW + days * DAY));
            }
        }
        let mine = devices
            .values()
            .filter(|(pubkey, _)| *pubkey == person.public_key().to_hex());
        if let Some(end) = mine.map(|(_, end)| *end).max() {
            let mute_list = json!({"kinds": [nostr_push_core::MUTE_LIST], "authors": [person.public_key().to_hex()]});
            subscriptions.insert((
                owner(who),
                format!(
                    "{MUTE_LIST}{}",
                    Filter::from_json(&mute_list).unwrap().identity()
                ),
                end,
            ));
            let app = f.control.store.state().apps["triggered"].clone();
            for filter in app.triggers_for(person.public_key()).unwrap() {
                subscriptions.insert((owner(who), format!("{TRIGGER}{}", filter.identity()), end));
            }
        }
    }
    (devices, subscriptions)
}

fn devices_of(f: &Fixture) -> BTreeMap<String, (String, Seconds)> {
    let state = f.control.store.state();
    let of = |token: &&str| {
        let registration = state
            .devices
            .get(&f.control.hasher.device("triggered", token))?
            .registration
            .clone()?;
        (registration.state == State::Active).then(|| {
            (
                (*token).to_owned(),
                (registration.owner.pubkey.to_hex(), registration.valid_until),
            )
        })
    };
    TOKENS.iter().filter_map(of).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_order_and_any_repeats_reach_the_same_state(
        steps in prop::collection::vec((step(), 0..6u64), 1..12),
        shuffled in Just((0..24usize).collect::<Vec<_>>()).prop_shuffle(),
        repeats in subsequence((0..12usize).collect::<Vec<_>>(), 0..12),
    ) {
        let f = fixture();
        let people = [Keys::generate(), Keys::generate()];
        // Few different times, so that many events tie.
        let history: Vec<(Step, Event)> = steps.iter().map(|(step, at)| (step.clone(), step.event(&f, &people, NOW + at))).collect();
        let mut order: Vec<usize> = (0..history.len()).chain(repeats.into_iter().filter(|n| *n < history.len())).collect();
        order.sort_by_key(|n| shuffled[*n % 24]);
        let rotate = shuffled[0] % order.len();
        order.rotate_left(rotate);
        runtime().block_on(async {
            for n in &order {
                f.handle(&history[*n].1).await.unwrap();
            }
        });
        let (devices, subscriptions) = model(&f, &people, &history);
        prop_assert_eq!(devices_of(&f), devices);
        prop_assert_eq!(f.subscriptions(), subscriptions);
        prop_assert_eq!(f.index(), f.expected_index());
        // Every endpoint belongs to a registration in force, and the other way round.
        let arns = |f: &Fixture| f.control.store.state().devices.values().filter_map(|d| d.registration.as_ref()).filter(|r| r.state == State::Active).filter_map(|r| r.endpoint_arn.clone()).collect::<BTreeSet<_>>();
        prop_assert_eq!(f.control.sns.state().endpoints.keys().cloned().collect::<BTreeSet<_>>(), arns(&f));
    }

    #[test]
    fn a_crash_at_any_call_is_mended_by_the_redelivery(
        steps in prop::collection::vec((step(), 0..3u64), 1..6),
        crash in 0..40usize,
        after_effect: bool,
        in_sns: bool,
    ) {
        let f = fixture();
        let people = [Keys::generate(), Keys::generate()];
        let history: Vec<(Step, Event)> = steps.iter().map(|(step, at)| (step.clone(), step.event(&f, &people, NOW + at))).collect();
        {
            let mut state = if in_sns { f.control.sns.state() } else { f.control.store.state() };
            state.fail_in = Some(crash);
            state.fail_after_effect = after_effect;
        }
        runtime().block_on(async {
            for (_, event) in &history {
                // The queue brings it again; at the latest when the lease of a removal is over.
                let mut tries = 0;
                while f.handle_at(event, NOW + 10 + tries * (device::REMOVING_LEASE + 1)).await.is_err() {
                    tries += 1;
                    assert!(tries < 5, "an event keeps failing");
                }
            }
        });
        let (devices, subscriptions) = model(&f, &people, &history);
        prop_assert_eq!(devices_of(&f), devices);
        prop_assert_eq!(f.subscriptions(), subscriptions);
        prop_assert_eq!(f.index(), f.expected_index());
    }
}
