//! The steps from one GC epoch to the next: what has to be done to the own records first, and
//! when the GC epoch begins.

use std::collections::BTreeSet;

use super::tasks::{Ended, Purpose};
use super::{Beginning, TombstoneGc};
use crate::gc_epoch::GcState;
use crate::message::{Body, Counter};
use crate::node::ids::RequestId;
use crate::node::io::Io;
use crate::store::Change;
use crate::types::{NodeId, Partition};

impl TombstoneGc {
    /// A member knows the same GC epochs. If it is certain of its own, or if all others do, then
    /// nothing here is old.
    pub(super) fn agree_on_all(&mut self, from: NodeId, certain: bool, io: &mut Io) {
        // It is certain already, as nearly always: with many members, counting them at each word is
        // dear.
        if io.local.meta().fresh.is_empty() {
            return;
        }
        if self.agreeing.0 != io.local.gc_epochs.digest() {
            self.agreeing = (io.local.gc_epochs.digest(), BTreeSet::new());
        }
        self.agreeing.1.insert(from);
        let all = io.local.counted_others().iter().all(|member| self.agreeing.1.contains(member));
        let outlived = io.local.hints.has_outlived(&io.local.gc_epochs);
        if (certain || all) && io.local.is_settled() && !outlived {
            io.change_meta(|meta| meta.fresh.clear());
        }
    }

    /// Adopts a later GC epoch of another member, once its purgeable events are dead here. If it is
    /// more than one ahead, this disk is an old one: events of others that it still has may be
    /// purged, and are discarded.
    pub(super) fn adopt(&mut self, partition: Partition, gc_epoch: GcState, io: &mut Io) {
        let own = io.local.gc_epochs.number(partition);
        if partition.0 >= io.local.ring().partitions()
            || gc_epoch.number <= own
            || self.is_adopting(partition)
        {
            return;
        }
        if !gc_epoch.is_sound(own) {
            return io.out.count(Counter::ForgedGcEpochsRefused);
        }
        let has_records = io.local.holds(partition);
        let is_outdated = gc_epoch.number > own.next();
        if io.local.owns(partition)
            && is_outdated
            && io.local.meta().read_ineligible.binary_search(&partition).is_err()
        {
            io.out.count(Counter::OldDisksDiscarded);
            io.change_meta(|meta| {
                meta.read_ineligible.push(partition);
                meta.read_ineligible.sort_unstable();
            });
        }
        let purgeable = gc_epoch.purgeable.clone();
        let discard = has_records && is_outdated;
        if discard {
            io.local.gc_epochs.begin_adopting(partition, gc_epoch.number);
        }
        let purpose = Purpose::Adopt { gc_epoch, discard, report: false };
        self.tasks.begin(partition, purpose, purgeable, io.out.last_mark());
        self.work(partition, io);
    }

    /// Removes purged events from this node's records.
    pub(super) fn clear(&mut self, partition: Partition, io: &mut Io) {
        let purged = io.local.gc_epochs.of(partition).purged.clone();
        if !purged.is_empty() && io.local.holds(partition) {
            self.tasks.begin(partition, Purpose::Clear, purged, io.out.last_mark());
            self.work(partition, io);
        }
    }

    /// The own replica has done a part of a task, or could not.
    pub(in crate::node) fn done(&mut self, request_id: RequestId, body: &Body, io: &mut Io) {
        if let Some(partition) = self.tasks.done(io.local.now(), request_id, body) {
            self.work(partition, io);
        }
    }

    /// Continues a partition's task, and acts on its outcome when it is over.
    pub(super) fn work(&mut self, partition: Partition, io: &mut Io) {
        let has_records = io.local.holds(partition);
        let Some(ended) = self.tasks.go_on(partition, has_records, &mut self.ids, io) else {
            return;
        };
        match ended {
            Ended::Agreed { to, request_id } => {
                io.local.gc_epochs.agree(partition);
                // All that it rests on is written by now; it is reported when that is synced.
                let seq = io.out.last_mark();
                io.out.send_synced(Some(seq), to, request_id, Body::Agreed);
            }
            Ended::Refused { to, request_id, why } => {
                io.out.send(vec![to], request_id, Body::NotYet(why));
            }
            Ended::Adopted { gc_epoch, report } => {
                let written = Change::GcState { partition, gc_epoch: gc_epoch.clone() };
                let seq = io.out.write(vec![written]);
                self.rounds.remove(&partition);
                self.beginning.insert(partition, Beginning { seq, gc_epoch, report });
            }
            Ended::Nothing => {}
        }
    }

    /// Begins the GC epochs that are durable by now. Nobody must hear of one before, and no
    /// object be stamped with it: a crash could undo it, and another one of the same number follow.
    pub(super) fn begin_durable(&mut self, io: &mut Io) {
        let durable = |(_, beginning): &(&Partition, &Beginning)| io.out.is_durable(beginning.seq);
        let durable: Vec<Partition> =
            self.beginning.iter().filter(durable).map(|(partition, _)| *partition).collect();
        for partition in durable {
            let Some(Beginning { gc_epoch, report, .. }) = self.beginning.remove(&partition) else {
                debug_assert!(false, "what begins by now was listed, and nothing else ends it");
                continue;
            };
            io.out.count(Counter::GcEpochsAdopted);
            io.local.gc_epochs.set(partition, gc_epoch.clone());
            let request_id = self.ids.next();
            for member in io.local.counted_others().into_iter().filter(|_| report) {
                let gc_epoch = gc_epoch.clone();
                io.out.send(vec![member], request_id, Body::GcState { partition, gc_epoch });
            }
            self.clear(partition, io);
        }
    }

    /// True if something is being done to the records of a partition, or its next GC epoch is
    /// about to begin.
    pub(super) fn is_at_work(&self, partition: Partition) -> bool {
        self.tasks.has(partition) || self.beginning.contains_key(&partition)
    }

    pub(super) fn is_adopting(&self, partition: Partition) -> bool {
        self.tasks.is_adopting(partition) || self.beginning.contains_key(&partition)
    }
}
