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

/// The replicas of a request by their outcome, by name. Sorted, so that the same outcomes make the
/// same sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct ReplicaOutcomes {
    /// Nodes that counted towards the quorum, or would have.
    pub counted: Vec<String>,
    /// Nodes that answered and did not count towards the quorum.
    pub uncounted: Vec<String>,
    /// Nodes that did not answer or cannot be reached.
    pub silent: Vec<String>,
}

impl ReplicaOutcomes {
    /// Sorts each of the lists of names in byte order.
    pub fn sort(&mut self) {
        for names in [&mut self.counted, &mut self.uncounted, &mut self.silent] {
            names.sort_unstable();
        }
    }
}

/// In brackets, for the end of a sentence; empty if all lists are empty.
impl fmt::Display for ReplicaOutcomes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let parts = [
            ("counted", &self.counted),
            ("answered, not counted", &self.uncounted),
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
    /// Too few replicas can be reached and are read-eligible; nothing was written.
    #[error("no quorum: {reachable} of {needed} replicas can answer{outcomes}")]
    Unreachable {
        /// Slots that can still count.
        reachable: u8,
        /// Slots that R or W requires.
        needed: u8,
        /// The nodes that can count, and those that cannot.
        outcomes: ReplicaOutcomes,
    },
    /// Too few replicas answered a read in time.
    #[error("no quorum: {answered} of {needed} replicas answered in {timeout_ms} ms{outcomes}")]
    NoQuorum {
        /// Slots filled by answers that count.
        answered: u8,
        /// The nodes that answered, and those that did not.
        outcomes: ReplicaOutcomes,
        /// Slots that R requires.
        needed: u8,
        /// The time they had, in milliseconds.
        timeout_ms: u32,
    },
    /// R or W is outside 1..=N.
    #[error("{name} = {given}: n is {n} in this cluster, so {name} is 1 to {n}")]
    Quorum {
        /// The quorum that was given: R or W.
        name: QuorumName,
        /// The number that the request has.
        given: u8,
        /// The cluster's replication factor N.
        n: u8,
    },
    /// A key or a value over its limit.
    #[error(transparent)]
    Size(SizeError),
    /// The context was not made by a get or put of this key, or was altered.
    #[error("the context does not belong to this key or was altered: read the key for a new one")]
    BadContext,
    /// A delete without a context, which says what it deletes.
    #[error("a delete needs a context: read the key first")]
    NoContext,
    /// The write would make one more sibling than the limit.
    #[error(
        "the key has {0} siblings and the limit is {MAX_SIBLINGS}: read first, then put with the \
         context that the read gave"
    )]
    Siblings(u32),
    /// The write would make the object larger than its limit, in encoded bytes.
    #[error(
        "the key would have {0} bytes in all its siblings; the limit is {MAX_OBJECT_BYTES}, or \
         {MAX_MERGED_BYTES} / n if that is less: read first, then put with the context that the \
         read gave"
    )]
    Object(u64),
    /// Too much is in progress already.
    #[error("busy: {what} is at its limit of {limit}; try again")]
    Busy {
        /// The resource that has no room left.
        what: Resource,
        /// The limit of the resource, in its own unit.
        limit: u32,
    },
    /// A deadline of zero or beyond the limit.
    #[error("timeout = {0} ms: a deadline is 1 to {MAX_TIMEOUT_MS} ms")]
    Timeout(u32),
    /// A partition that does not exist.
    #[error("partition {0}: this cluster has {1}")]
    Partition(u16, u16),
    /// The node that was to coordinate is not an owner of the key: the rings differ.
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
        /// The configured reserve, in bytes.
        reserve_bytes: u64,
    },
    /// The node keeps as many bytes of hints for other members as it is allowed to.
    #[error("the node keeps {0} bytes of hints for other members, its limit")]
    Hints(u64),
    /// A hint for a node that is no owner of the key.
    #[error("node {0:?} is no owner of the key: nothing is kept for it")]
    Stranger(NodeId),
    /// The node has not yet learned from its peers whether its disk is the newest.
    #[error("the node is starting: it has heard from {heard} of {peers} other members")]
    Starting {
        /// Peers that have answered.
        heard: u32,
        /// The number of other members, all of which are asked at the start.
        peers: u32,
    },
    /// The node is about to stop, or was drained.
    #[error("the node is stopping or drained")]
    Stopping,
    /// The node did not run for a while, in milliseconds. Requests that reached it meanwhile may
    /// have been given up or carried out elsewhere.
    #[error("the node did not run for {0} ms, and what it is asked may be out of date: ask again")]
    Paused(u32),
    /// The node has not yet read the partition: its Merkle tree is not ready.
    #[error("partition {0} is still being read: its tree is not ready")]
    Unread(u16),
    /// The object is of a GC epoch of the partition that this node cannot accept. The sender has to
    /// read again, or this node has to learn of the newer epoch first.
    #[error("an object of GC epoch {given} of its partition: this node is at {own}")]
    GcState {
        /// The GC epoch of the object.
        given: GcEpoch,
        /// The GC epoch of the partition at this node.
        own: GcEpoch,
    },
    /// A peer compares trees of another shape.
    #[error("a Merkle tree of shape {0:#x}: this node has {SHAPE:#x}")]
    Shape(u32),
    /// A number beyond its limit: of a question about a tree that no tree answers, or of a key that
    /// would outgrow what every node can handle.
    #[error("{what} = {given}: the limit is {limit}")]
    Limit {
        /// The number that is limited.
        what: Measure,
        /// The number that was given or would result.
        given: u64,
        /// The largest number that is accepted.
        limit: u64,
    },
    /// A write without a context found several values: it would have erased what its author was
    /// not shown.
    #[error("the key has {0} siblings: read it, and write with the context that the read gives")]
    Conflict(u32),
    /// A put under the condition that the key is absent found a value.
    #[error("the key has a value: it was to be written only if it has none")]
    Exists,
    /// A write under the condition that nothing has changed found something that its context does
    /// not cover.
    #[error("the key has changed since the read that gave the context")]
    Changed,
    /// A delete without a context found no value.
    #[error("the key has no value")]
    Absent,
    /// The client gave the write up, or its connection ended, before it was carried out.
    #[error("the write was given up before it was carried out")]
    GivenUp,
    /// The node that would have to decide this write speaks an older version of the protocol.
    #[error(
        "the node that would decide this write speaks protocol 7, which has no conditions and no \
         deletes without a context: upgrade it first"
    )]
    OldIssuer,
    /// The sender has another ring than this node. Nothing is waited for: the one with the older
    /// ring is sent the later one.
    #[error("a request of ring version {given}: this node has version {own}")]
    OtherRing {
        /// The version of the ring at the sender.
        given: u64,
        /// The version of the ring at this node.
        own: u64,
    },
}

impl Rejection {
    /// True when another node may carry out the same request: the rejection is about the state of
    /// this one.
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
                | Rejection::GivenUp
        )
    }

    /// True when the node has more work than it takes at a time, and will soon take it.
    pub fn is_overload(&self) -> bool {
        matches!(
            self,
            Rejection::Busy {
                what: Resource::Requests
                    | Resource::NodeQueue
                    | Resource::KeyQueue
                    | Resource::UnsyncedWrites
                    | Resource::UnsyncedBytes,
                ..
            }
        )
    }

    /// True when the condition of a write did not hold (exit code 7).
    pub fn is_condition(&self) -> bool {
        matches!(self, Rejection::Exists | Rejection::Changed)
    }

    /// True when too few replicas were there (exit code 4), not when the request itself was at
    /// fault.
    pub fn is_no_quorum(&self) -> bool {
        matches!(self, Rejection::Unreachable { .. } | Rejection::NoQuorum { .. })
    }
}
