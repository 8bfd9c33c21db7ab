//! Coming back: a node that was away may lack what others keep for it. Until every peer that it is linked to has
//! said that it has no hints for it, what this node does not find does not count.

use std::collections::{BTreeMap, BTreeSet};

use super::effects::Effects;
use super::ids::RequestId;
use crate::members::Opinion;
use crate::message::Body;
use crate::types::{Micros, NodeId, Time};

/// A peer that has not said that it has none is asked again after this time.
const ROUND: Micros = Micros::from_millis(100);
/// After a start, so long is waited for links to come up.
const GRACE: Micros = Micros::from_millis(1_000);

/// What each linked peer has said since it was linked.
#[derive(Clone, Debug)]
pub(super) struct Returning {
    /// Names this life.
    nonce: RequestId,
    peers: usize,
    linked: BTreeSet<NodeId>,
    /// Those that have been linked in this life.
    met: BTreeSet<NodeId>,
    links: BTreeMap<NodeId, Said>,
    /// Those that were out of reach when most were: whatever they kept for this node since, they may still have.
    owed: BTreeSet<NodeId>,
    started: Option<Time>,
    next_round: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// Nothing yet, and it may have some: this node was away.
    Nothing,
    /// Nothing yet, but it is the other one that was away.
    Little,
    Some,
    None,
}

impl Returning {
    /// A node among `peers` others; `nonce` names its life.
    pub(super) fn new(nonce: u64, peers: usize) -> Self {
        Returning {
            nonce: RequestId::of_wire(nonce),
            peers,
            linked: BTreeSet::new(),
            met: BTreeSet::new(),
            links: BTreeMap::new(),
            owed: BTreeSet::new(),
            started: None,
            next_round: Some(Time::START),
        }
    }

    /// When peers are asked again.
    pub(super) fn next_wake(&self) -> Option<Time> {
        self.next_round
    }

    /// A link came up, or is of no use any more.
    pub(super) fn link(&mut self, now: Time, peer: NodeId, up: bool, fx: &mut Effects) {
        if up {
            self.linked.insert(peer);
            self.met.insert(peer);
            self.ask(now, peer, fx);
        } else {
            self.linked.remove(&peer);
            self.miss(peer);
        }
        self.judge(now, fx);
    }

    /// A peer is out of reach. With most of them, this node is the one that is away.
    fn miss(&mut self, peer: NodeId) {
        if self.links.remove(&peer).is_some() && 2 * self.links.len() < self.peers {
            let reached = &self.links;
            self.owed.extend(self.met.iter().filter(|met| !reached.contains_key(met)));
        }
    }

    /// This node's opinion of a peer has changed: one that is down is not waited for.
    pub(super) fn opine(&mut self, now: Time, peer: NodeId, opinion: Opinion, fx: &mut Effects) {
        if opinion == Opinion::Down {
            self.miss(peer);
        } else if self.linked.contains(&peer) && !self.links.contains_key(&peer) {
            self.ask(now, peer, fx);
        }
        self.judge(now, fx);
    }

    fn ask(&mut self, now: Time, peer: NodeId, fx: &mut Effects) {
        // Where most others were linked all the time, this node was not away.
        let starting = self.started.is_none_or(|started| now < started + GRACE);
        let away = self.owed.remove(&peer) || starting || self.links.is_empty();
        self.links.insert(peer, if away { Said::Nothing } else { Said::Little });
        fx.out.send(vec![peer], self.nonce, Body::AskHints);
        self.next_round.get_or_insert(now + ROUND);
    }

    /// This process did not run for a while: everybody is asked again.
    pub(super) fn doubt(&mut self, now: Time, fx: &mut Effects) {
        for said in self.links.values_mut() {
            *said = Said::Nothing;
        }
        self.next_round = Some(now);
        self.judge(now, fx);
    }

    /// A peer has said how many hints it has for this life of this node.
    pub(super) fn hear(
        &mut self,
        now: Time,
        from: NodeId,
        op: RequestId,
        hints: u64,
        fx: &mut Effects,
    ) {
        if let Some(said) = self.links.get_mut(&from)
            && (op == self.nonce || hints > 0)
        {
            *said = if hints == 0 { Said::None } else { Said::Some };
            if hints > 0 {
                self.next_round.get_or_insert(now + ROUND);
            }
        }
        self.judge(now, fx);
    }

    /// Asks those again that have not said that they have none.
    pub(super) fn tick(&mut self, now: Time, fx: &mut Effects) {
        if self.next_round.is_none_or(|due| due > now) {
            return;
        }
        let open = self.links.iter().filter(|(_, said)| **said != Said::None);
        let open: Vec<NodeId> = open.map(|(peer, _)| *peer).collect();
        self.judge(now, fx);
        self.next_round = fx.local.is_awaiting().then_some(now + ROUND);
        fx.out.send(open, self.nonce, Body::AskHints);
    }

    fn judge(&mut self, now: Time, fx: &mut Effects) {
        let started = *self.started.get_or_insert(now);
        let linking = now < started + GRACE && self.met.len() < self.peers;
        let may_have = |said: &Said| matches!(said, Said::Nothing | Said::Some);
        fx.local.set_awaiting(linking || self.links.values().any(may_have));
    }
}
