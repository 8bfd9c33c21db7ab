//! Who is in reach of whom beyond doubt, and what a node must not refuse then: always writable.

use std::collections::BTreeMap;

use pixii_core::message::{Rejection, Response};
use pixii_core::types::{Micros, Time};

use super::faults::FINISH;
use super::{Host, World};
use crate::judge::Broken;
use crate::scenario::Fault;

/// A host that was away for a short time is all there again so long after it: for a second by its
/// own clock it refuses what may have come before.
const AFTER_SHORT: Micros = Micros::from_millis(1_600);
/// The same after a long time, in which it may have been given up.
const AFTER_LONG: Micros = Micros::from_millis(10_000);
/// What is longer is a long time: half of the silence after which a member is marked down, for a
/// fast clock.
const LONG_ABSENCE: Micros = Micros::from_millis(1_500);

/// A node that has been started again issues so long after it has settled, whoever can know it what
/// is purged.
const UNCERTAIN: Micros = Micros::from_millis(4_500);

/// The longest sync of a slow disk, in mean times of a disk (`disks.rs`): a key's queue is full
/// before it is over.
const SLOWEST_SYNC: u64 = 2_000;

/// Until when hosts and ways between two of them are in doubt. A fault is noted when it begins.
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

/// When what begins now and takes so long is over beyond doubt.
fn over(now: Time, length: Micros) -> Time {
    now + length + if length < LONG_ABSENCE { AFTER_SHORT } else { AFTER_LONG }
}

impl World {
    /// Notes whom a fault, which begins now, puts in doubt.
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
            // A sync that begins in the last moment takes its time as well.
            Fault::Slow { host, length } | Fault::Hang { host, length } => {
                doubts.host(host, over(now, length + SLOWEST_SYNC * self.plan.mean_disk));
            }
            Fault::CleanStop { host, down } => doubts.host(host, over(now, down + FINISH)),
            // Its own copy of some key is refused until it is mended.
            Fault::Damage { host } => doubts.host(host, Time::MAX),
            // Its stops are faults of their own.
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
            // From then on members and rings differ between hosts for a while.
            Fault::Replace { .. } => {
                (0..hosts).for_each(|host| doubts.host(host, Time::MAX));
            }
        }
    }

    /// True if the node of a host is done with its start beyond doubt.
    fn may_issue(&self, at: usize) -> bool {
        let Host { incarnation, settled, .. } = &self.hosts[at];
        let uncertain = if *incarnation == 1 { Micros::ZERO } else { UNCERTAIN };
        settled.is_some_and(|since| since + uncertain < self.now())
    }

    /// Holds an owner that knows that its disk hangs to the promise that nobody waits for it: it
    /// refuses a write at once, and so the outcome is known.
    pub(super) fn judge_unknown(&mut self, client: usize, response: &Response) {
        let Response::Unknown { .. } = response else { return };
        let Some(current) = &self.clients[client].current else { return };
        let host = &self.hosts[current.host];
        let owner = self.ring.owners(self.ring.partition(&current.key)).contains(&host.id);
        if owner && host.stalled.is_some_and(|since| since < current.since) {
            let (key, since) = (current.key.clone(), current.since);
            let what = format!(
                "n{} takes a write, asked at {} us, that its disk, which hangs, cannot do",
                current.host, since.0
            );
            self.broken = self.broken.take().or(Some(Broken { key, what }));
        }
    }

    /// Holds a rejection of a sloppy write to the promise: with W hosts in reach of the one that
    /// was asked, itself among them, it is not refused because any is missing.
    pub(super) fn judge_rejection(&mut self, client: usize, response: &Response) {
        let Response::Refused(rejection) = response else { return };
        let Some(current) = &self.clients[client].current else { return };
        // A limit that an operator has set may be reached.
        let lacks = match rejection {
            Rejection::Hints(_) => false,
            _ => rejection.is_no_quorum() || rejection.is_about_node(),
        };
        let (at, now) = (current.host, self.now());
        if current.write.is_none() || current.strict || !lacks || !self.may_issue(at) {
            return;
        }
        let here = |host: usize| {
            self.doubts.is_steady(host, now)
                && self.hosts[host].node.is_some()
                && self.doubts.is_open(at, host, now)
        };
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
