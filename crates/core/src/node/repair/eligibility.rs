//! Partitions in which this node is read-ineligible: how that ends, and the loss that an operator
//! has to accept where no other node has the data.

use std::collections::BTreeSet;

use super::Repair;
use crate::message::Counter;
use crate::node::Notice;
use crate::node::ids::SyncSeq;
use crate::node::io::Io;
use crate::types::{NodeId, Partition, Time};

/// The state of read-ineligible partitions that this node owns alone: no other node has the lost
/// data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loss {
    /// True once the operator was notified of the loss.
    reported: bool,
    /// The number of partitions whose loss was accepted; reported when this mark is durable.
    accepted: Option<(SyncSeq, u32)>,
}

impl Repair {
    /// Notices which read eligibility is lacking, and regains it where every other owner has
    /// nothing that is missing.
    pub(super) fn check_read_eligibility(&mut self, now: Time, io: &mut Io) {
        let lost = io.local.meta().read_ineligible.iter().copied();
        let kept: Vec<Partition> = lost.filter(|lost| io.local.may_own(*lost)).collect();
        if kept.len() < io.local.meta().read_ineligible.len() {
            // What a store was made anew without may be a partition of others by now.
            io.change_meta(|meta| meta.read_ineligible.retain(|lost| kept.contains(lost)));
        }
        let (store, lost) = (io.local.meta().store, &io.local.meta().read_ineligible);
        if self.store != store || !self.lacking.keys().eq(lost) {
            // What was taken over before counts no more.
            self.store = store;
            self.lacking = lost.iter().map(|partition| (*partition, BTreeSet::new())).collect();
            for ((partition, _), pair) in &mut self.pairs {
                if self.lacking.contains_key(partition) {
                    pair.due = Some(now);
                }
            }
        }
        self.report_loss(io);
        let full = |(partition, heard): &(&Partition, &BTreeSet<NodeId>)| {
            let owners = io.local.ring().all_owners(**partition);
            // Where there is no other owner that has all, nobody can bring back what is lost.
            !is_alone(io, **partition)
                && owners.iter().all(|owner| *owner == self.me || heard.contains(owner))
        };
        let regained: BTreeSet<Partition> =
            self.lacking.iter().filter(full).map(|(partition, _)| *partition).collect();
        if regained.is_empty() {
            return;
        }
        self.lacking.retain(|partition, _| !regained.contains(partition));
        io.out.count_many(Counter::ReadEligibilityRegained, regained.len() as u64);
        io.change_meta(|meta| meta.read_ineligible.retain(|lost| !regained.contains(lost)));
        if self.lacking.is_empty() {
            io.out.notice(Notice::Recovered);
        }
    }

    /// Partitions that may lack acknowledged writes which no other node has.
    pub(in crate::node) fn lost(&self, io: &Io) -> Vec<Partition> {
        let lost = io.local.meta().read_ineligible.iter().copied();
        lost.filter(|partition| is_alone(io, *partition)).collect()
    }

    /// Notifies the operator of such partitions, once in an incarnation.
    fn report_loss(&mut self, io: &mut Io) {
        if self.loss.reported {
            return;
        }
        let lost = self.lost(io).len() as u32;
        if lost > 0 {
            self.loss.reported = true;
            io.out.notice(Notice::Lost(lost));
        }
    }

    /// The operator accepts the loss: absent keys of these partitions count from now on.
    pub(in crate::node) fn accept_loss(&mut self, io: &mut Io) {
        let lost: BTreeSet<Partition> = self.lost(io).into_iter().collect();
        if lost.is_empty() {
            return;
        }
        self.lacking.retain(|partition, _| !lost.contains(partition));
        let seq = io.change_meta(|meta| {
            meta.read_ineligible.retain(|partition| !lost.contains(partition));
        });
        self.loss = Loss { reported: false, accepted: Some((seq, lost.len() as u32)) };
    }

    /// Something is durable: the operator hears that the loss is accepted.
    pub(in crate::node) fn synced(&mut self, io: &mut Io) {
        if let Some((seq, partitions)) = self.loss.accepted
            && io.out.is_durable(seq)
        {
            self.loss.accepted = None;
            io.out.notice(Notice::LossAccepted(partitions));
        }
    }
}

/// True if no other node has all of the partition: in the fill of a change, new owners do not yet.
fn is_alone(io: &Io, partition: Partition) -> bool {
    let ring = io.local.ring();
    let has_all = match ring.step() {
        Some(step) if step.reads_new() => ring.all_owners(partition),
        _ => ring.owners(partition).to_vec(),
    };
    has_all == [io.local.me()]
}
