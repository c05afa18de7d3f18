//! When a device counts as proven.

use nostr::key::Keys;
use nostr_push_core::{
    Seconds,
    app::Platform,
    device::{
        Device, DeviceState, OwnerDevices, PROVEN_AFTER, Registration, RegistrationDecision,
        RegistrationRequest, Roster, register,
    },
    order::Order,
    owner::Owner,
    shape::PayloadOptions,
};
use nostr_push_testkit::{
    builders::{FAR_FUTURE, device},
    owner, registration,
};

const NOW: Seconds = Seconds(1_800_000_000);

fn someone() -> Owner {
    owner(Keys::generate().public_key())
}

/// The registration after SNS accepted a push at each of these times.
fn delivered(mut row: Device, times: &[Seconds]) -> Device {
    for now in times {
        row = row.delivered(*now).unwrap_or(row);
    }
    row
}

fn proven_device(owner: &Owner) -> Device {
    delivered(
        device("hash", registration(owner, "arn")),
        &[NOW, NOW + PROVEN_AFTER],
    )
}

fn is_proven(row: &Device) -> bool {
    row.registration.as_ref().is_some_and(|r| r.proven)
}

/// The row after `owner` has registered the token again.
fn registered_again(row: &Device, owner: &Owner) -> Device {
    let request = RegistrationRequest {
        device: row.id.clone(),
        owner: owner.clone(),
        order: Order::counter(2),
        platform: Platform::Fcm,
        by_settings: false,
        max_mentions: None,
        payload: PayloadOptions::default(),
        valid_until: FAR_FUTURE,
        is_superseded: false,
    };
    let devices = OwnerDevices {
        roster: Roster::new(owner.clone()),
        devices: Vec::new(),
    };
    match register(&request, Some(row), &devices, NOW) {
        RegistrationDecision::Commit(rows) => rows.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_push_proves_nothing() {
    let row = device("hash", registration(&someone(), "arn"));
    let just_before = NOW + PROVEN_AFTER - Seconds(1);
    let first = row.delivered(NOW).unwrap();
    assert!(!is_proven(&first));
    assert_eq!(first.delivered(NOW), None);
    assert_eq!(first.delivered(just_before), None);
    assert_eq!(first.delivered(Seconds(0)), None, "clocks may differ");
}

#[test]
fn second_push_after_a_while_proves_the_device() {
    let alice = someone();
    let row = proven_device(&alice);
    assert!(is_proven(&row));
    assert_eq!(row.delivered(FAR_FUTURE), None, "nothing more is written");
    let devices = OwnerDevices {
        roster: Roster::new(alice),
        devices: vec![row],
    };
    assert!(devices.has_proven(NOW));
    assert!(
        !devices.has_proven(FAR_FUTURE),
        "the registration has ended"
    );
}

#[test]
fn renewal_keeps_a_proof_and_restarts_an_unfinished_one() {
    let alice = someone();
    assert!(is_proven(&registered_again(&proven_device(&alice), &alice)));
    // The renewal enables the endpoint of a dead token, so the next push is accepted again.
    let once = delivered(device("hash", registration(&alice, "arn")), &[NOW]);
    let renewed = delivered(registered_again(&once, &alice), &[NOW + PROVEN_AFTER]);
    assert!(!is_proven(&renewed));
    let later = NOW + PROVEN_AFTER + PROVEN_AFTER;
    assert!(is_proven(&delivered(renewed, &[later])));
}

#[test]
fn another_owner_and_a_removed_or_dead_token_start_from_nothing() {
    let alice = someone();
    let row = proven_device(&alice);
    assert!(!is_proven(&registered_again(&row, &someone())));
    assert!(!is_proven(&registered_again(
        &row.clone().removed(),
        &alice
    )));
    let gone = row.gone();
    assert!(!is_proven(&registered_again(&gone, &alice)));
}

#[test]
fn push_to_a_device_that_is_not_in_force_proves_nothing() {
    let states = [
        DeviceState::Gone,
        DeviceState::Removed,
        DeviceState::Removing { until: FAR_FUTURE },
    ];
    for state in states {
        let row = device(
            "hash",
            Registration {
                state,
                ..registration(&someone(), "arn")
            },
        );
        assert_eq!(row.delivered(NOW), None, "{state:?}");
    }
}
