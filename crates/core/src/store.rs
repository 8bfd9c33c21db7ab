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
use crate::causal::{Context, Object};
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
    pub own_epoch: Option<u64>,
    /// What replicas exchange.
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

/// What a store knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Meta {
    /// Whose store this is.
    pub identity: StoreIdentity,
    /// 64 random bits, drawn when the store was created and kept for good.
    pub birth: u64,
    /// 64 random bits, half of every actor that it issues dots with: as many as `birth` in the
    /// first process that has the store open, and drawn anew by each later one. No two runs of a
    /// process issue the same dot, whatever copies of the disk were put back between them.
    pub store: u64,
    /// One higher at every start.
    pub incarnation: Incarnation,
    /// Serials below this are void: they were issued by an earlier process.
    pub actor_epoch_floor: u64,
    /// The next actor epoch; written at a clean end, for the next incarnation in the same process.
    pub actor_epoch_end: u64,
    /// True from a clean stop to the next start, and only then.
    pub clean: bool,
    /// The cluster; `None` until it is founded or met.
    pub cluster: Option<Cluster>,
    /// Partitions whose absent keys may have been here: what is not found in them does not count.
    pub read_ineligible: Vec<Partition>,
    /// The last incarnation of each other member that introduced itself here.
    pub lives: Vec<(NodeId, IncarnationId)>,
    /// The ids that this store has issued dots with since it last knew that it was as new as the
    /// others: should it turn out to be an old copy of a disk, what they issued is not old.
    pub fresh: Vec<u64>,
}

impl Meta {
    /// Goes on under another id, with every actor epoch void.
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

    /// What a store knows of itself before its first incarnation; `store` is its id.
    pub fn new(identity: StoreIdentity, store: u64) -> Self {
        Meta {
            identity,
            birth: store,
            store,
            incarnation: Incarnation(0),
            actor_epoch_floor: 1,
            actor_epoch_end: 1,
            clean: true,
            cluster: None,
            read_ineligible: Vec::new(),
            lives: Vec::new(),
            fresh: Vec::new(),
        }
    }
}

/// To which node of which cluster, with which placement of keys, a store belongs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct StoreIdentity {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// The digest of the ring that placed its keys.
    pub ring: u64,
}

impl StoreIdentity {
    /// The node's id.
    pub fn node(&self) -> NodeId {
        NodeId::of(&self.name)
    }
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replaces the record of a key.
    Record {
        /// The key's partition.
        partition: Partition,
        /// The key.
        key: Key,
        /// Its new record.
        record: Record,
    },
    /// Removes the record of a key, which knows of no event any more.
    Forget {
        /// The key's partition.
        partition: Partition,
        /// The key.
        key: Key,
    },
    /// Replaces the GC epoch of a partition.
    GcState {
        /// The partition.
        partition: Partition,
        /// Its GC epoch.
        gc_epoch: GcState,
    },
    /// Replaces, or removes, what is kept of a key for another member.
    Hint {
        /// Whom it is for.
        target: NodeId,
        /// The key.
        key: Key,
        /// The hint; `None` removes it.
        record: Option<Record>,
    },
    /// Replaces what the store knows of itself.
    Meta(Meta),
    /// Replaces what the store knows of the members.
    Members(Members),
    /// Replaces the ring.
    Ring(Ring),
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The store has no record of the key.
    Nothing,
    /// Its record.
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
    /// True if nobody asks for the contexts: the reading of a tree does not, and reads everything.
    pub without_contexts: bool,
}

impl Span {
    /// True for a key that is wanted, if it lies within.
    pub fn wants(&self, key: &Key) -> bool {
        self.leaves.as_ref().is_none_or(|leaves| leaves.has(leaf_of(key)))
    }
}

/// What a store has of a key, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The key.
    pub key: Key,
    /// Every event that its object knows of; empty in a [`Span`] without contexts.
    pub context: Context,
    /// The object's digest.
    pub digest: Digest,
    /// The events of actors that have no live value.
    pub dead: Context,
    /// Encoded bytes of the object.
    pub bytes: usize,
}

impl Scanned {
    /// What is to be notified of this object.
    pub fn of(key: Key, object: &Object, span: &Span) -> Self {
        let digest = Digest::of(&key, object);
        let bytes = wire::encoded_len(object);
        let context = if span.without_contexts { Context::default() } else { object.context() };
        Scanned { key, context, digest, dead: object.dead(), bytes }
    }
}

/// What was found within a [`Span`], in byte order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// The wanted keys.
    pub items: Vec<Scanned>,
    /// Wanted keys whose record fails its checksum.
    pub damaged: Vec<Key>,
    /// Where to go on behind; `None` when all of the span has been read.
    pub next: Option<Key>,
}

impl ScanPage {
    /// Adds what was found at a key.
    pub fn add(&mut self, key: Key, found: Found, span: &Span) {
        match found {
            Found::Record(record) => self.items.push(Scanned::of(key, &record.object, span)),
            Found::Damaged => self.damaged.push(key),
            Found::Nothing => {}
        }
    }
}

/// A part of the hints for one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HintPage {
    /// Keys in byte order, each with what is kept of it.
    pub hints: Vec<(Key, Found)>,
    /// False when the hints for this member end here.
    pub more: bool,
}

/// What is kept for one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintTotal {
    /// How many hints.
    pub count: u64,
    /// The sum of their [`hint_bytes`].
    pub bytes: u64,
    /// How many of them may have filled the member's slot: those of keys that their fallback is no
    /// owner of. What an owner keeps for another one counts for nothing beside its own copy.
    pub pending: u64,
}

/// Everything that is kept for other members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// By member.
    pub totals: BTreeMap<NodeId, HintTotal>,
    /// How many hints there are of each GC epoch of a partition; a damaged one may be of the first.
    pub stamps: BTreeMap<(Partition, GcEpoch), u64>,
}

impl Kept {
    /// Counts one more hint; a damaged one has no size.
    pub fn add(&mut self, target: NodeId, key: &Key, found: &Found, place: (Partition, bool)) {
        let (partition, pending) = place;
        let total = self.totals.entry(target).or_default();
        total.count += 1;
        total.pending += u64::from(pending);
        let mut gc_epoch = GcEpoch::FIRST;
        if let Found::Record(record) = found {
            total.bytes += hint_bytes(key, record);
            gc_epoch = record.gc_epoch;
        }
        *self.stamps.entry((partition, gc_epoch)).or_default() += 1;
    }
}

/// What a hint counts towards the limit of hints, in bytes: about what it takes on disk.
pub fn hint_bytes(key: &Key, record: &Record) -> u64 {
    let values = record.object.values().map(|(_, version)| version.value.0.len() + 20);
    let entries = record.object.entries().len() * 24;
    (key.as_bytes().len() + values.sum::<usize>() + entries + 32) as u64
}

/// What a store had kept for the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing was kept.
    Nothing,
    /// This, and nothing was written since.
    Whole(Vec<u8>),
    /// Something that must not be used, and why.
    Unusable(String),
}

/// The disk failed. What was synced is there; nothing more may be acknowledged, and the process
/// must end. An fsync is never tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct StoreError(pub String);

/// A durable map of records. Calls come from one writer and any number of readers.
pub trait Store: Send + Sync {
    /// What the store knows of itself; `None` before its first incarnation.
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

    /// What the store knows of the members; `None` before it was reported.
    fn members(&self) -> Result<Option<Members>, StoreError>;

    /// The ring in force, if it is a later one than the configured members make.
    fn ring(&self) -> Result<Option<Ring>, StoreError>;

    /// What is kept of a key for a member, as last applied.
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

    /// What is kept for other members, by reading all hints: for the start. `place` says for a key
    /// which partition it is in, and whether what is kept of it may have filled a slot.
    fn hint_totals(&self, place: &dyn Fn(&Key) -> (Partition, bool)) -> Result<Kept, StoreError>;

    /// Applies all changes or none. They are visible at once, and durable after the next
    /// [`Store::sync`]; a crash before it keeps some number of the oldest unsynced batches, each of
    /// them whole.
    fn apply(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// Returns when all that was applied survives a power cut.
    fn sync(&self) -> Result<(), StoreError>;

    /// Reads a part of what is on the device, whatever is in memory of it, and says whether it is
    /// as it was written: the `part`-th, counted on beyond the last one from the first again.
    /// Harms nothing that goes on meanwhile.
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

    /// Takes what was kept. When this returns, it is gone from the disk for good: whatever happens
    /// to the store from then on, an older state of it is never taken again.
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

/// What a part of a store is like on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// How many parts the store has; none where there is no device.
    pub parts: u64,
    /// What is damaged there, in a few words.
    pub damage: Option<String>,
}

/// A record's bytes on disk: a version byte, the content, and a checksum that also covers its
/// place.
pub fn encode_record(partition: Partition, key: &Key, record: &Record) -> Vec<u8> {
    let mut bytes = wire::encode_behind(vec![RECORD_VERSION], record, CHECKSUM_BYTES + 1);
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
    let mut bytes = wire::encode_behind(vec![HINT_VERSION], &(record.gc_epoch, record), sealed);
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
