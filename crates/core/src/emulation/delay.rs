//! How long a message takes: distributions, sampled from seeded randomness.

use crate::rng::Rng;
use crate::types::Micros;

/// No message takes longer than this; what is drawn beyond it is cut down to it.
pub(super) const MAX_DELAY: Micros = Micros::from_millis(600_000);

/// A distribution of delays. None is ever over 600 s.
#[derive(Clone, Debug, PartialEq)]
pub enum Delay {
    /// Always as long.
    Fixed(Micros),
    /// Exponentially distributed with this mean.
    Exponential(Micros),
    /// Pareto distributed: rarely, very long.
    Pareto {
        /// The least.
        scale: Micros,
        /// The exponent: the smaller, the longer the tail; a mean exists above 1.
        shape: f64,
    },
    /// One of these, each with a chance in proportion to its weight.
    Mixture(Vec<(f64, Delay)>),
}

impl Delay {
    /// Draws one.
    pub fn sample(&self, rng: &mut Rng) -> Micros {
        match self {
            Delay::Fixed(delay) => *delay,
            Delay::Exponential(mean) => Micros::from_f64(-(1.0 - rng.unit()).ln() * mean.as_f64()),
            Delay::Pareto { scale, shape } => {
                Micros::from_f64(scale.as_f64() * (1.0 - rng.unit()).powf(-1.0 / shape))
            }
            Delay::Mixture(parts) => {
                let total: f64 = parts.iter().map(|(weight, _)| weight).sum();
                let mut left = rng.unit() * total;
                let drawn = parts.iter().find(|(weight, _)| {
                    left -= weight;
                    left < 0.0
                });
                // Rounding may leave nothing drawn: then it is the last.
                drawn.or(parts.last()).map_or(Micros::ZERO, |(_, delay)| delay.sample(rng))
            }
        }
    }
}

/// The delays of a link.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Latency {
    /// What is drawn for each message.
    pub(super) delay: Delay,
    /// What each one takes on top.
    pub(super) offset: Micros,
    /// True: no message arrives before an earlier one of its link. False: they overtake each other.
    pub(super) fifo: bool,
}

impl Latency {
    /// Draws one.
    pub(super) fn sample(&self, rng: &mut Rng) -> Micros {
        self.delay.sample(rng).saturating_add(self.offset).min(MAX_DELAY)
    }
}
