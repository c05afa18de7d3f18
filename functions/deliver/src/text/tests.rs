use nostr::{key::Keys, nips::nip19::Nip19Profile};
use nostr_push_core::Millis;
use nostr_push_testkit::{builders::APP, event};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn keys(n: u8) -> Keys {
    Keys::parse(&format!("{n:02x}").repeat(32)).unwrap()
}

/// A delivery of an event by the key `22…` to the key `11…`.
fn delivery(kind: u16, tags: &[&[&str]], content: &str) -> Delivery {
    Delivery {
        app: APP.to_owned(),
        recipient: keys(0x11).public_key(),
        reasons: Vec::new(),
        relay: String::new(),
        received_at: Millis(0),
        cut: false,
        mentions: None,
        waited: false,
        event: event(&keys(0x22), kind, 1, tags, content),
    }
}

/// The title and the body.
fn lines(kind: u16, tags: &[&[&str]], content: &str) -> (String, String) {
    let text = Text::of(&delivery(kind, tags, content), ContentDetail::Rich);
    (text.title.plain, text.body.plain)
}

fn author() -> String {
    name(&keys(0x22).public_key())
}

#[test]
fn note_title_depends_on_its_tags() {
    let (me, id) = (keys(0x11).public_key().to_hex(), "ab".repeat(32));
    let p: &[&str] = &["p", &me];
    for (tags, title) in [
        (vec![p], "New mention"),
        (vec![], "New note"),
        (vec![p, &["e", &id, "", "root"]], "New reply"),
        (vec![p, &["e", &id]], "New reply"),
        (vec![p, &["e", &id, "", "mention"]], "New mention"),
        (vec![p, &["q", &id]], "New quote"),
    ] {
        let expected = (title.to_owned(), "hi".to_owned());
        assert_eq!(lines(1, &tags, "hi"), expected, "{tags:?}");
    }
}

#[test]
fn reaction_shows_its_symbol_and_author() {
    let me = keys(0x11).public_key().to_hex();
    for (content, symbol) in [
        ("+", "❤️"),
        ("", "❤️"),
        ("-", "👎"),
        ("🤙🏽", "🤙🏽"),
        (":soapbox:", ":soapbox:"),
    ] {
        let expected = (
            "New reaction".to_owned(),
            format!("{symbol} from {}", author()),
        );
        assert_eq!(lines(7, &[&["p", &me]], content), expected);
    }
}

#[test]
fn title_tag_with_a_value_precedes_name_tag() {
    let from = format!("From {}", author());
    let name: &[&str] = &["name", "Name"];
    for (tags, body) in [
        ([name, &["title", "Title"]], "Title"),
        ([name, &["title", ""]], from.as_str()),
        ([name, &["title"]], "Name"),
    ] {
        assert_eq!(lines(20, &tags, "").1, body, "{tags:?}");
    }
}

#[test]
fn each_kind_has_its_title_and_body() {
    let (me, id, by) = (keys(0x11).public_key().to_hex(), "ab".repeat(32), author());
    let (p, e): (&[&str], &[&str]) = (&["p", &me], &["e", &id]);
    let (h, title): (&[&str], &[&str]) = (&["h", "g"], &["title", "On relays"]);
    let reposted = format!("{by} reposted a note");
    let (from, of_kind) = (format!("From {by}"), format!("Kind 30402 from {by}"));
    let private = "You have a new private message";
    for (kind, tag, content, title, body) in [
        (6, Some(p), "{}", "New repost", reposted.as_str()),
        (16, Some(p), "{}", "New repost", &reposted),
        (1111, Some(p), "nice", "New comment", "nice"),
        (42, Some(e), "hello all", "New channel message", "hello all"),
        (
            9,
            Some(h),
            "hello group",
            "New group message",
            "hello group",
        ),
        (11, Some(h), "a thread", "New group message", "a thread"),
        (30023, Some(title), "# long", "New article", "On relays"),
        (30311, None, "", "New live event", &from),
        (4, Some(p), "secret", "New message", private),
        (1059, Some(p), "secret", "New message", private),
        (30402, Some(p), "a bicycle", "New event", &of_kind),
    ] {
        let tags: Vec<&[&str]> = tag.into_iter().collect();
        let expected = (title.to_owned(), body.to_owned());
        assert_eq!(lines(kind, &tags, content), expected, "kind {kind}");
    }
}

#[test]
fn zap_shows_amount_sender_and_comment() {
    let zapper = keys(0x33);
    let request = |tags: &[&[&str]], comment: &str| {
        serde_json::to_string(&event(&zapper, 9734, 1, tags, comment)).unwrap()
    };
    let zap = |bolt11: &str, request: &str| {
        lines(9735, &[&["bolt11", bolt11], &["description", request]], "").1
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
fn private_kinds_never_show_content() {
    for kind in nostr_push_core::PRIVATE_KINDS {
        for detail in [ContentDetail::Rich, ContentDetail::Minimal] {
            let text = Text::of(
                &delivery(kind, &[&["subject", "the secret"]], "the secret"),
                detail,
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
    fn minimal_text_shows_no_content(kind: u16, content in "[a-z]{12,40}") {
        let request = json!({"kind": 9734, "content": content, "tags": []}).to_string();
        let tags: [&[&str]; 4] = [
            &["title", &content],
            &["name", &content],
            &["bolt11", "lnbc210n1p"],
            &["description", &request],
        ];
        let delivery = delivery(kind, &tags, &content);
        let text = Text::of(&delivery, ContentDetail::Minimal);
        // The content of a reaction is its symbol, which is shown.
        if kind != 7 {
            let printed = format!("{text:?}");
            prop_assert!(!printed.contains(&content), "{}", printed);
        }
    }

    #[test]
    fn lines_are_short_and_have_no_control_characters(kind: u16, content: String) {
        let delivery = delivery(kind, &[&["title", &content]], &content);
        let text = Text::of(&delivery, ContentDetail::Rich);
        for line in [text.title, text.body] {
            prop_assert!(line.plain.len() <= MAX_LINE_BYTES, "{}", line.plain.len());
            prop_assert!(!line.plain.chars().any(char::is_control));
        }
    }
}

#[test]
fn only_phrases_have_keys_and_arguments() {
    let text = Text::of(&delivery(7, &[], "🔥"), ContentDetail::Rich);
    assert_eq!(text.title.key, Some(("REACTION_TITLE", Vec::new())));
    assert_eq!(
        text.body.key,
        Some(("REACTION_BODY", vec!["🔥".to_owned(), author()]))
    );
    let note = Text::of(&delivery(1, &[], "hi"), ContentDetail::Rich);
    assert_eq!(note.body.key, None);
    let summary = Text::summary(12);
    assert_eq!(summary.title.plain, "12 more notifications");
    assert_eq!(
        summary.title.key,
        Some(("SUMMARY_TITLE", vec!["12".to_owned()]))
    );
}

#[test]
fn every_phrase_is_documented() {
    let docs = include_str!("../../../../docs/protocol.md");
    for Phrase { key, english } in PHRASES {
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
        shorten_references(&format!("hi nostr:{npub}, see nostr:{note}!")),
        format!("hi {at}, see {}!", shorten(&note))
    );
    assert_eq!(shorten_references(&format!("nostr:{profile}")), at);
    assert_eq!(
        shorten_references("nostr:nobody nostr: nostr:"),
        "nostr:nobody nostr: nostr:"
    );
    assert!(!shorten_references(&format!("nostr:{secret}")).contains("nsec"));
    assert_eq!(at.chars().count(), 16);
}

#[test]
fn lines_are_cut_between_graphemes() {
    let family = "👨‍👩‍👧‍👦";
    let line = cut(&family.repeat(40), MAX_LINE_BYTES);
    assert!(line.len() <= MAX_LINE_BYTES);
    assert_eq!(line.trim_end_matches('…').replace(family, ""), "");
    assert_eq!(cut(" a\n\n b\u{7}c \u{7} ", MAX_LINE_BYTES), "a bc");
    assert_eq!(
        cut(&"x".repeat(MAX_LINE_BYTES), MAX_LINE_BYTES),
        "x".repeat(MAX_LINE_BYTES)
    );
}
