//! Why a data directory is not opened, as reported to its operator.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use pixii_core::store::StoreError;

use super::files;
use super::guarded::StoreFault;
use super::layout::NEWEST;
use super::schema::SchemaError;

/// Why a data directory was not opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory open. Nothing was changed.
    #[error("the data directory {} is in use by {}", dir.display(), Holder(*holder))]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The process id of the holder; `None` until it has written it.
        holder: Option<u32>,
    },
    /// The directory has another format, or another version of this one. Nothing was changed.
    #[error(
        "the data directory {} has the format \"{found}\"; this program reads \"{}\"",
        dir.display(), files::FORMAT
    )]
    Format {
        /// The data directory.
        dir: PathBuf,
        /// The beginning of its `FORMAT` file, escaped.
        found: String,
    },
    /// The directory holds something else. Nothing was changed.
    #[error(
        "the directory {} holds \"{entry}\" and no FORMAT file: it is no data directory, and a \
         new one is made only where \
         there is nothing",
        dir.display()
    )]
    Foreign {
        /// The directory, which is no data directory.
        dir: PathBuf,
        /// The name of one of its entries, escaped.
        entry: String,
    },
    /// A newer program has migrated the store. No record was changed.
    #[error(
        "the data in {} has schema {found} and this program knows schemas up to {}: start a newer \
         program",
        dir.display(), NEWEST
    )]
    NewerSchema {
        /// The data directory.
        dir: PathBuf,
        /// The schema number of the store, higher than any that this program knows.
        found: u32,
    },
    /// A daemon has to migrate the store first. Nothing was changed.
    #[error(
        "the data in {} has schema {found} and this reads schema {}: start the daemon once, which \
         brings it up to date",
        dir.display(), NEWEST
    )]
    OlderSchema {
        /// The data directory.
        dir: PathBuf,
        /// The schema number of the store, lower than that of this program.
        found: u32,
    },
    /// It is not a directory, or permissions forbid its use. Nothing was changed.
    #[error("the data directory {} cannot be used: {reason}", dir.display())]
    Directory {
        /// The path that was given as the data directory.
        dir: PathBuf,
        /// The error of the operating system, or what is missing.
        reason: String,
    },
    /// The files contradict each other, or synced writes are missing. Nothing was removed, but sled
    /// may have cleared what it could not read behind the damage. This is the only case in which
    /// setting the whole directory aside can help.
    #[error("the data in {} is damaged: {reason}", dir.display())]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// The contradiction, in a few words.
        reason: String,
    },
    /// The store is read in a private copy, and the copy could not be made. Nothing was changed.
    #[error(
        "the data in {} is read in a private copy, which cannot be made in {}: {reason}; name \
         another place with --scratch DIR",
        dir.display(), scratch.display()
    )]
    Scratch {
        /// The data directory.
        dir: PathBuf,
        /// The folder in which the copy was to be made.
        scratch: PathBuf,
        /// The step that failed, with the error of the operating system.
        reason: String,
    },
    /// The operating system failed (space, memory, a device). Synced writes are still there.
    #[error("opening the data in {} failed: {reason}", dir.display())]
    Io {
        /// The data directory.
        dir: PathBuf,
        /// The step that failed, with the error of the operating system.
        reason: String,
    },
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(process) => write!(f, "process {process}"),
            None => write!(f, "another process"),
        }
    }
}

impl OpenError {
    pub(super) fn from_io(dir: &Path, doing: &str, error: &io::Error) -> Self {
        use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        let (dir, reason) = (dir.to_path_buf(), format!("{doing}: {error}"));
        match error.kind() {
            NotADirectory | PermissionDenied | ReadOnlyFilesystem => {
                OpenError::Directory { dir, reason }
            }
            _ => OpenError::Io { dir, reason },
        }
    }

    pub(super) fn from_schema(dir: &Path, error: SchemaError) -> Self {
        let of = dir.to_path_buf();
        match error {
            SchemaError::StoreFault(fault) => OpenError::from_fault(dir, fault),
            SchemaError::Newer(found) => OpenError::NewerSchema { dir: of, found },
            SchemaError::Older(found) => OpenError::OlderSchema { dir: of, found },
            // A store gets its schema before it gets its place, so this one has lost its contents.
            SchemaError::Lost => {
                let reason = "it has no readable schema version".into();
                OpenError::Damaged { dir: of, reason }
            }
        }
    }

    pub(super) fn from_fault(dir: &Path, fault: StoreFault) -> Self {
        let dir = dir.to_path_buf();
        match fault {
            StoreFault::Corrupt(reason) => OpenError::Damaged { dir, reason },
            StoreFault::Io(reason) => OpenError::Io { dir, reason },
            StoreFault::Locked => OpenError::InUse { dir, holder: None },
        }
    }
}

impl From<StoreFault> for StoreError {
    fn from(fault: StoreFault) -> Self {
        StoreError(match fault {
            StoreFault::Corrupt(reason) => format!("its files are damaged: {reason}"),
            StoreFault::Io(reason) => reason,
            StoreFault::Locked => "its files are locked by another process".into(),
        })
    }
}
