//! Which members can be reached now, as a role sees it: linked, and not marked down.

use std::collections::BTreeSet;

use crate::members::Liveness;
use crate::types::NodeId;

/// No node can be reached at first.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    links: BTreeSet<NodeId>,
    down: BTreeSet<NodeId>,
}

impl Reach {
    /// A link came up or went down.
    pub(super) fn link(&mut self, peer: NodeId, up: bool) {
        if up {
            self.links.insert(peer);
        } else {
            self.links.remove(&peer);
        }
    }

    /// This node's view of the liveness of a peer has changed; true if it is marked down from now
    /// on, or no more.
    pub(super) fn set_liveness(&mut self, peer: NodeId, liveness: Liveness) -> bool {
        match liveness {
            Liveness::Down => self.down.insert(peer),
            Liveness::Up | Liveness::Suspect => self.down.remove(&peer),
        }
    }

    /// True if there is a link, whatever is known of the member's liveness.
    pub(super) fn is_linked(&self, peer: NodeId) -> bool {
        self.links.contains(&peer)
    }

    /// True if something can be sent to this member with a hope for an answer.
    pub(super) fn has(&self, peer: NodeId) -> bool {
        self.links.contains(&peer) && !self.down.contains(&peer)
    }

    /// All that can be reached, in order.
    pub(super) fn all(&self) -> Vec<NodeId> {
        self.links.difference(&self.down).copied().collect()
    }
}
