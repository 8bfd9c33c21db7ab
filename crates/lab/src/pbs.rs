//! Probabilistically bounded staleness (Bailis et al., VLDB 2012): how probably a read sees a write
//! that was acknowledged t before, for all (R, W), by Monte Carlo over the WARS model; and
//! k-staleness, which has a closed form.

pub(crate) mod live;
mod trial;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use pixii_core::emulation::{Delay, parse_delay};
use pixii_core::rng::Rng;

use live::Links;
use trial::Trial;

/// Microseconds in a millisecond. All times of the model are plain numbers of microseconds, as its
/// histograms have them.
pub(crate) const MILLI: u64 = 1_000;
/// Significant digits of all quantiles.
const DIGITS: u8 = 3;
/// No sum of two delays is longer, in microseconds.
const LONGEST: u64 = 1_200_000 * MILLI;

/// The fits of the paper: a name, the write's way, and the three other ways. Times of Pareto and
/// exponential parts are in microseconds, rounded: the printed rates have three digits.
pub(crate) const FITS: [(&str, &str, &str); 3] = [
    (
        "LNKD-SSD",
        "mix 91.22 pareto 235us 10 + 8.78 exponential 602us",
        "mix 91.22 pareto 235us 10 + 8.78 exponential 602us",
    ),
    (
        "LNKD-DISK",
        "mix 38 pareto 1050us 1.51 + 62 exponential 5464us",
        "mix 91.22 pareto 235us 10 + 8.78 exponential 602us",
    ),
    (
        "YMMR",
        "mix 93.9 pareto 3ms 3.5 + 6.1 exponential 357143us",
        "mix 98.2 pareto 1500us 3.8 + 1.8 exponential 46083us",
    ),
];

/// How long a message takes.
#[derive(Clone, Debug)]
pub(crate) enum Leg {
    /// Drawn from a distribution.
    Drawn(Delay),
    /// Drawn from what was measured, in microseconds.
    Measured(Vec<u64>),
}

impl Leg {
    fn sample(&self, rng: &mut Rng) -> u64 {
        match self {
            Leg::Drawn(delay) => delay.sample(rng).0,
            Leg::Measured(samples) => rng.pick(samples).copied().unwrap_or(0),
        }
    }
}

/// The four ways of a write and a read.
#[derive(Clone, Debug)]
pub(crate) struct Wars {
    /// The write to a replica.
    pub(crate) w: Leg,
    /// Its acknowledgement.
    pub(crate) a: Leg,
    /// The question of a read.
    pub(crate) r: Leg,
    /// Its answer.
    pub(crate) s: Leg,
    /// What every way takes besides, except those to one replica, which is near: the coordinator's
    /// own, or one drawn for the write and one for the read. `None`: all are near.
    pub(crate) wan: Option<Leg>,
}

impl Wars {
    /// The fit with this name.
    pub(crate) fn fit(name: &str) -> Result<Self, String> {
        let found = FITS.iter().find(|(fit, _, _)| fit.eq_ignore_ascii_case(name));
        let Some((_, w, others)) = found else {
            let names = FITS.map(|(name, _, _)| name).join(", ");
            return Err(format!("no fit is called \"{}\"; there are {names}", name.escape_debug()));
        };
        let other = Leg::Drawn(parse_delay(others)?);
        let w = Leg::Drawn(parse_delay(w)?);
        Ok(Wars { w, a: other.clone(), r: other.clone(), s: other, wan: None })
    }
}

/// Who coordinates, and whom a read asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reads {
    /// As many as are needed, the coordinator, which is an owner, first: Pixii
    // The write and the read have coordinators of their own, each drawn, whose own copies cost no
    // way.
    Owner,
    /// The same, and one more for each answer that is late: Pixii, hedges and all
    Hedged,
    /// All owners, and the first R answers count; the write's coordinator is an owner and has it at
    /// once, all other ways are drawn
    Owners,
    /// All, and the first R answers count; the coordinator is no replica: the paper
    All,
}

/// What one (R, W) comes to.
pub(crate) struct Cell {
    /// R.
    pub(crate) r: u8,
    /// W.
    pub(crate) w: u8,
    /// After how long a read shows the write, in microseconds; 0 if it does at once.
    thresholds: Histogram<u64>,
}

impl Cell {
    /// The share of reads that show a write acknowledged `t_us` microseconds before.
    pub(crate) fn fresh_at(&self, t_us: u64) -> f64 {
        let seen = self.thresholds.count_between(0, t_us);
        seen as f64 / self.thresholds.len().max(1) as f64
    }

    /// After how many microseconds this share of reads shows the write.
    pub(crate) fn time_to(&self, share: f64) -> u64 {
        self.thresholds.value_at_quantile(share)
    }
}

/// What the model says for all (R, W).
pub(crate) struct Prediction {
    /// N.
    pub(crate) n: u8,
    /// Every (R, W), R first.
    pub(crate) cells: Vec<Cell>,
    /// Latency of reads in microseconds, for R from 1.
    pub(crate) reads: Vec<Histogram<u64>>,
    /// Latency of writes in microseconds, for W from 1.
    pub(crate) writes: Vec<Histogram<u64>>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST, DIGITS)
        .unwrap_or_else(|_| unreachable!("a constant that is allowed"))
}

/// Runs the model `trials` times over replicas that are all alike; everything random follows from
/// `seed`.
pub(crate) fn predict(wars: &Wars, n: u8, reads: Reads, trials: u64, seed: u64) -> Prediction {
    let timeout = trial::timeout_of(wars, reads);
    run(n, trials, seed, |trial, rng| trial.draw(wars, n.into(), reads, timeout, rng))
}

/// The same over the links of a cluster, each as it was measured.
pub(crate) fn predict_links(links: &Links, reads: Reads, trials: u64, seed: u64) -> Prediction {
    run(links.n() as u8, trials, seed, |trial, rng| links.draw(trial, reads, rng))
}

fn run(n: u8, trials: u64, seed: u64, mut draw: impl FnMut(&mut Trial, &mut Rng)) -> Prediction {
    let all = || (0..n).map(|_| histogram()).collect();
    let pairs = (1..=n).flat_map(|r| (1..=n).map(move |w| (r, w)));
    let cells = pairs.map(|(r, w)| Cell { r, w, thresholds: histogram() }).collect();
    let mut reported = Prediction { n, cells, reads: all(), writes: all() };
    let (mut rng, mut trial) = (Rng::new(seed), Trial::default());
    for _ in 0..trials {
        draw(&mut trial, &mut rng);
        let mut cell = 0;
        for (histogram, r) in reported.reads.iter_mut().zip(1..) {
            let (took, latest) = trial.read(r);
            histogram.saturating_record(took);
            for acknowledged in &trial.acks {
                let threshold = (latest - *acknowledged as i64).max(0) as u64;
                reported.cells[cell].thresholds.saturating_record(threshold);
                cell += 1;
            }
        }
        for (histogram, acknowledged) in reported.writes.iter_mut().zip(&trial.acks) {
            histogram.saturating_record(*acknowledged);
        }
    }
    reported
}

/// The chance that a read of R of N replicas misses the last `k` versions, each written to W of
/// them, all chosen at random: (C(N-W, R) / C(N, R))^k.
pub(crate) fn misses_last(k: u32, n: u8, r: u8, w: u8) -> f64 {
    let choose = |from: u8, count: u8| {
        (0..count).map(|at| (f64::from(from) - f64::from(at)) / f64::from(at + 1)).product::<f64>()
    };
    let one = if r > n - w { 0.0 } else { choose(n - w, r) / choose(n, r) };
    one.powi(k as i32)
}

/// Milliseconds of microseconds.
pub(crate) fn ms(micros: u64) -> f64 {
    micros as f64 / MILLI as f64
}

#[cfg(test)]
#[path = "pbs/tests.rs"]
mod tests;
