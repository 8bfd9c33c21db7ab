//! The fence behind a ring: it has passed once every member has confirmed that it uses that
//! ring. A node introduces itself with the ring of its incarnation, which is durable there, so an
//! introduction is a confirmation; nothing acts under an earlier ring from then on, but a disk that
//! was put back.

use std::collections::BTreeMap;

use crate::ring::RingId;
use crate::types::NodeId;

/// The ring (version and digest) that each other member uses, as it introduced itself last.
#[derive(Clone, Debug, Default)]
pub(super) struct Fence {
    confirmed: BTreeMap<NodeId, RingId>,
}

impl Fence {
    /// A member has introduced itself with this ring.
    pub(super) fn confirm(&mut self, from: NodeId, ring: RingId) {
        self.confirmed.insert(from, ring);
    }

    /// The link to a member is lost: the ring that it uses is unknown from now on, unless it has
    /// confirmed `own`.
    pub(super) fn lose(&mut self, peer: NodeId, own: RingId) {
        if !self.has_confirmed(peer, own) {
            self.confirmed.remove(&peer);
        }
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
