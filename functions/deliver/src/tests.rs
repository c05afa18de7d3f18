//! The stage as a whole, on the ports in memory, and the payloads in every shape.

mod encryption;
mod limits_and_mutes;
mod names;
mod payloads;
mod proof;
mod receivers;
mod sizes;
mod vectors;
mod waiting;

use std::{collections::BTreeSet, time::Duration};

use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Millis, Seconds,
    app::{App, Platform},
    device::{Device, DeviceId, DeviceState, Registration},
    message::{self, Delivery, DeliveryMessage, ReconcileMessage},
    ports::{PortResult, PublishOutcome, Push, RejectReason, RetryReason},
};
use nostr_push_testkit::{
    builders::{self, APP},
    event,
    memory::Memory,
    owner, registration,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    claim::Attempt,
    handler,
    outcome::{DeliveryDropReason, DeliveryOutcome, DeliveryRetryReason},
    profile_requests::RequestBudgets,
};

const NOW: u64 = 1_800_000_000;

/// The lease of all attempts.
const LEASE: Seconds = Seconds(60);

/// A delivery of the event to the key `11…`.
pub(crate) fn delivery(event: Event) -> Delivery {
    Delivery {
        app: APP.to_owned(),
        recipient: recipient().public_key(),
        reasons: vec!["#p".to_owned(), "author".to_owned()],
        relay: "wss://relay.example".to_owned(),
        received_at: Seconds(NOW).to_millis(),
        cut: false,
        mentions: None,
        zapper: None,
        waited: false,
        event,
    }
}

pub(crate) fn recipient() -> Keys {
    Keys::parse(&"11".repeat(32)).unwrap()
}

pub(crate) fn note(content: &str) -> Event {
    event(&Keys::generate(), 1, NOW, &[], content)
}

pub(crate) fn event_message(delivery: &Delivery) -> DeliveryMessage {
    DeliveryMessage::Event(Box::new(delivery.clone()))
}

/// The ports, with these devices of the recipient.
fn memory(devices: &[(&str, Platform)]) -> Memory {
    let memory = Memory::with_apps([App::named(APP)]);
    let owner = owner(recipient().public_key());
    let devices: Vec<Device> = devices
        .iter()
        .map(|(name, platform)| {
            let registration = Registration {
                platform: *platform,
                ..registration(&owner, &format!("arn:{name}"))
            };
            builders::device(name, registration)
        })
        .collect();
    let roster = builders::roster(&owner, &devices.iter().collect::<Vec<_>>());
    let mut state = memory.state();
    state.rosters.insert(owner, roster);
    let rows = devices
        .into_iter()
        .map(|device| (device.id.clone(), device));
    state.devices.extend(rows);
    drop(state);
    memory
}

/// Handles a message in an instance that has handled no other.
async fn handle(
    memory: &Memory,
    message: &DeliveryMessage,
    attempt: &Attempt,
) -> PortResult<DeliveryOutcome> {
    let budgets = RequestBudgets::default();
    handler::handle(memory, memory, memory, &budgets, message, attempt).await
}

/// The `n`th attempt. It begins after the lease of the one before has ended.
async fn attempt(memory: &Memory, delivery: &Delivery, n: u64) -> Result<DeliveryOutcome, String> {
    let attempt = Attempt {
        holder: format!("message/{n}"),
        now: Seconds(NOW + n * 61).to_millis(),
        lease: LEASE,
    };
    handle(memory, &event_message(delivery), &attempt)
        .await
        .map_err(|error| error.to_string())
}

fn dropped(reason: DeliveryDropReason) -> DeliveryOutcome {
    DeliveryOutcome::Dropped(reason)
}

/// Returns `true` if the push was tried on this number of devices and the claim is completed.
fn is_completed_on(outcome: &DeliveryOutcome, number: usize) -> bool {
    matches!(outcome, DeliveryOutcome::Completed(devices) if devices.len() == number)
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

/// The number of messages to control.
fn reconciles(memory: &Memory) -> usize {
    let sent = &memory.state().sent;
    let messages = sent
        .iter()
        .map(|body| message::decode::<ReconcileMessage>(body));
    messages.flatten().count()
}

fn state_of(memory: &Memory, name: &str) -> DeviceState {
    let id = DeviceId {
        app: APP.to_owned(),
        token_hash: name.to_owned(),
    };
    memory.state().devices[&id]
        .registration
        .as_ref()
        .unwrap()
        .state
}

fn set_outcome(memory: &Memory, name: &str, outcome: PublishOutcome) {
    let arn = format!("arn:{name}");
    memory.state().outcomes.insert(arn, outcome);
}

#[tokio::test]
async fn pushes_once_to_every_device() {
    let memory = memory(&[("a", Platform::Apns), ("b", Platform::Fcm)]);
    let delivery = delivery(note("hi"));
    let first = attempt(&memory, &delivery, 0).await.unwrap();
    assert!(is_completed_on(&first, 2));
    assert_eq!(
        attempt(&memory, &delivery, 1).await,
        Ok(dropped(DeliveryDropReason::Duplicate))
    );
    assert_eq!(published(&memory), ["arn:a", "arn:b"]);
}

#[tokio::test]
async fn drops_undeliverable_events_with_a_reason() {
    let expiration = NOW.to_string();
    let tags: &[&[&str]] = &[&["expiration", &expiration]];
    let expired = delivery(event(&Keys::generate(), 1, NOW, tags, ""));
    assert_eq!(
        attempt(&memory(&[("a", Platform::Fcm)]), &expired, 0).await,
        Ok(dropped(DeliveryDropReason::Expired))
    );
    let of_unknown_app = Delivery {
        app: "unknown".to_owned(),
        ..delivery(note(""))
    };
    assert_eq!(
        attempt(&memory(&[("a", Platform::Fcm)]), &of_unknown_app, 0).await,
        Ok(dropped(DeliveryDropReason::UnknownApp))
    );
}

#[tokio::test]
async fn recipient_without_a_device_is_reconciled() {
    let delivery = delivery(note(""));
    let no_device = Ok(dropped(DeliveryDropReason::NoDevice));
    for crash in 0..12 {
        let memory = memory(&[]);
        memory.state().fail_in = Some(crash);
        let first = attempt(&memory, &delivery, 0).await;
        if first.is_err() {
            let second = attempt(&memory, &delivery, 1).await;
            let is_dropped =
                second == no_device || second == Ok(dropped(DeliveryDropReason::Duplicate));
            assert!(is_dropped, "{crash}: {second:?}");
        }
        let owner = owner(delivery.recipient);
        let expected = message::encode(&ReconcileMessage { reconcile: owner }).unwrap();
        let sent = memory.state().sent.clone();
        assert!(sent.contains(&expected), "{crash}: {sent:?}");
        assert_eq!(reconciles(&memory), sent.len());
    }
}

#[tokio::test]
async fn retries_while_another_attempt_holds_the_claim() {
    let memory = memory(&[("a", Platform::Fcm)]);
    let delivery = delivery(note(""));
    let (recipient, event_id) = (delivery.recipient.to_hex(), delivery.event.id.to_hex());
    let claim = format!("demo#{recipient}#{event_id}");
    let lease_end = Seconds(NOW + 30).to_millis();
    memory
        .state()
        .claims
        .insert(claim, ("other".to_owned(), lease_end, Vec::new(), false));
    let retry = DeliveryOutcome::Retry {
        after: Some(Duration::from_secs(31)),
        reason: DeliveryRetryReason::Claimed,
        devices: Vec::new(),
    };
    assert_eq!(attempt(&memory, &delivery, 0).await, Ok(retry));
    assert!(published(&memory).is_empty());
    assert!(matches!(
        attempt(&memory, &delivery, 1).await,
        Ok(DeliveryOutcome::Completed(_))
    ));
}

#[tokio::test]
async fn handles_each_publish_outcome() {
    let memory = memory(&[
        ("delivered", Platform::Fcm),
        ("retried", Platform::Fcm),
        ("gone", Platform::Fcm),
        ("rejected", Platform::Fcm),
    ]);
    let delivery = delivery(note(""));
    let throttled = PublishOutcome::Retry {
        after: Some(Duration::from_secs(7)),
        reason: RetryReason::Throttled,
    };
    let rejected = PublishOutcome::Rejected {
        reason: RejectReason::InvalidMessage,
        why: "why".to_owned(),
    };
    set_outcome(&memory, "retried", throttled);
    set_outcome(&memory, "gone", PublishOutcome::Gone);
    set_outcome(&memory, "rejected", rejected);
    let Ok(DeliveryOutcome::Retry {
        after,
        reason,
        devices,
    }) = attempt(&memory, &delivery, 0).await
    else {
        panic!("not retried")
    };
    assert_eq!(after, Some(Duration::from_secs(7)));
    assert_eq!(reason, DeliveryRetryReason::Publish(RetryReason::Throttled));
    assert_eq!(devices.len(), 4);
    assert_eq!(state_of(&memory, "gone"), DeviceState::Gone);
    assert_eq!(state_of(&memory, "rejected"), DeviceState::Active);
    set_outcome(&memory, "retried", PublishOutcome::Delivered);
    // Only the device that is not done is tried again.
    let second = attempt(&memory, &delivery, 1).await.unwrap();
    assert!(is_completed_on(&second, 1));
    assert_eq!(published(&memory), ["arn:delivered", "arn:retried"]);
}

/// Tries until the delivery is completed, and fails after four attempts.
async fn deliver_with_retries(memory: &Memory, delivery: &Delivery) {
    for n in 0..4 {
        let outcome = attempt(memory, delivery, n).await;
        if matches!(outcome, Ok(DeliveryOutcome::Completed(_)))
            || outcome == Ok(dropped(DeliveryDropReason::Duplicate))
        {
            return;
        }
    }
    panic!("four attempts failed");
}

proptest! {
    #[test]
    fn crash_at_any_call_loses_nothing_and_shows_once(
        crash in 0..14usize,
        after_effect: bool,
    ) {
        let memory = memory(&[("a", Platform::Apns), ("b", Platform::Apns)]);
        let delivery = delivery(note("hi"));
        memory.state().fail_in = Some(crash);
        memory.state().fail_after_effect = after_effect;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(deliver_with_retries(&memory, &delivery));
        let mut arns = published(&memory);
        arns.dedup();
        prop_assert_eq!(arns, ["arn:a", "arn:b"]);
        // A repeat has the same collapse id, so the phone shows one notification.
        let state = memory.state();
        let ids: BTreeSet<String> =
            state.published.iter().map(|(_, push)| collapse_id(push)).collect();
        prop_assert_eq!(ids.into_iter().collect::<Vec<_>>(), [delivery.event.id.to_hex()]);
        prop_assert!(state.published.len() <= 3);
    }
}

fn attribute(push: &Push, name: &str) -> String {
    push.attributes
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap()
        .1
        .clone()
}

fn collapse_id(push: &Push) -> String {
    attribute(push, "AWS.SNS.MOBILE.APNS.COLLAPSE_ID")
}
