//! The other members and the ring in force, as connections see them: both change while a node runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use pixii_core::members::{Member, Members, MembershipStatus};
use pixii_core::ring::RingId;
use pixii_core::rng::Rng;
use pixii_core::types::NodeId;
use pixii_transport::frames::Outbox;
use pixii_transport::locked;

use super::{Hub, Peer, peers};

/// The other members that are not removed, by id.
pub(crate) type Peers = Arc<BTreeMap<NodeId, Arc<Peer>>>;

/// What a node knows of its cluster at its start.
#[derive(Debug)]
pub(crate) struct Memberships {
    /// The members with the addresses that the configuration has for them.
    pub(crate) configured: Members,
    /// All members, including those that were removed, at the addresses that were heard of last.
    pub(crate) members: Members,
    /// Version and digest of the ring in force.
    pub(crate) ring: RingId,
}

/// What connections are judged by.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// All members, including those that were removed.
    pub(crate) members: Members,
    /// Version and digest of the ring in force.
    pub(crate) ring: RingId,
    pub(crate) peers: Peers,
}

impl Hub {
    /// The members and the ring, as they are now.
    pub(crate) fn known(&self) -> Arc<Known> {
        locked(&self.known).clone()
    }

    /// The other members that are not removed, as they are now.
    pub(crate) fn peers(&self) -> Peers {
        locked(&self.known).peers.clone()
    }

    /// Takes over the members and the ring. Connections with those that are no members any more
    /// end. Returns the ids of those that a link led to.
    pub(crate) fn learn(&self, members: &Members, ring: RingId) -> Vec<NodeId> {
        let before = self.peers();
        let others = members.iter().filter(|member| {
            member.id() != self.identity.me && member.membership != MembershipStatus::Removed
        });
        let peers: BTreeMap<NodeId, Arc<Peer>> = others
            .map(|member| {
                let known = before.get(&member.id()).cloned();
                (member.id(), known.unwrap_or_else(|| self.begin_peer(member)))
            })
            .collect();
        let gone = before.values().filter(|peer| !peers.contains_key(&peer.id));
        let gone: Vec<Arc<Peer>> = gone.cloned().collect();
        let known = Known { members: members.clone(), ring, peers: Arc::new(peers) };
        *locked(&self.known) = Arc::new(known);
        let linked = gone.iter().filter(|peer| peer.outbox.is_open()).map(|peer| peer.id).collect();
        gone.iter().for_each(|peer| peer.end());
        linked
    }

    /// A member that was none before, or was a stranger here, whose connection stays.
    fn begin_peer(&self, member: &Member) -> Arc<Peer> {
        let id = member.id();
        let heard = &member.address;
        let configured = self.configured.get(id).map_or(heard, |configured| &configured.address);
        let outbox = Outbox::new(self.budgets.peer_queues, self.peers_unsent.clone());
        let peer = Peer::new(id, member.name.clone(), (configured, heard), outbox);
        if let Some(stranger) = locked(&self.strangers).remove(&id) {
            *locked(&peer.inbound) = locked(&stranger.inbound).take();
        }
        Arc::new(peer)
    }

    /// Dials the members that are not dialed yet; `rng` spreads the attempts in time.
    pub(crate) fn dial(self: &Arc<Self>, rng: &mut Rng) {
        for peer in self.peers().values() {
            let mut link = locked(&peer.link);
            if link.is_none() {
                let dialing = peers::retain_link(self.clone(), peer.clone(), rng.next_u64());
                *link = Some(tokio::spawn(dialing).abort_handle());
            }
        }
    }
}

impl Peer {
    /// Ends the connections with a node that is no member any more.
    fn end(&self) {
        for task in [locked(&self.link).take(), locked(&self.inbound).take()].iter().flatten() {
            task.abort();
        }
        self.outbox.shut();
    }
}
