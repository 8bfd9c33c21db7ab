//! The messages of Pixii: requests of clients, replies of nodes, and messages between nodes.

pub mod before;
mod codes;
mod counter;
mod drain;
mod kind;
mod orders;
mod peer;
mod plan;
mod reasons;
mod rejection;
mod status;

use std::borrow::Cow;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::causal::Dot;
use crate::members::Members;
use crate::ring::Ring;
use crate::types::{Blob, Key, NodeId, Partition, WriteId};
use crate::wire::{self, CODED, DECIDED, RINGED, Speech, WireError};
use before::Before;
pub use counter::Counter;
pub use drain::{DrainOrder, DrainReport, DrainState, KeptHints};
pub use kind::Kind;
pub use orders::{
    DrainRejection, EmulateRejection, LossRejection, RepairRejection, ReplaceRejection,
};
pub use peer::{Body, Change, Gossip, Item, PeerMessage, Premise, RequestId, RingProgress};
pub use plan::{
    MAX_STAGED, MAX_ZONE_BYTES, Outcome, PlanOrder, PlanRejection, PlanReport, Share, Staged,
};
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

impl From<u8> for Quorum {
    fn from(replicas: u8) -> Self {
        Quorum::from(Some(replicas))
    }
}

/// A request for data. Contexts are sealed (`wire::seal`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Request {
    /// All siblings of a key, merged from `r` replicas.
    Get {
        /// The key to read.
        key: Key,
        /// Replicas that must answer.
        r: Quorum,
    },
    /// A write that replaces what `context` covers.
    Put {
        /// The key to write.
        key: Key,
        /// The new value, at most [`MAX_VALUE_BYTES`](crate::types::MAX_VALUE_BYTES) bytes.
        value: Blob,
        /// A sealed context, or nothing when the client has read nothing.
        context: Option<Blob>,
        /// Drawn at random for this write and repeated with it.
        write: WriteId,
        /// Replicas that must hold it.
        w: Quorum,
    },
    /// Removes the values that `context` covers; leaves a tombstone if none remains.
    Delete {
        /// The key whose covered siblings are deleted.
        key: Key,
        /// A sealed context; a delete without one is refused.
        context: Option<Blob>,
        /// Replicas that must hold it.
        w: Quorum,
    },
    /// The next keys of a partition in byte order, merged from `r` owners; deleted keys
    /// included.
    Keys {
        /// The partition to list, 0 to Q-1.
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
        /// The key of the first attempt.
        key: Key,
        /// The value of the first attempt.
        value: Blob,
        /// A sealed context, or nothing when the client has read nothing.
        context: Option<Blob>,
        /// The write id of the first attempt.
        write: WriteId,
        /// Replicas that must hold it.
        w: Quorum,
    },
    /// A write that one node decides, its issuer: the first owner of the key that can be reached.
    /// It asks R owners what they have of the key. What the write replaces is the join of their
    /// answers and of its own record. Since protocol 8.
    Decide {
        /// The key to write.
        key: Key,
        /// The new value; `None` deletes.
        value: Option<Blob>,
        /// What has to hold of the key; otherwise nothing is written.
        rule: WriteRule,
        /// Drawn at random for this write and repeated with it.
        write: WriteId,
        /// True if the put was sent before, to a node that may have carried it out: its dot
        /// follows from its write id then, as for `PutAgain`.
        again: bool,
        /// Owners that must answer before it is decided; the cluster's default if not given.
        r: Option<u8>,
        /// Replicas that must hold it.
        w: Quorum,
    },
}

/// What has to hold of a key for a write that is decided at its issuer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum WriteRule {
    /// The key has one value at most. The write covers what is there.
    Cover,
    /// The key has no value.
    IfAbsent,
    /// The key has nothing that this sealed context does not cover.
    IfContext(Blob),
}

impl Request {
    /// True for a request that changes a key.
    pub fn is_write(&self) -> bool {
        !matches!(self, Request::Get { .. } | Request::Keys { .. })
    }

    /// The request as a program of `protocol` understands it; `None` if it has nothing like it and
    /// the request is not to be sent. What protocol 7 does without a context is a put that replaces
    /// nothing; it has no conditions, and no deletes without a context.
    pub fn in_protocol(&self, protocol: u16) -> Option<Cow<'_, Request>> {
        match self {
            Request::Decide { .. } if protocol >= DECIDED => Some(Cow::Borrowed(self)),
            Request::Decide {
                key,
                value: Some(value),
                rule: WriteRule::Cover,
                write,
                again,
                w,
                ..
            } => {
                let (key, value) = (key.clone(), value.clone());
                let put = Request::Put { key, value, context: None, write: *write, w: *w };
                Some(Cow::Owned(if *again { put.again() } else { put }))
            }
            Request::Decide { .. } => None,
            _ => Some(Cow::Borrowed(self)),
        }
    }

    /// The key of the request; `None` for a listing of a partition.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Request::Get { key, .. }
            | Request::Put { key, .. }
            | Request::Delete { key, .. }
            | Request::PutAgain { key, .. }
            | Request::Decide { key, .. } => Some(key),
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
            Request::Decide { key, value, rule, write, r, w, .. } => {
                Request::Decide { key, value, rule, write, again: true, r, w }
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
        /// The value of each sibling; siblings with the same write id are returned once.
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
        /// The keys, about `limit_bytes` bytes of them at most; deleted keys are among them.
        keys: Vec<Key>,
        /// False when the partition ends here.
        more: bool,
    },
    /// Nothing was read or written; the reason is given.
    Refused(Rejection),
    /// The write may have happened, or may yet, on fewer than W replicas.
    Unknown {
        /// Replicas that confirmed it in time.
        acknowledged: u8,
        /// Replicas that had to confirm it: W.
        needed: u8,
        /// The deadline that passed, in milliseconds.
        timeout_ms: u32,
    },
}

/// An order about the emulated network of a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum EmulateOrder {
    /// Changes nothing and reports the rules in force.
    Show,
    /// Replaces all rules with these.
    Set(String),
    /// Removes all rules: the network is as it is.
    Clear,
}

/// What a client sends: a call, answered by a [`Reply`] with the same id, in any order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Call {
    /// Chosen by the client, unique among its calls in progress on this connection.
    pub id: u64,
    /// The order or request for data; the reply has the matching variant of [`ReplyBody`].
    pub body: CallBody,
}

/// The content of a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum CallBody {
    /// A request for data, answered by [`ReplyBody::Data`].
    Data {
        /// The read or write to carry out.
        request: Request,
        /// How long it may take, in milliseconds.
        timeout_ms: u32,
    },
    /// Reports the members and the ring, so that the client can place keys itself.
    Ring,
    /// Reports the node's state, counters and gauges.
    Status,
    /// Shows, sets or clears the rules of the node's emulated network.
    Emulate(EmulateOrder),
    /// Finishes requests in progress, closes the store and exits.
    Stop,
    /// Reports the anti-entropy of the node's partitions with their other owners.
    Repair {
        /// True: compare the selected partitions at once, before others.
        begin: bool,
        /// Selects this partition; `None`: every partition that the node owns.
        partition: Option<Partition>,
        /// Selects this other owner; `None`: all of them.
        peer: Option<NodeId>,
    },
    /// Gives the places of a member that is down to a new one, and removes the old one for good.
    Replace {
        /// The name of the member to remove.
        old: String,
        /// The name of the new member.
        new: String,
        /// The address of the new member, `host:port`.
        address: String,
        /// False: only report what would happen.
        apply: bool,
    },
    /// Drains the node before maintenance, or ends its drain.
    Drain(DrainOrder),
    /// Reports the latest round trips to each replica.
    Samples,
    /// Reports the protocol version of the link to each other member.
    Links,
    /// Accepts that acknowledged writes may be gone with the node's disk where no other replica has
    /// them: the node answers reads of these partitions again.
    AcceptLoss,
    /// The client waits no more for the answer to an earlier call: a write that is decided here is
    /// void unless it has been carried out. That call is answered all the same. Since protocol 8.
    GiveUp {
        /// The id of the earlier call on this connection.
        call: u64,
    },
    /// Stages, shows, applies or cancels a change of the ring. Since protocol 9.
    Plan(PlanOrder),
}

impl Call {
    /// The call as a program of `protocol` understands it; `None` if it has nothing like it.
    pub fn in_protocol(self, protocol: u16) -> Option<Self> {
        let Call { id, body } = self;
        let body = match body {
            CallBody::Data { request, timeout_ms } => {
                let request = request.in_protocol(protocol)?.into_owned();
                CallBody::Data { request, timeout_ms }
            }
            CallBody::GiveUp { .. } if protocol < DECIDED => return None,
            CallBody::Plan(_) if protocol < RINGED => return None,
            body => body,
        };
        Some(Call { id, body })
    }
}

/// What a node sends to a client.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Reply {
    /// The id of the [`Call`] that this answers.
    pub id: u64,
    /// The outcome; its variant is that of the [`CallBody`].
    pub body: ReplyBody,
}

impl Reply {
    /// The reply as a frame for a client that is spoken with like this.
    pub fn frame(self, speech: impl Into<Speech>) -> Bytes {
        let Speech { protocol, checksum } = speech.into();
        match protocol {
            RINGED.. => wire::checked_frame(&self, checksum),
            CODED.. => wire::checked_frame(&self.before_rings(), checksum),
            _ => wire::checked_frame(&Before(self.before_rings()), checksum),
        }
    }

    /// The reply for a program that knows no rings in a change: it is shown the table that reads
    /// ask, which is the one that it can place keys by.
    fn before_rings(self) -> Self {
        let body = match self.body {
            ReplyBody::Ring(report) => {
                ReplyBody::Ring(RingReport { ring: report.ring.of_reads(), ..report })
            }
            body => body,
        };
        Reply { body, ..self }
    }

    /// The reply in the payload of a frame of a node with which `protocol` is spoken.
    pub fn decode(payload: &Bytes, protocol: u16) -> Result<Self, WireError> {
        match protocol {
            CODED.. => wire::decode(payload),
            _ => wire::decode(payload).map(|Before(reply)| reply),
        }
    }
}

/// The content of a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum ReplyBody {
    /// To `Data`: the outcome of the read or write.
    Data(Response),
    /// To `Ring`: the members, the ring and the cluster's default quorums.
    Ring(RingReport),
    /// To `Status`: boxed, because it is far larger than the other variants.
    Status(Box<StatusReport>),
    /// To `Emulate`: the rules in force, a line each, or why the order was refused.
    Emulated(Result<Vec<String>, EmulateRejection>),
    /// To `Stop`: the node stops now.
    Stopping,
    /// To `Repair`: the state of the selected pairs, or why nothing is compared.
    Repair(Result<RepairReport, RepairRejection>),
    /// To `Replace`: the change that was made or would be made, or why it is refused.
    Replace(Result<Replacement, ReplaceRejection>),
    /// To `Drain`: the progress of the drain, or why nothing was done.
    Drain(Result<DrainReport, DrainRejection>),
    /// To `Samples`: the latest round trips to each replica.
    Samples(SampleReport),
    /// To `Links`: the protocol version of the link to each other member.
    Links(LinksReport),
    /// To `AcceptLoss`: the number of partitions whose loss was accepted, or why none was.
    LossAccepted(Result<u32, LossRejection>),
    /// To `GiveUp`: the earlier call is void, or is decided and its answer on the way.
    GivenUp,
    /// To `Plan`: what is staged after the order, or why it was not carried out.
    Plan(Box<Result<PlanReport, PlanRejection>>),
}

/// How a node is linked with the other members.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct LinksReport {
    /// True if the node refuses connections that do not prove knowledge of the cluster's secret.
    pub secret: bool,
    /// The newest version of the protocol that it speaks.
    pub protocol: u16,
    /// The version that is spoken on the link to each other member; `None` while there is no link.
    pub peers: Vec<(NodeId, Option<u16>)>,
}

/// The outcome or the preview of a replacement.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Replacement {
    /// The last known address of the removed member.
    pub old_address: String,
    /// The version of the ring after the replacement.
    pub version: u64,
    /// Partitions whose owners change.
    pub places: u32,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// Hints for the removed member that the queried node keeps.
    pub hints: u64,
}

/// All that a client needs to place keys itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RingReport {
    /// Every member, removed ones included.
    pub members: Members,
    /// The placement of keys that the node uses now.
    pub ring: Ring,
    /// R of requests that name none, 1 to N.
    pub r: u8,
    /// W of requests that name none, 1 to N.
    pub w: u8,
    /// True if only owners count unless a request says otherwise.
    pub strict: bool,
    /// Members that this node cannot use now: unreachable, silent or marked down.
    pub avoided: Vec<NodeId>,
}
