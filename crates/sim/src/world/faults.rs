//! Begin and end of faults.

use pixii_core::merkle::{Binding, KeptTrees};
use pixii_core::node::{Input, Shortage};
use pixii_core::store::{Store, end_incarnation};
use pixii_core::types::{MILLI, Micros, Time};

use super::{Event, World};
use crate::scenario::Fault;

/// A host that is being stopped has this long to finish its work.
pub(super) const FINISH: Micros = Micros::from_millis(2_000);
/// Interval at which it is checked whether it has.
const POLL_INTERVAL: Micros = Micros::from_millis(5);

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.note(|| format!("{fault:?}"));
        self.doubt(fault);
        match fault {
            Fault::Crash { host, down } => {
                if self.hosts[host].node.is_some() {
                    self.count("crashes");
                    self.crash(host, down);
                }
            }
            Fault::PowerCut { down } => {
                self.count("power cuts");
                for host in 0..self.hosts.len() {
                    if self.hosts[host].node.is_some() {
                        self.crash(host, down);
                    }
                }
            }
            Fault::CleanStop { host, down } => {
                let (incarnation, by) = (self.hosts[host].incarnation, self.now() + FINISH);
                self.schedule(self.now(), Event::Stop { at: host, incarnation, down, by });
            }
            Fault::Pause { host, length } => {
                self.count("pauses");
                // A pause does not end a longer one that has begun before it: the node would find
                // what waits for the end of the longer one when it has run again for a while.
                let until = self.now() + length;
                self.hosts[host].paused_until = until.max(self.hosts[host].paused_until);
            }
            Fault::Full { host, length } => {
                self.count("full disks");
                let (free_bytes, reserve_bytes) = (1, 2);
                let shortage = Some(Shortage { free_bytes, reserve_bytes });
                self.input(host, Input::Space(shortage));
                self.schedule(self.now() + length, Event::Room { at: host });
            }
            Fault::Slow { host, length } => {
                self.count("slow disks");
                self.hosts[host].slow_until = self.now() + length;
            }
            Fault::Hang { host, length } => {
                self.count("hung disks");
                self.hang(host, length);
            }
            Fault::Cut { from, to, both, length } => {
                self.count(if both { "cuts both ways" } else { "cuts one way" });
                let back = both.then_some((to, from));
                for (from, to) in [Some((from, to)), back].into_iter().flatten() {
                    self.net.cut(self.hosts[from].id, self.hosts[to].id);
                    self.schedule(self.now() + length, Event::Mend { from, to });
                }
            }
            Fault::Flap { host, other, times, length } => {
                self.count("links flapping");
                for at in 0..times {
                    let when = self.now() + at * length / times;
                    self.schedule(when, Event::Relink { at: host, peer: other });
                    self.schedule(when, Event::Relink { at: other, peer: host });
                }
            }
            Fault::Partition { side, length } => self.part(side, length),
            Fault::StopAll { down } => {
                self.count("clusters stopped");
                for host in 0..self.hosts.len() {
                    self.fault(Fault::CleanStop { host, down });
                }
            }
            Fault::Replace { host, back } => self.begin_replacing(host, back),
            Fault::Plan { cancel, .. } => self.begin_plan(cancel),
            Fault::CopyAll
            | Fault::RestoreAll { .. }
            | Fault::LoseDisk { .. }
            | Fault::LosePages { .. }
            | Fault::BackUp { .. }
            | Fault::RollBack { .. }
            | Fault::CopyDisk { .. }
            | Fault::Damage { .. } => self.disk_fault(fault),
        }
    }

    /// Cuts the network in two: the hosts whose bit in `side` is set, and the others.
    fn part(&mut self, side: u64, length: Micros) {
        self.count("partitions");
        let in_side = |host: usize| side >> host & 1 == 1;
        let hosts = self.hosts.len();
        let pairs = (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to)));
        for (from, to) in pairs.filter(|(from, to)| in_side(*from) != in_side(*to)) {
            self.net.cut(self.hosts[from].id, self.hosts[to].id);
            self.schedule(self.now() + length, Event::Mend { from, to });
        }
    }

    /// Stops a host as an operator would: it accepts no further requests, and ends when its work is
    /// done, at the latest at `by`.
    pub(super) fn stop_cleanly(&mut self, at: usize, incarnation: u64, down: Micros, by: Time) {
        if self.hosts[at].incarnation != incarnation || self.hosts[at].node.is_none() {
            return;
        }
        self.input(at, Input::Drain(true));
        let Some(node) = &self.hosts[at].node else { return };
        if !node.is_idle() && self.now() < by {
            return self
                .schedule(self.now() + POLL_INTERVAL, Event::Stop { at, incarnation, down, by });
        }
        let (meta, trees) = (node.meta().clone(), node.kept_trees());
        for (_, changes) in std::mem::take(&mut self.hosts[at].writes) {
            let _ = self.hosts[at].store.apply(&changes);
        }
        let host = &self.hosts[at];
        let _ = end_incarnation(&host.store, &meta);
        let (store, incarnation) = (meta.store, meta.incarnation);
        let binding = Binding { store, incarnation, ring: host.placement().0.id(), limit: 0 };
        let _ = host.store.save_trees(&KeptTrees { binding, trees }.encode());
        self.count("clean stops");
        // The host may have been paused meanwhile.
        self.doubt(Fault::CleanStop { host: at, down });
        self.stop(at);
        self.schedule(self.now() + down, Event::Start { at });
    }

    pub(super) fn crash(&mut self, at: usize, down: Micros) {
        let lost = self.hosts[at].store.power_cut(&mut self.rng) + self.hosts[at].writes.len();
        *self.counts.entry("unsynced batches lost").or_default() += lost as u64;
        self.stop(at);
        self.schedule(self.now() + down, Event::Start { at });
    }

    pub(super) fn heal(&mut self) {
        self.healing = true;
        self.net.heal();
        for at in 0..self.hosts.len() {
            self.hosts[at].paused_until = Time::START;
            self.hosts[at].slow_until = Time::START;
            self.hosts[at].hung_until = Time::START;
            self.go_on(at);
            self.resume(at);
            if self.hosts[at].node.is_none() && !self.hosts[at].is_removed {
                self.start(at);
            }
        }
    }

    /// Breaks a link at one end; it comes up again soon.
    pub(super) fn relink(&mut self, at: usize, peer: usize) {
        self.input(at, Input::Link { peer: self.hosts[peer].id, up: false });
        self.announce(at, peer, 50 * MILLI);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_pause_does_not_end_a_longer_one() {
        let mut world = World::new(Scenario::draw(1, 10), None);
        let long = Micros::from_millis(10_000);
        world.fault(Fault::Pause { host: 0, length: long });
        world.fault(Fault::Pause { host: 0, length: Micros::from_millis(100) });
        assert_eq!(world.hosts[0].paused_until, world.now() + long);
    }
}
