//! The record of accepted pushes that proves a device.

use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Seconds,
    app::{App, Platform},
    device::{DeviceId, DeviceState, Registration},
    ports::{Devices, PublishOutcome},
};
use nostr_push_testkit::{
    builders::{self, APP},
    event,
    memory::Memory,
};

use super::{
    LEASE, NOW, attempt, delivery, event_message, is_completed_on, memory, published, reconciles,
    set_outcome, state_of,
};
use crate::{
    claim::{Attempt, Claim},
    names::Names,
    notice::Notice,
    push,
};

/// An event whose push shows no names, so that no profile is read or requested.
fn note(content: &str) -> Event {
    event(&Keys::generate(), 445, NOW, &[], content)
}

/// The proof of a device: when SNS first accepted a push, and whether the device is proven.
fn proof(memory: &Memory, name: &str) -> (Option<Seconds>, bool) {
    let id = DeviceId {
        app: APP.to_owned(),
        token_hash: name.to_owned(),
    };
    let state = memory.state();
    let registration = state.devices[&id].registration.as_ref().unwrap();
    (registration.first_delivered_at, registration.proven)
}

#[tokio::test]
async fn two_pushes_with_time_between_prove_a_device() {
    let memory = memory(&[("a", Platform::Fcm), ("dead", Platform::Fcm)]);
    let first = attempt(&memory, &delivery(note("1")), 0).await.unwrap();
    assert!(is_completed_on(&first, 2));
    let at_first = (Some(Seconds(NOW)), false);
    assert_eq!(
        (proof(&memory, "a"), proof(&memory, "dead")),
        (at_first, at_first)
    );
    set_outcome(&memory, "dead", PublishOutcome::Gone);
    attempt(&memory, &delivery(note("2")), 1).await.unwrap();
    assert_eq!(proof(&memory, "a"), at_first);
    assert_eq!(reconciles(&memory), 0);
    attempt(&memory, &delivery(note("3")), 15).await.unwrap();
    assert_eq!(proof(&memory, "a"), (None, true));
    assert_eq!(reconciles(&memory), 1, "control learns of the proof");
    for roster in memory.state().rosters.values_mut() {
        roster.proven = true;
    }
    attempt(&memory, &delivery(note("4")), 30).await.unwrap();
    assert_eq!(reconciles(&memory), 1);
    assert_eq!(proof(&memory, "dead"), at_first);
    assert_eq!(state_of(&memory, "dead"), DeviceState::Gone);
}

#[tokio::test]
async fn delivery_succeeds_if_it_cannot_be_recorded() {
    for (fail_after_effect, first) in [(false, None), (true, Some(Seconds(NOW)))] {
        let mut failed = 0;
        // Each call fails once. Only the one that records the push may fail without consequences.
        for crash in 0..12 {
            let memory = memory(&[("a", Platform::Fcm)]);
            memory.state().fail_in = Some(crash);
            memory.state().fail_after_effect = fail_after_effect;
            let outcome = attempt(&memory, &delivery(note("hi")), 0).await;
            let has_failed = memory.state().fail_in.is_none();
            if has_failed && outcome.is_ok_and(|outcome| is_completed_on(&outcome, 1)) {
                assert_eq!(proof(&memory, "a"), (first, false));
                assert_eq!(published(&memory), ["arn:a"]);
                failed += 1;
            }
        }
        assert_eq!(failed, 1, "only the record may fail");
    }
}

#[tokio::test]
async fn push_is_not_repeated_if_control_cannot_be_told_of_the_proof() {
    // The memory after a push that proves the device, of which this call fails.
    let prove = async |crash: usize| {
        let memory = memory(&[("a", Platform::Fcm)]);
        attempt(&memory, &delivery(note("1")), 0).await.unwrap();
        memory.state().fail_in = Some(crash);
        let outcome = attempt(&memory, &delivery(note("2")), 16).await;
        (memory, outcome)
    };
    let mut lost = 0;
    for crash in 0..12 {
        let (memory, outcome) = prove(crash).await;
        let is_proven = proof(&memory, "a").1;
        if is_proven && reconciles(&memory) == 0 {
            assert!(is_completed_on(&outcome.unwrap(), 1), "{crash}");
            assert_eq!(published(&memory), ["arn:a", "arn:a"]);
            lost += 1;
        }
    }
    assert_eq!(lost, 1, "one of the calls is the message to control");
}

#[tokio::test]
async fn proof_of_a_push_does_not_change_a_newer_registration() {
    let memory = memory(&[("a", Platform::Fcm)]);
    let device = memory.state().devices.values().next().cloned().unwrap();
    let renewed = Registration {
        registered_at: Seconds(NOW),
        ..device.registration.clone().unwrap()
    };
    let newer = builders::device("a", renewed);
    let (delivery, attempt) = (
        delivery(note("hi")),
        Attempt {
            holder: "message/1".to_owned(),
            now: Seconds(NOW).to_millis(),
            lease: LEASE,
        },
    );
    let message = event_message(&delivery);
    let claim = Claim::new(&message, &attempt);
    claim.acquire(&memory).await.unwrap();
    let app = App::named(APP);
    let notice = Notice::of_event(&app, &delivery, Names::default(), Seconds(NOW));
    // The row changes between the read and the record.
    memory.commit(Some(&newer), None).await.unwrap();
    let registration = device.registration.as_ref().unwrap();
    let target = (&device, registration);
    push::publish(
        &memory,
        &memory,
        &memory,
        &claim,
        target,
        &notice,
        Seconds(NOW),
    )
    .await
    .unwrap();
    assert_eq!(proof(&memory, "a"), (None, false));
}

#[tokio::test]
async fn outdated_roster_is_reconciled() {
    for (is_device_proven, is_roster_proven) in
        [(false, false), (true, true), (true, false), (false, true)]
    {
        let memory = memory(&[("a", Platform::Fcm)]);
        for device in memory.state().devices.values_mut() {
            device.registration.as_mut().unwrap().proven = is_device_proven;
        }
        for roster in memory.state().rosters.values_mut() {
            roster.proven = is_roster_proven;
        }
        let outcome = attempt(&memory, &delivery(note("hi")), 0).await.unwrap();
        assert!(is_completed_on(&outcome, 1));
        let is_outdated = is_device_proven != is_roster_proven;
        assert_eq!(reconciles(&memory), usize::from(is_outdated));
    }
}

#[tokio::test]
async fn push_is_not_repeated_if_control_is_not_told_of_an_outdated_roster() {
    let mut lost = 0;
    for crash in 0..12 {
        let memory = memory(&[("a", Platform::Fcm)]);
        for roster in memory.state().rosters.values_mut() {
            roster.proven = true;
        }
        memory.state().fail_in = Some(crash);
        let outcome = attempt(&memory, &delivery(note("hi")), 0).await;
        let is_completed = outcome.is_ok_and(|outcome| is_completed_on(&outcome, 1));
        if is_completed && reconciles(&memory) == 0 {
            assert_eq!(published(&memory), ["arn:a"]);
            lost += 1;
        }
    }
    assert_eq!(lost, 1, "one of the calls is the message to control");
}
