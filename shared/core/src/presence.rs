//! When an owner's app was last known to be open, and what that means for a delivery.
//!
//! A phone that dies still looks online for a while. So a delivery waits while the app looks open.
//! If another sign of life arrives, the app was open and has received the event itself. If the app
//! is silent for the timeout, the event is pushed. If in doubt, the event is pushed.

use serde::{Deserialize, Serialize};

use crate::{Millis, Seconds, order::Order};

/// How long an app counts as open after its last heartbeat, by default. It is above the slowest
/// known heartbeat interval of three minutes.
pub const DEFAULT_TIMEOUT: Seconds = Seconds(210);

/// The shortest time for which a row is kept. It is longer than an event of dialect H is accepted,
/// so that a late event cannot overwrite a newer one.
const MIN_TTL: Seconds = Seconds::from_days(1);

/// The last sign of life of one owner's app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The order of the event.
    #[serde(flatten)]
    pub order: Order,
    /// `true` if the app reported that it is open, `false` if it is going away.
    pub online: bool,
    /// When the app was certainly open: when it signed the event, but not after the listener
    /// received it. A phone whose clock is ahead must not look open for too long.
    pub last_seen: Seconds,
    /// `true` if a delivery waits for the next sign of life, which must then be stored.
    #[serde(default)]
    pub awaited: bool,
}

impl Presence {
    /// The presence that an event reports.
    pub fn of(order: Order, online: bool, received_at: Millis) -> Self {
        Self {
            order,
            online,
            last_seen: order.created_at.min(received_at.to_seconds()),
            awaited: false,
        }
    }

    /// Returns `true` if this presence must replace the stored one. A change is always stored. A
    /// heartbeat is stored only if a delivery waits for it, or if a third of the timeout has
    /// passed.
    ///
    /// A third is safe. If the heartbeat interval is shorter, a heartbeat is stored before two
    /// thirds of the timeout have passed. If it is longer, every heartbeat is stored. In both cases
    /// the stored time advances before the timeout passes, as long as interval and delay together
    /// are below the timeout.
    pub fn should_store(&self, stored: Option<&Self>, timeout: Seconds) -> bool {
        stored.is_none_or(|stored| {
            let old = self.last_seen >= stored.last_seen + timeout / 3;
            self.order.supersedes(&stored.order)
                && (old || stored.awaited || self.online != stored.online)
        })
    }

    /// When DynamoDB may drop the row: once it can neither delay a delivery nor supersede a late
    /// event.
    pub fn expires_at(&self, timeout: Seconds) -> Seconds {
        self.order.created_at.max(self.last_seen) + timeout.max(MIN_TTL)
    }

    /// Decides on a delivery whose event the listener received at `received_at`.
    pub fn decide(
        presence: Option<&Self>,
        received_at: Millis,
        now: Millis,
        timeout: Seconds,
    ) -> PresenceDecision {
        let Some(presence) = presence else {
            return PresenceDecision::Push;
        };
        let silent_at = (presence.last_seen + timeout).to_millis();
        if presence.last_seen.to_millis() > received_at {
            PresenceDecision::Seen
        } else if presence.online && now < silent_at {
            PresenceDecision::Wait((silent_at - now).to_seconds_ceil())
        } else {
            PresenceDecision::Push
        }
    }
}

/// The decision on a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceDecision {
    /// The app is not open: push the event.
    Push,
    /// The app was open after the event arrived, so it has received the event itself.
    Seen,
    /// The app looks open: decide again after this time.
    Wait(Seconds),
}

#[cfg(test)]
mod tests {
    use nostr::event::EventId;
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_800_000_000;

    fn order(created_at: u64, id: u8) -> Order {
        Order {
            created_at: Seconds(created_at),
            event_id: EventId::from_byte_array([id; 32]),
        }
    }

    fn beat_at(at: u64, online: bool) -> Presence {
        Presence::of(order(at, 1), online, Millis(at * 1000 + 300))
    }

    fn decide(presence: Presence, event: u64, now: u64) -> PresenceDecision {
        let (event, now) = (Seconds(event).to_millis(), Seconds(now).to_millis());
        Presence::decide(Some(&presence), event, now, DEFAULT_TIMEOUT)
    }

    #[test]
    fn owner_without_heartbeats_is_offline() {
        assert_eq!(
            Presence::decide(
                None,
                Millis(START * 1000),
                Millis(START * 1000),
                DEFAULT_TIMEOUT
            ),
            PresenceDecision::Push
        );
    }

    #[test]
    fn decides_each_case() {
        let open = beat_at(START, true);
        assert_eq!(
            decide(open, START + 10, START + 10),
            PresenceDecision::Wait(Seconds(200))
        );
        assert_eq!(
            decide(open, START + 10, START + 209),
            PresenceDecision::Wait(Seconds(1))
        );
        assert_eq!(
            decide(open, START + 10, START + 210),
            PresenceDecision::Push
        );
        assert_eq!(decide(open, START - 1, START + 5), PresenceDecision::Seen);
        assert_eq!(
            decide(beat_at(START, false), START + 10, START + 10),
            PresenceDecision::Push
        );
        assert_eq!(
            decide(beat_at(START + 20, false), START + 10, START + 30),
            PresenceDecision::Seen
        );
        // In the same second the order is unknown: an extra push is better than none.
        assert_eq!(
            decide(beat_at(START, false), START, START),
            PresenceDecision::Push
        );
    }

    #[test]
    fn clock_ahead_does_not_make_a_dead_phone_look_open() {
        let ahead = Presence::of(order(START + 600, 1), true, Millis(START * 1000));
        assert_eq!(ahead.last_seen, Seconds(START));
        assert_eq!(
            decide(ahead, START + 10, START + 10),
            PresenceDecision::Wait(Seconds(200))
        );
        assert_eq!(
            decide(ahead, START + 10, START + 210),
            PresenceDecision::Push
        );
    }

    #[test]
    fn stores_presence_only_on_change() {
        let stored = beat_at(START, true);
        assert!(stored.should_store(None, DEFAULT_TIMEOUT));
        assert!(!beat_at(START + 69, true).should_store(Some(&stored), DEFAULT_TIMEOUT));
        assert!(beat_at(START + 70, true).should_store(Some(&stored), DEFAULT_TIMEOUT));
        assert!(
            beat_at(START + 1, false).should_store(Some(&stored), DEFAULT_TIMEOUT),
            "going offline is stored"
        );
        assert!(
            !beat_at(START - 100, false).should_store(Some(&stored), DEFAULT_TIMEOUT),
            "an older event is not stored"
        );
        assert!(
            beat_at(START + 1, true).should_store(
                Some(&Presence {
                    awaited: true,
                    ..stored
                }),
                DEFAULT_TIMEOUT
            ),
            "a heartbeat that a delivery waits for is stored"
        );
        assert!(
            !stored.should_store(Some(&stored), DEFAULT_TIMEOUT),
            "a repeat is not stored"
        );
        let tie = Presence {
            order: order(START, 0),
            ..beat_at(START, false)
        };
        assert!(
            tie.should_store(Some(&stored), DEFAULT_TIMEOUT),
            "on a tie the smaller id wins"
        );
    }

    /// Stores heartbeats as control does and decides at each receipt as deliver does. Returns when
    /// the event is pushed, if it is.
    fn pushed_at(beats: &[(u64, bool)], event: u64, timeout: Seconds) -> Option<u64> {
        let mut stored: Option<Presence> = None;
        let mut beats = beats.iter().peekable();
        let mut now = event;
        loop {
            while let Some((at, online)) = beats.next_if(|(at, _)| *at <= now) {
                let beat = beat_at(*at, *online);
                if beat.should_store(stored.as_ref(), timeout) {
                    stored = Some(beat);
                }
            }
            match Presence::decide(
                stored.as_ref(),
                Millis(event * 1000 + 500),
                Millis(now * 1000 + 600),
                timeout,
            ) {
                PresenceDecision::Push => return Some(now),
                PresenceDecision::Seen => return None,
                PresenceDecision::Wait(wait) => now += wait.0,
            }
            stored = stored.map(|stored| Presence {
                awaited: true,
                ..stored
            });
        }
    }

    fn every(interval: u64, from: u64, until: u64) -> Vec<(u64, bool)> {
        (0..=(until - from) / interval)
            .map(|n| (from + n * interval, true))
            .collect()
    }

    proptest! {
        #[test]
        fn pushes_to_a_silent_app_in_time_and_never_to_an_open_one(
            interval in prop_oneof![Just(60u64), Just(180), 10..=180u64],
            event in 1..2_000u64,
            dies_after in prop::option::of(0..2_000u64),
            timeout in prop_oneof![Just(210u64), Just(3_600)],
        ) {
            let event = START + event;
            let last_beat = dies_after.map_or(START + 100_000, |after| START + after);
            let beats = every(interval, START, last_beat);
            let last = beats.last().unwrap().0;
            match pushed_at(&beats, event, Seconds(timeout)) {
                None => prop_assert!(last > event, "not pushed to a silent app"),
                Some(at) => {
                    prop_assert!(last <= event, "pushed to an open app");
                    // At once after a long silence, otherwise within the timeout.
                    let earliest = last + timeout - timeout / 3;
                    prop_assert!(at == event || (earliest..=event + timeout + 1).contains(&at));
                }
            }
        }

        #[test]
        fn pushes_at_once_after_the_app_went_offline(
            interval in 10..=180u64,
            beats in 1..20u64,
            after in 1..1_000u64,
        ) {
            let away = START + interval * beats + 5;
            let mut beats = every(interval, START, away);
            beats.push((away, false));
            prop_assert_eq!(pushed_at(&beats, away + after, DEFAULT_TIMEOUT), Some(away + after));
            // The app has received what arrived before it went offline.
            prop_assert_eq!(pushed_at(&beats, away - 3, DEFAULT_TIMEOUT), None);
        }
    }
}
