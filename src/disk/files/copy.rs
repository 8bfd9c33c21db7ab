//! Reads a stopped store without changing it: its files are copied, and the copy is opened.
//!
//! sled writes at every opening: it fills the rest of a segment, clears what it finds torn, and
//! makes a snapshot. It has no read-only mode. Hard links would share the bytes that it writes, and
//! an overlay copies the whole log at its first write. So the files are copied: within moments and
//! without space on a file system that can share blocks (btrfs, XFS), elsewhere byte by byte.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::OpenError;
use super::super::log::SEGMENT_BYTES;
use super::{Reading, STORE};

/// Space that sled takes when it opens the copy: the rest of a segment, and a new snapshot.
const SPARE_BYTES: u64 = 2 * SEGMENT_BYTES as u64;

/// A copy of a store, removed when this is dropped.
#[derive(Debug)]
pub(in crate::disk) struct PrivateCopy {
    place: TempDir,
    /// Bytes that the original takes on disk.
    pub(in crate::disk) disk_bytes: u64,
    /// Damage of the small files of the original.
    pub(in crate::disk) damages: Vec<String>,
}

/// One file on its way to the copy.
struct Source {
    /// Relative to the data directory.
    name: PathBuf,
    bytes: u64,
}

impl PrivateCopy {
    /// Copies the store in `dir`, which no daemon may have open, to a new folder within `scratch`.
    /// Nothing in `dir` is written, including its owners and times. A daemon may start once this
    /// has returned.
    pub(in crate::disk) fn of(dir: &Path, scratch: &Path) -> Result<Self, OpenError> {
        let reading = Reading::claim(dir)?;
        let failed = |reason: String| OpenError::Scratch {
            dir: dir.to_path_buf(),
            scratch: scratch.to_path_buf(),
            reason,
        };
        let mut place = tempfile::Builder::new();
        let place = place.prefix("pixii-copy-").tempdir_in(scratch);
        let place = place.map_err(|error| failed(error.to_string()))?;
        let (sources, disk_bytes) = sources(dir)?;
        copy_all(dir, place.path(), sources, &failed)?;
        Ok(PrivateCopy { place, disk_bytes, damages: reading.damages() })
    }

    /// The folder of the copy, which has the layout of a data directory.
    pub(in crate::disk) fn path(&self) -> &Path {
        self.place.path()
    }
}

/// The files of a store, the longest first, and the bytes that the data takes on disk.
fn sources(dir: &Path) -> Result<(Vec<Source>, u64), OpenError> {
    let (mut sources, mut disk_bytes) = (Vec::new(), 0);
    let mut open: Vec<PathBuf> = STORE.iter().map(PathBuf::from).collect();
    while let Some(name) = open.pop() {
        let path = dir.join(&name);
        let failed = |error: io::Error| {
            OpenError::from_io(dir, &format!("reading {}", path.display()), &error)
        };
        let about = match fs::metadata(&path) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        if about.is_dir() {
            for entry in fs::read_dir(&path).map_err(failed)? {
                open.push(name.join(entry.map_err(failed)?.file_name()));
            }
        }
        if name.components().count() > 1 {
            disk_bytes += about.blocks() * 512;
        }
        if about.is_file() {
            sources.push(Source { name, bytes: about.len() });
        }
    }
    sources.sort_by_key(|source| std::cmp::Reverse(source.bytes));
    Ok((sources, disk_bytes))
}

fn copy_all(
    dir: &Path,
    to: &Path,
    mut sources: Vec<Source>,
    failed: &dyn Fn(String) -> OpenError,
) -> Result<(), OpenError> {
    let io = |error: io::Error| failed(error.to_string());
    let mut missing: u64 = sources.iter().map(|source| source.bytes).sum();
    let mut checked = false;
    for Source { name, bytes } in sources.drain(..) {
        let path = dir.join(&name);
        let reading = |error: io::Error| {
            OpenError::from_io(dir, &format!("reading {}", path.display()), &error)
        };
        let mut source = File::open(&path).map_err(reading)?;
        let parent = to.join(name.parent().unwrap_or(Path::new("")));
        fs::create_dir_all(&parent).map_err(io)?;
        let mut copy = File::create(to.join(&name)).map_err(io)?;
        if rustix::fs::ioctl_ficlone(&copy, &source).is_err() {
            if !checked {
                // The longest comes first: whether it shares blocks holds for the others, too.
                expect_space(to, missing, failed)?;
                checked = true;
            }
            io::copy(&mut source, &mut copy).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => io(error),
                _ => reading(error),
            })?;
        }
        missing -= bytes;
    }
    // sled needs both, and an empty one has no file that would create it.
    for name in ["sled", "sled/blobs"].into_iter().filter(|name| dir.join(name).is_dir()) {
        fs::create_dir_all(to.join(name)).map_err(io)?;
    }
    Ok(())
}

/// Returns an error if a folder has too little space for `bytes` bytes and what sled adds to them.
fn expect_space(
    to: &Path,
    bytes: u64,
    failed: &dyn Fn(String) -> OpenError,
) -> Result<(), OpenError> {
    let disk = rustix::fs::statvfs(to).map_err(|error| failed(error.to_string()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = bytes.saturating_add(bytes / 16).saturating_add(SPARE_BYTES);
    if needed > free {
        return Err(failed(format!("{needed} bytes are needed there, and {free} are free")));
    }
    Ok(())
}
