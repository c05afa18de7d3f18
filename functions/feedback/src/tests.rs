//! The stage on ports in memory.

use nostr::key::Keys;
use nostr_push_core::{
    Seconds,
    device::{Device, DeviceState, REMOVING_LEASE, Registration},
    message::{self, DecodeError, EndpointEvent, FeedbackMessage, ReconcileMessage, RetiredDevice},
    order::Order,
    ports::{Devices as _, Endpoints as _, EnsuredEndpoint},
};
use nostr_push_testkit::{
    builders::{APP, device},
    memory::Memory,
    owner, registration,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    handler::FeedbackStage,
    outcome::{FeedbackOutcome, KeptReason},
};

const NOW: u64 = 1_800_000_000;

const TOKEN_HASH: &str = "hash";

/// The ports, with one device and its endpoint.
struct Fixture {
    memory: Memory,
    arn: String,
}

impl Fixture {
    /// A device in this state until `valid_until`, registered at `NOW - 100`.
    async fn with(state: DeviceState, valid_until: u64) -> Self {
        let memory = Memory::default();
        let Ok(EnsuredEndpoint::Ready(arn)) = memory.ensure("app", "token").await else {
            panic!("no endpoint")
        };
        let fixture = Self { memory, arn };
        let device = device(TOKEN_HASH, fixture.registration(state, valid_until));
        assert!(fixture.memory.commit(Some(&device), None).await.unwrap());
        fixture
    }

    fn registration(&self, state: DeviceState, valid_until: u64) -> Registration {
        let owner = owner(Keys::parse(&"11".repeat(32)).unwrap().public_key());
        Registration {
            registered_at: Seconds(NOW - 100),
            state,
            valid_until: Seconds(valid_until),
            ..registration(&owner, &self.arn)
        }
    }

    fn row(&self) -> Option<Device> {
        self.memory.state().devices.values().next().cloned()
    }

    /// The message of the stream about the row in this state.
    fn retired(&self, state: DeviceState, valid_until: u64) -> FeedbackMessage {
        FeedbackMessage::Retired(Box::new(RetiredDevice {
            app: APP.to_owned(),
            token_hash: TOKEN_HASH.to_owned(),
            registration: self.registration(state, valid_until),
        }))
    }

    /// The message of SNS about the endpoint.
    fn event(&self, event_type: &str) -> FeedbackMessage {
        event(&json!({
            "EventType": event_type, "EndpointArn": self.arn, "Resource": "arn:app",
            "Service": "SNS", "Time": "2026-11-21T10:00:00.000Z",
        }))
    }

    fn failure(&self, message: &str) -> FeedbackMessage {
        event(&json!({
            "EventType": "DeliveryFailure", "EndpointArn": self.arn, "FailureMessage": message,
        }))
    }

    fn stage(&self) -> FeedbackStage<'_, Memory, Memory, Memory> {
        FeedbackStage {
            store: &self.memory,
            sns: &self.memory,
            control: &self.memory,
        }
    }

    async fn handle_at(
        &self,
        message: &FeedbackMessage,
        now: u64,
    ) -> Result<FeedbackOutcome, String> {
        self.stage()
            .handle(message, Seconds(NOW), Seconds(now))
            .await
            .map_err(|error| error.to_string())
    }

    async fn handle(&self, message: &FeedbackMessage) -> FeedbackOutcome {
        self.handle_at(message, NOW).await.unwrap()
    }

    fn is_removed(&self) -> bool {
        let registration = self.row().and_then(|row| row.registration);
        self.memory.state().endpoints.is_empty()
            && registration.is_none_or(|registration| {
                registration.state == DeviceState::Removed && registration.endpoint_arn.is_none()
            })
    }

    /// Returns `true` if control was asked to reconcile the owner, and nothing else was sent.
    fn has_asked_to_reconcile(&self) -> bool {
        let reconcile = ReconcileMessage {
            reconcile: self.registration(DeviceState::Active, NOW).owner,
        };
        let sent = self.memory.state().sent.clone();
        let expected = message::encode(&reconcile).unwrap();
        !sent.is_empty() && sent.iter().all(|message| *message == expected)
    }

    fn is_unchanged(&self) -> bool {
        self.memory.state().endpoints.contains_key(&self.arn)
            && self.memory.state().sent.is_empty()
            && self.row().is_none_or(|row| row.version == 1)
    }

    fn disable(&self) {
        self.memory.state().disabled.insert(self.arn.clone());
    }
}

fn event(json: &Value) -> FeedbackMessage {
    FeedbackMessage::read(&json.to_string()).unwrap()
}

fn kept(reason: KeptReason) -> FeedbackOutcome {
    FeedbackOutcome::Kept(reason)
}

#[test]
fn reads_both_kinds_of_message_and_nothing_else() {
    let failure = json!({
        "DeliveryAttempts": 1, "EndpointArn": "arn:e", "EventType": "DeliveryFailure",
        "FailureMessage": "Endpoint is disabled", "FailureType": "EndpointDisabled",
        "MessageId": "m", "Resource": "arn:app", "Service": "SNS",
        "Time": "2026-11-21T10:00:00.000Z",
    });
    assert!(matches!(
        event(&failure),
        FeedbackMessage::Endpoint(EndpointEvent { endpoint_arn, .. }) if endpoint_arn == "arn:e"
    ));
    assert!(matches!(
        FeedbackMessage::read(r#"{"v":2,"m":{}}"#),
        Err(DecodeError::Version(2))
    ));
    assert!(matches!(
        FeedbackMessage::read(r#"{"EventType":1}"#),
        Err(DecodeError::Malformed)
    ));
}

#[tokio::test]
async fn removes_a_disabled_endpoint_with_its_registration() {
    for event_type in ["EndpointUpdated", "DeliveryFailure"] {
        let fixture = Fixture::with(DeviceState::Active, NOW + 100).await;
        fixture.disable();
        let event = fixture.event(event_type);
        assert_eq!(fixture.handle(&event).await, FeedbackOutcome::Removed);
        assert!(fixture.is_removed() && fixture.has_asked_to_reconcile());
        assert_eq!(
            fixture.handle(&event).await,
            kept(KeptReason::UnknownEndpoint),
            "the same message again"
        );
    }
    // The operator deleted the endpoint by hand.
    let fixture = Fixture::with(DeviceState::Active, NOW + 100).await;
    fixture.memory.state().endpoints.clear();
    let deleted = fixture.event("EndpointDeleted");
    assert_eq!(fixture.handle(&deleted).await, FeedbackOutcome::Removed);
    assert!(fixture.is_removed());
}

#[tokio::test]
async fn keeps_an_enabled_endpoint() {
    let fixture = Fixture::with(DeviceState::Active, NOW + 100).await;
    for (message, reason) in [
        (fixture.event("EndpointUpdated"), KeptReason::Enabled),
        (fixture.event("EndpointCreated"), KeptReason::NotOfInterest),
        (fixture.failure("TTL expired"), KeptReason::Enabled),
    ] {
        assert_eq!(fixture.handle(&message).await, kept(reason));
    }
    assert!(fixture.is_unchanged());
}

#[tokio::test]
async fn keeps_device_on_credential_failures() {
    let fixture = Fixture::with(DeviceState::Active, NOW + 100).await;
    fixture.disable();
    let invalid = fixture.failure("Platform credentials are invalid");
    assert_eq!(
        fixture.handle(&invalid).await,
        FeedbackOutcome::BadCredentials
    );
    let disabled = event(&json!({
        "EventType": "DeliveryFailure", "EndpointArn": fixture.arn,
        "FailureType": "PlatformApplicationDisabled",
    }));
    assert_eq!(
        fixture.handle(&disabled).await,
        FeedbackOutcome::BadCredentials
    );
    assert!(fixture.is_unchanged());
}

#[tokio::test]
async fn keeps_a_device_registered_after_the_report() {
    let fixture = Fixture::with(DeviceState::Active, NOW + 100).await;
    fixture.disable();
    let report = fixture.event("EndpointUpdated");
    let handled = fixture
        .stage()
        .handle(&report, Seconds(NOW - 101), Seconds(NOW))
        .await;
    assert_eq!(handled.unwrap(), kept(KeptReason::RegisteredAgain));
    assert!(fixture.is_unchanged());
}

#[tokio::test]
async fn ignores_an_endpoint_that_no_device_has() {
    let fixture = Fixture::with(DeviceState::Active, NOW + 100).await;
    let other = event(&json!({"EventType": "EndpointDeleted", "EndpointArn": "arn:other"}));
    assert_eq!(
        fixture.handle(&other).await,
        kept(KeptReason::UnknownEndpoint)
    );
    assert!(fixture.is_unchanged());
}

#[tokio::test]
async fn removes_the_endpoint_of_an_expired_device() {
    // DynamoDB drops the expired row, which may take days.
    for is_dropped in [true, false] {
        let fixture = Fixture::with(DeviceState::Active, NOW - 1).await;
        if is_dropped {
            fixture.memory.state().devices.clear();
        }
        let retired = fixture.retired(DeviceState::Active, NOW - 1);
        assert_eq!(fixture.handle(&retired).await, FeedbackOutcome::Removed);
        assert!(fixture.is_removed());
        assert_eq!(
            fixture.handle(&retired).await,
            kept(KeptReason::AlreadyRemoved),
            "the same message again"
        );
    }
}

#[tokio::test]
async fn removes_the_endpoint_of_a_rejected_token() {
    let fixture = Fixture::with(DeviceState::Gone, NOW + 100).await;
    let retired = fixture.retired(DeviceState::Gone, NOW + 100);
    assert_eq!(fixture.handle(&retired).await, FeedbackOutcome::Removed);
    assert!(fixture.is_removed());
}

#[tokio::test]
async fn a_newer_registration_wins_over_a_retired_one() {
    let fixture = Fixture::with(DeviceState::Active, NOW - 1).await;
    for device in fixture.memory.state().devices.values_mut() {
        device.registration.as_mut().unwrap().order = Order::counter(2);
    }
    let retired = fixture.retired(DeviceState::Active, NOW - 1);
    assert_eq!(
        fixture.handle(&retired).await,
        kept(KeptReason::RegisteredAgain)
    );
    let revived = Fixture::with(DeviceState::Active, NOW + 100).await;
    let retired = revived.retired(DeviceState::Gone, NOW + 100);
    assert_eq!(revived.handle(&retired).await, kept(KeptReason::InForce));
    assert!(fixture.is_unchanged() && revived.is_unchanged());
}

#[tokio::test]
async fn retries_while_another_process_removes_the_endpoint() {
    let until = Seconds(NOW + 50);
    let fixture = Fixture::with(DeviceState::Removing { until }, NOW - 1).await;
    let retired = fixture.retired(DeviceState::Active, NOW - 1);
    assert!(fixture.handle_at(&retired, NOW).await.is_err());
    assert!(fixture.is_unchanged());
    assert_eq!(
        fixture.handle_at(&retired, NOW + 50).await,
        Ok(FeedbackOutcome::Removed)
    );
}

#[tokio::test]
async fn asks_to_reconcile_again_if_the_request_cannot_be_sent() {
    let fixture = Fixture::with(DeviceState::Gone, NOW + 100).await;
    let retired = fixture.retired(DeviceState::Gone, NOW + 100);
    // The row is read, the removal is written, and the request fails.
    fixture.memory.state().fail_in = Some(2);
    assert!(fixture.handle_at(&retired, NOW).await.is_err());
    assert!(fixture.memory.state().sent.is_empty() && !fixture.is_removed());
    let after_lease = NOW + REMOVING_LEASE.0 + 1;
    let retried = fixture.handle_at(&retired, after_lease).await;
    assert_eq!(retried, Ok(FeedbackOutcome::Removed));
    assert!(fixture.is_removed() && fixture.has_asked_to_reconcile());
}

proptest! {
    #[test]
    fn a_retry_repairs_a_crash_at_any_call(
        crash in 0..8usize,
        after_effect: bool,
        is_dropped: bool,
        from_sns: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let state = if from_sns { DeviceState::Active } else { DeviceState::Gone };
            let fixture = Fixture::with(state, NOW + 100).await;
            fixture.disable();
            if is_dropped && !from_sns {
                fixture.memory.state().devices.clear();
            }
            let message = if from_sns {
                fixture.event("EndpointUpdated")
            } else {
                fixture.retired(DeviceState::Gone, NOW + 100)
            };
            fixture.memory.state().fail_in = Some(crash);
            fixture.memory.state().fail_after_effect = after_effect;
            let mut tries = 0;
            let retry_at = |tries| NOW + tries * (REMOVING_LEASE.0 + 1);
            while fixture.handle_at(&message, retry_at(tries)).await.is_err() {
                tries += 1;
                assert!(tries < 3, "the message fails at every attempt");
            }
            assert!(fixture.is_removed());
            assert!(fixture.has_asked_to_reconcile());
        });
    }
}

#[test]
fn decodes_the_retired_device_that_was_encoded() {
    let retired = RetiredDevice {
        app: APP.to_owned(),
        token_hash: TOKEN_HASH.to_owned(),
        registration: serde_json::from_value(json!({
            "owner": owner(Keys::generate().public_key()), "order": Order::counter(1),
            "platform": "fcm", "endpoint_arn": "arn", "state": "active", "valid_until": 5,
        }))
        .unwrap(),
    };
    assert_eq!(
        FeedbackMessage::read(&message::encode(&retired).unwrap()).unwrap(),
        FeedbackMessage::Retired(Box::new(retired))
    );
}
