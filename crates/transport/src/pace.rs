//! The least pace at which bytes of a frame have to move, so that nobody holds memory by being
//! slow.

use std::time::Duration;

/// Bytes a second, on average, once the grace period is used up.
pub const LEAST_RATE: u64 = 64 << 10;

/// The time that bytes may take. Waiting uses it up, bytes that move give it back, and it is never
/// more than the grace period: a fast beginning allows no long stall.
#[derive(Debug)]
pub struct Pace {
    grace: Duration,
    credit: Duration,
    waited: Duration,
}

impl Pace {
    /// All of the grace period is left.
    pub fn new(grace: Duration) -> Self {
        Pace { grace, credit: grace, waited: Duration::ZERO }
    }

    /// Begins anew.
    pub fn reset(&mut self) {
        *self = Pace::new(self.grace);
    }

    /// How long the next bytes may take.
    pub fn allowance(&self) -> Duration {
        self.credit
    }

    /// The same with a shorter grace period.
    pub fn allowance_within(&self, grace: Duration) -> Duration {
        self.credit.saturating_sub(self.grace.saturating_sub(grace))
    }

    /// So many bytes moved after this time.
    pub fn moved(&mut self, bytes: usize, after: Duration) {
        self.waited += after;
        let earned = Duration::from_millis((bytes as u64).saturating_mul(1_000) / LEAST_RATE);
        self.credit = (self.credit.saturating_sub(after) + earned).min(self.grace);
    }

    /// For how long bytes have been waited for.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// After how many seconds a sender of so many bytes a second is late with 8 MiB.
    fn late_after(rate: usize) -> Option<u64> {
        let mut pace = Pace::new(10 * SECOND);
        for second in 0..(8 << 20) / rate as u64 {
            if pace.allowance() < SECOND {
                return Some(second);
            }
            pace.moved(rate, SECOND);
        }
        None
    }

    #[test]
    fn a_byte_now_and_then_does_not_keep_a_frame_waiting() {
        assert_eq!(late_after(1), Some(10));
        assert_eq!(late_after(32 << 10), Some(19));
        assert_eq!(late_after(64 << 10), None);
        let mut pace = Pace::new(10 * SECOND);
        pace.moved(7 << 20, SECOND);
        assert_eq!(pace.allowance(), 10 * SECOND, "a fast beginning allows no long stall");
        pace.moved(0, 4 * SECOND);
        assert_eq!(pace.allowance_within(5 * SECOND), SECOND);
        assert_eq!(pace.allowance_within(3 * SECOND), Duration::ZERO);
    }
}
