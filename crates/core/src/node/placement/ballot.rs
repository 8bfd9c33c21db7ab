//! Grants to change the ring: a node that is ordered to change it first queries all members, and
//! needs the grants of more than half of them. A member gives one grant at a time, so of two
//! changes at once at most one is made.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ids::RequestId;
use super::super::interface::{Hindrance, RingChange};
use super::super::io::Io;
use crate::members::Member;
use crate::message::{Body, Counter};
use crate::ring::RingId;
use crate::types::{Micros, NodeId, Time};

/// Time for more than half of the members to grant a change.
const TIMEOUT: Micros = Micros::from_millis(3_000);
/// A member that has not granted the change is queried again after this time.
const RETRY_INTERVAL: Micros = Micros::from_millis(200);
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
    request_id: RequestId,
    old: NodeId,
    new: Member,
    granted: BTreeSet<NodeId>,
    /// Members that did not grant it, with the node that they name as changing the ring.
    denied: BTreeMap<NodeId, NodeId>,
    until: Time,
    next: Time,
}

/// What this node has promised to another one.
#[derive(Clone, Copy, Debug)]
struct Grant {
    request_id: RequestId,
    change: RingChange,
    until: Time,
}

/// The members that grant a change of this ring.
#[derive(Clone, Copy)]
pub(super) struct Voters<'a> {
    /// Its version and digest.
    pub(super) ring: RingId,
    pub(super) members: &'a [NodeId],
}

impl Ballot {
    /// The change that is in progress, as far as this node is concerned.
    pub(super) fn in_flight(&self, me: NodeId) -> Option<RingChange> {
        let own = self.proposal.as_ref();
        let own = own.map(|own| RingChange { old: own.old, new: own.new.id(), by: me });
        own.or(self.grant.map(|grant| grant.change))
    }

    /// Forgets a grant that has ended.
    pub(super) fn expire(&mut self, now: Time) {
        self.grant.take_if(|grant| grant.until <= now);
    }

    /// Begins to query grants for a change. There is none in progress.
    pub(super) fn propose(
        &mut self,
        now: Time,
        old: NodeId,
        new: Member,
        voters: Voters<'_>,
        io: &mut Io,
    ) {
        debug_assert!(self.proposal.is_none() && self.grant.is_none(), "one change at a time");
        self.last_op = now.0.max(self.last_op + 1);
        let (request_id, until) = (RequestId::of_wire(self.last_op), now + TIMEOUT);
        let (granted, denied) = (BTreeSet::from([io.local.me()]), BTreeMap::new());
        self.proposal = Some(Proposal { request_id, old, new, granted, denied, until, next: now });
        self.query(now, voters, io);
    }

    /// Queries the members that have not granted the change, when that is due.
    pub(super) fn query(&mut self, now: Time, Voters { ring, members }: Voters<'_>, io: &mut Io) {
        let Some(own) = self.proposal.as_mut().filter(|own| own.next <= now) else { return };
        own.next = now + RETRY_INTERVAL;
        let wanting = |id: &NodeId| *id != own.old && !own.granted.contains(id);
        let wanting: Vec<NodeId> = members.iter().copied().filter(wanting).collect();
        io.out.send(
            wanting,
            own.request_id,
            Body::QueryRing { ring, old: own.old, new: own.new.id() },
        );
    }

    /// Another node asks for a grant. `changes` if this node is about to take another ring than
    /// that node has, or has one.
    pub(super) fn queried(
        &mut self,
        now: Time,
        request_id: RequestId,
        change: RingChange,
        changes: bool,
        io: &mut Io,
    ) {
        self.expire(now);
        let (from, me) = (change.by, io.local.me());
        let goes_on = self.proposal.is_some() && me < from;
        if changes || goes_on {
            return io.out.send(vec![from], request_id, Body::RingDenied { by: me });
        }
        if self.grant.is_some_and(|grant| grant.change != change) {
            let by = self.grant.map_or(me, |grant| grant.change.by);
            return io.out.send(vec![from], request_id, Body::RingDenied { by });
        }
        if self.proposal.is_some() {
            self.fail(Hindrance::Other(Some(change), from), io);
        }
        let request_id = self.grant.map_or(request_id, |grant| request_id.max(grant.request_id));
        self.grant = Some(Grant { request_id, change, until: now + GRANT });
        io.out.count(Counter::RingChangesGranted);
        io.out.send(vec![from], request_id, Body::RingGranted);
    }

    /// A member grants a change; returns the change when more than half of `members` have.
    pub(super) fn granted(
        &mut self,
        from: NodeId,
        request_id: RequestId,
        members: &[NodeId],
        io: &mut Io,
    ) -> Option<(NodeId, Member)> {
        let Some(own) = self.proposal.as_mut() else {
            // The grant of a change that was given up meanwhile: it is not needed.
            let by = io.local.me();
            io.out.send(vec![from], request_id, Body::RingDenied { by });
            return None;
        };
        if own.request_id != request_id || !members.contains(&from) {
            return None;
        }
        own.granted.insert(from);
        own.denied.remove(&from);
        if 2 * own.granted.len() <= members.len() {
            return None;
        }
        self.proposal.take().map(|own| (own.old, own.new))
    }

    /// A member does not grant this node's change, or returns the grant of this node.
    pub(super) fn denied(&mut self, from: NodeId, request_id: RequestId, by: NodeId) {
        match &mut self.proposal {
            Some(own) if own.request_id == request_id => {
                own.granted.remove(&from);
                own.denied.insert(from, by);
            }
            Some(_) => {}
            None => {
                self.grant
                    .take_if(|grant| grant.change.by == from && request_id >= grant.request_id);
            }
        }
    }

    /// Gives up this node's own change when its time is over.
    pub(super) fn tick(&mut self, now: Time, members: &[NodeId], io: &mut Io) {
        self.expire(now);
        let Some(own) = self.proposal.as_ref().filter(|own| own.until <= now) else { return };
        let others = own.denied.values().find(|by| !own.denied.contains_key(by));
        let (granted, members) = (own.granted.len(), members.len());
        let why = match others.or(own.denied.values().next()) {
            Some(by) => Hindrance::Other(None, *by),
            None => Hindrance::Grants { granted, members },
        };
        self.fail(why, io);
    }

    /// Gives up this node's own change, if there is one: the ring is unchanged, and the grants are
    /// returned.
    pub(super) fn fail(&mut self, why: Hindrance, io: &mut Io) {
        let Some(own) = self.proposal.take() else { return };
        let by = io.local.me();
        let queried = own.granted.iter().chain(own.denied.keys()).copied();
        let queried: Vec<NodeId> = queried.filter(|id| *id != by).collect();
        if !queried.is_empty() {
            io.out.send(queried, own.request_id, Body::RingDenied { by });
        }
        io.out.not_replaced(why);
    }

    /// The change that this node proposes: the member that goes, and the new one.
    pub(super) fn own(&self) -> Option<(NodeId, NodeId)> {
        self.proposal.as_ref().map(|own| (own.old, own.new.id()))
    }

    /// When the next query or the end of the time is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.proposal.as_ref().map(|own| own.next.min(own.until))
    }
}
