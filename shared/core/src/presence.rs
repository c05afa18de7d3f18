//! When an owner's app was last known to be open, and what that means for a delivery.
//!
//! A phone that dies still looks online for a while. So an event that comes while the app looks
//! open waits until the app has either given another sign of life, and then it had the event
//! itself, or has been silent for the timeout, and then it is pushed. Nothing is lost in between;
//! the doubtful case is always the push.

use serde::{Deserialize, Serialize};

use crate::{DAY, Millis, Seconds, order::Order};

/// How long an app counts as open after its last heartbeat, unless the app's settings say
/// otherwise: above the slowest known heartbeat of three minutes.
pub const DEFAULT_TIMEOUT: Seconds = 210;

/// The last sign of life of one owner's app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Which event gave it.
    #[serde(flatten)]
    pub order: Order,
    /// Whether the app said that it is open, or that it is going away.
    pub online: bool,
    /// When the app was open for certain: when it signed the event, but never after the event was
    /// received. A phone whose clock is ahead must not look open for longer than it is.
    pub last_seen: Seconds,
    /// Whether a delivery waits for the next sign of life, so that it must be written.
    #[serde(default)]
    pub awaited: bool,
}

impl Presence {
    /// What an event received at `received_at` says.
    pub fn of(order: Order, online: bool, received_at: Millis) -> Self {
        Self {
            order,
            online,
            last_seen: order.created_at.min(received_at / 1000),
            awaited: false,
        }
    }

    /// Whether it must be written over what is stored: a change always, a heartbeat only when a
    /// delivery waits for it or a third of the timeout has passed.
    ///
    /// A third is safe. A phone that beats more often than that is written before two thirds are
    /// over; one that beats less often is written at each beat. In both cases the stored sign of
    /// life moves before the timeout passes, for as long as the phone's interval and its delay
    /// together are below the timeout.
    pub fn matters(&self, stored: Option<&Self>, timeout: Seconds) -> bool {
        stored.is_none_or(|stored| {
            let old = self.last_seen >= stored.last_seen + timeout / 3;
            self.order.supersedes(&stored.order)
                && (old || stored.awaited || self.online != stored.online)
        })
    }

    /// When DynamoDB may drop the row: when it can neither make a delivery wait nor win over an
    /// event that comes late.
    pub fn expires_at(&self, timeout: Seconds) -> Seconds {
        self.order.created_at.max(self.last_seen) + timeout.max(DAY)
    }

    /// What becomes of a delivery whose event was received at `received_at`.
    pub fn decide(
        presence: Option<&Self>,
        received_at: Millis,
        now: Millis,
        timeout: Seconds,
    ) -> Decision {
        let Some(presence) = presence else {
            return Decision::Push;
        };
        let silent_at = (presence.last_seen + timeout) * 1000;
        if presence.last_seen * 1000 > received_at {
            Decision::Seen
        } else if presence.online && now < silent_at {
            Decision::Wait((silent_at - now).div_ceil(1000))
        } else {
            Decision::Push
        }
    }
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The app is not open: push.
    Push,
    /// The app was open after the event had arrived, and so had it.
    Seen,
    /// The app looks open: decide again after so many seconds.
    Wait(Seconds),
}

#[cfg(test)]
mod tests {
    use nostr::event::EventId;
    use proptest::prelude::*;

    use super::*;

    const START: Seconds = 1_800_000_000;

    fn order(created_at: Seconds, id: u8) -> Order {
        Order {
            created_at,
            event_id: EventId::from_byte_array([id; 32]),
        }
    }

    fn sign(at: Seconds, online: bool) -> Presence {
        Presence::of(order(at, 1), online, at * 1000 + 300)
    }

    fn decide(presence: Presence, event: Seconds, now: Seconds) -> Decision {
        Presence::decide(Some(&presence), event * 1000, now * 1000, DEFAULT_TIMEOUT)
    }

    #[test]
    fn who_never_beats_is_offline() {
        assert_eq!(
            Presence::decide(None, START * 1000, START * 1000, DEFAULT_TIMEOUT),
            Decision::Push
        );
    }

    #[test]
    fn each_case_has_its_decision() {
        let open = sign(START, true);
        assert_eq!(decide(open, START + 10, START + 10), Decision::Wait(200));
        assert_eq!(decide(open, START + 10, START + 209), Decision::Wait(1));
        assert_eq!(decide(open, START + 10, START + 210), Decision::Push);
        assert_eq!(decide(open, START - 1, START + 5), Decision::Seen);
        assert_eq!(
            decide(sign(START, false), START + 10, START + 10),
            Decision::Push
        );
        assert_eq!(
            decide(sign(START + 20, false), START + 10, START + 30),
            Decision::Seen
        );
        // In the same second nobody knows which came first: better a push too many.
        assert_eq!(decide(sign(START, false), START, START), Decision::Push);
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_make_a_dead_phone_look_open() {
        let ahead = Presence::of(order(START + 600, 1), true, START * 1000);
        assert_eq!(ahead.last_seen, START);
        assert_eq!(decide(ahead, START + 10, START + 10), Decision::Wait(200));
        assert_eq!(decide(ahead, START + 10, START + 210), Decision::Push);
    }

    #[test]
    fn only_what_changes_something_is_written() {
        let stored = sign(START, true);
        assert!(stored.matters(None, DEFAULT_TIMEOUT));
        assert!(!sign(START + 69, true).matters(Some(&stored), DEFAULT_TIMEOUT));
        assert!(sign(START + 70, true).matters(Some(&stored), DEFAULT_TIMEOUT));
        assert!(
            sign(START + 1, false).matters(Some(&stored), DEFAULT_TIMEOUT),
            "going away is news"
        );
        assert!(
            !sign(START - 100, false).matters(Some(&stored), DEFAULT_TIMEOUT),
            "an older one never"
        );
        assert!(
            sign(START + 1, true).matters(
                Some(&Presence {
                    awaited: true,
                    ..stored
                }),
                DEFAULT_TIMEOUT
            ),
            "and what is waited for"
        );
        assert!(
            !stored.matters(Some(&stored), DEFAULT_TIMEOUT),
            "nor the same again"
        );
        let tie = Presence {
            order: order(START, 0),
            ..sign(START, false)
        };
        assert!(
            tie.matters(Some(&stored), DEFAULT_TIMEOUT),
            "on a tie the smaller id"
        );
    }

    /// Stores what matters, as control does, and asks at each wake, as deliver does. Answers when
    /// the event is pushed.
    fn pushed_at(beats: &[(Seconds, bool)], event: Seconds, timeout: Seconds) -> Option<Seconds> {
        let mut stored: Option<Presence> = None;
        let mut beats = beats.iter().peekable();
        let mut now = event;
        loop {
            while let Some((at, online)) = beats.next_if(|(at, _)| *at <= now) {
                let beat = sign(*at, *online);
                if beat.matters(stored.as_ref(), timeout) {
                    stored = Some(beat);
                }
            }
            match Presence::decide(
                stored.as_ref(),
                event * 1000 + 500,
                now * 1000 + 600,
                timeout,
            ) {
                Decision::Push => return Some(now),
                Decision::Seen => return None,
                Decision::Wait(wait) => now += wait,
            }
            stored = stored.map(|stored| Presence {
                awaited: true,
                ..stored
            });
        }
    }

    fn every(interval: Seconds, from: Seconds, until: Seconds) -> Vec<(Seconds, bool)> {
        (0..=(until - from) / interval)
            .map(|n| (from + n * interval, true))
            .collect()
    }

    proptest! {
        #[test]
        fn an_open_app_is_left_alone_and_a_silent_one_gets_it_in_time(
            interval in prop_oneof![Just(60u64), Just(180), 10..=180u64],
            event in 1..2_000u64,
            dies_after in prop::option::of(0..2_000u64),
            timeout in prop_oneof![Just(DEFAULT_TIMEOUT), Just(3_600)],
        ) {
            let event = START + event;
            let last_beat = dies_after.map_or(START + 100_000, |after| START + after);
            let beats = every(interval, START, last_beat);
            let last = beats.last().unwrap().0;
            match pushed_at(&beats, event, timeout) {
                None => prop_assert!(last > event, "not pushed though it was never open again"),
                Some(at) => {
                    prop_assert!(last <= event, "pushed though it was open after the event");
                    // At once when it had been silent for long, and otherwise within the timeout.
                    prop_assert!(at == event || (at <= event + timeout + 1 && at >= last + timeout - timeout / 3));
                }
            }
        }

        #[test]
        fn after_going_away_everything_is_pushed_at_once(interval in 10..=180u64, beats in 1..20u64, after in 1..1_000u64) {
            let away = START + interval * beats + 5;
            let mut signs = every(interval, START, away);
            signs.push((away, false));
            prop_assert_eq!(pushed_at(&signs, away + after, DEFAULT_TIMEOUT), Some(away + after));
            // What came before it went away it had.
            prop_assert_eq!(pushed_at(&signs, away - 3, DEFAULT_TIMEOUT), None);
        }
    }
}
