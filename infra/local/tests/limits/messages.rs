//! The largest messages, against the limit of SQS and of the template's queues.

use nostr::{event::Event, key::Keys};
use nostr_push_core::{
    Millis,
    app::MAX_APP_ID_BYTES,
    index_key::{IndexKey, MAX_TAG_VALUE_BYTES},
    message::{
        ContentMessage, ControlMessage, FanOutPosition, MAX_EVENT_BYTES, MAX_RELAY_URL_BYTES,
        encode,
    },
    profile::{MAX_GROUP_ID_BYTES, ProfileKey, ProfileRequest},
};
use nostr_push_testkit::event;
use serde_json::value::RawValue;

/// The largest message, and the largest request of several messages
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
const MAX_MESSAGE: usize = 1024 * 1024;

/// A character that `encode` escapes: three bytes become six.
const ESCAPED: &str = "\u{fffe}";

/// An event of the largest size, with tags whose values have as many bytes as an index key may.
fn largest_event() -> Event {
    let value = ESCAPED.repeat(MAX_TAG_VALUE_BYTES / ESCAPED.len());
    let tags = (MAX_EVENT_BYTES - 400) / (value.len() + 9);
    let tag: [&str; 2] = ["t", &value];
    let event = event(&Keys::generate(), 1, 1, &vec![&tag[..]; tags], "");
    let bytes = serde_json::to_string(&event).unwrap().len();
    assert!(
        (MAX_EVENT_BYTES - 1024..=MAX_EVENT_BYTES).contains(&bytes),
        "{bytes}"
    );
    event
}

fn relay() -> String {
    format!("wss://{}", "r".repeat(MAX_RELAY_URL_BYTES - 6))
}

#[test]
fn control_message_of_the_largest_event_fits() {
    let event = serde_json::to_string(&largest_event()).unwrap();
    let message = ControlMessage {
        relay: relay(),
        received_at: Millis(u64::MAX),
        event: RawValue::from_string(event).unwrap(),
    };
    let bytes = encode(&message).unwrap().len();
    assert!(bytes < MAX_MESSAGE, "{bytes}");
}

/// An event can hit the keys of all its tags. Then they are in the message twice.
#[test]
fn content_message_of_the_largest_event_fits() {
    let event = largest_event();
    let hits: Vec<IndexKey> = event
        .tags
        .iter()
        .map(|tag| IndexKey::Tag('t', tag.content().unwrap().into()))
        .collect();
    let message = ContentMessage {
        relay: relay(),
        received_at: Millis(u64::MAX),
        backfill: true,
        from_owners_relay: true,
        position: Some(FanOutPosition {
            hit: hits.len(),
            after: Some("x".repeat(MAX_APP_ID_BYTES + 200)),
            others: 1_000,
        }),
        hits,
        event,
    };
    let bytes = encode(&message).unwrap().len();
    assert!(bytes < MAX_MESSAGE, "{bytes}");
}

#[test]
fn ten_requests_for_profiles_of_groups_fit() {
    // In JSON, each byte of the id may become six.
    let message = ProfileRequest {
        key: ProfileKey::Group {
            relay: relay(),
            id: "\u{1}".repeat(MAX_GROUP_ID_BYTES),
        },
        relay: relay(),
    };
    let bytes = encode(&message).unwrap().len();
    assert!(10 * bytes < MAX_MESSAGE, "{bytes}");
}
