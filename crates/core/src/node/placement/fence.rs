//! The fence behind a ring: it has passed once every member has confirmed that it uses that ring. A
//! node introduces itself with the ring in force there, which is durable, so an introduction is a
//! confirmation; nothing acts under an earlier ring from then on, but a disk that was put back.

use std::collections::{BTreeMap, BTreeSet};

use crate::ring::RingId;
use crate::types::NodeId;

/// The ring (version and digest) that each other member uses, as it introduced itself last.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    confirmed: BTreeMap<NodeId, RingId>,
    /// The nonce of the process in which each did: in one, its ring only becomes a later one.
    nonces: BTreeMap<NodeId, u64>,
    /// Members that were at least as far as this node when they introduced themselves on their
    /// present link, or have come to it since.
    accepted: BTreeSet<NodeId>,
    /// Members that have introduced themselves on their present link, or answered that of this
    /// node.
    introduced: BTreeSet<NodeId>,
}

impl Fence {
    /// A member has introduced itself with this ring; `own` is the one in force here.
    pub(super) fn confirm(&mut self, from: NodeId, nonce: u64, ring: RingId, own: RingId) {
        self.introduced.insert(from);
        let is_same = self.nonces.insert(from, nonce) == Some(nonce);
        if is_same && self.ring_of(from).is_some_and(|known| known > ring) {
            // Another introduction has overtaken this one.
            return;
        }
        self.confirmed.insert(from, ring);
        match ring >= own {
            true => self.accepted.insert(from),
            false => self.accepted.remove(&from),
        };
    }

    /// A member has answered this node's introduction under the ring in force here, which only a
    /// node with the same ring does.
    pub(super) fn confirm_own(&mut self, from: NodeId, own: RingId) {
        self.confirmed.insert(from, own);
        self.accepted.insert(from);
        self.introduced.insert(from);
    }

    /// True for a member that has introduced itself on its present link.
    pub(super) fn is_introduced(&self, member: NodeId) -> bool {
        self.introduced.contains(&member)
    }

    /// The link to a member is lost: the ring that it uses is unknown from now on, unless it has
    /// confirmed `own`.
    pub(super) fn lose(&mut self, peer: NodeId, own: RingId) {
        self.accepted.remove(&peer);
        self.introduced.remove(&peer);
        if !self.has_confirmed(peer, own) {
            self.confirmed.remove(&peer);
        }
    }

    /// Forgets all but these.
    pub(super) fn keep(&mut self, is_kept: impl Fn(NodeId) -> bool) {
        self.confirmed.retain(|node, _| is_kept(*node));
        self.accepted.retain(|node| is_kept(*node));
        self.introduced.retain(|node| is_kept(*node));
    }

    /// The ring that a member has introduced itself with.
    pub(super) fn ring_of(&self, member: NodeId) -> Option<RingId> {
        self.confirmed.get(&member).copied()
    }

    /// True if what a member asks under the ring before the one in force is taken.
    pub(super) fn is_accepted(&self, member: NodeId) -> bool {
        self.accepted.contains(&member)
    }

    /// True if a member uses this ring.
    pub(super) fn has_confirmed(&self, member: NodeId, ring: RingId) -> bool {
        self.confirmed.get(&member) == Some(&ring)
    }

    /// The linked members that live with another ring than `own`, each with its version.
    pub(super) fn with_other_rings(&self, own: RingId) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        let others = self.confirmed.iter().filter(move |(_, ring)| **ring != own);
        others.map(|(node, ring)| (*node, ring.version))
    }
}
