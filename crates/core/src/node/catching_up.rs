//! Catching up: a node that was away may lack writes that others keep hints of. Until every linked
//! peer has answered that it has no hints for it, an absent key at this node does not count.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::RequestId;
use super::io::Io;
use crate::members::Liveness;
use crate::message::Body;
use crate::types::{Micros, NodeId, Time};

/// A peer that has not answered that it has no hints is queried again after this time.
const ROUND: Micros = Micros::from_millis(100);
/// After a start, the node waits this long for links to come up.
const GRACE: Micros = Micros::from_millis(1_000);

/// The answer of each linked peer since it was linked.
#[derive(Clone, Debug)]
pub(super) struct CatchUp {
    /// The nonce of this incarnation, which is the request id of its `QueryHints`.
    nonce: RequestId,
    peers: usize,
    linked: BTreeSet<NodeId>,
    /// Those that have been linked in this incarnation.
    met: BTreeSet<NodeId>,
    links: BTreeMap<NodeId, Heard>,
    /// Those that were out of reach when most were: whatever they kept for this node since, they
    /// may still have.
    open: BTreeSet<NodeId>,
    started: Option<Time>,
    next_round: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Nothing yet, and it may have some: this node was away.
    Nothing,
    /// Nothing yet, but it is the other one that was away.
    Little,
    Some,
    None,
}

impl CatchUp {
    /// A node among `peers` others; `nonce` names its incarnation.
    pub(super) fn new(nonce: u64, peers: usize) -> Self {
        CatchUp {
            nonce: RequestId::of_wire(nonce),
            peers,
            linked: BTreeSet::new(),
            met: BTreeSet::new(),
            links: BTreeMap::new(),
            open: BTreeSet::new(),
            started: None,
            next_round: Some(Time::START),
        }
    }

    /// There are this many other members from now on.
    pub(super) fn set_peers(&mut self, peers: usize) {
        self.peers = peers;
    }

    /// When peers are queried again.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.next_round
    }

    /// A link came up, or is of no use any more.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool, io: &mut Io) {
        if up {
            self.linked.insert(peer);
            self.met.insert(peer);
            self.query(now, peer, io);
        } else {
            self.linked.remove(&peer);
            self.miss(peer);
        }
        self.judge(now, io);
    }

    /// A peer is out of reach. With most of them, this node is the one that is away.
    fn miss(&mut self, peer: NodeId) {
        if self.links.remove(&peer).is_some() && 2 * self.links.len() < self.peers {
            let reached = &self.links;
            self.open.extend(self.met.iter().filter(|met| !reached.contains_key(met)));
        }
    }

    /// This node's view of the liveness of a peer has changed: the node does not wait for one that
    /// is down.
    pub(super) fn set_liveness(
        &mut self,
        now: Time,
        peer: NodeId,
        liveness: Liveness,
        io: &mut Io,
    ) {
        if liveness == Liveness::Down {
            self.miss(peer);
        } else if self.linked.contains(&peer) && !self.links.contains_key(&peer) {
            self.query(now, peer, io);
        }
        self.judge(now, io);
    }

    fn query(&mut self, now: Time, peer: NodeId, io: &mut Io) {
        // Where most others were linked all the time, this node was not away.
        let starting = self.started.is_none_or(|started| now < started + GRACE);
        let away = self.open.remove(&peer) || starting || self.links.is_empty();
        self.links.insert(peer, if away { Heard::Nothing } else { Heard::Little });
        io.out.send(vec![peer], self.nonce, Body::QueryHints);
        self.next_round.get_or_insert(now + ROUND);
    }

    /// This process did not run for a while: every peer is queried again.
    pub(super) fn doubt(&mut self, now: Time, io: &mut Io) {
        for heard in self.links.values_mut() {
            *heard = Heard::Nothing;
        }
        self.next_round = Some(now);
        self.judge(now, io);
    }

    /// A peer has answered how many hints it has for this incarnation of this node.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        request_id: RequestId,
        hints: u64,
        io: &mut Io,
    ) {
        if let Some(heard) = self.links.get_mut(&from)
            && (request_id == self.nonce || hints > 0)
        {
            *heard = if hints == 0 { Heard::None } else { Heard::Some };
            if hints > 0 {
                self.next_round.get_or_insert(now + ROUND);
            }
        }
        self.judge(now, io);
    }

    /// Queries the peers again that have not answered that they have none.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        if self.next_round.is_none_or(|due| due > now) {
            return;
        }
        let open = self.links.iter().filter(|(_, heard)| **heard != Heard::None);
        let open: Vec<NodeId> = open.map(|(peer, _)| *peer).collect();
        self.judge(now, io);
        self.next_round = io.local.is_catching_up().then_some(now + ROUND);
        io.out.send(open, self.nonce, Body::QueryHints);
    }

    fn judge(&mut self, now: Time, io: &mut Io) {
        let started = *self.started.get_or_insert(now);
        let linking = now < started + GRACE && self.met.len() < self.peers;
        let may_have = |heard: &Heard| matches!(heard, Heard::Nothing | Heard::Some);
        io.local.set_catching_up(linking || self.links.values().any(may_have));
    }
}
