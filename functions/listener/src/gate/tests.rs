use nostr::key::Keys;
use nostr_push_core::{
    Seconds,
    admission::{Admission, GRANT_KIND, has_work},
    app::App,
    order::Order,
    ports::RelayCursor,
    service_keys::ServiceKeys,
    subscription::{MUTE_LIST_PREFIX, Subscription, SubscriptionState},
};
use nostr_push_testkit::{event, owner, subscription};
use serde_json::{json, value::to_raw_value};

use super::*;

/// The outcomes of [`classify`].
const CONTROL: Result<&str, DropReason> = Ok("control");
const CONTENT: Result<&str, DropReason> = Ok("content");
const WAITS: Result<&str, DropReason> = Ok("waits");

fn gate(service: &Keys, filter: &serde_json::Value) -> Gate {
    let row = subscription(&owner(service.public_key()), filter);
    let mut interest = Interest::default();
    assert!(interest.apply(&row, Seconds(1)));
    Gate::new(
        service.public_key(),
        Arc::new(RwLock::new(interest)),
        &Budgets::default(),
    )
}

fn relay(url: &str, source: RelaySource) -> WatchedRelay {
    WatchedRelay::new(url.to_owned(), source, RelayCursor::default(), Seconds(0))
}

fn verdict(gate: &Gate, json: &RawValue, backfill: bool, received_at: u64) -> Verdict {
    let relay = relay("ws://r", RelaySource::Operator);
    verdict_from(&relay, gate, json, backfill, received_at)
}

fn verdict_from(
    relay: &WatchedRelay,
    gate: &Gate,
    json: &RawValue,
    backfill: bool,
    received_at: u64,
) -> Verdict {
    match parse_event(json) {
        Ok(event) => gate.classify(IncomingEvent {
            relay,
            json,
            event,
            backfill,
            received_at: Millis(received_at),
        }),
        Err(refused) => Verdict::Drop(refused.reason),
    }
}

/// The kind of message that the event becomes, or why it is dropped.
fn classify(
    gate: &Gate,
    json: &RawValue,
    backfill: bool,
    received_at: u64,
) -> Result<&'static str, DropReason> {
    outcome(&verdict(gate, json, backfill, received_at))
}

fn outcome(verdict: &Verdict) -> Result<&'static str, DropReason> {
    match verdict {
        Verdict::Control(_) => CONTROL,
        Verdict::Content(_) => CONTENT,
        Verdict::Waits { .. } => WAITS,
        Verdict::OverBudget { .. } => Err(DropReason::OverBudget),
        Verdict::Drop(reason) => Err(*reason),
    }
}

#[test]
fn classifies_content_events() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let p = author.public_key().to_hex();
    let gate = gate(&service, &json!({"kinds": [1], "#p": [p]}));
    let classify = |event: &Event| classify(&gate, &to_raw_value(event).unwrap(), false, 5);

    let wanted = event(&author, 1, 1, &[&["p", &p]], "x");
    let mut forged = wanted.clone();
    forged.content = "y".to_owned();
    assert_eq!(classify(&forged), Err(DropReason::BadSignature));
    assert_eq!(
        classify(&wanted),
        CONTENT,
        "a forged event does not suppress the genuine one"
    );
    assert_eq!(classify(&wanted), Err(DropReason::Duplicate));
    for not_matching in [
        event(&author, 7, 1, &[&["p", &p]], "+"),
        event(&author, 1, 1, &[&["t", &p]], "x"),
        event(&author, 3081, 1, &[&["p", &p]], "x"),
    ] {
        assert_eq!(classify(&not_matching), Err(DropReason::NoInterest));
    }
}

#[test]
fn classifies_control_events_addressed_to_service() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let gate = gate(&service, &json!({"#t": ["a"]}));
    let classify = |event: &Event| classify(&gate, &to_raw_value(event).unwrap(), false, 5);
    let to_service = service.public_key().to_hex();
    let upsert = event(&author, 3081, 1, &[&["p", &to_service]], "x");
    assert_eq!(classify(&upsert), CONTROL);
    let heartbeat = event(&author, 22456, 1, &[&["p", &to_service]], "x");
    assert_eq!(classify(&heartbeat), CONTROL);
    assert_eq!(
        classify(&heartbeat),
        Err(DropReason::Duplicate),
        "clients publish a heartbeat to many relays"
    );
}

#[test]
fn the_previous_pubkey_of_the_service_is_accepted_until_its_end() {
    let [old, new, author] = [(); 3].map(|()| Keys::generate());
    let keys = ServiceKeys::from(old.clone()).rotated(new.clone(), Some(Seconds(100)));
    let gate = Gate::new(keys.pubkeys(), Arc::default(), &Budgets::default());
    let send = |service: &Keys, content: &str, at: u64| {
        let service = service.public_key().to_hex();
        let event = event(&author, 3081, 1, &[&["p", &service]], content);
        classify(&gate, &to_raw_value(&event).unwrap(), false, at * 1_000)
    };
    assert_eq!(send(&old, "a", 100), CONTROL);
    assert_eq!(send(&new, "b", 100), CONTROL);
    assert_eq!(send(&new, "c", 101), CONTROL);
    assert_eq!(send(&old, "d", 101), Err(DropReason::NoInterest));
}

#[test]
fn drops_events_that_no_longer_notify_but_not_old_mute_lists() {
    let owners = Owners::new();
    let reader = owners.known.public_key().to_hex();
    let private = json!({"kinds": [4, 1059], "#p": [reader]});
    owners.subscribe(&owners.known, &private, false);
    let sent_after = |kind, seconds: u64| {
        let event = event(&owners.proven, kind, 1_000_000, &[&["p", &reader]], "x");
        owners.send(&event, (1_000_000 + seconds) * 1_000)
    };
    for (kind, max_age) in [(4, 3_600), (1059, 2 * 86_400 + 900)] {
        assert_eq!(sent_after(kind, max_age + 1), Err(DropReason::TooOld));
        assert_eq!(sent_after(kind, max_age), CONTENT);
    }
    assert_eq!(sent_after(10_000, 365 * 86_400), CONTENT);
}

#[test]
fn drops_large_and_malformed_events() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let p = author.public_key().to_hex();
    let gate = gate(&service, &json!({"kinds": [1], "#p": [p]}));
    let long = event(&author, 1, 1, &[&["p", &p]], &"x".repeat(MAX_EVENT_BYTES));
    let tag: &[&str] = &["p", &p];
    let many_tags = event(&author, 1, 1, &vec![tag; MAX_TAGS + 1], "");
    for too_large in [long, many_tags] {
        let json = to_raw_value(&too_large).unwrap();
        assert_eq!(classify(&gate, &json, false, 5), Err(DropReason::TooLarge));
    }
    let malformed = to_raw_value(&json!({"id": 1})).unwrap();
    assert_eq!(
        classify(&gate, &malformed, false, 5),
        Err(DropReason::Malformed)
    );
}

#[test]
fn limits_live_control_events_per_pubkey_but_not_stored_ones() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let gate = gate(&service, &json!({"#t": ["a"]}));
    let p = service.public_key().to_hex();
    let send = |n: u64, backfill, received_at| {
        let register = event(&author, 3079, n, &[&["p", &p]], "x");
        let register = to_raw_value(&register).unwrap();
        classify(&gate, &register, backfill, received_at)
    };
    assert!((0..100).all(|n| send(n, true, 5) == CONTROL));
    assert!((100..160).all(|n| send(n, false, 5) == CONTROL));
    assert_eq!(send(160, false, 5), Err(DropReason::RateLimited));
    assert_eq!(
        send(160, false, 60_005),
        CONTROL,
        "an event that was refused may come again"
    );
    assert_eq!(send(160, false, 60_005), Err(DropReason::Duplicate));
    assert_eq!(send(161, false, 60_005), CONTROL);
    assert_eq!(send(162, true, 5), CONTROL);
}

#[test]
fn forwards_copy_that_hits_a_new_subscription() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let p = author.public_key().to_hex();
    let gate = gate(&service, &json!({"#p": [p]}));
    let note = to_raw_value(&event(&author, 1, 1, &[&["p", &p], &["t", "a"]], "x")).unwrap();
    assert_eq!(classify(&gate, &note, false, 5), CONTENT);
    let row = subscription(&owner(author.public_key()), &json!({"#t": ["a"]}));
    gate.interest.write().unwrap().apply(&row, Seconds(1));
    assert_eq!(classify(&gate, &note, true, 6), CONTENT);
    assert_eq!(classify(&gate, &note, true, 7), Err(DropReason::Duplicate));
}

#[test]
fn forwards_live_copy_of_stored_event() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let p = author.public_key().to_hex();
    let gate = gate(&service, &json!({"#p": [p]}));
    let wrap = to_raw_value(&event(&author, 1059, 1, &[&["p", &p]], "x")).unwrap();
    assert_eq!(classify(&gate, &wrap, true, 5), CONTENT);
    assert_eq!(classify(&gate, &wrap, true, 6), Err(DropReason::Duplicate));
    assert_eq!(classify(&gate, &wrap, false, 7), CONTENT);
    assert_eq!(classify(&gate, &wrap, false, 8), Err(DropReason::Duplicate));
    assert_eq!(classify(&gate, &wrap, true, 9), Err(DropReason::Duplicate));
}

#[test]
fn message_contains_each_hit_key_once() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let p = author.public_key().to_hex();
    let gate = gate(&service, &json!({"#p": [p]}));
    let tags: &[&[&str]] = &[&["p", &p], &["p", &p], &["e", &"ab".repeat(32)]];
    let note = event(&author, 1, 1, tags, "x");
    let Verdict::Content(content) = verdict(&gate, &to_raw_value(&note).unwrap(), true, 5) else {
        panic!("not forwarded")
    };
    assert_eq!(
        content
            .hits
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [format!("#p:{p}")]
    );
    assert!(content.backfill);
    assert_eq!(content.event, note);
}

#[test]
fn limits_ephemeral_control_events_even_if_they_look_stored() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let gate = gate(&service, &json!({"#t": ["a"]}));
    let p = service.public_key().to_hex();
    let send = |n: u64| {
        let heartbeat = event(&author, 22456, n, &[&["p", &p]], "x");
        classify(&gate, &to_raw_value(&heartbeat).unwrap(), true, 5)
    };
    assert!((0..60).all(|n| send(n) == CONTROL));
    assert_eq!(send(60), Err(DropReason::RateLimited));
}

#[test]
fn forwards_copy_that_hits_only_another_subscriber() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let p = author.public_key().to_hex();
    let filter = json!({"#p": [p]});
    let gate = gate(&service, &filter);
    let note = to_raw_value(&event(&author, 1, 1, &[&["p", &p], &["t", "a"]], "x")).unwrap();
    assert_eq!(classify(&gate, &note, false, 5), CONTENT);
    // The first subscriber leaves, and another one comes. The number of hits stays the same.
    let removed = Subscription {
        state: SubscriptionState::Removed,
        order: Order::counter(9),
        ..subscription(&owner(service.public_key()), &filter)
    };
    let added = subscription(&owner(author.public_key()), &json!({"#t": ["a"]}));
    for row in [removed, added] {
        gate.interest.write().unwrap().apply(&row, Seconds(1));
    }
    assert_eq!(classify(&gate, &note, false, 6), CONTENT);
    assert_eq!(classify(&gate, &note, false, 7), Err(DropReason::Duplicate));
}

#[test]
fn copy_from_owners_relay_does_not_suppress_copies_of_other_relays() {
    let (service, author) = (Keys::generate(), Keys::generate());
    let p = author.public_key().to_hex();
    let filter = json!({"#p": [p]});
    let gate = gate(&service, &filter);
    let names_relays = |urls: &[&str], order| Subscription {
        relays: urls.iter().map(|url| (*url).to_owned()).collect(),
        order: Order::counter(order),
        ..subscription(&owner(author.public_key()), &filter)
    };
    let apply = |row: &Subscription| gate.interest.write().unwrap().apply(row, Seconds(1));
    apply(&names_relays(&["wss://one"], 1));
    apply(&names_relays(&["wss://one", "wss://Two/"], 2));
    let note = to_raw_value(&event(&author, 1, 1, &[&["p", &p]], "x")).unwrap();
    let owners = RelaySource::Owners { only_public: true };
    let [one, two, unnamed] =
        ["wss://one", "wss://two", "wss://unnamed"].map(|url| relay(url, owners));
    let operators = relay("wss://operators", RelaySource::Operator);
    let send = |relay| outcome(&verdict_from(relay, &gate, &note, false, 5));
    assert_eq!(send(&unnamed), Err(DropReason::NoInterest));
    let Verdict::Content(content) = verdict_from(&one, &gate, &note, false, 5) else {
        panic!("not forwarded")
    };
    assert!(content.from_owners_relay);
    assert_eq!(send(&one), Err(DropReason::Duplicate));
    assert_eq!(send(&two), CONTENT, "it reaches other owners");
    let Verdict::Content(content) = verdict_from(&operators, &gate, &note, false, 5) else {
        panic!("not forwarded")
    };
    assert!(!content.from_owners_relay);
    for relay in [&one, &two, &operators] {
        assert_eq!(send(relay), Err(DropReason::Duplicate));
    }
}

#[test]
fn reads_time_of_events_that_are_too_large() {
    let author = Keys::generate();
    let long = event(&author, 1, 77, &[], &"x".repeat(MAX_EVENT_BYTES));
    let tag: &[&str] = &["t", "x"];
    let many_tags = event(&author, 1, 77, &vec![tag; MAX_TAGS + 1], "");
    for too_large in [long, many_tags] {
        let refused = parse_event(&to_raw_value(&too_large).unwrap()).unwrap_err();
        assert_eq!(refused.reason, DropReason::TooLarge);
        assert_eq!(refused.created_at, Some(Seconds(77)));
    }
    let empty_tag = json!({"id": "", "created_at": 77, "tags": [[]]});
    let refused = parse_event(&to_raw_value(&empty_tag).unwrap()).unwrap_err();
    assert_eq!(refused.reason, DropReason::Malformed);
    assert_eq!(refused.created_at, Some(Seconds(77)));
}

/// A gate with one proven owner, who mentions nobody, and with one other owner.
struct Owners {
    service: Keys,
    proven: Keys,
    known: Keys,
    gate: Gate,
}

impl Owners {
    fn new() -> Self {
        let [service, proven, known] = [(); 3].map(|()| Keys::generate());
        let gate = gate(&service, &json!({"kinds": [1], "#t": ["unused"]}));
        let owners = Self {
            service,
            proven,
            known,
            gate,
        };
        for (keys, is_proven) in [(&owners.proven, true), (&owners.known, false)] {
            let pubkey = keys.public_key();
            let list = json!({"kinds": [10_000], "authors": [pubkey]});
            let row = subscription(&owner(pubkey), &list);
            let identity = format!("{MUTE_LIST_PREFIX}{}", row.identity);
            owners.apply(&Subscription {
                identity,
                proven: is_proven,
                ..row
            });
        }
        owners
    }

    fn apply(&self, row: &Subscription) {
        self.gate.interest.write().unwrap().apply(row, Seconds(1));
    }

    fn subscribe(&self, keys: &Keys, filter: &serde_json::Value, proven: bool) {
        self.apply(&Subscription {
            proven,
            ..subscription(&owner(keys.public_key()), filter)
        });
    }

    /// A control event to the service.
    fn control(&self, keys: &Keys, n: u64, tags: &[&[&str]], content: &str) -> Event {
        let service = self.service.public_key().to_hex();
        let p = ["p", &service];
        let all = [&[&p[..]], tags].concat();
        event(keys, 3081, n, &all, content)
    }

    fn send(&self, event: &Event, now: u64) -> Result<&'static str, DropReason> {
        classify(&self.gate, &to_raw_value(event).unwrap(), false, now)
    }

    fn admit(&self, app: App, blocked: &[&Keys]) {
        let blocked = blocked.iter().map(|keys| keys.public_key()).collect();
        let rules = AdmissionRules::new(vec![app], blocked, Some("demo".to_owned()));
        self.gate.set_admission(rules);
    }

    /// Strangers use up the budget of the relay.
    fn exhaust_strangers(&self) {
        let content = "x".repeat(200_000);
        for n in 0..60 {
            let event = self.control(&Keys::generate(), n, &[], &content);
            assert!(self.send(&event, 5).is_ok());
        }
    }

    /// Announces what the apps ask of strangers now.
    fn announce(&self, now: u64) -> Option<u8> {
        let apps = self.gate.apps_to_announce(Millis(now));
        let difficulty = apps[0].difficulty;
        self.gate.set_announced(apps);
        difficulty
    }
}

#[test]
fn app_decides_about_strangers_before_the_signature_and_not_about_owners() {
    let owners = Owners::new();
    owners.admit(
        App {
            admission: Admission::Closed,
            ..App::named("demo")
        },
        &[],
    );
    let demo: &[&str] = &["app", "demo"];
    let stranger = Keys::generate();
    let register = owners.control(&stranger, 1, &[demo], "x");
    let relay = relay("ws://r", RelaySource::Operator);
    let json = to_raw_value(&register).unwrap();
    let sent = verdict_from(&relay, &owners.gate, &json, false, 5);
    assert_eq!(outcome(&sent), Err(DropReason::NotAdmitted));
    assert!(
        !relay.dropped_controls().load(Ordering::SeqCst),
        "it is not requested again"
    );
    let mut forged = register.clone();
    forged.sig = owners.control(&stranger, 2, &[], "x").sig;
    assert_eq!(owners.send(&forged, 5), Err(DropReason::NotAdmitted));
    forged.content = "y".to_owned();
    assert_eq!(
        owners.send(&forged, 5),
        Err(DropReason::BadSignature),
        "the id is wrong"
    );
    for keys in [&owners.known, &owners.proven] {
        assert_eq!(
            owners.send(&owners.control(keys, 1, &[demo], "x"), 5),
            CONTROL
        );
    }
    // Control decides about these.
    let other: &[&str] = &["app", "other"];
    for tags in [&[][..], &[other], &[demo, demo]] {
        assert_eq!(
            owners.send(&owners.control(&stranger, 3, tags, "x"), 5),
            CONTROL
        );
    }
    let service = owners.service.public_key().to_hex();
    let heartbeat = event(&stranger, 22456, 1, &[&["p", &service]], "x");
    assert_eq!(
        owners.send(&heartbeat, 5),
        Err(DropReason::NotAdmitted),
        "it is of the heartbeat app"
    );
    owners.admit(App::named("demo"), &[]);
    assert_eq!(
        owners.send(&register, 5),
        CONTROL,
        "it was not recorded as seen"
    );
}

#[test]
fn blocked_pubkeys_are_dropped_even_if_they_are_owners() {
    let owners = Owners::new();
    owners.admit(App::named("demo"), &[&owners.proven]);
    let event = owners.control(&owners.proven, 1, &[], "x");
    assert_eq!(owners.send(&event, 5), Err(DropReason::NotAdmitted));
    let event = owners.control(&owners.known, 1, &[], "x");
    assert_eq!(owners.send(&event, 5), CONTROL);
}

#[test]
fn open_app_asks_for_work_once_that_is_announced() {
    let owners = Owners::new();
    owners.admit(
        App {
            pow_difficulty: Some(4),
            ..App::named("demo")
        },
        &[],
    );
    let demo: &[&str] = &["app", "demo"];
    assert_eq!(owners.announce(5), None);
    let idle = owners.control(&Keys::generate(), 1, &[demo], "x");
    assert_eq!(owners.send(&idle, 5), CONTROL);
    owners.exhaust_strangers();
    let unaware = owners.control(&Keys::generate(), 1, &[demo], "x");
    let needed = owners.gate.apps_to_announce(Millis(5))[0].difficulty;
    assert_eq!((needed, owners.send(&unaware, 5)), (Some(4), WAITS));
    assert_eq!(owners.announce(5), Some(4));
    let stranger = Keys::generate();
    let mined = (0..1_000)
        .map(|n| owners.control(&stranger, 1, &[demo, &["nonce", &n.to_string(), "4"]], "x"))
        .find(|event| has_work(event, 4))
        .unwrap();
    let lazy = owners.control(&stranger, 2, &[demo], "x");
    let relay = relay("ws://r", RelaySource::Operator);
    let json = to_raw_value(&lazy).unwrap();
    let sent = verdict_from(&relay, &owners.gate, &json, false, 6);
    assert_eq!(outcome(&sent), Err(DropReason::NotAdmitted));
    assert!(
        relay.dropped_controls().load(Ordering::SeqCst),
        "it is requested again"
    );
    assert_eq!(owners.send(&mined, 6), WAITS);
    let known = owners.control(&owners.known, 1, &[demo], "x");
    assert_eq!(owners.send(&known, 6), CONTROL);
    let day = 5 + 86_400_000;
    while owners.gate.control_room().release(Millis(day)).is_some() {}
    assert_eq!(owners.announce(2 * day), None);
    assert_eq!(owners.send(&lazy, 2 * day), CONTROL);
}

#[test]
fn control_event_without_budget_waits_and_is_no_duplicate_once_dropped() {
    let owners = Owners::new();
    let stranger = Keys::generate();
    let content = "x".repeat(200_000);
    let of = |n| owners.control(&stranger, n, &[], &content);
    assert_eq!(owners.send(&of(1), 5), CONTROL);
    assert_eq!(owners.send(&of(2), 5), WAITS);
    assert_eq!(owners.send(&of(2), 5), Err(DropReason::Duplicate));
    assert_eq!(owners.send(&of(3), 5), WAITS);
    let relay = relay("ws://r", RelaySource::Operator);
    let json = to_raw_value(&of(4)).unwrap();
    let send = |now| outcome(&verdict_from(&relay, &owners.gate, &json, false, now));
    assert_eq!(send(5), Err(DropReason::OverBudget));
    assert!(
        relay.dropped_controls().load(Ordering::SeqCst),
        "it is requested again"
    );
    assert_eq!(
        owners.send(&owners.control(&owners.known, 1, &[], "x"), 5),
        CONTROL
    );
    let room = owners.gate.control_room();
    let released = std::iter::from_fn(|| room.release(Millis(5_000_000)));
    let released: Vec<String> = released.map(|m| m.event.get().to_owned()).collect();
    assert_eq!(released.len(), 1, "its own bucket refills slowly");
    assert!(released[0].contains(&of(2).id.to_hex()));
    assert_eq!(send(5_000_001), WAITS);
}

#[test]
fn hits_without_budget_are_taken_out() {
    let owners = Owners::new();
    let stranger = Keys::generate();
    owners.subscribe(&owners.known, &json!({"kinds": [1], "#t": ["a"]}), false);
    owners.subscribe(
        &owners.proven,
        &json!({"kinds": [1], "#e": ["ab".repeat(32)]}),
        true,
    );
    let note = |n, tags: &[&[&str]]| event(&stranger, 1, n, tags, "x");
    let tag: &[&str] = &["t", "a"];
    assert!((0..200).all(|n| owners.send(&note(n, &[tag]), 5) == CONTENT));
    let unpaid = note(1_000, &[tag]);
    assert_eq!(owners.send(&unpaid, 5), Err(DropReason::OverBudget));
    let hex = "ab".repeat(32);
    let both = to_raw_value(&note(1_001, &[tag, &["e", &hex]])).unwrap();
    let hits = |now| match verdict(&owners.gate, &both, false, now) {
        Verdict::Content(content) => content.hits.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(hits(5), 1);
    let again = |now| classify(&owners.gate, &both, false, now);
    assert_eq!(again(6), Err(DropReason::Duplicate));
    let later = 5 + 600_000;
    assert_eq!(hits(later), 2, "a copy is forwarded once there is budget");
    assert_eq!(again(later), Err(DropReason::Duplicate));
    assert_eq!(owners.send(&unpaid, later), CONTENT);
}

#[test]
fn forged_and_repeated_events_spend_nothing() {
    let owners = Owners::new();
    let list = event(&owners.proven, 10_000, 1, &[], "");
    let mut forged = list.clone();
    for n in 0..50 {
        forged.content = n.to_string();
        assert_eq!(owners.send(&forged, 5), Err(DropReason::BadSignature));
    }
    assert_eq!(owners.send(&list, 5), CONTENT);
    for _ in 0..50 {
        assert_eq!(owners.send(&list, 5), Err(DropReason::Duplicate));
    }
    let newer = |n| event(&owners.proven, 10_000, n, &[], "");
    assert!((2..11).all(|n| owners.send(&newer(n), 5) == CONTENT));
    assert_eq!(owners.send(&newer(11), 5), Err(DropReason::OverBudget));
}

#[test]
fn old_mute_lists_spend_nothing() {
    let owners = Owners::new();
    let list = |n| event(&owners.proven, 10_000, n, &[], "");
    assert_eq!(owners.send(&list(100), 5), CONTENT);
    for n in 50..=100 {
        let old = event(&owners.proven, 10_000, n, &[], "old");
        assert_eq!(owners.send(&old, 5), Err(DropReason::Duplicate));
    }
    assert!((101..110).all(|n| owners.send(&list(n), 5) == CONTENT));
    assert_eq!(owners.send(&list(110), 5), Err(DropReason::OverBudget));
    let hour = 5 + 3_600_000;
    assert_eq!(owners.send(&list(109), hour), Err(DropReason::Duplicate));
    assert_eq!(
        owners.send(&list(110), hour),
        CONTENT,
        "a list that was dropped is not the newest"
    );
}

#[test]
fn mute_list_is_forwarded_again_when_its_owner_returns() {
    let owners = Owners::new();
    let list = event(&owners.proven, 10_000, 9, &[], "");
    assert_eq!(owners.send(&list, 5), CONTENT);
    let pubkey = owners.proven.public_key();
    let row = subscription(
        &owner(pubkey),
        &json!({"kinds": [10_000], "authors": [pubkey]}),
    );
    let row = |order, state| Subscription {
        identity: format!("{MUTE_LIST_PREFIX}{}", row.identity),
        order: Order::counter(order),
        state,
        ..row.clone()
    };
    owners.apply(&row(8, SubscriptionState::Removed));
    owners.apply(&row(9, SubscriptionState::Active));
    let other_time = event(&owners.proven, 10_000, 8, &[], "");
    assert_eq!(owners.send(&other_time, 6), CONTENT);
}

#[test]
fn old_mute_list_still_reaches_other_subscribers() {
    let owners = Owners::new();
    owners.subscribe(
        &owners.known,
        &json!({"kinds": [10_000], "#t": ["a"]}),
        true,
    );
    let list = |n, tag| event(&owners.proven, 10_000, n, &[&["t", tag]], "");
    assert_eq!(owners.send(&list(9, "b"), 5), CONTENT);
    let old = to_raw_value(&list(8, "a")).unwrap();
    let Verdict::Content(content) = verdict(&owners.gate, &old, false, 5) else {
        panic!("not forwarded")
    };
    assert_eq!(content.hits, ["#t:a".parse().unwrap()]);
    let again = classify(&owners.gate, &old, false, 5);
    assert_eq!(again, Err(DropReason::Duplicate));
}

#[test]
fn small_control_events_cost_more_than_their_json() {
    let owners = Owners::new();
    let stranger = Keys::generate();
    let mut spent = 0;
    for n in 1_000.. {
        let event = owners.control(&stranger, n, &[], "x");
        let json = to_raw_value(&event).unwrap();
        spent += json.get().len() + 512;
        let outcome = classify(&owners.gate, &json, true, 5);
        if spent > 256 * 1_024 {
            assert_eq!(outcome, WAITS);
            break;
        }
        assert_eq!(outcome, CONTROL);
    }
}

#[test]
fn admitted_strangers_do_not_wait_for_others() {
    let owners = Owners::new();
    let (stranger, grants) = (Keys::generate(), Keys::generate());
    let demo: &[&str] = &["app", "demo"];
    owners.exhaust_strangers();
    let others = owners.control(&Keys::generate(), 1, &[demo], "x");
    assert_eq!(owners.send(&others, 5), WAITS);

    let pow = App {
        admission: Admission::Pow,
        pow_difficulty: Some(4),
        ..App::named("demo")
    };
    owners.admit(pow, &[]);
    let mined = (0..1_000)
        .map(|n| owners.control(&stranger, 1, &[demo, &["nonce", &n.to_string(), "4"]], "x"))
        .find(|event| has_work(event, 4))
        .unwrap();
    assert_eq!(owners.send(&mined, 5), CONTROL);

    let allow = App {
        admission: Admission::Allow,
        allowed: [stranger.public_key()].into(),
        ..App::named("demo")
    };
    owners.admit(allow, &[]);
    let listed = owners.control(&stranger, 2, &[demo], "x");
    assert_eq!(owners.send(&listed, 5), CONTROL);
    assert_eq!(
        owners.send(&owners.control(&Keys::generate(), 1, &[demo], "x"), 5),
        Err(DropReason::NotAdmitted)
    );

    let grant = App {
        admission: Admission::Grant,
        grant_key: Some(grants.public_key()),
        ..App::named("demo")
    };
    owners.admit(grant, &[]);
    let tags: &[&[&str]] = &[demo, &["p", &stranger.public_key().to_hex()]];
    let grant = event(&grants, GRANT_KIND, 99, tags, "").sig.to_string();
    let granted = owners.control(&stranger, 3, &[demo, &["grant", "99", &grant]], "x");
    assert_eq!(owners.send(&granted, 5), CONTROL);

    // Without an app that admits the stranger, it waits like all others.
    let unknown = owners.control(&stranger, 4, &[], "x");
    assert_eq!(owners.send(&unknown, 5), WAITS);
}
