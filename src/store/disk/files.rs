//! The data directory around sled: `FORMAT` says what it is, `LOCK` says who has it, `MARK` says up to
//! which write the data was synced, `sled/` is the data, `creating/` is a store on its way to become `sled/`.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::OpenError;
use crate::types::hash64;

/// The one line in `FORMAT`.
pub(super) const FORMAT: &str = "pixii data 1, sled 0.34";

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_TEMPORARY: &str = "FORMAT.new";
const LOCK_FILE: &str = "LOCK";
const MARK_FILE: &str = "MARK";
const CREATING: &str = "creating";
/// What a directory without `FORMAT` may hold: an unfinished creation, and what a fresh ext4 has.
const HARMLESS: [&str; 5] = [FORMAT_TEMPORARY, LOCK_FILE, MARK_FILE, CREATING, "lost+found"];

/// Stores are set aside in folders whose name tells why: one of these, a dash, and a number.
pub(super) const WHYS: [&str; 2] = ["damaged", "removed"];
/// Most stores of a kind that are kept.
const MAX_SET_ASIDE: u32 = 16;

/// How long a holder that is just ending (or a fork of it that has not yet executed) is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

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
        // Before the lock, so that nothing is written to a directory that is not ours; and again with
        // it, because somebody may just have created the store.
        check_format(path)?;
        let lock = lock(path)?;
        let fresh = !check_format(path)?;
        let mark = open_or_create(&path.join(MARK_FILE))
            .map_err(|error| OpenError::from_io(path, "opening MARK", &error))?;
        Ok((Directory { path: path.to_path_buf(), mark, _lock: lock }, fresh))
    }

    /// Takes a directory that holds a store already, and makes nothing.
    pub(super) fn claim_existing(path: &Path) -> Result<Self, OpenError> {
        if !check_format(path)? {
            let reason = "there is no store in it".to_owned();
            return Err(OpenError::Directory { dir: path.to_path_buf(), reason });
        }
        Directory::claim(path).map(|(directory, _)| directory)
    }

    /// Notes that everything up to the write `number` is synced. Not fsynced itself: a power cut may leave
    /// an older mark or none, never one that promises too much.
    pub(super) fn set_mark(&self, number: u64) -> io::Result<()> {
        let number = number.to_be_bytes();
        let checksum = hash64(&[b"mark", &number]).to_be_bytes();
        self.mark.write_all_at(&[number, checksum].concat(), 0)
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
        let (mut number, mut checksum) = ([0; 8], [0; 8]);
        let read = self.mark.read_exact_at(&mut number, 0);
        let read = read.and_then(|()| self.mark.read_exact_at(&mut checksum, 8));
        let sound = read.is_ok() && hash64(&[b"mark", &number]).to_be_bytes() == checksum;
        if sound { u64::from_be_bytes(number) } else { 0 }
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
        let temporary = self.path.join(FORMAT_TEMPORARY);
        let mut file = File::create(&temporary)?;
        writeln!(file, "{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&temporary, self.path.join(FORMAT_FILE))?;
        sync_path(&self.path)
    }

    /// Moves everything of the store to a new folder. `FORMAT` goes last: a kill before it leaves a
    /// directory that counts as damaged, and is set aside again.
    pub(super) fn set_aside(&self, why: &str) -> io::Result<PathBuf> {
        let numbers = 1..=MAX_SET_ASIDE;
        let mut folders = numbers.map(|number| self.path.join(format!("{why}-{number}")));
        let Some(folder) = folders.find(|folder| !folder.exists()) else {
            let what = format!("{MAX_SET_ASIDE} {why} stores are kept already; remove some");
            return Err(io::Error::other(what));
        };
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

    /// Removes files that sled would read and fail on for ever, and can make anew. Snapshots: half-written
    /// ones (a kill during an open leaves them) and damaged ones; they only repeat what the log says. A torn
    /// `conf`: it holds nothing but sled's version and the settings that are fixed with our `FORMAT`. With
    /// the good ones left in place, a store that does not open has a damaged log.
    pub(super) fn remove_torn_files(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.data())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let half = name.ends_with(b".generating");
            let torn = match name {
                b"conf" => !conf_is_whole(&fs::read(&path)?),
                name if name.starts_with(b"snap.") => half || !snapshot_is_whole(&fs::read(&path)?),
                _ => false,
            };
            if torn {
                fs::remove_file(&path)?;
            }
        }
        sync_path(&self.data())
    }
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
    File::open(path)?.sync_all()
}

/// Makes the directory and those above it, each of them durable in the one above.
fn make_directory(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if path.try_exists()? {
        // It may have been made a moment ago. If its parent cannot be read, whoever made it answers.
        let _ = sync_path(parent);
        return Ok(());
    }
    make_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_path(parent),
    }
}

/// True if the directory holds our format, false if it holds nothing.
fn check_format(path: &Path) -> Result<bool, OpenError> {
    let fault = |error: &io::Error| OpenError::from_io(path, "reading FORMAT", error);
    let mut found = Vec::new();
    match File::open(path.join(FORMAT_FILE)) {
        Ok(file) => {
            file.take(40).read_to_end(&mut found).map_err(|error| fault(&error))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return check_empty(path).map(|()| false);
        }
        Err(error) => return Err(fault(&error)),
    }
    if found != format!("{FORMAT}\n").as_bytes() {
        let found = found.trim_ascii_end().escape_ascii().to_string();
        return Err(OpenError::Format { dir: path.to_path_buf(), found });
    }
    Ok(true)
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

/// Locks the file, waiting for its holder to go; false when that takes longer than `patience`.
pub(super) fn lock_within(file: &File, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
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
    let fault = |error: io::Error| OpenError::from_io(path, "locking it", &error);
    let mut file = open_or_create(&path.join(LOCK_FILE)).map_err(fault)?;
    if !lock_within(&file, PATIENCE).map_err(fault)? {
        let mut text = String::new();
        // A holder that has not written its number yet stays unnamed.
        let _ = file.take(20).read_to_string(&mut text);
        let holder = text.trim().parse().ok();
        return Err(OpenError::InUse { dir: path.to_path_buf(), holder });
    }
    file.set_len(0).map_err(fault)?;
    writeln!(file, "{}", std::process::id()).map_err(fault)?;
    Ok(file)
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
