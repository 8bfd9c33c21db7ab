//! Why a data directory is not opened, and what its operator is notified.

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
    /// Another process has it. Nothing was touched.
    #[error("the data directory {} is in use by {}", dir.display(), Holder(*holder))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that has it, when it has written its number.
        holder: Option<u32>,
    },
    /// Another format, or another version of ours. Nothing was touched.
    #[error(
        "the data directory {} has the format \"{found}\"; this program reads \"{}\"",
        dir.display(), files::FORMAT
    )]
    Format {
        /// The directory.
        dir: PathBuf,
        /// The beginning of its `FORMAT` file.
        found: String,
    },
    /// Something else lives there. Nothing was touched.
    #[error(
        "the directory {} holds \"{entry}\" and no FORMAT file: it is no data directory, and a \
         new one is made only where \
         there is nothing",
        dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of its entries.
        entry: String,
    },
    /// A newer program has migrated it. No record was touched.
    #[error(
        "the data in {} has schema {found} and this program knows schemas up to {}: start a newer \
         program",
        dir.display(), NEWEST
    )]
    NewerSchema {
        /// The directory.
        dir: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// A daemon has to migrate it first. Nothing was changed.
    #[error(
        "the data in {} has schema {found} and this reads schema {}: start the daemon once, which \
         brings it up to date",
        dir.display(), NEWEST
    )]
    OlderSchema {
        /// The directory.
        dir: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// It is no directory, or permissions forbid its use. Nothing was touched.
    #[error("the data directory {} cannot be used: {reason}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// Its files contradict themselves, or synced writes are missing. Nothing was removed, but sled
    /// may have cleared what it saw no sense in behind the damage. The only case in which setting
    /// the whole directory aside can help.
    #[error("the data in {} is damaged: {reason}", dir.display())]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// It is read in a private copy, and there is no place for that. Nothing was touched.
    #[error(
        "the data in {} is read in a private copy, which cannot be made in {}: {reason}; name \
         another place with --scratch DIR",
        dir.display(), scratch.display()
    )]
    Scratch {
        /// The directory.
        dir: PathBuf,
        /// Where the copy was to be.
        scratch: PathBuf,
        /// What failed.
        reason: String,
    },
    /// The operating system failed (space, memory, a device). What was synced is still there.
    #[error("opening the data in {} failed: {reason}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What failed.
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
            // A store is given its schema before its place: this one has lost its contents.
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
