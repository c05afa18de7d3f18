//! The tables without a file of their own: `apps`, `presence`, `settings`, `mute_lists`, `rates`,
//! `relays` and `claims`.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use nostr::{event::EventId, key::Keys};
use nostr_push_aws::dynamodb::{Store, spending::Spending};
use nostr_push_core::{
    Millis, Seconds,
    admission::Admission,
    app::{App, ContentDetail, Platform},
    capacity::Usage,
    mute_list::MuteList,
    ports::{
        Apps, Blocklist, Budgets, ClaimResult, Claims, Members, MuteLists, OwnerSettings,
        Presences, RateAdmission, Rates, RelayCursor, Relays, Usages,
    },
    presence::Presence,
    settings::Settings,
    shape::Shape,
};
use nostr_push_testkit::event;
use serde_json::json;

use crate::{new_owner, order};

pub(crate) async fn app_is_read_as_written(store: &Store) {
    let app = App {
        app: "demo".to_owned(),
        platforms: BTreeMap::from([(Platform::ApnsSandbox, "arn".to_owned())]),
        moving_from: vec!["arn:earlier".to_owned()],
        triggers: vec![json!({"kinds": [1], "#p": ["$owner"]})],
        allow_broad_filters: true,
        presence_timeout: Some(Seconds(20)),
        default_kinds: Some(vec![1]),
        contacts_only: true,
        token_prefixes: vec!["com.example.app".to_owned()],
        content: ContentDetail::Minimal,
        localized: true,
        max_pushes: Some(5),
        max_mentions: Some(20),
        payload: [(Platform::Fcm, Shape::Verse)].into(),
        admission: Admission::Pow,
        pow_difficulty: Some(24),
        grant_key: Some(Keys::generate().public_key()),
        allowed: vec![Keys::generate().public_key()],
        follow_lists: vec![Keys::generate().public_key()],
        followed: vec![Keys::generate().public_key()],
    };
    store.put_app(&app).await.unwrap();
    assert_eq!(store.app("demo").await.unwrap(), Some(app.clone()));
    assert_eq!(store.app("unknown").await.unwrap(), None);
    store
        .set_blocked(&Keys::generate().public_key(), true)
        .await
        .unwrap();
    assert_eq!(store.all_apps().await.unwrap(), std::slice::from_ref(&app));
    let app = App {
        followed: vec![Keys::generate().public_key()],
        ..app
    };
    assert!(store.set_followed("demo", &app.followed).await.unwrap());
    let unknown = store.set_followed("unknown", &app.followed).await;
    assert!(!unknown.unwrap(), "an app that was removed stays removed");
    assert_eq!(store.all_apps().await.unwrap(), [app]);
}

pub(crate) async fn spending_is_read_since_a_time(store: &Store) {
    let (owner, since) = (new_owner(), Seconds(5_000_000_000));
    for (window, id) in [(since - Seconds(60), 1), (since, 1), (since, 2)] {
        let event = order(1, id).event_id;
        store.admit(&owner, window, &event, 30).await.unwrap();
    }
    assert!(store.take("owner:x", since, 7, 10).await.unwrap());
    let mut counted = Vec::new();
    let spending = store.spending(since, |spending| counted.push(spending));
    spending.await.unwrap();
    assert_eq!(counted.len(), 2);
    assert!(counted.contains(&Spending::Pushes { owner, pushes: 2 }));
    assert!(counted.contains(&Spending::Budget {
        name: "owner:x".to_owned(),
        taken: 7,
    }));
}

pub(crate) async fn pubkey_is_blocked_until_it_is_released(store: &Store) {
    let pubkey = Keys::generate().public_key();
    store.set_blocked(&pubkey, true).await.unwrap();
    assert!(store.blocked().await.unwrap().contains(&pubkey.to_hex()));
    assert!(store.is_blocked(&pubkey).await.unwrap());
    store.set_blocked(&pubkey, false).await.unwrap();
    assert!(!store.blocked().await.unwrap().contains(&pubkey.to_hex()));
}

pub(crate) async fn budget_is_never_exceeded(store: &Store) {
    let take = async |window, units, max| {
        let taken = store.take("test", Seconds(window), units, max).await;
        taken.unwrap()
    };
    assert!(take(60, 7, 10).await);
    assert!(!take(60, 4, 10).await, "only 3 are left");
    assert!(take(60, 3, 10).await);
    assert!(!take(60, 1, 10).await);
    assert!(
        take(120, 10, 10).await,
        "the next window has its own budget"
    );
    assert!(!take(180, 11, 10).await, "more than the whole budget");
}

pub(crate) async fn usage_is_read_as_recorded(store: &Store) {
    let usage = Usage {
        owners: 1,
        index_keys: 2,
        subscriptions: 3,
        index_rows: 4,
        counted_at: Seconds(5),
    };
    store.record_usage(&usage).await.unwrap();
    assert_eq!(store.usage().await.unwrap(), Some(usage));
}

pub(crate) async fn newest_presence_wins(store: &Store) {
    let owner = new_owner();
    let presence = |at, id, online| Presence {
        order: order(at, id),
        online,
        last_seen: Seconds(at - 1),
        awaited: false,
    };
    let put = async |presence| {
        let written = store.put_presence(&owner, &presence, Seconds(9)).await;
        written.unwrap()
    };
    let stored = async || store.presence(&owner).await.unwrap();
    let mark = async |at, id| store.mark_awaited(&owner, &order(at, id)).await.unwrap();

    assert_eq!(stored().await, None);
    assert!(put(presence(5, 5, true)).await);
    assert!(!put(presence(4, 1, false)).await, "an older event loses");
    let tie = presence(5, 4, false);
    assert!(put(tie).await, "on a tie the smaller event id wins");
    assert!(!mark(5, 5).await, "the stored event is another one");
    assert_eq!(stored().await, Some(tie));
    assert!(mark(5, 4).await);
    let awaited = Presence {
        awaited: true,
        ..tie
    };
    assert_eq!(stored().await, Some(awaited));
    let marked = store.mark_awaited(&new_owner(), &order(5, 4)).await;
    assert!(!marked.unwrap(), "marking creates no row");
    let next = presence(6, 1, true);
    assert!(put(next).await);
    assert_eq!(stored().await, Some(next), "a newer event ends the wait");
}

pub(crate) async fn newest_settings_win(store: &Store) {
    let owner = new_owner();
    let old = Settings::logged_out(owner.clone(), order(5, 5));
    let new = Settings {
        kinds: None,
        p: vec![[0xab; 32]],
        e: vec!["é".into()],
        authors: Some(vec![[0xcd; 32]]),
        relays: vec!["wss://relay".to_owned()],
        token_hash: Some("hash".to_owned()),
        ..Settings::logged_out(owner.clone(), order(6, 1))
    };
    assert_eq!(store.settings(&owner).await.unwrap(), None);
    assert!(store.put_settings(&new).await.unwrap());
    assert!(!store.put_settings(&old).await.unwrap());
    assert_eq!(store.settings(&owner).await.unwrap(), Some(new));
    let concurrent: Vec<Settings> = (0..4)
        .map(|id| Settings::logged_out(owner.clone(), order(7, id)))
        .collect();
    join_all(concurrent.iter().map(|row| store.put_settings(row))).await;
    let stored = store.settings(&owner).await.unwrap();
    assert_eq!(stored.as_ref(), Some(&concurrent[0]));
}

pub(crate) async fn newest_mute_list_wins(store: &Store) {
    let keys = Keys::generate();
    let list = |at, tags: &[&[&str]]| {
        let event = event(&keys, nostr_push_core::MUTE_LIST_KIND, at, tags, "");
        MuteList::of(&event, Seconds(10))
    };
    let stored = async || store.mute_list(&keys.public_key()).await.unwrap();
    let (old, new) = (list(1, &[&["word", "old"]]), list(2, &[&["word", "new"]]));
    assert_eq!(stored().await, None);
    assert!(store.put_mute_list(&new).await.unwrap());
    assert!(!store.put_mute_list(&old).await.unwrap());
    assert_eq!(stored().await, Some(new));
    // An owner may remove all entries.
    let empty = list(3, &[]);
    assert!(store.put_mute_list(&empty).await.unwrap());
    assert_eq!(stored().await, Some(empty));
}

pub(crate) async fn rate_limit_holds_under_concurrency(store: &Store) {
    let owner = new_owner();
    let (minute, next_minute) = (Seconds(60), Seconds(120));
    let event = |n: u8| EventId::from_byte_array([n; 32]);
    let admit = async |n| store.admit(&owner, minute, &event(n), 5).await.unwrap();
    let admissions = join_all((0..20).map(admit)).await;
    let admitted: Vec<u8> = (0..20)
        .zip(&admissions)
        .filter(|(_, admission)| **admission == RateAdmission::Admitted)
        .map(|(n, _)| n)
        .collect();
    assert_eq!(admitted.len(), 5);
    let repeated = admit(admitted[0]).await;
    assert_eq!(
        repeated,
        RateAdmission::Admitted,
        "a repeat is admitted again"
    );
    assert_eq!(admit(99).await, RateAdmission::Full { first: true });
    for counted in join_all((0..3).map(|_| store.overflow(&owner, minute))).await {
        counted.unwrap();
    }
    assert_eq!(admit(99).await, RateAdmission::Full { first: false });
    assert_eq!(store.overflowed(&owner, minute).await.unwrap(), 3);
    assert_eq!(store.overflowed(&owner, next_minute).await.unwrap(), 0);
    let next = store.admit(&owner, next_minute, &event(99), 5).await;
    assert_eq!(
        next.unwrap(),
        RateAdmission::Admitted,
        "minutes are separate"
    );
}

pub(crate) async fn cursors_only_grow(store: &Store) {
    let (relay, now) = ("wss://r", Seconds(100));
    assert_eq!(store.cursor(relay).await.unwrap(), None);
    let checkpoint = async |cursor, status| {
        let cursor = RelayCursor {
            read_until: Seconds(cursor),
            swept_at: Seconds(cursor - 1),
        };
        store.checkpoint(relay, cursor, status, now).await.unwrap();
    };
    checkpoint(100, "").await;
    checkpoint(90, "late").await;
    let cursor = store.cursor(relay).await.unwrap().unwrap();
    assert_eq!(
        (cursor.read_until, cursor.swept_at),
        (Seconds(100), Seconds(99))
    );
}

pub(crate) async fn members_join_expire_and_leave(store: &Store) {
    let join = async |member, now| {
        let now = Seconds(now);
        store.join(member, now, now + Seconds(30)).await.unwrap()
    };
    assert_eq!(join("a", 100).await, ["a"]);
    assert_eq!(join("b", 110).await, ["a", "b"]);
    assert_eq!(join("b", 131).await, ["b"], "the lease of a has ended");
    assert_eq!(join("a", 140).await, ["a", "b"], "a can join again");
    store.leave("b").await.unwrap();
    assert_eq!(join("a", 141).await, ["a"]);
    assert_eq!(join("c", 10_000).await, ["c"]);
    store.leave("c").await.unwrap();
}

pub(crate) async fn claim_has_one_holder(store: &Store) {
    let acquired =
        |done: &[&str]| ClaimResult::Acquired(done.iter().map(|d| (*d).to_owned()).collect());
    let acquire = async |holder, now| {
        let (now, until) = (Millis(now), Millis(now + 1_000));
        store.acquire("c", holder, now, until).await.unwrap()
    };
    assert_eq!(acquire("a", 1_000).await, acquired(&[]));
    assert_eq!(acquire("b", 1_500).await, ClaimResult::Taken(Millis(2_000)));
    assert!(store.done("c", "a", "device").await.unwrap());
    let after_lease = acquire("b", 2_000).await;
    assert_eq!(after_lease, acquired(&["device"]), "the lease has ended");
    let recorded = store.done("c", "a", "other").await.unwrap();
    assert!(!recorded, "a is no longer the holder");
    store.release("c", "a", true).await.unwrap();
    store.release("c", "b", false).await.unwrap();
    let after_release = acquire("c", 2_100).await;
    assert_eq!(
        after_release,
        acquired(&["device"]),
        "the claim is not completed"
    );
    store.release("c", "c", true).await.unwrap();
    assert_eq!(acquire("d", 9_000).await, ClaimResult::Completed);
}

pub(crate) async fn one_of_many_concurrent_holders_wins(store: &Store) {
    let acquire = async |n: u8| {
        let holder = n.to_string();
        let (now, until) = (Millis(1_000), Millis(2_000));
        store.acquire("concurrent", &holder, now, until).await
    };
    let results = join_all((0..10).map(acquire)).await;
    let winners = results
        .into_iter()
        .filter(|result| matches!(result, Ok(ClaimResult::Acquired(_))));
    assert_eq!(winners.count(), 1);
}
