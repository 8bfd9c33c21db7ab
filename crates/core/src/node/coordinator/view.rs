//! Which nodes a coordinator can use now: linked, and not marked down.

use std::collections::{BTreeMap, BTreeSet};

use crate::members::Liveness;
use crate::node::reach::Reach;
use crate::types::{Micros, NodeId, Time};

/// The other members as the coordinator may use them.
#[derive(Clone, Debug)]
pub(super) struct View {
    me: NodeId,
    reach: Reach,
    suspect: BTreeSet<NodeId>,
    /// Nodes that refused a hint because they have no room, with the time until which they are
    /// avoided, and their limit.
    full: BTreeMap<NodeId, (Time, u64)>,
    /// Nodes that gave no sign that they have a write which was forwarded to them, with the time
    /// until which they get no other one.
    quiet: BTreeMap<NodeId, Time>,
}

/// A node that keeps as many hints as it may is not asked to keep more for this time.
const FULL: Micros = Micros::from_millis(1_000);
/// A node that was quiet gets no write to decide for this time, or until it says something. If it
/// hangs for good, gossip suspects it a little later.
const QUIET: Micros = Micros::from_millis(2_000);

impl View {
    /// At first no node is linked, and none is suspected.
    pub(super) fn new(me: NodeId) -> Self {
        let (reach, suspect, full, quiet) = Default::default();
        View { me, reach, suspect, full, quiet }
    }

    /// A link came up or went down.
    pub(super) fn link(&mut self, peer: NodeId, up: bool) {
        self.reach.link(peer, up);
    }

    /// This node's view of the liveness of a peer has changed.
    pub(super) fn set_liveness(&mut self, peer: NodeId, liveness: Liveness) {
        self.reach.set_liveness(peer, liveness);
        if liveness == Liveness::Suspect {
            self.suspect.insert(peer);
        } else {
            self.suspect.remove(&peer);
        }
    }

    /// A node has refused a hint, because it keeps as many bytes as its limit says.
    pub(super) fn note_full(&mut self, now: Time, node: NodeId, limit: u64) {
        self.full.insert(node, (now + FULL, limit));
    }

    /// The limit of hints of a node that has refused one lately.
    pub(super) fn full(&self, now: Time, node: NodeId) -> Option<u64> {
        let (until, limit) = self.full.get(&node)?;
        (*until > now).then_some(*limit)
    }

    /// A node has given no sign that it has a write which was forwarded to it.
    pub(super) fn note_quiet(&mut self, now: Time, node: NodeId) {
        self.quiet.insert(node, now + QUIET);
    }

    /// A node has said something.
    pub(super) fn note_heard(&mut self, node: NodeId) {
        self.quiet.remove(&node);
    }

    /// True if the node was quiet a moment ago, and nothing was heard of it since.
    pub(super) fn is_quiet(&self, now: Time, node: NodeId) -> bool {
        self.quiet.get(&node).is_some_and(|until| *until > now)
    }

    /// True if there is a link to this node, whatever is known of its liveness.
    pub(super) fn is_linked(&self, node: NodeId) -> bool {
        self.reach.is_linked(node)
    }

    /// True if something can be sent to this node with a hope for an answer.
    pub(super) fn can_use(&self, node: NodeId) -> bool {
        node == self.me || self.reach.has(node)
    }

    /// True if an answer of this node is in doubt: another one is queried beside it.
    pub(super) fn doubts(&self, node: NodeId) -> bool {
        self.suspect.contains(&node)
    }
}
