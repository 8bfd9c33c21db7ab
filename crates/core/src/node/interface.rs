//! What goes into the machine and what comes out of it.

use std::sync::Arc;

use super::ids::{ReadToken, ScanToken, SyncSeq};
use crate::gc_epoch::GcState;
use crate::members::{Liveness, Member, Members};
use crate::merkle::KeptTree;
use crate::message::{PeerMessage, Request, Response};
use crate::ring::{Ring, RingError};
use crate::store::{Change, Found, HintPage, HintTotal, Kept, Listing, ScanPage, Span};
use crate::types::{Key, MILLI, Micros, NodeId, ObjectLimits, Partition};

/// An answer to a read is late after the mean of its replica's and four mean deviations, but not
/// before the first of these times, and after the second at the latest: another replica is asked
/// then.
pub const LATE_READ: (Micros, Micros) = (Micros::from_millis(5), Micros::from_millis(250));
/// One read in so many asks in the order of the ring and not the quickest first, so that nobody's
/// pace is judged by old answers alone.
pub const EXPLORE: u64 = 64;

/// What a node is notified when it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who it is.
    pub me: NodeId,
    /// Where keys live.
    pub ring: Arc<Ring>,
    /// R of requests that name none, 1 to N.
    pub r: u8,
    /// W of requests that name none, 1 to N.
    pub w: u8,
    /// True if only owners count for requests that do not say.
    pub strict: bool,
    /// Every member, this node among them: what is configured, and what the store remembers better.
    pub members: Members,
    /// Time between two rounds of gossip.
    pub gossip_interval: Micros,
    /// A member that was silent for so long, and for surprisingly long, is marked down.
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
    /// A GC epoch of a partition lasts at least this long: longer than most requests.
    pub gc_epoch_pause: Micros,
    /// What the store keeps for other members at the start.
    pub hints: Kept,
    /// The GC epochs of partitions that the store knows at the start.
    pub gc_epochs: Vec<(Partition, GcState)>,
    /// The trees of a clean stop, if nothing was written since.
    pub trees: Vec<KeptTree>,
    /// Drawn at random at each start.
    pub boot_nonce: u64,
    /// True if this incarnation follows another one of the same process, which never let go of the
    /// store: its disk is known to be the newest.
    pub continues: bool,
    /// True if the operator says that this is a new cluster: it is founded by the members that
    /// answer, not only by all.
    pub bootstrap: bool,
    /// Events of a put that was sent to several nodes are kept in the clocks for this time after
    /// they are known to be dead, twice that at most: a copy of the put may be on its way for as
    /// long as connections keep what nobody acknowledges.
    pub repeat_window: Micros,
}

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
            gc_epoch_pause: 2_000 * MILLI,
            hints: Kept::default(),
            gc_epochs: Vec::new(),
            trees: Vec::new(),
            boot_nonce: 0,
            continues: false,
            bootstrap: false,
            repeat_window: 20_000 * MILLI,
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
        /// The peer.
        peer: NodeId,
        /// Whether messages can be sent to it now.
        up: bool,
    },
    /// A peer sent a message.
    Peer {
        /// Who.
        from: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// A client made a request; exactly one [`Output::Reply`] follows.
    Client {
        /// Its connection.
        client: ClientId,
        /// The call's id on this connection.
        id: u64,
        /// What it asks.
        request: Request,
        /// How long it may take, in milliseconds.
        timeout_ms: u32,
    },
    /// The store has done something.
    Store(Done),
    /// Compare at once: this partition, or all, with this owner, or all.
    Repair {
        /// The partition.
        partition: Option<Partition>,
        /// The other owner.
        peer: Option<NodeId>,
    },
    /// The operator accepts that acknowledged writes are gone where this node is the only owner and
    /// has lost its disk; [`Notice::LossAccepted`] follows when that is durable, if there are any.
    AcceptLoss,
    /// The operator gives the places of a member to a new one, which is checked to be a name and an
    /// address that no member has; [`Output::BeginIncarnation`] or [`Output::NotReplaced`] follows,
    /// within about 3 s.
    Replace {
        /// The member that goes for good.
        old: NodeId,
        /// The one that comes.
        new: Member,
    },
    /// The disk's free space went below the reserve, or there is room again.
    Space(Option<Shortage>),
    /// The store makes no progress, or does again: until then nobody is to wait for it.
    Stalled(Option<Stall>),
    /// From now on, or no more, every request is refused, and nothing more is kept for other
    /// members: others do that.
    Drain(bool),
    /// These limits hold from now on.
    Limits(Limits),
}

/// A change of the ring that is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingChange {
    /// The member that goes.
    pub old: NodeId,
    /// The one that comes.
    pub new: NodeId,
    /// The node that was ordered to make the change.
    pub by: NodeId,
}

/// Why a replacement was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// Another change is in progress, if it is known which, at this node.
    Other(Option<RingChange>, NodeId),
    /// Not more than half of the members granted it in time.
    Grants {
        /// How many did, this node among them.
        granted: usize,
        /// How many there are.
        members: usize,
    },
    /// There is no such ring.
    Ring(RingError),
}

/// What of a node's configuration can change in an incarnation.
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
}

/// A disk that has less free space than its reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that are free.
    pub free_bytes: u64,
    /// The configured reserve.
    pub reserve_bytes: u64,
}

/// What a store that makes no progress holds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stall {
    /// Writes, listings, and reads of what is not synced yet.
    Writes,
    /// Reads as well.
    All,
}

/// Work for the store. Writes are carried out in order; reads and lists at any time.
#[derive(Clone, Debug)]
pub enum Work {
    /// Read a record; answered by [`Done::Read`].
    Read {
        /// Names this read.
        token: ReadToken,
        /// The key's partition.
        partition: Partition,
        /// The key.
        key: Key,
        /// Also read what is kept of the key for these members.
        hints_for: Vec<NodeId>,
    },
    /// List the hints for a member; answered by [`Done::Hints`].
    Hints {
        /// Names this list.
        token: ReadToken,
        /// The member.
        target: NodeId,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of hints.
        limit_bytes: usize,
    },
    /// Read a span of a partition, behind everything else; answered by [`Done::Scan`].
    Scan {
        /// Names this scan.
        token: ScanToken,
        /// The partition.
        partition: Partition,
        /// Which part of it.
        span: Span,
    },
    /// List keys; answered by [`Done::List`].
    List {
        /// Names this list.
        token: ReadToken,
        /// The partition.
        partition: Partition,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of keys.
        limit_bytes: usize,
    },
    /// Apply these changes as one batch and sync; answered by [`Done::Synced`] with this or a later
    /// mark.
    Write {
        /// That of the write before plus 1.
        seq: SyncSeq,
        /// The batch.
        changes: Vec<Change>,
    },
}

/// What the store has done.
#[derive(Clone, Debug)]
pub enum Done {
    /// A read.
    Read {
        /// The read's name.
        token: ReadToken,
        /// What was there.
        found: Found,
        /// What is kept for each member that was asked about.
        hints: Vec<(NodeId, Found)>,
    },
    /// A list of hints.
    Hints {
        /// The list's name.
        token: ReadToken,
        /// The hints.
        page: HintPage,
    },
    /// A scan.
    Scan {
        /// The scan's name.
        token: ScanToken,
        /// What the span holds.
        page: ScanPage,
    },
    /// A list.
    List {
        /// The list's name.
        token: ReadToken,
        /// The keys.
        listing: Listing,
    },
    /// Every write up to this mark is durable.
    Synced {
        /// The mark.
        seq: SyncSeq,
    },
}

/// What a node wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a message to these peers (never to itself); it may be lost.
    Send {
        /// To whom: the message is encoded once for all.
        to: Vec<NodeId>,
        /// What.
        message: PeerMessage,
    },
    /// Answer a client.
    Reply {
        /// Its connection.
        client: ClientId,
        /// The call's id.
        id: u64,
        /// The answer.
        response: Response,
    },
    /// Give work to the store.
    Store(Work),
    /// From now on this member is to be reached at this address.
    Address {
        /// The member.
        peer: NodeId,
        /// `host:port`.
        address: String,
    },
    /// A later ring is durable: end this incarnation as at a clean stop, and begin the next one at
    /// once, with what the store has.
    BeginIncarnation,
    /// The replacement that was ordered is not made, and nothing has happened.
    NotReplaced(Hindrance),
    /// Tell the operator.
    Notice(Notice),
}

/// What an operator would ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The cluster was founded, this node among its founders.
    Founded,
    /// A cluster is founded when all members have answered, and for so long this one has not.
    WaitsFor(NodeId),
    /// The node joined a cluster that did not know its store: it is new there, or has lost its
    /// disk.
    Reborn,
    /// A peer has seen a later incarnation of this store: its disk was rolled back, or copied.
    Outdated(NodeId),
    /// A peer that was heard late has seen a later incarnation of this store: the disk is an old
    /// one after all, or a copy of it runs elsewhere. The store goes on under a new id,
    /// read-ineligible.
    Copied(NodeId),
    /// No peer could say whether the disk is the newest: the store goes on under a new id.
    Alone,
    /// A peer belongs to another cluster of the same name; nothing is exchanged with it. The id of
    /// this node's cluster, and that of the peer's.
    Foreign(NodeId, [u64; 2]),
    /// The node serves.
    Settled,
    /// The node's view of the liveness of a member has changed, after so long a silence of it.
    LivenessChanged(NodeId, Liveness, Micros),
    /// A member that was out of reach is back, and so many hints are offered to it.
    HandoffBegun(NodeId, u64),
    /// It has taken all of them.
    HandoffDone(NodeId),
    /// A comparison of a partition with another owner of it has moved so many objects here and
    /// there.
    Repaired(Partition, NodeId, u64, u64),
    /// A comparison failed that had not failed the last time.
    RepairFailed(Partition, NodeId),
    /// What this node does not find counts again in all of its partitions.
    Recovered,
    /// A record of this partition here is damaged: it is fetched from the other owners.
    Damaged(Partition),
    /// A member notified of a later ring with another number of replicas or partitions: not taken.
    Misplaced(NodeId),
    /// A member notified of a later incarnation of this node, with so high a number that it cannot
    /// be: not believed.
    Forged(NodeId),
    /// A merge or a hint was declined, because the key would have outgrown a limit. Once per key
    /// and minute at most.
    Declined(Oversize),
    /// So many partitions, of which this node is the only owner, may lack acknowledged writes:
    /// their reads are refused until an operator accepts the loss.
    Lost(u32),
    /// An operator has accepted the loss of so many partitions, and that is durable.
    LossAccepted(u32),
}

/// A key that would have outgrown a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oversize {
    /// The key.
    pub key: Key,
    /// True if a hint was to be delivered: its fallback goes on keeping it.
    pub hint: bool,
    /// What the object would have had, in encoded bytes.
    pub bytes: usize,
    /// The limit, in the same.
    pub limit: usize,
}

/// A member as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerView {
    /// What this node believes of it.
    pub liveness: Liveness,
    /// How surprising its silence is: the phi of the failure detector.
    pub phi: f64,
    /// How long it takes to answer a read; `None` before it ever did.
    pub latency: Option<Micros>,
    /// The hints that are kept for it.
    pub hints: HintTotal,
    /// For how long there have been any, in this incarnation.
    pub hint_age: Micros,
}
