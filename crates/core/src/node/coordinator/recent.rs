//! What the latest round trips took, by replica: for who wants to say what the next ones will take.

use std::collections::BTreeMap;

use crate::message::RecentTrips;
use crate::types::{Micros, NodeId};

/// So many are kept of each kind and replica; a newer one takes the place of the oldest.
const KEPT: usize = 1_024;

/// Round trips as requests met them: one whose answer never came, or came when its request had
/// ended, is not among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent(BTreeMap<NodeId, (Kept, Kept)>);

#[derive(Clone, Debug, Default)]
struct Kept {
    micros: Vec<u32>,
    oldest: usize,
}

impl Kept {
    fn add(&mut self, micros: Micros) {
        let micros = u32::try_from(micros.0).unwrap_or(u32::MAX);
        if self.micros.len() < KEPT {
            self.micros.push(micros);
        } else {
            self.micros[self.oldest] = micros;
            self.oldest = (self.oldest + 1) % KEPT;
        }
    }
}

impl Recent {
    /// A copy came so long after it was asked for.
    pub(super) fn read(&mut self, node: NodeId, took: Micros) {
        self.0.entry(node).or_default().0.add(took);
    }

    /// A write was confirmed, synced, so long after it was sent.
    pub(super) fn wrote(&mut self, node: NodeId, took: Micros) {
        self.0.entry(node).or_default().1.add(took);
    }

    /// All of them.
    pub(super) fn reported(&self) -> Vec<RecentTrips> {
        let one = |(node, (reads, writes)): (&NodeId, &(Kept, Kept))| RecentTrips {
            node: *node,
            reads_us: reads.micros.clone(),
            writes_us: writes.micros.clone(),
        };
        self.0.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_no_more() {
        let (mut recent, node) = (Recent::default(), NodeId(1));
        for took in 0..3 * KEPT as u64 / 2 {
            recent.read(node, Micros(took));
        }
        recent.wrote(node, Micros::MAX);
        let reported = recent.reported();
        assert_eq!((reported.len(), &reported[0].writes_us[..]), (1, &[u32::MAX][..]));
        let mut reads = reported[0].reads_us.clone();
        reads.sort_unstable();
        let last: Vec<u32> = (KEPT as u32 / 2..3 * KEPT as u32 / 2).collect();
        assert_eq!(reads, last);
    }
}
