//! Reading and requesting profiles.

use std::collections::BTreeMap;

use nostr_push_core::{
    order::Order,
    ports::{Budgets, Profiles},
    profile::{Profile, ProfileKey, ProfileRequest, REFRESH_AFTER, RETRY_AFTER},
};

use super::*;
use crate::profile_requests::{self, FOR_NEWCOMERS, FOR_PROVEN, FOR_REFRESHES, PER_RECIPIENT};

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
    let hour = Seconds(NOW).start_of_hour();
    let state = memory.state();
    let taken = state.budgets.get(&(budget.to_owned(), hour));
    taken.copied().unwrap_or_default()
}

fn use_up(memory: &Memory, budget: &str, max: u64) {
    let hour = Seconds(NOW).start_of_hour();
    memory
        .state()
        .budgets
        .insert((budget.to_owned(), hour), max);
}

/// Requests the profiles for a proven recipient in this instance.
async fn request_due(memory: &Memory, budgets: &RequestBudgets, delivery: &Delivery, now: u64) {
    let names = crate::names::Names::read(memory, delivery).await;
    let standing = (true, Seconds(now));
    profile_requests::request_due(memory, memory, budgets, delivery, &names, standing).await;
}

/// Handles the delivery of a note in this instance.
async fn deliver_note(memory: &Memory, budgets: &RequestBudgets, note: Event) -> DeliveryOutcome {
    let attempt = Attempt {
        holder: note.id.to_hex(),
        now: Seconds(NOW).to_millis(),
        lease: LEASE,
    };
    let message = event_message(&delivery(note));
    handler::handle(memory, memory, memory, budgets, &message, &attempt)
        .await
        .unwrap()
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
async fn only_a_push_that_a_device_got_requests_profiles() {
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
async fn private_kinds_and_events_with_new_keys_request_nobody() {
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
    for (proven, spent, is_requested) in [
        (true, ("profiles#newcomers", FOR_NEWCOMERS), true),
        (true, ("profiles#proven", FOR_PROVEN), false),
        (false, ("profiles#newcomers", FOR_NEWCOMERS), false),
        (false, ("profiles#proven", FOR_PROVEN), true),
    ] {
        let memory = phone(proven);
        let (budget, max) = spent;
        use_up(&memory, budget, max);
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
async fn stored_names_are_refreshed_though_new_ones_used_up_the_budgets() {
    for (is_spent, requested) in [(false, 1), (true, 0)] {
        let memory = phone(true);
        use_up(&memory, "profiles#proven", FOR_PROVEN);
        use_up(&memory, &own_budget(), PER_RECIPIENT);
        if is_spent {
            use_up(&memory, "profiles#refreshes", FOR_REFRESHES);
        }
        let delivery = delivery(note("hi"));
        let asked_at = Seconds(NOW) - REFRESH_AFTER;
        store(&memory, person(&delivery.event), Some("alice"), asked_at);
        attempt(&memory, &delivery, 0).await.unwrap();
        assert_eq!(requests(&memory).len(), requested, "{is_spent}");
    }
}

#[tokio::test]
async fn deliveries_at_the_same_time_request_an_author_once() {
    let memory = phone(true);
    let author = Keys::generate();
    let notes: Vec<Event> = (0..20)
        .map(|n| event(&author, 1, NOW, &[], &n.to_string()))
        .collect();
    let names = notes.iter().map(|note| {
        let delivery = delivery(note.clone());
        let memory = &memory;
        async move { (crate::names::Names::read(memory, &delivery).await, delivery) }
    });
    // Each has read that the author is unknown before the first of them requests the profile.
    let names = futures_util::future::join_all(names).await;
    for (names, delivery) in &names {
        let budgets = RequestBudgets::default();
        let standing = (true, Seconds(NOW));
        profile_requests::request_due(&memory, &memory, &budgets, delivery, names, standing).await;
    }
    assert_eq!(requests(&memory).len(), 1);
    assert_eq!(taken(&memory, "profiles#proven"), 1);
    assert_eq!(taken(&memory, &own_budget()), 1);
}

#[tokio::test]
async fn profile_that_a_budget_refuses_is_requested_for_the_next_recipient() {
    let memory = phone(true);
    use_up(&memory, &own_budget(), PER_RECIPIENT);
    let delivery = delivery(note("hi"));
    attempt(&memory, &delivery, 0).await.unwrap();
    assert!(requests(&memory).is_empty());
    let next = Delivery {
        recipient: Keys::generate().public_key(),
        ..delivery
    };
    request_due(&memory, &RequestBudgets::default(), &next, NOW).await;
    assert_eq!(requests(&memory).len(), 1);
}

#[tokio::test]
async fn reply_to_oneself_requests_one_profile() {
    let memory = phone(true);
    let author = Keys::generate();
    let (pubkey, id) = (author.public_key().to_hex(), "ab".repeat(32));
    let tags: [&[&str]; 1] = [&["e", &id, "", "reply", &pubkey]];
    let reply = event(&author, 1, NOW, &tags, "hi");
    attempt(&memory, &delivery(reply), 0).await.unwrap();
    assert_eq!(requests(&memory).len(), 1);
    assert_eq!(memory.state().profiles_read, 1);
}

#[tokio::test]
async fn instance_tries_a_budget_that_is_used_up_once_an_hour() {
    for (budget, max, refused) in [
        ("profiles#proven".to_owned(), FOR_PROVEN, 3),
        (own_budget(), PER_RECIPIENT, 0),
    ] {
        let memory = phone(true);
        use_up(&memory, &budget, max);
        let budgets = RequestBudgets::default();
        for n in 0..3 {
            let outcome = deliver_note(&memory, &budgets, note(&n.to_string())).await;
            assert!(is_completed_on(&outcome, 1));
        }
        assert!(requests(&memory).is_empty());
        assert_eq!(
            memory.state().profiles.len(),
            1,
            "only the first is claimed"
        );
        assert_eq!(budgets.take_refused(), refused, "{budget}");
        assert_eq!(budgets.take_refused(), 0);
        request_due(&memory, &budgets, &delivery(note("hi")), NOW + 3_600).await;
        assert_eq!(requests(&memory).len(), 1, "a new hour, {budget}");
    }
}

#[tokio::test]
async fn failure_to_read_or_request_a_profile_repeats_no_push() {
    let calls = [
        "profiles",
        "claim_request",
        "release_request",
        "take",
        "send",
    ];
    for call in calls {
        let memory = phone(true);
        memory.state().failing = Some(call);
        if call == "release_request" {
            use_up(&memory, "profiles#proven", FOR_PROVEN);
        }
        let outcome = attempt(&memory, &delivery(note("hi")), 0).await.unwrap();
        assert!(is_completed_on(&outcome, 1), "{call}");
        assert_eq!(published(&memory).len(), 1, "{call}");
        assert!(requests(&memory).is_empty(), "{call}");
        let is_claimed = memory
            .state()
            .profiles
            .values()
            .any(|(profile, _)| profile.asked_at == Seconds(NOW));
        assert_eq!(is_claimed, call == "release_request", "{call}");
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

#[tokio::test]
async fn slow_request_for_a_profile_ends() {
    let (memory, delivery) = (phone(true), delivery(note("hi")));
    let profiles = [(person(&delivery.event), Profile::default())].into();
    let names = crate::names::Names::of(&delivery, profiles);
    let (budgets, standing) = (RequestBudgets::default(), (true, Seconds(NOW)));
    profile_requests::request_due(&Never, &memory, &budgets, &delivery, &names, standing).await;
    assert!(requests(&memory).is_empty());
}

/// A table that never answers.
struct Never;

impl Budgets for Never {
    async fn take(&self, _: &str, _: Seconds, _: u64, _: u64) -> PortResult<bool> {
        std::future::pending().await
    }
}

impl Profiles for Never {
    async fn profiles(
        &self,
        _: &[ProfileKey],
    ) -> PortResult<BTreeMap<ProfileKey, Option<Profile>>> {
        std::future::pending().await
    }

    async fn claim_request(&self, _: &ProfileKey, _: Seconds) -> PortResult<bool> {
        std::future::pending().await
    }

    async fn release_request(&self, _: &ProfileKey, _: Seconds) -> PortResult<()> {
        std::future::pending().await
    }
}
