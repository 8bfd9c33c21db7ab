//! When the operations of an open loop are due: at a rate, evenly or as chance has it, with bursts.

use std::time::Duration;

use pixii_core::rng::Rng;

/// Highest and lowest rate, in operations a second.
pub(crate) const RATES: (f64, f64) = (0.01, 1e6);
/// Most that a burst multiplies the rate by.
const MAX_FACTOR: f64 = 1e4;
/// The longest period of bursts.
const MAX_PERIOD: Duration = Duration::from_secs(3_600);

/// When operations are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Arrivals {
    /// Operations a second, between bursts.
    pub(crate) rate: f64,
    /// True: a Poisson process, as of many independent clients. False: all gaps alike.
    pub(crate) is_random: bool,
    /// What the rate is raised by, from time to time.
    pub(crate) burst: Option<Burst>,
}

/// A higher rate at the end of every period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Burst {
    /// How many times the rate.
    pub(crate) factor: f64,
    /// For how long,
    pub(crate) length: Duration,
    /// of every so long.
    pub(crate) period: Duration,
}

impl Burst {
    /// Reads `10x/1s/10s`: 10 times the rate for 1 s of every 10 s. The error is one sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fault = |why: &str| {
            let text = text.escape_debug();
            Err(format!("\"{text}\": {why}; a burst is FACTORx/LENGTH/PERIOD, as in 10x/1s/10s"))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let [factor, length, period] = parts[..] else {
            return fault("it has not three parts");
        };
        let factor = factor.strip_suffix('x').and_then(|factor| factor.parse().ok());
        let Some(factor) = factor.filter(|factor| (0.0..=MAX_FACTOR).contains(factor)) else {
            return fault("the factor is not 0x to 10000x");
        };
        let (Some(length), Some(period)) = (span(length), span(period)) else {
            return fault("a time is a number with ms or s");
        };
        match () {
            () if period > MAX_PERIOD => fault("the period is over 3600 s"),
            () if length.is_zero() || length >= period => {
                fault("the length is not between 0 and the period")
            }
            () => Ok(Burst { factor, length, period }),
        }
    }
}

/// A time such as `1.5s` or `200ms`.
fn span(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s')?, 1.0),
    };
    let seconds = number.parse::<f64>().ok()? * unit;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The times at which operations are due, one after the other, without end.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    arrivals: Arrivals,
    rng: Rng,
    /// Seconds since the start.
    at: f64,
    /// Changes of the rate passed so far.
    turns: u64,
}

impl Schedule {
    /// Begins with the calm part of a period; chance follows from `seed`.
    pub(super) fn new(arrivals: Arrivals, seed: u64) -> Self {
        Schedule { arrivals, rng: Rng::new(seed), at: 0.0, turns: 0 }
    }

    /// The rate now, and when it changes.
    fn phase(&self) -> (f64, f64) {
        let rate = self.arrivals.rate;
        let Some(Burst { factor, length, period }) = self.arrivals.burst else {
            return (rate, f64::INFINITY);
        };
        let begun = (self.turns / 2) as f64 * period.as_secs_f64();
        match self.turns % 2 {
            0 => (rate, begun + (period - length).as_secs_f64()),
            _ => (rate * factor, begun + period.as_secs_f64()),
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    /// When the next one is due, since the start.
    fn next(&mut self) -> Option<Duration> {
        // The process at the rate 1, stretched.
        let mut left = if self.arrivals.is_random { -(1.0 - self.rng.unit()).ln() } else { 1.0 };
        loop {
            let (rate, until) = self.phase();
            let room = rate * (until - self.at).max(0.0);
            if left <= room && rate > 0.0 {
                self.at += left / rate;
                return Duration::try_from_secs_f64(self.at).ok();
            }
            left -= room;
            self.at = until;
            self.turns += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(schedule: Schedule, from: f64, to: f64) -> usize {
        let seconds = schedule.map(|due| due.as_secs_f64());
        seconds.take_while(|due| *due < to).filter(|due| *due >= from).count()
    }

    #[test]
    fn a_rate_is_kept_evenly_or_in_the_mean() {
        let even = Arrivals { rate: 200.0, is_random: false, burst: None };
        let dues: Vec<Duration> = Schedule::new(even, 1).take(3).collect();
        assert_eq!(dues, [5, 10, 15].map(Duration::from_millis));
        let random = Arrivals { is_random: true, ..even };
        // A Poisson count of mean 20,000, and gaps that are exponential: as long as their
        // deviation.
        let count = within(Schedule::new(random, 5), 0.0, 100.0) as f64;
        assert!((count - 20_000.0).abs() < 5.0 * 20_000f64.sqrt(), "seed 5: {count}");
        let dues: Vec<f64> =
            Schedule::new(random, 5).take(20_000).map(|d| d.as_secs_f64()).collect();
        let gaps: Vec<f64> = dues.windows(2).map(|pair| (pair[1] - pair[0]) * 200.0).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let square = gaps.iter().map(|gap| gap * gap).sum::<f64>() / gaps.len() as f64;
        assert!((square / (mean * mean) - 2.0).abs() < 0.1, "seed 5: {mean} {square}");
    }

    #[test]
    fn bursts_raise_the_rate_at_the_end_of_each_period() {
        let burst = Burst::parse("10x/500ms/2s").unwrap();
        assert_eq!(burst.length, Duration::from_millis(500));
        let arrivals = Arrivals { rate: 100.0, is_random: false, burst: Some(burst) };
        let all = || Schedule::new(arrivals, 1);
        for period in 0..5 {
            let begin = f64::from(period) * 2.0 + 1e-6;
            assert!((149..=151).contains(&within(all(), begin, begin + 1.5)), "{period}");
            assert!((499..=501).contains(&within(all(), begin + 1.5, begin + 2.0)), "{period}");
        }
        // A factor of 0 is a pause.
        let pause = Some(Burst { factor: 0.0, ..burst });
        let paused = Schedule::new(Arrivals { burst: pause, ..arrivals }, 1);
        assert_eq!(within(paused.clone(), 1.5 + 1e-6, 2.0 - 1e-6), 0);
        assert!((149..=151).contains(&within(paused, 2.0, 3.5)));
    }

    #[test]
    fn a_malformed_burst_is_named() {
        for (text, why) in [
            ("10x/1s", "it has not three parts"),
            ("10/1s/10s", "the factor is not 0x to 10000x"),
            ("-1x/1s/10s", "the factor is not 0x to 10000x"),
            ("nanx/1s/10s", "the factor is not 0x to 10000x"),
            ("2x/1m/10s", "a time is a number with ms or s"),
            ("2x/-1s/10s", "a time is a number with ms or s"),
            ("2x/0s/10s", "the length is not between 0 and the period"),
            ("2x/10s/10s", "the length is not between 0 and the period"),
            ("2x/10s/9999s", "the period is over 3600 s"),
        ] {
            let reported = Burst::parse(text).unwrap_err();
            assert!(reported.starts_with(&format!("\"{text}\": {why}; a burst is")), "{reported}");
        }
    }
}
