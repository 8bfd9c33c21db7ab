//! Instants and spans of a node's own time. Only differences of instants mean anything: the driver
//! chooses the origin, and no instant leaves the node.

use core::time::Duration;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// A span of time in whole microseconds, 0 to 2^64-1 (584,000 years). Sums and differences that
/// leave this range are bugs and panic; the `saturating_` methods end at its bounds.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Micros(pub u64);

/// An instant on the clock of the driver, which never goes back: so many microseconds after an
/// origin of the driver's choice. An instant less an instant is a span, an instant and a span an
/// instant; two instants have no sum.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// A span of one millisecond, the unit of most configured times.
pub const MILLI: Micros = Micros::from_millis(1);

impl Micros {
    /// No time at all.
    pub const ZERO: Micros = Micros(0);
    /// The longest span: longer than any node runs.
    pub const MAX: Micros = Micros(u64::MAX);

    /// A span of this many milliseconds; [`Micros::MAX`] at most.
    pub const fn from_millis(millis: u64) -> Self {
        Micros(millis.saturating_mul(1_000))
    }

    /// A span of this many seconds; [`Micros::MAX`] at most.
    pub const fn from_secs(seconds: u64) -> Self {
        Micros(seconds.saturating_mul(1_000_000))
    }

    /// The span in whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// The sum, [`Micros::MAX`] at most.
    #[must_use]
    pub const fn saturating_add(self, other: Micros) -> Self {
        Micros(self.0.saturating_add(other.0))
    }

    /// The difference, zero if `other` is the longer one.
    #[must_use]
    pub const fn saturating_sub(self, other: Micros) -> Self {
        Micros(self.0.saturating_sub(other.0))
    }

    /// The span multiplied by `times`, [`Micros::MAX`] at most.
    #[must_use]
    pub const fn saturating_mul(self, times: u64) -> Self {
        Micros(self.0.saturating_mul(times))
    }

    /// The span as statistics need it, in microseconds; exact below 2^53.
    pub const fn as_f64(self) -> f64 {
        self.0 as f64
    }

    /// A span of this many microseconds, rounded down; zero for negative numbers and NaN.
    pub const fn from_f64(micros: f64) -> Self {
        Micros(micros as u64)
    }

    /// How far the two spans are apart.
    #[must_use]
    pub const fn abs_diff(self, other: Micros) -> Self {
        Micros(self.0.abs_diff(other.0))
    }
}

impl Time {
    /// The origin of the driver's clock; no instant is earlier.
    pub const START: Time = Time(0);
    /// Later than any instant that a node reaches.
    pub const MAX: Time = Time(u64::MAX);

    /// The span since `earlier`; zero if that is later.
    pub const fn saturating_since(self, earlier: Time) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }

    /// The instant a span later, [`Time::MAX`] at most.
    #[must_use]
    pub const fn saturating_add(self, span: Micros) -> Self {
        Time(self.0.saturating_add(span.0))
    }

    /// The instant that is this span earlier, and not before the origin.
    #[must_use]
    pub const fn saturating_sub(self, span: Micros) -> Self {
        Time(self.0.saturating_sub(span.0))
    }
}

impl Sub for Time {
    type Output = Micros;

    fn sub(self, earlier: Time) -> Micros {
        Micros(self.0 - earlier.0)
    }
}

impl Add<Micros> for Time {
    type Output = Time;

    fn add(self, span: Micros) -> Time {
        Time(self.0 + span.0)
    }
}

impl Sub<Micros> for Time {
    type Output = Time;

    fn sub(self, span: Micros) -> Time {
        Time(self.0 - span.0)
    }
}

impl AddAssign<Micros> for Time {
    fn add_assign(&mut self, span: Micros) {
        self.0 += span.0;
    }
}

impl Add for Micros {
    type Output = Micros;

    fn add(self, other: Micros) -> Micros {
        Micros(self.0 + other.0)
    }
}

impl AddAssign for Micros {
    fn add_assign(&mut self, other: Micros) {
        self.0 += other.0;
    }
}

impl Sub for Micros {
    type Output = Micros;

    fn sub(self, other: Micros) -> Micros {
        Micros(self.0 - other.0)
    }
}

impl Mul<u64> for Micros {
    type Output = Micros;

    fn mul(self, times: u64) -> Micros {
        Micros(self.0 * times)
    }
}

impl Mul<Micros> for u64 {
    type Output = Micros;

    fn mul(self, span: Micros) -> Micros {
        span * self
    }
}

impl Div<u64> for Micros {
    type Output = Micros;

    fn div(self, parts: u64) -> Micros {
        Micros(self.0 / parts)
    }
}

/// How many times the other span fits, rounded down.
impl Div for Micros {
    type Output = u64;

    fn div(self, other: Micros) -> u64 {
        self.0 / other.0
    }
}

impl Sum for Micros {
    fn sum<I: Iterator<Item = Micros>>(spans: I) -> Micros {
        spans.fold(Micros::ZERO, Add::add)
    }
}

impl From<Duration> for Micros {
    /// Whole microseconds, [`Micros::MAX`] at most.
    fn from(span: Duration) -> Self {
        Micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Micros> for Duration {
    fn from(span: Micros) -> Self {
        Duration::from_micros(span.0)
    }
}

impl fmt::Debug for Micros {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_end_at_their_bounds_and_instants_differ_by_spans() {
        let at = Time(5);
        assert_eq!((at + Micros(7)) - at, Micros(7));
        assert_eq!(at.saturating_since(Time(9)), Micros::ZERO);
        assert_eq!(Time::MAX.saturating_add(MILLI), Time::MAX);
        assert_eq!(at.saturating_sub(MILLI), Time::START);
        assert_eq!(Micros::from_millis(u64::MAX), Micros::MAX);
        assert_eq!((3 * MILLI / MILLI, Micros::from_secs(2) / 1_000), (3, 2 * MILLI));
        assert_eq!(Micros::from(Duration::MAX), Micros::MAX);
    }

    #[test]
    #[should_panic(expected = "overflow")]
    fn an_instant_before_the_origin_is_a_bug() {
        let _ = Time(1) - Time(2);
    }
}
