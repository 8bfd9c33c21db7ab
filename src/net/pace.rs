//! The least pace at which bytes of a frame have to move, so that nobody holds memory by being slow.

use std::time::Duration;

/// Bytes a second, on average, once the grace period is over.
pub(super) const LEAST_RATE: u64 = 64 << 10;

/// How long bytes have been waited for, and how many have moved.
#[derive(Debug)]
pub(super) struct Pace {
    grace: Duration,
    /// The longest wait without a byte.
    stall: Duration,
    waited: Duration,
    moved: u64,
}

impl Pace {
    /// Nothing has moved, and nobody has waited.
    pub(super) fn new(grace: Duration, stall: Duration) -> Self {
        Pace { grace, stall, waited: Duration::ZERO, moved: 0 }
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        (self.waited, self.moved) = (Duration::ZERO, 0);
    }

    /// How long the next bytes may take.
    pub(super) fn allowance(&self) -> Duration {
        self.allowance_within(self.grace).min(self.stall)
    }

    /// The same, with another grace period and without a limit of each wait.
    pub(super) fn allowance_within(&self, grace: Duration) -> Duration {
        let earned = Duration::from_millis(self.moved.saturating_mul(1_000) / LEAST_RATE);
        (grace + earned).saturating_sub(self.waited)
    }

    /// So many bytes moved after this time.
    pub(super) fn moved(&mut self, bytes: usize, after: Duration) {
        self.waited += after;
        self.moved += bytes as u64;
    }

    /// For how long bytes have been waited for.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// After how many seconds a sender of so many bytes a second is late with 8 MiB.
    fn late_after(rate: usize) -> Option<u64> {
        let mut pace = Pace::new(10 * SECOND, 10 * SECOND);
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
        let mut pace = Pace::new(10 * SECOND, 10 * SECOND);
        pace.moved(7 << 20, SECOND);
        assert_eq!(pace.allowance(), 10 * SECOND, "a fast beginning allows no long stall");
    }
}
