//! The store on a real disk: records in one sled tree, in chunks where they are long, in a
//! directory whose files identify it and the process that has it open.
//!
//! Readers take no lock of ours. A chunked record is read in several steps, so a writer may change
//! it in between. A record that looks damaged is therefore read once more without writers before it
//! is reported as damaged.
//!
//! sled takes a log that was cut or damaged near its end for the trace of a crash, and opens
//! without the writes behind that point. So every batch carries a number, and the highest synced
//! number is noted outside of sled.

mod check;
mod commit_log;
mod error;
mod files;
mod guarded;
mod known;
mod layout;
mod log;
mod mend;
mod migrating;
mod rebuild;
mod schema;
mod scrub;
mod space;
mod trees;
mod watch;
mod written_through;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pixii_core::gc_epoch::GcState;
use pixii_core::members::Members;
use pixii_core::ring::Ring;
use pixii_core::store::{
    Change, Found, HintPage, Kept, Listing, Meta, Record, ScanPage, Scrubbed, Span, Store,
    StoreError, Taken,
};
use pixii_core::types::{Key, NodeId, Partition};

pub use self::check::{CheckReport, Content, Damage, Difference, Holding, check, differences};
pub use self::commit_log::Limits;
use self::commit_log::{Edit, LoggedTree, floor_of};
pub use self::error::OpenError;
pub use self::files::inspect::{DirectoryState, inspect};
use self::files::{Directory, WHYS};
use self::guarded::{Sled, StoreFault};
use self::known::{gc_epochs, incarnation, members, ring};
pub use self::layout::NEWEST;
use self::layout::{
    At, CHUNK_BYTES, HINTS, HINTS_END, Head, INCARNATION, MAX_RECORD_BYTES, MEMBERS, Place, RING,
    Value, meta_key,
};
pub use self::migrating::{SchemaReport, migrate, schema_of};
pub use self::rebuild::{Amend, Lost, Prepared, Salvage};
use self::schema::SchemaError;

/// About how many bytes of hints are in memory at once while all are read.
const SCAN_BYTES: usize = 1 << 20;

/// The member that the hint is kept for, its key, and the record.
type Hint = (NodeId, Key, Found);

/// A durable store in a directory of its own. After its first error, every call returns that error.
#[derive(Debug)]
pub struct DiskStore {
    /// Declared before the directory, so that it is dropped first.
    tree: LoggedTree,
    directory: Directory,
    /// The number of the last write that the tree had before it was opened.
    opened_at: u64,
    /// The number of the last write: every batch and every chunked record takes one. Locked by a
    /// thread that changes records.
    last_write: Mutex<u64>,
}

impl DiskStore {
    /// Opens the store in `dir`, and creates it where there is none. `cache_bytes` is the size of
    /// the page cache. Up to 2.4 times as much memory was measured, so a third of the budget is a
    /// good choice.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, OpenError> {
        DiskStore::open_with(dir, cache_bytes, Limits::default())
    }

    /// The same with other sizes of the commit log.
    pub fn open_with(dir: &Path, cache_bytes: u64, limits: Limits) -> Result<Self, OpenError> {
        let (directory, fresh) = Directory::claim(dir)?;
        let io = |doing| move |error| OpenError::from_io(dir, doing, &error);
        let fault = |fault| OpenError::from_fault(dir, fault);
        refuse_noted(&directory, dir)?;
        if fresh {
            let scratch = directory.scratch().map_err(io("removing an unfinished store"))?;
            let sled = Sled::open(&scratch, cache_bytes).map_err(fault)?;
            schema::create(&sled).map_err(fault)?;
            sled.close().map_err(fault)?;
            directory.write_format().map_err(io("writing FORMAT"))?;
        }
        DiskStore::open_claimed(directory, dir, cache_bytes, limits, schema::migrate)
    }

    /// Opens the store in a claimed directory; `prepare` checks or migrates its schema.
    fn open_claimed(
        directory: Directory,
        dir: &Path,
        cache_bytes: u64,
        limits: Limits,
        prepare: impl Fn(&Sled) -> Result<(), SchemaError>,
    ) -> Result<Self, OpenError> {
        let fault = |fault| OpenError::from_fault(dir, fault);
        let damaged = |reason| OpenError::Damaged { dir: dir.to_path_buf(), reason };
        let sled = open_sled(&directory, dir, cache_bytes)?;
        prepare(&sled).map_err(|error| OpenError::from_schema(dir, error))?;
        let tree = LoggedTree::open(sled, &directory.data(), limits).map_err(fault)?;
        let (last_write, mark) = (tree.last_write(), directory.mark());
        if last_write < mark {
            return Err(damaged(format!("it ends at write {last_write}, and {mark} was synced")));
        }
        incarnation(&tree).map_err(fault)?;
        members(&tree).map_err(fault)?;
        ring(&tree).map_err(fault)?;
        gc_epochs(&tree).map_err(|error| fault(tree.tree().fail(error)))?;
        let opened_at = tree.applied();
        Ok(DiskStore { tree, directory, opened_at, last_write: Mutex::new(last_write) })
    }

    /// Moves a store that does not open to a folder of its own within its directory; the next
    /// opening makes an empty one. `removed` is true if the store is whole and belongs to a removed
    /// member. Returns the folder, `damaged-N` or `removed-N`. Nothing is deleted; safe to kill at
    /// any instant.
    pub fn set_aside(dir: &Path, removed: bool) -> Result<PathBuf, OpenError> {
        let directory = Directory::claim_existing(dir)?;
        let io = |error| OpenError::from_io(dir, "setting the store aside", &error);
        directory.set_aside(WHYS[usize::from(removed)]).map_err(io)
    }

    /// True if a call has met damage; nothing more is read or written then.
    pub fn is_damaged(&self) -> bool {
        self.tree.tree().is_damaged()
    }

    /// Syncs everything and releases the directory. After an error nothing more is written, and the
    /// directory stays locked until the process ends.
    pub fn close(self) -> Result<(), StoreError> {
        self.sync()?;
        Ok(self.tree.close()?)
    }

    fn fail(&self, fault: StoreFault) -> StoreFault {
        self.tree.tree().fail(fault)
    }

    fn writer(&self) -> MutexGuard<'_, u64> {
        self.last_write.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_at(&self, at: At<'_>) -> Result<Found, StoreFault> {
        match self.read_once(at)? {
            Found::Damaged => {
                let _writer = self.writer();
                self.read_once(at)
            }
            found => Ok(found),
        }
    }

    fn read_once(&self, at: At<'_>) -> Result<Found, StoreFault> {
        let Some(bytes) = self.tree.get(&at.place())? else { return Ok(Found::Nothing) };
        Ok(at.decode(match Value::decode(at, &bytes) {
            Value::Inline(record) => Some(record),
            Value::Chunked(head) => self.read_chunks(head)?,
            Value::Damaged => None,
        }))
    }

    /// Hints from the place `from` to before `to`, up to about `limit_bytes` bytes, and the place
    /// to continue from if there are more. sled is not asked for a chunk while it iterates over a
    /// range.
    fn hints(
        &self,
        from: &[u8],
        to: &[u8],
        limit_bytes: usize,
    ) -> Result<(Vec<Hint>, Option<Vec<u8>>), StoreFault> {
        let (mut shown, mut next, mut bytes) = (Vec::new(), None, 0);
        self.tree.range(from, Some(to), |place, value| {
            let Some(Place::Hint(target, key)) = Place::decode(place) else { return Ok(true) };
            if bytes >= limit_bytes && !shown.is_empty() {
                next = Some(place.to_vec());
                return Ok(false);
            }
            let at = At::Hint(target, &key);
            let (length, found) = match Value::decode(at, &value) {
                Value::Inline(record) => (record.len(), at.decode(Some(record))),
                Value::Chunked(head) => (head.total, Found::Damaged),
                Value::Damaged => (value.len(), Found::Damaged),
            };
            bytes += length;
            shown.push((target, key, found));
            Ok(true)
        })?;
        let mut hints = Vec::with_capacity(shown.len());
        for (target, key, found) in shown {
            let found = match found {
                Found::Damaged => self.read_at(At::Hint(target, &key))?,
                found => found,
            };
            // Some of the long ones may have been deleted meanwhile.
            if found != Found::Nothing {
                hints.push((target, key, found));
            }
        }
        Ok((hints, next))
    }

    /// The records of a span of a partition. sled is not asked for a chunk while it iterates over a
    /// range.
    fn span(&self, partition: Partition, span: &Span) -> Result<ScanPage, StoreFault> {
        let mut from = layout::data_key(partition, span.after.as_ref().map_or(&[], Key::as_bytes));
        if span.after.is_some() {
            // The first place behind a key.
            from.push(0);
        }
        // Each record is dropped once its summary is made. Those that take more than one read are
        // read later, and put in their places.
        let (mut page, mut later, mut next, mut bytes) = (ScanPage::default(), Vec::new(), None, 0);
        self.tree.range(&from, Some(&layout::data_end(partition)), |place, value| {
            let Some(key) = layout::key_of(place) else { return Ok(true) };
            if span.until.as_ref().is_some_and(|until| key > *until) {
                return Ok(false);
            }
            let at = At::Data(partition, &key);
            let (length, found) = match Value::decode(at, &value) {
                Value::Inline(record) if span.wants(&key) => {
                    (record.len(), at.decode(Some(record)))
                }
                Value::Chunked(head) => (head.total, Found::Damaged),
                Value::Inline(_) | Value::Damaged => (value.len(), Found::Damaged),
            };
            bytes += length;
            next = (bytes >= span.limit_bytes).then(|| key.clone());
            match (span.wants(&key), found) {
                (true, Found::Damaged) => later.push(key),
                (true, found) => page.add(key, found, span),
                (false, _) => {}
            }
            Ok(next.is_none())
        })?;
        page.next = next;
        let is_ordered = later.is_empty();
        for key in later {
            let found = self.read_at(At::Data(partition, &key))?;
            page.add(key, found, span);
        }
        if !is_ordered {
            page.items.sort_unstable_by(|one, other| one.key.cmp(&other.key));
            page.objects.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        }
        Ok(page)
    }

    /// The chunks joined together; `None` if they do not fit the head.
    fn read_chunks(&self, head: Head) -> Result<Option<Bytes>, StoreFault> {
        let mut bytes = Vec::with_capacity(head.total);
        for index in 0..head.chunks {
            match self.tree.get(&layout::chunk_key(head.id, index))? {
                Some(chunk) if bytes.len() + chunk.len() <= head.total => {
                    bytes.extend_from_slice(&chunk);
                }
                _ => return Ok(None),
            }
        }
        Ok((bytes.len() == head.total).then(|| bytes.into()))
    }

    /// Adds to `edits` the removal of the chunks of the present record. Those of a damaged head
    /// cannot be found and stay behind.
    fn remove_chunks(&self, at: At<'_>, edits: &mut Vec<Edit>) -> Result<(), StoreFault> {
        let Some(bytes) = self.tree.get(&at.place())? else { return Ok(()) };
        if let Value::Chunked(head) = Value::decode(at, &bytes) {
            for index in 0..head.chunks {
                edits.push((layout::chunk_key(head.id, index), None));
            }
        }
        Ok(())
    }

    fn put(
        &self,
        at: At<'_>,
        record: &Record,
        last_write: &mut u64,
        edits: &mut Vec<Edit>,
    ) -> Result<(), StoreFault> {
        let bytes = at.encode(record);
        if bytes.len() <= CHUNK_BYTES {
            edits.push((at.place(), Some(layout::inline(bytes).into())));
            return Ok(());
        }
        if bytes.len() > MAX_RECORD_BYTES {
            let length = bytes.len();
            let text = format!("a record of {length} bytes; the limit is {MAX_RECORD_BYTES}");
            return Err(self.fail(StoreFault::Io(text)));
        }
        *last_write += 1;
        let chunks = bytes.len().div_ceil(CHUNK_BYTES) as u32;
        let head = Head { id: *last_write, total: bytes.len(), chunks };
        let bytes = Bytes::from(bytes);
        for index in 0..chunks {
            let from = index as usize * CHUNK_BYTES;
            let chunk = bytes.slice(from..(from + CHUNK_BYTES).min(bytes.len()));
            edits.push((layout::chunk_key(*last_write, index), Some(chunk)));
        }
        edits.push((at.place(), Some(head.encode(at).into())));
        Ok(())
    }
}

/// Opens sled in a claimed directory, whatever its schema is.
fn open_sled(directory: &Directory, dir: &Path, cache_bytes: u64) -> Result<Sled, OpenError> {
    let io = |doing| move |error| OpenError::from_io(dir, doing, &error);
    if !directory.finish().map_err(io("moving the new store in place"))? {
        let reason = "there is a FORMAT file and no data beside it".into();
        return Err(OpenError::Damaged { dir: dir.to_path_buf(), reason });
    }
    directory.remove_replaced().map_err(io("removing a store that was replaced"))?;
    let fault = |fault| OpenError::from_fault(dir, fault);
    // Before sled opens it: sled clears what it finds behind a damaged message.
    let floor = floor_of(&directory.data(), directory.mark());
    let floor = floor.map_err(io("reading the commit log"))?;
    let survey = Sled::survey_of(&directory.data(), floor).map_err(fault)?;
    if let Some(reason) = survey.damage {
        return Err(OpenError::Damaged { dir: dir.to_path_buf(), reason });
    }
    directory.remove_torn_files().map_err(io("looking for torn files"))?;
    Sled::open_surveyed(&directory.data(), cache_bytes, survey).map_err(fault)
}

/// Damage that was found while the store was open last, noted because the next opening might miss
/// it; `None` if there was none.
fn noted_damage(directory: &Directory) -> Option<String> {
    let noted = Sled::noted_damage(&directory.data())?;
    Some(format!("{noted} (met while the store was open, and noted in sled/DAMAGED)"))
}

fn refuse_noted(directory: &Directory, dir: &Path) -> Result<(), OpenError> {
    match noted_damage(directory) {
        Some(reason) => Err(OpenError::Damaged { dir: dir.to_path_buf(), reason }),
        None => Ok(()),
    }
}

impl Store for DiskStore {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        Ok(incarnation(&self.tree)?)
    }

    fn read(&self, partition: Partition, key: &Key) -> Result<Found, StoreError> {
        Ok(self.read_at(At::Data(partition, key))?)
    }

    fn list(
        &self,
        partition: Partition,
        after: Option<&Key>,
        limit_bytes: usize,
    ) -> Result<Listing, StoreError> {
        let mut from = layout::data_key(partition, after.map_or(&[], Key::as_bytes));
        if after.is_some() {
            // The first place behind a key.
            from.push(0);
        }
        let mut listing = Listing::default();
        let mut bytes = 0;
        self.tree.range(&from, Some(&layout::data_end(partition)), |place, _| {
            if bytes >= limit_bytes && !listing.keys.is_empty() {
                listing.more = true;
                return Ok(false);
            }
            if let Some(key) = layout::key_of(place) {
                bytes += key.as_bytes().len();
                listing.keys.push(key);
            }
            Ok(true)
        })?;
        Ok(listing)
    }

    fn scan(&self, partition: Partition, span: &Span) -> Result<ScanPage, StoreError> {
        Ok(self.span(partition, span)?)
    }

    fn members(&self) -> Result<Option<Members>, StoreError> {
        Ok(members(&self.tree)?)
    }

    fn ring(&self) -> Result<Option<Ring>, StoreError> {
        Ok(ring(&self.tree)?)
    }

    fn read_hint(&self, target: NodeId, key: &Key) -> Result<Found, StoreError> {
        Ok(self.read_at(At::Hint(target, key))?)
    }

    fn list_hints(
        &self,
        target: NodeId,
        after: Option<&Key>,
        limit_bytes: usize,
    ) -> Result<HintPage, StoreError> {
        let mut from = layout::hint_key(target, after.map_or(&[], Key::as_bytes));
        if after.is_some() {
            // The first place behind a key.
            from.push(0);
        }
        let to = layout::hint_end(target);
        loop {
            let (hints, next) = self.hints(&from, &to, limit_bytes)?;
            match next {
                // All of these were deleted meanwhile; a page has at least one hint if any are
                // left.
                Some(next) if hints.is_empty() => from = next,
                next => {
                    let hints = hints.into_iter().map(|(_, key, found)| (key, found)).collect();
                    return Ok(HintPage { hints, more: next.is_some() });
                }
            }
        }
    }

    fn gc_epochs(&self) -> Result<Vec<(Partition, GcState)>, StoreError> {
        Ok(gc_epochs(&self.tree).map_err(|fault| self.fail(fault))?)
    }

    fn hint_totals(&self, partition: &dyn Fn(&Key) -> Partition) -> Result<Kept, StoreError> {
        let mut kept = Kept::default();
        let mut from = Some(HINTS.to_vec());
        while let Some(begin) = from {
            let (hints, next) = self.hints(&begin, &HINTS_END, SCAN_BYTES)?;
            for (target, key, found) in hints {
                kept.add(target, &key, &found, partition(&key));
            }
            from = next;
        }
        Ok(kept)
    }

    fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
        // Of several changes to one place only the last is applied, so the chunks of the others are
        // never written.
        let mut records: BTreeMap<At<'_>, Option<&Record>> = BTreeMap::new();
        let mut edits: Vec<Edit> = Vec::with_capacity(changes.len());
        let mut own = |name: &str, bytes: Vec<u8>| edits.push((meta_key(name), Some(bytes.into())));
        for change in changes {
            match change {
                Change::Record { partition, key, record } => {
                    records.insert(At::Data(*partition, key), Some(record));
                }
                Change::Hint { target, key, record } => {
                    records.insert(At::Hint(*target, key), record.as_ref());
                }
                Change::Meta(meta) => own(INCARNATION, layout::seal_incarnation(meta)),
                Change::Members(members) => own(MEMBERS, layout::seal_members(members)),
                Change::Ring(ring) => own(RING, layout::seal_ring(ring)),
                Change::Forget { partition, key } => {
                    records.insert(At::Data(*partition, key), None);
                }
                Change::GcState { partition, gc_epoch } => own(
                    &layout::gc_epoch_name(*partition),
                    layout::seal_gc_epoch(*partition, gc_epoch),
                ),
            }
        }
        let mut last_write = self.writer();
        for (at, record) in records {
            self.remove_chunks(at, &mut edits)?;
            match record {
                Some(record) => self.put(at, record, &mut last_write, &mut edits)?,
                None => edits.push((at.place(), None)),
            }
        }
        *last_write += 1;
        Ok(self.tree.apply(edits, *last_write)?)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let synced = self.tree.sync()?;
        Ok(self.directory.set_mark(synced).map_err(|error| self.fail(error.into()))?)
    }

    fn probe(&self) -> Result<(), StoreError> {
        // What failed behind everybody's back is reported now.
        self.tree.tree().check()?;
        Ok(self.directory.probe().map_err(|error| self.fail(error.into()))?)
    }

    fn save_trees(&self, trees: &[u8]) -> Result<(), StoreError> {
        let kept = trees::keep(&self.directory.data(), *self.writer(), trees);
        Ok(kept.map_err(|error| self.fail(error.into()))?)
    }

    fn take_trees(&self) -> Result<Taken, StoreError> {
        let taken = trees::take(&self.directory.data(), *self.writer());
        Ok(taken.map_err(|error| self.fail(error.into()))?)
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.tree.tree().disk_bytes()?)
    }

    fn scrub(&self, part: u64) -> Result<Scrubbed, StoreError> {
        Ok(self.scrub_part(part)?)
    }

    fn free_bytes(&self, coming_bytes: u64) -> Result<Option<u64>, StoreError> {
        Ok(Some(self.tree.free_beside(coming_bytes)?))
    }
}
