//! The table `profiles`.

use std::collections::{BTreeMap, HashMap};

use nostr::key::Keys;
use nostr_push_aws::{
    clients::{self, SdkConfig},
    dynamodb::Store,
};
use nostr_push_core::{
    Seconds,
    ports::{ProfileWriter, Profiles},
    profile::{Profile, ProfileKey, ProfileUpdate, REFRESH_AFTER, RETRY_AFTER},
};
use nostr_push_local::{
    aws::STACK,
    proxy::{ServiceProxy, faults::FaultPlan},
};

use crate::order;

const ENDPOINT: &str = "AWS_ENDPOINT_URL";

const PICTURE: &str = "https://example.com/a.png";

/// Stores with an empty cache each.
struct Stores(SdkConfig);

impl Stores {
    async fn of(environment: &HashMap<String, String>) -> Self {
        Self(clients::at(environment, ENDPOINT).await)
    }

    fn store(&self) -> Store {
        Store::new(&self.0, STACK)
    }

    /// The profile as it is stored.
    async fn read(&self, key: &ProfileKey) -> Option<Profile> {
        read(&self.store(), key).await
    }
}

/// The profile as the store returns it.
async fn read(store: &Store, key: &ProfileKey) -> Option<Profile> {
    let keys = std::slice::from_ref(key);
    store.profiles(keys).await.unwrap().remove(key).unwrap()
}

fn new_person() -> ProfileKey {
    ProfileKey::Person(Keys::generate().public_key())
}

fn new_group() -> ProfileKey {
    ProfileKey::Group {
        relay: format!("wss://{}.example", Keys::generate().public_key()),
        id: "rust # x".to_owned(),
    }
}

/// An event with this name, and with a picture if it has a name.
fn event(key: &ProfileKey, name: Option<&str>, created_at: u64, id: u8) -> ProfileUpdate {
    ProfileUpdate {
        key: key.clone(),
        name: name.map(str::to_owned),
        picture: name.map(|_| PICTURE.to_owned()),
        order: order(created_at, id),
    }
}

fn profile(name: &str, asked_at: Seconds) -> Profile {
    Profile {
        name: Some(name.to_owned()),
        picture: Some(PICTURE.to_owned()),
        asked_at,
    }
}

fn now() -> Seconds {
    clients::now().to_seconds()
}

pub(crate) async fn newest_event_wins(environment: &HashMap<String, String>) {
    let stores = Stores::of(environment).await;
    for key in [new_person(), new_group()] {
        for (event, is_written) in [
            (event(&key, Some("alice"), 5, 5), true),
            (event(&key, Some("alice"), 5, 5), false),
            (event(&key, Some("older"), 4, 9), false),
            (event(&key, Some("higher id"), 5, 6), false),
            (event(&key, Some("lower id"), 5, 4), true),
            (event(&key, Some("bob"), 6, 0), true),
        ] {
            let written = stores.store().put_profile(&event, now()).await.unwrap();
            assert_eq!(written, is_written, "{event:?}");
        }
        assert_eq!(stores.read(&key).await, Some(profile("bob", Seconds(0))));
        // A name that its owner removes disappears.
        let removed = event(&key, None, 7, 0);
        assert!(stores.store().put_profile(&removed, now()).await.unwrap());
        assert_eq!(stores.read(&key).await, Some(Profile::default()));
    }
}

pub(crate) async fn request_and_event_keep_what_the_other_wrote(
    environment: &HashMap<String, String>,
) {
    let stores = Stores::of(environment).await;
    let (store, alice, now) = (stores.store(), new_person(), now());
    let earlier = now - Seconds::from_days(1);
    assert!(store.claim_request(&alice, earlier).await.unwrap());
    let nameless = Profile {
        asked_at: earlier,
        ..Profile::default()
    };
    assert_eq!(stores.read(&alice).await, Some(nameless));
    let event = event(&alice, Some("alice"), 5, 5);
    assert!(store.put_profile(&event, now).await.unwrap());
    assert_eq!(stores.read(&alice).await, Some(profile("alice", earlier)));
    assert!(store.claim_request(&alice, now).await.unwrap());
    assert_eq!(stores.read(&alice).await, Some(profile("alice", now)));
    assert!(!store.put_profile(&event, now).await.unwrap());
}

pub(crate) async fn request_is_claimed_once(environment: &HashMap<String, String>) {
    let stores = Stores::of(environment).await;
    let (first, second) = (stores.store(), stores.store());
    let (alice, now) = (new_person(), now());
    // Both instances have read that there is no row.
    for store in [&first, &second] {
        assert_eq!(read(store, &alice).await, None);
    }
    assert!(first.claim_request(&alice, now).await.unwrap());
    assert!(!second.claim_request(&alice, now).await.unwrap());
    let asked_at = |profile: Option<Profile>| profile.unwrap().asked_at;
    assert_eq!(asked_at(read(&second, &alice).await), now, "cached");
    let in_an_hour = now + RETRY_AFTER;
    assert!(second.claim_request(&alice, in_an_hour).await.unwrap());
    // A name is refreshed daily.
    let event = event(&alice, Some("alice"), 5, 5);
    assert!(first.put_profile(&event, now).await.unwrap());
    let later = in_an_hour + REFRESH_AFTER - Seconds(1);
    assert!(!first.claim_request(&alice, later).await.unwrap());
    let later = later + Seconds(1);
    assert!(first.claim_request(&alice, later).await.unwrap());
    // A claim that is given back is due at once, and an older one cannot be given back.
    first.release_request(&alice, now).await.unwrap();
    assert!(!second.claim_request(&alice, later).await.unwrap());
    first.release_request(&alice, later).await.unwrap();
    assert!(second.claim_request(&alice, later).await.unwrap());
    assert_eq!(stores.read(&alice).await, Some(profile("alice", later)));
}

pub(crate) async fn reads_are_cached_until_the_profile_is_requested(
    environment: &HashMap<String, String>,
) {
    let stores = Stores::of(environment).await;
    let (store, listener, alice) = (stores.store(), stores.store(), new_person());
    let put = async |name: &str, created_at| {
        let event = event(&alice, Some(name), created_at, 0);
        assert!(listener.put_profile(&event, now()).await.unwrap());
    };
    assert_eq!(read(&store, &alice).await, None);
    put("alice", 1).await;
    assert_eq!(read(&store, &alice).await, None, "cached");
    let now = now();
    assert!(store.claim_request(&alice, now).await.unwrap());
    assert_eq!(read(&store, &alice).await, Some(profile("alice", now)));
    put("bob", 2).await;
    assert_eq!(read(&store, &alice).await, Some(profile("alice", now)));
    assert_eq!(stores.read(&alice).await, Some(profile("bob", now)));
}

pub(crate) async fn unprocessed_keys_are_read_again(environment: &HashMap<String, String>) {
    let proxy = ServiceProxy::default();
    let mut environment = environment.clone();
    let url = proxy.serve(&environment[ENDPOINT]).await.unwrap();
    environment.insert(ENDPOINT.to_owned(), url);
    let stores = Stores::of(&environment).await;
    let keys = [new_person(), new_person()];
    let mut expected = BTreeMap::new();
    for key in &keys {
        let event = event(key, Some("alice"), 1, 1);
        assert!(stores.store().put_profile(&event, now()).await.unwrap());
        expected.insert(key.clone(), Some(profile("alice", Seconds(0))));
    }
    let store = stores.store();
    proxy.faults.start(FaultPlan {
        batch_reads_cut: 1.0,
        ..FaultPlan::default()
    });
    assert_eq!(store.profiles(&keys).await.unwrap().len(), 1);
    proxy.faults.stop();
    assert_eq!(store.profiles(&keys).await.unwrap(), expected);
}
