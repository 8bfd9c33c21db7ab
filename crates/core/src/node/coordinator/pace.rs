//! How long each replica takes to answer, so that the fastest are queried first and each is late by
//! its own measure.

use std::collections::BTreeMap;

use crate::node::interface::LATE_READ;
use crate::types::{Micros, NodeId, Time};

/// When an answer counts as late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Shortest timeout: on a busy machine any answer may take this long.
    least: Micros,
    /// Longest timeout.
    most: Micros,
    /// Timeout of a replica that has never answered.
    first: Micros,
}

/// Bounds for a copy, the answer to a read.
pub(super) const READS: Bounds =
    Bounds { least: LATE_READ.0, most: LATE_READ.1, first: Micros::from_millis(25) };
/// Bounds for an acknowledgement, which waits for a sync of the disk.
pub(super) const WRITES: Bounds = Bounds {
    least: Micros::from_millis(25),
    most: Micros::from_millis(500),
    first: Micros::from_millis(100),
};
/// A replica that did not answer a request is asked again after this time.
const RETRY: Micros = Micros::from_millis(1_000);

/// The measured latency of each replica.
#[derive(Clone, Debug)]
pub(super) struct Paces {
    bounds: Bounds,
    paces: BTreeMap<NodeId, Pace>,
}

#[derive(Clone, Debug, Default)]
struct Pace {
    /// Smoothed latency and its mean deviation, as Jacobson and Karels do it for TCP (1988).
    estimate: Option<(Micros, Micros)>,
    /// When the oldest question after the last answer was sent; `None` if there is none.
    open_since: Option<Time>,
}

impl Paces {
    /// No replica has answered yet.
    pub(super) fn new(bounds: Bounds) -> Self {
        Paces { bounds, paces: BTreeMap::new() }
    }

    /// The smoothed latency of a node; `None` before it ever answered.
    pub(super) fn latency(&self, node: NodeId) -> Option<Micros> {
        self.paces.get(&node)?.estimate.map(|(mean, _)| mean)
    }

    /// True if the node has left a question open for longer than it should.
    pub(super) fn is_silent(&self, now: Time, node: NodeId) -> bool {
        let open_since = self.paces.get(&node).and_then(|pace| pace.open_since);
        open_since.is_some_and(|since| now >= since + self.timeout(node))
    }

    /// Notes that a question leaves for `node` now.
    pub(super) fn queried(&mut self, now: Time, node: NodeId) {
        self.paces.entry(node).or_default().open_since.get_or_insert(now);
    }

    /// Notes that `node` has answered something; `since` is when it was asked, if it was to read.
    pub(super) fn answered(&mut self, now: Time, node: NodeId, since: Option<Time>) {
        let pace = self.paces.entry(node).or_default();
        pace.open_since = None;
        let Some(latency) = since.map(|since| now.saturating_since(since)) else { return };
        pace.estimate = Some(match pace.estimate {
            None => (latency, latency / 2),
            Some((mean, deviation)) => {
                let error = latency.abs_diff(mean);
                ((7 * mean + latency) / 8, (3 * deviation + error) / 4)
            }
        });
    }

    /// How long an answer of `node` may take before it is late.
    pub(super) fn timeout(&self, node: NodeId) -> Micros {
        let estimate = self.paces.get(&node).and_then(|pace| pace.estimate);
        let Bounds { least, most, first } = self.bounds;
        estimate.map_or(first, |(mean, deviation)| (mean + 4 * deviation).clamp(least, most))
    }

    /// Sorts `nodes` by how soon they are expected to answer: silent ones last, and otherwise equal
    /// ones as they are. One that has been silent for long is tried again, once.
    pub(super) fn sort(&mut self, now: Time, nodes: &mut [NodeId]) {
        for node in nodes.iter() {
            if let Some(pace) = self.paces.get_mut(node)
                && pace.open_since.is_some_and(|since| now >= since + RETRY)
            {
                pace.open_since = None;
            }
        }
        nodes.sort_by_key(|node| {
            (self.is_silent(now, *node), self.latency(*node).unwrap_or(Micros::ZERO))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MILLI;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn order(paces: &mut Paces, now: Time) -> [NodeId; 2] {
        let mut nodes = [A, B];
        paces.sort(now, &mut nodes);
        nodes
    }

    #[test]
    fn the_fastest_is_first_and_the_silent_last_until_it_is_tried_again() {
        let mut paces = Paces::new(READS);
        assert_eq!(order(&mut paces, Time::START), [A, B], "equals stay as they are");
        for round in 0..50 {
            let now = Time::START + round * 100 * MILLI;
            paces.queried(now, A);
            paces.queried(now, B);
            paces.answered(now + 8 * MILLI, A, Some(now));
            paces.answered(now + 2 * MILLI, B, Some(now));
        }
        let queried = Time::START + 5_000 * MILLI;
        assert_eq!(order(&mut paces, queried), [B, A]);
        let timeout = paces.timeout(A);
        assert!((8 * MILLI..9 * MILLI).contains(&timeout), "{timeout:?}");
        assert_eq!(paces.timeout(B), READS.least);
        paces.queried(queried, B);
        assert_eq!(
            order(&mut paces, queried + READS.least - Micros(1)),
            [B, A],
            "it may still answer in time"
        );
        assert_eq!(order(&mut paces, queried + READS.least), [A, B]);
        assert_eq!(order(&mut paces, queried + RETRY), [B, A], "a frozen node may be back");
        paces.queried(queried + RETRY, B);
        assert_eq!(order(&mut paces, queried + RETRY + 6 * MILLI), [A, B]);
        paces.answered(queried + RETRY + 7 * MILLI, B, None);
        assert_eq!(
            order(&mut paces, queried + RETRY + 8 * MILLI),
            [B, A],
            "any answer is a sign of life"
        );
    }

    #[test]
    fn timeout_has_bounds() {
        let mut paces = Paces::new(READS);
        assert_eq!(paces.timeout(A), READS.first);
        paces.answered(Time::START + 10_000 * MILLI, A, Some(Time::START));
        assert_eq!(paces.timeout(A), READS.most);
    }
}
