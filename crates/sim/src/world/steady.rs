//! Which hosts can certainly reach each other, and what a node must not refuse then: always
//! writable.

use std::collections::BTreeMap;

use pixii_core::message::{Rejection, Request, Response, WriteRule};
use pixii_core::types::{Micros, Time};

use super::faults::FINISH;
use super::{Host, World};
use crate::judge::Broken;
use crate::scenario::Fault;

/// A host is fully back this long after a short absence: for a second by its own clock it refuses
/// requests that may have come before.
const AFTER_SHORT: Micros = Micros::from_millis(1_600);
/// The same after a long absence, in which the host may have been marked down.
const AFTER_LONG: Micros = Micros::from_millis(10_000);
/// Absences from this length on are long: half of the silence after which a member is marked down,
/// for a fast clock.
const LONG_ABSENCE: Micros = Micros::from_millis(1_500);

/// A restarted node may refuse writes for this long after it has settled: until then it may not
/// know which events are purged.
const UNCERTAIN: Micros = Micros::from_millis(4_500);

/// The longest sync of a slow disk, in multiples of the mean disk time (`disks.rs`). The queue of a
/// key is full before it is over.
const SLOWEST_SYNC: u64 = 2_000;

/// Until when hosts, and ways between two hosts, are in doubt. A fault is noted when it begins.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    hosts: BTreeMap<usize, Time>,
    ways: BTreeMap<(usize, usize), Time>,
}

impl Doubts {
    fn host(&mut self, host: usize, until: Time) {
        let known = self.hosts.entry(host).or_default();
        *known = until.max(*known);
    }

    fn way(&mut self, one: usize, other: usize, until: Time) {
        let known = self.ways.entry((one.min(other), one.max(other))).or_default();
        *known = until.max(*known);
    }

    fn is_steady(&self, host: usize, now: Time) -> bool {
        self.hosts.get(&host).is_none_or(|until| *until < now)
    }

    fn is_open(&self, one: usize, other: usize, now: Time) -> bool {
        let way = (one.min(other), one.max(other));
        self.ways.get(&way).is_none_or(|until| *until < now)
    }
}

/// The time at which a fault of this length that begins now has certainly passed.
fn over(now: Time, length: Micros) -> Time {
    now + length + if length < LONG_ABSENCE { AFTER_SHORT } else { AFTER_LONG }
}

impl World {
    /// Notes the hosts and ways that a fault, which begins now, puts in doubt.
    pub(super) fn doubt(&mut self, fault: Fault) {
        let (now, hosts) = (self.now(), self.hosts.len());
        let doubts = &mut self.doubts;
        match fault {
            Fault::Crash { host, down: length }
            | Fault::LoseDisk { host, down: length }
            | Fault::LosePages { host, down: length }
            | Fault::RollBack { host, down: length }
            | Fault::CopyDisk { host, down: length, .. }
            | Fault::Pause { host, length }
            | Fault::Full { host, length } => doubts.host(host, over(now, length)),
            // A sync that begins at the last moment needs its time, too.
            Fault::Slow { host, length } | Fault::Hang { host, length } => {
                doubts.host(host, over(now, length + SLOWEST_SYNC * self.plan.mean_disk));
            }
            Fault::CleanStop { host, down } => doubts.host(host, over(now, down + FINISH)),
            // Its own copy of some key is refused until it is repaired.
            Fault::Damage { host } => doubts.host(host, Time::MAX),
            // The stops that belong to it are faults of their own.
            Fault::BackUp { .. } | Fault::CopyAll | Fault::StopAll { .. } => {}
            Fault::PowerCut { down } | Fault::RestoreAll { down } => {
                (0..hosts).for_each(|host| doubts.host(host, over(now, down)));
            }
            Fault::Cut { from, to, length, .. } => doubts.way(from, to, over(now, length)),
            Fault::Flap { host, other, length, .. } => {
                doubts.way(host, other, over(now, length));
            }
            Fault::Partition { side, length } => {
                let in_side = |host: usize| side >> host & 1 == 1;
                for (one, other) in (0..hosts).flat_map(|one| (0..one).map(move |two| (one, two))) {
                    if in_side(one) != in_side(other) {
                        doubts.way(one, other, over(now, length));
                    }
                }
            }
            // From then on, members and rings differ between hosts for a while.
            Fault::Replace { .. } | Fault::Plan { .. } => {
                (0..hosts).for_each(|host| doubts.host(host, Time::MAX));
            }
        }
    }

    /// True if the node of a host has certainly finished its start.
    fn may_issue(&self, at: usize) -> bool {
        let Host { incarnation, settled, .. } = &self.hosts[at];
        let uncertain = if *incarnation == 1 { Micros::ZERO } else { UNCERTAIN };
        settled.is_some_and(|since| since + uncertain < self.now())
    }

    /// Checks a promise of an owner that knows that its disk hangs: no client waits for it. It
    /// refuses a write at once, so the outcome is never unknown.
    pub(super) fn judge_unknown(&mut self, client: usize, response: &Response) {
        let Response::Unknown { .. } = response else { return };
        let Some(current) = &self.clients[client].current else { return };
        let host = &self.hosts[current.host];
        let owners = self.ring.owners(self.ring.partition(&current.key));
        // What is decided is decided at the first owner, whatever the state of the others is.
        let owner = match current.is_decided() {
            true => owners.first() == Some(&host.id),
            false => owners.contains(&host.id),
        };
        // While the ring changes, the owner may have been asked under another one.
        let moves = self.plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::Plan { .. }));
        if owner && !moves && host.stalled.is_some_and(|since| since < current.since) {
            let (key, since) = (current.key.clone(), current.since);
            let what = format!(
                "n{} takes a write, asked at {} us, that its disk, which hangs, cannot do",
                current.host, since.0
            );
            self.broken = self.broken.take().or(Some(Broken { key, what }));
        }
    }

    /// Checks a promise about sloppy writes: while W hosts are in reach of the coordinator, itself
    /// included, it does not refuse a write because one host is missing.
    pub(super) fn judge_rejection(&mut self, client: usize, response: &Response) {
        let Response::Refused(rejection) = response else { return };
        let Some(current) = &self.clients[client].current else { return };
        // The limit of hints, which an operator sets, may be reached.
        let lacks = match rejection {
            Rejection::Hints(_) => false,
            _ => rejection.is_no_quorum() || rejection.is_about_node(),
        };
        let (at, now) = (current.host, self.now());
        // A condition needs the answers of R owners, whatever the quorum of the write is. So does
        // the report that there is nothing to delete.
        let has_condition = matches!(
            &current.request,
            Request::Decide { rule: WriteRule::IfAbsent | WriteRule::IfContext(_), .. }
                | Request::Decide { value: None, .. }
        );
        if current.write.is_none()
            || current.strict
            || has_condition
            || !lacks
            || !self.may_issue(at)
        {
            return;
        }
        let here = |host: usize| {
            self.doubts.is_steady(host, now)
                && self.hosts[host].node.is_some()
                && self.doubts.is_open(at, host, now)
        };
        // A write that its issuer did not decide by its deadline is refused, where another one were
        // unknown: an owner that is slow or away may be the issuer, and the messages that it needs
        // may be lost.
        let undecided = current.is_decided()
            && matches!(rejection, Rejection::NoQuorum { .. } | Rejection::GivenUp);
        let owners = self.ring.owners(self.ring.partition(&current.key));
        let is_owner = |host: &usize| owners.contains(&self.hosts[*host].id);
        let loses = self.plan.drop > 0.0 || self.plan.stalls;
        if undecided && (loses || !(0..self.hosts.len()).filter(is_owner).all(here)) {
            return;
        }
        let (reach, w) = ((0..self.hosts.len()).filter(|host| here(*host)).count(), current.quorum);
        if here(at) && reach >= usize::from(w) {
            let (key, since) = (current.key.clone(), current.since);
            let what = format!(
                "n{at} refuses a write with W={w}, asked at {} us, and {reach} nodes are in its \
                 reach: {rejection}",
                since.0
            );
            self.broken = self.broken.take().or(Some(Broken { key, what }));
        }
    }
}
