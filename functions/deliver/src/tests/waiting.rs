//! Deliveries to an app that looks open, with a clock that the test turns.

use std::collections::BTreeMap;

use nostr::event::EventId;
use nostr_push_core::{
    message,
    order::Order,
    ports::{Apps, Presences},
    presence::Presence,
};

use super::*;

/// What happens to a phone and its app.
#[derive(Clone, Copy)]
enum Step {
    /// A heartbeat, or going away (`false`), under an app.
    Beat(&'static str, bool),
    /// An event for the recipient under this app.
    Event(&'static str),
}

struct Phone {
    memory: Memory,
    event: Event,
}

impl Phone {
    fn new(timeout: Option<u64>) -> Self {
        let memory = memory(&[("phone", Platform::Apns)]);
        memory
            .state()
            .apps
            .get_mut("demo")
            .unwrap()
            .presence_timeout = timeout;
        // The same owner under another app, by dialect N.
        let other = Owner {
            app: "other".to_owned(),
            pubkey: delivery(note("")).recipient,
        };
        let mut state = memory.state();
        state.apps.insert("other".to_owned(), App::named("other"));
        let id = DeviceId {
            app: "other".to_owned(),
            token_hash: "tablet".to_owned(),
        };
        let mut device = state.devices.values().next().unwrap().clone();
        let registration = device.registration.as_mut().unwrap();
        (registration.owner, registration.endpoint_arn) =
            (other.clone(), Some("arn:tablet".to_owned()));
        device.id = id.clone();
        state.devices.insert(id, device);
        for device in state.devices.values_mut() {
            device.registration.as_mut().unwrap().valid_until = NOW + 1_000_000;
        }
        let roster = Roster {
            devices: ["tablet".to_owned()].into(),
            ..Roster::new(other.clone())
        };
        state.rosters.insert(other, roster);
        drop(state);
        Self {
            memory,
            event: note("hello"),
        }
    }

    async fn beat(&self, app: &str, online: bool, at: u64) {
        let owner = Owner {
            app: app.to_owned(),
            pubkey: delivery(note("")).recipient,
        };
        let timeout = self
            .memory
            .app(app)
            .await
            .unwrap()
            .unwrap()
            .presence_timeout();
        let presence = Presence::of(
            Order {
                created_at: at,
                event_id: EventId::from_byte_array([7; 32]),
            },
            online,
            at * 1000 + 200,
        );
        let stored = self.memory.presence(&owner).await.unwrap();
        if presence.matters(stored.as_ref(), timeout) {
            self.memory
                .put_presence(&owner, &presence, 0)
                .await
                .unwrap();
        }
    }

    /// Plays the steps, and everything that waits after them. Answers what came of it, with the
    /// second of each.
    async fn play(&self, steps: &[(u64, Step)]) -> Vec<(u64, String)> {
        let mut due: BTreeMap<(u64, usize), Outgoing> = BTreeMap::new();
        let mut outcomes = Vec::new();
        let mut steps = steps.iter().peekable();
        for n in 0.. {
            let next_due = due.keys().next().copied();
            let (at, delivery) = match (steps.peek(), next_due) {
                (Some((at, step)), next) if next.is_none_or(|(due, _)| *at <= due) => {
                    steps.next();
                    match step {
                        Step::Beat(app, online) => {
                            self.beat(app, *online, NOW + at).await;
                            continue;
                        }
                        Step::Event(app) => {
                            let received_at = (NOW + at) * 1000 + 500;
                            (
                                *at,
                                sent(&Delivery {
                                    app: (*app).to_owned(),
                                    received_at,
                                    ..delivery(self.event.clone())
                                }),
                            )
                        }
                    }
                }
                (_, Some(first)) => (first.0, due.remove(&first).unwrap()),
                (_, None) => return outcomes,
            };
            let attempt = Attempt {
                holder: n.to_string(),
                now: (NOW + at) * 1000 + 500,
                lease: Duration::from_secs(60),
            };
            match handle(
                &self.memory,
                &self.memory,
                &self.memory,
                &delivery,
                &attempt,
            )
            .await
            .unwrap()
            {
                Delivered::Waiting(wait) => {
                    let (delay, body) = self.memory.state().delayed.pop().unwrap();
                    assert!(
                        delay == wait && wait <= Duration::from_secs(900),
                        "SQS holds nothing back for longer"
                    );
                    let waiting: Outgoing = message::decode(&body).unwrap();
                    assert!(matches!(&waiting, Outgoing::Event(delivery) if delivery.waited));
                    due.insert((at + wait.as_secs(), n), waiting);
                }
                Delivered::Dropped(reason) => outcomes.push((at, reason.to_owned())),
                Delivered::Tried(tried) => {
                    outcomes.extend(
                        tried
                            .iter()
                            .map(|device| (at, format!("pushed to {}", device.token_hash))),
                    );
                }
                Delivered::Again { reason, .. } => panic!("{reason}"),
            }
        }
        unreachable!("the loop has no end but its return")
    }
}

fn beats(interval: u64, until: u64) -> Vec<(u64, Step)> {
    (0..=until / interval)
        .map(|n| (n * interval, Step::Beat("demo", true)))
        .collect()
}

fn with(mut steps: Vec<(u64, Step)>, more: &[(u64, Step)]) -> Vec<(u64, Step)> {
    steps.extend_from_slice(more);
    steps.sort_by_key(|(at, _)| *at);
    steps
}

#[tokio::test]
async fn an_app_that_beats_on_had_the_event_at_one_minute_and_at_three() {
    for interval in [60, 180] {
        for event in [5, 59, 61, 179, 181, 300] {
            let phone = Phone::new(None);
            let outcomes = phone
                .play(&with(
                    beats(interval, 3_600),
                    &[(event, Step::Event("demo"))],
                ))
                .await;
            assert_eq!(
                outcomes
                    .iter()
                    .map(|(_, what)| what.as_str())
                    .collect::<Vec<_>>(),
                ["app_open"],
                "{interval} {event}"
            );
            assert!(published(&phone.memory).is_empty());
        }
    }
}

#[tokio::test]
async fn an_app_that_falls_silent_gets_one_push_within_the_timeout_and_30_s() {
    for interval in [60, 180] {
        for event in [5, 59, 61, 181, 359, 361, 500, 569, 571, 2_000] {
            let phone = Phone::new(None);
            let outcomes = phone
                .play(&with(beats(interval, 360), &[(event, Step::Event("demo"))]))
                .await;
            if event < 360 {
                assert_eq!(
                    outcomes
                        .iter()
                        .map(|(_, what)| what.as_str())
                        .collect::<Vec<_>>(),
                    ["app_open"],
                    "{interval} {event}"
                );
            } else {
                let [(at, what)] = outcomes.as_slice() else {
                    panic!("{outcomes:?}")
                };
                assert_eq!(what, "pushed to phone");
                assert!(
                    *at <= event + 210 + 30 && *at <= 570.max(event),
                    "{interval} {event} {at}"
                );
                assert_eq!(published(&phone.memory), ["arn:phone"]);
            }
        }
    }
}

#[tokio::test]
async fn going_away_before_the_event_pushes_at_once_and_after_it_not_at_all() {
    let open = (0, Step::Beat("demo", true));
    let before = Phone::new(None)
        .play(&[
            open,
            (20, Step::Beat("demo", false)),
            (25, Step::Event("demo")),
        ])
        .await;
    assert_eq!(before, [(25, "pushed to phone".to_owned())]);
    let after = Phone::new(None)
        .play(&[
            open,
            (20, Step::Event("demo")),
            (25, Step::Beat("demo", false)),
        ])
        .await;
    assert_eq!(after, [(210, "app_open".to_owned())]);
}

#[tokio::test]
async fn one_heartbeat_after_the_event_is_enough_however_soon_it_comes() {
    let steps = [
        (0, Step::Beat("demo", true)),
        (20, Step::Event("demo")),
        (22, Step::Beat("demo", true)),
    ];
    assert_eq!(
        Phone::new(None).play(&steps).await,
        [(210, "app_open".to_owned())]
    );
}

#[tokio::test]
async fn a_client_that_never_beats_gets_every_push_at_once() {
    assert_eq!(
        Phone::new(None).play(&[(25, Step::Event("demo"))]).await,
        [(25, "pushed to phone".to_owned())]
    );
}

#[tokio::test]
async fn what_the_open_app_had_is_not_pushed_when_a_relay_sends_it_again() {
    let phone = Phone::new(None);
    let steps = [
        (0, Step::Beat("demo", true)),
        (20, Step::Event("demo")),
        (60, Step::Beat("demo", true)),
        (120, Step::Beat("demo", true)),
        (130, Step::Beat("demo", false)),
        (300, Step::Event("demo")),
    ];
    assert_eq!(
        phone.play(&steps).await,
        [(210, "app_open".to_owned()), (300, "duplicate".to_owned())]
    );
    assert!(published(&phone.memory).is_empty());
}

#[tokio::test]
async fn one_apps_heartbeats_silence_no_other_app() {
    let phone = Phone::new(None);
    let steps = [
        (0, Step::Beat("demo", true)),
        (5, Step::Event("other")),
        (6, Step::Event("demo")),
        (60, Step::Beat("other", true)),
    ];
    assert_eq!(
        phone.play(&steps).await,
        [
            (5, "pushed to tablet".to_owned()),
            (210, "pushed to phone".to_owned())
        ]
    );
}

#[tokio::test]
async fn a_timeout_above_what_sqs_holds_back_is_waited_for_in_parts() {
    let phone = Phone::new(Some(3_600));
    assert_eq!(
        phone
            .play(&[(0, Step::Beat("demo", true)), (100, Step::Event("demo"))])
            .await,
        [(3_600, "pushed to phone".to_owned())]
    );
    let seen = Phone::new(Some(3_600));
    let steps = [
        (0, Step::Beat("demo", true)),
        (100, Step::Event("demo")),
        (1_500, Step::Beat("demo", true)),
    ];
    assert_eq!(seen.play(&steps).await, [(1_900, "app_open".to_owned())]);
}

#[tokio::test]
async fn an_event_that_comes_twice_while_it_waits_is_one_push() {
    let phone = Phone::new(None);
    let outcomes = phone
        .play(&[
            (0, Step::Beat("demo", true)),
            (100, Step::Event("demo")),
            (105, Step::Event("demo")),
        ])
        .await;
    assert_eq!(
        outcomes,
        [
            (210, "pushed to phone".to_owned()),
            (210, "duplicate".to_owned())
        ]
    );
}
