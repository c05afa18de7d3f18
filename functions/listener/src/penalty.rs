//! When a relay is disconnected because of what it sends.

use crate::counter::DropReason;

/// The points at which a relay is disconnected. They decrease by 1 per second.
const MAX_POINTS: u32 = 100;

/// The points for a NOTICE or a CLOSED. Each causes a log line.
pub const COMPLAINT_POINTS: u32 = 1;

/// The points for an AUTH. It may cause a signature.
pub const CHALLENGE_POINTS: u32 = 5;

/// The points of one connection.
#[derive(Debug, Default)]
pub struct Penalty(u32);

impl Penalty {
    /// Adds points. Returns `true` if the relay must be disconnected.
    pub fn add(&mut self, points: u32) -> bool {
        self.0 = self.0.saturating_add(points);
        self.0 >= MAX_POINTS
    }

    /// Removes the point of one second.
    pub fn decrease(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }
}

/// The points for a dropped event or frame. What an honest relay may carry costs none: large
/// events, events that only this parser refuses, and events that nobody is interested in.
pub fn points(reason: DropReason) -> u32 {
    match reason {
        DropReason::NoInterest
        | DropReason::TooOld
        | DropReason::Duplicate
        | DropReason::RateLimited
        | DropReason::NotAdmitted
        | DropReason::OverBudget
        | DropReason::Malformed
        | DropReason::TooLarge => 0,
        DropReason::Unrequested => 2,
        DropReason::MalformedFrame => 5,
        // It costs as much as 25 events that match nothing.
        DropReason::BadSignature => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_forged_events_disconnect_a_relay_unless_time_passes() {
        let mut penalty = Penalty::default();
        let mut forge = || penalty.add(points(DropReason::BadSignature));
        assert!((0..9).all(|_| !forge()));
        assert!(forge());
        for _ in 0..200 {
            penalty.decrease();
        }
        assert!(!penalty.add(points(DropReason::BadSignature)));
    }

    #[test]
    fn what_an_honest_relay_carries_costs_nothing() {
        let mut penalty = Penalty::default();
        for reason in [
            DropReason::TooLarge,
            DropReason::Malformed,
            DropReason::NoInterest,
        ] {
            assert!((0..10_000).all(|_| !penalty.add(points(reason))));
        }
    }
}
