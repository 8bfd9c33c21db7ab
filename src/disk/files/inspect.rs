//! Looking at a data directory that a daemon is to use, or uses, without changing it.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use super::super::OpenError;
use super::{Format, check_format};

/// The state of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    /// It does not exist; a start of the daemon creates it.
    Missing,
    /// It has no store; a start of the daemon creates one.
    Empty,
    /// It has a store of the format that this program reads.
    HasStore,
}

/// Looks at the data directory `dir`. Nothing is opened for writing and no lock is taken, so that
/// a daemon may have it open. The content of the store is not read. The error says why a daemon
/// with the rights of this process could not use the directory.
pub fn inspect(dir: &Path) -> Result<DirectoryState, OpenError> {
    let unusable = |reason: String| Err(OpenError::Directory { dir: dir.to_path_buf(), reason });
    let fault = |error: &io::Error| OpenError::from_io(dir, "looking at it", error);
    match fs::metadata(dir) {
        Ok(about) if !about.is_dir() => return unusable("it is not a directory".into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return creatable(dir).map_or_else(unusable, |()| Ok(DirectoryState::Missing));
        }
        Err(error) => return Err(fault(&error)),
    }
    if let Err(why) = usable(dir) {
        return unusable(why);
    }
    Ok(match check_format(dir)? {
        Format::Nothing => DirectoryState::Empty,
        Format::Ours | Format::Damaged(_) => DirectoryState::HasStore,
    })
}

/// An error if the directory could not be created.
fn creatable(dir: &Path) -> Result<(), String> {
    let above = dir.ancestors().skip(1).find(|above| above.exists());
    let above = above.unwrap_or(Path::new("/"));
    if !above.is_dir() {
        return Err(format!("{} is not a directory", above.display()));
    }
    usable(above).map_err(|why| format!("it does not exist, and {why}"))
}

/// An error if the rights of this process do not suffice for entries of the directory.
fn usable(dir: &Path) -> Result<(), String> {
    let rights = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let failed = |error: rustix::io::Errno| {
        format!("{} is not writable: {}", dir.display(), io::Error::from(error))
    };
    access(dir, rights).map_err(failed)
}
