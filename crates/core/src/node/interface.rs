//! The inputs and outputs of the machine.

use std::sync::Arc;

use super::ids::{ReadToken, ScanToken, SyncSeq};
use crate::gc_epoch::GcState;
use crate::members::{Liveness, Member, Members};
use crate::merkle::KeptTree;
use crate::message::{PeerMessage, Request, Response};
use crate::ring::{Edit, Ring, RingError, RingId, Step};
use crate::store::{Change, Found, HintPage, HintTotal, Kept, Listing, ScanPage, Span};
use crate::types::{Key, MILLI, Micros, NodeId, Nodes, ObjectLimits, Partition, REPEAT_WINDOW};

/// An answer to a read is late after the replica's mean time and four mean deviations, but not
/// before the first of these times, and after the second at the latest. Another replica is queried
/// then.
pub const LATE_READ: (Micros, Micros) = (Micros::from_millis(5), Micros::from_millis(250));
/// One read in this many queries the owners in the order of the ring instead of the fastest first,
/// so that no replica is judged by old answers alone.
pub const EXPLORE: u64 = 64;

/// The configuration of a node, and what its store keeps, given at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id of this node.
    pub me: NodeId,
    /// The ring in force at the start.
    pub ring: Arc<Ring>,
    /// R of requests that name none, 1 to N.
    pub r: u8,
    /// W of requests that name none, 1 to N.
    pub w: u8,
    /// True if only owners count for requests that do not say.
    pub strict: bool,
    /// Every member, this node included: the configured list, with newer entries from the store
    /// merged in.
    pub members: Members,
    /// Time between two rounds of gossip.
    pub gossip_interval: Micros,
    /// A member that was silent for this long, and for surprisingly long, is marked down.
    pub gossip_timeout: Micros,
    /// Most bytes of hints that are kept for other members.
    pub hint_limit_bytes: u64,
    /// How large the object of one key may become. Only tests have others than
    /// [`ObjectLimits::of`] the ring's N; all nodes of a cluster have the same.
    pub object_limits: ObjectLimits,
    /// A hint of this age is also offered to the other owners.
    pub hint_age: Micros,
    /// Each partition is compared with every other owner of it about as often as this.
    pub repair_interval: Micros,
    /// All that is on disk is read once in this time.
    pub scrub_interval: Micros,
    /// Most bytes a second of records that are taken over from others; 0 for no limit.
    pub transfer_bytes_per_second: u64,
    /// Bytes of records in one page that is sent to another node, about. Only tests have others.
    pub transfer_page_bytes: usize,
    /// A GC epoch of a partition lasts at least this long: longer than most requests.
    pub gc_epoch_pause: Micros,
    /// What the store keeps for other members at the start.
    pub hints: Kept,
    /// The GC epochs of partitions that the store knows at the start.
    pub gc_epochs: Vec<(Partition, GcState)>,
    /// The partitions that the store has records of at the start ([`crate::store::held`]), whether
    /// the node owns them or not.
    pub held: Vec<Partition>,
    /// The trees of a clean stop, if nothing was written since.
    pub trees: Vec<KeptTree>,
    /// Drawn at random at each start.
    pub boot_nonce: u64,
    /// True if the operator says that this is a new cluster: it is founded by the members that
    /// answer, not only by all.
    pub bootstrap: bool,
    /// Events of a put that was sent to several nodes are kept in the clocks for this time after
    /// they are known to be dead, twice that at most; see [`REPEAT_WINDOW`].
    pub repeat_window: Micros,
}

/// A page of records that is sent to another node, in bytes. A frame has room for it and the
/// largest record, which may come behind it.
const PAGE_OF_RECORDS: usize = 512 << 10;

impl Config {
    /// A node of these members as a daemon is by default, on an empty disk; W and R are the
    /// majority.
    pub fn new(me: NodeId, ring: Arc<Ring>, members: Members) -> Self {
        let majority = ring.n() / 2 + 1;
        Config {
            object_limits: ObjectLimits::of(ring.n()),
            me,
            ring,
            r: majority,
            w: majority,
            strict: false,
            members,
            gossip_interval: 500 * MILLI,
            gossip_timeout: 5_000 * MILLI,
            hint_limit_bytes: 1 << 30,
            hint_age: 10_800_000 * MILLI,
            repair_interval: 60_000 * MILLI,
            scrub_interval: 86_400_000 * MILLI,
            transfer_bytes_per_second: 32 << 20,
            transfer_page_bytes: PAGE_OF_RECORDS,
            gc_epoch_pause: 2_000 * MILLI,
            hints: Kept::default(),
            gc_epochs: Vec::new(),
            held: Vec::new(),
            trees: Vec::new(),
            boot_nonce: 0,
            bootstrap: false,
            repeat_window: REPEAT_WINDOW,
        }
    }
}

/// Names a client's connection; the driver never uses one twice.
pub type ClientId = u64;

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed: due after [`super::Node::next_wake`].
    Tick,
    /// The link to a peer came up or went down. All links are down at the start.
    Link {
        /// The node at the other end of the link.
        peer: NodeId,
        /// Whether messages can be sent to it now.
        up: bool,
    },
    /// A peer sent a message.
    Peer {
        /// The id of the node that sent it.
        from: NodeId,
        /// The message, decoded from its frame.
        message: PeerMessage,
    },
    /// A client made a request; exactly one [`Output::Reply`] follows.
    Client {
        /// The connection that the request came on; the reply goes to it.
        client: ClientId,
        /// The call's id on this connection.
        id: u64,
        /// The read or write to carry out.
        request: Request,
        /// How long it may take, in milliseconds.
        timeout_ms: u32,
    },
    /// A client waits no more for the reply to a call: a write that is to be decided here and was
    /// not is void. The reply is made all the same.
    GiveUp {
        /// The connection that the call came on.
        client: ClientId,
        /// The call's id on this connection; `None` if the connection has ended.
        call: Option<u64>,
    },
    /// The store has done something.
    Store(Done),
    /// Compare at once: this partition, or all, with this owner, or all.
    Repair {
        /// The partition to compare; `None`: all that this node owns.
        partition: Option<Partition>,
        /// The other owner to compare with; `None`: all of them.
        peer: Option<NodeId>,
    },
    /// The operator accepts that acknowledged writes are gone where this node is the only owner and
    /// has lost its disk; [`Notice::LossAccepted`] follows when that is durable, if there are any.
    AcceptLoss,
    /// The operator wants the ring changed; [`Output::RingOrdered`] follows, within about 3 s if
    /// the disk answers.
    Ring(RingOrder),
    /// The disk's free space went below the reserve, or there is room again.
    Space(Option<Shortage>),
    /// The store makes no progress, or does again: until then no request waits for it.
    Stalled(Option<Stall>),
    /// From now on, or no more, every request is refused, and nothing more is kept for other
    /// members: others do that.
    Drain(bool),
    /// These limits hold from now on.
    Limits(Limits),
}

/// An operator's order about the ring.
#[derive(Clone, Debug)]
pub enum RingOrder {
    /// Begin a change.
    Begin {
        /// What is to be different after it ([`Ring::begin`]).
        edits: Vec<Edit>,
        /// The nodes that join, with their addresses: checked to be names and addresses that no
        /// member has.
        newcomers: Vec<Member>,
    },
    /// Go back to the table before the change that the ring is in.
    Cancel,
    /// Remove a node without a place in the ring for good, with whatever it still holds: one that
    /// was to join, or one on its way out that is gone.
    Dismiss(NodeId),
}

/// A change of the ring for which grants are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingChange {
    /// The digest of the ring that is to be made.
    pub next: u64,
    /// The node that was ordered to make the change.
    pub by: NodeId,
}

/// The reason why an order about the ring was not carried out. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// Another change is in progress, if it is known which, at this node.
    Other(Option<RingChange>, NodeId),
    /// Too few members granted it in time.
    Grants {
        /// How many did, this node among them.
        granted: usize,
        /// Members that the change would go on with, this node included.
        members: usize,
        /// All members, those that are gone included.
        all: usize,
    },
    /// There is no such ring.
    Ring(RingError),
    /// The node that was ordered has no place in the ring, or is named as one that is gone.
    NoPlace,
    /// A member speaks a version of the protocol that has no rings in a change.
    Protocol(NodeId),
    /// The ring is in no change that can be cancelled, but in this step.
    NoCancel(Option<Step>),
    /// The node is none without a place in the ring.
    NoGuest(NodeId),
}

/// The part of a node's configuration that can change within an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of hints that are kept for other members.
    pub hint_limit_bytes: u64,
    /// A hint of this age is also offered to the other owners.
    pub hint_age: Micros,
    /// Each partition is compared with every other owner of it about as often as this.
    pub repair_interval: Micros,
    /// All that is on disk is read once in this time.
    pub scrub_interval: Micros,
    /// Most bytes a second of records that are taken over from others; 0 for no limit.
    pub transfer_bytes_per_second: u64,
}

/// A disk that has less free space than its reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// The configured reserve, in bytes.
    pub reserve_bytes: u64,
}

/// What a store that makes no progress holds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stall {
    /// Writes, listings, and reads of what is not synced yet.
    Writes,
    /// All that `Writes` holds up, and every other read.
    All,
}

/// Work for the store. Writes are carried out in order; reads and lists at any time.
#[derive(Clone, Debug)]
pub enum Work {
    /// Read a record; answered by [`Done::Read`].
    Read {
        /// The name of this read, repeated in its answer.
        token: ReadToken,
        /// The partition of the key.
        partition: Partition,
        /// The key whose record is read.
        key: Key,
        /// Members whose hint of the key is to be read as well.
        hints_for: Vec<NodeId>,
    },
    /// List the hints for a member; answered by [`Done::Hints`].
    Hints {
        /// The name of this list, repeated in its answer.
        token: ReadToken,
        /// The member that the hints are for.
        target: NodeId,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of hints.
        limit_bytes: usize,
    },
    /// Read a span of a partition, behind everything else; answered by [`Done::Scan`].
    Scan {
        /// The name of this scan, repeated in its answer.
        token: ScanToken,
        /// The partition to read.
        partition: Partition,
        /// The part of the partition to read.
        span: Span,
    },
    /// List keys; answered by [`Done::List`].
    List {
        /// The name of this list, repeated in its answer.
        token: ReadToken,
        /// The partition whose keys are listed.
        partition: Partition,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of keys.
        limit_bytes: usize,
    },
    /// Apply these changes as one batch and sync; answered by [`Done::Synced`] with this or a later
    /// mark.
    Write {
        /// The mark of this write: that of the previous one plus 1.
        seq: SyncSeq,
        /// The changes of the batch, applied together or not at all.
        changes: Vec<Change>,
    },
}

/// What the store has done.
#[derive(Clone, Debug)]
pub enum Done {
    /// The answer to [`Work::Read`].
    Read {
        /// The token of the read.
        token: ReadToken,
        /// The record of the key, or that there is none, or that it is damaged.
        found: Found,
        /// The hint of the key for each member in `hints_for`.
        hints: Vec<(NodeId, Found)>,
    },
    /// The answer to [`Work::Hints`].
    Hints {
        /// The token of the list.
        token: ReadToken,
        /// The hints behind the given key, in byte order of the keys.
        page: HintPage,
    },
    /// The answer to [`Work::Scan`].
    Scan {
        /// The token of the scan.
        token: ScanToken,
        /// The keys found in the span.
        page: ScanPage,
    },
    /// The answer to [`Work::List`].
    List {
        /// The token of the list.
        token: ReadToken,
        /// The keys behind the given one, in byte order.
        listing: Listing,
    },
    /// Every write up to this mark is durable.
    Synced {
        /// The mark of the newest write that is durable.
        seq: SyncSeq,
    },
}

/// What a node wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a message to these peers (never to itself); it may be lost.
    Send {
        /// The receivers; the message is encoded once for all of them.
        to: Nodes,
        /// The message, the same for every receiver.
        message: PeerMessage,
    },
    /// Answers a client's request.
    Reply {
        /// The connection of the request.
        client: ClientId,
        /// The id of the call on this connection.
        id: u64,
        /// The outcome of the request.
        response: Response,
    },
    /// Passes work to the store.
    Store(Work),
    /// From now on this member is to be reached at this address.
    Address {
        /// The id of the member.
        peer: NodeId,
        /// The address to dial, `host:port`.
        address: String,
    },
    /// Another ring is in force here from now on, and durable.
    Ring {
        /// The ring.
        ring: Arc<Ring>,
        /// Every member, removed ones included.
        members: Members,
    },
    /// The list of members says something new of who belongs to the cluster.
    Members(Members),
    /// The order about the ring is carried out, and the ring with this name in force here; or it is
    /// not, and nothing has happened.
    RingOrdered(Result<RingId, Hindrance>),
    /// Notifies the operator of an event.
    Notice(Notice),
}

/// An event that an operator should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The cluster was founded, this node among its founders.
    Founded,
    /// A cluster is founded when all members have answered; this one has not for a long time.
    WaitsFor(NodeId),
    /// The node joined a cluster that did not know its store: it is new there, or has lost its
    /// disk.
    Reborn,
    /// A peer has seen a later incarnation of this store: its disk was rolled back, or copied.
    Outdated(NodeId),
    /// A peer that answered late has seen a later incarnation of this store: the disk is an old one
    /// after all, or a copy of it runs elsewhere. The store continues under a new id,
    /// read-ineligible.
    Copied(NodeId),
    /// No peer could confirm that the disk is the newest: the store continues under a new id.
    Alone,
    /// A peer belongs to another cluster of the same name; nothing is exchanged with it. The id of
    /// this node's cluster, and that of the peer's.
    Foreign(NodeId, [u64; 2]),
    /// The node serves requests from now on.
    Settled,
    /// The node's view of the liveness of a member has changed, after a silence of this length.
    LivenessChanged(NodeId, Liveness, Micros),
    /// A member that was out of reach is back, and this number of hints is sent to it.
    HandoffBegun(NodeId, u64),
    /// It has taken all of them.
    HandoffDone(NodeId),
    /// A comparison of a partition with another owner has moved objects: the numbers fetched and
    /// sent.
    Repaired(Partition, NodeId, u64, u64),
    /// A comparison failed that had not failed the last time.
    RepairFailed(Partition, NodeId),
    /// The node is read-eligible again in all of its partitions.
    Recovered,
    /// A record of this partition here is damaged: it is fetched from the other owners.
    Damaged(Partition),
    /// A member sent a later ring with another number of replicas or partitions: it is not adopted.
    Misplaced(NodeId),
    /// A member reported a later incarnation of this node whose number is impossibly high: it is
    /// ignored.
    Forged(NodeId),
    /// A merge or a hint was declined, because the key would have outgrown a limit. Once per key
    /// and minute at most.
    Declined(Oversize),
    /// The number of partitions, owned by this node alone, that may lack acknowledged writes: their
    /// reads are refused until an operator accepts the loss.
    Lost(u32),
    /// An operator has accepted the loss of this number of partitions, and that is durable.
    LossAccepted(u32),
}

/// A key that would have outgrown a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oversize {
    /// The key that would have outgrown the limit.
    pub key: Key,
    /// True if a hint was to be delivered: its fallback keeps it.
    pub hint: bool,
    /// The size that the object would have had, in encoded bytes.
    pub bytes: usize,
    /// The limit, in encoded bytes.
    pub limit: usize,
}

/// A member as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerView {
    /// The liveness of the member at this node.
    pub liveness: Liveness,
    /// How surprising its silence is: the phi of the failure detector.
    pub phi: f64,
    /// How long it takes to answer a read; `None` before it ever did.
    pub latency: Option<Micros>,
    /// The hints that are kept for it.
    pub hints: HintTotal,
    /// For how long there have been hints for it without a break, in this incarnation.
    pub hint_age: Micros,
}
