//! Nothing that SNS receives for an encrypted push identifies a person or an event.

use nostr::nips::nip19::ToBech32;
use nostr_push_core::{message::Summary, shape::Shape};

use super::{
    payloads::{Receiver, known_author},
    *,
};
use crate::{encrypted::SIZES, notice::Notice};

/// The forms of devices that can have their payloads encrypted.
fn receivers() -> [Receiver; 4] {
    [
        Receiver::new(Platform::Apns),
        Receiver::new(Platform::Fcm),
        Receiver::shaped(Platform::Fcm, Shape::Verse),
        Receiver::shaped(Platform::Fcm, Shape::EmbeddedDistributor),
    ]
    .map(Receiver::encrypted)
}

/// All that SNS receives, with the contents of `b` decoded.
fn everything(push: &Push) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut all = format!("{push:?}");
    if let Some((_, rest)) = push.message.split_once(r#"\"b\":\""#) {
        let encoded = rest.split('\\').next().unwrap();
        all += &String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap();
    }
    all
}

/// The text without words of more than 100 characters.
fn without_ciphertext(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let words = text.split(|c: char| !is_part(c));
    words
        .filter(|word| word.len() <= 100)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The value of an attribute or field that looks like a collapse id, on either platform.
fn collapse_ids(push: &Push) -> Vec<String> {
    let attributes = push.attributes.iter();
    let mut ids: Vec<String> = attributes
        .filter(|(name, _)| name.ends_with("COLLAPSE_ID"))
        .map(|(_, value)| value.clone())
        .collect();
    if let Some((_, rest)) = push.message.split_once(r#"apns-collapse-id\":\""#) {
        ids.push(rest.split('\\').next().unwrap().to_owned());
    }
    ids
}

proptest! {
    #[test]
    fn encrypted_pushes_contain_no_identifiers(
        kind: u16,
        content in "[a-z]{12,4000}",
        name in "[A-Z][a-z]{11,40}",
        group in "[a-z]{12,60}",
        expires in 1..86_400u64,
    ) {
        let author = Keys::generate();
        let expiration = (NOW + expires).to_string();
        let (id, me) = ("ab".repeat(32), recipient().public_key().to_hex());
        let tags: [&[&str]; 5] = [
            &["p", &me],
            &["h", &group],
            &["e", &id, "", "root"],
            &["title", &content],
            &["expiration", &expiration],
        ];
        let delivery = Delivery {
            relay: "wss://somewhere.example".to_owned(),
            app: "the-name-of-the-app".to_owned(),
            ..delivery(event(&author, kind, NOW, &tags, &content))
        };
        let app = App::named("the-name-of-the-app");
        let notice = Notice::of_event(
            &app,
            &delivery,
            known_author(&delivery, &name, Some("https://example.com/picture.png")),
            Seconds(NOW),
        );
        let hidden = [
            delivery.event.id.to_hex(),
            delivery.event.id.to_bech32().unwrap(),
            author.public_key().to_hex(),
            author.public_key().to_bech32().unwrap(),
            me.clone(),
            recipient().public_key().to_bech32().unwrap(),
            payloads::phone().public_key().to_hex(),
            delivery.relay.clone(),
            delivery.app.clone(),
            id.clone(),
            group.clone(),
            name.clone(),
            content[..12].to_owned(),
            expiration.clone(),
            "picture.png".to_owned(),
        ];
        // Short words occur in ciphertext by chance.
        let names = ["kind", "Kind", "receiver", "sender", "hash", "summary", "MENTION"];
        for receiver in receivers() {
            let (first, second) = (receiver.push(&notice), receiver.push(&notice));
            for push in [&first, &second] {
                let all = everything(push);
                for secret in &hidden {
                    prop_assert!(!all.contains(secret.as_str()), "{}: {}", secret, all);
                }
                let readable = without_ciphertext(&all);
                for name in names {
                    prop_assert!(!readable.contains(name), "{}: {}", name, readable);
                }
                for collapse_id in collapse_ids(push) {
                    let is_hash = collapse_id.len() == 32
                        && collapse_id.bytes().all(|b| b.is_ascii_hexdigit());
                    prop_assert!(is_hash, "{}", collapse_id);
                    prop_assert!(!hidden[0].contains(&collapse_id));
                }
            }
            // A repeat replaces the notification, but is encrypted anew.
            prop_assert_eq!(collapse_ids(&first), collapse_ids(&second));
            prop_assert_ne!(first.message, second.message);
            let fields = receiver.fields(&receiver.payload(&notice).json);
            prop_assert_eq!(&fields["event_id"], &json!(delivery.event.id));
            prop_assert_eq!(&fields["kind"], &json!(kind));
        }
    }
}

#[test]
fn plaintexts_have_few_sizes() {
    let mut sizes = BTreeSet::new();
    for bytes in (0..3_000).step_by(50) {
        let delivery = delivery(note(&"x".repeat(bytes)));
        let app = App::named(APP);
        let names = known_author(&delivery, "alice", None);
        let notice = Notice::of_event(&app, &delivery, names, Seconds(NOW));
        for receiver in receivers() {
            sizes.insert((format!("{receiver:?}"), receiver.payload(&notice).bytes()));
        }
    }
    let forms = receivers().len();
    assert!(sizes.len() <= forms * SIZES.len(), "{sizes:?}");
}

#[test]
fn summaries_are_encrypted_as_well() {
    let app = App::named(APP);
    let summary = Summary {
        app: APP.to_owned(),
        recipient: recipient().public_key(),
        window: Seconds(NOW),
    };
    let notice = Notice::of_summary(&app, &summary, 12, Seconds(NOW));
    for receiver in receivers() {
        let push = receiver.push(&notice);
        let all = everything(&push);
        for secret in [
            summary.recipient.to_hex(),
            "summary".to_owned(),
            NOW.to_string(),
        ] {
            assert!(!all.contains(&secret), "{secret}: {all}");
        }
        let fields = receiver.fields(&receiver.payload(&notice).json);
        assert_eq!(fields["summary"], 12);
        assert_eq!(fields["title"], "12 more notifications");
    }
}

#[test]
fn wake_needs_no_encryption() {
    let delivery = delivery(note("hello"));
    let app = App::named(APP);
    let notice = Notice::of_event(
        &app,
        &delivery,
        known_author(&delivery, "alice", None),
        Seconds(NOW),
    );
    let wake = Receiver::shaped(Platform::Apns, Shape::Wake);
    assert_eq!(wake.encrypted().push(&notice), wake.push(&notice));
}
