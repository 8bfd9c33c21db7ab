//! The placement of keys: a node lives with one ring. A later one, by an operator's command or from a peer that has it,
//! is made durable and ends this life; the next one begins with it. A peer with an older ring is told.

use std::cmp::Ordering;
use std::sync::Arc;

use super::effects::Effects;
use super::forest::own_partitions;
use super::{Config, Notice};
use crate::members::{Member, Members, Standing};
use crate::message::Body;
use crate::ring::{Ring, RingError};
use crate::types::NodeId;

/// The ring of this life, and the one that is to follow.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    me: NodeId,
    ring: Arc<Ring>,
    /// Version and digest of the ring: of two, the higher one is in force.
    id: (u64, u64),
    /// A later ring has been written: it takes effect when this mark is durable.
    taking: Option<u64>,
}

impl Placement {
    pub(super) fn new(config: &Config) -> Self {
        let (ring, id) = (config.ring.clone(), config.ring.id());
        Placement { me: config.me, ring, id, taking: None }
    }

    /// False for a node that has no place in the ring: one that is removed, or is to come. It is no peer.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.ring.has(node)
    }

    /// A peer has introduced itself, with a ring that is earlier than this life's, equal, or later. Whoever has the earlier
    /// one is told of the later one, and is about to begin another life; this one says nothing about that.
    pub(super) fn meet(
        &self,
        from: NodeId,
        op: u64,
        theirs: (u64, u64),
        cluster: Option<u64>,
        fx: &mut Effects,
    ) -> Ordering {
        let own = fx.meta().cluster.as_ref().map(|cluster| cluster.id);
        let same_cluster = own.is_some() && (cluster.is_none() || cluster == own);
        if theirs < self.id && self.id.0 > 1 && same_cluster {
            let (ring, members) = ((*self.ring).clone(), fx.members().clone());
            let mark = fx.last_mark();
            fx.send_synced(Some(mark), from, op, Body::Placement { ring, members });
        }
        theirs.cmp(&self.id)
    }

    /// A peer tells of a later ring.
    pub(super) fn hear(&mut self, from: NodeId, ring: Ring, members: &Members, fx: &mut Effects) {
        if self.taking.is_some() || ring.id() <= self.id || !ring.has(self.me) {
            return;
        }
        if (ring.n(), ring.partitions()) != (self.ring.n(), self.ring.partitions()) {
            return fx.notice(Notice::Misplaced(from));
        }
        self.take(ring, members, fx);
    }

    /// True while a later ring is on its way to the disk.
    pub(super) fn is_changing(&self) -> bool {
        self.taking.is_some()
    }

    /// The operator gives the places of `old` to `new`; `old` is removed for good.
    pub(super) fn replace(
        &mut self,
        old: NodeId,
        new: Member,
        fx: &mut Effects,
    ) -> Result<(), RingError> {
        if self.taking.is_some() {
            return Ok(());
        }
        let ring = self.ring.replace(old, new.id())?;
        let version = ring.version();
        let removed = fx.members().get(old).cloned();
        let removed = removed.map(|old| Member { standing: Standing::Removed, version, ..old });
        let new = Member { standing: Standing::Member, version, ..new };
        let mut members = fx.members().clone();
        members.adopt(&Members::new(removed.into_iter().chain([new]).collect()));
        self.take(ring, &members, fx);
        Ok(())
    }

    fn take(&mut self, ring: Ring, members: &Members, fx: &mut Effects) {
        let own = own_partitions(&self.ring, self.me);
        let mut gained = own_partitions(&ring, self.me);
        gained.retain(|partition| !own.contains(partition));
        self.taking = Some(fx.place(ring, members, gained));
    }

    /// Something is durable: the next life may begin when the next ring is.
    pub(super) fn synced(&mut self, fx: &mut Effects) {
        if self.taking.is_some_and(|mark| fx.is_durable(mark)) {
            self.taking = None;
            fx.end_life();
        }
    }
}
