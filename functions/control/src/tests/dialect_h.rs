//! Dialect H (kind 22456): payloads of existing clients, checks, settings and heartbeats.

use nostr_push_core::{
    filter::Filter,
    index_key::MAX_TAG_VALUE_BYTES,
    presence::{DEFAULT_TIMEOUT, Presence},
    subscription::{
        MAX_FILTER_KINDS, MAX_INDEX_KEYS, MUTE_LIST_PREFIX, Subscription, SubscriptionState,
    },
};
use nostr_push_testkit::{dialect_h_event, event};
use serde::Deserialize;

use super::*;

/// One payload of `dialect_h.json`, and its expected effect.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestVector {
    what: String,
    plaintext: Value,
    app: Option<String>,
    refused: Option<String>,
    applied: Option<String>,
    online: Option<bool>,
    /// The filters in force. `None` means that the settings are unchanged.
    filters: Option<Vec<Value>>,
    #[serde(default)]
    device: Option<VectorDevice>,
    relays: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct VectorDevice {
    platform: Platform,
    token: String,
}

impl Fixture {
    pub(super) fn settings(&self, keys: &Keys, at: u64, payload: &Value) -> Event {
        self.dialect_h(keys, at, &[], payload)
    }

    fn dialect_h(&self, keys: &Keys, at: u64, tags: &[&[&str]], payload: &Value) -> Event {
        let service = self.service.public_key();
        dialect_h_event(keys, service, at, tags, &payload.to_string())
    }

    pub(super) fn presence(&self, app: &str, keys: &Keys) -> Option<Presence> {
        let owner = Owner {
            app: app.to_owned(),
            pubkey: keys.public_key(),
        };
        self.stage.store.state().presences.get(&owner).copied()
    }

    /// The filters in force, as JSON, except those that fetch mute lists.
    pub(super) fn filters(&self) -> BTreeSet<String> {
        let state = self.stage.store.state();
        let rows = state.subscriptions.values().filter(|row| {
            row.is_active(Seconds(NOW)) && !row.identity.starts_with(MUTE_LIST_PREFIX)
        });
        rows.map(|row| row.filter.to_json()).collect()
    }

    /// The filters of the stored settings, as JSON.
    fn stored_filters(&self, app: &str, keys: &Keys) -> BTreeSet<String> {
        let owner = Owner {
            app: app.to_owned(),
            pubkey: keys.public_key(),
        };
        let state = self.stage.store.state();
        let filters = state.settings[&owner].filters(&state.apps[app]);
        filters.iter().map(Filter::to_json).collect()
    }

    /// The platform application and token of each endpoint.
    pub(super) fn endpoints(&self) -> Vec<(String, String)> {
        self.stage.sns.state().endpoints.values().cloned().collect()
    }
}

impl TestVector {
    /// Applies the payload after other settings, and asserts its effect.
    async fn check(self) {
        let f = fixture();
        let keys = Keys::generate();
        let app = self.app.as_deref().unwrap_or("demo");
        let tags: &[&[&str]] = if app == "demo" { &[] } else { &[&["app", app]] };
        // The payload either replaces these settings as a whole or leaves them as they are.
        let before = json!({
            "online": 1, "kinds": [30023], "deviceId": "the-token-before", "#e": ["group-before"],
        });
        f.accept(&f.dialect_h(&keys, NOW - 500, tags, &before))
            .await;
        let (filters_before, endpoints_before) = (f.filters(), f.endpoints());

        let me = keys.public_key().to_hex();
        let payload = self.plaintext.to_string().replace("$owner", &me);
        let service = f.service.public_key();
        let event = dialect_h_event(&keys, service, NOW, tags, &payload);
        let expected = self.refused.as_ref().or(self.applied.as_ref()).unwrap();
        assert_eq!(f.reason(&event).await, *expected, "{}", self.what);

        self.check_presence(f.presence(app, &keys).unwrap());
        let (filters, endpoints) = match &self.filters {
            None => (filters_before, endpoints_before),
            Some(filters) => (canonical(filters, &me), self.endpoints(app)),
        };
        assert_eq!(f.endpoints(), endpoints, "{}", self.what);
        if endpoints.is_empty() {
            // Without a device the settings are only stored.
            assert!(f.filters().is_empty(), "{}", self.what);
            assert_eq!(f.stored_filters(app, &keys), filters, "{}", self.what);
        } else {
            assert_eq!(f.filters(), filters, "{}", self.what);
        }
        assert_eq!(f.index(), f.expected_index(), "{}", self.what);
        self.check_registration(&f, app);
        if let Some(relays) = &self.relays {
            let state = f.stage.store.state();
            let owner = Owner {
                app: app.to_owned(),
                pubkey: keys.public_key(),
            };
            assert_eq!(state.settings[&owner].relays, *relays, "{}", self.what);
        }
    }

    fn check_presence(&self, presence: Presence) {
        let (last_seen, online) = match self.online {
            Some(online) => (NOW, online),
            None => (NOW - 500, true),
        };
        assert_eq!(presence.last_seen, Seconds(last_seen), "{}", self.what);
        assert_eq!(presence.online, online, "{}", self.what);
    }

    fn check_registration(&self, f: &Fixture, app: &str) {
        let Some(device) = &self.device else {
            return;
        };
        let is_limited = self.plaintext["enableMaxMentions"]
            .as_bool()
            .unwrap_or_default();
        let registration = f.active_registration(app, &device.token).unwrap();
        let expected = is_limited.then_some(10);
        assert_eq!(registration.max_mentions, expected, "{}", self.what);
    }

    fn endpoints(&self, app: &str) -> Vec<(String, String)> {
        let device = self.device.iter();
        device
            .map(|VectorDevice { platform, token }| {
                (format!("arn:{app}/{}", platform.as_str()), token.clone())
            })
            .collect()
    }
}

fn canonical(filters: &[Value], owner: &str) -> BTreeSet<String> {
    let text = json!(filters).to_string().replace("$owner", owner);
    let filters: Vec<Value> = serde_json::from_str(&text).unwrap();
    filters
        .iter()
        .map(|filter| Filter::from_json(filter).unwrap().to_json())
        .collect()
}

#[tokio::test]
async fn payloads_of_existing_clients_have_their_effect() {
    let vectors: Vec<TestVector> = serde_json::from_str(include_str!("dialect_h.json")).unwrap();
    for vector in vectors {
        vector.check().await;
    }
}

#[tokio::test]
async fn refuses_old_and_future_events() {
    let f = fixture();
    let keys = Keys::generate();
    let heartbeat = json!({"online": 1});
    let old = f.settings(&keys, NOW - 15 * 60 - 1, &heartbeat);
    assert_eq!(f.reason(&old).await, "stale");
    let future = f.settings(&keys, NOW + 15 * 60 + 1, &heartbeat);
    assert_eq!(f.reason(&future).await, "from_future");
    assert!(f.stage.store.state().presences.is_empty());
}

#[tokio::test]
async fn refuses_wrong_app_or_recipient() {
    let f = fixture();
    let keys = Keys::generate();
    let heartbeat = json!({"online": 1});
    let two_apps = f.dialect_h(
        &keys,
        NOW,
        &[&["app", "demo"], &["app", "other"]],
        &heartbeat,
    );
    assert_eq!(f.reason(&two_apps).await, "missing_app");
    let unknown = f.dialect_h(&keys, NOW, &[&["app", "nobody's"]], &heartbeat);
    assert_eq!(f.reason(&unknown).await, "unknown_app");
    let misdirected = dialect_h_event(&keys, Keys::generate().public_key(), NOW, &[], "{}");
    assert_eq!(f.reason(&misdirected).await, "unknown_key");
    assert!(f.stage.store.state().presences.is_empty());
}

#[tokio::test]
async fn requires_ciphertext_of_a_json_object() {
    let f = fixture();
    let keys = Keys::generate();
    let service = f.service.public_key().to_hex();
    let with_content = |content: &str| event(&keys, 22456, NOW, &[&["p", &service]], content);
    // If an external signer fails, clients send empty content or the plaintext.
    let block = "AAAAAAAAAAAAAAAAAAAAAA==";
    for content in [
        "",
        r#"{"online":1}"#,
        "?iv=",
        &format!("?iv={block}"),
        &format!("AAAA?iv={block}"),
        &format!("{block}?iv=AAAA"),
    ] {
        let event = with_content(content);
        assert_eq!(f.reason(&event).await, "not_encrypted", "{content}");
    }
    let zeros = with_content(&format!("{block}?iv={block}"));
    assert_eq!(f.reason(&zeros).await, "undecryptable");
    let array = f.settings(&keys, NOW, &json!([1]));
    assert_eq!(f.reason(&array).await, "bad_payload");
    assert!(f.stage.store.state().presences.is_empty());
}

#[tokio::test]
async fn refuses_settings_with_bad_or_too_many_values() {
    let f = fixture();
    let keys = Keys::generate();
    let many: Vec<String> = (0..=MAX_INDEX_KEYS).map(|n| format!("group-{n}")).collect();
    for (field, values, reason) in [
        ("#p", json!(["AB".repeat(32)]), "bad_payload"),
        ("#p", json!(many), "over_quota"),
        (
            "#e",
            json!(["x".repeat(MAX_TAG_VALUE_BYTES + 1)]),
            "bad_payload",
        ),
        ("#e", json!(many), "over_quota"),
        ("authors", json!(["npub1x"]), "bad_payload"),
        ("authors", json!([1]), "bad_payload"),
    ] {
        let payload = json!({"deviceId": "t", "kinds": [1], field: values});
        let settings = f.dialect_h(&keys, NOW, &[&["app", "contacts"]], &payload);
        assert_eq!(f.reason(&settings).await, reason, "{field}");
    }
}

#[tokio::test]
async fn a_removed_derived_subscription_is_written_again_only_after_a_crash() {
    let f = fixture();
    let keys = Keys::generate();
    let with_group = json!({"deviceId": "t", "kinds": [1], "#e": ["group"]});
    f.accept(&f.settings(&keys, NOW, &with_group)).await;
    let is_removed = |row: &&Subscription| row.state == SubscriptionState::Removed;
    let removal = || {
        let state = f.stage.store.state();
        let removal = state.subscriptions.values().find(is_removed);
        removal.expect("the filter of the group").order.created_at
    };
    let without = |at| f.settings(&keys, at, &json!({"deviceId": "t", "kinds": [1]}));
    f.handle_at(&without(NOW + 60), NOW + 60).await.unwrap();
    let order = removal();
    let later = without(NOW + 120);
    f.handle_at(&later, NOW + 120).await.unwrap();
    assert_eq!(removal(), order);
    f.handle_again(&later, NOW + 180).await.unwrap();
    assert!(removal() > order);
    let order = removal();
    let much_later = without(NOW + 2 * 60 * 60);
    f.handle_again(&much_later, NOW + 2 * 60 * 60)
        .await
        .unwrap();
    assert_eq!(removal(), order, "no process of that time is still running");
}

#[tokio::test]
async fn settings_have_at_most_64_kinds() {
    let f = fixture();
    let keys = Keys::generate();
    let with_kinds = |at, kinds: usize| {
        let kinds: Vec<usize> = (0..kinds).collect();
        f.settings(&keys, at, &json!({"deviceId": "t", "kinds": kinds}))
    };
    let all = with_kinds(NOW, MAX_FILTER_KINDS);
    assert_eq!(f.reason(&all).await, "configured");
    let filters = f.filters();
    let too_many = with_kinds(NOW + 1, MAX_FILTER_KINDS + 1);
    assert_eq!(f.reason(&too_many).await, "over_quota");
    assert_eq!(f.filters(), filters, "the earlier settings are in force");
}

#[tokio::test]
async fn only_dialect_h_accepts_nip04() {
    let f = fixture();
    let keys = Keys::generate();
    let content = f.settings(&keys, NOW, &token(1)).content;
    let service = f.service.public_key().to_hex();
    let soon = (NOW + DAY).to_string();
    let tags: [&[&str]; 3] = [&["p", &service], &["app", "demo"], &["expiration", &soon]];
    let register = event(&keys, 3079, NOW, &tags, &content);
    assert_eq!(f.reason(&register).await, "not_encrypted");
}

#[tokio::test]
async fn accepts_nip44_and_ignores_expiration() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let now = NOW.to_string();
    let tags: &[&[&str]] = &[&["expiration", &now]];
    let heartbeat = f.event(&keys, 22456, NOW, tags, &json!({"online": 1}));
    assert_eq!(f.reason(&heartbeat).await, "heartbeat");
}

#[tokio::test]
async fn an_app_tag_wins_over_the_heartbeat_app() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("other", &keys).await;
    let heartbeat = json!({"online": 1});
    let tagged = f.dialect_h(&keys, NOW, &[&["app", "other"]], &heartbeat);
    assert_eq!(f.reason(&tagged).await, "heartbeat");
    assert!(f.presence("other", &keys).is_some());
    let without_heartbeat_app = Fixture {
        stage: ControlStage {
            heartbeat_app: None,
            ..f.stage
        },
        service: f.service,
    };
    let untagged = without_heartbeat_app.settings(&keys, NOW, &heartbeat);
    let reason = without_heartbeat_app.reason(&untagged).await;
    assert_eq!(reason, "missing_app");
}

#[tokio::test]
async fn a_refused_token_changes_neither_settings_nor_presence() {
    let f = fixture();
    let keys = Keys::generate();
    let settings = json!({"deviceId": "token-1", "kinds": [1]});
    f.accept(&f.settings(&keys, NOW, &settings)).await;
    let before = f.filters();
    let bad = json!({"online": 1, "deviceId": "bad", "kinds": [7]});
    let refused = f.settings(&keys, NOW + 1, &bad);
    assert_eq!(f.reason(&refused).await, "bad_token");
    assert_eq!((f.filters(), f.active(&["token-1"]).len()), (before, 1));
    assert_eq!(f.presence("demo", &keys), None);
}

#[tokio::test]
async fn settings_leave_dialect_n_and_other_apps_alone() {
    let f = fixture();
    let keys = Keys::generate();
    f.accept(&f.demo(&keys, 3079, NOW, &token(1))).await;
    f.accept(&f.demo(&keys, 3081, NOW, &mentions(&keys))).await;
    f.accept(&f.in_app("other", &keys, 3079, NOW, &token(2)))
        .await;
    let before = f.filters();
    let settings = json!({"online": 1, "deviceId": "token-3", "kinds": [6]});
    f.accept(&f.settings(&keys, NOW + 1, &settings)).await;
    assert_eq!(f.active(&["token-1", "token-2", "token-3"]).len(), 3);
    let logout = json!({"online": 0, "deviceId": ""});
    f.accept(&f.settings(&keys, NOW + 2, &logout)).await;
    assert_eq!(f.active(&["token-1", "token-2", "token-3"]).len(), 2);
    assert_eq!(f.filters(), before);
    assert_eq!(f.presence("other", &keys), None);
}

#[tokio::test]
async fn a_device_of_settings_does_not_enable_fixed_triggers() {
    let f = fixture();
    let keys = Keys::generate();
    let off = json!({"deviceId": "t", "kinds": []});
    f.accept(&f.dialect_h(&keys, NOW, &[&["app", "triggered"]], &off))
        .await;
    assert_eq!(f.active(&["t"]).len(), 1);
    assert!(f.filters().is_empty());
}

#[tokio::test]
async fn settings_take_a_token_from_another_owner() {
    let f = fixture();
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let settings = json!({"deviceId": "t", "kinds": [1]});
    f.accept(&f.settings(&alice, NOW, &settings)).await;
    f.accept(&f.settings(&bob, NOW + 1, &settings)).await;
    let owners = || f.active(&["t"]).into_values().collect::<Vec<_>>();
    assert_eq!(owners(), [bob.public_key().to_hex()]);
    // A later logout by Alice does not remove Bob's token.
    let logout = json!({"online": 0, "deviceId": ""});
    f.accept(&f.settings(&alice, NOW + 2, &logout)).await;
    assert_eq!(owners(), [bob.public_key().to_hex()]);
}

#[tokio::test]
async fn settings_end_after_90_days_unless_renewed() {
    let f = fixture();
    let keys = Keys::generate();
    let ends = || -> Vec<u64> {
        let subscriptions = f.subscriptions().into_iter();
        subscriptions.map(|(.., end)| end - NOW).collect()
    };
    let settings = json!({"deviceId": "t", "kinds": [1]});
    f.accept(&f.settings(&keys, NOW, &settings)).await;
    // The filter that fetches the mute list ends with the device, and that of the settings at the
    // end of the day.
    let end_of_day = DAY - NOW % DAY;
    assert_eq!(ends(), [90 * DAY, 90 * DAY + end_of_day]);
    f.accept(&f.settings(&keys, NOW + 60, &settings)).await;
    assert_eq!(ends(), [90 * DAY + 60, 90 * DAY + end_of_day]);
    f.accept(&f.settings(&keys, NOW + 15 * 60, &settings)).await;
    assert_eq!(ends(), [90 * DAY + 15 * 60, 90 * DAY + end_of_day]);
}

#[tokio::test]
async fn a_heartbeat_is_read_once_and_written_only_if_needed() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let mut reasons = BTreeMap::new();
    for minute in 0..60 {
        let at = NOW + 60 * minute;
        let heartbeat = f.settings(&keys, at, &json!({"online": 1}));
        let applied = f.handle_at(&heartbeat, at).await.unwrap();
        *reasons.entry(applied.reason()).or_insert(0) += 1;
    }
    assert_eq!(
        reasons,
        BTreeMap::from([("heartbeat", 30), ("heartbeat_unwritten", 30)])
    );
    assert_eq!(f.stage.store.state().presence_reads_and_writes, (60, 30));
}

#[tokio::test]
async fn the_age_of_an_event_excludes_its_time_in_the_queue() {
    let f = fixture();
    let event = f.settings(
        &Keys::generate(),
        NOW,
        &json!({"deviceId": "t", "kinds": [1]}),
    );
    let hours_later = Seconds(NOW + 5 * 60 * 60).to_millis();
    let handle_received_at = async |received_at: u64| {
        let json = to_raw_value(&event).unwrap();
        let message = message(&json, Seconds(received_at).to_millis());
        let receipt = Receipt {
            now: hours_later,
            count: 1,
        };
        f.stage.handle(&message, receipt).await
    };
    assert!(
        handle_received_at(NOW + 16 * 60).await.is_err(),
        "the relay sent it too late"
    );
    assert_eq!(
        handle_received_at(NOW + 1).await.unwrap(),
        Applied::Configured
    );
}

#[tokio::test]
async fn a_heartbeat_without_a_device_is_not_written() {
    let f = fixture();
    let keys = Keys::generate();
    let heartbeat = f.settings(&keys, NOW, &json!({"online": 1}));
    assert_eq!(f.reason(&heartbeat).await, "heartbeat_unwritten");
    assert!(f.presence("demo", &keys).is_none());
}

#[tokio::test]
async fn a_late_or_repeated_heartbeat_changes_nothing() {
    let f = fixture();
    let keys = Keys::generate();
    f.register("demo", &keys).await;
    let heartbeat = f.settings(&keys, NOW, &json!({"online": 1}));
    let offline = f.settings(&keys, NOW + 1, &json!({"online": 0}));
    assert_eq!(f.reason(&offline).await, "offline");
    assert_eq!(f.reason(&heartbeat).await, "superseded");
    assert_eq!(f.reason(&offline).await, "repeated");
    assert!(!f.presence("demo", &keys).unwrap().online);
}

#[test]
fn the_default_timeout_is_above_the_slowest_known_heartbeat() {
    assert_eq!(
        fixture().stage.store.state().apps["demo"].presence_timeout(),
        DEFAULT_TIMEOUT
    );
    const { assert!(DEFAULT_TIMEOUT.0 > 180) };
}
