//! What a node reports of itself.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::codes::codes;
use super::{Blocked, ComparisonFault, Counter};
use crate::members::{Incarnation, Liveness};
use crate::types::{NodeId, Partition};

/// A node's account of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct StatusReport {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// The id of its store.
    pub store: u64,
    /// How often the store has been started.
    pub incarnation: Incarnation,
    /// True when the last stop was not a clean one.
    pub recovered: bool,
    /// True while it takes requests, writes among them: not before it has learned from its peers
    /// whether its disk is the newest.
    pub serving: bool,
    /// Partitions whose absent keys do not count here.
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
    /// The rules of the emulated network, a line each; none when the network is as it is.
    pub emulated: Vec<String>,
    /// Counts since the start.
    pub counters: Vec<(Counter, u64)>,
    /// How its partitions compare with their other owners.
    pub repair: RepairStatus,
    /// What is to be purged.
    pub tombstone_gc: TombstoneGcStatus,
    /// What holds now.
    pub gauges: Gauges,
    /// The names of the members that live with another ring than the node, as it knows, each with
    /// the version of its ring.
    pub other_rings: Vec<(String, u64)>,
    /// What an operator has to see to.
    pub complaints: Vec<Complaint>,
}

/// What holds at a node now, in numbers.
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
    /// For so many seconds the node's store has made no progress, 1 at least; 0 while it does.
    pub store_stalled_seconds: u64,
    /// Partitions of the node that cannot be served with the configured R and W, because too few
    /// other nodes can be reached.
    pub unservable_partitions: u64,
}

codes! {
    /// What an operator has to see to.
    pub enum Complaint {
        /// A peer does not let this node in.
        #[error("peer {peer} refuses this node: {why}")]
        Refused {
            /// The peer.
            peer: String,
            /// What it says: rejections of a handshake are in words ([`crate::wire::Welcome`]).
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
            /// The peer.
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
            /// The node.
            node: String,
            /// Where it is configured to be, `host:port`.
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
    /// A count; 0 if the node does not have it.
    pub fn count(&self, counter: Counter) -> u64 {
        self.counters.iter().find(|(of, _)| *of == counter).map_or(0, |(_, count)| *count)
    }

    /// What cannot be served because other nodes is missing, in words; `None` if everything can.
    pub fn unservable(&self) -> Option<String> {
        let (unservable, all) = (self.gauges.unservable_partitions, self.partitions);
        let text = format!(
            "{unservable} of {all} partitions of this node cannot be read and written: too few of \
             their other owners are up"
        );
        (unservable > 0).then_some(text)
    }

    /// What is unfinished about the ring, a sentence each.
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
    /// Who.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// True while the link to it is up.
    pub up: bool,
    /// What this node believes of it.
    pub liveness: Liveness,
    /// How surprising its silence is, in hundredths of the phi of the failure detector.
    pub phi_hundredths: u32,
    /// How long it takes to answer a read, in microseconds; `None` before it ever did.
    pub latency_us: Option<u64>,
    /// Hints that this node keeps for it.
    pub hints: u64,
    /// Their size, in bytes.
    pub hint_bytes: u64,
    /// For how long this node has had hints for it without a break, in this incarnation, in
    /// milliseconds.
    pub hint_age_ms: u64,
    /// Messages dropped since the start because its queue was full or its link down.
    pub dropped: u64,
    /// How the partitions of both compare.
    pub repair: PeerRepair,
}

/// Anti-entropy at a node, in short. A pair is a partition that it owns, and another owner of it.
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
    /// Keys here whose clock reports of events that have no value any more.
    pub keys: u64,
    /// Partitions that this node owns whose collection is known to be held back.
    pub blocked: u32,
    /// One of these, and by what.
    pub example: Option<(Partition, Blocked)>,
}

/// Anti-entropy with one peer, in short.
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

/// What a node knows of its partitions and their other owners, as far as it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RepairReport {
    /// The node's name.
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
    /// What the whole node has done of it.
    pub counts: RepairCounts,
}

/// What anti-entropy has done since the start of a node, where it began; what others began is
/// counted there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RepairCounts {
    /// Comparisons that have ended.
    pub exchanges: u64,
    /// Those of them that failed.
    pub exchanges_failed: u64,
    /// Objects that were brought here.
    pub objects_pulled: u64,
    /// Objects that were taken to others.
    pub objects_pushed: u64,
    /// Bytes of the values brought here.
    pub bytes_pulled: u64,
    /// Bytes of the values taken to others.
    pub bytes_pushed: u64,
}

/// A partition and another owner of it, as a node knows them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PairStatus {
    /// The partition.
    pub partition: Partition,
    /// The other owner.
    pub peer: NodeId,
    /// The time since they were last found equal, in milliseconds; `None` before they were, in this
    /// incarnation or since an order to compare them.
    pub equal_ms: Option<u64>,
    /// True while they are being compared, or are to be at once.
    pub pending: bool,
    /// Why the last comparison failed.
    pub failing: Option<ComparisonFault>,
    /// Objects that the last comparison with a difference brought here.
    pub pulled: u64,
    /// Objects that it took there.
    pub pushed: u64,
    /// The bytes of their values.
    pub bytes: u64,
}

/// What the latest round trips of a node took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct SampleReport {
    /// The node's name.
    pub name: String,
    /// By replica, itself among them.
    pub trips: Vec<RecentTrips>,
}

/// The latest round trips to one replica, the latest of each kind up to a limit, in no order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RecentTrips {
    /// The replica.
    pub node: NodeId,
    /// From the question to the copy, in microseconds.
    pub reads_us: Vec<u32>,
    /// From the object to the word that it is synced, in microseconds.
    pub writes_us: Vec<u32>,
}
