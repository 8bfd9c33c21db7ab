//! Partitions in which what this node does not find does not count: how that ends, and what an
//! operator has to accept where nobody else has what is lost.

use std::collections::BTreeSet;

use super::Repair;
use crate::message::Counter;
use crate::node::Notice;
use crate::node::effects::Effects;
use crate::node::ids::SyncSeq;
use crate::types::{NodeId, Partition, Time};

/// What became of partitions without authority of which this node is the only owner: nobody has
/// what is lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loss {
    /// True once the operator was told.
    told: bool,
    /// So many were accepted; told when this mark is durable.
    accepted: Option<(SyncSeq, u32)>,
}

impl Repair {
    /// Notices which authority is lacking, and regains it where every other home has nothing that
    /// is missing.
    pub(super) fn look_after_authority(&mut self, now: Time, fx: &mut Effects) {
        let (store, lost) = (fx.local.meta().store, &fx.local.meta().without_authority);
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
        self.tell_loss(fx);
        let ring = &self.ring;
        let full = |(partition, heard): &(&Partition, &BTreeSet<NodeId>)| {
            let homes = ring.homes(**partition);
            // Where there is no other owner, nobody can bring back what is lost.
            homes.len() > 1 && homes.iter().all(|home| *home == self.me || heard.contains(home))
        };
        let regained: BTreeSet<Partition> =
            self.lacking.iter().filter(full).map(|(partition, _)| *partition).collect();
        if regained.is_empty() {
            return;
        }
        self.lacking.retain(|partition, _| !regained.contains(partition));
        fx.out.count_many(Counter::AuthorityRegained, regained.len() as u64);
        fx.change_meta(|meta| meta.without_authority.retain(|lost| !regained.contains(lost)));
        if self.lacking.is_empty() {
            fx.out.notice(Notice::Recovered);
        }
    }

    /// Partitions that may lack acknowledged writes which no other node has.
    pub(in crate::node) fn lost(&self, fx: &Effects) -> Vec<Partition> {
        let lost = fx.local.meta().without_authority.iter().copied();
        lost.filter(|partition| *self.ring.homes(*partition) == [self.me]).collect()
    }

    /// Tells the operator of such partitions, once in a life.
    fn tell_loss(&mut self, fx: &mut Effects) {
        if self.loss.told {
            return;
        }
        let lost = self.lost(fx).len() as u32;
        if lost > 0 {
            self.loss.told = true;
            fx.out.notice(Notice::Lost(lost));
        }
    }

    /// The operator accepts that what they lack is gone: what is not found there counts from now
    /// on.
    pub(in crate::node) fn accept_loss(&mut self, fx: &mut Effects) {
        let lost: BTreeSet<Partition> = self.lost(fx).into_iter().collect();
        if lost.is_empty() {
            return;
        }
        self.lacking.retain(|partition, _| !lost.contains(partition));
        let mark = fx.change_meta(|meta| {
            meta.without_authority.retain(|partition| !lost.contains(partition));
        });
        self.loss = Loss { told: false, accepted: Some((mark, lost.len() as u32)) };
    }

    /// Something is durable: the operator hears that the loss is accepted.
    pub(in crate::node) fn synced(&mut self, fx: &mut Effects) {
        if let Some((mark, partitions)) = self.loss.accepted
            && fx.out.is_durable(mark)
        {
            self.loss.accepted = None;
            fx.out.notice(Notice::LossAccepted(partitions));
        }
    }
}
