//! Each check of an event of dialect N, with its reason.

use nostr_push_core::index_key::MAX_TAG_VALUE_BYTES;
use nostr_push_testkit::event;

use super::*;
use crate::refusal::Refusal;

/// `NOW + DAY`.
const SOON: &str = "1800086400";

/// `NOW`.
const PAST: &str = "1800000000";

const APP: &[&str] = &["app", "demo"];

const VALID_TAGS: &[&[&str]] = &[APP, &["expiration", SOON]];

struct Checks {
    fixture: Fixture,
    keys: Keys,
}

impl Checks {
    fn new() -> Self {
        Self {
            fixture: fixture(),
            keys: Keys::generate(),
        }
    }

    async fn reason(&self, event: &Event) -> String {
        self.fixture.reason(event).await
    }

    fn register(&self, at: u64, tags: &[&[&str]]) -> Event {
        self.fixture.event(&self.keys, 3079, at, tags, &token(1))
    }

    fn with_payload(&self, kind: u16, payload: &Value) -> Event {
        self.fixture
            .event(&self.keys, kind, NOW, VALID_TAGS, payload)
    }

    fn with_plaintext(&self, plaintext: &str) -> Event {
        let service = self.fixture.service.public_key();
        control_event(&self.keys, service, 3079, NOW, VALID_TAGS, plaintext)
    }

    fn with_content(&self, kind: u16, content: &str) -> Event {
        let service = self.fixture.service.public_key().to_hex();
        let tags: [&[&str]; 3] = [&["p", &service], APP, &["expiration", SOON]];
        event(&self.keys, kind, NOW, &tags, content)
    }
}

#[tokio::test]
async fn refuses_what_is_not_an_event_as_malformed() {
    let f = fixture();
    let keys = Keys::generate();
    let many_tags = event(&keys, 3079, NOW, &vec![["t", "x"].as_slice(); 2_001], "");
    let large = event(&keys, 3079, NOW, &[], &"x".repeat(256 * 1024));
    for json in [
        "null",
        "1",
        "[]",
        "{}",
        r#"{"id":"x"}"#,
        &format!("{}{}", "[".repeat(200), "]".repeat(200)),
        &serde_json::to_string(&many_tags).unwrap(),
        &serde_json::to_string(&large).unwrap(),
    ] {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        let result = f.handle_json(&raw, NOW).await;
        assert!(
            matches!(result, Err(Failure::Refused(Refusal::Malformed))),
            "{json:.40}"
        );
    }
}

#[tokio::test]
async fn refuses_wrong_signature_kind_or_recipient() {
    let checks = Checks::new();
    let mut forged = checks.register(NOW, VALID_TAGS);
    forged.content.push('x');
    assert_eq!(checks.reason(&forged).await, "bad_signature");
    let unknown = checks.with_payload(3083, &token(1));
    assert_eq!(checks.reason(&unknown).await, "unknown_kind");
    let other_service = Keys::generate().public_key();
    let misdirected = control_event(&checks.keys, other_service, 3079, NOW, VALID_TAGS, "{}");
    // The listener forwards no such event, unless the service has a newer key.
    assert_eq!(checks.reason(&misdirected).await, "unknown_key");
    let without_recipient = event(&checks.keys, 3079, NOW, VALID_TAGS, "");
    assert_eq!(checks.reason(&without_recipient).await, "not_for_us");
}

#[tokio::test]
async fn refuses_old_and_future_events() {
    let checks = Checks::new();
    let old = checks.register(NOW - 7 * DAY - 1, VALID_TAGS);
    assert_eq!(checks.reason(&old).await, "stale");
    let future = checks.register(NOW + 15 * 60 + 1, VALID_TAGS);
    assert_eq!(checks.reason(&future).await, "from_future");
}

#[tokio::test]
async fn requires_exactly_one_known_app() {
    let checks = Checks::new();
    let with_apps: [(&[&[&str]], &str); 4] = [
        (&[], "missing_app"),
        (&[&["app"]], "missing_app"),
        (&[APP, &["app", "other"]], "missing_app"),
        (&[&["app", "nobody's"]], "unknown_app"),
    ];
    for (apps, reason) in with_apps {
        let tags = [apps, &[&["expiration", SOON]]].concat();
        let event = checks.register(NOW, &tags);
        assert_eq!(checks.reason(&event).await, reason, "{apps:?}");
    }
}

#[tokio::test]
async fn requires_expiration_in_the_future() {
    let checks = Checks::new();
    let absent = checks.register(NOW, &[APP]);
    assert_eq!(checks.reason(&absent).await, "missing_expiration");
    let not_a_number = checks.register(NOW, &[APP, &["expiration", "tomorrow"]]);
    assert_eq!(checks.reason(&not_a_number).await, "missing_expiration");
    let without_value = checks.register(NOW, &[APP, &["expiration"]]);
    assert_eq!(checks.reason(&without_value).await, "missing_expiration");
    let past: [&[&str]; 2] = [APP, &["expiration", PAST]];
    let registration = checks.register(NOW, &past);
    assert_eq!(checks.reason(&registration).await, "expired");
    let filter = mentions(&checks.keys);
    let deletion = checks
        .fixture
        .event(&checks.keys, 3082, NOW, &past, &filter);
    assert_eq!(checks.reason(&deletion).await, "expired");
}

#[tokio::test]
async fn requires_ciphertext_that_decrypts() {
    let checks = Checks::new();
    for content in [
        "",
        "{\"token\":\"t\"}",
        "AgAA",
        "not base64 at all",
        &"A".repeat(64 * 1024),
    ] {
        let event = checks.with_content(3079, content);
        assert_eq!(
            checks.reason(&event).await,
            "not_encrypted",
            "{content:.20}"
        );
    }
    let zeros = format!("Ag{}", "A".repeat(64 * 1024 - 2));
    let event = checks.with_content(3081, &zeros);
    assert_eq!(checks.reason(&event).await, "undecryptable");
    let mut altered = checks.with_payload(3079, &token(1)).content;
    let other = if &altered[60..61] == "A" { "B" } else { "A" };
    altered.replace_range(60..61, other);
    let event = checks.with_content(3079, &altered);
    assert_eq!(checks.reason(&event).await, "undecryptable");
}

#[tokio::test]
async fn refuses_malformed_token_payloads() {
    let checks = Checks::new();
    for plaintext in [
        // NIP-44 cannot encrypt the empty text.
        " ",
        "null",
        "[]",
        "[\"t\"]",
        "\"t\"",
        "{",
        "{}",
        "{\"token\":\"\"}",
        "{\"token\":1}",
        "{\"token\":\"t\",\"platform\":\"windows\"}",
        "{\"token\":\"\\ud800\"}",
    ] {
        let event = checks.with_plaintext(plaintext);
        assert_eq!(checks.reason(&event).await, "bad_payload", "{plaintext}");
    }
    let removal = checks.with_payload(3080, &json!({"token": 5}));
    assert_eq!(checks.reason(&removal).await, "bad_payload");
}

#[tokio::test]
async fn refuses_malformed_filter_payloads() {
    let checks = Checks::new();
    for payload in [
        json!({}),
        json!({"filter": []}),
        json!({"filters": []}),
        json!({"filter": {"kinds": "1"}}),
        json!({"filter": {"#p": ["x"]}}),
        json!({"filter": {"#t": ["x".repeat(MAX_TAG_VALUE_BYTES + 1)]}}),
    ] {
        for kind in [3081, 3082] {
            let event = checks.with_payload(kind, &payload);
            assert_eq!(checks.reason(&event).await, "bad_payload", "{payload}");
        }
    }
}

#[tokio::test]
async fn refuses_what_the_app_does_not_support() {
    let checks = Checks::new();
    for filter in [json!({"kinds": [1]}), json!({})] {
        let event = checks.with_payload(3081, &json!({"filter": filter}));
        assert_eq!(checks.reason(&event).await, "too_broad");
    }
    let sandbox = json!({"token": "t", "platform": "apns_sandbox"});
    let event = checks.with_payload(3079, &sandbox);
    assert_eq!(checks.reason(&event).await, "unsupported_platform");
}

#[tokio::test]
async fn refuses_long_tokens_and_large_filters() {
    let checks = Checks::new();
    let long = checks.with_payload(3079, &json!({"token": "x".repeat(4097)}));
    assert_eq!(checks.reason(&long).await, "over_quota");
    let values: Vec<String> = (0..1001).map(|n| format!("tag-{n}")).collect();
    let large = checks.with_payload(3081, &json!({"filter": {"#t": values}}));
    assert_eq!(checks.reason(&large).await, "over_quota");
}

#[tokio::test]
async fn refuses_a_token_that_sns_refuses() {
    let f = fixture();
    let register = f.demo(&Keys::generate(), 3079, NOW, &json!({"token": "bad"}));
    assert_eq!(f.reason(&register).await, "bad_token");
}
