//! The words of Pixii: what clients ask, what nodes answer, what replicas say to each other.

pub mod before;
mod codes;
mod counter;
mod drain;
mod kind;
mod orders;
mod peer;
mod reasons;
mod rejection;
mod status;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::causal::Dot;
use crate::members::Members;
use crate::ring::Ring;
use crate::types::{Blob, Key, NodeId, Partition, WriteId};
use crate::wire::{self, PROTOCOL, WireError};
use before::Before;
pub use counter::Counter;
pub use drain::{DrainOrder, DrainReport, DrainState, KeptHints};
pub use kind::Kind;
pub use orders::{
    DrainRejection, EmulateRejection, LossRejection, RepairRejection, ReplaceRejection,
};
pub use peer::{Body, Change, Gossip, Item, PeerMessage};
pub use reasons::{
    Blocked, ComparisonFault, Measure, NotYet, QuorumName, Resource, TreeAnswer, TreeQuestion,
};
pub use rejection::{Rejection, ReplicaOutcomes};
pub use status::{
    Complaint, Gauges, PairStatus, PeerRepair, PeerStatus, RecentTrips, RepairCounts, RepairReport,
    RepairStatus, SampleReport, StatusReport, TombstoneGcStatus,
};

/// How many replicas must take part in a request, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Quorum {
    /// R or W, 1 to N; the cluster's default if not given.
    pub replicas: Option<u8>,
    /// True: only owners count. False: a fallback counts for the owner it acts as a fallback for.
    /// The cluster's default if not given.
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
    /// The next keys of a partition in byte order, merged from `r` owners; deleted keys
    /// included.
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
    /// A put that was sent to another node before, which may have carried it out or may do so yet:
    /// its dot follows from its write id, so that all repetitions are one event
    /// ([`Actor::of_write`](crate::causal::Actor::of_write)).
    PutAgain {
        /// The key.
        key: Key,
        /// Its new value.
        value: Blob,
        /// A sealed context, or nothing when the client has read nothing.
        context: Option<Blob>,
        /// The write id of the first attempt.
        write: WriteId,
        /// Replicas that must hold it.
        w: Quorum,
    },
}

impl Request {
    /// True for what changes something.
    pub fn is_write(&self) -> bool {
        matches!(self, Request::Put { .. } | Request::Delete { .. } | Request::PutAgain { .. })
    }

    /// The key, if it is about one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Request::Get { key, .. }
            | Request::Put { key, .. }
            | Request::Delete { key, .. }
            | Request::PutAgain { key, .. } => Some(key),
            Request::Keys { .. } => None,
        }
    }

    /// The same put, marked as a repetition; any other request as it is.
    #[must_use]
    pub fn again(self) -> Self {
        match self {
            Request::Put { key, value, context, write, w } => {
                Request::PutAgain { key, value, context, write, w }
            }
            other => other,
        }
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
    Refused(Rejection),
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
    /// Chosen by the client, unique among its calls in progress on this connection.
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
    /// What do you know of your partitions and their other owners?
    Repair {
        /// True: compare these at once, first.
        begin: bool,
        /// Only this partition.
        partition: Option<Partition>,
        /// Only with this owner.
        peer: Option<NodeId>,
    },
    /// Give the places of a member that is down to a new one, and remove it for good.
    Replace {
        /// The name of the one that goes.
        old: String,
        /// The name of the one that comes.
        new: String,
        /// Where that listens, `host:port`.
        address: String,
        /// False: only say what would happen.
        apply: bool,
    },
    /// Take yourself out before maintenance, or back in.
    Drain(DrainOrder),
    /// How long did your latest reads and writes take?
    Samples,
    /// How are you linked with the other members?
    Links,
    /// Acknowledged writes may have gone with your disk, and no other replica has them: answer
    /// reads all the same.
    AcceptLoss,
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

impl Reply {
    /// The reply as a frame for a client with which `protocol` is spoken.
    pub fn frame(self, protocol: u16) -> Bytes {
        match protocol {
            PROTOCOL.. => wire::frame(&self),
            _ => wire::frame(&Before(self)),
        }
    }

    /// The reply in the payload of a frame of a node with which `protocol` is spoken.
    pub fn decode(payload: &Bytes, protocol: u16) -> Result<Self, WireError> {
        match protocol {
            PROTOCOL.. => wire::decode(payload),
            _ => wire::decode(payload).map(|Before(reply)| reply),
        }
    }
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
    Status(Box<StatusReport>),
    /// To `Emulate`: the rules that hold now, a line each, or why they do not.
    Emulated(Result<Vec<String>, EmulateRejection>),
    /// To `Stop`: the node stops now.
    Stopping,
    /// To `Repair`: what is known, or why nothing is compared.
    Repair(Result<RepairReport, RepairRejection>),
    /// To `Replace`: what is to happen, or has, or why it does not.
    Replace(Result<Replacement, ReplaceRejection>),
    /// To `Drain`: how far it is, or why nothing was done.
    Drain(Result<DrainReport, DrainRejection>),
    /// To `Samples`.
    Samples(SampleReport),
    /// To `Links`.
    Links(LinksReport),
    /// To `AcceptLoss`: for so many partitions, or why for none.
    LossAccepted(Result<u32, LossRejection>),
}

/// How a node is linked with the other members.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct LinksReport {
    /// True if it lets nobody in who does not prove to know the cluster's secret.
    pub secret: bool,
    /// The newest version of the protocol that it speaks.
    pub protocol: u16,
    /// The version that is spoken on the link to each other member; `None` while there is no link.
    pub peers: Vec<(NodeId, Option<u16>)>,
}

/// What the replacement of a member comes to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Replacement {
    /// Where the one that goes was last heard to be.
    pub old_address: String,
    /// The version of the ring from then on.
    pub version: u64,
    /// Partitions whose owners change.
    pub places: u32,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// Hints that the asked node keeps for the one that goes.
    pub hints: u64,
}

/// All that a client needs to place keys itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RingReport {
    /// Every member, those that are removed too.
    pub members: Members,
    /// Where keys live.
    pub ring: Ring,
    /// Default R.
    pub r: u8,
    /// Default W.
    pub w: u8,
    /// True if only owners count unless a request says otherwise.
    pub strict: bool,
    /// Members that this node cannot use now: unreachable, silent or marked down.
    pub avoided: Vec<NodeId>,
}
