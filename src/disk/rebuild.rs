//! Makes a new store from what a damaged one still shows.
//!
//! sled cannot mend a page: a later change is appended to the damaged one, and a log that is
//! damaged anywhere may open as an older one. So everything that can be read is copied to a new
//! store, which is opened and read from the device before it replaces the old one. Where records
//! may be missing, the replica is read-ineligible until anti-entropy with the other owners has
//! rebuilt it (`node::repair`), as after a lost disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use pixii_core::ring::Ring;
use pixii_core::store::Meta;
use pixii_core::types::Partition;

use super::commit_log::{Newer, last_write};
use super::files::Directory;
use super::guarded::{Batch, Sled, StoreFault};
use super::layout::{self, INCARNATION, LOG, Place};
use super::log::Survey;
use super::{DiskStore, Limits, OpenError, incarnation, mend, meta_key, ring, schema};

/// Most bytes that are copied in one batch.
const BATCH_BYTES: usize = 1 << 20;
/// Most gaps that are described one by one.
const MAX_GAPS: usize = 20;
/// Bytes of a place that are used to find how far a damaged page extends.
const STEP_BYTES: usize = 24;

/// The parts of a damaged store that could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Partitions of which records may be missing, sorted.
    pub partitions: Vec<Partition>,
    /// The unreadable ranges, in a few words each; the first 20 at most.
    pub ranges: Vec<String>,
    /// Number of unreadable ranges, including those not described.
    pub count: u64,
}

/// The result of making a store anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// Number of places that were copied.
    pub copied: u64,
    /// The parts that could not be copied.
    pub lost: Lost,
    /// The number of the last write that it has.
    last_write: u64,
    /// The folder in which the damaged store is kept; `None` if it was removed.
    pub aside: Option<PathBuf>,
}

/// Amends the new store's record of its own identity, given the ring of the old store and what is
/// missing.
pub type Amend<'a> = &'a dyn Fn(&mut Meta, Option<&Ring>, &Lost);

/// A new store that has not yet replaced the damaged one.
#[derive(Debug)]
pub struct Prepared {
    salvage: Salvage,
}

impl DiskStore {
    /// Makes a new store beside this one, which stays as it is. Nothing may write meanwhile.
    pub fn prepare(&self, cache_bytes: u64, amend: Amend) -> Result<Prepared, OpenError> {
        // Before the tree is read: what the tables have goes there meanwhile.
        let newer = self.tree.newer();
        let salvage = make(&self.directory, self.tree.tree(), &newer, cache_bytes, amend)?;
        Ok(Prepared { salvage })
    }

    /// Replaces this store by the new one, and opens that. The damaged one is kept if a part of it
    /// could not be read.
    pub fn exchange(
        self,
        prepared: Prepared,
        cache_bytes: u64,
    ) -> Result<(Self, Salvage), OpenError> {
        let DiskStore { tree, directory, .. } = self;
        drop(tree);
        let keep = prepared.salvage.lost.count > 0;
        install(directory, prepared.salvage, keep, cache_bytes)
    }

    /// Opens a damaged store in `dir`: a new store gets what can be read of it, and the damaged one
    /// is kept. Damage that leaves too little is an error, and nothing was changed.
    pub fn salvage(
        dir: &Path,
        cache_bytes: u64,
        amend: Amend,
    ) -> Result<(Self, Salvage), OpenError> {
        let directory = Directory::claim_existing(dir)?;
        let io = |doing| move |error| OpenError::from_io(dir, doing, &error);
        if !directory.finish().map_err(io("moving the new store in place"))? {
            let reason = "there is a FORMAT file and no data beside it".into();
            return Err(OpenError::Damaged { dir: dir.to_path_buf(), reason });
        }
        // sled may fail on a mended log as it does on one that ends early.
        let salvage = match read_copy(&directory, true, cache_bytes, amend) {
            Err(OpenError::Damaged { .. }) => read_copy(&directory, false, cache_bytes, amend)?,
            read => read?,
        };
        install(directory, salvage, true, cache_bytes)
    }
}

/// Makes a store in the scratch folder of what a copy of the present one shows.
fn read_copy(
    directory: &Directory,
    is_mended: bool,
    cache_bytes: u64,
    amend: Amend,
) -> Result<Salvage, OpenError> {
    let dir = directory.path();
    let io = |doing| move |error| OpenError::from_io(dir, doing, &error);
    let copy = directory.copy().map_err(io("copying the damaged store"))?;
    if is_mended {
        mend::mend(&copy.join("db")).map_err(io("mending a copy of the damaged store"))?;
    }
    let read = || {
        let sled = Sled::open(&copy, cache_bytes);
        let sled = sled.map_err(|fault| OpenError::from_fault(dir, fault))?;
        schema::migrate(&sled).map_err(|error| OpenError::from_schema(dir, error))?;
        let newer =
            Newer::salvaged(&sled, &copy).map_err(|fault| OpenError::from_fault(dir, fault))?;
        make(directory, &sled, &newer, cache_bytes, amend)
    };
    let salvage = read();
    directory.remove_copy().map_err(io("removing the copy"))?;
    salvage
}

fn install(
    directory: Directory,
    mut salvage: Salvage,
    keep: bool,
    cache_bytes: u64,
) -> Result<(DiskStore, Salvage), OpenError> {
    let dir = directory.path().to_path_buf();
    let io = |doing| {
        let dir = dir.clone();
        move |error| OpenError::from_io(&dir, doing, &error)
    };
    salvage.aside = directory.exchange(keep).map_err(io("putting the new store in its place"))?;
    // A log that ended too early has lost writes that the mark still promises.
    directory.set_mark(salvage.last_write).map_err(io("writing MARK"))?;
    let limits = Limits::default();
    let store = DiskStore::open_claimed(directory, &dir, cache_bytes, limits, schema::verify)?;
    Ok((store, salvage))
}

/// Makes a store in the scratch folder of all that can be read of `old`, and of the `newer` writes:
/// whole and synced.
fn make(
    directory: &Directory,
    old: &Sled,
    newer: &Newer,
    cache_bytes: u64,
    amend: Amend,
) -> Result<Salvage, OpenError> {
    let dir = directory.path();
    let io = |doing| move |error| OpenError::from_io(dir, doing, &error);
    let fault = |fault| OpenError::from_fault(dir, fault);
    let scratch = directory.scratch().map_err(io("removing an unfinished store"))?;
    let new = Sled::open(&scratch, cache_bytes / 4).map_err(fault)?;
    let mut copy = Copy::new(old, &new);
    copy.all().map_err(fault)?;
    let (copied, lost) = (copy.copied + newer.len() as u64, Lost::of(&copy.gaps));
    if copy.gaps.iter().any(|gap| *gap.begin < layout::DATA[..]) {
        let reason = "what the store knows of itself is not readable".to_owned();
        return Err(OpenError::Damaged { dir: dir.to_path_buf(), reason });
    }
    schema::verify(&new).map_err(|error| OpenError::from_schema(dir, error))?;
    newer.apply_to(&new).map_err(fault)?;
    let last_write = last_write(&new).map_err(fault)?;
    if let Some(mut meta) = incarnation(&new).map_err(fault)? {
        amend(&mut meta, ring(&new).map_err(fault)?.as_ref(), &lost);
        let mut batch = Batch::default();
        batch.insert(meta_key(INCARNATION), layout::seal_incarnation(&meta));
        new.apply(batch).map_err(fault)?;
    }
    new.close().map_err(fault)?;
    let log = File::open(scratch.join("db")).and_then(|log| Survey::of(&log, last_write));
    match log.map_err(io("reading the new store"))?.damage {
        Some(reason) => Err(OpenError::Io { dir: scratch, reason }),
        None => Ok(Salvage { copied, lost, last_write, aside: None }),
    }
}

/// A range of places that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gap {
    begin: Vec<u8>,
    /// The first place that can be read again; `None` if none can.
    end: Option<Vec<u8>>,
}

impl Lost {
    fn of(gaps: &[Gap]) -> Self {
        let mut partitions = BTreeSet::new();
        let mut lost = Lost { count: gaps.len() as u64, ..Lost::default() };
        for gap in gaps {
            partitions.extend(layout::partitions_between(&gap.begin, gap.end.as_deref()));
        }
        lost.partitions = partitions.into_iter().collect();
        lost.ranges = gaps.iter().take(MAX_GAPS).map(Gap::text).collect();
        lost
    }
}

impl Gap {
    fn text(&self) -> String {
        let place = |place: &[u8]| match Place::decode(place) {
            Some(Place::Data(partition, key)) => format!("partition {}, key {key:?}", partition.0),
            Some(Place::Hint(target, key)) => format!("the hint for {target:?} of key {key:?}"),
            _ => format!("the place {}", place.escape_ascii()),
        };
        let end = self.end.as_deref().map_or_else(|| "the end".to_owned(), place);
        format!("from {} to {end}", place(&self.begin))
    }
}

/// Copies all places of one store to another one.
struct Copy<'a> {
    old: &'a Sled,
    new: &'a Sled,
    batch: Batch,
    bytes: usize,
    copied: u64,
    gaps: Vec<Gap>,
}

impl<'a> Copy<'a> {
    fn new(old: &'a Sled, new: &'a Sled) -> Self {
        Copy { old, new, batch: Batch::default(), bytes: 0, copied: 0, gaps: Vec::new() }
    }

    fn all(&mut self) -> Result<(), StoreFault> {
        let mut from = Vec::new();
        loop {
            let (mut last, mut failed) = (None, None);
            let old = self.old;
            let read = old.try_range(&from, |place, value| {
                let added = self.add(place, &value);
                last = Some(place.to_vec());
                failed = added.err();
                Ok(failed.is_none())
            });
            match (failed, read) {
                (Some(fault), _) | (_, Err(fault @ (StoreFault::Io(_) | StoreFault::Locked))) => {
                    return Err(fault);
                }
                (None, Ok(())) => return self.flush(),
                (None, Err(StoreFault::Corrupt(_))) => {}
            }
            if let Some(mut last) = last {
                // The first place behind it.
                last.push(0);
                from = last;
            }
            let end = self.behind(&from)?;
            self.gaps.push(Gap { begin: from, end: end.clone() });
            match end {
                Some(end) => from = end,
                None => return self.flush(),
            }
        }
    }

    fn add(&mut self, place: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        if place == meta_key(LOG) {
            // The new store gets a log of its own.
            return Ok(());
        }
        self.batch.insert(place, value);
        self.copied += 1;
        self.bytes += place.len() + value.len();
        if self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreFault> {
        self.bytes = 0;
        self.new.apply(std::mem::take(&mut self.batch))
    }

    /// The first readable place behind an unreadable one. sled does not report where a page ends,
    /// so ever farther places are tried, and then those between.
    fn behind(&self, begin: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        let readable = |place: &[u8]| match self.old.try_range(place, |_, _| Ok(false)) {
            Err(StoreFault::Corrupt(_)) => Ok(false),
            read => read.map(|()| true),
        };
        let mut low = [0; STEP_BYTES];
        let length = begin.len().min(STEP_BYTES);
        low[..length].copy_from_slice(&begin[..length]);
        let base = low;
        for bit in 0..8 * STEP_BYTES {
            let Some(high) = plus(base, bit) else { return Ok(None) };
            if !readable(&high)? {
                low = high;
                continue;
            }
            for bit in (0..bit.saturating_sub(1)).rev() {
                match plus(low, bit) {
                    Some(between) if !readable(&between)? => low = between,
                    _ => {}
                }
            }
            return Ok(plus(low, 0).map(Vec::from));
        }
        Ok(None)
    }
}

/// The place that is 2 to the power of `bit` behind this one, both taken as numbers.
fn plus(mut place: [u8; STEP_BYTES], bit: usize) -> Option<[u8; STEP_BYTES]> {
    let mut add = 1u8 << (bit % 8);
    for byte in place.iter_mut().rev().skip(bit / 8) {
        let carries;
        (*byte, carries) = byte.overflowing_add(add);
        if !carries {
            return Some(place);
        }
        add = 1;
    }
    None
}
