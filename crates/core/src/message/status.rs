//! What a node reports about itself.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::codes::codes;
use super::{Blocked, ComparisonFault, Counter};
use crate::members::{Incarnation, Liveness};
use crate::types::{NodeId, Partition};

/// A node's report on its own state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct StatusReport {
    /// The name of the cluster that the node is configured for.
    pub cluster: String,
    /// The configured name of the node.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// The id of its store.
    pub store: u64,
    /// The number of starts of the store so far.
    pub incarnation: Incarnation,
    /// True when the last stop was not a clean one.
    pub recovered: bool,
    /// True while it takes requests: not before it has learned from its peers whether its disk is
    /// the newest.
    pub serving: bool,
    /// Partitions in which the node is read-ineligible.
    pub read_ineligible: u32,
    /// Time since the start, in milliseconds.
    pub uptime_ms: u64,
    /// Partitions that the node owns.
    pub partitions: u32,
    /// Bytes that the store takes on disk.
    pub disk_bytes: u64,
    /// Every other member as this node sees it.
    pub peers: Vec<PeerStatus>,
    /// The limit of the hints that the node keeps for others, in bytes.
    pub hint_limit_bytes: u64,
    /// The rules of the emulated network, a line each; empty without emulation.
    pub emulated: Vec<String>,
    /// Counts since the start.
    pub counters: Vec<(Counter, u64)>,
    /// The state of anti-entropy of its partitions.
    pub repair: RepairStatus,
    /// The state of tombstone GC of its partitions.
    pub tombstone_gc: TombstoneGcStatus,
    /// Values of the moment, unlike the counts in `counters`.
    pub gauges: Gauges,
    /// The names of members that use another ring than this node, each with the version of its
    /// ring.
    pub other_rings: Vec<(String, u64)>,
    /// What an operator has to see to.
    pub complaints: Vec<Complaint>,
}

/// The state of a node at this moment, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Gauges {
    /// True while an operator has taken the node out.
    pub drained: bool,
    /// True while a change of the ring is in flight at the node, or granted by it to another one.
    pub changing_ring: bool,
    /// Keys of the node that are over the limit of what a write may make of one.
    pub oversized_keys: u64,
    /// Partitions in which acknowledged writes may be missing that no other node has, until an
    /// operator accepts it.
    pub partitions_lost: u64,
    /// Seconds for which the node's store has made no progress, 1 at least; 0 while it does.
    pub store_stalled_seconds: u64,
    /// Partitions of the node that cannot be served with the configured R and W, because too few
    /// other nodes can be reached.
    pub unservable_partitions: u64,
}

codes! {
    /// What an operator has to see to.
    pub enum Complaint {
        /// A peer rejects this node's connection.
        #[error("peer {peer} refuses this node: {why}")]
        Refused {
            /// The name of the peer.
            peer: String,
            /// The peer's reason as a sentence, because a handshake has no codes
            /// ([`crate::wire::Welcome`]).
            why: String,
        } = 1,
        /// A peer belongs to another cluster of the same name.
        #[error(
            "peer {peer} belongs to another cluster called {cluster}, which was founded apart from \
             this one (its id is {theirs:016x}, this one's {ours:016x}), by `pixii server \
             --bootstrap` for example: only one of them can stay, and the nodes of the other one \
             begin anew with empty data directories"
        )]
        Foreign {
            /// The name of the peer.
            peer: String,
            /// The name of both clusters.
            cluster: String,
            /// The id of the node's cluster.
            ours: u64,
            /// The id of the peer's cluster.
            theirs: u64,
        } = 2,
        /// The node's own address does not lead to it.
        #[error(
            "node {node} cannot be dialed at {address}, its address among the members: {}; peers \
             that do not find it elsewhere have no link to it",
            found_there(.found)
        )]
        Undialable {
            /// The name of the reporting node.
            node: String,
            /// The address that it is configured with, `host:port`.
            address: String,
            /// The node of the cluster that answers there instead, if one does.
            found: Option<String>,
        } = 3,
    }
}

fn found_there(found: &Option<String>) -> String {
    match found {
        Some(node) => format!("another daemon answers there, node {node}"),
        None => "no node of this cluster answers there".to_owned(),
    }
}

impl StatusReport {
    /// The value of a counter; 0 if the node does not report it.
    pub fn count(&self, counter: Counter) -> u64 {
        self.counters.iter().find(|(of, _)| *of == counter).map_or(0, |(_, count)| *count)
    }

    /// A sentence on partitions that cannot be served because other nodes are missing; `None` if
    /// all can.
    pub fn unservable(&self) -> Option<String> {
        let (unservable, all) = (self.gauges.unservable_partitions, self.partitions);
        let text = format!(
            "{unservable} of {all} partitions of this node cannot be read and written: too few of \
             their other owners are up"
        );
        (unservable > 0).then_some(text)
    }

    /// Unfinished changes of the ring, a sentence each.
    pub fn unfinished_ring(&self) -> Vec<String> {
        let other = |(member, version): &(String, u64)| {
            format!("{member} uses another ring, version {version}, and is reported")
        };
        let mut all: Vec<String> = self.other_rings.iter().map(other).collect();
        if self.gauges.changing_ring {
            all.push("a replacement is in progress".to_owned());
        }
        all
    }
}

/// One peer as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PeerStatus {
    /// The id of the peer: the hash of its name.
    pub id: NodeId,
    /// The configured name of the peer.
    pub name: String,
    /// The address of the peer in the member list, `host:port`.
    pub address: String,
    /// True while the link to it is up.
    pub up: bool,
    /// The liveness of the peer at this node.
    pub liveness: Liveness,
    /// How surprising its silence is, in hundredths of the phi of the failure detector.
    pub phi_hundredths: u32,
    /// How long it takes to answer a read, in microseconds; `None` before its first answer.
    pub latency_us: Option<u64>,
    /// Hints that this node keeps for it.
    pub hints: u64,
    /// Their size, in bytes.
    pub hint_bytes: u64,
    /// For how long this node has had hints for it without a break, in this incarnation, in
    /// milliseconds.
    pub hint_age_ms: u64,
    /// Messages to it dropped since the start because its queue was full or its link down.
    pub dropped: u64,
    /// Anti-entropy of the partitions that both own.
    pub repair: PeerRepair,
}

/// Summary of anti-entropy at a node. A pair is a partition that it owns, and another owner of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RepairStatus {
    /// Partitions that have not been read to their end since the start: they are not compared yet.
    pub unread: u32,
    /// Records that fail their checksum and wait to be fetched from the other owners.
    pub damaged: u64,
    /// Pairs that are being compared, or are to be at once.
    pub pending: u32,
    /// Pairs whose last comparison failed.
    pub failing: u32,
    /// One of these: the partition, the other owner, and why.
    pub example: Option<(Partition, NodeId, ComparisonFault)>,
}

/// Tombstones, and other events without a value, at a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct TombstoneGcStatus {
    /// Keys here whose clock has events without a value.
    pub keys: u64,
    /// Partitions of this node whose tombstone GC is known to be blocked.
    pub blocked: u32,
    /// One of the blocked partitions, and the reason.
    pub example: Option<(Partition, Blocked)>,
}

/// Summary of anti-entropy with one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PeerRepair {
    /// Partitions that both own.
    pub shared: u32,
    /// Those of them that were found equal since the start.
    pub equal: u32,
    /// The longest time since one of them was last found equal, in milliseconds; `None` if one
    /// never was, or none is shared.
    pub oldest_ms: Option<u64>,
    /// Those that are being compared, or are to be at once.
    pub pending: u32,
    /// Those whose last comparison failed.
    pub failing: u32,
}

/// The state of anti-entropy of the pairs that the request selects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RepairReport {
    /// The name of the reporting node.
    pub name: String,
    /// Each partition with each other owner of it.
    pub pairs: Vec<PairStatus>,
    /// Those of the other owners that cannot be reached now.
    pub unreachable: Vec<NodeId>,
    /// Partitions of the whole node that have not been read to their end since the start: they are
    /// not compared yet.
    pub unread: u32,
    /// Records of the whole node that fail their checksum and wait to be fetched from the other
    /// owners.
    pub damaged: u64,
    /// The counts of the whole node since its start.
    pub counts: RepairCounts,
}

/// Counts of the exchanges that a node began since its start; those begun by others are counted
/// there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RepairCounts {
    /// Comparisons that have ended.
    pub exchanges: u64,
    /// Those of them that failed.
    pub exchanges_failed: u64,
    /// Objects fetched from other owners.
    pub objects_pulled: u64,
    /// Objects sent to other owners.
    pub objects_pushed: u64,
    /// Bytes of the values of the objects fetched.
    pub bytes_pulled: u64,
    /// Bytes of the values of the objects sent.
    pub bytes_pushed: u64,
}

/// The state of a pair: a partition that a node owns, and another owner of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PairStatus {
    /// The partition of the pair, owned by both nodes.
    pub partition: Partition,
    /// The id of the other owner of the pair.
    pub peer: NodeId,
    /// The time since they were last found equal, in milliseconds; `None` before they were, in this
    /// incarnation or since an order to compare them.
    pub equal_ms: Option<u64>,
    /// True while they are being compared, or are to be at once.
    pub pending: bool,
    /// Why the last comparison failed; `None` if it did not.
    pub failing: Option<ComparisonFault>,
    /// Objects that the last comparison with a difference brought here.
    pub pulled: u64,
    /// Objects that it took there.
    pub pushed: u64,
    /// The bytes of their values.
    pub bytes: u64,
}

/// The times of the latest round trips of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct SampleReport {
    /// The name of the reporting node.
    pub name: String,
    /// One entry per replica, the node itself included.
    pub trips: Vec<RecentTrips>,
}

/// The latest round trips to one replica, the latest of each kind up to a limit, in no order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RecentTrips {
    /// The id of the replica, which may be the reporting node itself.
    pub node: NodeId,
    /// From the query to the copy, in microseconds.
    pub reads_us: Vec<u32>,
    /// From the object to the acknowledgement that it is synced, in microseconds.
    pub writes_us: Vec<u32>,
}
