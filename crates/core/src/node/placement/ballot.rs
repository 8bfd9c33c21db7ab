//! Who may change the ring: a node that is ordered to asks all members for a grant first, and
//! changes it with the grants of more than half of them. A member has one grant to give at a time,
//! so of two changes at once at most one is made.

use std::collections::{BTreeMap, BTreeSet};

use super::super::effects::Effects;
use super::super::ids::RequestId;
use super::super::words::{Hindrance, RingChange};
use crate::members::Member;
use crate::message::{Body, Counter};
use crate::types::{Micros, NodeId, Time};

/// Time for more than half of the members to grant a change.
const PATIENCE: Micros = Micros::from_millis(3_000);
/// Who has not granted it is asked again after this time.
const AGAIN: Micros = Micros::from_millis(200);
/// A grant that is not given back ends after this time. Longer than a change waits for its grants,
/// by any two clocks.
const GRANT: Micros = Micros::from_millis(10_000);

/// The change that this node was ordered to make, or the one that it has granted to another node:
/// never both.
#[derive(Clone, Debug, Default)]
pub(super) struct Ballot {
    proposal: Option<Proposal>,
    grant: Option<Grant>,
    /// Names the last proposal; they increase.
    last_op: u64,
}

/// A change that needs grants.
#[derive(Clone, Debug)]
struct Proposal {
    op: RequestId,
    old: NodeId,
    new: Member,
    granted: BTreeSet<NodeId>,
    /// Who did not grant it, and for whom.
    denied: BTreeMap<NodeId, NodeId>,
    until: Time,
    next: Time,
}

/// What this node has promised to another one.
#[derive(Clone, Copy, Debug)]
struct Grant {
    op: RequestId,
    change: RingChange,
    until: Time,
}

/// Who grants a change of this ring.
#[derive(Clone, Copy)]
pub(super) struct Voters<'a> {
    /// Its version and digest.
    pub(super) ring: (u64, u64),
    pub(super) members: &'a [NodeId],
}

impl Ballot {
    /// The change that is under way, as far as this node is concerned.
    pub(super) fn under_way(&self, me: NodeId) -> Option<RingChange> {
        let own = self.proposal.as_ref();
        let own = own.map(|own| RingChange { old: own.old, new: own.new.id(), by: me });
        own.or(self.grant.map(|grant| grant.change))
    }

    /// Forgets a grant that has ended.
    pub(super) fn expire(&mut self, now: Time) {
        self.grant.take_if(|grant| grant.until <= now);
    }

    /// Begins to ask for a change. There is none under way.
    pub(super) fn propose(
        &mut self,
        now: Time,
        old: NodeId,
        new: Member,
        voters: Voters<'_>,
        fx: &mut Effects,
    ) {
        debug_assert!(self.proposal.is_none() && self.grant.is_none(), "one change at a time");
        self.last_op = now.0.max(self.last_op + 1);
        let (op, until) = (RequestId::of_wire(self.last_op), now + PATIENCE);
        let (granted, denied) = (BTreeSet::from([fx.local.me()]), BTreeMap::new());
        self.proposal = Some(Proposal { op, old, new, granted, denied, until, next: now });
        self.ask(now, voters, fx);
    }

    /// Asks those that have not granted the change, when that is due.
    pub(super) fn ask(
        &mut self,
        now: Time,
        Voters { ring, members }: Voters<'_>,
        fx: &mut Effects,
    ) {
        let Some(own) = self.proposal.as_mut().filter(|own| own.next <= now) else { return };
        own.next = now + AGAIN;
        let wanting = |id: &NodeId| *id != own.old && !own.granted.contains(id);
        let wanting: Vec<NodeId> = members.iter().copied().filter(wanting).collect();
        fx.out.send(wanting, own.op, Body::AskRing { ring, old: own.old, new: own.new.id() });
    }

    /// Another node asks for a grant. `changes` if this node is about to take another ring than
    /// that node has, or has one.
    pub(super) fn asked(
        &mut self,
        now: Time,
        op: RequestId,
        change: RingChange,
        changes: bool,
        fx: &mut Effects,
    ) {
        self.expire(now);
        let (from, me) = (change.by, fx.local.me());
        let goes_on = self.proposal.is_some() && me < from;
        if changes || goes_on {
            return fx.out.send(vec![from], op, Body::RingDenied { by: me });
        }
        if self.grant.is_some_and(|grant| grant.change != change) {
            let by = self.grant.map_or(me, |grant| grant.change.by);
            return fx.out.send(vec![from], op, Body::RingDenied { by });
        }
        if self.proposal.is_some() {
            self.fail(Hindrance::Other(Some(change), from), fx);
        }
        let op = self.grant.map_or(op, |grant| op.max(grant.op));
        self.grant = Some(Grant { op, change, until: now + GRANT });
        fx.out.count(Counter::RingChangesGranted);
        fx.out.send(vec![from], op, Body::RingGranted);
    }

    /// A member grants a change; gives it when more than half of `members` have.
    pub(super) fn granted(
        &mut self,
        from: NodeId,
        op: RequestId,
        members: &[NodeId],
        fx: &mut Effects,
    ) -> Option<(NodeId, Member)> {
        let Some(own) = self.proposal.as_mut() else {
            // The grant of a change that was given up meanwhile: it is not needed.
            let by = fx.local.me();
            fx.out.send(vec![from], op, Body::RingDenied { by });
            return None;
        };
        if own.op != op || !members.contains(&from) {
            return None;
        }
        own.granted.insert(from);
        own.denied.remove(&from);
        if 2 * own.granted.len() <= members.len() {
            return None;
        }
        self.proposal.take().map(|own| (own.old, own.new))
    }

    /// A member does not grant this node's change, or gives back what this node has granted to it.
    pub(super) fn denied(&mut self, from: NodeId, op: RequestId, by: NodeId) {
        match &mut self.proposal {
            Some(own) if own.op == op => {
                own.granted.remove(&from);
                own.denied.insert(from, by);
            }
            Some(_) => {}
            None => {
                self.grant.take_if(|grant| grant.change.by == from && op >= grant.op);
            }
        }
    }

    /// Gives the own change up when its time is over.
    pub(super) fn tick(&mut self, now: Time, members: &[NodeId], fx: &mut Effects) {
        self.expire(now);
        let Some(own) = self.proposal.as_ref().filter(|own| own.until <= now) else { return };
        let others = own.denied.values().find(|by| !own.denied.contains_key(by));
        let (granted, members) = (own.granted.len(), members.len());
        let why = match others.or(own.denied.values().next()) {
            Some(by) => Hindrance::Other(None, *by),
            None => Hindrance::Grants { granted, members },
        };
        self.fail(why, fx);
    }

    /// Gives the own change up, if there is one: nothing has happened, and what was granted is
    /// given back.
    pub(super) fn fail(&mut self, why: Hindrance, fx: &mut Effects) {
        let Some(own) = self.proposal.take() else { return };
        let by = fx.local.me();
        let asked = own.granted.iter().chain(own.denied.keys()).copied();
        let asked: Vec<NodeId> = asked.filter(|id| *id != by).collect();
        if !asked.is_empty() {
            fx.out.send(asked, own.op, Body::RingDenied { by });
        }
        fx.out.not_replaced(why);
    }

    /// The own change.
    pub(super) fn own(&self) -> Option<(NodeId, NodeId)> {
        self.proposal.as_ref().map(|own| (own.old, own.new.id()))
    }

    /// When something is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.proposal.as_ref().map(|own| own.next.min(own.until))
    }
}
