//! Changes of the ring by an operator: hosts join and leave, and a change is cancelled and begun
//! anew.

use pixii_core::members::{Member, MembershipStatus};
use pixii_core::node::{Input, Node, RingOrder};
use pixii_core::ring::{Edit, RingError, RingMember, Step};
use pixii_core::types::Micros;

use super::replacing::name;
use super::{Event, World};
use crate::scenario::Fault;

/// The operator looks at this interval how far it is, and repeats what was refused.
const RETRY_INTERVAL: Micros = Micros::from_millis(1_000);

/// One change of a run.
#[derive(Clone, Debug)]
pub(super) struct Planning {
    /// The indices of the hosts that join.
    pub(super) joining: Vec<usize>,
    /// Those of the hosts that leave.
    leaving: Vec<usize>,
    /// True if it begins anew once it has been cancelled.
    again: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its time has not come.
    Ahead,
    /// The operator wants it carried out.
    Wanted,
    /// The operator wants it cancelled, if that is still possible.
    Unwanted,
    Over,
}

impl Planning {
    /// The changes among the faults of a run; their newcomers have the indices from `first` on.
    pub(super) fn all(faults: &[(Micros, Fault)], mut first: usize) -> Vec<Self> {
        let mut plans = Vec::new();
        for (_, fault) in faults {
            let Fault::Plan { joins, leaves, again, .. } = *fault else { continue };
            let joining = (first..first + joins).collect();
            first += joins;
            let leaving = (0..64).filter(|host| leaves >> host & 1 == 1).collect();
            plans.push(Planning { joining, leaving, again, stage: Stage::Ahead });
        }
        plans
    }
}

impl World {
    /// The time of the next change has come.
    pub(super) fn begin_plan(&mut self, cancel: Option<Micros>) {
        let ahead = |planning: &Planning| planning.stage == Stage::Ahead;
        let Some(which) = self.plans.iter().position(ahead) else { return };
        self.count("changes of the ring ordered");
        self.plans[which].stage = Stage::Wanted;
        for at in self.plans[which].joining.clone() {
            let starts = self.now() + self.rng.within(2 * RETRY_INTERVAL);
            self.schedule(starts, Event::Start { at });
        }
        self.schedule(self.now(), Event::Plan { which });
        if let Some(after) = cancel {
            self.schedule(self.now() + after, Event::Cancel { which });
        }
    }

    /// The operator has changed his mind.
    pub(super) fn cancel_plan(&mut self, which: usize) {
        if self.plans[which].stage == Stage::Wanted {
            self.plans[which].stage = Stage::Unwanted;
        }
    }

    /// True if the host has left the cluster as an operator wanted.
    pub(super) fn has_left(&self, at: usize) -> bool {
        let leaves = |planning: &Planning| planning.leaving.contains(&at);
        self.hosts[at].is_removed && self.plans.iter().any(leaves)
    }

    /// The hosts that run, belong to the cluster and serve.
    fn ready(&self) -> Vec<usize> {
        let serves = |at: &usize| {
            let host = &self.hosts[*at];
            let has_place = self.ring.has(host.id);
            has_place && !host.is_removed && host.node.as_ref().is_some_and(Node::is_settled)
        };
        (0..self.hosts.len()).filter(serves).collect()
    }

    /// The operator looks after a change: gives the command, cancels it, or finds that it is over.
    pub(super) fn go_on_with_plan(&mut self, which: usize) {
        self.forget_lost_ring();
        // A change waits for every member to have all that it should have.
        if self.ring.step() == Some(Step::Fill) {
            self.accept_losses();
        }
        let Planning { joining, leaving, again, stage } = self.plans[which].clone();
        let has = |at: &usize| self.ring.has(self.hosts[*at].id);
        let ordered = |host: &super::Host| {
            host.node
                .as_ref()
                .is_some_and(|node| node.ring_change().is_some() || node.is_changing_ring())
                // It may yet carry out what it was ordered.
                || host.paused_until > self.now()
        };
        let is_settled = self.ring.step().is_none() && !self.hosts.iter().any(ordered);
        let gone = |at: &usize| {
            self.hosts[*at].is_removed || !self.hosts.iter().any(|h| h.id == self.hosts[*at].id)
        };
        let joins = joining.iter().filter(|at| !has(at)).count() > 0;
        let leaves = leaving.iter().filter(|at| has(at) && !gone(at)).count() > 0;
        self.stop_dismissed(&leaving);
        if is_settled && !joins && !leaves && self.all_have_ring() {
            if leaving.iter().all(|at| self.is_dismissed(*at)) {
                return self.end_plan(which);
            }
        } else if stage == Stage::Unwanted && is_settled && self.all_have_ring() {
            self.count("changes of the ring cancelled");
            if again {
                self.plans[which].again = false;
                self.plans[which].stage = Stage::Wanted;
            } else if self.dismiss_newcomers(&joining) {
                return self.end_plan(which);
            }
        } else if let Some(at) = self.rng.pick(&self.ready()).copied()
            && !self.order_change(at, stage, &joining, &leaving)
        {
            // Another change has come first, and left too few members for this one.
            self.count("changes that cannot be made");
            self.plans[which].stage = Stage::Unwanted;
            self.plans[which].again = false;
        }
        self.schedule(self.now() + RETRY_INTERVAL, Event::Plan { which });
    }

    /// A ring may have been lost with the only disk that had it: then it was never made.
    fn forget_lost_ring(&mut self) {
        // A newcomer has a ring of its configuration, which is nobody else's.
        let is_new = |at: usize| self.plans.iter().any(|plan| plan.joining.contains(&at));
        let hosts = self.hosts.iter().enumerate().filter(|(_, host)| !host.is_removed);
        let rings = hosts.map(|(at, host)| (at, host.placement().0));
        let rings = rings.filter(|(at, ring)| ring.version() > 1 || !is_new(*at));
        let newest = rings.map(|(_, ring)| ring).max_by_key(|ring| ring.id());
        if let Some(newest) = newest.filter(|newest| newest.id() < self.ring.id()) {
            self.count("rings lost with the only disk that had them");
            self.ring = newest;
        }
    }

    /// Gives the command that is due; false if there can be no such ring.
    fn order_change(
        &mut self,
        at: usize,
        stage: Stage,
        joining: &[usize],
        leaving: &[usize],
    ) -> bool {
        let ring = match &self.hosts[at].node {
            Some(node) => node.ring().clone(),
            None => return true,
        };
        // What another operator is doing is left alone.
        let moves = |at: &usize| ring.is_moving(self.hosts[*at].id);
        let is_own = joining.iter().chain(leaving).any(moves);
        let order = match (stage, ring.step()) {
            (Stage::Unwanted, Some(_)) if is_own => RingOrder::Cancel,
            (Stage::Wanted, None) => {
                let ids = |hosts: &[usize]| -> Vec<_> {
                    hosts.iter().map(|at| (self.hosts[*at].id, *at)).collect()
                };
                let come = ids(joining).into_iter().filter(|(id, _)| !ring.has(*id));
                let go = ids(leaving).into_iter().filter(|(id, _)| ring.has(*id));
                let (come, go): (Vec<_>, Vec<_>) = (come.collect(), go.collect());
                let newcomers =
                    come.iter().map(|(_, at)| Member::configured(name(*at), "sim:1")).collect();
                let joins = come.iter().map(|(id, _)| Edit::Join(RingMember::plain(*id)));
                let leaves = go.iter().map(|(id, _)| Edit::Leave(*id));
                let edits: Vec<Edit> = joins.chain(leaves).collect();
                match ring.begin(&edits) {
                    Err(RingError::Unchanged) => return true,
                    Err(_) => return false,
                    Ok(_) => {}
                }
                RingOrder::Begin { edits, newcomers }
            }
            _ => return true,
        };
        self.note(|| format!("n{at} is ordered to change the ring: {order:?}"));
        self.input(at, Input::Ring(order));
        true
    }

    /// True if every host that runs has the newest ring, and every other one on its disk.
    fn all_have_ring(&self) -> bool {
        let members = self.hosts.iter().filter(|host| self.ring.has(host.id) && !host.is_removed);
        let mut members = members.filter(|host| host.node.is_some());
        members.all(|host| host.placement().0.id() == self.ring.id())
    }

    /// True once the members know that a host has left for good.
    fn is_dismissed(&self, at: usize) -> bool {
        let id = self.hosts[at].id;
        let removed = |host: &super::Host| {
            let node = host.node.as_ref();
            node.and_then(|node| node.members().get(id))
                .is_some_and(|member| member.membership == MembershipStatus::Removed)
        };
        self.hosts[at].is_removed
            || self.hosts.iter().any(|host| self.ring.has(host.id) && removed(host))
    }

    /// What newcomers that are not wanted any more still hold goes to the owners; then they are
    /// dismissed for good. True once that is done.
    fn dismiss_newcomers(&mut self, joining: &[usize]) -> bool {
        let holds = |at: &usize| match &self.hosts[*at].node {
            Some(node) => node.surplus() > 0 || node.ring_id() != self.ring.id(),
            None => true,
        };
        let holds = |at: &usize| self.is_known_to_any(*at) && !self.is_dismissed(*at) && holds(at);
        if joining.iter().filter(|at| !self.hosts[**at].is_removed).any(holds) {
            return false;
        }
        for guest in joining.iter().copied() {
            if self.is_dismissed(guest) || !self.is_known_to_any(guest) {
                self.hosts[guest].is_removed = true;
                self.refuse(guest);
                continue;
            }
            let ready: Vec<usize> = self.ready().into_iter().filter(|at| *at != guest).collect();
            if let Some(at) = self.rng.pick(&ready).copied() {
                let order = RingOrder::Dismiss(self.hosts[guest].id);
                self.input(at, Input::Ring(order));
            }
        }
        joining.iter().all(|at| self.hosts[*at].is_removed)
    }

    fn is_known_to_any(&self, guest: usize) -> bool {
        let id = self.hosts[guest].id;
        let members = self.hosts.iter().filter(|host| self.ring.has(host.id));
        members.filter_map(|host| host.node.as_ref()).any(|node| node.members().get(id).is_some())
    }

    fn end_plan(&mut self, which: usize) {
        self.plans[which].stage = Stage::Over;
        self.count("changes of the ring over");
    }

    /// A host that has left ends for good: the members refuse it from then on.
    fn stop_dismissed(&mut self, leaving: &[usize]) {
        for at in leaving.iter().copied() {
            let has_left = !self.ring.has(self.hosts[at].id) && self.is_dismissed(at);
            if has_left && !self.hosts[at].is_removed {
                self.hosts[at].is_removed = true;
                self.refuse(at);
                self.count("members that left");
            }
        }
    }
}
