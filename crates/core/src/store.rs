//! What the machine needs of a disk: the trait, the records, and the start and stop of a store's
//! incarnation. [`memory`] is the in-memory twin; the daemon's store on sled keeps the same
//! promises on a real disk.

mod incarnation;
pub mod memory;

use std::collections::BTreeMap;

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

pub use self::incarnation::{
    IncarnationError, Process, begin_anew, begin_incarnation, end_incarnation,
};
use crate::causal::{ActorEpoch, Context, Object};
use crate::gc_epoch::{GcEpoch, GcState};
use crate::members::{Cluster, Incarnation, IncarnationId, Members};
use crate::merkle::{Digest, LeafSet, leaf_of};
use crate::ring::Ring;
use crate::types::{Key, NodeId, Partition, hash64};
use crate::wire;

const RECORD_VERSION: u8 = 1;
/// Hints of schema 2 have no GC epoch: they are of the first one.
const HINT_VERSION: u8 = 2;
const CHECKSUM_BYTES: usize = 8;

/// What a store keeps for a key: the replicated object, and what is local to this store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The actor epoch with which this store may continue its own entry in the object's clock. Void
    /// when it is below [`Meta::actor_epoch_floor`], or the clock has no event of it under the
    /// store's present id.
    pub own_epoch: Option<ActorEpoch>,
    /// The clock and siblings, as replicas exchange them.
    pub object: Object,
    /// Of a hint: the GC epoch of its partition at which the object was issued or read. 0 in an own
    /// record, which is of the partition's present one.
    pub gc_epoch: GcEpoch,
}

/// What an own record is on disk; a hint has its GC epoch before it.
impl Encode for Record {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.own_epoch.encode(encoder)?;
        self.object.encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Record {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let own_epoch = BorrowDecode::<'de, Bytes>::borrow_decode(decoder)?;
        let object = BorrowDecode::<'de, Bytes>::borrow_decode(decoder)?;
        Ok(Record { own_epoch, object, gc_epoch: GcEpoch::FIRST })
    }
}

/// The store's own state, apart from records and hints.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Meta {
    /// The node and cluster that the store belongs to.
    pub identity: StoreIdentity,
    /// 64 random bits, drawn when the store was created and kept for good.
    pub birth: u64,
    /// 64 random bits, half of every actor that it issues dots with: as many as `birth` in the
    /// first process that has the store open, and drawn anew by each later one. No two runs of a
    /// process issue the same dot, whatever copies of the disk were put back between them.
    pub store: u64,
    /// One higher at every start.
    pub incarnation: Incarnation,
    /// Actor epochs below this are void: an earlier process has used them.
    pub actor_epoch_floor: ActorEpoch,
    /// The next actor epoch; written at a clean end, for the next incarnation in the same process.
    pub actor_epoch_end: ActorEpoch,
    /// True from a clean stop to the next start, and only then.
    pub clean: bool,
    /// The cluster; `None` until it is founded or met.
    pub cluster: Option<Cluster>,
    /// Partitions in which the node is read-ineligible: keys that are absent here may have been
    /// lost.
    pub read_ineligible: Vec<Partition>,
    /// The last incarnation of each other member that introduced itself here.
    pub peer_incarnations: Vec<(NodeId, IncarnationId)>,
    /// The store ids that issued dots here since this disk was last known to be the newest. If it
    /// turns out to be an old copy, their events are not old.
    pub fresh: Vec<u64>,
}

impl Meta {
    /// Continues under another id, with every actor epoch void.
    fn draw(&mut self, id: u64) {
        self.store = id;
        self.actor_epoch_floor = self.actor_epoch_end;
    }

    /// Notes that the disk may not be the newest: what this process issues is not old, whatever
    /// else is.
    pub fn suspect(&mut self) {
        if !self.fresh.contains(&self.store) {
            self.fresh.push(self.store);
        }
    }

    /// Notes that the node is read-ineligible in these partitions, too.
    pub fn lose(&mut self, partitions: &[Partition]) {
        self.read_ineligible.extend(partitions);
        self.read_ineligible.sort_unstable();
        self.read_ineligible.dedup();
    }

    /// What a store knows of itself before its first incarnation; `store` is its id.
    pub fn new(identity: StoreIdentity, store: u64) -> Self {
        Meta {
            identity,
            birth: store,
            store,
            incarnation: Incarnation(0),
            actor_epoch_floor: ActorEpoch::FIRST,
            actor_epoch_end: ActorEpoch::FIRST,
            clean: true,
            cluster: None,
            read_ineligible: Vec::new(),
            peer_incarnations: Vec::new(),
            fresh: Vec::new(),
        }
    }
}

/// The node, cluster and ring that a store belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct StoreIdentity {
    /// The name of the cluster, compared at each start with the configured one.
    pub cluster: String,
    /// The name of the node, compared at each start with the configured one.
    pub name: String,
    /// The digest of the ring that placed its keys.
    pub ring: u64,
}

impl StoreIdentity {
    /// The id that follows from the node's name.
    pub fn node(&self) -> NodeId {
        NodeId::of(&self.name)
    }
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replaces the record of a key.
    Record {
        /// The partition of the key.
        partition: Partition,
        /// The key of the record.
        key: Key,
        /// The record that replaces the present one.
        record: Record,
    },
    /// Removes the record of a key, which knows of no event any more.
    Forget {
        /// The partition of the key.
        partition: Partition,
        /// The key whose record is removed.
        key: Key,
    },
    /// Replaces the GC epoch of a partition.
    GcState {
        /// The partition whose GC epoch it is.
        partition: Partition,
        /// The number of the new GC epoch, and its purgeable and purged events.
        gc_epoch: GcState,
    },
    /// Replaces or removes the hint of a key for another member.
    Hint {
        /// The member that the hint is for.
        target: NodeId,
        /// The key of the hint.
        key: Key,
        /// The hint; `None` removes it.
        record: Option<Record>,
    },
    /// Replaces the store's own state.
    Meta(Meta),
    /// Replaces the member list.
    Members(Members),
    /// Replaces the ring in force.
    Ring(Ring),
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The store has no record of the key.
    Nothing,
    /// The record of the key; its checksum was correct.
    Record(Record),
    /// There is a record, and it fails its checksum: it counts towards nothing.
    Damaged,
}

/// A part of a partition's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Keys in byte order.
    pub keys: Vec<Key>,
    /// False when the partition ends here.
    pub more: bool,
}

/// A part of a partition, to be read for its tree or for a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Start behind this key.
    pub after: Option<Key>,
    /// End with this key.
    pub until: Option<Key>,
    /// Only keys of these leaves; all if not given.
    pub leaves: Option<LeafSet>,
    /// Stop after about this many bytes of records, whether they are wanted or not.
    pub limit_bytes: usize,
    /// What is wanted of each record.
    pub detail: Detail,
}

/// What a [`Span`] wants of each record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// A summary, with the context.
    #[default]
    Contexts,
    /// A summary without the context: the reading of a tree reads everything without them.
    Digests,
    /// The object itself, without a summary.
    Objects,
}

impl Span {
    /// True for a key that is wanted, if it lies within.
    pub fn wants(&self, key: &Key) -> bool {
        self.leaves.as_ref().is_none_or(|leaves| leaves.has(leaf_of(key)))
    }
}

/// Summary of the record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The key of the record.
    pub key: Key,
    /// Every event that its object knows of; empty in a [`Span`] that wants none.
    pub context: Context,
    /// The digest of key and object, which the Merkle tree adds up.
    pub digest: Digest,
    /// The events that tombstone GC may propose as dead ([`Object::dead`]).
    pub dead: Context,
    /// Encoded bytes of the object.
    pub bytes: usize,
}

impl Scanned {
    /// The summary of an object that was found in `span`.
    pub fn of(key: Key, object: &Object, span: &Span) -> Self {
        let digest = Digest::of(&key, object);
        let bytes = wire::encoded_len(object);
        let context = match span.detail {
            Detail::Contexts => object.context(),
            Detail::Digests | Detail::Objects => Context::default(),
        };
        Scanned { key, context, digest, dead: object.dead(), bytes }
    }
}

/// What was found within a [`Span`], in byte order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// The wanted keys whose record could be read.
    pub items: Vec<Scanned>,
    /// The same, where their objects are wanted in place of summaries.
    pub objects: Vec<(Key, Object)>,
    /// Wanted keys whose record fails its checksum.
    pub damaged: Vec<Key>,
    /// Where to go on behind; `None` when all of the span has been read.
    pub next: Option<Key>,
}

impl ScanPage {
    /// Adds the record or the damage that was found at a key.
    pub fn add(&mut self, key: Key, found: Found, span: &Span) {
        match found {
            Found::Record(record) if span.detail == Detail::Objects => {
                self.objects.push((key, record.object));
            }
            Found::Record(record) => self.items.push(Scanned::of(key, &record.object, span)),
            Found::Damaged => self.damaged.push(key),
            Found::Nothing => {}
        }
    }
}

/// A part of the hints for one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HintPage {
    /// Keys in byte order, each with its hint.
    pub hints: Vec<(Key, Found)>,
    /// False when the hints for this member end here.
    pub more: bool,
}

/// Totals of the hints for one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintTotal {
    /// The number of hints, damaged ones included.
    pub count: u64,
    /// The sum of their [`hint_bytes`].
    pub bytes: u64,
    /// The number of them that may have filled the member's slot: this node is no owner of their
    /// keys. A hint that an owner keeps fills no slot beside the owner's own copy. The store does
    /// not know it.
    pub pending: u64,
}

/// Totals of all hints for other members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The totals by the member that the hints are for.
    pub totals: BTreeMap<NodeId, HintTotal>,
    /// How many hints there are for a member of keys of a partition.
    pub counts: BTreeMap<(NodeId, Partition), u64>,
    /// How many hints there are of each GC epoch of a partition; a damaged one may be of the first.
    pub stamps: BTreeMap<(Partition, GcEpoch), u64>,
}

impl Kept {
    /// Counts one more hint; a damaged one has no size.
    pub fn add(&mut self, target: NodeId, key: &Key, found: &Found, partition: Partition) {
        let total = self.totals.entry(target).or_default();
        total.count += 1;
        *self.counts.entry((target, partition)).or_default() += 1;
        let mut gc_epoch = GcEpoch::FIRST;
        if let Found::Record(record) = found {
            total.bytes += hint_bytes(key, record);
            gc_epoch = record.gc_epoch;
        }
        *self.stamps.entry((partition, gc_epoch)).or_default() += 1;
    }
}

/// The bytes that a hint counts towards the limit of hints: about its size on disk.
pub fn hint_bytes(key: &Key, record: &Record) -> u64 {
    let values = record.object.values().map(|(_, version)| version.value.0.len() + 20);
    let entries = record.object.entries().len() * 24;
    (key.as_bytes().len() + values.sum::<usize>() + entries + 32) as u64
}

/// The trees that the last stop kept for this start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// No trees are kept.
    Nothing,
    /// This, and nothing was written since.
    Whole(Vec<u8>),
    /// Something that must not be used, and why.
    Unusable(String),
}

/// The disk failed. Synced data is there; nothing more may be acknowledged, and the process must
/// end. An fsync is never tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct StoreError(pub String);

/// A durable map of records. Calls come from one writer and any number of readers.
pub trait Store: Send + Sync {
    /// The store's own state; `None` before its first incarnation.
    fn meta(&self) -> Result<Option<Meta>, StoreError>;

    /// The record of a key, as last applied.
    fn read(&self, partition: Partition, key: &Key) -> Result<Found, StoreError>;

    /// Keys of a partition behind `after` in byte order: at least one if there is one, and not many
    /// more than `limit_bytes` bytes of them.
    fn list(
        &self,
        partition: Partition,
        after: Option<&Key>,
        limit_bytes: usize,
    ) -> Result<Listing, StoreError>;

    /// What a span of a partition holds, read from the disk.
    fn scan(&self, partition: Partition, span: &Span) -> Result<ScanPage, StoreError>;

    /// The stored member list; `None` before the first one was written.
    fn members(&self) -> Result<Option<Members>, StoreError>;

    /// The ring in force, if it is a later one than the configured members make.
    fn ring(&self) -> Result<Option<Ring>, StoreError>;

    /// The hint of a key for a member, as last applied.
    fn read_hint(&self, target: NodeId, key: &Key) -> Result<Found, StoreError>;

    /// Hints for a member behind `after` in byte order of the keys: at least one if there is one,
    /// and not many more than `limit_bytes` bytes of them.
    fn list_hints(
        &self,
        target: NodeId,
        after: Option<&Key>,
        limit_bytes: usize,
    ) -> Result<HintPage, StoreError>;

    /// The GC epoch of each partition that has had more than one.
    fn gc_epochs(&self) -> Result<Vec<(Partition, GcState)>, StoreError>;

    /// The totals of all hints, by reading them, for the start. `place` returns the partition of a
    /// key.
    fn hint_totals(&self, place: &dyn Fn(&Key) -> Partition) -> Result<Kept, StoreError>;

    /// Applies all changes or none. They are visible at once, and durable after the next
    /// [`Store::sync`]; a crash before it keeps some number of the oldest unsynced batches, each of
    /// them whole.
    fn apply(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// Returns when all that was applied survives a power cut.
    fn sync(&self) -> Result<(), StoreError>;

    /// Reads the `part`-th part of the data from the device, not from memory, and checks that it is
    /// as it was written. Numbers beyond the last part start again at the first. Can run beside all
    /// other calls.
    fn scrub(&self, part: u64) -> Result<Scrubbed, StoreError> {
        let _ = part;
        Ok(Scrubbed { parts: 0, damage: None })
    }

    /// Writes a little to the disk and waits until it is there. A disk that hangs shows nowhere
    /// else while nothing is written.
    fn probe(&self) -> Result<(), StoreError> {
        self.sync()
    }

    /// Bytes taken on disk.
    fn disk_bytes(&self) -> Result<u64, StoreError>;

    /// Keeps these bytes for the next start: they hold until something is applied.
    fn save_trees(&self, trees: &[u8]) -> Result<(), StoreError> {
        let _ = trees;
        Ok(())
    }

    /// Takes the trees that the last stop kept. When this returns, they are gone from the disk for
    /// good, so that an older state of them is never taken again.
    fn take_trees(&self) -> Result<Taken, StoreError> {
        Ok(Taken::Nothing)
    }

    /// Bytes that the disk has left beside what this store needs for itself and for `coming_bytes`
    /// more bytes of records; `None` where nothing limits it.
    fn free_bytes(&self, coming_bytes: u64) -> Result<Option<u64>, StoreError> {
        let _ = coming_bytes;
        Ok(None)
    }
}

/// The partitions of a ring of `partitions` that the store has records of.
pub fn held(store: &dyn Store, partitions: u16) -> Result<Vec<Partition>, StoreError> {
    let mut held = Vec::new();
    for partition in (0..partitions).map(Partition) {
        if !store.list(partition, None, 1)?.keys.is_empty() {
            held.push(partition);
        }
    }
    Ok(held)
}

/// The result of scrubbing one part of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// The number of parts of the store; 0 without a device.
    pub parts: u64,
    /// The damage found in the part, in a few words; `None` if there is none.
    pub damage: Option<String>,
}

/// A record's bytes on disk: a version byte, the content, and a checksum that also covers its
/// place.
pub fn encode_record(partition: Partition, key: &Key, record: &Record) -> Vec<u8> {
    let mut bytes = wire::encode_behind(&[RECORD_VERSION], record, CHECKSUM_BYTES + 1);
    let checksum = record_checksum(partition, key, &bytes);
    bytes.extend(checksum);
    bytes
}

/// The record in these bytes; `Damaged` if the checksum, the version or the content is wrong.
pub fn decode_record(partition: Partition, key: &Key, bytes: Bytes) -> Found {
    let body = open_sealed(bytes, |body| record_checksum(partition, key, body));
    let body = body.filter(|body| body.first() == Some(&RECORD_VERSION));
    let record = body.and_then(|body| wire::decode(&body.slice(1..)).ok());
    record.map_or(Found::Damaged, Found::Record)
}

/// A hint's bytes on disk: as a record's, with the GC epoch in front, and bound to the member that
/// it is for.
pub fn encode_hint(target: NodeId, key: &Key, record: &Record) -> Vec<u8> {
    let sealed = CHECKSUM_BYTES + 1;
    let mut bytes = wire::encode_behind(&[HINT_VERSION], &(record.gc_epoch, record), sealed);
    let checksum = hint_checksum(target, key, &bytes);
    bytes.extend(checksum);
    bytes
}

/// The hint in these bytes; `Damaged` if the checksum, the version or the content is wrong.
pub fn decode_hint(target: NodeId, key: &Key, bytes: Bytes) -> Found {
    let opened = open_sealed(bytes, |body| hint_checksum(target, key, body));
    let record = opened.and_then(|body| match body.first() {
        Some(&RECORD_VERSION) => wire::decode(&body.slice(1..)).ok(),
        Some(&HINT_VERSION) => {
            let (gc_epoch, record): (GcEpoch, Record) = wire::decode(&body.slice(1..)).ok()?;
            Some(Record { gc_epoch, ..record })
        }
        _ => None,
    });
    record.map_or(Found::Damaged, Found::Record)
}

/// What is in front of the checksum, if that is right.
fn open_sealed(bytes: Bytes, checksum: impl Fn(&[u8]) -> [u8; CHECKSUM_BYTES]) -> Option<Bytes> {
    let split = bytes.len().checked_sub(CHECKSUM_BYTES)?;
    let body = bytes.slice(..split);
    (checksum(&body) == bytes[split..]).then_some(body)
}

fn hint_checksum(target: NodeId, key: &Key, body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    hash64(&[b"hint", &target.0.to_be_bytes(), key.as_bytes(), body]).to_be_bytes()
}

fn record_checksum(partition: Partition, key: &Key, body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    hash64(&[b"record", &partition.0.to_be_bytes(), key.as_bytes(), body]).to_be_bytes()
}
