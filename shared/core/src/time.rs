//! Times and spans of time, in a unit that the compiler checks.
//!
//! A value is a Unix time or a span, as its name says. The operators saturate: many of these
//! numbers come from events, and the signer of an event can put any number into it.

use std::{
    fmt,
    ops::{Add, AddAssign, Div, Mul, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Whole seconds, the unit of `created_at` (NIP-01,
/// <https://github.com/nostr-protocol/nips/blob/master/01.md>) and of DynamoDB's TTL attribute.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seconds(pub u64);

/// Whole milliseconds, the unit of receipt times, leases, latencies and the change feed.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Seconds {
    /// A span of `n` minutes.
    pub const fn from_minutes(n: u64) -> Self {
        Self(n * 60)
    }

    /// A span of `n` hours.
    pub const fn from_hours(n: u64) -> Self {
        Self::from_minutes(n * 60)
    }

    /// A span of `n` days.
    pub const fn from_days(n: u64) -> Self {
        Self::from_hours(n * 24)
    }

    /// The beginning of the hour of this time.
    #[must_use]
    pub const fn start_of_hour(self) -> Self {
        Self(self.0 - self.0 % Self::from_hours(1).0)
    }

    /// The beginning of the UTC day of this time.
    #[must_use]
    pub const fn start_of_day(self) -> Self {
        Self(self.0 - self.0 % Self::from_days(1).0)
    }

    /// The same time or span in milliseconds.
    pub const fn to_millis(self) -> Millis {
        Millis(self.0.saturating_mul(1000))
    }

    /// The same span as a [`Duration`].
    pub const fn to_duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl Millis {
    /// The same time or span in seconds, rounded down.
    pub const fn to_seconds(self) -> Seconds {
        Seconds(self.0 / 1000)
    }

    /// The same span in seconds, rounded up.
    pub const fn to_seconds_ceil(self) -> Seconds {
        Seconds(self.0.div_ceil(1000))
    }

    /// The same span as a [`Duration`].
    pub const fn to_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// The arithmetic and formatting that both units share.
macro_rules! unit {
    ($unit:ident) => {
        impl Add for $unit {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl AddAssign for $unit {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl Sub for $unit {
            type Output = Self;

            fn sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl Mul<u64> for $unit {
            type Output = Self;

            fn mul(self, factor: u64) -> Self {
                Self(self.0.saturating_mul(factor))
            }
        }

        impl Div<u64> for $unit {
            type Output = Self;

            fn div(self, divisor: u64) -> Self {
                Self(self.0 / divisor)
            }
        }

        impl fmt::Display for $unit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit!(Seconds);
unit!(Millis);

impl From<nostr::types::time::Timestamp> for Seconds {
    fn from(timestamp: nostr::types::time::Timestamp) -> Self {
        Self(timestamp.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_between_units_and_rounds_as_named() {
        assert_eq!(Seconds(3).to_millis(), Millis(3_000));
        assert_eq!(Millis(3_999).to_seconds(), Seconds(3));
        assert_eq!(Millis(3_001).to_seconds_ceil(), Seconds(4));
        assert_eq!(Seconds::from_days(1), Seconds(86_400));
    }

    #[test]
    fn saturates_at_both_ends() {
        let end = Seconds(u64::MAX);
        assert_eq!(end + Seconds(1), end);
        assert_eq!(end.to_millis(), Millis(u64::MAX));
        assert_eq!(Millis(1) - Millis(2), Millis(0));
    }

    #[test]
    fn is_written_as_a_plain_number() {
        assert_eq!(serde_json::to_string(&Seconds(7)).unwrap(), "7");
        assert_eq!(serde_json::from_str::<Millis>("7").unwrap(), Millis(7));
    }
}
