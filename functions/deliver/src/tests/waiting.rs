//! Deliveries to an app that looks open, with a clock that the test advances.

use std::collections::BTreeMap;

use nostr::event::EventId;
use nostr_push_core::{
    order::Order,
    owner::Owner,
    ports::{Apps, Presences},
    presence::Presence,
};

use super::*;

/// Another app of the recipient.
const OTHER_APP: &str = "other";

/// One step of a test.
#[derive(Clone, Copy)]
enum Step {
    /// A heartbeat under an app, or (`false`) the report that the app is going away.
    Heartbeat(&'static str, bool),
    /// An event for the recipient under an app.
    Event(&'static str),
}

/// The recipient's two devices: `phone` under the app `demo`, `tablet` under [`OTHER_APP`].
struct Recipient {
    memory: Memory,
    event: Event,
}

/// The recipient under this app.
fn owner_under(app: &str) -> Owner {
    Owner {
        app: app.to_owned(),
        ..owner(recipient().public_key())
    }
}

impl Recipient {
    fn new(timeout: Option<u64>) -> Self {
        let memory = memory(&[("phone", Platform::Apns)]);
        let other = owner_under(OTHER_APP);
        let registration = Registration {
            platform: Platform::Apns,
            ..registration(&other, "arn:tablet")
        };
        let tablet = builders::device("tablet", registration);
        let mut state = memory.state();
        state.apps.get_mut(APP).unwrap().presence_timeout = timeout.map(Seconds);
        state
            .apps
            .insert(OTHER_APP.to_owned(), App::named(OTHER_APP));
        let roster = builders::roster(&other, &[&tablet]);
        state.rosters.insert(other, roster);
        state.devices.insert(tablet.id.clone(), tablet);
        drop(state);
        Self {
            memory,
            event: note("hello"),
        }
    }

    /// Stores a heartbeat as control does.
    async fn heartbeat(&self, app: &str, online: bool, at: Seconds) {
        let owner = owner_under(app);
        let app = self.memory.app(app).await.unwrap().unwrap();
        let order = Order {
            created_at: at,
            event_id: EventId::from_byte_array([7; 32]),
        };
        let presence = Presence::of(order, online, at.to_millis() + Millis(200));
        let stored = self.memory.presence(&owner).await.unwrap();
        if presence.should_store(stored.as_ref(), app.presence_timeout()) {
            let expires_at = Seconds(0);
            let stored = self.memory.put_presence(&owner, &presence, expires_at);
            stored.await.unwrap();
        }
    }

    /// The message of the event under this app, received at `at`.
    fn message(&self, app: &str, at: Millis) -> DeliveryMessage {
        event_message(&Delivery {
            app: app.to_owned(),
            received_at: at,
            ..delivery(self.event.clone())
        })
    }

    /// Runs the steps, and handles every delivery that waits when its delay is over. Returns the
    /// outcomes, each with its second after [`NOW`].
    async fn play(&self, steps: &[(u64, Step)]) -> Vec<(u64, String)> {
        let mut waiting: BTreeMap<(u64, usize), DeliveryMessage> = BTreeMap::new();
        let mut outcomes = Vec::new();
        let mut steps = steps.iter().peekable();
        for n in 0.. {
            let next_waiting = waiting.first_key_value().map(|((at, _), _)| *at);
            let step = steps.next_if(|(at, _)| next_waiting.is_none_or(|waiting| *at <= waiting));
            let (at, message) = match step {
                Some((at, Step::Heartbeat(app, online))) => {
                    self.heartbeat(app, *online, Seconds(NOW + at)).await;
                    continue;
                }
                Some((at, Step::Event(app))) => (*at, self.message(app, half_past(*at))),
                None => match waiting.pop_first() {
                    Some(((at, _), message)) => (at, message),
                    None => return outcomes,
                },
            };
            let attempt = Attempt {
                holder: n.to_string(),
                now: half_past(at),
                lease: LEASE,
            };
            let memory = &self.memory;
            match handle(memory, &message, &attempt).await.unwrap() {
                DeliveryOutcome::Waiting(delay) => {
                    waiting.insert((at + delay.as_secs(), n), self.delayed(delay));
                }
                DeliveryOutcome::Dropped(reason) => outcomes.push((at, reason.reason().to_owned())),
                DeliveryOutcome::Completed(devices) => {
                    let pushed = devices.iter().map(|device| &device.token_hash);
                    outcomes.extend(pushed.map(|name| (at, format!("pushed to {name}"))));
                }
                DeliveryOutcome::Retry { reason, .. } => panic!("{reason:?}"),
            }
        }
        unreachable!("the loop ends with its return")
    }

    /// Takes the message that was sent with this delay.
    fn delayed(&self, delay: Duration) -> DeliveryMessage {
        let (sent_with, body) = self.memory.state().delayed.pop().unwrap();
        assert_eq!(sent_with, delay);
        assert!(
            delay <= Duration::from_secs(900),
            "the longest delay of SQS"
        );
        let message = message::decode(&body).unwrap();
        assert!(matches!(&message, DeliveryMessage::Event(delivery) if delivery.waited));
        message
    }
}

/// Half a second past this second after [`NOW`].
fn half_past(second: u64) -> Millis {
    Seconds(NOW + second).to_millis() + Millis(500)
}

/// A heartbeat at every interval.
fn heartbeats(interval: u64, until: u64) -> Vec<(u64, Step)> {
    (0..=until / interval)
        .map(|n| (n * interval, Step::Heartbeat("demo", true)))
        .collect()
}

/// All steps in order of time.
fn with(mut steps: Vec<(u64, Step)>, more: &[(u64, Step)]) -> Vec<(u64, Step)> {
    steps.extend_from_slice(more);
    steps.sort_by_key(|(at, _)| *at);
    steps
}

#[tokio::test]
async fn open_app_gets_no_push_at_intervals_of_one_and_three_minutes() {
    for interval in [60, 180] {
        for event in [5, 59, 61, 179, 181, 300] {
            let recipient = Recipient::new(None);
            let event_step = (event, Step::Event("demo"));
            let steps = with(heartbeats(interval, 3_600), &[event_step]);
            let outcomes = recipient.play(&steps).await;
            let outcomes: Vec<&str> = outcomes.iter().map(|(_, name)| name.as_str()).collect();
            assert_eq!(outcomes, ["app_open"], "{interval} {event}");
            assert!(published(&recipient.memory).is_empty());
        }
    }
}

#[tokio::test]
async fn silent_app_gets_one_push_within_the_timeout() {
    for interval in [60, 180] {
        for event in [5, 59, 61, 181, 359, 361, 500, 569, 571, 2_000] {
            let recipient = Recipient::new(None);
            let event_step = (event, Step::Event("demo"));
            let steps = with(heartbeats(interval, 360), &[event_step]);
            let mut outcomes = recipient.play(&steps).await;
            let (at, outcome) = outcomes.pop().unwrap();
            assert!(outcomes.is_empty(), "{interval} {event}");
            if event < 360 {
                assert_eq!(outcome, "app_open", "{interval} {event}");
                continue;
            }
            assert_eq!(outcome, "pushed to phone");
            let in_time = at <= event + 210 + 30 && at <= 570.max(event);
            assert!(in_time, "{interval} {event} {at}");
            assert_eq!(published(&recipient.memory), ["arn:phone"]);
        }
    }
}

#[tokio::test]
async fn app_that_went_away_gets_only_later_events() {
    let open = (0, Step::Heartbeat("demo", true));
    let before = Recipient::new(None)
        .play(&[
            open,
            (20, Step::Heartbeat("demo", false)),
            (25, Step::Event("demo")),
        ])
        .await;
    assert_eq!(before, [(25, "pushed to phone".to_owned())]);
    let after = Recipient::new(None)
        .play(&[
            open,
            (20, Step::Event("demo")),
            (25, Step::Heartbeat("demo", false)),
        ])
        .await;
    assert_eq!(after, [(210, "app_open".to_owned())]);
}

#[tokio::test]
async fn one_heartbeat_after_the_event_is_enough() {
    let steps = [
        (0, Step::Heartbeat("demo", true)),
        (20, Step::Event("demo")),
        (22, Step::Heartbeat("demo", true)),
    ];
    assert_eq!(
        Recipient::new(None).play(&steps).await,
        [(210, "app_open".to_owned())]
    );
}

#[tokio::test]
async fn app_without_heartbeats_gets_every_push_at_once() {
    assert_eq!(
        Recipient::new(None)
            .play(&[(25, Step::Event("demo"))])
            .await,
        [(25, "pushed to phone".to_owned())]
    );
}

#[tokio::test]
async fn copy_of_event_seen_by_open_app_is_not_pushed() {
    let recipient = Recipient::new(None);
    let steps = [
        (0, Step::Heartbeat("demo", true)),
        (20, Step::Event("demo")),
        (60, Step::Heartbeat("demo", true)),
        (120, Step::Heartbeat("demo", true)),
        (130, Step::Heartbeat("demo", false)),
        (300, Step::Event("demo")),
    ];
    assert_eq!(
        recipient.play(&steps).await,
        [(210, "app_open".to_owned()), (300, "duplicate".to_owned())]
    );
    assert!(published(&recipient.memory).is_empty());
}

#[tokio::test]
async fn heartbeats_of_one_app_delay_no_other_app() {
    let recipient = Recipient::new(None);
    let steps = [
        (0, Step::Heartbeat("demo", true)),
        (5, Step::Event("other")),
        (6, Step::Event("demo")),
        (60, Step::Heartbeat("other", true)),
    ];
    assert_eq!(
        recipient.play(&steps).await,
        [
            (5, "pushed to tablet".to_owned()),
            (210, "pushed to phone".to_owned())
        ]
    );
}

#[tokio::test]
async fn waits_in_parts_for_a_timeout_above_the_delay_of_sqs() {
    let recipient = Recipient::new(Some(3_600));
    assert_eq!(
        recipient
            .play(&[
                (0, Step::Heartbeat("demo", true)),
                (100, Step::Event("demo"))
            ])
            .await,
        [(3_600, "pushed to phone".to_owned())]
    );
    let seen = Recipient::new(Some(3_600));
    let steps = [
        (0, Step::Heartbeat("demo", true)),
        (100, Step::Event("demo")),
        (1_500, Step::Heartbeat("demo", true)),
    ];
    assert_eq!(seen.play(&steps).await, [(1_900, "app_open".to_owned())]);
}

#[tokio::test]
async fn event_received_twice_while_it_waits_is_one_push() {
    let recipient = Recipient::new(None);
    let outcomes = recipient
        .play(&[
            (0, Step::Heartbeat("demo", true)),
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
