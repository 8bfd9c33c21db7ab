//! Checks a stopped store: every record, checksum, chunk and head, and the small files beside them.
//! Nothing in the store is changed, because a private copy is read.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use blake3::Hasher;
use bytes::Bytes;
use pixii_core::gc_epoch::{GcEpoch, GcState};
use pixii_core::members::Members;
use pixii_core::merkle::Digest;
use pixii_core::ring::Ring;
use pixii_core::store::{Found, HintTotal, Kept, Meta, Record};
use pixii_core::types::{Key, NodeId, Partition, first_u64};
use pixii_core::wire;

use super::files::Directory;
use super::files::copy::PrivateCopy;
use super::layout::{self, At, CHUNKS, HINTS, Head, Place, Value};
use super::{
    DiskStore, Limits, OpenError, StoreFault, gc_epochs, incarnation, members, noted_damage, ring,
    schema,
};

/// The contents and the damage that a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The store's record of its own identity; `None` before its first incarnation.
    pub meta: Option<Meta>,
    /// The stored member list; `None` before the first was stored.
    pub members: Option<Members>,
    /// The stored ring; `None` unless it is a later one than the configured members make.
    pub ring: Option<Ring>,
    /// Keys with a value.
    pub live_keys: u64,
    /// Keys with more than one value.
    pub siblings: u64,
    /// Values of all keys.
    pub values: u64,
    /// Keys without a value, because they were deleted.
    pub tombstones: u64,
    /// Entries of all clocks together.
    pub clock_entries: u64,
    /// Entries of the longest clock: at the limit of entries a key takes no write any more.
    pub longest_clock: u64,
    /// Hints for each other member; damaged hints are counted, with a size of 0.
    pub hints: BTreeMap<NodeId, HintTotal>,
    /// Records and hints kept in chunks.
    pub chunked: u64,
    /// Chunks, including orphans that no head refers to.
    pub chunks: u64,
    /// Bytes that the store takes on disk.
    pub disk_bytes: u64,
    /// A digest over all keys, clocks and values, without hints: equal where two stores hold the
    /// same.
    pub digest: u64,
    /// The contents by partition, without empty partitions in the first GC epoch.
    pub by_partition: BTreeMap<Partition, Holding>,
    /// Number of damaged places that were reported.
    pub damages: u64,
    /// False when damage hid the places behind it.
    pub complete: bool,
}

/// The contents of a partition in a store, less what is purged. Owners advance to a GC epoch one
/// after the other, and remove purged events at their own pace. If they are stopped meanwhile,
/// their contents still compare as equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The GC epoch of the partition in this store.
    pub gc_epoch: GcEpoch,
    /// The contents less what earlier GC epochs have purged.
    pub content: Content,
    /// The contents once the next GC epoch has begun: also less what is purgeable now.
    pub next: Content,
}

/// Keys with their clocks and values, in number and as a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Number of keys, tombstones included.
    pub keys: u64,
    /// The sum of the digests of all keys; nothing else in the store affects it.
    pub digest: u64,
}

impl Content {
    fn add(&mut self, digest: Digest) {
        self.keys += u64::from(digest != Digest::default());
        self.digest = self.digest.wrapping_add(digest.0 as u64);
    }
}

impl Holding {
    /// True if an owner that holds `later`, of this GC epoch or the next one, holds the same.
    fn is_same(&self, later: &Holding) -> bool {
        match self.gc_epoch.next() == later.gc_epoch {
            true => self.next == later.content,
            false => self.content == later.content,
        }
    }
}

/// One damaged place. The text of `Display` is a sentence that begins with the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The key whose record is damaged, if it is one.
    pub key: Option<(Partition, Key)>,
    /// The target and key of the hint that is damaged, if it is one.
    pub hint: Option<(NodeId, Key)>,
    /// The kind of damage, as a sentence without the place.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some((partition, key)) = &self.key {
            write!(f, "key {key:?} (partition {}): ", partition.0)?;
        }
        if let Some((target, key)) = &self.hint {
            write!(f, "hint for {target:?} of key {key:?}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// Reads the whole store in `dir`, which no daemon may have open, and passes each damage to
/// `visit`. Nothing in `dir` is changed: a private copy within `scratch` is read. Memory is bounded
/// by the page cache of `cache_bytes` bytes and 12 bytes for each chunked record or hint. The error
/// says that the store could not be opened or the disk failed.
pub fn check(
    dir: &Path,
    scratch: &Path,
    cache_bytes: u64,
    visit: &mut dyn FnMut(Damage),
) -> Result<CheckReport, OpenError> {
    // Declared before the store in it, so that it is removed last.
    let copy = PrivateCopy::of(dir, scratch)?;
    let directory = Directory::claim_existing(copy.path())?;
    let noted = noted_damage(&directory);
    let store =
        DiskStore::open_claimed(directory, dir, cache_bytes, Limits::default(), schema::verify)?;
    let fault = |fault| OpenError::from_fault(dir, fault);
    let mut reader = Reader {
        store: &store,
        visit,
        report: CheckReport::default(),
        gc_epochs: gc_epochs(&store.tree).map_err(fault)?.into_iter().collect(),
        heads: HashMap::new(),
        digest: Hasher::new(),
        hints: Kept::default(),
        last: None,
    };
    for (partition, gc_epoch) in &reader.gc_epochs {
        let number = gc_epoch.number;
        let holding = Holding { gc_epoch: number, ..Holding::default() };
        reader.report.by_partition.insert(*partition, holding);
    }
    for damage in &copy.damages {
        reader.damage(None, damage);
    }
    if let Some(noted) = noted {
        reader.damage(None, format!("the store as a whole: {noted}; a daemon does not serve it"));
    }
    reader.report.meta = incarnation(&store.tree).map_err(fault)?;
    reader.report.disk_bytes = copy.disk_bytes;
    reader.report.members = members(&store.tree).map_err(fault)?;
    reader.report.ring = ring(&store.tree).map_err(fault)?;
    // Chunks last: by then all heads are known.
    let parts = [(&[][..], Some(&CHUNKS[..])), (&HINTS, None), (&CHUNKS, Some(&HINTS))];
    let read = parts.into_iter().try_for_each(|(from, to)| {
        store.tree.range(from, to, |place, value| reader.entry(place, value).map(|()| true))
    });
    match read {
        Ok(()) => reader.report.complete = true,
        Err(StoreFault::Corrupt(reason)) => reader.hidden(&reason),
        Err(other) => return Err(fault(other)),
    }
    let Reader { mut report, digest, hints, .. } = reader;
    report.hints = hints.totals;
    report.digest = first_u64(digest.finalize().as_bytes());
    Ok(report)
}

/// Two owners whose stores should hold the same of a partition, and do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The partition in which they differ.
    pub partition: Partition,
    /// The ids of the two owners, and how many keys each holds there.
    pub owners: [(NodeId, u64); 2],
}

/// The partitions of `ring` whose owners do not all hold the same keys, clocks and values, less
/// what is purged. Only owners whose stores are among `stores` are compared.
pub fn differences(ring: &Ring, stores: &[(NodeId, CheckReport)]) -> Vec<Difference> {
    let of = |owner: &NodeId| stores.iter().find(|(node, _)| node == owner);
    let mut found = Vec::new();
    for partition in (0..ring.partitions()).map(Partition) {
        let held = ring.owners(partition).iter().filter_map(of).map(|(node, report)| {
            (*node, report.by_partition.get(&partition).copied().unwrap_or_default())
        });
        let held: Vec<(NodeId, Holding)> = held.collect();
        let Some(latest) = held.iter().max_by_key(|(_, holding)| holding.gc_epoch) else {
            continue;
        };
        if let Some(other) = held.iter().find(|(_, holding)| !holding.is_same(&latest.1)) {
            let owners = [latest, other].map(|(node, holding)| (*node, holding.content.keys));
            found.push(Difference { partition, owners });
        }
    }
    found
}

struct Reader<'a> {
    store: &'a DiskStore,
    visit: &'a mut dyn FnMut(Damage),
    report: CheckReport,
    gc_epochs: BTreeMap<Partition, GcState>,
    /// The number of chunks by the id of their write.
    heads: HashMap<u64, u32>,
    digest: Hasher,
    hints: Kept,
    /// The last key that was read, to say where unreadable places begin.
    last: Option<Key>,
}

impl Reader<'_> {
    fn damage(&mut self, at: Option<At<'_>>, what: impl Into<String>) {
        self.report.damages += 1;
        let (mut key, mut hint) = (None, None);
        match at {
            Some(At::Data(partition, of)) => key = Some((partition, of.clone())),
            Some(At::Hint(target, of)) => hint = Some((target, of.clone())),
            None => {}
        }
        (self.visit)(Damage { key, hint, what: what.into() });
    }

    fn entry(&mut self, place: &[u8], bytes: Bytes) -> Result<(), StoreFault> {
        match Place::decode(place) {
            Some(Place::Meta(name)) => {
                if layout::unseal(&name, &bytes).is_none() {
                    let what = format!("the store's own record \"{name}\": its checksum fails");
                    self.damage(None, what);
                }
            }
            Some(Place::Data(partition, key)) => {
                if let Some(record) = self.record(At::Data(partition, &key), &bytes)? {
                    self.count(partition, &key, &record);
                }
                self.last = Some(key);
            }
            Some(Place::Hint(target, key)) => {
                let hint = self.record(At::Hint(target, &key), &bytes)?;
                let found = hint.map_or(Found::Damaged, Found::Record);
                self.hints.add(target, &key, &found, Partition(0));
            }
            Some(Place::Chunk(id, index)) => {
                self.report.chunks += 1;
                if self.heads.get(&id).is_none_or(|chunks| index >= *chunks) {
                    let what = format!("chunk {index} of write {id}: no record has it");
                    self.damage(None, what);
                }
            }
            Some(Place::Filler) if bytes.is_empty() => {}
            Some(Place::Filler) | None => self
                .damage(None, format!("the place {}: nothing belongs there", place.escape_ascii())),
        }
        Ok(())
    }

    /// The record or hint in these bytes; `None` if it is damaged, which is reported.
    fn record(&mut self, at: At<'_>, bytes: &Bytes) -> Result<Option<Record>, StoreFault> {
        let (what, record) = match Value::decode(at, bytes) {
            Value::Inline(record) => ("the checksum of its record fails", Some(record)),
            Value::Chunked(head) => {
                self.report.chunked += 1;
                self.heads.insert(head.id, head.chunks);
                self.chunks(head)?
            }
            Value::Damaged => ("it has neither a record nor a head", None),
        };
        Ok(match at.decode(record) {
            Found::Record(record) => Some(record),
            Found::Nothing | Found::Damaged => {
                self.damage(Some(at), what);
                None
            }
        })
    }

    fn chunks(&self, head: Head) -> Result<(&'static str, Option<Bytes>), StoreFault> {
        Ok(match self.store.read_chunks(head)? {
            Some(record) => ("the checksum over its chunks fails", Some(record)),
            None => ("its chunks do not fit its head", None),
        })
    }

    fn count(&mut self, partition: Partition, key: &Key, record: &Record) {
        let (report, object) = (&mut self.report, &record.object);
        let values = object.len() as u64;
        report.live_keys += u64::from(values > 0);
        report.tombstones += u64::from(values == 0);
        report.siblings += u64::from(values > 1);
        report.values += values;
        let clock_entries = object.entries().len() as u64;
        report.clock_entries += clock_entries;
        report.longest_clock = report.longest_clock.max(clock_entries);
        let (place, bytes) = (partition.0.to_be_bytes(), wire::encode(object));
        for part in [&place[..], key.as_bytes(), &bytes] {
            self.digest.update(&(part.len() as u64).to_be_bytes());
            self.digest.update(part);
        }
        let gc_epoch = self.gc_epochs.get(&partition);
        let purged = gc_epoch.and_then(|known| known.purged_of(key));
        let kept = purged.map_or(Cow::Borrowed(object), |purgeable_keys| {
            Cow::Owned(object.forget(purgeable_keys))
        });
        let digest = Digest::of(key, &kept);
        // Few keys are purgeable at a time; for the others one digest serves both.
        let purgeable = gc_epoch.and_then(|known| known.purgeable_of(key));
        let next = purgeable
            .map_or(digest, |purgeable_keys| Digest::of(key, &kept.forget(purgeable_keys)));
        let holding = report.by_partition.entry(partition).or_default();
        holding.content.add(digest);
        holding.next.add(next);
    }

    /// Reports that sled could not read on.
    fn hidden(&mut self, reason: &str) {
        let behind = match &self.last {
            Some(key) => format!("behind the key {key:?}"),
            None => "from the first key on".into(),
        };
        self.damage(None, format!("{behind}: {reason}; nothing more could be read"));
    }
}
