//! How long each replica takes to answer a read, so that the fastest are asked first and a late one is noticed
//! by its own measure.

use std::collections::BTreeMap;

use crate::types::{MILLI, Micros, NodeId};

/// An answer is late after this time at least: below it lies what a busy machine does to everyone.
const MIN_PATIENCE: Micros = 5 * MILLI;
/// An answer is late after this time at most.
const MAX_PATIENCE: Micros = 250 * MILLI;
/// What is taken for the patience with a replica that was never asked.
const FIRST_PATIENCE: Micros = 25 * MILLI;
/// A replica that has left a question open is tried again after this time.
const RETRY: Micros = 1_000 * MILLI;

/// What is known of the replicas' speed.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<NodeId, Pace>);

#[derive(Debug, Default)]
struct Pace {
    /// Smoothed latency and its mean deviation, as Jacobson and Karels do it for TCP (1988).
    estimate: Option<(Micros, Micros)>,
    /// Since when the oldest question is open that nothing was heard after.
    open_since: Option<Micros>,
}

impl Paces {
    /// Notes that a question leaves for `node` now.
    pub(super) fn asked(&mut self, now: Micros, node: NodeId) {
        self.0.entry(node).or_default().open_since.get_or_insert(now);
    }

    /// Notes that `node` has answered something; `since` is when it was asked, if it was to read.
    pub(super) fn answered(&mut self, now: Micros, node: NodeId, since: Option<Micros>) {
        let pace = self.0.entry(node).or_default();
        pace.open_since = None;
        let Some(latency) = since.map(|since| now.saturating_sub(since)) else { return };
        pace.estimate = Some(match pace.estimate {
            None => (latency, latency / 2),
            Some((mean, deviation)) => {
                let error = latency.abs_diff(mean);
                ((7 * mean + latency) / 8, (3 * deviation + error) / 4)
            }
        });
    }

    /// How long an answer of `node` may take before it is late.
    pub(super) fn patience(&self, node: NodeId) -> Micros {
        let estimate = self.0.get(&node).and_then(|pace| pace.estimate);
        estimate.map_or(FIRST_PATIENCE, |(mean, deviation)| {
            (mean + 4 * deviation).clamp(MIN_PATIENCE, MAX_PATIENCE)
        })
    }

    /// Sorts `nodes` by how soon they are expected to answer: silent ones last, and otherwise equal ones as
    /// they are. One that has been silent for long is tried again, once.
    pub(super) fn sort(&mut self, now: Micros, nodes: &mut [NodeId]) {
        for node in nodes.iter() {
            if let Some(pace) = self.0.get_mut(node)
                && pace.open_since.is_some_and(|since| now >= since + RETRY)
            {
                pace.open_since = None;
            }
        }
        nodes.sort_by_key(|node| {
            let pace = self.0.get(node);
            let silent = pace
                .and_then(|pace| pace.open_since)
                .is_some_and(|since| now >= since + self.patience(*node));
            (silent, pace.and_then(|pace| pace.estimate).map_or(0, |(mean, _)| mean))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn order(paces: &mut Paces, now: Micros) -> [NodeId; 2] {
        let mut nodes = [A, B];
        paces.sort(now, &mut nodes);
        nodes
    }

    #[test]
    fn the_fastest_is_first_and_the_silent_last_until_it_is_tried_again() {
        let mut paces = Paces::default();
        assert_eq!(order(&mut paces, 0), [A, B], "equals stay as they are");
        for round in 0..50 {
            let now = round * 100 * MILLI;
            paces.asked(now, A);
            paces.asked(now, B);
            paces.answered(now + 8 * MILLI, A, Some(now));
            paces.answered(now + 2 * MILLI, B, Some(now));
        }
        assert_eq!(order(&mut paces, 5_000 * MILLI), [B, A]);
        assert!((8 * MILLI..9 * MILLI).contains(&paces.patience(A)), "{}", paces.patience(A));
        assert_eq!(paces.patience(B), MIN_PATIENCE);
        let asked = 5_000 * MILLI;
        paces.asked(asked, B);
        assert_eq!(
            order(&mut paces, asked + MIN_PATIENCE - 1),
            [B, A],
            "it may still answer in time"
        );
        assert_eq!(order(&mut paces, asked + MIN_PATIENCE), [A, B]);
        assert_eq!(order(&mut paces, asked + RETRY), [B, A], "a frozen node may be back");
        paces.asked(asked + RETRY, B);
        assert_eq!(order(&mut paces, asked + RETRY + 6 * MILLI), [A, B]);
        paces.answered(asked + RETRY + 7 * MILLI, B, None);
        assert_eq!(
            order(&mut paces, asked + RETRY + 8 * MILLI),
            [B, A],
            "any answer is a sign of life"
        );
    }

    #[test]
    fn patience_has_bounds() {
        let mut paces = Paces::default();
        assert_eq!(paces.patience(A), FIRST_PATIENCE);
        paces.answered(10_000 * MILLI, A, Some(0));
        assert_eq!(paces.patience(A), MAX_PATIENCE);
    }
}
