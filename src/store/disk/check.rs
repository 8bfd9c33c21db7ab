//! A stopped store, read whole: every record, checksum, chunk and head, and what is kept beside them. No
//! record is written and no life of the store begins.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use blake3::Hasher;
use bytes::Bytes;

use super::files::Directory;
use super::layout::{self, At, CHUNKS, HINTS, Head, Place, Value};
use super::{DiskStore, Fault, OpenError, life, members, ring};
use crate::members::Members;
use crate::merkle::Digest;
use crate::ring::Ring;
use crate::store::{Found, HintTotal, Kept, Meta, Record, schema};
use crate::types::{Key, NodeId, Partition, first_u64};
use crate::wire;

/// What a check has read, and how much of it is damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What the store knows of itself; `None` before its first life.
    pub meta: Option<Meta>,
    /// What it knows of the members; `None` before it was told.
    pub members: Option<Members>,
    /// The ring, where it is a later one than what the configuration makes.
    pub ring: Option<Ring>,
    /// Keys with a value.
    pub live_keys: u64,
    /// Keys with more than one value.
    pub siblings: u64,
    /// Values of all keys.
    pub values: u64,
    /// Keys without a value: deleted ones.
    pub tombstones: u64,
    /// Entries of all clocks.
    pub clock_entries: u64,
    /// What is kept for each other member; damaged hints are counted, at no size.
    pub hints: BTreeMap<NodeId, HintTotal>,
    /// Records and hints kept in chunks.
    pub chunked: u64,
    /// Chunks, orphans among them.
    pub chunks: u64,
    /// Bytes that the store takes on disk.
    pub disk_bytes: u64,
    /// Of all keys, clocks and values, without hints: equal where two stores hold the same.
    pub digest: u64,
    /// The same by partition: how many keys, and a digest of what they hold; without those that hold none.
    pub by_partition: BTreeMap<Partition, (u64, u64)>,
    /// Damaged places.
    pub damages: u64,
    /// False when damage hid the places behind it.
    pub complete: bool,
}

/// One damaged place. The text of `Display` is a sentence that begins with the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Whose record it is, where it is one's.
    pub key: Option<(Partition, Key)>,
    /// Whose hint it is, of which key, where it is one's.
    pub hint: Option<(NodeId, Key)>,
    /// What is wrong.
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

/// Reads the whole store in `dir`, which no daemon may have, and shows each damage to `visit`. Memory is
/// bounded by the page cache of `cache_bytes` bytes and 12 bytes for each chunked record or hint. The error says
/// that the store could not be opened or the disk failed.
pub fn check(
    dir: &Path,
    cache_bytes: u64,
    visit: &mut dyn FnMut(Damage),
) -> Result<CheckReport, OpenError> {
    let store =
        DiskStore::open_claimed(Directory::claim_existing(dir)?, dir, cache_bytes, schema::verify)?;
    let mut reader = Reader {
        store: &store,
        visit,
        report: CheckReport::default(),
        heads: HashMap::new(),
        digest: Hasher::new(),
        hints: Kept::default(),
        last: None,
    };
    let fault = |fault| OpenError::from_fault(dir, fault);
    reader.report.meta = life(&store.sled).map_err(fault)?;
    reader.report.disk_bytes = store.sled.disk_bytes().map_err(fault)?;
    reader.report.members = members(&store.sled).map_err(fault)?;
    reader.report.ring = ring(&store.sled).map_err(fault)?;
    // Chunks last: by then all that have any are known.
    let parts = [(&[][..], Some(&CHUNKS[..])), (&HINTS, None), (&CHUNKS, Some(&HINTS))];
    let read = parts.into_iter().try_for_each(|(from, to)| {
        store.sled.range(from, to, |place, value| reader.entry(place, value).map(|()| true))
    });
    match read {
        Ok(()) => reader.report.complete = true,
        Err(Fault::Corrupt(reason)) => reader.hidden(&reason),
        Err(other) => return Err(fault(other)),
    }
    let Reader { mut report, digest, hints, .. } = reader;
    report.hints = hints.totals;
    report.digest = first_u64(digest.finalize().as_bytes());
    Ok(report)
}

/// Two stores that should hold the same of a partition, and do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The partition.
    pub partition: Partition,
    /// Each of two of its homes, and how many keys it holds there.
    pub homes: [(NodeId, u64); 2],
}

/// The partitions of `ring` whose homes, as far as their stores are among `stores`, do not all hold the same keys,
/// clocks and values.
pub fn differences(ring: &Ring, stores: &[(NodeId, CheckReport)]) -> Vec<Difference> {
    let of = |home: &NodeId| stores.iter().find(|(node, _)| node == home);
    let mut found = Vec::new();
    for partition in (0..ring.partitions()).map(Partition) {
        let sums = ring.homes(partition).iter().filter_map(of).map(|(node, report)| {
            (*node, report.by_partition.get(&partition).copied().unwrap_or_default())
        });
        let sums: Vec<(NodeId, (u64, u64))> = sums.collect();
        if let Some(pair) = sums.windows(2).find(|pair| pair[0].1 != pair[1].1) {
            let homes = [(pair[0].0, pair[0].1.0), (pair[1].0, pair[1].1.0)];
            found.push(Difference { partition, homes });
        }
    }
    found
}

struct Reader<'a> {
    store: &'a DiskStore,
    visit: &'a mut dyn FnMut(Damage),
    report: CheckReport,
    /// How many chunks each write has.
    heads: HashMap<u64, u32>,
    digest: Hasher,
    hints: Kept,
    /// The last key that could be read.
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

    fn entry(&mut self, place: &[u8], bytes: Bytes) -> Result<(), Fault> {
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
                self.hints.add(target, &key, &found, (Partition(0), false));
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

    /// The record or hint of these bytes, or `None` if it is damaged, which is said.
    fn record(&mut self, at: At<'_>, bytes: &Bytes) -> Result<Option<Record>, Fault> {
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

    fn chunks(&self, head: Head) -> Result<(&'static str, Option<Bytes>), Fault> {
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
        report.clock_entries += object.entries().len() as u64;
        let (place, bytes) = (partition.0.to_be_bytes(), wire::encode(object));
        for part in [&place[..], key.as_bytes(), &bytes] {
            self.digest.update(&(part.len() as u64).to_be_bytes());
            self.digest.update(part);
        }
        let (keys, sum) = report.by_partition.entry(partition).or_default();
        *keys += 1;
        // A sum does not depend on what else the store holds.
        *sum = sum.wrapping_add(Digest::of(key, object).0 as u64);
    }

    /// sled could not read on.
    fn hidden(&mut self, reason: &str) {
        let behind = match &self.last {
            Some(key) => format!("behind the key {key:?}"),
            None => "from the first key on".into(),
        };
        self.damage(None, format!("{behind}: {reason}; nothing more could be read"));
    }
}
