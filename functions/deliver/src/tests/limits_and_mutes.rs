//! What a recipient is not notified of: too many events per minute, events that mention too many
//! people, and muted events.

use nostr_push_core::{MAX_DELIVERY_AGE, message::Summary, mute_list::MuteList};

use super::*;

/// The beginning of a minute.
const WINDOW: u64 = NOW / 60 * 60;

/// The ports, with two devices and this limit of pushes per minute.
fn limited(max_pushes: u32) -> Memory {
    let memory = memory(&[("phone", Platform::Apns), ("tablet", Platform::Fcm)]);
    memory.state().apps.get_mut(APP).unwrap().max_pushes = Some(max_pushes);
    memory
}

/// Handles the message at this second.
async fn handle_at(memory: &Memory, message: &DeliveryMessage, now: u64) -> DeliveryOutcome {
    let attempt = Attempt {
        holder: format!("{now}"),
        now: Seconds(now).to_millis(),
        lease: LEASE,
    };
    handle(memory, message, &attempt).await.unwrap()
}

/// Takes the delayed messages, each with the second at which it is received.
fn take_delayed(memory: &Memory, now: u64) -> Vec<(u64, DeliveryMessage)> {
    let delayed = std::mem::take(&mut memory.state().delayed);
    delayed
        .into_iter()
        .map(|(delay, body)| (now + delay.as_secs(), message::decode(&body).unwrap()))
        .collect()
}

fn payload(push: &Push) -> Value {
    let message: Value = serde_json::from_str(&push.message).unwrap();
    let payload = message["APNS"].as_str().or(message["GCM"].as_str());
    serde_json::from_str(payload.unwrap()).unwrap()
}

fn is_completed(outcome: &DeliveryOutcome) -> bool {
    matches!(outcome, DeliveryOutcome::Completed(_))
}

#[tokio::test]
async fn events_beyond_the_limit_become_one_summary() {
    let memory = limited(3);
    let notes: Vec<Delivery> = (0..10).map(|_| delivery(note("hi"))).collect();
    for (n, note) in notes.iter().enumerate() {
        let outcome = handle_at(&memory, &event_message(note), WINDOW + 20).await;
        assert_eq!(is_completed(&outcome), n < 3, "{n}: {outcome:?}");
        assert!(n < 3 || outcome == dropped(DeliveryDropReason::RateLimited));
    }
    let published = memory.state().published.len();
    assert_eq!(published, 6, "three on two devices");
    // A copy from another relay is not pushed either.
    assert_eq!(
        handle_at(&memory, &event_message(&notes[9]), WINDOW + 90).await,
        dropped(DeliveryDropReason::Duplicate)
    );
    let [(due, summary)] = &take_delayed(&memory, WINDOW + 20)[..] else {
        panic!("one summary")
    };
    assert_eq!(*due, WINDOW + 60);
    for _ in 0..2 {
        // SQS may deliver a message twice.
        handle_at(&memory, summary, *due).await;
    }
    let pushes: Vec<Value> = memory.state().published[6..]
        .iter()
        .map(|(_, push)| payload(push))
        .collect();
    assert_eq!(pushes.len(), 2, "one on each device");
    let (apns, fcm) = (&pushes[0], &pushes[1]["fcmV1Message"]["message"]["data"]);
    assert_eq!(apns["aps"]["alert"]["title"], "7 more notifications");
    assert_eq!(apns["summary"], json!(7));
    assert_eq!(fcm["summary"], json!("7"));
    assert_eq!(fcm["title"], json!("7 more notifications"));
    assert_eq!(apns["recipient"], json!(notes[0].recipient));
    // The next minute has a limit of its own.
    let in_next_minute = event_message(&delivery(note("later")));
    let outcome = handle_at(&memory, &in_next_minute, WINDOW + 61).await;
    assert!(is_completed(&outcome));
}

#[tokio::test]
async fn private_kinds_beyond_the_limit_are_summed_up() {
    let memory = limited(2);
    let wrap = || event_message(&delivery(event(&Keys::generate(), 1059, NOW, &[], "x")));
    for n in 0..40 {
        let wrap = wrap();
        let outcome = handle_at(&memory, &wrap, WINDOW + 1).await;
        if n < 2 {
            assert!(is_completed(&outcome), "{n}");
        } else {
            assert_eq!(outcome, dropped(DeliveryDropReason::RateLimited), "{n}");
            // A copy from another relay is not pushed in the next minute.
            let copy = handle_at(&memory, &wrap, WINDOW + 90).await;
            assert_eq!(copy, dropped(DeliveryDropReason::Duplicate));
        }
    }
    let [(due, summary)] = &take_delayed(&memory, WINDOW + 1)[..] else {
        panic!("one summary")
    };
    assert!(is_completed(&handle_at(&memory, summary, *due).await));
    let (_, push) = memory.state().published.pop().unwrap();
    let data = &payload(&push)["fcmV1Message"]["message"]["data"];
    assert_eq!(data["title"], "38 more notifications");
}

#[tokio::test]
async fn deliveries_that_may_outlive_their_claim_are_dropped() {
    let memory = limited(100);
    let event = event_message(&delivery(note("hi")));
    let summary = DeliveryMessage::Summary(Summary {
        app: APP.to_owned(),
        recipient: recipient().public_key(),
        window: Seconds(NOW - 60),
    });
    for message in [event, summary] {
        let last = NOW + MAX_DELIVERY_AGE.0;
        let outcome = handle_at(&memory, &message, last + 1).await;
        assert_eq!(outcome, dropped(DeliveryDropReason::TooOld));
        assert!(published(&memory).is_empty());
        assert!(is_completed(&handle_at(&memory, &message, last).await));
        memory.state().published.clear();
    }
}

#[tokio::test]
async fn retried_push_counts_once() {
    let memory = limited(1);
    let throttled = PublishOutcome::Retry {
        after: None,
        reason: RetryReason::Throttled,
    };
    for name in ["phone", "tablet"] {
        set_outcome(&memory, name, throttled.clone());
    }
    let message = event_message(&delivery(note("hi")));
    for n in 0..3 {
        assert!(matches!(
            handle_at(&memory, &message, WINDOW + n).await,
            DeliveryOutcome::Retry {
                reason: DeliveryRetryReason::Publish(RetryReason::Throttled),
                ..
            }
        ));
    }
    memory.state().outcomes.clear();
    let outcome = handle_at(&memory, &message, WINDOW + 5).await;
    assert!(is_completed_on(&outcome, 2));
}

/// Tries at most four times. The lease of an attempt that crashed has ended at the next one.
async fn try_repeatedly(
    memory: &Memory,
    message: &DeliveryMessage,
    start: Millis,
) -> Option<DeliveryOutcome> {
    for n in 0..4 {
        let attempt = Attempt {
            holder: format!("{start}/{n}"),
            now: start + Millis(10_000) * n,
            lease: Seconds(9),
        };
        match handle(memory, message, &attempt).await {
            Ok(DeliveryOutcome::Retry { .. }) | Err(_) => {}
            Ok(outcome) => return Some(outcome),
        }
    }
    None
}

/// Delivers three notes under a limit of one, and then the summaries. One call of a port fails.
async fn deliver_three_notes(memory: &Memory) {
    for n in 0..3u64 {
        let start = Seconds(WINDOW).to_millis() + Millis(100 * n);
        let note = event_message(&delivery(note("hi")));
        let outcome = try_repeatedly(memory, &note, start).await;
        let outcome = outcome.expect("an attempt succeeds");
        assert!(!matches!(outcome, DeliveryOutcome::Waiting(_)));
    }
    let summaries = take_delayed(memory, WINDOW);
    assert!(!summaries.is_empty());
    for (n, (_, summary)) in (0u64..).zip(&summaries) {
        let start = Seconds(WINDOW + 60).to_millis() + Millis(n);
        try_repeatedly(memory, summary, start).await;
    }
}

proptest! {
    #[test]
    fn crash_at_any_call_loses_neither_push_nor_summary(
        crash in 0..30usize,
        after_effect: bool,
    ) {
        let memory = limited(1);
        memory.state().fail_in = Some(crash);
        memory.state().fail_after_effect = after_effect;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(deliver_three_notes(&memory));
        let state = memory.state();
        let on_phone = state.published.iter().filter(|(arn, _)| arn == "arn:phone");
        let ids: BTreeSet<String> = on_phone.map(|(_, push)| collapse_id(push)).collect();
        // One note, and the summary of the other two. After a crash one of them may count twice.
        prop_assert_eq!(ids.len(), 2, "{:?}", ids);
        let summary = format!("summary:{WINDOW}");
        prop_assert!(ids.contains(&summary));
    }
}

#[tokio::test]
async fn muted_events_are_dropped() {
    let (mallory, friend) = (Keys::generate(), Keys::generate());
    let (thread, other_thread) = ("ab".repeat(32), "cd".repeat(32));
    let tags: &[&[&str]] = &[
        &["p", &mallory.public_key().to_hex()],
        &["word", "Casino"],
        &["t", "Spam"],
        &["e", &thread],
    ];
    let list = event(&recipient(), 10_000, NOW, tags, "the private part");
    let list = MuteList::of(&list, Seconds(NOW));
    let memory = limited(100);
    memory.state().mute_lists.insert(list.pubkey, list);
    let request = serde_json::to_string(&event(&mallory, 9734, NOW, &[], "")).unwrap();
    let by_mallory = |kind| event(&mallory, kind, NOW, &[], "hello");
    let by_friend =
        |kind, tags: &[&[&str]], content: &str| event(&friend, kind, NOW, tags, content);
    let reply: &[&[&str]] = &[&["e", &thread, "", "root"]];
    let other_tags: &[&[&str]] = &[&["e", &other_thread], &["t", "art"]];
    for (muted, event) in [
        (true, by_mallory(1)),
        (true, by_mallory(4)),
        (true, by_friend(9735, &[&["description", &request]], "")),
        (true, by_friend(1, &[], "best CASINO in town")),
        (true, by_friend(1, &[&["t", "spam"]], "hello")),
        (true, by_friend(1, reply, "hello")),
        (true, by_friend(1111, &[&["E", &thread]], "hello")),
        (false, by_friend(1, other_tags, "hello")),
        // Any word may occur in ciphertext by chance.
        (false, by_friend(4, &[], "casino?iv=")),
    ] {
        let message = event_message(&delivery(event.clone()));
        let outcome = handle_at(&memory, &message, NOW).await;
        assert_eq!(
            outcome == dropped(DeliveryDropReason::Muted),
            muted,
            "{event:?}: {outcome:?}"
        );
    }
}

/// An event that mentions `n` people, the first of them twice.
fn mention(n: u8) -> DeliveryMessage {
    let people: Vec<String> = (0..n).map(|n| format!("{n:02x}").repeat(32)).collect();
    let tags: Vec<[&str; 2]> = people
        .iter()
        .chain(people.first())
        .map(|pubkey| ["p", pubkey.as_str()])
        .collect();
    let tags: Vec<&[&str]> = tags.iter().map(<[&str; 2]>::as_slice).collect();
    event_message(&delivery(event(&Keys::generate(), 1, NOW, &tags, "all")))
}

#[tokio::test]
async fn mentions_are_distinct_values_even_if_empty() {
    let memory = limited(100);
    memory.state().apps.get_mut(APP).unwrap().max_mentions = Some(1);
    let tagged =
        |tags: &[&[&str]]| event_message(&delivery(event(&Keys::generate(), 1, NOW, tags, "all")));
    let pubkey = "ab".repeat(32);
    let p: &[&str] = &["p", &pubkey];
    let outcome = handle_at(&memory, &tagged(&[p, &["p"]]), NOW).await;
    assert!(
        is_completed(&outcome),
        "a tag without a value is not counted"
    );
    assert_eq!(
        handle_at(&memory, &tagged(&[p, &["p", ""]]), NOW).await,
        dropped(DeliveryDropReason::TooManyMentions)
    );
}

#[tokio::test]
async fn mentions_of_an_event_with_cut_tags_are_those_before_the_cut() {
    let memory = limited(100);
    memory.state().apps.get_mut(APP).unwrap().max_mentions = Some(10);
    let cut = |mentions| {
        event_message(&Delivery {
            mentions: Some(mentions),
            ..delivery(note("all"))
        })
    };
    assert!(is_completed(&handle_at(&memory, &cut(10), NOW).await));
    assert_eq!(
        handle_at(&memory, &cut(11), NOW).await,
        dropped(DeliveryDropReason::TooManyMentions)
    );
}

#[tokio::test]
async fn events_that_mention_too_many_people_are_dropped() {
    let memory = limited(100);
    let set_max_of_app = |max| memory.state().apps.get_mut(APP).unwrap().max_mentions = max;
    let outcome = handle_at(&memory, &mention(11), NOW).await;
    assert!(is_completed(&outcome), "there is no limit by default");
    set_max_of_app(Some(10));
    let outcome = handle_at(&memory, &mention(10), NOW).await;
    assert!(
        is_completed(&outcome),
        "a person mentioned twice counts once"
    );
    assert_eq!(
        handle_at(&memory, &mention(11), NOW).await,
        dropped(DeliveryDropReason::TooManyMentions)
    );
    set_max_of_app(None);
    for device in memory.state().devices.values_mut().take(1) {
        device.registration.as_mut().unwrap().max_mentions = Some(10);
    }
    let outcome = handle_at(&memory, &mention(11), NOW).await;
    assert!(is_completed_on(&outcome, 1), "the device without a limit");
}
