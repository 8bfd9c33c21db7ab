//! The commit log, the tables and the tree as one map of places.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;

use super::checkpoint::Shared;
use super::device::Device;
use super::format::{Edit, RECORD_HEAD_BYTES, body_bytes};
use super::replay::Problem;
use super::table::Table;
use super::{CommitLog, Limits, replay};
use crate::disk::files::sync_path;
use crate::disk::guarded::{Batch, Sled, StoreFault};
use crate::disk::known::Places;
use crate::disk::layout::{LAST_WRITE, LOG, meta_key, seal, unseal_u64};

/// The file within the data of a store.
pub(in crate::disk) const FILE: &str = "COMMITS";

/// Entries of the tables that are taken at once while a range is shown.
const PAGE: usize = 256;

/// A tree with the commit log in front of it.
#[derive(Debug)]
pub(in crate::disk) struct LoggedTree {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LoggedTree {
    /// Opens the commit log in `data`, the folder of the tree, or makes it for a tree that never
    /// had one.
    pub(in crate::disk) fn open(
        sled: Sled,
        data: &Path,
        limits: Limits,
    ) -> Result<Self, StoreFault> {
        let path = data.join(FILE);
        let known = sled.get(&meta_key(LOG))?;
        let (id, file) = match known {
            Some(bytes) => {
                let what = "the id of the commit log is not readable";
                let damage = || StoreFault::Corrupt(what.into());
                let id = unseal_u64(LOG, &bytes).ok_or_else(damage);
                let file = File::options().read(true).write(true).open(&path);
                let file = file.map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => {
                        StoreFault::Corrupt("the commit log is missing".into())
                    }
                    _ => StoreFault::from(error),
                });
                (id.map_err(|fault| sled.fail(fault))?, file.map_err(|fault| sled.fail(fault))?)
            }
            None => create(&sled, &path, &limits)?,
        };
        LoggedTree::attach(sled, Arc::new(file), id, limits)
    }

    /// Puts a log before a tree that names it.
    fn attach(
        sled: Sled,
        device: Arc<dyn Device>,
        id: u64,
        limits: Limits,
    ) -> Result<Self, StoreFault> {
        let applied = last_write(&sled)?;
        let mut table = Table::default();
        let (jump, visit) = (drawn() as u32, &mut |_, edits| table.insert(edits));
        let log = CommitLog::open(device.clone(), id, applied, jump, visit);
        let log = log.map_err(|problem| {
            sled.fail(match problem {
                Problem::Io(error) => error.into(),
                Problem::Damaged(what) => StoreFault::Corrupt(what),
            })
        })?;
        let shared = Arc::new(Shared::new(sled, device, log, table, limits)?);
        let of_thread = shared.clone();
        let thread = Builder::new().name("store-checkpoint".to_owned());
        let thread = thread.spawn(move || of_thread.run_checkpoints())?;
        Ok(LoggedTree { shared, thread: Some(thread) })
    }

    /// The tree below, which may not have the newest changes.
    pub(in crate::disk) fn tree(&self) -> &Sled {
        &self.shared.sled
    }

    /// The number of the last write.
    pub(in crate::disk) fn last_write(&self) -> u64 {
        self.shared.log().seq
    }

    /// The last write that the tree itself has, synced.
    pub(in crate::disk) fn applied(&self) -> u64 {
        self.shared.applied()
    }

    /// The value at a place.
    pub(in crate::disk) fn get(&self, place: &[u8]) -> Result<Option<Bytes>, StoreFault> {
        let in_tables = self.shared.tables().get(place);
        match in_tables {
            Some(value) => self.shared.sled.check().map(|()| value),
            // A change leaves the tables only once the tree has it.
            None => self.shared.sled.get(place),
        }
    }

    /// Shows `visit` the places from `from` to before `to` (to the end without one) with their
    /// values, in order, until it says false; the first fault ends it.
    pub(in crate::disk) fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], Bytes) -> Result<bool, StoreFault>,
    ) -> Result<(), StoreFault> {
        let sled = &self.shared.sled;
        let mut from = from.to_vec();
        loop {
            let page = self.shared.tables().page(&from, to, PAGE);
            let behind = match page.entries.last() {
                Some((last, _)) if page.is_cut => Some([last, &[0][..]].concat()),
                _ => None,
            };
            let mut goes_on = true;
            let mut newer = page.entries.into_iter().peekable();
            sled.range(&from, behind.as_deref().or(to), |place, value| {
                while goes_on
                    && let Some((at, value)) = newer.next_if(|(at, _)| at.as_slice() < place)
                {
                    goes_on = value.map_or(Ok(true), |value| visit(&at, value))?;
                }
                if goes_on {
                    let changed = newer.next_if(|(at, _)| at.as_slice() == place);
                    let value = changed.map_or(Some(value), |(_, value)| value);
                    goes_on = value.map_or(Ok(true), |value| visit(place, value))?;
                }
                Ok(goes_on)
            })?;
            for (place, value) in newer.filter_map(|(place, value)| Some((place, value?))) {
                if !goes_on {
                    break;
                }
                goes_on = visit(&place, value).map_err(|fault| sled.fail(fault))?;
            }
            match behind {
                Some(behind) if goes_on => from = behind,
                _ => return sled.check(),
            }
        }
    }

    /// Applies all changes or none, as the write `seq`: visible at once, durable after the next
    /// [`LoggedTree::sync`]. One caller at a time.
    pub(in crate::disk) fn apply(&self, edits: Vec<Edit>, seq: u64) -> Result<(), StoreFault> {
        let shared = &*self.shared;
        shared.sled.check()?;
        let mut log = shared.log();
        if RECORD_HEAD_BYTES + body_bytes(&edits) > shared.longest_record() {
            return shared.apply_directly(&mut log, edits, seq);
        }
        shared.make_room(&mut log, &edits)?;
        let (applied, segments) = (self.applied(), shared.segments());
        let appended = log.append(&edits, seq, applied, segments);
        appended.map_err(|error| shared.sled.fail(error.into()))?;
        shared.tables_mut().active.insert(edits);
        Ok(())
    }

    /// Returns when everything applied survives a power cut, and says up to which write that is.
    pub(in crate::disk) fn sync(&self) -> Result<u64, StoreFault> {
        let shared = &*self.shared;
        shared.sled.check()?;
        let mut log = shared.log();
        log.sync().map_err(|error| shared.sled.fail(error.into()))?;
        Ok(log.synced)
    }

    /// Bytes that are free beside what the tree needs for its log, for the tables, and for
    /// `coming_bytes` more bytes of records.
    pub(in crate::disk) fn free_beside(&self, coming_bytes: u64) -> Result<u64, StoreFault> {
        self.shared.free_beside(coming_bytes)
    }

    /// Reads the log off the device: `Ok` if all of it is there, `Err` with what looks damaged.
    /// `None` if a checkpoint ended meanwhile: segments may have been written over while they were
    /// read.
    pub(in crate::disk) fn look_at_log(&self) -> Result<Option<Result<(), String>>, StoreFault> {
        let applied = self.applied();
        let found = self.damage_of_log(applied)?;
        Ok(match found {
            None => Some(Ok(())),
            Some(what) => (self.applied() == applied).then_some(Err(what)),
        })
    }

    fn damage_of_log(&self, applied: u64) -> Result<Option<String>, StoreFault> {
        let shared = &*self.shared;
        let (head, synced) = {
            let log = shared.log();
            (log.head, log.synced)
        };
        shared.device.forget()?;
        if replay::file_head(&*shared.device)? != Some(head) {
            return Ok(Some("the head of the commit log is damaged".into()));
        }
        let mut reached = applied;
        match replay::replay(&*shared.device, &head, applied, &mut |seq, _| reached = seq) {
            Err(Problem::Io(error)) => Err(error.into()),
            // What is behind was written while this was read.
            Err(Problem::Damaged(_)) if reached >= synced => Ok(None),
            Err(Problem::Damaged(what)) => Ok(Some(what)),
            Ok(found) if found.last_seq.max(applied) >= synced => Ok(None),
            Ok(found) => Ok(Some(format!(
                "the commit log ends at write {}, and {synced} was synced",
                found.last_seq
            ))),
        }
    }

    /// What the tables have, the newest of each place, and the last write: beside the tree it is
    /// all there is.
    pub(in crate::disk) fn newer(&self) -> Newer {
        let seq = self.last_write();
        Newer { table: self.shared.tables().all(), seq }
    }

    /// Syncs everything, brings it to the tree if that has room, and lets go of both.
    pub(in crate::disk) fn close(mut self) -> Result<(), StoreFault> {
        let drained = self.shared.drain_for_close();
        self.end_thread();
        drained?;
        let LoggedTree { shared, .. } = &self;
        let shared = shared.clone();
        drop(self);
        match Arc::try_unwrap(shared) {
            Ok(shared) => shared.sled.close(),
            Err(_) => Err(StoreFault::Io("the store is still in use".into())),
        }
    }

    fn end_thread(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stop();
        let _ = thread.join();
    }
}

impl Drop for LoggedTree {
    fn drop(&mut self) {
        self.end_thread();
    }
}

impl Places for LoggedTree {
    fn get(&self, place: &[u8]) -> Result<Option<Bytes>, StoreFault> {
        LoggedTree::get(self, place)
    }

    fn fail(&self, fault: StoreFault) -> StoreFault {
        self.tree().fail(fault)
    }
}

/// Changes that a tree lacks.
#[derive(Debug)]
pub(in crate::disk) struct Newer {
    table: Table,
    /// The last write with them.
    seq: u64,
}

impl Newer {
    /// What the log in `data`, the folder of a damaged store, has that its tree lacks: every record
    /// that is whole. Nothing where there is no log that belongs to it.
    pub(in crate::disk) fn salvaged(tree: &Sled, data: &Path) -> Result<Self, StoreFault> {
        let applied = last_write(tree)?;
        let mut newer = Newer { table: Table::default(), seq: applied };
        let id = tree.get(&meta_key(LOG))?.and_then(|bytes| unseal_u64(LOG, &bytes));
        let Some(id) = id else { return Ok(newer) };
        let file = match File::open(data.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(newer),
            file => file?,
        };
        replay::salvage(&file, id, applied, &mut |seq, edits| {
            newer.table.insert(edits);
            newer.seq = seq;
        })?;
        Ok(newer)
    }

    /// Brings them to a tree that has what was there before them.
    pub(in crate::disk) fn apply_to(&self, tree: &Sled) -> Result<(), StoreFault> {
        let changes = self.table.in_order();
        tree.apply_each(changes.map(|(place, value)| (&place[..], value.as_deref())))?;
        let number = seal(LAST_WRITE, &self.seq.to_be_bytes());
        tree.apply_each([(&meta_key(LAST_WRITE)[..], Some(&number[..]))].into_iter())
    }

    /// How many there are.
    pub(in crate::disk) fn len(&self) -> usize {
        self.table.len()
    }
}

/// Makes a log, and names it in the tree once it is whole.
fn create(sled: &Sled, path: &Path, limits: &Limits) -> Result<(u64, File), StoreFault> {
    let base = last_write(sled)?;
    let id = drawn();
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(true).open(path);
    let file = file.map_err(|error| sled.fail(error.into()))?;
    let made = CommitLog::create(&file, id, limits, base).and_then(|()| {
        file.sync_all()?;
        path.parent().map_or(Ok(()), sync_path)
    });
    made.map_err(|error| sled.fail(error.into()))?;
    let mut batch = Batch::default();
    batch.insert(meta_key(LOG), seal(LOG, &id.to_be_bytes()));
    sled.apply(batch)?;
    sled.sync()?;
    Ok((id, file))
}

/// A random number.
fn drawn() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// The last write that the tree in `data` must have, before it is opened: as far as its log knows,
/// or `mark`, the last one that was noted outside, where there is no log.
pub(in crate::disk) fn floor_of(data: &Path, mark: u64) -> io::Result<u64> {
    match File::open(data.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(mark),
        // A log without a head may be one whose creation was cut off.
        file => Ok(replay::floor(&file?)?.unwrap_or(mark)),
    }
}

/// The last write that a tree has.
pub(in crate::disk) fn last_write(sled: &Sled) -> Result<u64, StoreFault> {
    let bytes = sled.get(&meta_key(LAST_WRITE))?;
    let number = bytes.and_then(|bytes| unseal_u64(LAST_WRITE, &bytes));
    let damage = || StoreFault::Corrupt("the number of the last write is not readable".into());
    number.ok_or_else(|| sled.fail(damage()))
}

#[cfg(test)]
mod tests;
