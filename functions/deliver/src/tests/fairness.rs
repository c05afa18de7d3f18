//! What a recipient is spared: the flood, the crowd, and whom they muted.

use nostr_push_core::{message, mute_list::MuteList, ports::seconds};

use super::*;

const WINDOW: u64 = NOW / 60 * 60;

fn limited(max_pushes: u32) -> Memory {
    let memory = memory(&[("phone", Platform::Apns), ("tablet", Platform::Fcm)]);
    memory.state().apps.get_mut("demo").unwrap().max_pushes = Some(max_pushes);
    memory
}

async fn at(memory: &Memory, outgoing: &Outgoing, now: u64) -> Delivered {
    let attempt = Attempt {
        holder: format!("{now}"),
        now: now * 1000,
        lease: Duration::from_secs(60),
    };
    handle(memory, memory, memory, outgoing, &attempt)
        .await
        .unwrap()
}

/// The messages that are to come later, with the second at which they do.
fn later(memory: &Memory, now: u64) -> Vec<(u64, Outgoing)> {
    let delayed = std::mem::take(&mut memory.state().delayed);
    delayed
        .into_iter()
        .map(|(delay, body)| (now + delay.as_secs(), message::decode(&body).unwrap()))
        .collect()
}

fn payload(push: &nostr_push_core::ports::Push) -> Value {
    let message: Value = serde_json::from_str(&push.message).unwrap();
    serde_json::from_str(
        message["APNS"]
            .as_str()
            .or(message["GCM"].as_str())
            .unwrap(),
    )
    .unwrap()
}

#[tokio::test]
async fn what_is_too_much_for_a_minute_becomes_one_summary_at_its_end() {
    let memory = limited(3);
    let notes: Vec<Delivery> = (0..10).map(|_| delivery(note("hi"))).collect();
    for (n, note) in notes.iter().enumerate() {
        let outcome = at(&memory, &sent(note), WINDOW + 20).await;
        assert_eq!(
            matches!(outcome, Delivered::Tried(_)),
            n < 3,
            "{n}: {outcome:?}"
        );
        assert!(n < 3 || outcome == Delivered::Dropped("rate_limited"));
    }
    assert_eq!(memory.state().published.len(), 6, "three on two devices");
    // Nor is it pushed when a relay sends it again.
    assert_eq!(
        at(&memory, &sent(&notes[9]), WINDOW + 90).await,
        Delivered::Dropped("duplicate")
    );
    let [(due, summary)] = &later(&memory, WINDOW + 20)[..] else {
        panic!("one summary")
    };
    assert_eq!(*due, WINDOW + 60);
    for _ in 0..2 {
        // Twice: SQS may repeat it.
        at(&memory, summary, *due).await;
    }
    let pushes: Vec<Value> = memory.state().published[6..]
        .iter()
        .map(|(_, push)| payload(push))
        .collect();
    assert_eq!(pushes.len(), 2, "one on each device");
    let (apns, fcm) = (&pushes[0], &pushes[1]["fcmV1Message"]["message"]["data"]);
    assert_eq!(apns["aps"]["alert"]["title"], "7 more notifications");
    assert_eq!(
        (&apns["summary"], &fcm["summary"], &fcm["title"]),
        (&json!(7), &json!("7"), &json!("7 more notifications"))
    );
    assert_eq!(apns["recipient"], json!(notes[0].recipient));
    // The next minute begins anew.
    assert!(matches!(
        at(&memory, &sent(&delivery(note("later"))), WINDOW + 61).await,
        Delivered::Tried(_)
    ));
}

#[tokio::test]
async fn private_kinds_count_and_are_never_left_out() {
    let memory = limited(2);
    for _ in 0..4 {
        let wrap = delivery(event(&Keys::generate(), 1059, NOW, &[], "x"));
        assert!(matches!(
            at(&memory, &sent(&wrap), NOW).await,
            Delivered::Tried(_)
        ));
    }
    assert_eq!(
        at(&memory, &sent(&delivery(note("hi"))), NOW).await,
        Delivered::Dropped("rate_limited")
    );
}

#[tokio::test]
async fn a_push_that_is_tried_again_counts_once() {
    let memory = limited(1);
    memory.state().outcomes.insert(
        "arn:phone".to_owned(),
        Outcome::Retry {
            after: None,
            reason: "throttled",
        },
    );
    memory.state().outcomes.insert(
        "arn:tablet".to_owned(),
        Outcome::Retry {
            after: None,
            reason: "throttled",
        },
    );
    let delivery = sent(&delivery(note("hi")));
    for n in 0..3 {
        assert!(matches!(
            at(&memory, &delivery, WINDOW + n).await,
            Delivered::Again {
                reason: "throttled",
                ..
            }
        ));
    }
    memory.state().outcomes.clear();
    assert!(
        matches!(at(&memory, &delivery, WINDOW + 5).await, Delivered::Tried(tried) if tried.len() == 2)
    );
}

proptest! {
    #[test]
    fn a_crash_at_any_call_loses_neither_a_push_nor_the_summary(crash in 0..30usize, after_effect: bool) {
        let memory = limited(1);
        memory.state().fail_in = Some(crash);
        memory.state().fail_after_effect = after_effect;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let notes: Vec<Outgoing> = (0..3).map(|_| sent(&delivery(note("hi")))).collect();
        runtime.block_on(async {
            for (n, note) in notes.iter().enumerate() {
                for again in 0..4u64 {
                    // The lease of an attempt that died is over when the message comes again.
                    let now = WINDOW * 1000 + n as u64 * 100 + again * 10_000;
                    let attempt = Attempt { holder: format!("{n}/{again}"), now, lease: Duration::from_secs(9) };
                    if matches!(handle(&memory, &memory, &memory, note, &attempt).await, Ok(Delivered::Tried(_) | Delivered::Dropped(_))) {
                        break;
                    }
                    assert!(again < 3, "it keeps failing");
                }
            }
            let summaries = later(&memory, WINDOW);
            assert!(!summaries.is_empty());
            for (n, (_, summary)) in summaries.iter().enumerate() {
                for again in 0..4u64 {
                    let now = (WINDOW + 60 + 10 * again) * 1000;
                    let attempt = Attempt { holder: format!("summary/{n}/{again}"), now, lease: Duration::from_secs(9) };
                    if handle(&memory, &memory, &memory, summary, &attempt).await.is_ok_and(|outcome| !matches!(outcome, Delivered::Again { .. })) {
                        break;
                    }
                }
            }
        });
        let mut ids: Vec<(String, String)> =
            memory.state().published.iter().filter(|(arn, _)| arn == "arn:phone").map(|(arn, push)| (arn.clone(), attribute(push, "AWS.SNS.MOBILE.APNS.COLLAPSE_ID"))).collect();
        ids.sort();
        ids.dedup();
        // One of the notes, and the summary of the other two (a crash may count one of them twice).
        prop_assert_eq!(ids.len(), 2, "{:?}", ids);
        let summary = format!("summary:{WINDOW}");
        prop_assert!(ids.iter().any(|(_, id)| *id == summary));
    }
}

#[tokio::test]
async fn what_the_recipient_muted_is_dropped() {
    let (mallory, friend) = (Keys::generate(), Keys::generate());
    let thread = "ab".repeat(32);
    let me = Keys::parse(&"11".repeat(32)).unwrap();
    let tags: &[&[&str]] = &[
        &["p", &mallory.public_key().to_hex()],
        &["word", "Casino"],
        &["t", "Spam"],
        &["e", &thread],
    ];
    let list = MuteList::of(&event(&me, 10_000, NOW, tags, "the private part"), NOW);
    let memory = limited(100);
    memory.state().mute_lists.insert(me.public_key(), list);
    let request = serde_json::to_string(&event(&mallory, 9734, NOW, &[], "")).unwrap();
    for (muted, event) in [
        (true, event(&mallory, 1, NOW, &[], "hello")),
        (true, event(&mallory, 4, NOW, &[], "hello")),
        (
            true,
            event(&friend, 9735, NOW, &[&["description", &request]], ""),
        ),
        (true, event(&friend, 1, NOW, &[], "best CASINO in town")),
        (true, event(&friend, 1, NOW, &[&["t", "spam"]], "hello")),
        (
            true,
            event(&friend, 1, NOW, &[&["e", &thread, "", "root"]], "hello"),
        ),
        (true, event(&friend, 1111, NOW, &[&["E", &thread]], "hello")),
        (
            false,
            event(
                &friend,
                1,
                NOW,
                &[&["e", &"cd".repeat(32)], &["t", "art"]],
                "hello",
            ),
        ),
        // Ciphertext may hold any word.
        (false, event(&friend, 4, NOW, &[], "casino?iv=")),
    ] {
        let outcome = at(&memory, &sent(&delivery(event.clone())), NOW).await;
        assert_eq!(
            outcome == Delivered::Dropped("muted"),
            muted,
            "{event:?}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn an_event_that_mentions_a_crowd_does_not_notify_where_that_is_set() {
    let crowd: Vec<String> = (0..11).map(|n| format!("{n:02x}").repeat(32)).collect();
    let mention = |n: usize| {
        let tags: Vec<[&str; 2]> = crowd[..n]
            .iter()
            .map(|p| ["p", p.as_str()])
            .chain([["p", crowd[0].as_str()]])
            .collect();
        sent(&delivery(event(
            &Keys::generate(),
            1,
            NOW,
            &tags.iter().map(<[&str; 2]>::as_slice).collect::<Vec<_>>(),
            "all",
        )))
    };
    let memory = limited(100);
    assert!(
        matches!(at(&memory, &mention(11), NOW).await, Delivered::Tried(_)),
        "off by default"
    );
    memory.state().apps.get_mut("demo").unwrap().max_mentions = Some(10);
    assert!(
        matches!(at(&memory, &mention(10), NOW).await, Delivered::Tried(_)),
        "the same one twice is one"
    );
    assert_eq!(
        at(&memory, &mention(11), NOW).await,
        Delivered::Dropped("too_many_mentions")
    );
    memory.state().apps.get_mut("demo").unwrap().max_mentions = None;
    for device in memory.state().devices.values_mut().take(1) {
        device.registration.as_mut().unwrap().max_mentions = Some(10);
    }
    assert!(
        matches!(at(&memory, &mention(11), NOW).await, Delivered::Tried(tried) if tried.len() == 1),
        "the other device"
    );
    assert_eq!(seconds(NOW * 1000), NOW);
}
