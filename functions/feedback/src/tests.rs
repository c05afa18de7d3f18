//! The stage on the ports in memory.

use std::collections::BTreeMap;

use nostr::key::Keys;
use nostr_push_core::{
    app::Platform,
    device::{REMOVING_LEASE, Registration},
    message::{self, Unreadable},
    order::Order,
    owner::Owner,
    ports::Ensured,
};
use nostr_push_testkit::memory::Memory;
use proptest::prelude::*;
use serde_json::json;

use super::handler::{Handled, handle};
use nostr_push_core::{
    device::{Device, DeviceId, State},
    message::{EndpointEvent, Feedback, Retired},
    ports::{Devices as _, Endpoints as _},
};

const NOW: u64 = 1_800_000_000;

fn id() -> DeviceId {
    DeviceId {
        app: "demo".to_owned(),
        token_hash: "hash".to_owned(),
    }
}

struct World {
    memory: Memory,
    arn: String,
}

impl World {
    /// A registration in force until `valid_until`, registered at `NOW - 100`.
    async fn with(state: State, valid_until: u64) -> Self {
        let memory = Memory::default();
        let Ok(Ensured::Endpoint(arn)) = memory.ensure("app", "token").await else {
            panic!("no endpoint")
        };
        let world = Self { memory, arn };
        let device = Device {
            id: id(),
            registration: Some(world.registration(state, valid_until)),
            removals: BTreeMap::new(),
            expires_at: valid_until,
            version: 0,
        };
        assert!(world.memory.commit(Some(&device), None).await.unwrap());
        world
    }

    fn registration(&self, state: State, valid_until: u64) -> Registration {
        Registration {
            owner: Owner {
                app: "demo".to_owned(),
                pubkey: Keys::parse(&"11".repeat(32)).unwrap().public_key(),
            },
            order: Order::counter(1),
            platform: Platform::Fcm,
            by_settings: false,
            registered_at: NOW - 100,
            max_mentions: None,
            taken_from: None,
            endpoint_arn: Some(self.arn.clone()),
            state,
            valid_until,
        }
    }

    fn row(&self) -> Option<Device> {
        self.memory.state().devices.get(&id()).cloned()
    }

    /// What the stream tells of the row as it was.
    fn retired(&self, state: State, valid_until: u64) -> Feedback {
        let registration = self.registration(state, valid_until);
        Feedback::Retired(Box::new(Retired {
            app: "demo".to_owned(),
            token_hash: "hash".to_owned(),
            registration,
        }))
    }

    /// What SNS tells of the endpoint.
    fn event(&self, event_type: &str) -> Feedback {
        event(
            &json!({"EventType": event_type, "EndpointArn": self.arn, "Resource": "arn:app", "Service": "SNS", "Time": "2026-11-21T10:00:00.000Z"}),
        )
    }

    async fn handle_at(&self, feedback: &Feedback, now: u64) -> Result<Handled, String> {
        handle(&self.memory, &self.memory, feedback, NOW * 1000, now)
            .await
            .map_err(|error| error.to_string())
    }

    async fn handle(&self, feedback: &Feedback) -> Handled {
        self.handle_at(feedback, NOW).await.unwrap()
    }

    fn is_gone(&self) -> bool {
        let registration = self.row().and_then(|row| row.registration);
        self.memory.state().endpoints.is_empty()
            && registration.is_none_or(|registration| {
                registration.state == State::Removed && registration.endpoint_arn.is_none()
            })
    }

    fn is_untouched(&self) -> bool {
        self.memory.state().endpoints.contains_key(&self.arn)
            && self.row().is_none_or(|row| row.version == 1)
    }

    fn disable(&self) {
        self.memory.state().disabled.insert(self.arn.clone());
    }
}

fn event(json: &serde_json::Value) -> Feedback {
    Feedback::read(&json.to_string()).unwrap()
}

#[test]
fn both_kinds_of_message_are_read_and_nothing_else() {
    let failure = json!({
        "DeliveryAttempts": 1, "EndpointArn": "arn:e", "EventType": "DeliveryFailure", "FailureMessage": "Endpoint is disabled",
        "FailureType": "EndpointDisabled", "MessageId": "m", "Resource": "arn:app", "Service": "SNS", "Time": "2026-11-21T10:00:00.000Z",
    });
    assert!(
        matches!(event(&failure), Feedback::Endpoint(EndpointEvent { endpoint_arn, .. }) if endpoint_arn == "arn:e")
    );
    assert!(matches!(
        Feedback::read(r#"{"v":2,"m":{}}"#),
        Err(Unreadable::Version(2))
    ));
    assert!(matches!(
        Feedback::read(r#"{"EventType":1}"#),
        Err(Unreadable::Malformed)
    ));
}

#[tokio::test]
async fn a_disabled_endpoint_is_removed_with_its_registration() {
    for event_type in ["EndpointUpdated", "DeliveryFailure"] {
        let world = World::with(State::Active, NOW + 100).await;
        world.disable();
        assert_eq!(
            world.handle(&world.event(event_type)).await,
            Handled::Removed
        );
        assert!(world.is_gone());
        assert_eq!(
            world.handle(&world.event(event_type)).await,
            Handled::Kept("unknown_endpoint"),
            "once more"
        );
    }
    // Somebody deleted it in the console.
    let world = World::with(State::Active, NOW + 100).await;
    world.memory.state().endpoints.clear();
    assert_eq!(
        world.handle(&world.event("EndpointDeleted")).await,
        Handled::Removed
    );
    assert!(world.is_gone());
}

#[tokio::test]
async fn what_works_or_was_registered_since_is_kept() {
    let world = World::with(State::Active, NOW + 100).await;
    assert_eq!(
        world.handle(&world.event("EndpointUpdated")).await,
        Handled::Kept("enabled")
    );
    assert_eq!(
        world.handle(&world.event("EndpointCreated")).await,
        Handled::Kept("not_of_interest")
    );
    let failure = |message: &str| {
        event(
            &json!({"EventType": "DeliveryFailure", "EndpointArn": world.arn, "FailureMessage": message}),
        )
    };
    assert_eq!(
        world.handle(&failure("TTL expired")).await,
        Handled::Kept("enabled")
    );
    world.disable();
    assert_eq!(
        world
            .handle(&failure("Platform credentials are invalid"))
            .await,
        Handled::BadCredentials
    );
    let disabled = event(
        &json!({"EventType": "DeliveryFailure", "EndpointArn": world.arn, "FailureType": "PlatformApplicationDisabled"}),
    );
    assert_eq!(world.handle(&disabled).await, Handled::BadCredentials);
    let sent_before = (NOW - 101) * 1000;
    let handled = handle(
        &world.memory,
        &world.memory,
        &world.event("EndpointUpdated"),
        sent_before,
        NOW,
    )
    .await
    .unwrap();
    assert_eq!(handled, Handled::Kept("registered_again"));
    assert!(world.is_untouched());
    let other = event(&json!({"EventType": "EndpointDeleted", "EndpointArn": "arn:other"}));
    assert_eq!(
        world.handle(&other).await,
        Handled::Kept("unknown_endpoint")
    );
}

#[tokio::test]
async fn a_row_that_ended_takes_its_endpoint_along() {
    // Removed by TTL, and there still, days late.
    for swept in [true, false] {
        let world = World::with(State::Active, NOW - 1).await;
        if swept {
            world.memory.state().devices.clear();
        }
        assert_eq!(
            world.handle(&world.retired(State::Active, NOW - 1)).await,
            Handled::Removed
        );
        assert!(world.is_gone());
        assert_eq!(
            world.handle(&world.retired(State::Active, NOW - 1)).await,
            Handled::Kept("already_removed"),
            "once more"
        );
    }
    // Given up by deliver.
    let world = World::with(State::Gone, NOW + 100).await;
    assert_eq!(
        world.handle(&world.retired(State::Gone, NOW + 100)).await,
        Handled::Removed
    );
    assert!(world.is_gone());
}

#[tokio::test]
async fn a_newer_registration_wins_over_a_row_that_ended() {
    let world = World::with(State::Active, NOW - 1).await;
    world
        .memory
        .state()
        .devices
        .get_mut(&id())
        .unwrap()
        .registration
        .as_mut()
        .unwrap()
        .order = Order::counter(2);
    assert_eq!(
        world.handle(&world.retired(State::Active, NOW - 1)).await,
        Handled::Kept("registered_again")
    );
    let revived = World::with(State::Active, NOW + 100).await;
    assert_eq!(
        revived
            .handle(&revived.retired(State::Gone, NOW + 100))
            .await,
        Handled::Kept("in_force")
    );
    assert!(world.is_untouched() && revived.is_untouched());
}

#[tokio::test]
async fn while_another_removes_it_the_message_waits() {
    let world = World::with(State::Removing { until: NOW + 50 }, NOW - 1).await;
    let retired = world.retired(State::Active, NOW - 1);
    assert!(world.handle_at(&retired, NOW).await.is_err());
    assert!(world.is_untouched());
    assert_eq!(
        world.handle_at(&retired, NOW + 50).await,
        Ok(Handled::Removed)
    );
}

proptest! {
    #[test]
    fn a_crash_at_any_call_leaves_nothing_behind(crash in 0..8usize, after_effect: bool, swept: bool, told_by_sns: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let world = World::with(if told_by_sns { State::Active } else { State::Gone }, NOW + 100).await;
            world.disable();
            if swept && !told_by_sns {
                world.memory.state().devices.clear();
            }
            let feedback = if told_by_sns { world.event("EndpointUpdated") } else { world.retired(State::Gone, NOW + 100) };
            world.memory.state().fail_in = Some(crash);
            world.memory.state().fail_after_effect = after_effect;
            let mut tries = 0;
            while world.handle_at(&feedback, NOW + tries * (REMOVING_LEASE + 1)).await.is_err() {
                tries += 1;
                assert!(tries < 3, "it keeps failing");
            }
            assert!(world.is_gone());
        });
    }
}

#[test]
fn a_retired_row_travels_as_it_was() {
    let retired = Retired {
        app: "demo".to_owned(),
        token_hash: "hash".to_owned(),
        registration: serde_json::from_value(json!({
            "owner": format!("demo#{}", Keys::generate().public_key().to_hex()), "order": Order::counter(1), "platform": "fcm",
            "endpoint_arn": "arn", "state": "active", "valid_until": 5,
        }))
        .unwrap(),
    };
    assert_eq!(
        Feedback::read(&message::encode(&retired).unwrap()).unwrap(),
        Feedback::Retired(Box::new(retired))
    );
}
