//! The disks of the hosts: one batch is written at a time, reads run beside it, and all answers are
//! late.

use pixii_core::causal::{Dot, Object};
use pixii_core::gc_epoch::GcState;
use pixii_core::node::{Done, Input, Node, Stall, SyncSeq, Work};
use pixii_core::store::memory::MemoryStore;
use pixii_core::store::{Change, Found, Process, Store, begin_incarnation, end_incarnation};
use pixii_core::types::{Key, Micros, Partition, Time};
use pixii_core::wire;

use super::super::judge::Broken;
use super::super::looked_up;
use super::super::scenario::{Fault, NOTICED_AFTER};
use super::{Event, World};

/// Bytes by which a record may exceed twice the limit of merges: the dead events of a key are noted
/// without a limit.
const RECORD_SLACK_BYTES: usize = 400;

/// A host that has lost data so lately may have confirmed before that it holds what it has lost.
const LATELY: Micros = Micros::from_millis(20_000);

impl World {
    pub(super) fn submit(&mut self, at: usize, work: Work) {
        let incarnation = self.hosts[at].incarnation;
        match work {
            Work::Write { seq, changes } => {
                self.check_purged(at, &changes);
                self.check_erased(at, &changes);
                for change in &changes {
                    if let Change::Record { key, record, .. }
                    | Change::Hint { key, record: Some(record), .. } = change
                    {
                        let verdict = self.judge.observe(self.time.now(), at, key, &record.object);
                        self.broken = self.broken.take().or(verdict.err());
                    }
                }
                self.hosts[at].writes.push_back((seq, changes));
                self.write(at);
            }
            Work::Read { .. } | Work::List { .. } | Work::Hints { .. } | Work::Scan { .. } => {
                let when = self.now() + self.rng.within(self.slowness(at) * self.plan.mean_disk);
                self.schedule(when, Event::Disk { at, incarnation, work });
            }
        }
    }

    /// Checks that no record that a host writes contains events that its GC epoch purges. (An epoch
    /// that is written and not yet durable has not begun.)
    fn check_purged(&mut self, at: usize, changes: &[Change]) {
        let host = &self.hosts[at];
        let gc_epochs = host.store.gc_epochs().unwrap_or_default();
        for change in changes {
            let Change::Record { partition, key, record } = change else { continue };
            let begun = |own: &GcState| {
                let node = host.node.as_ref();
                node.is_some_and(|node| node.gc_epoch(*partition) == own.number)
            };
            let own = gc_epochs.iter().find(|(of, own)| of == partition && begun(own));
            let purged = own.and_then(|(_, own)| own.purged_of(key));
            if purged.is_some_and(|them| record.object.forget(them) != record.object) {
                let what = format!("n{at} takes back what is purged");
                self.broken = self.broken.take().or(Some(Broken { key: key.clone(), what }));
            }
        }
    }

    /// Checks that a host erases a record of a partition that it does not own only when every owner
    /// holds all of it, synced. An owner that has lost data lately may have held it before; one
    /// that is not read-eligible is not counted on when a host discards what GC has left behind.
    fn check_erased(&mut self, at: usize, changes: &[Change]) {
        let Some(node) = &self.hosts[at].node else { return };
        let (ring, now) = (node.ring().clone(), self.time.now());
        if self.judge.has_lost_since(at, Time::START) {
            // It may discard what is old.
            return;
        }
        for change in changes {
            let Change::Forget { partition, key } = change else { continue };
            if ring.is_owner(*partition, self.hosts[at].id) {
                continue;
            }
            let Found::Record(record) = self.last_record(at, *partition, key) else { continue };
            let owners = ring.all_owners(*partition);
            let owners: Vec<usize> =
                (0..self.hosts.len()).filter(|at| owners.contains(&self.hosts[*at].id)).collect();
            self.judge.pass_on(key, at, &owners);
            for host in owners {
                let is_behind = |node: &Node| node.meta().read_ineligible.contains(partition);
                if self.hosts[host].node.as_ref().is_some_and(is_behind) {
                    continue;
                }
                let held = match self.hosts[host].store.read_durable(*partition, key) {
                    Found::Record(held) => held.object,
                    _ => Object::default(),
                };
                let holds = |dot: &Dot| held.covers(*dot) || self.judge.is_purged(key, *dot);
                let mut dots = record.object.context().dots().to_vec();
                dots.retain(|dot| !holds(dot));
                if !dots.is_empty() && !self.judge.has_lost_since(host, now.saturating_sub(LATELY))
                {
                    let what = format!("n{at} erases {dots:?}, which n{host} does not hold");
                    self.broken = self.broken.take().or(Some(Broken { key: key.clone(), what }));
                }
            }
        }
    }

    /// The record of a key at a host before the batch that is submitted now.
    fn last_record(&self, at: usize, partition: Partition, key: &Key) -> Found {
        let is_of = |change: &&Change| match change {
            Change::Record { key: of, .. } | Change::Forget { key: of, .. } => of == key,
            _ => false,
        };
        let queued = self.hosts[at].writes.iter().flat_map(|(_, changes)| changes);
        match queued.filter(is_of).last() {
            Some(Change::Record { record, .. }) => Found::Record(record.clone()),
            Some(_) => Found::Nothing,
            None => self.hosts[at].store.read(partition, key).unwrap_or(Found::Nothing),
        }
    }

    /// Writes everything that is queued as one batch, one batch at a time: group commit.
    fn write(&mut self, at: usize) {
        let most = 2 * self.plan.object_limits().merged + RECORD_SLACK_BYTES;
        let host = &mut self.hosts[at];
        if host.writing || host.writes.is_empty() {
            return;
        }
        host.writing = true;
        let mut last = SyncSeq::NONE;
        for (seq, changes) in host.writes.drain(..) {
            let _ = host.store.apply(&changes);
            last = seq;
            for change in &changes {
                if let Change::GcState { gc_epoch, .. } = change {
                    self.judge.begin_gc_epoch(gc_epoch);
                }
                if let Change::Record { key, record, .. }
                | Change::Hint { key, record: Some(record), .. } = change
                {
                    let verdict = self.judge.check_object(key, &record.object);
                    self.broken = self.broken.take().or(verdict.err());
                    let (bytes, limit) = (wire::encoded_len(&record.object), most);
                    if bytes > limit {
                        let what = format!(
                            "the store of n{at} fails: a record of {bytes} bytes; the limit is \
                             {limit}"
                        );
                        self.broken =
                            self.broken.take().or(Some(Broken { key: key.clone(), what }));
                    }
                }
            }
        }
        let incarnation = host.incarnation;
        let slow = self.slowness(at) * if self.rng.chance(0.02) { 20 } else { 2 };
        let when = self.now() + Micros(50) + self.rng.within(slow * self.plan.mean_disk);
        self.schedule(when, Event::Synced { at, incarnation, seq: last });
    }

    fn slowness(&self, at: usize) -> u64 {
        if self.hosts[at].slow_until > self.now() { 100 } else { 1 }
    }

    /// The disk of a host hangs. Its node, and any node that starts meanwhile, notices after a
    /// while.
    pub(super) fn hang(&mut self, at: usize, length: Micros) {
        let until = self.now() + length;
        self.hosts[at].hung_until = until.max(self.hosts[at].hung_until);
        self.schedule(until, Event::Resume { at });
        self.expect_stall(at);
    }

    /// Schedules the moment at which the node of a host notices that its disk hangs.
    pub(super) fn expect_stall(&mut self, at: usize) {
        let (incarnation, when) = (self.hosts[at].incarnation, self.now() + NOTICED_AFTER);
        if self.hosts[at].hung_until > when {
            self.schedule(when, Event::Stall { at, incarnation });
        }
    }

    pub(super) fn stall(&mut self, at: usize, incarnation: u64) {
        let now = self.now();
        let host = &mut self.hosts[at];
        if host.incarnation == incarnation && host.hung_until > now && host.stalled.is_none() {
            host.stalled = Some(now);
            self.count("stalls noticed");
            self.input(at, Input::Stalled(Some(Stall::All)));
        }
    }

    /// A disk answers again, unless it has begun to hang anew.
    pub(super) fn resume(&mut self, at: usize) {
        if self.hosts[at].hung_until <= self.now() && self.hosts[at].stalled.take().is_some() {
            self.input(at, Input::Stalled(None));
        }
    }

    /// A host crashes and its disk is set back to the copy that was made of all disks. No node can
    /// notice.
    fn restore(&mut self, at: usize, down: Micros) {
        let Some(copy) = self.hosts[at].copy.as_ref().map(MemoryStore::backup) else { return };
        self.judge.lose(self.now(), at, None);
        if self.hosts[at].node.is_some() {
            self.crash(at, down);
        }
        self.hosts[at].store = copy;
        self.hosts[at].unnoticed = true;
        // Backups of single nodes made since then belong to a history that has ended: the same GC
        // epoch number may mean another epoch in it (docs/internals/decisions.md).
        self.hosts[at].backup = None;
    }

    /// Applies a fault of the disk itself and notifies the judge of the data that it loses.
    pub(super) fn disk_fault(&mut self, fault: Fault) {
        match fault {
            Fault::LoseDisk { host, down } if self.hosts[host].node.is_some() => {
                self.count("lost disks");
                self.judge.lose(self.now(), host, None);
                self.crash(host, down);
                self.hosts[host].store = MemoryStore::default();
            }
            Fault::LosePages { host, down } if self.hosts[host].node.is_some() => {
                self.count("stores made anew");
                self.judge.lose(self.now(), host, None);
                self.crash(host, down);
                self.hosts[host].store.lose_some(&mut self.rng);
            }
            Fault::BackUp { host } => {
                self.hosts[host].backup = Some(self.hosts[host].store.backup());
            }
            Fault::CopyAll => {
                for host in self.hosts.iter_mut() {
                    let copy = host.store.backup();
                    if let Some(node) = &host.node {
                        let _ = end_incarnation(&copy, node.meta());
                    }
                    host.copy = Some(copy);
                }
            }
            Fault::RestoreAll { down } => {
                self.count("clusters restored from copies");
                for at in 0..self.hosts.len() {
                    self.restore(at, down);
                }
            }
            Fault::RollBack { host, down } if self.hosts[host].node.is_some() => {
                let Some(backup) = &self.hosts[host].backup else { return };
                let backup = backup.backup();
                if self.is_last_to_know(host, &backup) {
                    return self.count("disks not put back that alone knew of a ring");
                }
                self.count("rolled-back disks");
                self.judge.lose(self.now(), host, None);
                self.crash(host, down);
                self.hosts[host].store = backup;
                self.hosts[host].unnoticed = true;
            }
            Fault::CopyDisk { host, from, down } if self.hosts[host].node.is_some() => {
                self.crash(host, down);
                let copy = self.hosts[from].store.backup();
                let refused =
                    begin_incarnation(&copy, &self.hosts[host].identity, Process(0)).is_err();
                self.count(if refused { "copied disks refused" } else { "copied disks taken" });
            }
            Fault::Damage { host } => {
                if let Some(key) = self.hosts[host].store.damage(&mut self.rng) {
                    self.count("damaged records");
                    self.judge.lose(self.now(), host, Some(key));
                }
            }
            _ => {}
        }
    }

    /// True if a backup has an earlier ring, and no other host that runs has the newest one: the
    /// members of the earlier one may be gone, and nobody could say so any more.
    fn is_last_to_know(&self, host: usize, backup: &MemoryStore) -> bool {
        let newest = self.ring.id();
        let knows = |store: &MemoryStore| {
            let ring = store.ring().ok().flatten();
            ring.map_or(newest.version == 1, |ring| ring.id() == newest)
        };
        let others = self.hosts.iter().enumerate().filter(|(at, _)| *at != host);
        let mut running = others.map(|(_, other)| other).filter(|other| other.node.is_some());
        !knows(backup) && !running.any(|other| knows(&other.store))
    }

    pub(super) fn synced(&mut self, at: usize, incarnation: u64, seq: SyncSeq) {
        if self.hosts[at].incarnation != incarnation {
            return;
        }
        let hung = self.hosts[at].hung_until;
        if hung > self.now() {
            return self.schedule(hung, Event::Synced { at, incarnation, seq });
        }
        if self.hosts[at].writing {
            let _ = self.hosts[at].store.sync();
            self.hosts[at].writing = false;
        }
        let paused = self.hosts[at].paused_until;
        if paused > self.now() {
            return self.schedule(paused, Event::Synced { at, incarnation, seq });
        }
        self.input(at, Input::Store(Done::Synced { seq }));
        self.write(at);
    }

    pub(super) fn disk(&mut self, at: usize, incarnation: u64, work: Work) {
        let host = &self.hosts[at];
        if host.incarnation != incarnation {
            return;
        }
        let hung = host.hung_until;
        if hung > self.now() {
            return self.schedule(hung, Event::Disk { at, incarnation, work });
        }
        if let Some(done) = looked_up(&host.store, work) {
            if let Done::Read { found, hints, .. } = &done {
                for found in hints.iter().map(|(_, found)| found).chain([found]) {
                    if let Found::Record(record) = found {
                        self.judge.report_object(at, &record.object);
                    }
                }
            }
            self.input(at, Input::Store(done));
        }
    }
}
