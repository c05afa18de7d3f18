//! The table `devices`: device rows and rosters.

use std::collections::BTreeMap;

use nostr_push_aws::dynamodb::Store;
use nostr_push_core::{
    Seconds,
    device::{Device, DeviceId, DeviceState, Registration, Roster},
    ports::Devices,
};
use nostr_push_testkit::{builders, registration};

use crate::{new_owner, order};

pub(crate) async fn both_rows_are_written_or_neither(store: &Store) {
    let owner = new_owner();
    let registration = Registration {
        order: order(5, 1),
        by_settings: true,
        registered_at: Seconds(4),
        max_mentions: Some(10),
        first_delivered_at: Some(Seconds(7)),
        proven: true,
        taken_from: Some(new_owner()),
        state: DeviceState::Removing { until: Seconds(9) },
        valid_until: Seconds(10),
        ..registration(&owner, "arn")
    };
    let device = Device {
        removals: BTreeMap::from([("cd".repeat(32), order(3, 2))]),
        expires_at: Seconds(11),
        ..builders::device(&"ab".repeat(32), registration)
    };
    let roster = Roster {
        removed_all: Some(order(2, 3)),
        ..builders::roster(&owner, &[&device])
    };
    assert!(store.commit(Some(&device), Some(&roster)).await.unwrap());
    let stored = Device {
        version: 1,
        ..device.clone()
    };
    let stored_roster = Roster {
        version: 1,
        ..roster.clone()
    };
    let id = device.id;
    let absent = DeviceId {
        token_hash: "none".to_owned(),
        ..id.clone()
    };
    let found = store.devices(&[id.clone(), absent]).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&stored));
    assert_eq!(store.roster(&owner).await.unwrap(), Some(stored_roster));
    assert_eq!(store.roster(&new_owner()).await.unwrap(), None);
    let by_endpoint = store.device_of_endpoint("arn").await.unwrap();
    assert_eq!(by_endpoint, Some(id.clone()));
    assert_eq!(store.device_of_endpoint("another").await.unwrap(), None);

    let with_expiry = |expires_at| Device {
        expires_at: Seconds(expires_at),
        ..stored.clone()
    };
    // The roster is outdated, so the device is not written either.
    let written = store.commit(Some(&with_expiry(99)), Some(&roster)).await;
    assert!(!written.unwrap());
    let unchanged = store.devices(std::slice::from_ref(&id)).await.unwrap();
    assert_eq!(unchanged, std::slice::from_ref(&stored));
    // One of two concurrent writers wins.
    let (a, b) = (with_expiry(20), with_expiry(21));
    let (a, b) = tokio::join!(store.commit(Some(&a), None), store.commit(Some(&b), None));
    assert_ne!(a.unwrap(), b.unwrap());
    assert_eq!(store.devices(&[id]).await.unwrap()[0].version, 2);
}
