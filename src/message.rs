//! The words of Pixii: what clients ask, what nodes answer, what replicas say to each other.

mod status;

use std::fmt;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::causal::{Context, Dot, Object};
use crate::generation::{Generation, Grave};
use crate::members::{Beat, Cluster, Life, Member, Members};
use crate::merkle::{Digest, SHAPE};
use crate::types::{
    Blob, Key, MAX_OBJECT_BYTES, MAX_SIBLINGS, MAX_TIMEOUT_MS, NodeId, Partition, SizeError,
    WriteId,
};
pub use status::{
    CollectionStatus, PairStatus, PeerRepair, PeerStatus, RepairCounts, RepairReport, RepairStatus,
    StatusReport,
};

/// How many replicas must take part in a request, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Quorum {
    /// R or W, 1 to N; the cluster's default if not given.
    pub replicas: Option<u8>,
    /// True: only home replicas count. False: a stand-in counts for the home it stands in for. The
    /// cluster's default if not given.
    pub strict: Option<bool>,
}

impl From<Option<u8>> for Quorum {
    fn from(replicas: Option<u8>) -> Self {
        Quorum { replicas, strict: None }
    }
}

/// A request for data. Contexts are sealed (`wire::seal`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Request {
    /// All siblings of a key, merged from `r` replicas.
    Get {
        /// The key.
        key: Key,
        /// Replicas that must answer.
        r: Quorum,
    },
    /// A write that replaces what `context` covers.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Blob,
        /// A sealed context, or nothing when the client has read nothing.
        context: Option<Blob>,
        /// Drawn at random for this write and repeated with it.
        write: WriteId,
        /// Replicas that must hold it.
        w: Quorum,
    },
    /// Forgets what `context` covers.
    Delete {
        /// The key.
        key: Key,
        /// A sealed context; a delete without one is refused.
        context: Option<Blob>,
        /// Replicas that must hold it.
        w: Quorum,
    },
    /// The next keys of a partition in byte order, merged from `r` home replicas; deleted keys included.
    Keys {
        /// The partition.
        partition: Partition,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of keys.
        limit_bytes: u32,
        /// Replicas that must answer.
        r: Option<u8>,
    },
}

impl Request {
    /// True for what changes something.
    pub fn is_write(&self) -> bool {
        matches!(self, Request::Put { .. } | Request::Delete { .. })
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Response {
    /// To a get. No values: the key is absent, and `context` is its tombstone's.
    Found {
        /// Every sibling once.
        values: Vec<Blob>,
        /// Sealed; covers all of them.
        context: Blob,
        /// Replicas that the answer was merged from.
        answered: u8,
    },
    /// To a put or a delete: `w` replicas hold it, synced.
    Written {
        /// The dot of a put.
        dot: Option<Dot>,
        /// Sealed; covers what the client had seen and this write, never an unseen sibling.
        context: Blob,
        /// Values that the key had at the coordinator after the write.
        siblings: u32,
    },
    /// To a listing: keys in byte order.
    Keys {
        /// The keys.
        keys: Vec<Key>,
        /// False when the partition ends here.
        more: bool,
    },
    /// Nothing was done.
    Refused(Refusal),
    /// The write may have happened, or may yet, on fewer than W replicas.
    Unknown {
        /// Replicas that confirmed it in time.
        acknowledged: u8,
        /// Replicas that had to.
        needed: u8,
        /// The deadline that passed, in milliseconds.
        timeout_ms: u32,
    },
}

/// Who took part in a request and who did not, by name, sorted: the same nodes make the same sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Roll {
    /// Who counted, or would have.
    pub counted: Vec<String>,
    /// Who answered with nothing that counts.
    pub uncounted: Vec<String>,
    /// Who did not answer, or cannot be reached.
    pub silent: Vec<String>,
}

impl Roll {
    /// Sorts the names.
    pub fn sort(&mut self) {
        for names in [&mut self.counted, &mut self.uncounted, &mut self.silent] {
            names.sort_unstable();
        }
    }
}

/// In brackets, for the end of a sentence; nothing at all for an empty roll.
impl fmt::Display for Roll {
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
pub enum Refusal {
    /// Too few replicas can be reached and have a word that counts; nothing was written.
    #[error("no quorum: {reachable} of {needed} replicas can answer{roll}")]
    Unreachable {
        /// Slots that can still count.
        reachable: u8,
        /// Slots needed.
        needed: u8,
        /// Who can and who cannot.
        roll: Roll,
    },
    /// Too few replicas answered a read in time.
    #[error("no quorum: {answered} of {needed} replicas answered in {timeout_ms} ms{roll}")]
    NoQuorum {
        /// Slots that were answered for.
        answered: u8,
        /// Who answered and who did not.
        roll: Roll,
        /// Slots needed.
        needed: u8,
        /// The time they had, in milliseconds.
        timeout_ms: u32,
    },
    /// R or W is outside 1..=N.
    #[error("{name} = {given}: this cluster keeps {n} replicas, so {name} is 1 to {n}")]
    Quorum {
        /// "r" or "w".
        name: String,
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
        "the key would have {0} bytes in all its siblings and the limit is {MAX_OBJECT_BYTES}: read \
         first, then put with the context that the read gave"
    )]
    Object(u64),
    /// Too much is under way already.
    #[error("busy: {what} is at its limit of {limit}; try again")]
    Busy {
        /// What is full.
        what: String,
        /// Its limit.
        limit: u32,
    },
    /// A deadline of zero or beyond the limit.
    #[error("timeout = {0} ms: a deadline is 1 to {MAX_TIMEOUT_MS} ms")]
    Timeout(u32),
    /// A partition that does not exist.
    #[error("partition {0}: this cluster has {1}")]
    Partition(u16, u16),
    /// The node that was asked to coordinate is not a home of the key: the rings differ.
    #[error("this node does not hold the key, and a request is forwarded only once")]
    NotHome,
    /// The coordinator's own copy failed its checksum; it mints nothing.
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
    /// What was to be kept as a hint is for a node that is no home replica of the key.
    #[error("node {0:?} is no home replica of the key: nothing is kept for it")]
    Stranger(NodeId),
    /// The node has not yet learned from its peers whether its disk is the newest.
    #[error("the node is starting: it has heard from {heard} of {peers} other members")]
    Starting {
        /// Peers that have answered.
        heard: u32,
        /// All of them.
        peers: u32,
    },
    /// The node is about to stop.
    #[error("the node is stopping")]
    Stopping,
    /// The node did not run for a while: what reached it meanwhile may have been given up, or done elsewhere.
    #[error("the node did not run for {0} ms, and what it is asked may be out of date: ask again")]
    Paused(u32),
    /// The node has not yet read what it holds: its Merkle tree is not ready.
    #[error("partition {0} is still being read: its tree is not ready")]
    Unread(u16),
    /// An object of another generation of the partition than can be taken; its sender is to read again, or this node
    /// to learn of the newer one first.
    #[error("an object of generation {given} of its partition: this node is at {own}")]
    Generation {
        /// The object's.
        given: u64,
        /// This node's.
        own: u64,
    },
    /// A peer compares another kind of tree.
    #[error("a Merkle tree of shape {0:#x}: this node has {SHAPE:#x}")]
    Shape(u32),
    /// A question about a tree that no tree answers.
    #[error("{what} = {given}: the limit is {limit}")]
    Tree {
        /// "level", "node", "nodes", "leaf" or "width".
        what: String,
        /// What was asked.
        given: u64,
        /// The limit.
        limit: u64,
    },
}

impl Refusal {
    /// True when another node might have carried it out: the refusal is about this one.
    pub fn is_about_node(&self) -> bool {
        matches!(
            self,
            Refusal::Busy { .. }
                | Refusal::Damaged
                | Refusal::NoSpace { .. }
                | Refusal::Hints(_)
                | Refusal::Starting { .. }
                | Refusal::Stopping
                | Refusal::Paused(_)
        )
    }

    /// True when too few replicas were there (exit code 4), not when the request itself was at fault.
    pub fn is_no_quorum(&self) -> bool {
        matches!(self, Refusal::Unreachable { .. } | Refusal::NoQuorum { .. })
    }
}

/// What a put or delete does at the replica that coordinates it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Change {
    /// Mint a dot for this value, unless a live value carries the same write id already.
    Put {
        /// The client's id of the write.
        write: WriteId,
        /// The value.
        value: Blob,
    },
    /// Forget what the context covers; mints nothing.
    Delete,
}

/// A message between two nodes (or a node and itself) about the sender's or receiver's operation `op`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PeerMessage {
    /// Chosen by the node that asked; answers repeat it.
    pub op: u64,
    /// What is asked or answered.
    pub body: Body,
}

/// The content of a [`PeerMessage`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Body {
    /// Coordinate this request of a client of mine; never forwarded again.
    Coordinate {
        /// The client's request.
        request: Request,
        /// What is left of its deadline, in milliseconds.
        timeout_ms: u32,
    },
    /// What became of it.
    Coordinated(Response),
    /// Apply a client's change to your copy.
    Update {
        /// The key.
        key: Key,
        /// What the client had seen.
        context: Context,
        /// What it does.
        change: Change,
        /// Nobody, at a home replica. At a stand-in that coordinates: the homes that it keeps the object for.
        keep_for: Vec<NodeId>,
    },
    /// The object after the update. It is not synced yet: `Held` follows when it is.
    Updated {
        /// The whole object.
        object: Object,
        /// The dot of a put.
        dot: Option<Dot>,
        /// The generation of the partition at which it was minted, or that of the oldest part of it.
        generation: u64,
    },
    /// Merge this object into your copy.
    Merge {
        /// The key.
        key: Key,
        /// The sender's copy.
        object: Object,
        /// The generation of the partition at which that was minted or read.
        generation: u64,
    },
    /// Keep this object as a hint for these home replicas, which did not answer.
    Keep {
        /// The key.
        key: Key,
        /// The sender's copy.
        object: Object,
        /// Whom it is for.
        keep_for: Vec<NodeId>,
        /// The generation of the partition at which the object was minted or read.
        generation: u64,
    },
    /// What was to be updated, merged or kept is here, synced.
    Held,
    /// From a node to itself: `target` holds this object, synced, so the hint that equals it can go.
    Discharge {
        /// The key.
        key: Key,
        /// Whom the hint was for.
        target: NodeId,
        /// What the target holds.
        object: Object,
    },
    /// From a node to itself: the other homes have this of the key, whose record here is damaged.
    Restore {
        /// The key.
        key: Key,
        /// What they have, merged.
        object: Object,
    },
    /// How many hints have you for me? `op` is the life's nonce.
    AskHints,
    /// So many; when none, that is synced.
    Hints(u64),
    /// Who is alive, and who is a member.
    Gossip(Gossip),
    /// What do you know of this key?
    Read {
        /// The key.
        key: Key,
    },
    /// My copy, synced; empty if I never heard of the key.
    Copy {
        /// The copy.
        object: Object,
        /// False if I may have forgotten something: the answer adds to a read and counts for nothing.
        authoritative: bool,
        /// The homes that I, a stand-in, keep this for.
        kept_for: Vec<NodeId>,
        /// My generation of the partition, or that of the oldest hint in it.
        generation: u64,
    },
    /// List your keys of a partition.
    List {
        /// The partition.
        partition: Partition,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of keys.
        limit_bytes: u32,
    },
    /// My keys in byte order.
    Listed {
        /// The keys.
        keys: Vec<Key>,
        /// False when the partition ends here.
        more: bool,
        /// False if I may have forgotten something.
        authoritative: bool,
    },
    /// This is who I am: sent when a link comes up, and until it is answered. `op` is the life's nonce.
    Introduce {
        /// The life of the sender's store.
        life: Life,
        /// The id of its cluster, if it is in one.
        cluster: Option<u64>,
    },
    /// This is what I know of you, and who I am.
    Known {
        /// The last life of yours that I had seen before this one.
        seen: Option<Life>,
        /// The birth of my store.
        birth: u64,
        /// My cluster, if I am in one.
        cluster: Option<Cluster>,
    },
    /// I did not do it, and it changed nothing here.
    Failed(Refusal),
    /// Is what we hold of this partition the same?
    Compare {
        /// The partition.
        partition: Partition,
        /// The shape of my tree ([`crate::merkle::SHAPE`]).
        shape: u32,
        /// Bytes of each summary wanted, 1 to 8. The salt of all summaries is the question's `op`.
        width: u8,
        /// My root.
        root: Digest,
        /// My generation of the partition: in another one, other things are collected.
        generation: u64,
    },
    /// It is: our roots are the same.
    Equal,
    /// What are the children of these nodes of your tree?
    Descend {
        /// The partition.
        partition: Partition,
        /// Bytes of each summary wanted, 1 to 8.
        width: u8,
        /// The level of these nodes; 0 is the root.
        level: u8,
        /// Their places on it.
        nodes: Vec<u16>,
    },
    /// The summaries of the children of each node, in order; those of the root, if the roots differ.
    Summaries(Blob),
    /// Which keys have you in these leaves?
    Leaves {
        /// The partition.
        partition: Partition,
        /// The leaves; all if not given.
        leaves: Option<Vec<u16>>,
        /// Start behind this key.
        after: Option<Key>,
    },
    /// These, in byte order.
    Items {
        /// The keys, and what is known of each.
        items: Vec<Item>,
        /// Go on behind this key; `None` when there are no more.
        next: Option<Key>,
    },
    /// From a node to itself: these events of the key are dead at every home that confirms it.
    Bury(Grave),
    /// From a node to itself: some events of the key are collected.
    Collect {
        /// The key.
        key: Key,
    },
    /// From a node to itself: the record of the key, or what is kept of it, is old, of a disk that was rolled back.
    Renounce {
        /// The key.
        key: Key,
        /// Whom the old hint is for; `None` if it is about the record.
        target: Option<NodeId>,
    },
    /// May the partition's next generation begin, in which these events are condemned?
    Propose {
        /// The partition.
        partition: Partition,
        /// Its generation now.
        generation: u64,
        /// The digest of my list of members.
        members: u64,
        /// What is dead at every home once all have agreed.
        condemned: Vec<Grave>,
    },
    /// As far as I am concerned, it may: I keep no hint of an older generation, and what is condemned is dead here, synced.
    Agreed,
    /// Not yet.
    NotYet(String),
    /// The generations that I know of all partitions.
    Generations {
        /// The digest of their numbers.
        digest: u64,
        /// True if I know that my disk is as new as everybody's.
        certain: bool,
    },
    /// The numbers of all that are not the first one.
    GenerationNumbers(Vec<(Partition, u64)>),
    /// Which generation has this partition?
    AskGeneration(Partition),
    /// This one.
    Generation {
        /// The partition.
        partition: Partition,
        /// Its generation.
        generation: Generation,
    },
}

/// A key of a leaf, as replicas compare it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Item {
    /// The key.
    pub key: Key,
    /// Every event that its object knows of.
    pub context: Context,
    /// The last 32 bits of its digest.
    pub check: u32,
}

/// What gossip carries: both directions of an anti-entropy of heartbeats and members (van Renesse et al.,
/// "Efficient reconciliation and flow control for anti-entropy protocols", 2008).
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Gossip {
    /// What I know, in short.
    Digest {
        /// The newest heartbeat that I know of each member.
        beats: Vec<(NodeId, Beat)>,
        /// The digest of my list of members.
        members: u64,
    },
    /// What you did not know.
    News {
        /// Newer heartbeats than yours, those furthest ahead first.
        beats: Vec<(NodeId, Beat)>,
        /// My list of members, if it differs.
        members: Vec<Member>,
        /// The digest of it.
        digest: u64,
        /// Members whose heartbeat you know better: tell me.
        wanted: Vec<NodeId>,
    },
}

/// What is to become of the emulated network of a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum EmulateOrder {
    /// Nothing: tell its rules.
    Show,
    /// These rules hold from now on, in the place of all others.
    Set(String),
    /// None holds any more.
    Clear,
}

/// What a client sends: a call, answered by a [`Reply`] with the same id, in any order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Call {
    /// Chosen by the client, unique among its calls under way on this connection.
    pub id: u64,
    /// What it asks.
    pub body: CallBody,
}

/// The content of a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum CallBody {
    /// Read or write.
    Data {
        /// The request.
        request: Request,
        /// How long it may take, in milliseconds.
        timeout_ms: u32,
    },
    /// Who are the members, and how are keys placed?
    Ring,
    /// How are you?
    Status,
    /// Emulate a network.
    Emulate(EmulateOrder),
    /// Finish what runs, close the store and exit.
    Stop,
    /// What do you know of your partitions and their other homes?
    Repair {
        /// True: compare these at once, first.
        begin: bool,
        /// Only this partition.
        partition: Option<Partition>,
        /// Only with this home.
        peer: Option<NodeId>,
    },
}

/// What a node sends to a client.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Reply {
    /// The call's id.
    pub id: u64,
    /// The answer.
    pub body: ReplyBody,
}

/// The content of a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum ReplyBody {
    /// To `Data`.
    Data(Response),
    /// To `Ring`.
    Ring(RingReport),
    /// To `Status`.
    Status(StatusReport),
    /// To `Emulate`: the rules that hold now, a line each, or why they do not.
    Emulated(Result<Vec<String>, String>),
    /// To `Stop`: the node stops now.
    Stopping,
    /// To `Repair`: what is known, or why nothing is compared.
    Repair(Result<RepairReport, String>),
}

/// All that a client needs to place keys itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RingReport {
    /// Every member.
    pub members: Members,
    /// Replicas of each key.
    pub n: u8,
    /// Number of partitions.
    pub partitions: u16,
    /// Default R.
    pub r: u8,
    /// Default W.
    pub w: u8,
    /// True if only home replicas count unless a request says otherwise.
    pub strict: bool,
    /// Members that this node cannot use now: unreachable, silent or believed to be down.
    pub avoided: Vec<NodeId>,
}
