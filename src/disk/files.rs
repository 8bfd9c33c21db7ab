//! The data directory around sled: `FORMAT` says what it is, `LOCK` says who has it, `MARK` says up
//! to which write the data was synced, `sled/` is the data, `creating/` is a store on its way to
//! become `sled/`. `MARK` also holds its own second copy and that of `FORMAT`, see [`twin`]. `LOCK`
//! has none: its text is for people, and it is written anew at each start.

pub(super) mod copy;
mod twin;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::OpenError;

/// The one line in `FORMAT`.
pub(super) const FORMAT: &str = "pixii data 1, sled 0.34";

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_TEMPORARY: &str = "FORMAT.new";
const LOCK_FILE: &str = "LOCK";
const MARK_FILE: &str = "MARK";
const CREATING: &str = "creating";
/// A copy of a damaged store, while it is read.
const COPY: &str = "mending";
/// A store that another one has taken the place of, on its way out.
const REPLACED: &str = "replaced";
/// What a directory without `FORMAT` may hold: an unfinished creation, and what a fresh ext4 has.
const HARMLESS: [&str; 7] =
    [FORMAT_TEMPORARY, LOCK_FILE, MARK_FILE, CREATING, COPY, REPLACED, "lost+found"];

/// What belongs to a store: all that a copy of it needs.
pub(super) const STORE: [&str; 4] = ["sled", CREATING, MARK_FILE, FORMAT_FILE];

/// Stores are set aside in folders whose name reports why: one of these, a dash, and a number.
pub(super) const WHYS: [&str; 2] = ["damaged", "removed"];
/// Most stores of a kind that are kept.
const MAX_SET_ASIDE: u32 = 16;

/// How long a holder that is just ending (or a fork of it that has not yet executed) is waited for.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    mark: File,
    _lock: File,
}

impl Directory {
    /// Takes the directory, made if it is not there, and says whether it is still without a store.
    pub(super) fn claim(path: &Path) -> Result<(Self, bool), OpenError> {
        make_directory(path).map_err(|error| OpenError::from_io(path, "creating it", &error))?;
        // Before the lock, so that nothing is written to a directory that is not ours; and again
        // with it, because somebody may just have created the store.
        check_format(path)?;
        let lock = lock(path)?;
        let format = check_format(path)?;
        let mark = open_or_create(&path.join(MARK_FILE))
            .map_err(|error| OpenError::from_io(path, "opening MARK", &error))?;
        let directory = Directory { path: path.to_path_buf(), mark, _lock: lock };
        if let Format::Damaged(what) = &format {
            directory.heal_format(what)?;
        }
        if format != Format::Nothing && !twin::has_format(&directory.mark, &format_line()) {
            // A start must not fail because the second copy is missing; the next one tries again.
            let _ = twin::set_format(&directory.mark, &format_line());
        }
        Ok((directory, format == Format::Nothing))
    }

    /// Takes a directory that holds a store already, and makes nothing.
    pub(super) fn claim_existing(path: &Path) -> Result<Self, OpenError> {
        expect_store(path)?;
        Directory::claim(path).map(|(directory, _)| directory)
    }

    fn heal_format(&self, what: &str) -> Result<(), OpenError> {
        let failed = |error| OpenError::from_io(&self.path, "healing FORMAT", &error);
        self.replace_format().map_err(failed)?;
        tracing::warn!("FORMAT in {} {what}: written anew", self.path.display());
        Ok(())
    }

    /// Notes that everything up to the write `number` is synced. Not fsynced itself: a power cut
    /// may leave an older mark or none, never one that promises too much.
    pub(super) fn set_mark(&self, number: u64) -> io::Result<()> {
        twin::set_mark(&self.mark, number)
    }

    /// Writes the mark again as it is, and waits until the disk has it.
    pub(super) fn probe(&self) -> io::Result<()> {
        let mut mark = [0; 16];
        match self.mark.read_exact_at(&mut mark, 0) {
            // Nothing was synced yet.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => {
                read?;
                self.mark.write_all_at(&mark, 0)?;
            }
        }
        self.mark.sync_data()
    }

    /// The write up to which the data must reach; 0 when there is no readable mark.
    pub(super) fn mark(&self) -> u64 {
        twin::marks(&self.mark).number
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where sled is.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("sled")
    }

    /// Where a new store is made, emptied of what a killed attempt left.
    pub(super) fn scratch(&self) -> io::Result<PathBuf> {
        let scratch = self.path.join(CREATING);
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(scratch),
        }
    }

    /// Says that the store in the scratch place is whole. From here on its absence is damage.
    pub(super) fn write_format(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.path.join(CREATING))? {
            sync_path(&entry?.path())?;
        }
        sync_path(&self.path.join(CREATING))?;
        self.replace_format()?;
        // Behind FORMAT: where there is a second copy, FORMAT was there once.
        twin::set_format(&self.mark, &format_line())
    }

    fn replace_format(&self) -> io::Result<()> {
        let temporary = self.path.join(FORMAT_TEMPORARY);
        let mut file = File::create(&temporary)?;
        file.write_all(format_line().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(FORMAT_FILE))?;
        sync_path(&self.path)
    }

    /// Moves everything of the store to a new folder. `FORMAT` goes last: a kill before it leaves a
    /// directory that counts as damaged, and is set aside again.
    pub(super) fn set_aside(&self, why: &str) -> io::Result<PathBuf> {
        let Some(folder) = self.folder(why) else {
            let what = format!("{MAX_SET_ASIDE} {why} stores are kept already; remove some");
            return Err(io::Error::other(what));
        };
        // What an attempt to make it anew has left would be taken for the store.
        self.scratch()?;
        fs::create_dir(&folder)?;
        for name in ["sled", MARK_FILE, FORMAT_FILE] {
            match fs::rename(self.path.join(name), folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => sync_path(&folder)?,
            }
        }
        sync_path(&self.path)?;
        Ok(folder)
    }

    /// Puts the store in the scratch place, which is whole and synced, in the place of the present
    /// one. That is kept in a folder of its own, which is returned, if `keep` is set and there is
    /// room for one more; else it is removed. Safe to kill at any instant.
    pub(super) fn exchange(&self, keep: bool) -> io::Result<Option<PathBuf>> {
        for entry in fs::read_dir(self.path.join(CREATING))? {
            sync_path(&entry?.path())?;
        }
        sync_path(&self.path.join(CREATING))?;
        let folder = if keep { self.folder(WHYS[0]) } else { None };
        let (old, replaced) = (self.data(), self.path.join(REPLACED));
        match &folder {
            Some(folder) => {
                fs::create_dir(folder)?;
                fs::rename(&old, folder.join("sled"))?;
                sync_path(folder)?;
            }
            None => {
                self.remove_replaced()?;
                fs::rename(&old, &replaced)?;
            }
        }
        sync_path(&self.path)?;
        self.finish()?;
        self.remove_replaced()?;
        Ok(folder)
    }

    /// Copies the present store, to be tried to read: it is a damaged one, and stays as it is.
    pub(super) fn copy(&self) -> io::Result<PathBuf> {
        self.remove_copy()?;
        let (from, to) = (self.data(), self.path.join(COPY));
        let files = |dir: &Path| match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>(),
        };
        for within in ["", "blobs"] {
            fs::create_dir(to.join(within))?;
            for file in files(&from.join(within))?.into_iter().filter(|file| file.is_file()) {
                let name = file.file_name().unwrap_or_default();
                fs::copy(&file, to.join(within).join(name))?;
            }
        }
        remove_torn_files(&to)?;
        Ok(to)
    }

    /// Removes what [`Directory::copy`] has made.
    pub(super) fn remove_copy(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.path.join(COPY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a store that another one has taken the place of.
    pub(super) fn remove_replaced(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.path.join(REPLACED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A folder that is not there yet, for a store that is set aside.
    fn folder(&self, why: &str) -> Option<PathBuf> {
        let numbers = 1..=MAX_SET_ASIDE;
        let mut folders = numbers.map(|number| self.path.join(format!("{why}-{number}")));
        folders.find(|folder| !folder.exists())
    }

    /// Puts a store that was made whole in its place; false if there is neither.
    pub(super) fn finish(&self) -> io::Result<bool> {
        let data = self.data();
        if !data.try_exists()? {
            match fs::rename(self.path.join(CREATING), &data) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                outcome => outcome?,
            }
            sync_path(&self.path)?;
        }
        Ok(true)
    }

    /// See [`remove_torn_files`].
    pub(super) fn remove_torn_files(&self) -> io::Result<()> {
        remove_torn_files(&self.data())
    }
}

/// Puts the path in front of what the operating system says of it.
fn named(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A data directory that no daemon has while this is there, and in which nothing is written.
#[derive(Debug)]
pub(super) struct Reading {
    path: PathBuf,
    format: Format,
    /// Shared with others that only read. None where no daemon has ever made the file.
    _lock: Option<File>,
}

impl Reading {
    /// Takes a directory that holds a store already.
    pub(super) fn claim(path: &Path) -> Result<Self, OpenError> {
        let lock = lock_shared(path)?;
        expect_store(path)?;
        let format = check_format(path)?;
        Ok(Reading { path: path.to_path_buf(), format, _lock: lock })
    }

    /// What is wrong with the small files; each is healed at the next start of a daemon.
    pub(super) fn damages(&self) -> Vec<String> {
        let mut damages = Vec::new();
        if let Format::Damaged(what) = &self.format {
            damages.push(format!("the file FORMAT {what}; the next start writes it anew"));
        }
        let marks = File::open(self.path.join(MARK_FILE)).map(|file| twin::marks(&file));
        match marks.map_or(0, |marks| marks.damaged) {
            0 => {}
            1 => damages.push("the file MARK: 1 of its 2 marks is damaged".into()),
            _ => damages.push(
                "the file MARK: both of its marks are damaged, so it is not known up to which \
                 write the data must reach"
                    .into(),
            ),
        }
        damages
    }
}

/// Removes files that sled would read and fail on for ever, and can make anew. Snapshots:
/// half-written ones (a kill during an open leaves them) and damaged ones; they only repeat what
/// the log says. A torn `conf`: it holds nothing but sled's version and the settings that are fixed
/// with our `FORMAT`. With the good ones left in place, a store that does not open has a damaged
/// log.
fn remove_torn_files(data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data).map_err(named(data))? {
        let path = entry.map_err(named(data))?.path();
        let read = || fs::read(&path).map_err(named(&path));
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let half = name.ends_with(b".generating");
        let torn = match name {
            b"conf" => !conf_is_whole(&read()?),
            name if name.starts_with(b"snap.") => half || !snapshot_is_whole(&read()?),
            _ => false,
        };
        if torn {
            fs::remove_file(&path).map_err(named(&path))?;
        }
    }
    sync_path(data)
}

/// True when the snapshot's trailer (length, then CRC-32, both little-endian) fits its content.
fn snapshot_is_whole(bytes: &[u8]) -> bool {
    let Some((rest, crc)) = bytes.split_last_chunk::<4>() else { return false };
    let Some((content, length)) = rest.split_last_chunk::<8>() else { return false };
    let fits = u64::from_le_bytes(*length) == content.len() as u64;
    fits && !content.is_empty() && crc32(content) == u32::from_le_bytes(*crc)
}

/// True when the CRC-32 at the end of sled's `conf` fits what is before it.
fn conf_is_whole(bytes: &[u8]) -> bool {
    let content = bytes.split_last_chunk::<4>();
    content.is_some_and(|(content, crc)| crc32(content) == u32::from_le_bytes(*crc))
}

/// The CRC-32 of zlib and Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// Fsyncs a file or a directory.
pub(super) fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(named(path))
}

/// Makes the directory and those above it, each of them durable in the one above.
fn make_directory(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if path.try_exists()? {
        // It may have been made a moment ago. If its parent cannot be read, whoever made it
        // answers.
        let _ = sync_path(parent);
        return Ok(());
    }
    make_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_path(parent),
    }
}

/// The content of `FORMAT`.
fn format_line() -> String {
    format!("{FORMAT}\n")
}

/// What a directory is by its `FORMAT`.
#[derive(Debug, PartialEq, Eq)]
enum Format {
    /// Empty, or on its way to a first store.
    Nothing,
    /// Ours.
    Ours,
    /// Ours by the second copy, which is sound; the file itself is as this says.
    Damaged(String),
}

/// Refuses a directory without a store.
fn expect_store(path: &Path) -> Result<(), OpenError> {
    match check_format(path)? {
        Format::Nothing => {
            let reason = "there is no store in it".to_owned();
            Err(OpenError::Directory { dir: path.to_path_buf(), reason })
        }
        Format::Ours | Format::Damaged(_) => Ok(()),
    }
}

/// Refuses a directory that is not ours. Writes nothing.
fn check_format(path: &Path) -> Result<Format, OpenError> {
    let fault = |error: &io::Error| OpenError::from_io(path, "reading FORMAT", error);
    let ours = format_line();
    let twin = || {
        let mark = File::open(path.join(MARK_FILE));
        mark.is_ok_and(|mark| twin::has_format(&mark, &ours))
    };
    let mut found = Vec::new();
    match File::open(path.join(FORMAT_FILE)) {
        Ok(file) => {
            file.take(40).read_to_end(&mut found).map_err(|error| fault(&error))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let data = ["sled", CREATING].iter().any(|name| path.join(name).exists());
            if data && twin() {
                return Ok(Format::Damaged("was missing".into()));
            }
            return check_empty(path).map(|()| Format::Nothing);
        }
        Err(error) => return Err(fault(&error)),
    }
    if found == ours.as_bytes() {
        return Ok(Format::Ours);
    }
    let text = found.trim_ascii_end().escape_ascii().to_string();
    if twin() && twin::is_damaged(&found, ours.as_bytes()) {
        return Ok(Format::Damaged(format!("was damaged, \"{text}\"")));
    }
    Err(OpenError::Format { dir: path.to_path_buf(), found: text })
}

fn check_empty(path: &Path) -> Result<(), OpenError> {
    let fault = |error: io::Error| OpenError::from_io(path, "listing it", &error);
    for entry in fs::read_dir(path).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let name_text = name.to_string_lossy();
        let aside = WHYS.iter().any(|why| name_text.starts_with(&format!("{why}-")));
        if !aside && !HARMLESS.iter().any(|harmless| name == *harmless) {
            let entry = name.as_encoded_bytes().escape_ascii().to_string();
            return Err(OpenError::Foreign { dir: path.to_path_buf(), entry });
        }
    }
    Ok(())
}

/// Locks the file, waiting for its holder to go; false when that takes longer than `timeout`.
pub(super) fn lock_within(file: &File, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let fault = |error: io::Error| OpenError::from_io(path, "locking LOCK", &error);
    let mut file = open_or_create(&path.join(LOCK_FILE)).map_err(fault)?;
    if !lock_within(&file, TIMEOUT).map_err(fault)? {
        return Err(in_use(path, file));
    }
    file.set_len(0).map_err(fault)?;
    writeln!(file, "{}", std::process::id()).map_err(fault)?;
    Ok(file)
}

/// The lock of one who reads only: it keeps a daemon out, and writes nothing.
fn lock_shared(path: &Path) -> Result<Option<File>, OpenError> {
    let fault = |error: io::Error| OpenError::from_io(path, "locking LOCK", &error);
    let file = match File::open(path.join(LOCK_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_dir() => return Ok(None),
        Err(error) => return Err(fault(error)),
    };
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(error)) => return Err(fault(error)),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(in_use(path, file));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Who has the directory, by what its `LOCK` says.
fn in_use(path: &Path, lock: File) -> OpenError {
    let mut text = String::new();
    // A holder that has not written its number yet stays unnamed, and so does one that only reads:
    // the number is that of the daemon before it.
    let _ = lock.take(20).read_to_string(&mut text);
    let holder = text.trim().parse().ok();
    let holder = holder.filter(|holder| Path::new(&format!("/proc/{holder}")).exists());
    OpenError::InUse { dir: path.to_path_buf(), holder }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_and_trailer_of_a_snapshot() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the published check value");
        let content = b"content";
        let length = (content.len() as u64).to_le_bytes();
        let whole = [&content[..], &length, &crc32(content).to_le_bytes()].concat();
        assert!(snapshot_is_whole(&whole));
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert!(!snapshot_is_whole(&bad), "byte {at}");
            assert!(!snapshot_is_whole(&whole[..at]), "cut at {at}");
        }
    }

    #[test]
    fn directories_are_made_all_the_way_down() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        make_directory(&deep).unwrap();
        make_directory(&deep).unwrap();
        assert!(deep.is_dir());
        File::create(root.path().join("file")).unwrap();
        assert!(make_directory(&root.path().join("file/x")).is_err());
    }
}
