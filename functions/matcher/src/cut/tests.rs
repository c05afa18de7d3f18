use nostr::key::Keys;
use nostr_push_core::{Seconds, tags::expiration};
use nostr_push_testkit::event;
use proptest::prelude::*;

use super::*;

/// A `p` tag of somebody.
fn p(n: usize) -> Vec<String> {
    vec!["p".to_owned(), format!("{n:064x}")]
}

fn tag(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|&part| part.to_owned()).collect()
}

fn event_with(kind: u16, tags: &[Vec<String>], content: &str) -> Event {
    let tags: Vec<Vec<&str>> = tags
        .iter()
        .map(|tag| tag.iter().map(String::as_str).collect())
        .collect();
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    event(&Keys::generate(), kind, 1, &tags, content)
}

/// An event with these tags after a thousand `p` tags.
fn after_mentions(kind: u16, tags: &[Vec<String>]) -> Event {
    let tags: Vec<_> = (0..1_000).map(p).chain(tags.iter().cloned()).collect();
    event_with(kind, &tags, "")
}

fn tags_of(event: &Event) -> Vec<Vec<String>> {
    let tags = event.tags.iter().map(Tag::as_slice);
    tags.map(<[String]>::to_vec).collect()
}

fn somebody() -> PublicKey {
    Keys::generate().public_key()
}

#[test]
fn event_that_fits_stays_whole() {
    let tags: Vec<_> = (0..54).map(p).collect();
    let event = event_with(1, &tags, "hello");
    let cut = CutEvent::of(&event);
    assert_eq!((cut.is_content_cut, cut.mentions()), (false, None));
    assert_eq!(cut.for_recipient(&somebody()), event);
}

#[test]
fn content_is_cut_between_characters() {
    let event = event_with(1, &[], &"é".repeat(100_000));
    let cut = CutEvent::of(&event);
    assert!(cut.is_content_cut);
    let content = cut.for_recipient(&somebody()).content;
    assert_eq!(content, "é".repeat(MAX_DELIVERED_CONTENT / 2));
}

#[test]
fn used_tags_are_kept_and_mentions_are_counted() {
    let (root, reply) = ("ab".repeat(32), "cd".repeat(32));
    let hint = "wss://relay.example".repeat(100);
    let event = after_mentions(
        1,
        &[
            tag(&["e", &reply, &hint, "reply", "x"]),
            tag(&["client", "somebody's app"]),
            tag(&["t", "Art"]),
            tag(&["e", &root, "", "root"]),
            tag(&["h", "the group"]),
            tag(&["q", &root]),
            tag(&["expiration", "99"]),
            tag(&["expiration", "1"]),
        ],
    );
    let kept = [
        tag(&["e", &reply, "", "reply"]),
        tag(&["t", "Art"]),
        tag(&["e", &root, "", "root"]),
        tag(&["h", "the group"]),
        tag(&["q", &root]),
        tag(&["expiration", "99"]),
    ];
    let cut = CutEvent::of(&event);
    assert_eq!(cut.mentions(), Some(1_000));
    assert_eq!(tags_of(&cut.for_recipient(&somebody())), kept);
    // The recipient's own mention is kept.
    let recipient = PublicKey::from_byte_array({
        let mut bytes = [0; 32];
        bytes[31] = 7;
        bytes
    });
    let for_recipient = tags_of(&cut.for_recipient(&recipient));
    assert_eq!(for_recipient, [&kept[..], &[p(7)]].concat());
}

#[test]
fn zap_receipt_keeps_amount_sender_and_comment() {
    let zapper = Keys::generate();
    let relays = ["relays", &"wss://relay.example ".repeat(500)];
    let request = event(
        &zapper,
        9734,
        1,
        &[&relays, &["anon"]],
        &"well said ".repeat(100),
    );
    let json = serde_json::to_string(&request).unwrap();
    let invoice = format!("lnbc15n1p{}", "q".repeat(2_000));
    let receipt = after_mentions(
        9735,
        &[tag(&["bolt11", &invoice]), tag(&["description", &json])],
    );
    let kept = CutEvent::of(&receipt).for_recipient(&somebody());
    assert!(
        first_tag_value(&kept, "bolt11")
            .unwrap()
            .starts_with("lnbc15n1p")
    );
    let request = first_tag_value(&kept, "description").unwrap();
    let request: Event = serde_json::from_str(request).unwrap();
    assert_eq!(request.pubkey, zapper.public_key());
    assert!(first_tag_value(&request, "anon").is_some());
    assert!(request.content.starts_with("well said well said"));
    // Only receipts have a description that is used.
    let note = after_mentions(1, &[tag(&["description", &json])]);
    assert!(tags_of(&CutEvent::of(&note).for_recipient(&somebody())).is_empty());
}

/// Tags of every name that is used, with values that are short, long or hard to encode.
fn any_tag() -> impl Strategy<Value = Vec<String>> {
    let names = prop::sample::select(vec![
        "p",
        "e",
        "E",
        "t",
        "h",
        "q",
        "title",
        "name",
        "expiration",
        "description",
        "bolt11",
        "x",
    ]);
    let value = prop_oneof![
        "[0-9]{1,12}",
        (
            1..3_000usize,
            prop::sample::select(vec!["a", "é", "\u{1}", "\"", "👨‍👩‍👧‍👦"])
        )
            .prop_map(|(n, text)| text.repeat(n)),
    ];
    let marker = prop::sample::select(vec!["root", "reply", "mention", ""]);
    let rest = prop::option::of((value.clone(), marker));
    (names, prop::option::of(value), rest).prop_map(|(name, value, rest)| {
        let mut tag = vec![name.to_owned()];
        tag.extend(value);
        tag.extend(
            rest.into_iter()
                .flat_map(|(hint, marker)| [hint, marker.to_owned()]),
        );
        tag
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tags_fit_and_the_expiration_stays(
        tags in prop::collection::vec(any_tag(), 0..60),
        kind in prop::sample::select(vec![1, 9735u16]),
    ) {
        let event = event_with(kind, &tags, "");
        let cut = CutEvent::of(&event);
        let kept = cut.for_recipient(&somebody());
        let bytes: usize = kept.tags.iter().map(|tag| json_bytes(tag.as_slice())).sum();
        prop_assert!(bytes <= MAX_DELIVERED_TAGS, "{}", bytes);
        prop_assert_eq!(expiration(&kept), expiration(&event));
        if cut.mentions().is_none() {
            prop_assert_eq!(&kept, &event);
        }
    }

    #[test]
    fn expiration_is_kept_wherever_it_is(at in 1..u64::MAX, others in 100..300usize) {
        let tags: Vec<_> = (0..others)
            .map(|n| tag(&["t", &n.to_string().repeat(50)]))
            .chain([tag(&["expiration", &at.to_string()])])
            .collect();
        let event = event_with(1, &tags, "");
        let kept = CutEvent::of(&event).for_recipient(&somebody());
        prop_assert_eq!(expiration(&kept), Some(Seconds(at)));
    }
}

#[test]
fn zapper_is_known_although_the_request_is_cut() {
    let alice = Keys::generate();
    let bob = "11".repeat(32);
    let request = event(&alice, 9734, 1, &[&["p", &bob]], &"x".repeat(10_000));
    let receipt = after_mentions(
        9735,
        &[tag(&[
            "description",
            &serde_json::to_string(&request).unwrap(),
        ])],
    );
    assert_eq!(
        CutEvent::of(&receipt).zapper,
        None,
        "it is for somebody else"
    );
    let receipt = event_with(
        9735,
        &[
            tag(&["p", &bob]),
            tag(&["description", &serde_json::to_string(&request).unwrap()]),
        ],
        "",
    );
    let cut = CutEvent::of(&receipt);
    assert_eq!(cut.zapper, Some(alice.public_key()));
    assert!(cut.for_recipient(&somebody()).tags.len() < 3);
}
