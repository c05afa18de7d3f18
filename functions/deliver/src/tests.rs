//! The stage as a whole, on the ports in memory, and the payloads at every rung of the ladder.

mod fairness;
mod waiting;

use std::time::Duration;

use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    app::{App, Content, Platform},
    device::{Device, DeviceId, Registration, Roster, State},
    message::{Delivery, Outgoing},
    order::Order,
    owner::Owner,
    ports::Outcome,
};
use nostr_push_testkit::{event, memory::Memory};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    apns, fcm,
    handler::{Attempt, Delivered, handle},
    routing::{MAX_PAYLOAD, Rung},
    text::Text,
};

const NOW: u64 = 1_800_000_000;

fn delivery(event: Event) -> Delivery {
    Delivery {
        app: "demo".to_owned(),
        recipient: Keys::parse(&"11".repeat(32)).unwrap().public_key(),
        reasons: vec!["#p".to_owned(), "author".to_owned()],
        relay: "wss://relay.example".to_owned(),
        received_at: NOW * 1000,
        cut: false,
        waited: false,
        event,
    }
}

fn note(content: &str) -> Event {
    event(&Keys::generate(), 1, NOW, &[], content)
}

fn memory(devices: &[(&str, Platform)]) -> Memory {
    let memory = Memory::with_apps([App {
        app: "demo".to_owned(),
        ..App::default()
    }]);
    let owner = Owner {
        app: "demo".to_owned(),
        pubkey: delivery(note("")).recipient,
    };
    let mut roster = Roster {
        version: 1,
        ..Roster::new(owner.clone())
    };
    for (name, platform) in devices {
        let id = DeviceId {
            app: "demo".to_owned(),
            token_hash: (*name).to_owned(),
        };
        roster.devices.insert((*name).to_owned());
        let registration = Registration {
            owner: owner.clone(),
            order: Order::counter(1),
            platform: *platform,
            by_settings: false,
            registered_at: 1,
            max_mentions: None,
            taken_from: None,
            endpoint_arn: Some(format!("arn:{name}")),
            state: State::Active,
            valid_until: NOW + 100,
        };
        let row = Device {
            id: id.clone(),
            registration: Some(registration),
            removals: std::collections::BTreeMap::new(),
            expires_at: NOW + 100,
            version: 1,
        };
        memory.state().devices.insert(id, row);
    }
    memory.state().rosters.insert(owner, roster);
    memory
}

fn sent(delivery: &Delivery) -> Outgoing {
    Outgoing::Event(Box::new(delivery.clone()))
}

async fn attempt(memory: &Memory, delivery: &Delivery, n: u64) -> Result<Delivered, String> {
    // Each attempt comes when the lease of the one before is over.
    let attempt = Attempt {
        holder: format!("message/{n}"),
        now: (NOW + n * 61) * 1000,
        lease: Duration::from_secs(60),
    };
    handle(memory, memory, memory, &sent(delivery), &attempt)
        .await
        .map_err(|error| error.to_string())
}

fn published(memory: &Memory) -> Vec<String> {
    let mut arns: Vec<String> = memory
        .state()
        .published
        .iter()
        .map(|(arn, _)| arn.clone())
        .collect();
    arns.sort();
    arns
}

fn state_of(memory: &Memory, name: &str) -> State {
    memory.state().devices[&DeviceId {
        app: "demo".to_owned(),
        token_hash: name.to_owned(),
    }]
        .registration
        .as_ref()
        .unwrap()
        .state
}

#[tokio::test]
async fn every_device_gets_it_once() {
    let memory = memory(&[("a", Platform::Apns), ("b", Platform::Fcm)]);
    let delivery = delivery(note("hi"));
    assert!(
        matches!(attempt(&memory, &delivery, 0).await, Ok(Delivered::Tried(tried)) if tried.len() == 2)
    );
    assert_eq!(
        attempt(&memory, &delivery, 1).await,
        Ok(Delivered::Dropped("duplicate"))
    );
    assert_eq!(published(&memory), ["arn:a", "arn:b"]);
}

#[tokio::test]
async fn what_cannot_be_delivered_is_dropped_by_its_reason() {
    assert_eq!(
        attempt(&memory(&[]), &delivery(note("")), 0).await,
        Ok(Delivered::Dropped("no_device"))
    );
    let expired = delivery(event(
        &Keys::generate(),
        1,
        NOW,
        &[&["expiration", &NOW.to_string()]],
        "",
    ));
    assert_eq!(
        attempt(&memory(&[("a", Platform::Fcm)]), &expired, 0).await,
        Ok(Delivered::Dropped("expired"))
    );
    let foreign = Delivery {
        app: "nobody's".to_owned(),
        ..delivery(note(""))
    };
    assert_eq!(
        attempt(&memory(&[("a", Platform::Fcm)]), &foreign, 0).await,
        Ok(Delivered::Dropped("unknown_app"))
    );
}

#[tokio::test]
async fn a_claim_that_is_held_makes_the_message_come_again() {
    let memory = memory(&[("a", Platform::Fcm)]);
    let delivery = delivery(note(""));
    memory.state().claims.insert(
        format!(
            "demo#{}#{}",
            delivery.recipient.to_hex(),
            delivery.event.id.to_hex()
        ),
        ("other".to_owned(), (NOW + 30) * 1000, Vec::new(), false),
    );
    let again = Delivered::Again {
        after: Some(Duration::from_secs(31)),
        reason: "claimed",
        tried: Vec::new(),
    };
    assert_eq!(attempt(&memory, &delivery, 0).await, Ok(again));
    assert!(published(&memory).is_empty());
    assert!(matches!(
        attempt(&memory, &delivery, 1).await,
        Ok(Delivered::Tried(_))
    ));
}

#[tokio::test]
async fn each_outcome_has_its_consequence() {
    let memory = memory(&[
        ("delivered", Platform::Fcm),
        ("retried", Platform::Fcm),
        ("gone", Platform::Fcm),
        ("rejected", Platform::Fcm),
    ]);
    let delivery = delivery(note(""));
    let set = |name: &str, outcome: Outcome| {
        memory
            .state()
            .outcomes
            .insert(format!("arn:{name}"), outcome)
    };
    set(
        "retried",
        Outcome::Retry {
            after: Some(Duration::from_secs(7)),
            reason: "throttled",
        },
    );
    set("gone", Outcome::Gone);
    set(
        "rejected",
        Outcome::Rejected {
            reason: "invalid_message",
            why: "why".to_owned(),
        },
    );
    assert!(
        matches!(attempt(&memory, &delivery, 0).await, Ok(Delivered::Again { after: Some(after), reason: "throttled", tried }) if after.as_secs() == 7 && tried.len() == 4)
    );
    assert_eq!(state_of(&memory, "gone"), State::Gone);
    assert_eq!(state_of(&memory, "rejected"), State::Active);
    set("retried", Outcome::Delivered);
    // Only the device that is not done is tried again.
    assert!(
        matches!(attempt(&memory, &delivery, 1).await, Ok(Delivered::Tried(tried)) if tried.len() == 1)
    );
    assert_eq!(published(&memory), ["arn:delivered", "arn:retried"]);
}

proptest! {
    #[test]
    fn a_crash_at_any_call_loses_nothing_and_shows_once(crash in 0..12usize, after_effect: bool) {
        let memory = memory(&[("a", Platform::Apns), ("b", Platform::Apns)]);
        let delivery = delivery(note("hi"));
        memory.state().fail_in = Some(crash);
        memory.state().fail_after_effect = after_effect;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut n = 0;
            while !matches!(attempt(&memory, &delivery, n).await, Ok(Delivered::Tried(_) | Delivered::Dropped("duplicate"))) {
                n += 1;
                assert!(n < 4, "it keeps failing");
            }
        });
        let mut arns = published(&memory);
        arns.dedup();
        prop_assert_eq!(arns, ["arn:a", "arn:b"]);
        // A repeat has the same collapse id, which makes it one notification.
        let ids: std::collections::BTreeSet<String> = memory.state().published.iter().map(|(_, push)| attribute(push, "AWS.SNS.MOBILE.APNS.COLLAPSE_ID")).collect();
        prop_assert_eq!(ids.into_iter().collect::<Vec<_>>(), [delivery.event.id.to_hex()]);
        prop_assert!(memory.state().published.len() <= 3);
    }
}

fn text(delivery: &Delivery) -> Text {
    Text::of(delivery, Content::Rich)
}

fn attribute(push: &nostr_push_core::ports::Push, name: &str) -> String {
    push.attributes
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap()
        .1
        .clone()
}

#[test]
fn apns_gets_one_banner_and_the_routing_contract() {
    let delivery = delivery(note("hello"));
    let push = apns::push("APNS", &App::default(), &delivery, &text(&delivery), NOW);
    let message: Value = serde_json::from_str(&push.message).unwrap();
    let payload: Value = serde_json::from_str(message["APNS"].as_str().unwrap()).unwrap();
    let id = delivery.event.id.to_hex();
    assert_eq!(
        payload["aps"],
        json!({"alert": {"title": "New note", "body": "hello"}, "mutable-content": 1, "sound": "default", "thread-id": delivery.event.pubkey.to_hex()})
    );
    for (field, value) in [
        ("event_id", json!(id)),
        ("kind", json!(1)),
        ("author", json!(delivery.event.pubkey)),
        ("recipient", json!(delivery.recipient)),
        ("app", json!("demo")),
        ("relay", json!("wss://relay.example")),
        ("reasons", json!(["#p", "author"])),
        ("event", json!(delivery.event)),
        ("title_loc_key", json!("NOTE_TITLE")),
        ("title_loc_args", Value::Null),
        ("body_loc_key", Value::Null),
    ] {
        assert_eq!(payload[field], value, "{field}");
    }
    assert_eq!(attribute(&push, "AWS.SNS.MOBILE.APNS.PUSH_TYPE"), "alert");
    assert_eq!(attribute(&push, "AWS.SNS.MOBILE.APNS.COLLAPSE_ID"), id);
    assert_eq!(attribute(&push, "AWS.SNS.MOBILE.APNS.TTL"), "86400");
}

#[test]
fn ios_translates_by_itself_only_for_apps_that_ship_the_phrases() {
    let delivery = delivery(event(&Keys::generate(), 7, NOW, &[], "🔥"));
    let alert = |localized| {
        apns::payload(
            &App {
                localized,
                ..App::default()
            },
            &delivery,
            &text(&delivery),
        )
        .1["aps"]["alert"]
            .clone()
    };
    assert_eq!(
        alert(false).as_object().unwrap().keys().collect::<Vec<_>>(),
        ["body", "title"]
    );
    let localized = alert(true);
    assert_eq!(
        (&localized["title-loc-key"], &localized["loc-key"]),
        (&json!("REACTION_TITLE"), &json!("REACTION_BODY"))
    );
    assert_eq!(localized["loc-args"][0], "🔥");
    let data = fcm::payload(&delivery, &text(&delivery)).1["data"].clone();
    assert_eq!(data["body_loc_key"], "REACTION_BODY");
    assert_eq!(
        serde_json::from_str::<Value>(data["body_loc_args"].as_str().unwrap()).unwrap(),
        localized["loc-args"]
    );
}

#[test]
fn fcm_gets_strings_only_at_high_priority() {
    let delivery = delivery(event(
        &Keys::generate(),
        1,
        NOW,
        &[&["expiration", &(NOW + 50).to_string()]],
        "hello",
    ));
    let push = fcm::push(&delivery, &text(&delivery), NOW);
    let message: Value = serde_json::from_str(&push.message).unwrap();
    let payload: Value = serde_json::from_str(message["GCM"].as_str().unwrap()).unwrap();
    let payload = &payload["fcmV1Message"]["message"];
    assert_eq!(payload["android"], json!({"priority": "high"}));
    assert!(
        payload["data"]
            .as_object()
            .unwrap()
            .values()
            .all(Value::is_string)
    );
    assert_eq!(payload["data"]["reasons"], json!("#p,author"));
    assert_eq!(
        serde_json::from_str::<Value>(payload["data"]["event"].as_str().unwrap()).unwrap(),
        json!(delivery.event)
    );
    assert_eq!(
        payload.get("notification"),
        None,
        "the app shows the one banner"
    );
    assert_eq!(attribute(&push, "AWS.SNS.MOBILE.FCM.TTL"), "50");
}

#[test]
fn the_ladder_keeps_every_payload_within_4096_bytes_and_never_drops_the_ids() {
    let p = "ab".repeat(32);
    let tags = |n: usize| vec![["p", p.as_str()]; n];
    let sized = |content: String, n: usize| {
        let tags = tags(n);
        delivery(event(
            &Keys::generate(),
            1,
            NOW,
            &tags.iter().map(<[&str; 2]>::as_slice).collect::<Vec<_>>(),
            &content,
        ))
    };
    let cases = [
        (sized("hello".to_owned(), 1), Rung::Whole),
        (sized("👨‍👩‍👧‍👦".repeat(200), 1), Rung::NoContent),
        (sized("\u{1}".repeat(3_000), 5), Rung::NoContent),
        (sized("hello".to_owned(), 500), Rung::NoTags),
        (
            Delivery {
                relay: "r".repeat(512),
                app: "a".repeat(2_500),
                ..sized("x".repeat(5_000), 500)
            },
            Rung::NoEvent,
        ),
        (
            Delivery {
                cut: true,
                ..sized("hello".to_owned(), 1)
            },
            Rung::NoContent,
        ),
    ];
    for (delivery, rung) in cases {
        let text = text(&delivery);
        for (reached, payload) in [
            apns::payload(
                &App {
                    localized: true,
                    ..App::default()
                },
                &delivery,
                &text,
            ),
            fcm::payload(&delivery, &text),
        ] {
            assert_eq!(reached, rung);
            assert!(
                payload.to_string().len() <= MAX_PAYLOAD,
                "{}",
                payload.to_string().len()
            );
            let data = payload.get("data").unwrap_or(&payload);
            assert_eq!(
                (&data["event_id"], &data["recipient"]),
                (&json!(delivery.event.id), &json!(delivery.recipient))
            );
        }
    }
}
