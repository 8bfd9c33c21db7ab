//! Why a request is not carried out, each in one sentence with its numbers.

use std::fmt;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::{Measure, QuorumName, Resource};
use crate::gc_epoch::GcEpoch;
use crate::merkle::SHAPE;
use crate::types::{
    MAX_MERGED_BYTES, MAX_OBJECT_BYTES, MAX_SIBLINGS, MAX_TIMEOUT_MS, NodeId, SizeError,
};

/// Who took part in a request and who did not, by name, sorted: the same nodes make the same
/// sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct ReplicaOutcomes {
    /// Who counted, or would have.
    pub counted: Vec<String>,
    /// Who answered with nothing that counts.
    pub uncounted: Vec<String>,
    /// Who did not answer, or cannot be reached.
    pub silent: Vec<String>,
}

impl ReplicaOutcomes {
    /// Sorts the names.
    pub fn sort(&mut self) {
        for names in [&mut self.counted, &mut self.uncounted, &mut self.silent] {
            names.sort_unstable();
        }
    }
}

/// In brackets, for the end of a sentence; nothing at all for an empty roll.
impl fmt::Display for ReplicaOutcomes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let parts = [
            ("counted", &self.counted),
            ("without a word that counts", &self.uncounted),
            ("silent or unreachable", &self.silent),
        ];
        let parts = parts.into_iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> =
            parts.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect();
        if parts.is_empty() { Ok(()) } else { write!(f, " ({})", parts.join("; ")) }
    }
}

/// Why a request was not carried out. The state is as if it had never been made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Rejection {
    /// Too few replicas can be reached and have a word that counts; nothing was written.
    #[error("no quorum: {reachable} of {needed} replicas can answer{outcomes}")]
    Unreachable {
        /// Slots that can still count.
        reachable: u8,
        /// Slots needed.
        needed: u8,
        /// Who can and who cannot.
        outcomes: ReplicaOutcomes,
    },
    /// Too few replicas answered a read in time.
    #[error("no quorum: {answered} of {needed} replicas answered in {timeout_ms} ms{outcomes}")]
    NoQuorum {
        /// Slots that were answered for.
        answered: u8,
        /// Who answered and who did not.
        outcomes: ReplicaOutcomes,
        /// Slots needed.
        needed: u8,
        /// The time they had, in milliseconds.
        timeout_ms: u32,
    },
    /// R or W is outside 1..=N.
    #[error("{name} = {given}: n is {n} in this cluster, so {name} is 1 to {n}")]
    Quorum {
        /// Which of the two.
        name: QuorumName,
        /// What was asked for.
        given: u8,
        /// The replication factor.
        n: u8,
    },
    /// A key or a value over its limit.
    #[error(transparent)]
    Size(SizeError),
    /// The context was not made by a get or put of this key, or was altered.
    #[error("the context does not belong to this key or was altered: read the key for a new one")]
    BadContext,
    /// A delete must say what it deletes.
    #[error("a delete needs a context: read the key first")]
    NoContext,
    /// One more sibling than the limit.
    #[error(
        "the key has {0} siblings and the limit is {MAX_SIBLINGS}: read first, then put with the \
         context that the read gave"
    )]
    Siblings(u32),
    /// The object would pass its limit.
    #[error(
        "the key would have {0} bytes in all its siblings; the limit is {MAX_OBJECT_BYTES}, or \
         {MAX_MERGED_BYTES} / n if that is less: read first, then put with the context that the \
         read gave"
    )]
    Object(u64),
    /// Too much is in progress already.
    #[error("busy: {what} is at its limit of {limit}; try again")]
    Busy {
        /// What is full.
        what: Resource,
        /// Its limit.
        limit: u32,
    },
    /// A deadline of zero or beyond the limit.
    #[error("timeout = {0} ms: a deadline is 1 to {MAX_TIMEOUT_MS} ms")]
    Timeout(u32),
    /// A partition that does not exist.
    #[error("partition {0}: this cluster has {1}")]
    Partition(u16, u16),
    /// The node that was asked to coordinate is not an owner of the key: the rings differ.
    #[error("this node does not hold the key, and a request is forwarded only once")]
    NotOwner,
    /// The coordinator's own copy failed its checksum; it issues nothing.
    #[error("the coordinator's copy of the key is damaged; ask another node")]
    Damaged,
    /// The node's disk is nearly full; it takes writes again by itself when there is room.
    #[error("the node's disk has {free_bytes} bytes left and keeps {reserve_bytes} in reserve")]
    NoSpace {
        /// Bytes that are free.
        free_bytes: u64,
        /// The configured reserve.
        reserve_bytes: u64,
    },
    /// The node keeps as many bytes of hints for other members as it is allowed to.
    #[error("the node keeps {0} bytes of hints for other members, its limit")]
    Hints(u64),
    /// What was to be kept as a hint is for a node that is no owner of the key.
    #[error("node {0:?} is no owner of the key: nothing is kept for it")]
    Stranger(NodeId),
    /// The node has not yet learned from its peers whether its disk is the newest.
    #[error("the node is starting: it has heard from {heard} of {peers} other members")]
    Starting {
        /// Peers that have answered.
        heard: u32,
        /// All of them.
        peers: u32,
    },
    /// The node is about to stop, or was drained.
    #[error("the node is stopping or drained")]
    Stopping,
    /// The node did not run for a while: what reached it meanwhile may have been given up, or done
    /// elsewhere.
    #[error("the node did not run for {0} ms, and what it is asked may be out of date: ask again")]
    Paused(u32),
    /// The node has not yet read what it holds: its Merkle tree is not ready.
    #[error("partition {0} is still being read: its tree is not ready")]
    Unread(u16),
    /// An object of another GC epoch of the partition than can be taken; its sender is to read
    /// again, or this node to learn of the newer one first.
    #[error("an object of GC epoch {given} of its partition: this node is at {own}")]
    GcState {
        /// The object's.
        given: GcEpoch,
        /// This node's.
        own: GcEpoch,
    },
    /// A peer compares another kind of tree.
    #[error("a Merkle tree of shape {0:#x}: this node has {SHAPE:#x}")]
    Shape(u32),
    /// A number beyond its limit: of a question about a tree that no tree answers, or of a key that
    /// would outgrow what every node can handle.
    #[error("{what} = {given}: the limit is {limit}")]
    Limit {
        /// What is counted.
        what: Measure,
        /// What was asked.
        given: u64,
        /// The limit.
        limit: u64,
    },
}

impl Rejection {
    /// True when another node might have carried it out: the rejection is about this one.
    pub fn is_about_node(&self) -> bool {
        matches!(
            self,
            Rejection::Busy { .. }
                | Rejection::Damaged
                | Rejection::NoSpace { .. }
                | Rejection::Hints(_)
                | Rejection::Starting { .. }
                | Rejection::Stopping
                | Rejection::Paused(_)
        )
    }

    /// True when too few replicas were there (exit code 4), not when the request itself was at
    /// fault.
    pub fn is_no_quorum(&self) -> bool {
        matches!(self, Rejection::Unreachable { .. } | Rejection::NoQuorum { .. })
    }
}
