//! Messages between nodes, and those that a node sends to itself.

use std::borrow::Cow;

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::before::Before;
use super::{NotYet, Rejection, Request, Response};
use crate::causal::{Context, Dot, Object};
use crate::gc_epoch::{GcEpoch, GcState, PurgeableKey};
use crate::members::{Cluster, Heartbeat, IncarnationId, Member, Members};
use crate::merkle::Digest;
use crate::ring::{Ring, RingId};
use crate::types::{Blob, Key, NodeId, Partition, WriteId};
use crate::wire::{self, CODED, DECIDED, RINGED, Speech, WireError};

/// What a put or delete does at the replica that coordinates it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Change {
    /// Issue a dot for this value, unless a live value carries the same write id already.
    Put {
        /// The client's id of the write.
        write: WriteId,
        /// The new value, within the size limit of the client's request.
        value: Blob,
    },
    /// Remove the values that the context covers; issues no dot.
    Delete,
    /// As `Put`, for a put that another node may have carried out, or may yet.
    PutAgain {
        /// The client's id of the write.
        write: WriteId,
        /// The new value, within the size limit of the client's request.
        value: Blob,
    },
}

/// Names a request, in the query and in every answer to it. The node that sends the query chooses
/// it, and only that node reads more out of it than equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RequestId(u64);

impl RequestId {
    /// The id of a request whose answer nobody waits for.
    pub const NONE: RequestId = RequestId(0);

    /// The id that is written as this number.
    pub const fn of_wire(number: u64) -> Self {
        RequestId(number)
    }

    /// The number that is written.
    pub const fn wire(self) -> u64 {
        self.0
    }
}

/// A message between two nodes (or a node and itself) about the sender's or receiver's operation
/// `request_id`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct PeerMessage {
    /// The ring in force at its sender when it was sent. Since protocol 9.
    pub ring: RingId,
    /// Chosen by the querying node; answers repeat it.
    pub request_id: RequestId,
    /// The query or answer.
    pub body: Body,
}

impl PeerMessage {
    /// The message as a frame for a node that is spoken with like this; `None` if such a node has
    /// nothing like it, and it is not to be sent.
    pub fn frame(&self, speech: impl Into<Speech>) -> Option<Bytes> {
        let Speech { protocol, checksum } = speech.into();
        Some(match protocol {
            RINGED.. => wire::checked_frame(self, checksum),
            DECIDED.. => wire::checked_frame(&Unringed::of(self.before_rings()?), checksum),
            CODED.. => {
                let message = self.before_rings()?.before_decisions()?;
                wire::checked_frame(&Unringed::of(&message), checksum)
            }
            _ => {
                let message = self.before_rings()?.before_decisions()?;
                wire::checked_frame(&Before(message.into_owned()), checksum)
            }
        })
    }

    /// The message in the payload of a frame of a node with which `protocol` is spoken.
    pub fn decode(payload: &Bytes, protocol: u16) -> Result<Self, WireError> {
        match protocol {
            RINGED.. => wire::decode(payload),
            CODED.. => wire::decode(payload).map(|Unringed(message)| message.into_owned()),
            _ => wire::decode(payload).map(|Before(message)| message),
        }
    }

    /// The message as protocol 8 has it, if it has it: there are no rings in a change.
    fn before_rings(&self) -> Option<&Self> {
        match &self.body {
            Body::QueryChange { .. } | Body::Progress(_) | Body::Erase { .. } => None,
            Body::Fetch { .. } | Body::Records { .. } => None,
            Body::Placement { ring, .. } if ring.step().is_some() => None,
            Body::Failed(Rejection::OtherRing { .. }) => None,
            _ => Some(self),
        }
    }

    /// The message as protocol 7 has it, if it has it. A request that it has nothing like becomes a
    /// delete without a context, which a node of protocol 7 refuses ([`Rejection::NoContext`]).
    fn before_decisions(&self) -> Option<Cow<'_, Self>> {
        let (request, timeout_ms) = match &self.body {
            Body::Coordinate { request, timeout_ms } => (request, timeout_ms),
            Body::Abandon | Body::QueryWanted(_) | Body::Wanted | Body::Decide { .. } => {
                return None;
            }
            _ => return Some(Cow::Borrowed(self)),
        };
        let request = match (request.in_protocol(CODED), request) {
            (Some(Cow::Borrowed(_)), _) => return Some(Cow::Borrowed(self)),
            (Some(Cow::Owned(request)), _) => request,
            (None, Request::Decide { key, w, .. }) => {
                Request::Delete { key: key.clone(), context: None, w: *w }
            }
            (None, _) => return Some(Cow::Borrowed(self)),
        };
        let body = Body::Coordinate { request, timeout_ms: *timeout_ms };
        Some(Cow::Owned(PeerMessage { body, ..*self }))
    }
}

/// A message as it was before protocol 9: it does not say which ring it is of.
struct Unringed<'a>(Cow<'a, PeerMessage>);

impl<'a> Unringed<'a> {
    fn of(message: &'a PeerMessage) -> Self {
        Unringed(Cow::Borrowed(message))
    }
}

impl Encode for Unringed<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.request_id.encode(encoder)?;
        self.0.body.encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Unringed<'_> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let request_id = BorrowDecode::<'de, Bytes>::borrow_decode(decoder)?;
        let body = BorrowDecode::<'de, Bytes>::borrow_decode(decoder)?;
        let ring = RingId::UNSAID;
        Ok(Unringed(Cow::Owned(PeerMessage { ring, request_id, body })))
    }
}

/// How far a member is with what a change of the ring waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RingProgress {
    /// Partitions of the member in which it is read-ineligible.
    pub ineligible: u32,
    /// True if the member has no place in the ring, keeps no record and no hint, and knows that
    /// nobody sends it any more: it can go.
    pub empty: bool,
}

/// The content of a [`PeerMessage`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Body {
    /// Coordinate this request of a client of mine; never forwarded again.
    Coordinate {
        /// The client's request, unchanged; its context is still sealed.
        request: Request,
        /// The time left until its deadline, in milliseconds.
        timeout_ms: u32,
    },
    /// The outcome of the request, for the client.
    Coordinated(Response),
    /// Apply a client's change to your copy.
    Update {
        /// The key that the client changes.
        key: Key,
        /// The unsealed context of the client: the events that it had seen.
        context: Context,
        /// The put or delete to apply.
        change: Change,
        /// Empty at an owner. At a fallback that coordinates: the owners that it keeps the object
        /// for.
        hint_for: Vec<NodeId>,
    },
    /// The object after the update. It is not synced yet: `Ack` follows when it is.
    Updated {
        /// The whole object, clock and siblings, to be sent to the other replicas.
        object: Object,
        /// The dot of a put.
        dot: Option<Dot>,
        /// The GC epoch of the partition at which it was issued, or that of the oldest part of
        /// it.
        gc_epoch: GcEpoch,
    },
    /// Merge this object into your copy.
    Merge {
        /// The key of the object.
        key: Key,
        /// The object as the sender has it; what the receiver knows beyond it is kept.
        object: Object,
        /// The GC epoch of the partition at which that was issued or read.
        gc_epoch: GcEpoch,
    },
    /// Keep this object as a hint for these owners, which did not answer.
    StoreHint {
        /// The key of the object.
        key: Key,
        /// The object as the sender has it; it is merged into a hint that exists already.
        object: Object,
        /// The owners that the hint is for.
        hint_for: Vec<NodeId>,
        /// The GC epoch of the partition at which the object was issued or read.
        gc_epoch: GcEpoch,
    },
    /// The update, merge or hint is applied here and synced.
    Ack,
    /// From a node to itself: `target` holds this object, synced, so the hint that equals it can
    /// go.
    DeleteHint {
        /// The key of the hint.
        key: Key,
        /// The owner that the hint was for.
        target: NodeId,
        /// The object that the target holds; a hint that has changed since is kept.
        object: Object,
    },
    /// From a node to itself: the other owners have this of the key, whose record here is damaged.
    Restore {
        /// The key whose record is damaged.
        key: Key,
        /// The merged object of the other owners.
        object: Object,
    },
    /// How many hints do you keep for me? `request_id` is the incarnation's nonce.
    QueryHints,
    /// The number of hints; if it is 0, their removal is synced.
    Hints(u64),
    /// Heartbeats and the member list.
    Gossip(Gossip),
    /// Send me your copy of this key.
    Read {
        /// The key to read.
        key: Key,
    },
    /// My copy, synced; empty if I never heard of the key.
    Copy {
        /// The sender's record of the key; at a fallback, its hints of the key, merged.
        object: Object,
        /// False if I may lack events of the key: I am read-ineligible, catching up, or no owner.
        /// The copy is merged, and does not count as an owner's.
        authoritative: bool,
        /// The owners that I, a fallback, keep this for.
        kept_for: Vec<NodeId>,
        /// My GC epoch of the partition, or that of the oldest hint in it.
        gc_epoch: GcEpoch,
    },
    /// List your keys of a partition.
    List {
        /// The partition to list.
        partition: Partition,
        /// Start behind this key.
        after: Option<Key>,
        /// Stop after about this many bytes of keys.
        limit_bytes: u32,
    },
    /// My keys in byte order.
    Listed {
        /// The keys, about `limit_bytes` bytes of them at most.
        keys: Vec<Key>,
        /// False when the partition ends here.
        more: bool,
        /// False if I am read-ineligible and may have lost keys.
        authoritative: bool,
    },
    /// My incarnation: sent when a link comes up, and repeated until it is answered. `request_id`
    /// is the incarnation's nonce.
    Introduce {
        /// The incarnation of the sender's store.
        incarnation: IncarnationId,
        /// The id of its cluster, if it is in one.
        cluster: Option<u64>,
        /// Version and digest of its ring.
        ring: RingId,
    },
    /// The answer to `Introduce`: what I know of your incarnations, and my identity.
    Known {
        /// The last incarnation of yours that I had seen before this one.
        seen: Option<IncarnationId>,
        /// The birth of my store.
        birth: u64,
        /// My cluster, if I am in one.
        cluster: Option<Cluster>,
    },
    /// The query was not carried out and changed nothing here.
    Failed(Rejection),
    /// Are our copies of this partition the same?
    Compare {
        /// The partition to compare, which both own.
        partition: Partition,
        /// The shape of my tree ([`crate::merkle::SHAPE`]).
        shape: u32,
        /// Bytes of each summary wanted, 1 to 8. The salt of all summaries is the question's
        /// `request_id`.
        width: u8,
        /// The root of my tree: the sum of the digests of all keys.
        root: Digest,
        /// My GC epoch of the partition: objects of different epochs cannot be compared, because
        /// other events are purged.
        gc_epoch: GcEpoch,
    },
    /// Our roots are the same.
    Equal,
    /// What are the children of these nodes of your tree?
    Descend {
        /// The partition of the comparison.
        partition: Partition,
        /// Bytes of each summary wanted, 1 to 8.
        width: u8,
        /// The level of these nodes; 0 is the root.
        level: u8,
        /// The places of the nodes on that level, from 0.
        nodes: Vec<u16>,
    },
    /// The summaries of the children of each node, in order; those of the root, if the roots
    /// differ.
    Summaries(Blob),
    /// Which keys do you have in these leaves?
    Leaves {
        /// The partition of the comparison.
        partition: Partition,
        /// The leaves; all if not given.
        leaves: Option<Vec<u16>>,
        /// Start behind this key.
        after: Option<Key>,
    },
    /// The keys of the leaves, in byte order.
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
        /// The key whose clock has the purged events.
        key: Key,
    },
    /// From a node to itself: the record of the key, or the hint of it, is of a disk that was
    /// rolled back and is discarded.
    Discard {
        /// The key of the record or hint.
        key: Key,
        /// The owner that the old hint is for; `None` if the record is meant.
        target: Option<NodeId>,
    },
    /// May the partition's next GC epoch begin, in which these events are purgeable?
    Propose {
        /// The partition whose GC epoch is to end.
        partition: Partition,
        /// The GC epoch that is to end.
        gc_epoch: GcEpoch,
        /// The digest of my list of members.
        members: u64,
        /// Events that are dead at every owner once all have agreed, by key.
        purgeable: Vec<PurgeableKey>,
    },
    /// I agree to the next GC epoch: I keep no hint of an older one, and the purgeable events are
    /// dead here, synced.
    Agreed,
    /// I do not agree to the next GC epoch yet, for this reason; the proposal is repeated.
    NotYet(NotYet),
    /// The GC epochs that I know of all partitions.
    GcEpochs {
        /// The digest of their numbers.
        digest: u64,
        /// True if I know that my disk is the newest, not a rolled-back one.
        certain: bool,
        /// True if I want your `certain` in return.
        query: bool,
    },
    /// The number of each partition's GC epoch, without those that are the first one.
    GcEpochNumbers(Vec<(Partition, GcEpoch)>),
    /// Send me the GC epoch of this partition.
    QueryGcEpoch(Partition),
    /// My GC epoch of a partition: the answer to `QueryGcEpoch`, or the report of one that I began.
    GcState {
        /// The partition whose GC epoch it is.
        partition: Partition,
        /// Its number, with the events that are purgeable and those that are purged in it.
        gc_epoch: GcState,
    },
    /// Your ring is older than this one, which is in force.
    Placement {
        /// The ring in force, with its version.
        ring: Ring,
        /// Every member, removed ones included.
        members: Members,
    },
    /// From a node to itself: no client waits for the write of this operation any more. It is
    /// dropped if it has not been carried out yet.
    Withdraw {
        /// The key of the write.
        key: Key,
    },
    /// May I change the ring? Answered by `RingGranted` or `RingDenied`. Of nodes of protocol 8,
    /// which are granted nothing.
    QueryRing {
        /// Version and digest of the ring that I change.
        ring: RingId,
        /// The member that is to be removed.
        old: NodeId,
        /// The new member that is to take its places.
        new: NodeId,
    },
    /// I grant it: until I see another ring, or for some seconds, I grant no other change.
    RingGranted,
    /// I do not grant it: another node is changing the ring, or our rings differ.
    RingDenied {
        /// The node that is changing the ring; the sender if the rings differ.
        by: NodeId,
    },
    /// From a node to itself, the issuer of a write that is to be decided: carry it out on what the
    /// owners have answered and on your own copy, if the premise holds. Answered like `Update`.
    Decide {
        /// The key that the client changes.
        key: Key,
        /// What has to hold of the key.
        premise: Premise,
        /// The join of the copies that owners have answered with.
        answers: Object,
        /// The GC epoch of the oldest of them.
        gc_epoch: GcEpoch,
        /// The put or delete to apply.
        change: Change,
        /// As in `Update`.
        hint_for: Vec<NodeId>,
    },
    /// The client waits no more for the request of this id that I forwarded to you: it is void
    /// unless it has been carried out. Since protocol 8.
    Abandon,
    /// Does the client still wait for the request of this id, which you forwarded to me? It may
    /// have been on its way for long. Answered by `Wanted`, or not at all. Since protocol 8.
    QueryWanted(RequestId),
    /// The client waits for it.
    Wanted,
    /// May I change the ring? Answered by `RingGranted` or `RingDenied`. Since protocol 9, in the
    /// place of `QueryRing`.
    QueryChange {
        /// The ring that I change.
        ring: RingId,
        /// The digest of the ring that I am to make.
        next: u64,
        /// Nodes that are to become members with it: dial them.
        newcomers: Vec<Member>,
    },
    /// How far I am with what the change of the ring waits for. Since protocol 9.
    Progress(RingProgress),
    /// From a node to itself: the owners of the key, of which this node is none, hold all of the
    /// record, synced. It goes if it is still the one with this digest.
    Erase {
        /// The key of the record.
        key: Key,
        /// The digest of the record; `None` of one that cannot be read.
        digest: Option<Digest>,
    },
    /// Send me your records of these leaves: I have none of them, or few. Answered by `Records`.
    /// Since protocol 9.
    Fetch {
        /// The partition of the comparison.
        partition: Partition,
        /// The leaves; all if not given.
        leaves: Option<Vec<u16>>,
        /// Start behind this key.
        after: Option<Key>,
    },
    /// The records of the leaves, in byte order of the keys; what they report is synced.
    Records {
        /// The keys, each with its object.
        records: Vec<(Key, Object)>,
        /// My GC epoch of the partition while they were read.
        gc_epoch: GcEpoch,
        /// Go on behind this key; `None` when there are no more.
        next: Option<Key>,
    },
}

/// What has to hold of a key for a write, at the moment in which its issuer carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Premise {
    /// One value at most; the write covers it.
    OneValue,
    /// No value.
    Absent,
    /// No event that this context does not cover.
    Within(Context),
}

/// A key of a leaf, as replicas compare it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Item {
    /// The key, whose hash is in one of the leaves that were queried.
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
    /// A summary of what the sender knows.
    Digest {
        /// The newest heartbeat of each member that the sender knows.
        heartbeats: Vec<(NodeId, Heartbeat)>,
        /// The digest of my list of members.
        members: u64,
    },
    /// What the receiver did not know, by its digest.
    News {
        /// Newer heartbeats than yours, those furthest ahead first.
        heartbeats: Vec<(NodeId, Heartbeat)>,
        /// My list of members, if it differs.
        members: Vec<Member>,
        /// The digest of the sender's member list.
        digest: u64,
        /// Members of which the receiver has a later heartbeat: it is to send these.
        wanted: Vec<NodeId>,
    },
}
