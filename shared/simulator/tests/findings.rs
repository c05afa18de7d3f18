//! Violations that the simulator has found, or that its rules imply, in their shortest form.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use control::{
    context::{Limits, Receipt},
    handler::ControlStage,
    outcome::{Applied, Failure},
};
use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Seconds,
    app::{App, Platform},
    device::DeviceState,
    message::{ControlInput, ControlMessage},
    subscription::IndexRow,
};
use nostr_push_testkit::{control_event, dialect_h_event, memory::Memory};
use serde_json::{Value, json, value::to_raw_value};

const NOW: u64 = 1_800_000_000;

struct Fixture {
    stage: ControlStage<Memory, Memory>,
    service: Keys,
}

impl Fixture {
    fn new() -> Self {
        let service = Keys::generate();
        let app = App {
            platforms: [(Platform::Fcm, "arn:fcm".to_owned())].into(),
            ..App::named("demo")
        };
        let store = Memory::with_apps([app]);
        let (heartbeat_app, limits) = (Some("demo".to_owned()), Limits::default());
        let sns = Memory::default();
        let stage = ControlStage::new(service.clone(), heartbeat_app, limits, store, sns);
        Self { stage, service }
    }

    fn settings(&self, keys: &Keys, at: u64, payload: &Value) -> Event {
        dialect_h_event(
            keys,
            self.service.public_key(),
            at,
            &[],
            &payload.to_string(),
        )
    }

    fn control(&self, keys: &Keys, kind: u16, at: u64, payload: &Value) -> Event {
        let expiration = (NOW + 86_400).to_string();
        let tags: [&[&str]; 2] = [&["app", "demo"], &["expiration", &expiration]];
        let service = self.service.public_key();
        control_event(keys, service, kind, at, &tags, &payload.to_string())
    }

    async fn handle(&self, event: &Event, count: u32) -> Result<Applied, Failure> {
        let now = Seconds(NOW).to_millis();
        let input = ControlInput::Event(ControlMessage {
            relay: "wss://relay".to_owned(),
            received_at: now,
            event: to_raw_value(event).unwrap(),
        });
        self.stage.handle(&input, Receipt { now, count }).await
    }

    /// The owner of the active device with this token.
    fn owner_of(&self, token: &str) -> Option<String> {
        let id = self.stage.hasher.device("demo", token);
        let state = self.stage.store.state();
        let registration = state.devices.get(&id)?.registration.clone()?;
        let is_active = registration.state == DeviceState::Active;
        is_active.then(|| registration.owner.pubkey.to_hex())
    }
}

/// Bob signs in on a phone, then Alice signs in there, then Alice signs in on another phone. If
/// Alice's second settings are applied before her first ones, the first phone stays Bob's.
#[tokio::test]
async fn late_settings_take_the_token_from_the_previous_owner() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let mut owners = Vec::new();
    for order in [[0, 1, 2], [0, 2, 1]] {
        let fixture = Fixture::new();
        let events = [
            fixture.settings(
                &bob,
                NOW - 30,
                &json!({"deviceId": "first:fcm", "kinds": [1]}),
            ),
            fixture.settings(
                &alice,
                NOW - 20,
                &json!({"deviceId": "first:fcm", "kinds": [1]}),
            ),
            fixture.settings(
                &alice,
                NOW - 10,
                &json!({"deviceId": "second:fcm", "kinds": [1]}),
            ),
        ];
        for n in order {
            fixture.handle(&events[n], 1).await.unwrap();
        }
        owners.push(fixture.owner_of("first:fcm"));
    }
    assert_eq!(owners[0], None);
    assert_eq!(owners[0], owners[1], "the order makes a difference");
}

/// A registration fails after SNS has created the endpoint, and is received again after the device
/// was removed. The same happens without any failure if both events are handled at the same time:
/// the registration creates the endpoint, its commit finds that the removal has changed the roster,
/// and the second decision knows no endpoint.
#[tokio::test]
async fn removal_deletes_the_endpoint_of_a_registration_that_crashed() {
    let alice = Keys::generate();
    for call in 0..40 {
        let fixture = Fixture::new();
        let register = fixture.control(&alice, 3079, NOW - 20, &json!({"token": "phone:fcm"}));
        let remove = fixture.control(&alice, 3080, NOW - 10, &json!({"token": "phone:fcm"}));
        fixture.stage.store.state().fail_in = Some(call);
        let crashed = fixture.handle(&register, 1).await.is_err();
        fixture.stage.store.state().fail_in = None;
        fixture.handle(&remove, 1).await.unwrap();
        if crashed {
            fixture.handle(&register, 2).await.unwrap();
        }
        let left = fixture.stage.sns.state().endpoints.len();
        assert_eq!(left, 0, "the endpoint is left if call {call} fails");
    }
}

/// Alice takes Bob's phone, and the attempt fails after Bob's filter was marked as removed. Before
/// it is repeated, Alice sends newer settings, and Bob takes the phone back with other kinds. The
/// index rows of Bob's earlier filter stay and match.
#[tokio::test]
async fn failed_transfer_leaves_no_index_rows_of_the_previous_owner() {
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let settings = |kind: u16| json!({"deviceId": "phone:fcm", "kinds": [kind]});
    for call in 0..80 {
        let fixture = Fixture::new();
        let before = fixture.settings(&bob, NOW - 40, &settings(1));
        let first = fixture.settings(&alice, NOW - 30, &settings(4));
        let second = fixture.settings(&alice, NOW - 20, &settings(7));
        let after = fixture.settings(&bob, NOW - 10, &settings(7));
        fixture.handle(&before, 1).await.unwrap();
        let fail = |call| {
            let mut state = fixture.stage.store.state();
            state.fail_in = call;
            state.fail_after_effect = true;
        };
        fail(Some(call));
        let failed = fixture.handle(&first, 1).await.is_err();
        fail(None);
        fixture.handle(&second, 1).await.unwrap();
        fixture.handle(&after, 1).await.unwrap();
        if failed {
            fixture.handle(&first, 2).await.unwrap();
        }
        let state = fixture.stage.store.state();
        let of_bob = |row: &&IndexRow| row.owner.pubkey == bob.public_key();
        for row in state.index.values().filter(of_bob) {
            let id = (row.owner.clone(), row.identity.clone());
            let subscription = &state.subscriptions[&id];
            assert!(
                subscription.is_active(Seconds(NOW)),
                "an index row of {} is left if call {call} loses its answer",
                row.identity
            );
        }
    }
}
