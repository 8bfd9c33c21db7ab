//! sled 0.34.7 with its defects covered: panics become faults, a flush becomes durable, and after
//! the first fault every call fails. Nothing outside this file calls sled.
//!
//! Unused on purpose: `flush_async`, transactions, more than one tree, reverse iteration, and the
//! background flusher, which would fsync unnoticed and swallow the error.

use std::any::Any;
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, thread};

use bytes::Bytes;
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
pub(super) use sled::Batch;

use super::files::{lock_within, sync_path};
use super::log::{SEGMENT_BYTES, Survey};
use super::watch::Watch;
use super::written_through::{settle, write_through};

/// The name of the file within the data that notes damage.
const DAMAGED: &str = "DAMAGED";

/// How long the background threads of a store closed before may keep a directory locked.
const RELEASE: Duration = Duration::from_secs(5);

/// How long a sync waits for a free descriptor; it retries every [`NO_DESCRIPTOR_BACKOFF`].
const NO_DESCRIPTOR_TIMEOUT: Duration = Duration::from_secs(60);
const NO_DESCRIPTOR_BACKOFF: Duration = Duration::from_millis(20);

/// Why a call to the store failed, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreFault {
    /// The files contradict each other, or sled panicked.
    Corrupt(String),
    /// The operating system returned an error.
    Io(String),
    /// Another holder has locked sled's file.
    Locked,
}

impl From<io::Error> for StoreFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => StoreFault::Corrupt("a file ends too early".into()),
            _ => StoreFault::Io(line(&error.to_string())),
        }
    }
}

impl From<sled::Error> for StoreFault {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => error.into(),
            sled::Error::Corruption { .. } => StoreFault::Corrupt(
                "a checksum of sled \
                fails"
                    .into(),
            ),
            error => StoreFault::Corrupt(line(&error.to_string())),
        }
    }
}

thread_local! {
    /// True while this thread is inside sled, whose panics are caught and so not printed.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}
static OPENING: AtomicUsize = AtomicUsize::new(0);
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Counts one more in a counter until it is dropped.
#[derive(Debug)]
struct Counted(&'static AtomicUsize);

impl Counted {
    fn new(counter: &'static AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Counted(counter)
    }
}

fn write_note(dir: &Path, reason: &str) -> io::Result<()> {
    fs::write(dir.join(DAMAGED), reason)?;
    sync_path(&dir.join(DAMAGED))?;
    sync_path(dir)
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The open directory `blobs/`, and the files in it that have been fsynced.
#[derive(Debug)]
struct Blobs {
    dir: Dir,
    synced: HashSet<OsString>,
}

impl Blobs {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Blobs { dir: Dir::new(File::open(path)?)?, synced: HashSet::new() })
    }
}

/// Opens a file of a directory. Without a free descriptor it waits for one: a shortage in the
/// process or the machine is no failure of the store.
fn open_patiently(dir: BorrowedFd<'_>, name: &OsStr) -> Result<File, Errno> {
    let deadline = Instant::now() + NO_DESCRIPTOR_TIMEOUT;
    loop {
        match rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::MFILE | Errno::NFILE) if Instant::now() < deadline => {
                thread::sleep(NO_DESCRIPTOR_BACKOFF);
            }
            opened => return opened.map(File::from),
        }
    }
}

/// An open sled directory.
#[derive(Debug)]
pub(super) struct Sled {
    dir: PathBuf,
    /// Watches over writers. Declared before the database, because it has a handle of it. `None`
    /// only while it is closed.
    watch: Option<Watch>,
    /// `None` only while it is closed.
    db: Option<sled::Db>,
    /// Our own descriptor of the one file that holds the data.
    file: File,
    /// True if each write of sled's is durable when it returns.
    writes_through: bool,
    /// The state of the log before sled opened it.
    survey: Survey,
    blobs: Mutex<Blobs>,
    fault: OnceLock<StoreFault>,
    _open: Counted,
}

impl Sled {
    /// Opens the directory, and creates it if it does not exist. The page cache takes about
    /// `cache_bytes` bytes; up to 2.4 times as much was measured.
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreFault> {
        let survey = Sled::survey_of(dir, 0)?;
        Sled::open_surveyed(dir, cache_bytes, survey)
    }

    /// Reads the log of a store that is not open to its end, which must hold the write `mark`. An
    /// error of the disk has to be found here: sled takes a segment that it cannot read for torn,
    /// and overwrites it with zeros.
    pub(super) fn survey_of(dir: &Path, mark: u64) -> Result<Survey, StoreFault> {
        await_release(&dir.join("db"))?;
        match File::open(dir.join("db")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Survey::default()),
            file => Ok(Survey::of(&file?, mark)?),
        }
    }

    /// Opens a directory whose log was read by [`Sled::survey_of`].
    pub(super) fn open_surveyed(
        dir: &Path,
        cache_bytes: u64,
        survey: Survey,
    ) -> Result<Self, StoreFault> {
        hook_panics();
        let _opening = Counted::new(&OPENING);
        settle(dir)?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(None);
        let db = inside(|| Ok(config.open()?))?;
        let file = File::options().read(true).write(true).open(dir.join("db"))?;
        let writes_through =
            write_through(&file)? && write_through(&File::open(dir.join("blobs"))?)?;
        // sled fsyncs none of these, and may just have created them, or created a lost `conf` anew.
        file.sync_all()?;
        for path in [dir.join("conf"), dir.join("blobs"), dir.to_path_buf()] {
            sync_path(&path)?;
        }
        let _open = Counted::new(&OPEN);
        let (blobs, fault) = (Mutex::new(Blobs::open(&dir.join("blobs"))?), OnceLock::new());
        let forgotten = db.clone();
        let watch = Watch::start(move || {
            // All waiting callers get the error, too.
            let _ = inside(|| Ok(forgotten.flush()?));
        })?;
        let (dir, watch, db) = (dir.to_path_buf(), Some(watch), Some(db));
        Ok(Sled { dir, watch, db, file, writes_through, survey, blobs, fault, _open })
    }

    /// Runs `work` unless an earlier call has failed; a failure of `work` makes all later calls
    /// fail.
    pub(super) fn run<T>(
        &self,
        work: impl FnOnce(&sled::Db) -> Result<T, StoreFault>,
    ) -> Result<T, StoreFault> {
        if let Some(fault) = self.fault.get() {
            return Err(fault.clone());
        }
        let Some(db) = &self.db else { return Err(StoreFault::Io("the store is closed".into())) };
        inside(|| work(db)).map_err(|fault| self.fail(fault))
    }

    /// Makes all later calls fail with `fault`. Damage is noted beside the data: a page that is
    /// rarely read must not end the daemon again after every start, but have the store set aside.
    pub(super) fn fail(&self, fault: StoreFault) -> StoreFault {
        let note = || {
            if let StoreFault::Corrupt(reason) = &fault {
                // Without the note, the next start finds the same damage, or none.
                let _ = write_note(&self.dir, reason);
            }
            fault.clone()
        };
        self.fault.get_or_init(note).clone()
    }

    /// The fault that ended everything, if there was one.
    pub(super) fn check(&self) -> Result<(), StoreFault> {
        self.fault.get().map_or(Ok(()), |fault| Err(fault.clone()))
    }

    /// True if a call has failed because the files contradict each other.
    pub(super) fn is_damaged(&self) -> bool {
        matches!(self.fault.get(), Some(StoreFault::Corrupt(_)))
    }

    /// The damage that was noted when the store in `dir` was open last.
    pub(super) fn noted_damage(dir: &Path) -> Option<String> {
        fs::read_to_string(dir.join(DAMAGED)).ok()
    }

    /// The value at a key, shared with sled's cache.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreFault> {
        self.run(|db| Ok(db.get(key)?.map(Bytes::from_owner)))
    }

    /// Passes the places from `from` to before `to` (to the end with `None`) with their values to
    /// `visit`, in order, until it returns false. The first fault ends it, and fails all later
    /// calls.
    pub(super) fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], Bytes) -> Result<bool, StoreFault>,
    ) -> Result<(), StoreFault> {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.run(|db| {
            for entry in db.range::<&[u8], _>((Bound::Included(from), to)) {
                let (place, value) = entry?;
                if !visit(&place, Bytes::from_owner(value))? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Like [`Sled::range`], for a damaged store: a fault ends this call only.
    pub(super) fn try_range(
        &self,
        from: &[u8],
        mut visit: impl FnMut(&[u8], Bytes) -> Result<bool, StoreFault>,
    ) -> Result<(), StoreFault> {
        let Some(db) = &self.db else { return Err(StoreFault::Io("the store is closed".into())) };
        inside(|| {
            for entry in db.range::<&[u8], _>((Bound::Included(from), Bound::Unbounded)) {
                let (place, value) = entry?;
                if !visit(&place, Bytes::from_owner(value))? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The state of the log before sled opened it.
    pub(super) fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The file that holds the log.
    pub(super) fn log(&self) -> &File {
        &self.file
    }

    /// True if sled's files are written through, so that sled never writes over a segment before
    /// what replaces it is durable (see [`write_through`]).
    pub(super) fn writes_through(&self) -> bool {
        self.writes_through
    }

    /// Applies all of the batch or nothing; durable after the next [`Sled::sync`].
    pub(super) fn apply(&self, batch: Batch) -> Result<(), StoreFault> {
        self.watched(|| self.run(|db| Ok(db.apply_batch(batch)?)))
    }

    /// Applies one change after the other: a crash keeps some number of the first ones. Unlike
    /// [`Sled::apply`] it keeps no reader waiting.
    pub(super) fn apply_each<'a>(
        &self,
        changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), StoreFault> {
        self.watched(|| {
            self.run(|db| {
                for (place, value) in changes {
                    match value {
                        Some(value) => drop(db.insert(place, value)?),
                        None => drop(db.remove(place)?),
                    }
                }
                Ok(())
            })
        })
    }

    /// Makes every applied change durable. sled's flush writes and calls `sync_file_range`, which
    /// is not durable, so this adds an fsync.
    pub(super) fn sync(&self) -> Result<(), StoreFault> {
        self.watched(|| self.run(|db| Ok(db.flush()?)))?;
        self.run(|_| {
            self.sync_blobs()?;
            Ok(self.file.sync_data()?)
        })
    }

    fn watched<T>(&self, call: impl FnOnce() -> T) -> T {
        match &self.watch {
            Some(watch) => watch.over(call),
            None => call(),
        }
    }

    /// No sync ends while the returned guard is held.
    #[cfg(test)]
    pub(super) fn hold_syncs(&self) -> impl Sized {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the files in `blobs/` durable that were created since the last call. The directory
    /// stays open: a sync must not fail because the process has no descriptor left.
    fn sync_blobs(&self) -> Result<(), StoreFault> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Blobs { dir, synced } = &mut *blobs;
        dir.rewind();
        let mut found = HashSet::new();
        for entry in &mut *dir {
            let entry = entry.map_err(io::Error::from)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                found.insert(name);
            }
        }
        let dir = dir.fd().map_err(io::Error::from)?;
        synced.retain(|name| found.contains(name));
        let mut grown = false;
        for name in found {
            if synced.contains(&name) {
                continue;
            }
            match open_patiently(dir, &name) {
                // sled has replaced the file in the meantime.
                Err(Errno::NOENT) => continue,
                file => file.map_err(io::Error::from)?.sync_all()?,
            }
            grown = true;
            synced.insert(name);
        }
        if grown {
            rustix::fs::fsync(dir).map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// Bytes that the directory takes on disk. If it cannot be read, for example because
    /// descriptors are missing, the store itself has not failed.
    pub(super) fn disk_bytes(&self) -> Result<u64, StoreFault> {
        if let Some(fault) = self.fault.get() {
            return Err(fault.clone());
        }
        Ok(allocated(&self.dir)? + allocated(&self.dir.join("blobs"))?)
    }

    /// Syncs everything and releases the directory.
    pub(super) fn close(mut self) -> Result<(), StoreFault> {
        self.sync()?;
        self.watch = None;
        let db = self.db.take();
        inside(|| {
            drop(db);
            Ok(())
        })?;
        Ok(self.file.sync_data()?)
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        let watch = self.watch.take();
        let Some(db) = self.db.take() else { return };
        if matches!(self.fault.get(), Some(StoreFault::Io(_) | StoreFault::Locked)) {
            // Dropping it after a failure would flush and fsync again. The process is about to end.
            mem::forget((watch, db));
        } else {
            drop(watch);
            // An error here loses nothing that was promised: acknowledged writes are synced.
            let _ = inside(|| {
                drop(db);
                Ok(())
            });
        }
    }
}

/// Runs `work`, and turns a panic into a fault.
fn inside<T>(work: impl FnOnce() -> Result<T, StoreFault>) -> Result<T, StoreFault> {
    let before = INSIDE.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(before);
    outcome.unwrap_or_else(|payload| {
        let text = message(&*payload);
        let fault = format!("sled panicked: {}", line(text));
        // sled unwraps errors of the operating system in places: those are no damage.
        let io = text.contains("Os {") || text.contains("IO error");
        Err(if io { StoreFault::Io(fault) } else { StoreFault::Corrupt(fault) })
    })
}

/// The text of a panic.
fn message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// The first line, at most 200 characters of it: sled's messages may contain whole pages. For an
/// error of the operating system that sled prints as a structure, its message.
fn line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let message = line.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    message.map_or(line, |(message, _)| message).chars().take(200).collect()
}

/// Suppresses the output of caught panics. Ends the process when one of sled's I/O threads panics
/// under an open store: its data is lost, and callers would wait for it for ever.
fn hook_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| match &thread::current() {
            _ if INSIDE.get() => {}
            thread if thread.name().is_some_and(|name| name.starts_with("sled-io-")) => {
                background_panic(info);
            }
            _ => others(info),
        }));
    });
}

/// While a store is being opened, the opening thread notices the panic by itself and reports it.
fn background_panic(info: &PanicHookInfo) {
    if OPENING.load(Ordering::SeqCst) == 0 && OPEN.load(Ordering::SeqCst) > 0 {
        let what = line(message(info.payload()));
        eprintln!("the store failed: sled panicked in the background: {what}");
        std::process::exit(1);
    }
}

/// Waits for sled's threads, which may hold its file for a moment after a store in this process was
/// closed.
fn await_release(file: &Path) -> Result<(), StoreFault> {
    let file = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    if !lock_within(&file, RELEASE)? {
        return Err(StoreFault::Locked);
    }
    Ok(file.unlock()?)
}

/// Bytes allocated to the files of a directory, without its subdirectories.
fn allocated(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        match entry?.metadata() {
            Ok(file) => bytes += file.blocks() * 512,
            // sled removes old snapshots and blobs at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_to_lie_in_blobs_is_synced_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let sled = Sled::open(dir.path(), 1 << 20).unwrap();
        let known = || sled.blobs.lock().unwrap().synced.len();
        let put = |value: Vec<u8>| {
            let mut batch = Batch::default();
            batch.insert(b"key", value);
            sled.apply(batch).unwrap();
            sled.sync().unwrap();
        };
        put(vec![7; SEGMENT_BYTES / 4 - 100]);
        assert_eq!(known(), 0, "just below the limit");
        put(vec![7; SEGMENT_BYTES / 4]);
        assert_eq!(known(), 1, "just above");
        let blob = fs::read_dir(dir.path().join("blobs")).unwrap().next().unwrap().unwrap();
        fs::remove_file(blob.path()).unwrap();
        sled.sync().unwrap();
        assert_eq!(known(), 0);
    }

    #[test]
    fn panics_become_faults_and_the_first_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let sled = Sled::open(dir.path(), 1 << 20).unwrap();
        let fault = sled.run::<()>(|_| panic!("first {}\nand a page", 1)).unwrap_err();
        assert_eq!(fault, StoreFault::Corrupt("sled panicked: first 1".into()));
        assert_eq!(sled.get(b"k"), Err(fault.clone()));
        assert_eq!(sled.sync(), Err(fault.clone()));
        assert_eq!(sled.close(), Err(fault));
        let full = inside::<()>(|| panic!("{:?}", io::Error::from_raw_os_error(28)));
        assert_eq!(full, Err(StoreFault::Io("sled panicked: No space left on device".into())));
    }
}
