use std::collections::BTreeMap;

use nostr::{event::Event, key::Keys, nips::nip19::Nip19Profile};
use nostr_push_core::{
    Millis,
    profile::{Profile, ProfileKey},
};
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
        zapper: None,
        waited: false,
        event: event(&keys(0x22), kind, 1, tags, content),
    }
}

/// The text without names.
fn text(delivery: &Delivery, detail: ContentDetail) -> Text {
    Text::of(delivery, detail, &Names::of(delivery, BTreeMap::new()))
}

/// The title and the body.
fn lines(kind: u16, tags: &[&[&str]], content: &str) -> (String, String) {
    let text = text(&delivery(kind, tags, content), ContentDetail::Rich);
    (text.title.plain, text.body.plain)
}

fn author() -> String {
    short_npub(&keys(0x22).public_key())
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

/// A zap receipt for the recipient, with this request.
fn zap(bolt11: &str, request: &str) -> Delivery {
    let me = keys(0x11).public_key().to_hex();
    let tags: [&[&str]; 3] = [&["p", &me], &["bolt11", bolt11], &["description", request]];
    let delivery = delivery(9735, &tags, "");
    Delivery {
        zapper: nostr_push_core::zap::zapper(&delivery.event),
        ..delivery
    }
}

/// A zap request by the key `33…` for the recipient.
fn zap_request(tags: &[&[&str]], comment: &str) -> Event {
    let me = keys(0x11).public_key().to_hex();
    let p: &[&str] = &["p", &me];
    let tags: Vec<&[&str]> = [p].into_iter().chain(tags.iter().copied()).collect();
    event(&keys(0x33), 9734, 1, &tags, comment)
}

#[test]
fn zap_shows_amount_sender_and_comment() {
    let request = |tags: &[&[&str]], comment: &str| {
        serde_json::to_string(&zap_request(tags, comment)).unwrap()
    };
    let body = |bolt11: &str, request: &str| {
        let text = text(&zap(bolt11, request), ContentDetail::Rich);
        text.body.plain
    };
    let by = short_npub(&keys(0x33).public_key());
    assert_eq!(
        body("lnbc210n1pabc", &request(&[], "")),
        format!("21 sats from {by}")
    );
    assert_eq!(
        body("lnbc210n1pabc", &request(&[], "well said")),
        format!("21 sats from {by}: well said")
    );
    assert_eq!(body("lnbc1pabc", &request(&[], "")), format!("From {by}"));
    assert_eq!(
        body("lnbc210n1pabc", &request(&[&["anon"]], "")),
        "21 sats from somebody"
    );
    assert_eq!(body("lnbc210n1pabc", "{"), "21 sats from somebody");
}

#[test]
fn zap_in_the_name_of_somebody_else_names_nobody() {
    let mut forged = zap_request(&[], "");
    forged.pubkey = keys(0x44).public_key();
    let forged = serde_json::to_string(&forged).unwrap();
    let delivery = zap("lnbc210n1pabc", &forged);
    let bob = ProfileKey::Person(keys(0x44).public_key());
    let names = Names::of(&delivery, [(bob, profile("bob"))].into());
    let text = Text::of(&delivery, ContentDetail::Rich, &names);
    assert_eq!(text.title.plain, "New zap");
    assert_eq!(text.body.plain, "21 sats from somebody");
}

fn profile(name: &str) -> Profile {
    Profile {
        name: Some(name.to_owned()),
        ..Profile::default()
    }
}

/// The text if the author is called alice, the key `33…` bob, and the group `g` Rust.
fn named(delivery: &Delivery) -> (String, String) {
    let person = |n: u8| ProfileKey::Person(keys(n).public_key());
    let group = ProfileKey::Group {
        relay: "wss://relay.example".to_owned(),
        id: "g".to_owned(),
    };
    let profiles = [
        (person(0x22), profile("alice")),
        (person(0x33), profile("bob")),
        (group, profile("Rust")),
    ];
    let names = Names::of(delivery, profiles.into());
    let text = Text::of(delivery, ContentDetail::Rich, &names);
    (text.title.plain, text.body.plain)
}

#[test]
fn titles_name_who_acted_and_whose_event_it_is() {
    let (me, bob) = (
        keys(0x11).public_key().to_hex(),
        keys(0x33).public_key().to_hex(),
    );
    let carol = keys(0x44).public_key();
    let (id, c) = ("ab".repeat(32), carol.to_hex());
    let (p, pb, pc): (&[&str], &[&str], &[&str]) = (&["p", &me], &["p", &bob], &["p", &c]);
    let e: &[&str] = &["e", &id];
    let reply_to_bob: &[&str] = &["e", &id, "", "reply", &bob];
    let npub = short_npub(&carol);
    let to_carol = format!("alice reacted to a post of {npub}");
    let cases: [(u16, &[&[&str]], &str); 25] = [
        (1, &[p], "alice mentioned you"),
        (1, &[], "alice posted a note"),
        (1, &[p, e], "alice replied to you"),
        (1, &[p, pb, reply_to_bob], "alice replied to bob"),
        // Nothing says to whose note.
        (1, &[p, pb, e], "alice mentioned you"),
        (1, &[p, &["q", &id, "", &me]], "alice quoted you"),
        (1, &[p, &["q", &id]], "alice mentioned you"),
        (6, &[p], "alice reposted your note"),
        (6, &[p, pb], "New repost"),
        (7, &[pb, p], "alice reacted to your post"),
        (7, &[p, pb], "alice reacted to a post of bob"),
        (7, &[p, pc], &to_carol),
        (7, &[], "New reaction"),
        (9, &[&["h", "g"]], "alice in Rust"),
        (9, &[&["h", "unknown"]], "alice wrote in a group"),
        (42, &[e], "alice wrote in a channel"),
        (1111, &[p], "alice commented"),
        (20, &[p], "alice posted a picture"),
        (22, &[p], "alice posted a video"),
        (1222, &[p], "alice posted a voice message"),
        (1068, &[p], "alice started a poll"),
        (9802, &[p], "alice highlighted a text"),
        (30023, &[p], "alice published an article"),
        (8, &[p], "alice awarded a badge"),
        (4, &[p], "New message"),
    ];
    for (kind, tags, title) in cases {
        let delivery = Delivery {
            relay: "wss://relay.example".to_owned(),
            ..delivery(kind, tags, "hi")
        };
        assert_eq!(named(&delivery).0, title, "{kind} {tags:?}");
    }
}

#[test]
fn bodies_name_the_author() {
    let me = keys(0x11).public_key().to_hex();
    let p: &[&str] = &["p", &me];
    for (kind, body) in [
        (7, "🔥 from alice"),
        (6, "alice reposted a note"),
        (8, "From alice"),
    ] {
        assert_eq!(named(&delivery(kind, &[p], "🔥")).1, body);
    }
    let request = serde_json::to_string(&zap_request(&[], "")).unwrap();
    let (title, body) = named(&zap("lnbc210n1pabc", &request));
    assert_eq!(
        (title.as_str(), body.as_str()),
        ("bob zapped you", "21 sats from bob")
    );
}

#[test]
fn names_that_read_like_phrases_are_not_shown() {
    let delivery = delivery(1, &[], "hi");
    for name in ["alice zapped you 21000 sats", "npub1abcde…wxyz", "You"] {
        let alice = ProfileKey::Person(keys(0x22).public_key());
        let names = Names::of(&delivery, [(alice, profile(name))].into());
        let text = Text::of(&delivery, ContentDetail::Rich, &names);
        assert_eq!(text.title.plain, "New note", "{name}");
    }
}

#[test]
fn text_from_right_to_left_does_not_reorder_the_words_around_it() {
    let delivery = delivery(1, &[], "hi");
    let alice = ProfileKey::Person(keys(0x22).public_key());
    let names = Names::of(&delivery, [(alice, profile("ليلى"))].into());
    let text = Text::of(&delivery, ContentDetail::Rich, &names);
    assert_eq!(text.title.plain, "\u{2068}ليلى\u{2069} posted a note");
    assert_eq!(text.title.phrase, Some((NOTE, vec!["ليلى".to_owned()])));
    let comment = serde_json::to_string(&zap_request(&[], "a\u{202e}b\u{2067}c")).unwrap();
    let text = self::text(&zap("lnbc210n1pabc", &comment), ContentDetail::Rich);
    assert!(text.body.plain.ends_with(": abc"), "{}", text.body.plain);
}

#[test]
fn reaction_of_several_words_is_shown_as_a_like() {
    for content in [
        "zapped you 21000 sats from bob",
        "lol",
        ":not a code:",
        ":alice_zapped_you_21000:",
        "a",
        "\u{202e}x",
    ] {
        let body = lines(7, &[], content).1;
        assert_eq!(body, format!("❤️ from {}", author()), "{content}");
    }
    assert_eq!(lines(7, &[], "🤙🤙").1, format!("🤙 from {}", author()));
}

#[test]
fn private_kinds_never_show_content() {
    for kind in nostr_push_core::PRIVATE_KINDS {
        for detail in [ContentDetail::Rich, ContentDetail::Minimal] {
            let text = text(
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
        let text = text(&delivery, ContentDetail::Minimal);
        // The content of a reaction is its symbol, which is shown.
        if kind != 7 {
            let printed = format!("{text:?}");
            prop_assert!(!printed.contains(&content), "{}", printed);
        }
    }

    #[test]
    fn lines_are_short_and_have_no_control_characters(kind: u16, content: String) {
        let delivery = delivery(kind, &[&["title", &content]], &content);
        let text = text(&delivery, ContentDetail::Rich);
        for line in [text.title, text.body] {
            prop_assert!(line.plain.len() <= MAX_LINE_BYTES, "{}", line.plain.len());
            prop_assert!(!line.plain.chars().any(char::is_control));
        }
    }
}

#[test]
fn only_phrases_have_arguments() {
    let reaction = text(&delivery(7, &[], "🔥"), ContentDetail::Rich);
    assert_eq!(reaction.title.phrase, Some((REACTION, Vec::new())));
    assert_eq!(
        reaction.body.phrase,
        Some((REACTION_BODY, vec!["🔥".to_owned(), author()]))
    );
    let note = text(&delivery(1, &[], "hi"), ContentDetail::Rich);
    assert_eq!(note.body.phrase, None);
    let summary = Text::summary(12);
    assert_eq!(summary.title.plain, "12 more notifications");
    assert_eq!(summary.title.phrase, Some((SUMMARY, vec!["12".to_owned()])));
}

#[test]
fn english_text_has_no_arguments_if_names_are_optional() {
    for phrase in PHRASES {
        let has_optional_names = !phrase.with_name.is_empty() || !phrase.with_two.is_empty();
        assert!(
            !has_optional_names || phrase.english_args() == 0,
            "{}",
            phrase.key
        );
    }
    assert_eq!(REACTION_BODY.english_args(), 2);
    assert_eq!(ZAP_COMMENT_BODY.english_args(), 3);
}

#[test]
fn every_phrase_is_documented() {
    let docs = include_str!("../../../../docs/protocol.md");
    for phrase in PHRASES {
        let Phrase {
            key,
            english,
            with_name,
            with_two,
        } = phrase;
        let row =
            format!("| `{key}` | {english} | {with_name} | {with_two} |").replace("|  |", "| |");
        // A cell that is empty has one space.
        let row = row.replace("|  |", "| |");
        assert!(docs.contains(&row), "{row}");
    }
}

#[test]
fn references_become_short_names() {
    let bob = keys(0x33).public_key();
    let npub = bob.to_bech32().unwrap();
    let profile = Nip19Profile::new(bob, []).to_bech32().unwrap();
    let note = event(&keys(0x22), 1, 1, &[], "").id.to_bech32().unwrap();
    let secret = keys(0x33).secret_key().to_bech32().unwrap();
    let at = format!("@{}", short_npub(&bob));
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
