use nostr::{key::Keys, nips::nip19::Nip19Profile};
use nostr_push_testkit::event;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn keys(n: u8) -> Keys {
    Keys::parse(&format!("{n:02x}").repeat(32)).unwrap()
}

/// A delivery to the key `11…` of an event by the key `22…`.
fn delivery(kind: u16, tags: &[&[&str]], content: &str) -> Delivery {
    Delivery {
        app: "demo".to_owned(),
        recipient: keys(0x11).public_key(),
        reasons: Vec::new(),
        relay: String::new(),
        received_at: 0,
        cut: false,
        waited: false,
        event: event(&keys(0x22), kind, 1, tags, content),
    }
}

fn shown(kind: u16, tags: &[&[&str]], content: &str) -> (String, String) {
    let text = Text::of(&delivery(kind, tags, content), Content::Rich);
    (text.title.plain, text.body.plain)
}

fn author() -> String {
    name(&keys(0x22).public_key())
}

#[test]
fn each_kind_says_what_happened() {
    let (me, id) = (keys(0x11).public_key().to_hex(), "ab".repeat(32));
    let p: &[&str] = &["p", &me];
    let by = author();
    for (kind, tags, content, title, body) in [
        (1, vec![p], "hi", "New mention", "hi".to_owned()),
        (1, vec![], "hi", "New note", "hi".to_owned()),
        (
            1,
            vec![p, &["e", &id, "", "root"]],
            "hi",
            "New reply",
            "hi".to_owned(),
        ),
        (1, vec![p, &["e", &id]], "hi", "New reply", "hi".to_owned()),
        (
            1,
            vec![p, &["e", &id, "", "mention"]],
            "hi",
            "New mention",
            "hi".to_owned(),
        ),
        (1, vec![p, &["q", &id]], "hi", "New quote", "hi".to_owned()),
        (
            6,
            vec![p],
            "{}",
            "New repost",
            format!("{by} reposted a note"),
        ),
        (
            16,
            vec![p],
            "{}",
            "New repost",
            format!("{by} reposted a note"),
        ),
        (7, vec![p], "+", "New reaction", format!("❤️ from {by}")),
        (7, vec![p], "", "New reaction", format!("❤️ from {by}")),
        (7, vec![p], "-", "New reaction", format!("👎 from {by}")),
        (7, vec![p], "🤙🏽", "New reaction", format!("🤙🏽 from {by}")),
        (
            7,
            vec![p],
            ":soapbox:",
            "New reaction",
            format!(":soapbox: from {by}"),
        ),
        (1111, vec![p], "nice", "New comment", "nice".to_owned()),
        (
            42,
            vec![&["e", &id]],
            "hello all",
            "New channel message",
            "hello all".to_owned(),
        ),
        (
            9,
            vec![&["h", "g"]],
            "hello group",
            "New group message",
            "hello group".to_owned(),
        ),
        (
            11,
            vec![&["h", "g"]],
            "a thread",
            "New group message",
            "a thread".to_owned(),
        ),
        (
            30023,
            vec![&["title", "On relays"]],
            "# long",
            "New article",
            "On relays".to_owned(),
        ),
        (30311, vec![], "", "New live event", format!("From {by}")),
        (
            4,
            vec![p],
            "secret",
            "New message",
            "You have a new private message".to_owned(),
        ),
        (
            1059,
            vec![p],
            "secret",
            "New message",
            "You have a new private message".to_owned(),
        ),
        (
            30402,
            vec![p],
            "a bicycle",
            "New event",
            format!("Kind 30402 from {by}"),
        ),
    ] {
        assert_eq!(
            shown(kind, &tags, content),
            (title.to_owned(), body),
            "kind {kind}, {tags:?}"
        );
    }
}

#[test]
fn a_zap_says_how_much_from_whom_and_with_which_words() {
    let zapper = keys(0x33);
    let request = |tags: &[&[&str]], words: &str| {
        serde_json::to_string(&event(&zapper, 9734, 1, tags, words)).unwrap()
    };
    let zap = |bolt11: &str, request: &str| {
        shown(9735, &[&["bolt11", bolt11], &["description", request]], "").1
    };
    let by = name(&zapper.public_key());
    assert_eq!(
        zap("lnbc210n1pabc", &request(&[], "")),
        format!("21 sats from {by}")
    );
    assert_eq!(
        zap("lnbc210n1pabc", &request(&[], "well said")),
        format!("21 sats from {by}: well said")
    );
    assert_eq!(zap("lnbc1pabc", &request(&[], "")), format!("From {by}"));
    assert_eq!(
        zap("lnbc210n1pabc", &request(&[&["anon"]], "")),
        "21 sats from somebody"
    );
    assert_eq!(zap("lnbc210n1pabc", "{"), "21 sats from somebody");
}

#[test]
fn private_kinds_never_carry_content_whatever_is_set() {
    for kind in nostr_push_core::PRIVATE_KINDS {
        for content in [Content::Rich, Content::Minimal] {
            let text = Text::of(
                &delivery(kind, &[&["subject", "the secret"]], "the secret"),
                content,
            );
            assert_eq!(
                (text.title.plain.as_str(), text.body.plain.as_str()),
                ("New message", "You have a new private message")
            );
        }
    }
}

proptest! {
    #[test]
    fn minimal_never_says_what_was_said(kind: u16, words in "[a-z]{12,40}") {
        let request = json!({"kind": 9734, "content": words, "tags": []}).to_string();
        let tags: [&[&str]; 4] = [&["title", &words], &["name", &words], &["bolt11", "lnbc210n1p"], &["description", &request]];
        let delivery = delivery(kind, &tags, &words);
        let text = Text::of(&delivery, Content::Minimal);
        // A reaction's content is what happened.
        if kind != 7 {
            let said = format!("{text:?}");
            prop_assert!(!said.contains(&words), "{}", said);
        }
    }

    #[test]
    fn a_line_is_never_too_long_nor_fails(kind: u16, content: String) {
        let text = Text::of(&delivery(kind, &[&["title", &content]], &content), Content::Rich);
        for line in [text.title, text.body] {
            prop_assert!(line.plain.len() <= MAX_LINE, "{}", line.plain.len());
            prop_assert!(!line.plain.chars().any(char::is_control));
        }
    }
}

#[test]
fn phrases_travel_as_keys_and_arguments_and_words_as_they_are() {
    let text = Text::of(&delivery(7, &[], "🔥"), Content::Rich);
    assert_eq!(text.title.key, Some(("REACTION_TITLE", Vec::new())));
    assert_eq!(
        text.body.key,
        Some(("REACTION_BODY", vec!["🔥".to_owned(), author()]))
    );
    assert_eq!(
        Text::of(&delivery(1, &[], "hi"), Content::Rich).body.key,
        None
    );
    let summary = Text::summary(12);
    assert_eq!(
        (summary.title.plain.as_str(), summary.title.key),
        (
            "12 more notifications",
            Some(("SUMMARY_TITLE", vec!["12".to_owned()]))
        )
    );
}

#[test]
fn every_phrase_is_documented() {
    let docs = include_str!("../../../../docs/protocol.md");
    for Phrase(key, english) in PHRASES {
        assert!(docs.contains(&format!("| `{key}` | {english} |")), "{key}");
    }
}

#[test]
fn references_become_short_names() {
    let bob = keys(0x33).public_key();
    let npub = bob.to_bech32().unwrap();
    let profile = Nip19Profile::new(bob, []).to_bech32().unwrap();
    let note = event(&keys(0x22), 1, 1, &[], "").id.to_bech32().unwrap();
    let secret = keys(0x33).secret_key().to_bech32().unwrap();
    let at = format!("@{}", name(&bob));
    assert_eq!(
        named(&format!("hi nostr:{npub}, see nostr:{note}!")),
        format!("hi {at}, see {}!", short(&note))
    );
    assert_eq!(named(&format!("nostr:{profile}")), at);
    assert_eq!(
        named("nostr:nobody nostr: nostr:"),
        "nostr:nobody nostr: nostr:"
    );
    assert!(!named(&format!("nostr:{secret}")).contains("nsec"));
    assert_eq!(at.chars().count(), 16);
}

#[test]
fn a_line_is_cut_between_graphemes() {
    let family = "👨‍👩‍👧‍👦";
    let line = cut(&family.repeat(40), MAX_LINE);
    assert!(line.len() <= MAX_LINE);
    assert_eq!(line.trim_end_matches('…').replace(family, ""), "");
    assert_eq!(cut(" a\n\n b\u{7}c \u{7} ", MAX_LINE), "a bc");
    assert_eq!(cut(&"x".repeat(MAX_LINE), MAX_LINE), "x".repeat(MAX_LINE));
}
