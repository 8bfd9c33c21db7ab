//! The network's behaviour as a value: asked for each message, it says when it arrives or that it is
//! lost. The simulator asks it; so may any transport.

use crate::rng::Rng;
use crate::types::{Micros, NodeId};

/// How long a message takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delay {
    /// Always as long.
    Fixed(Micros),
    /// Exponentially distributed with this mean; messages overtake each other.
    Exponential(Micros),
}

impl Delay {
    fn sample(self, rng: &mut Rng) -> Micros {
        match self {
            Delay::Fixed(delay) => delay,
            Delay::Exponential(mean) => (-(1.0 - rng.unit()).ln() * mean as f64) as Micros,
        }
    }
}

/// What becomes of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives after each of these delays: one is a delivery, more are duplicates.
    Deliver(Vec<Micros>),
    /// It is lost by chance.
    Drop,
    /// It is lost because the link is cut.
    Cut,
}

/// The behaviour of all links between nodes.
#[derive(Clone, Debug)]
pub struct Emulation {
    /// Delay of each message.
    pub delay: Delay,
    /// Probability that a message is lost, 0 to 1.
    pub drop: f64,
    /// Probability that a message arrives twice, 0 to 1.
    pub duplicate: f64,
    cuts: Vec<(NodeId, NodeId)>,
    rng: Rng,
}

impl Emulation {
    /// A network that delays, drops and duplicates as told, by the chances of `seed`.
    pub fn new(delay: Delay, drop: f64, duplicate: f64, seed: u64) -> Self {
        Emulation { delay, drop, duplicate, cuts: Vec::new(), rng: Rng::new(seed) }
    }

    /// Cuts the link in one direction: nothing passes until it is mended.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.push((from, to));
    }

    /// Mends the link in one direction, once for every time it was cut.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        if let Some(at) = self.cuts.iter().position(|cut| *cut == (from, to)) {
            self.cuts.swap_remove(at);
        }
    }

    /// Mends every cut and stops all drops and duplicates.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.drop = 0.0;
        self.duplicate = 0.0;
    }

    /// True when nothing passes from `from` to `to`.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// What becomes of a message from `from` to `to` that is sent now.
    pub fn verdict(&mut self, from: NodeId, to: NodeId) -> Verdict {
        if self.is_cut(from, to) {
            return Verdict::Cut;
        }
        if self.rng.chance(self.drop) {
            return Verdict::Drop;
        }
        let mut delays = vec![self.delay.sample(&mut self.rng)];
        if self.rng.chance(self.duplicate) {
            delays.push(self.delay.sample(&mut self.rng));
        }
        Verdict::Deliver(delays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_duplicates_and_delays_come_at_their_rates() {
        let (a, b) = (NodeId(1), NodeId(2));
        let mut net = Emulation::new(Delay::Exponential(1_000), 0.1, 0.2, 3);
        let (mut dropped, mut twice, mut total) = (0, 0, 0);
        for _ in 0..10_000 {
            match net.verdict(a, b) {
                Verdict::Drop | Verdict::Cut => dropped += 1,
                Verdict::Deliver(delays) => {
                    twice += usize::from(delays.len() == 2);
                    total += delays[0];
                }
            }
        }
        assert!((900..1_100).contains(&dropped), "{dropped}");
        assert!((1_650..1_950).contains(&twice), "{twice}");
        assert!((950..1_050).contains(&(total / (10_000 - dropped))), "{total}");
        net.cut(a, b);
        assert_eq!(net.verdict(a, b), Verdict::Cut);
        assert_ne!(net.verdict(b, a), Verdict::Cut);
        net.heal();
        assert!(matches!(net.verdict(a, b), Verdict::Deliver(_)));
    }
}
