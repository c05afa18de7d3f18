//! Payloads of every shape fit into 4,096 bytes, whatever the event, and keep the ids.

use nostr_push_core::{message::Summary, profile::clean_name, shape::Shape};

use super::{
    payloads::{Receiver, known_author, no_names},
    *,
};
use crate::{
    names::Names,
    notice::Notice,
    payload::{MAX_PAYLOAD_BYTES, Truncation},
};

/// One device of each form.
fn receivers() -> Vec<(&'static str, Receiver)> {
    use {Platform::*, Shape::*};
    vec![
        ("native APNs", Receiver::new(Apns)),
        ("native FCM", Receiver::new(Fcm)),
        ("verse", Receiver::shaped(Fcm, Verse)),
        (
            "embedded-distributor",
            Receiver::shaped(Fcm, EmbeddedDistributor),
        ),
        ("encrypted APNs", Receiver::new(Apns).encrypted()),
        ("encrypted FCM", Receiver::new(Fcm).encrypted()),
        (
            "encrypted embedded-distributor",
            Receiver::shaped(Fcm, EmbeddedDistributor).encrypted(),
        ),
    ]
}

fn localized() -> App {
    App {
        localized: true,
        ..App::named(APP)
    }
}

/// A delivery of an event with this content and number of tags.
fn sized(content: &str, tags: usize) -> Delivery {
    let p = "ab".repeat(32);
    let tag: &[&str] = &["p", &p];
    delivery(event(&Keys::generate(), 1, NOW, &vec![tag; tags], content))
}

/// Builds the payload for each device, checks it, and returns how much was left out.
fn truncations(delivery: &Delivery, names: &Names) -> Vec<(&'static str, Truncation)> {
    let app = localized();
    let check = |(form, receiver): (&'static str, Receiver)| {
        let notice = Notice::of_event(&app, delivery, names.clone(), Seconds(NOW));
        let payload = receiver.payload(&notice);
        let bytes = payload.bytes();
        assert!(bytes <= MAX_PAYLOAD_BYTES, "{form}: {bytes}");
        let fields = receiver.fields(&payload.json);
        assert_eq!(fields["event_id"], json!(delivery.event.id), "{form}");
        assert_eq!(fields["recipient"], json!(delivery.recipient), "{form}");
        assert_eq!(fields["author"], json!(delivery.event.pubkey), "{form}");
        (form, payload.truncation)
    };
    receivers().into_iter().map(check).collect()
}

#[test]
fn what_does_not_fit_is_left_out_step_by_step() {
    use Truncation::*;
    let already_cut = Delivery {
        cut: true,
        ..sized("hello", 1)
    };
    let with_cut_tags = Delivery {
        mentions: Some(500),
        ..sized("hello", 1)
    };
    let with_long_relay = Delivery {
        relay: format!("wss://{}", "r".repeat(506)),
        app: "a".repeat(200),
        ..sized("hello", 1)
    };
    let emoji = "👨‍👩‍👧‍👦".repeat(200);
    // In the order of `receivers`.
    for (case, delivery, expected) in [
        ("short", sized("hello", 1), [Whole; 7]),
        ("emoji", sized(&emoji, 1), [NoContent; 7]),
        ("no content", already_cut, [NoContent; 7]),
        ("many tags", sized("hello", 500), [NoTags; 7]),
        ("few of many tags", with_cut_tags, [NoTags; 7]),
        ("long relay", with_long_relay, [Whole; 7]),
        (
            "long content",
            sized(&"x".repeat(1_530), 1),
            [
                Whole, Whole, NoContent, NoContent, NoContent, NoContent, NoContent,
            ],
        ),
    ] {
        let actual = truncations(&delivery, &no_names(&delivery));
        for ((form, actual), expected) in actual.into_iter().zip(expected) {
            assert_eq!(actual, expected, "{case}, {form}");
        }
    }
}

#[test]
fn notes_in_arabic_emoji_and_long_names_come_out_whole() {
    let family = "👨‍👩‍👧‍👦";
    let name = clean_name(&family.repeat(12)).unwrap();
    assert_eq!(name, format!("{}…", family.repeat(2)));
    let long_name = clean_name(&"محمد عبد الله ".repeat(12)).unwrap();
    let me = recipient().public_key().to_hex();
    for (content, name) in [
        ("مرحبا بالعالم، هذه ملاحظة", &long_name),
        ("👩🏽‍🚀🏳️‍🌈👨‍👩‍👧‍👦 e\u{301}", &name),
    ] {
        let delivery = delivery(event(&Keys::generate(), 1, NOW, &[&["p", &me]], content));
        let names = known_author(&delivery, name, None);
        for (form, truncation) in truncations(&delivery, &names) {
            assert_eq!(truncation, Truncation::Whole, "{form}");
        }
        let app = localized();
        for (form, receiver) in receivers() {
            let notice = Notice::of_event(&app, &delivery, names.clone(), Seconds(NOW));
            let fields = receiver.fields(&receiver.payload(&notice).json);
            let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
            let body = text("body").or(text("gcm.notification.body"));
            let body = body.or_else(|| fields["aps"]["alert"]["body"].as_str().map(str::to_owned));
            assert_eq!(body.as_deref(), Some(content), "{form}");
            assert_eq!(fields["author_name"], json!(name), "{form}");
            let alert = fields.get("aps").map(|aps| aps["alert"]["title"].clone());
            let title = text("title").or(text("gcm.notification.title"));
            let title = alert.unwrap_or_else(|| json!(title));
            assert!(
                title.as_str().unwrap().contains(name.as_str()),
                "{form}: {title}"
            );
        }
    }
}

/// The largest delivery that the limits allow, with text that JSON makes longer.
fn largest(kind: u16, text: &str) -> (Delivery, Names) {
    let me = recipient().public_key().to_hex();
    let (id, text) = ("ab".repeat(32), text.repeat(1_000));
    let group: String = "\"\\".repeat(32);
    let request = {
        let comment: String = text.chars().take(400).collect();
        let request = event(&Keys::generate(), 9734, NOW, &[&["p", &me]], &comment);
        serde_json::to_string(&request).unwrap()
    };
    let tags: [&[&str]; 7] = [
        &["p", &me],
        &["h", &group],
        &["e", &id, "", "root"],
        &["q", &id],
        &["title", &text],
        &["bolt11", "lnbc20999999999999990m1pabc"],
        &["description", &request],
    ];
    let delivery = Delivery {
        app: "a".repeat(200),
        relay: format!("wss://{}", "r".repeat(506)),
        reasons: ["#p", "#e", "#h", "#t", "author", "id", "kind"]
            .map(str::to_owned)
            .into(),
        zapper: Some(recipient().public_key()),
        ..delivery(event(&Keys::generate(), kind, NOW, &tags, &text))
    };
    let profile = nostr_push_core::profile::Profile {
        name: Some("\"\\".repeat(32)),
        picture: Some(format!("https://example.com/{}", "p".repeat(492))),
        asked_at: Seconds(NOW),
    };
    let roles = crate::roles::Roles::of(&delivery);
    let keys = roles.profile_keys(Keys::generate().public_key());
    let profiles = keys.into_iter().map(|key| (key, profile.clone())).collect();
    let names = Names::of(&delivery, profiles);
    (delivery, names)
}

#[test]
fn largest_payloads_of_every_kind_fit() {
    let mut seen = BTreeSet::new();
    for kind in [1, 6, 7, 9, 42, 1111, 9735, 30023, 30402] {
        for text in ["x", "\"\\\"\\", "é\"", "\u{1}\u{2}a\"", "🤙\\"] {
            let (delivery, names) = largest(kind, text);
            seen.extend(
                truncations(&delivery, &names)
                    .into_iter()
                    .map(|(_, seen)| seen),
            );
        }
    }
    for truncation in [
        Truncation::NoEvent,
        Truncation::NoPicture,
        Truncation::Short,
    ] {
        assert!(seen.contains(&truncation), "{truncation:?}");
    }
}

#[test]
fn summaries_of_every_shape_fit_and_name_the_recipient() {
    let app = localized();
    let summary = Summary {
        app: "a".repeat(200),
        recipient: recipient().public_key(),
        window: Seconds(NOW),
    };
    for (form, receiver) in receivers() {
        let notice = Notice::of_summary(&app, &summary, u64::MAX, Seconds(NOW));
        let payload = receiver.payload(&notice);
        assert!(payload.bytes() <= MAX_PAYLOAD_BYTES, "{form}");
        let fields = receiver.fields(&payload.json);
        assert_eq!(fields["recipient"], json!(summary.recipient), "{form}");
    }
}

#[test]
fn wake_is_small() {
    let app = localized();
    let delivery = sized(&"x".repeat(5_000), 500);
    for platform in [Platform::Apns, Platform::Fcm] {
        let notice = Notice::of_event(&app, &delivery, no_names(&delivery), Seconds(NOW));
        let payload = Receiver::shaped(platform, Shape::Wake).payload(&notice);
        assert!(payload.bytes() < 512, "{}", payload.bytes());
    }
}
