//! Grants to make the next ring: a node that is ordered to change the ring, or that takes a change
//! one step further, first queries all members that the change goes on with. It needs the grants of
//! more than half of them, and of no less than half of all. A member grants one next ring at a
//! time, to all that would make it, so of two next rings at most one is made, wherever the network
//! is cut in two.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ids::RequestId;
use super::super::interface::{Hindrance, RingChange};
use super::super::io::Io;
use crate::members::Member;
use crate::message::{Body, Counter};
use crate::ring::{Ring, RingId};
use crate::types::{Micros, NodeId, Time};

/// Time for more than half of the members to grant a change.
const TIMEOUT: Micros = Micros::from_millis(3_000);
/// A granted change waits this long for links with its newcomers: a write counts only when they
/// have it, too.
const NEWCOMERS_WAIT: Micros = Micros::from_millis(500);
/// A member that has not granted the change is queried again after this time.
const RETRY_INTERVAL: Micros = Micros::from_millis(200);
/// A grant that is not given back ends after this time. Longer than a change waits for its grants,
/// by any two clocks.
const GRANT: Micros = Micros::from_millis(10_000);

/// The next ring that this node would make, and the one that it has granted to others: if both, the
/// same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Ballot {
    proposal: Option<Proposal>,
    grant: Option<Grant>,
    /// Names the last proposal; they increase.
    last_op: u64,
}

/// A ring that comes after the one in force.
#[derive(Clone, Debug)]
pub(super) struct Next {
    pub(super) ring: Ring,
    pub(super) purpose: Purpose,
}

/// What a ring is made for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// It begins the change that was ordered, with these newcomers.
    Begin(Vec<Member>),
    /// It goes back to the table before, as was ordered.
    Cancel,
    /// It takes the change one step further.
    Forward,
}

/// A next ring that needs grants.
#[derive(Clone, Debug)]
struct Proposal {
    request_id: RequestId,
    made: Next,
    /// The digest of the ring that is to be made: it names the change.
    next: u64,
    voters: Vec<NodeId>,
    /// How many members there are, those included that the change goes on without.
    all: usize,
    granted: BTreeSet<NodeId>,
    /// Members that did not grant it, with the node that they name as changing the ring.
    denied: BTreeMap<NodeId, NodeId>,
    until: Time,
    query_at: Time,
    /// Once it is granted: until when it waits for links with its newcomers.
    links_until: Option<Time>,
}

impl Proposal {
    /// True if it may be made. A grant may have been returned since.
    fn is_ready(&self, now: Time, is_linked: &dyn Fn(NodeId) -> bool) -> bool {
        let newcomers = match &self.made.purpose {
            Purpose::Begin(newcomers) => &newcomers[..],
            Purpose::Cancel | Purpose::Forward => &[],
        };
        let waited = self.links_until.is_some_and(|until| until <= now);
        self.is_granted() && (waited || newcomers.iter().all(|new| is_linked(new.id())))
    }

    /// Takes note that it is granted.
    fn await_links(&mut self, now: Time) {
        if self.is_granted() && self.links_until.is_none() {
            let until = now + NEWCOMERS_WAIT;
            (self.links_until, self.until) = (Some(until), self.until.max(until + RETRY_INTERVAL));
        }
    }

    fn is_granted(&self) -> bool {
        let granted = self.granted.len();
        2 * granted > self.voters.len() && 2 * granted >= self.all
    }
}

/// What this node has promised to others.
#[derive(Clone, Debug)]
struct Grant {
    /// The digest of the ring that they may make.
    next: u64,
    /// Each of them, with its last query, and when the grant ends.
    holders: BTreeMap<NodeId, (RequestId, Time)>,
}

/// The members that grant a change of this ring.
#[derive(Clone, Copy)]
pub(super) struct Voters<'a> {
    /// Its version and digest.
    pub(super) ring: RingId,
    /// Those that the change goes on with, this node among them.
    pub(super) voters: &'a [NodeId],
    /// How many members have a place in it.
    pub(super) all: usize,
}

impl Ballot {
    /// The change that is in progress, as far as this node is concerned.
    pub(super) fn in_flight(&self, me: NodeId) -> Option<RingChange> {
        let own = self.proposal.as_ref();
        let own = own.map(|own| RingChange { next: own.next, by: me });
        own.or_else(|| {
            let grant = self.grant.as_ref()?;
            let by = *grant.holders.keys().next()?;
            Some(RingChange { next: grant.next, by })
        })
    }

    /// True if this node may propose the ring of this digest: it proposes none, and has granted no
    /// other one.
    pub(super) fn may_propose(&self, next: u64) -> bool {
        self.proposal.is_none() && self.grant.as_ref().is_none_or(|grant| grant.next == next)
    }

    /// True while a change of this node waits for grants.
    pub(super) fn has_proposal(&self) -> bool {
        self.proposal.is_some()
    }

    /// Gives up a step that this node would make, for an order of the operator.
    pub(super) fn give_way(&mut self, ordered: &mut bool, io: &mut Io) {
        let is_step = |own: &Proposal| matches!(own.made.purpose, Purpose::Forward);
        if self.proposal.as_ref().is_some_and(is_step) {
            let me = io.local.me();
            self.fail(Hindrance::Other(None, me), ordered, io);
        }
    }

    /// Another ring is in force: what was granted was a change of the one before.
    pub(super) fn end_grant(&mut self) {
        self.grant = None;
    }

    /// Forgets a grant that has ended.
    pub(super) fn expire(&mut self, now: Time) {
        if let Some(grant) = &mut self.grant {
            grant.holders.retain(|_, (_, until)| *until > now);
        }
        self.grant.take_if(|grant| grant.holders.is_empty());
    }

    /// Begins to query grants for a change. There is none in progress.
    pub(super) fn propose(
        &mut self,
        now: Time,
        made: Next,
        Voters { ring, voters, all }: Voters<'_>,
        io: &mut Io,
    ) {
        let next = made.ring.digest();
        debug_assert!(self.may_propose(next), "one next ring at a time");
        self.last_op = now.0.max(self.last_op + 1);
        let (request_id, until) = (RequestId::of_wire(self.last_op), now + TIMEOUT);
        let (granted, denied) = (BTreeSet::from([io.local.me()]), BTreeMap::new());
        let (voters, query_at) = (voters.to_vec(), now);
        let links_until = None;
        let mut proposal = Proposal {
            request_id,
            made,
            next,
            voters,
            all,
            granted,
            denied,
            until,
            query_at,
            links_until,
        };
        proposal.await_links(now);
        self.proposal = Some(proposal);
        self.query(now, ring, io);
    }

    /// The change that may be made now: it is granted, and its newcomers are linked, or were waited
    /// for. Nothing of it is durable before: whoever is lost meanwhile has made nothing.
    pub(super) fn take_ready(
        &mut self,
        now: Time,
        is_linked: &dyn Fn(NodeId) -> bool,
    ) -> Option<Next> {
        self.proposal.take_if(|own| own.is_ready(now, is_linked)).map(|own| own.made)
    }

    /// Queries the members that have not granted the change of this ring, when that is due.
    pub(super) fn query(&mut self, now: Time, ring: RingId, io: &mut Io) {
        let due = |own: &&mut Proposal| own.query_at <= now && own.links_until.is_none();
        let Some(own) = self.proposal.as_mut().filter(due) else { return };
        own.query_at = now + RETRY_INTERVAL;
        let wanting = own.voters.iter().copied().filter(|id| !own.granted.contains(id));
        let wanting: Vec<NodeId> = wanting.collect();
        let newcomers = match &own.made.purpose {
            Purpose::Begin(newcomers) => newcomers.clone(),
            Purpose::Cancel | Purpose::Forward => Vec::new(),
        };
        let query = Body::QueryChange { ring, next: own.next, newcomers };
        io.out.send(wanting, own.request_id, query);
    }

    /// Another node asks for a grant; true if it gets it. `changes` if this node is about to take
    /// another ring than that node has, or has one.
    pub(super) fn queried(
        &mut self,
        now: Time,
        request_id: RequestId,
        change: RingChange,
        changes: bool,
        ordered: &mut bool,
        io: &mut Io,
    ) -> bool {
        self.expire(now);
        let (from, me) = (change.by, io.local.me());
        let other = self.proposal.as_ref().filter(|own| own.next != change.next);
        let goes_on = other.is_some() && me < from;
        if changes || goes_on {
            io.out.send(vec![from], request_id, Body::RingDenied { by: me });
            return false;
        }
        let granted = self.grant.as_ref().filter(|grant| grant.next != change.next);
        if let Some(granted) = granted {
            let by = granted.holders.keys().next().copied().unwrap_or(me);
            io.out.send(vec![from], request_id, Body::RingDenied { by });
            return false;
        }
        if other.is_some() {
            self.fail(Hindrance::Other(Some(change), from), ordered, io);
        }
        let grant = Grant { next: change.next, holders: BTreeMap::new() };
        let holders = &mut self.grant.get_or_insert(grant).holders;
        let known = holders.get(&from).map_or(request_id, |(known, _)| request_id.max(*known));
        holders.insert(from, (known, now + GRANT));
        io.out.count(Counter::RingChangesGranted);
        io.out.send(vec![from], request_id, Body::RingGranted);
        true
    }

    /// A member grants a change.
    pub(super) fn granted(&mut self, now: Time, from: NodeId, request_id: RequestId, io: &mut Io) {
        let Some(own) = self.proposal.as_mut() else {
            // The grant of a change that was given up meanwhile: it is not needed.
            let by = io.local.me();
            return io.out.send(vec![from], request_id, Body::RingDenied { by });
        };
        if own.request_id != request_id || !own.voters.contains(&from) {
            return;
        }
        own.granted.insert(from);
        own.denied.remove(&from);
        own.await_links(now);
    }

    /// A member does not grant this node's change, or returns the grant of this node.
    pub(super) fn denied(&mut self, from: NodeId, request_id: RequestId, by: NodeId) {
        match &mut self.proposal {
            Some(own) if own.request_id == request_id => {
                own.granted.remove(&from);
                own.denied.insert(from, by);
            }
            _ => {
                if let Some(grant) = &mut self.grant
                    && grant.holders.get(&from).is_some_and(|(known, _)| request_id >= *known)
                {
                    grant.holders.remove(&from);
                }
                self.grant.take_if(|grant| grant.holders.is_empty());
            }
        }
    }

    /// Gives up this node's own change when its time is over.
    pub(super) fn tick(&mut self, now: Time, ordered: &mut bool, io: &mut Io) {
        self.expire(now);
        let Some(own) = self.proposal.as_ref().filter(|own| own.until <= now) else { return };
        let others = own.denied.values().find(|by| !own.denied.contains_key(by));
        let (granted, members) = (own.granted.len(), own.voters.len());
        let why = match others.or(own.denied.values().next()) {
            Some(by) => Hindrance::Other(None, *by),
            None => Hindrance::Grants { granted, members, all: own.all },
        };
        self.fail(why, ordered, io);
    }

    /// Gives up this node's own change, if there is one: the ring is unchanged, and the grants are
    /// returned.
    pub(super) fn fail(&mut self, why: Hindrance, ordered: &mut bool, io: &mut Io) {
        let Some(own) = self.proposal.take() else { return };
        let by = io.local.me();
        let queried = own.granted.iter().chain(own.denied.keys()).copied();
        let queried: Vec<NodeId> = queried.filter(|id| *id != by).collect();
        if !queried.is_empty() {
            io.out.send(queried, own.request_id, Body::RingDenied { by });
        }
        if let Purpose::Begin(newcomers) = &own.made.purpose
            && !newcomers.is_empty()
        {
            io.out.set_members(io.local.members().clone());
        }
        if !matches!(own.made.purpose, Purpose::Forward) {
            *ordered = false;
            io.out.ring_ordered(Err(why));
        }
    }

    /// When the next query or the end of the time is due.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let own = self.proposal.as_ref()?;
        Some(own.links_until.unwrap_or(own.query_at).min(own.until))
    }
}
