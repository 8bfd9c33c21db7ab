//! Counts of the hints for other members: replicas keep hints, handoff delivers them, and a GC
//! epoch ends only when no older hint is left.

use std::collections::BTreeMap;

use super::gc_epochs::GcEpochs;
use crate::gc_epoch::GcEpoch;
use crate::store::{HintTotal, Kept, Record, hint_bytes};
use crate::types::{Key, NodeId, Partition, Time};

/// Where a hint belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct HintPlace {
    pub(super) partition: Partition,
    /// True if this node is no owner of the key: the hint may have filled its target's slot.
    pub(super) pending: bool,
}

/// The size and the epoch stamp of a hint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HintSize {
    pub(super) bytes: u64,
    pub(super) gc_epoch: GcEpoch,
}

impl HintSize {
    /// Of a hint of a key. A damaged hint (`None`) counts 0 bytes and may be of the first GC epoch.
    pub(super) fn of(key: &Key, record: Option<&Record>) -> Self {
        record.map_or(HintSize::default(), |record| HintSize {
            bytes: hint_bytes(key, record),
            gc_epoch: record.gc_epoch,
        })
    }
}

/// The totals of hints for each other member, derived from the store's hints and updated with every
/// change.
#[derive(Clone, Debug)]
pub(super) struct HintLedger {
    totals: BTreeMap<NodeId, (HintTotal, Time)>,
    /// How many hints there are for a member of keys of a partition.
    counts: BTreeMap<(NodeId, Partition), u64>,
    /// How many hints there are of each GC epoch of a partition.
    stamps: BTreeMap<(Partition, GcEpoch), u64>,
    /// Members whose last pending hint has gone, until [`HintLedger::take_drained`].
    drained: Vec<NodeId>,
    bytes: u64,
    limit_bytes: u64,
}

impl HintLedger {
    /// As the store has them; `is_own` is true for the partitions that this node owns.
    pub(super) fn new(kept: &Kept, limit_bytes: u64, is_own: impl Fn(Partition) -> bool) -> Self {
        let bytes = kept.totals.values().map(|total| total.bytes).sum();
        let totals = kept.totals.iter().filter(|(_, total)| total.count > 0);
        let totals = totals.map(|(id, total)| (*id, (*total, Time::START))).collect();
        let (counts, stamps) = (kept.counts.clone(), kept.stamps.clone());
        let mut ledger =
            HintLedger { totals, counts, stamps, drained: Vec::new(), bytes, limit_bytes };
        ledger.judge_pending(is_own);
        ledger
    }

    /// The ring has changed: which hints may have filled the slot of their target follows from who
    /// owns what.
    pub(super) fn judge_pending(&mut self, is_own: impl Fn(Partition) -> bool) {
        let mut pending: BTreeMap<NodeId, u64> = BTreeMap::new();
        for ((target, partition), count) in &self.counts {
            if !is_own(*partition) {
                *pending.entry(*target).or_default() += count;
            }
        }
        for (target, (total, _)) in &mut self.totals {
            let now = pending.get(target).copied().unwrap_or_default();
            if now == 0 && total.pending > 0 {
                self.drained.push(*target);
            }
            total.pending = now;
        }
    }

    /// Replaces the size `before` of a hint by `after`; `None` is no hint.
    pub(super) fn change(
        &mut self,
        now: Time,
        target: NodeId,
        HintPlace { partition, pending }: HintPlace,
        before: Option<HintSize>,
        after: Option<HintSize>,
    ) {
        let (total, _) = self.totals.entry(target).or_insert((HintTotal::default(), now));
        total.count = total.count + u64::from(after.is_some()) - u64::from(before.is_some());
        let bytes = |size: Option<HintSize>| size.map_or(0, |size| size.bytes);
        // What a damaged hint takes is not known, so no sum may go below zero.
        total.bytes = (total.bytes + bytes(after)).saturating_sub(bytes(before));
        self.bytes = (self.bytes + bytes(after)).saturating_sub(bytes(before));
        if pending {
            total.pending =
                total.pending + u64::from(after.is_some()) - u64::from(before.is_some());
            if total.pending == 0 {
                self.drained.push(target);
            }
        }
        if total.count == 0 {
            self.totals.remove(&target);
        }
        let place = (target, partition);
        let count = self.counts.get(&place).copied().unwrap_or_default();
        match count + u64::from(after.is_some()) - u64::from(before.is_some()) {
            0 => drop(self.counts.remove(&place)),
            count => drop(self.counts.insert(place, count)),
        }
        if let Some(after) = after {
            *self.stamps.entry((partition, after.gc_epoch)).or_default() += 1;
        }
        if let Some(before) = before {
            let place = (partition, before.gc_epoch);
            let left = self.stamps.get(&place).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                self.stamps.remove(&place);
            } else {
                self.stamps.insert(place, left);
            }
        }
    }

    /// True if some hint is older than the GC epoch before the present one of its partition: it
    /// can only be of an old disk.
    pub(super) fn has_outlived(&self, gc_epochs: &GcEpochs) -> bool {
        let mut stamps = self.stamps.keys();
        stamps.any(|(partition, stamp)| stamp.next() < gc_epochs.number(*partition))
    }

    /// How many hints of a partition are of an older GC epoch than this one.
    pub(super) fn older(&self, partition: Partition, gc_epoch: GcEpoch) -> u64 {
        self.stamps
            .range((partition, GcEpoch::FIRST)..(partition, gc_epoch))
            .map(|(_, count)| count)
            .sum()
    }

    /// The totals of hints for a member, and since when there are any in this incarnation.
    pub(super) fn of(&self, target: NodeId) -> Option<(HintTotal, Time)> {
        self.totals.get(&target).copied()
    }

    /// How many hints for a member may have filled its slot.
    pub(super) fn pending(&self, target: NodeId) -> u64 {
        self.totals.get(&target).map_or(0, |(total, _)| total.pending)
    }

    /// True if there are hints for a member of keys of this partition.
    pub(super) fn has(&self, target: NodeId, partition: Partition) -> bool {
        self.counts.contains_key(&(target, partition))
    }

    /// How many hints there are in all.
    pub(super) fn count(&self) -> u64 {
        self.totals.values().map(|(total, _)| total.count).sum()
    }

    /// All members that there are hints for.
    pub(super) fn targets(&self) -> impl Iterator<Item = NodeId> {
        self.totals.keys().copied()
    }

    /// The limit, if `more_bytes` more would exceed it.
    pub(super) fn refuses(&self, more_bytes: u64) -> Option<u64> {
        (self.bytes + more_bytes > self.limit_bytes).then_some(self.limit_bytes)
    }

    /// Sets the limit of bytes of hints; hints that exceed it stay.
    pub(super) fn set_limit(&mut self, limit_bytes: u64) {
        self.limit_bytes = limit_bytes;
    }

    /// Members whose last pending hint has gone since the last call.
    pub(super) fn take_drained(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.drained)
    }
}
