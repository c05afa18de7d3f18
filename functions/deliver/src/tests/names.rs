//! Reading and requesting profiles.

use nostr_push_core::{
    order::Order,
    profile::{Profile, ProfileKey, ProfileRequest, REFRESH_AFTER, RETRY_AFTER},
};

use super::*;
use crate::asks::{FOR_NEWCOMERS, FOR_PROVEN, PER_RECIPIENT};

/// The requests that were sent.
fn requests(memory: &Memory) -> Vec<ProfileRequest> {
    let sent = &memory.state().sent;
    let requests = sent.iter().map(|body| message::decode(body));
    requests.flatten().collect()
}

fn person(event: &Event) -> ProfileKey {
    ProfileKey::Person(event.pubkey)
}

fn store(memory: &Memory, key: ProfileKey, name: Option<&str>, asked_at: Seconds) {
    let profile = Profile {
        name: name.map(str::to_owned),
        picture: None,
        asked_at,
    };
    let row = (profile, Some(Order::counter(1)));
    memory.state().profiles.insert(key, row);
}

/// A phone, proven or not.
fn phone(proven: bool) -> Memory {
    let memory = memory(&[("a", Platform::Fcm)]);
    for device in memory.state().devices.values_mut() {
        device.registration.as_mut().unwrap().proven = proven;
    }
    for roster in memory.state().rosters.values_mut() {
        roster.proven = proven;
    }
    memory
}

/// What was taken from the budget.
fn taken(memory: &Memory, budget: &str) -> u64 {
    let day = Seconds(NOW).start_of_day();
    let state = memory.state();
    state
        .budgets
        .get(&(budget.to_owned(), day))
        .copied()
        .unwrap_or_default()
}

fn own_budget() -> String {
    format!("profiles#{APP}#{}", recipient().public_key())
}

#[tokio::test]
async fn unknown_author_is_requested_once_and_then_named() {
    let memory = phone(true);
    let author = Keys::generate();
    let note = |content| delivery(event(&author, 1, NOW, &[], content));
    let first = note("1");
    attempt(&memory, &first, 0).await.unwrap();
    let request = ProfileRequest {
        key: person(&first.event),
        relay: first.relay.clone(),
    };
    assert_eq!(requests(&memory), [request]);
    attempt(&memory, &note("2"), 1).await.unwrap();
    assert_eq!(requests(&memory).len(), 1, "it was requested a minute ago");
    let asked_at = memory.state().profiles[&person(&first.event)].0.asked_at;
    assert_eq!(asked_at, Seconds(NOW));
    store(&memory, person(&first.event), Some("alice"), asked_at);
    attempt(&memory, &note("3"), 2).await.unwrap();
    let state = memory.state();
    let (_, push) = state.published.last().unwrap();
    assert!(
        push.message.contains("alice posted a note"),
        "{}",
        push.message
    );
}

#[tokio::test]
async fn profiles_are_refreshed_daily_and_missing_ones_hourly() {
    for (name, age, is_requested) in [
        (Some("alice"), REFRESH_AFTER, true),
        (Some("alice"), REFRESH_AFTER - Seconds(1), false),
        (None, RETRY_AFTER, true),
        (None, RETRY_AFTER - Seconds(1), false),
    ] {
        let memory = phone(true);
        let delivery = delivery(note("hi"));
        store(&memory, person(&delivery.event), name, Seconds(NOW) - age);
        attempt(&memory, &delivery, 0).await.unwrap();
        assert_eq!(
            requests(&memory).len(),
            usize::from(is_requested),
            "{name:?} {age:?}"
        );
    }
}

#[tokio::test]
async fn only_a_push_that_a_device_got_asks() {
    for outcome in [
        PublishOutcome::Gone,
        PublishOutcome::Rejected {
            reason: RejectReason::InvalidMessage,
            why: String::new(),
        },
        PublishOutcome::Retry {
            after: None,
            reason: RetryReason::Throttled,
        },
    ] {
        let memory = phone(true);
        set_outcome(&memory, "a", outcome);
        attempt(&memory, &delivery(note("hi")), 0).await.unwrap();
        assert!(requests(&memory).is_empty());
    }
}

#[tokio::test]
async fn private_kinds_and_events_with_new_keys_ask_for_nobody() {
    for kind in [4, 445, 1059] {
        let memory = phone(true);
        let delivery = delivery(event(&Keys::generate(), kind, NOW, &[], "x"));
        attempt(&memory, &delivery, 0).await.unwrap();
        assert!(requests(&memory).is_empty());
        assert_eq!(memory.state().profiles_read, 0);
    }
}

#[tokio::test]
async fn invented_authors_use_up_the_recipients_budget_only() {
    let memory = phone(true);
    memory.state().apps.get_mut(APP).unwrap().max_pushes = Some(1_000);
    for n in 0..PER_RECIPIENT + 20 {
        attempt(&memory, &delivery(note(&n.to_string())), 0)
            .await
            .unwrap();
    }
    assert_eq!(requests(&memory).len() as u64, PER_RECIPIENT);
    assert_eq!(taken(&memory, "profiles#proven"), PER_RECIPIENT);
    assert_eq!(taken(&memory, "profiles#newcomers"), 0);
}

#[tokio::test]
async fn newcomers_and_proven_recipients_have_separate_budgets() {
    let day = Seconds(NOW).start_of_day();
    for (proven, spent, is_requested) in [
        (true, ("profiles#newcomers", FOR_NEWCOMERS), true),
        (true, ("profiles#proven", FOR_PROVEN), false),
        (false, ("profiles#newcomers", FOR_NEWCOMERS), false),
        (false, ("profiles#proven", FOR_PROVEN), true),
    ] {
        let memory = phone(proven);
        let (budget, max) = spent;
        memory.state().budgets.insert((budget.to_owned(), day), max);
        attempt(&memory, &delivery(note("hi")), 0).await.unwrap();
        assert_eq!(
            requests(&memory).len(),
            usize::from(is_requested),
            "{proven} {budget}"
        );
        assert_eq!(taken(&memory, &own_budget()), 1);
    }
}

#[tokio::test]
async fn instance_asks_a_budget_that_is_used_up_once_a_day() {
    let memory = phone(true);
    let day = Seconds(NOW).start_of_day();
    let budget = ("profiles#proven".to_owned(), day);
    memory.state().budgets.insert(budget, FOR_PROVEN);
    let spent = SpentBudgets::default();
    for n in 0..3 {
        let attempt = Attempt {
            holder: n.to_string(),
            now: Seconds(NOW).to_millis(),
            lease: LEASE,
        };
        let message = event_message(&delivery(note("hi")));
        let handled = handler::handle(&memory, &memory, &memory, &spent, &message, &attempt);
        assert!(is_completed_on(&handled.await.unwrap(), 1));
    }
    assert!(requests(&memory).is_empty());
    assert_eq!(taken(&memory, &own_budget()), 1);
}

#[tokio::test]
async fn failure_to_read_or_request_a_profile_repeats_no_push() {
    for crash in 0..20 {
        let memory = phone(true);
        let delivery = delivery(note("hi"));
        memory.state().fail_in = Some(crash);
        deliver_with_retries(&memory, &delivery).await;
        let is_before_publish = published(&memory).len() == 1;
        let is_at_record = crash < 12 && published(&memory).len() == 2;
        assert!(
            is_before_publish || is_at_record,
            "{crash}: {:?}",
            published(&memory)
        );
    }
}

#[tokio::test]
async fn push_does_not_wait_for_a_slow_read() {
    let delivery = delivery(note("hi"));
    let names = crate::names::Names::read(&Never, &delivery).await;
    assert_eq!(names.actor(), None);
    assert_eq!(
        names.due(Seconds(NOW)).count(),
        0,
        "nothing is known about the profile"
    );
}

/// A table that never answers.
struct Never;

impl nostr_push_core::ports::Profiles for Never {
    async fn profiles(
        &self,
        _: &[ProfileKey],
    ) -> nostr_push_core::ports::PortResult<std::collections::BTreeMap<ProfileKey, Profile>> {
        std::future::pending().await
    }

    async fn mark_asked(
        &self,
        _: &ProfileKey,
        _: Seconds,
    ) -> nostr_push_core::ports::PortResult<()> {
        std::future::pending().await
    }
}
