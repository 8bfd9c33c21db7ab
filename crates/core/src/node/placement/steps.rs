//! How a change of the ring comes to its end: the members report how far they are to the first ones
//! of them that can be reached, and these make the next ring. All that make it make the same one.
//!
//! A step is made when every member has confirmed the ring in force; from the fill on to the turn
//! only when every member has all that it should have, too. Whoever loses its place goes on as a
//! guest until its records and hints are with their owners; then it is removed.

use super::ballot::{Next, Purpose};
use super::{Placement, status};
use crate::members::{Member, Members, MembershipStatus};
use crate::message::{Body, RingProgress};
use crate::node::ids::RequestId;
use crate::node::io::Io;
use crate::node::rules;
use crate::ring::{Ring, Step};
use crate::types::{Micros, NodeId, Nodes, Time};

/// Members that get the reports and may make the next ring: some of them may see others than most.
const DRIVERS: usize = 3;
/// Progress that has not changed is reported again after this time: a report may be lost.
const REPEAT_INTERVAL: Micros = Micros::from_millis(500);

impl Placement {
    /// A member reports how far it is. It has the same ring.
    pub(in crate::node) fn hear_progress(
        &mut self,
        from: NodeId,
        progress: RingProgress,
        io: &mut Io,
    ) {
        self.progress.insert(from, (io.local.ring_id(), progress));
    }

    /// Goes on with a change of the ring, and with what a node on its way out waits for. `is_idle`
    /// if no client waits for this node.
    pub(in crate::node) fn advance(&mut self, now: Time, is_idle: bool, io: &mut Io) {
        let step = io.local.ring().step();
        let is_over = step.is_none() && !io.local.has_leavers();
        if !is_over {
            io.local.set_fenced(self.is_fenced(io));
        }
        if is_over || self.taking.is_some() || !io.local.is_settled() {
            return;
        }
        let drivers = self.drivers(io);
        let is_leaving = status(io.local.members(), self.me) == Some(MembershipStatus::Leaving);
        if step == Some(Step::Fill) || is_leaving {
            let lost = io.local.meta().read_ineligible.iter();
            let ineligible = lost.filter(|partition| io.local.owns(**partition)).count() as u32;
            let empty = is_leaving && is_idle && self.is_empty(io);
            self.report_progress(now, &drivers, RingProgress { ineligible, empty }, io);
        }
        if drivers.contains(&self.me) {
            match step {
                Some(step) => self.go_on(now, step, io),
                None => self.dismiss(io),
            }
        }
    }

    /// The members that may make the next ring: the first ones that can be reached.
    fn drivers(&self, io: &Io) -> Nodes {
        let members = io.local.ring().members().iter().map(|member| member.id);
        members.filter(|id| *id == self.me || self.reach.has(*id)).take(DRIVERS).collect()
    }

    /// True if this node has nothing left that belongs to others, and nobody sends it any more.
    fn is_empty(&self, io: &Io) -> bool {
        io.local.surplus().is_empty() && io.local.hints.count() == 0 && self.is_fenced(io)
    }

    fn report_progress(&mut self, now: Time, drivers: &Nodes, progress: RingProgress, io: &mut Io) {
        let last = self.last_progress.as_ref();
        let is_known = last.is_some_and(|(known, reported, at)| {
            (known, *reported) == (drivers, progress) && now < *at + REPEAT_INTERVAL
        });
        if is_known {
            return;
        }
        self.last_progress = Some((drivers.clone(), progress, now));
        // What is regained or empty is so on the disk, too.
        let seq = io.out.last_mark();
        for driver in drivers.iter().copied() {
            if driver == self.me {
                self.progress.insert(self.me, (io.local.ring_id(), progress));
            } else {
                io.out.send_synced(Some(seq), driver, RequestId::NONE, Body::Progress(progress));
            }
        }
    }

    /// Makes the next ring if every member is as far as that takes. That needs grants, too: a
    /// member may be replaced, or the change be cancelled, at the same time.
    fn go_on(&mut self, now: Time, step: Step, io: &mut Io) {
        let ring = io.local.ring().clone();
        let id = io.local.ring_id();
        let is_filled = |member: NodeId| {
            let progress = self.progress.get(&member).filter(|(of, _)| *of == id);
            progress.is_some_and(|(_, progress)| progress.ineligible == 0)
        };
        let fills = step == Step::Fill && !ring.moves_nothing();
        let are_filled = ring.members().iter().all(|member| is_filled(member.id));
        if !rules::goes_on(self.is_fenced(io), fills, are_filled) {
            return;
        }
        if let Some(next) = ring.forward()
            && self.ballot.may_propose(next.digest())
        {
            let voters: Vec<NodeId> = ring.members().iter().map(|member| member.id).collect();
            self.propose(now, Next { ring: next, purpose: Purpose::Forward }, &voters, io);
        }
    }

    /// Removes the guests that have nothing left.
    fn dismiss(&mut self, io: &mut Io) {
        let id = io.local.ring_id();
        let is_empty = |member: &&Member| {
            let progress = self.progress.get(&member.id()).filter(|(of, _)| *of == id);
            member.membership == MembershipStatus::Leaving
                && progress.is_some_and(|(_, progress)| progress.empty)
        };
        let empty: Vec<NodeId> =
            io.local.members().iter().filter(is_empty).map(Member::id).collect();
        for guest in empty {
            self.remove_guest(guest, io);
        }
    }

    /// Removes a node that has no place in the ring. False if it is no guest.
    pub(super) fn remove_guest(&mut self, guest: NodeId, io: &mut Io) -> bool {
        let Some(member) = io.local.members().get(guest).cloned() else { return false };
        let is_guest =
            matches!(member.membership, MembershipStatus::Joining | MembershipStatus::Leaving);
        if !is_guest || io.local.ring().has(guest) {
            return false;
        }
        let (membership, version) = (MembershipStatus::Removed, io.local.ring_id().version);
        io.learn_members(&[&Member { membership, version, ..member }])
    }
}

/// The members as they are with the ring `next`, which follows `before`. All members have confirmed
/// `before`, so no other change has come first: whoever has no place in it is gone for good, and
/// newcomers with a place are members.
pub(super) fn members_behind(before: &Ring, next: &Ring, members: &Members) -> Members {
    let version = next.version();
    let at = |member: &Member| {
        let id = member.id();
        let membership = match member.membership {
            MembershipStatus::Member if !before.has(id) => MembershipStatus::Removed,
            // A newcomer that had its places already, and lost them with the change.
            MembershipStatus::Member if !next.has(id) && before.step() == Some(Step::Undo) => {
                MembershipStatus::Joining
            }
            MembershipStatus::Member if !next.has(id) => MembershipStatus::Leaving,
            MembershipStatus::Joining if next.is_kept(id) => MembershipStatus::Member,
            membership => membership,
        };
        let version = if membership == member.membership { member.version } else { version };
        Member { membership, version, ..member.clone() }
    };
    Members::new(members.iter().map(at).collect())
}
