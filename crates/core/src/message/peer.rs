//! What nodes say to each other.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::before::Before;
use super::{NotYet, Rejection, Request, Response};
use crate::causal::{Context, Dot, Object};
use crate::gc_epoch::{GcEpoch, GcState, PurgeableKey};
use crate::members::{Cluster, Heartbeat, IncarnationId, Member, Members};
use crate::merkle::Digest;
use crate::ring::Ring;
use crate::types::{Blob, Key, NodeId, Partition, WriteId};
use crate::wire::{self, PROTOCOL};

/// What a put or delete does at the replica that coordinates it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Change {
    /// Issue a dot for this value, unless a live value carries the same write id already.
    Put {
        /// The client's id of the write.
        write: WriteId,
        /// The value.
        value: Blob,
    },
    /// Forget what the context covers; issues nothing.
    Delete,
    /// As `Put`, for a put that another node may have carried out, or may yet.
    PutAgain {
        /// The client's id of the write.
        write: WriteId,
        /// The value.
        value: Blob,
    },
}

/// A message between two nodes (or a node and itself) about the sender's or receiver's operation
/// `request_id`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PeerMessage {
    /// Chosen by the node that asked; answers repeat it.
    pub request_id: u64,
    /// What is asked or answered.
    pub body: Body,
}

impl PeerMessage {
    /// The message as a frame for a node with which `protocol` is spoken.
    pub fn frame(&self, protocol: u16) -> Bytes {
        match protocol {
            PROTOCOL.. => wire::frame(self),
            _ => wire::frame(&Before(self.clone())),
        }
    }
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
        /// Nobody, at an owner. At a fallback that coordinates: the owners that it keeps the
        /// object for.
        hint_for: Vec<NodeId>,
    },
    /// The object after the update. It is not synced yet: `Held` follows when it is.
    Updated {
        /// The whole object.
        object: Object,
        /// The dot of a put.
        dot: Option<Dot>,
        /// The GC epoch of the partition at which it was issued, or that of the oldest part of
        /// it.
        gc_epoch: GcEpoch,
    },
    /// Merge this object into your copy.
    Merge {
        /// The key.
        key: Key,
        /// The sender's copy.
        object: Object,
        /// The GC epoch of the partition at which that was issued or read.
        gc_epoch: GcEpoch,
    },
    /// Keep this object as a hint for these owners, which did not answer.
    StoreHint {
        /// The key.
        key: Key,
        /// The sender's copy.
        object: Object,
        /// Whom it is for.
        hint_for: Vec<NodeId>,
        /// The GC epoch of the partition at which the object was issued or read.
        gc_epoch: GcEpoch,
    },
    /// What was to be updated, merged or kept is here, synced.
    Ack,
    /// From a node to itself: `target` holds this object, synced, so the hint that equals it can
    /// go.
    DeleteHint {
        /// The key.
        key: Key,
        /// Whom the hint was for.
        target: NodeId,
        /// What the target holds.
        object: Object,
    },
    /// From a node to itself: the other owners have this of the key, whose record here is damaged.
    Restore {
        /// The key.
        key: Key,
        /// What they have, merged.
        object: Object,
    },
    /// How many hints have you for me? `request_id` is the incarnation's nonce.
    QueryHints,
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
        /// False if I may have forgotten something: the answer adds to a read and counts for
        /// nothing.
        authoritative: bool,
        /// The owners that I, a fallback, keep this for.
        kept_for: Vec<NodeId>,
        /// My GC epoch of the partition, or that of the oldest hint in it.
        gc_epoch: GcEpoch,
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
    /// This is who I am: sent when a link comes up, and until it is answered. `request_id` is the
    /// incarnation's nonce.
    Introduce {
        /// The incarnation of the sender's store.
        incarnation: IncarnationId,
        /// The id of its cluster, if it is in one.
        cluster: Option<u64>,
        /// Version and digest of its ring.
        ring: (u64, u64),
    },
    /// This is what I know of you, and who I am.
    Known {
        /// The last incarnation of yours that I had seen before this one.
        seen: Option<IncarnationId>,
        /// The birth of my store.
        birth: u64,
        /// My cluster, if I am in one.
        cluster: Option<Cluster>,
    },
    /// I did not do it, and it changed nothing here.
    Failed(Rejection),
    /// Is what we hold of this partition the same?
    Compare {
        /// The partition.
        partition: Partition,
        /// The shape of my tree ([`crate::merkle::SHAPE`]).
        shape: u32,
        /// Bytes of each summary wanted, 1 to 8. The salt of all summaries is the question's
        /// `request_id`.
        width: u8,
        /// My root.
        root: Digest,
        /// My GC epoch of the partition: in another one, other things are purged.
        gc_epoch: GcEpoch,
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
    /// The summaries of the children of each node, in order; those of the root, if the roots
    /// differ.
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
    /// From a node to itself: these events of the key are dead at every owner that confirms it.
    MarkDead(PurgeableKey),
    /// From a node to itself: some events of the key are purged.
    Purge {
        /// The key.
        key: Key,
    },
    /// From a node to itself: the record of the key, or what is kept of it, is old, of a disk that
    /// was rolled back.
    Discard {
        /// The key.
        key: Key,
        /// Whom the old hint is for; `None` if it is about the record.
        target: Option<NodeId>,
    },
    /// May the partition's next GC epoch begin, in which these events are purgeable?
    Propose {
        /// The partition.
        partition: Partition,
        /// Its GC epoch now.
        gc_epoch: GcEpoch,
        /// The digest of my list of members.
        members: u64,
        /// What is dead at every owner once all have agreed.
        purgeable: Vec<PurgeableKey>,
    },
    /// As far as I am concerned, it may: I keep no hint of an older GC epoch, and what is
    /// purgeable is dead here, synced.
    Agreed,
    /// Not yet.
    NotYet(NotYet),
    /// The GC epochs that I know of all partitions.
    GcEpochs {
        /// The digest of their numbers.
        digest: u64,
        /// True if I know that my disk is as new as everybody's.
        certain: bool,
        /// True if I want to know that of you.
        query: bool,
    },
    /// The numbers of all that are not the first one.
    GcEpochNumbers(Vec<(Partition, GcEpoch)>),
    /// Which GC epoch has this partition?
    QueryGcEpoch(Partition),
    /// This one.
    GcState {
        /// The partition.
        partition: Partition,
        /// Its GC epoch.
        gc_epoch: GcState,
    },
    /// Your ring is an older one: this is in force.
    Placement {
        /// The ring.
        ring: Ring,
        /// All members, those that are removed too.
        members: Members,
    },
    /// From a node to itself: nobody waits any more for the write of this operation, which is not
    /// carried out if it has not been yet.
    Withdraw {
        /// The key.
        key: Key,
    },
    /// May I change the ring? Answered by `RingGranted` or `RingDenied`.
    QueryRing {
        /// Version and digest of the ring that I change.
        ring: (u64, u64),
        /// The member that goes.
        old: NodeId,
        /// The one that comes.
        new: NodeId,
    },
    /// You may: until I see another ring, or for some seconds, I let nobody else.
    RingGranted,
    /// You may not: somebody else changes it, or our rings differ.
    RingDenied {
        /// Who changes it; the sender if the rings differ.
        by: NodeId,
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

/// What gossip carries: both directions of an anti-entropy of heartbeats and members (van Renesse
/// et al., "Efficient reconciliation and flow control for anti-entropy protocols", 2008).
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Gossip {
    /// What I know, in short.
    Digest {
        /// The newest heartbeat that I know of each member.
        heartbeats: Vec<(NodeId, Heartbeat)>,
        /// The digest of my list of members.
        members: u64,
    },
    /// What you did not know.
    News {
        /// Newer heartbeats than yours, those furthest ahead first.
        heartbeats: Vec<(NodeId, Heartbeat)>,
        /// My list of members, if it differs.
        members: Vec<Member>,
        /// The digest of it.
        digest: u64,
        /// Members whose heartbeat you know better: tell me.
        wanted: Vec<NodeId>,
    },
}
