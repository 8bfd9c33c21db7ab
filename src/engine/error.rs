//! Why a daemon could not start, or stopped by itself.

use std::io;
use std::path::PathBuf;

use pixii_core::store::{IncarnationError, StoreError};

use super::origin::Conflict;
use crate::disk::OpenError;

/// Why a daemon could not start, or stopped by itself. What was acknowledged is on the disk.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data is damaged, and it may be the only copy of this partition: it stays where it is.
    #[error("{0}; it was not set aside, because no other replica of partition {1} answers for it")]
    Shut(OpenError, u16),
    /// The store belongs to another node, or failed at the start.
    #[error("the data in {0} cannot be used: {1}")]
    IncarnationId(PathBuf, IncarnationError),
    /// The store failed: nothing has been acknowledged since.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same, of the store in this directory.
    #[error("{error} (data in {})", dir.display())]
    StoreIn {
        /// The data directory.
        dir: PathBuf,
        /// What failed.
        error: StoreError,
    },
    /// The port is taken, or the address is not one of this machine.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, io::Error),
    /// The operator has removed this node from its cluster; nothing was changed.
    #[error(
        "{0}; {1} is left as it is, and `pixii server --rejoin-empty` begins anew beside it, under \
         another name"
    )]
    Removed(String, PathBuf),
    /// Another daemon is this node, or may be; nothing was changed.
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// The system has no randomness, threads or descriptors to give.
    #[error("the system gave no {0}: {1}")]
    System(&'static str, io::Error),
}

impl From<Conflict> for ServeError {
    fn from(conflict: Conflict) -> Self {
        ServeError::Conflict(Box::new(conflict))
    }
}

impl ServeError {
    /// True when what was configured does not fit what is there, so that starting again cannot help
    /// before somebody has changed one of them.
    pub fn needs_operator(&self) -> bool {
        use OpenError::{Directory, Foreign, Format, NewerSchema};
        match self {
            ServeError::Open(error) => matches!(
                error,
                Directory { .. } | Foreign { .. } | Format { .. } | NewerSchema { .. }
            ),
            ServeError::Removed(..) | ServeError::Conflict(_) => true,
            ServeError::IncarnationId(_, error) => {
                matches!(
                    error,
                    IncarnationError::Identity(..)
                        | IncarnationError::Ring
                        | IncarnationError::Nothing(_)
                        | IncarnationError::Unplaced(_)
                )
            }
            _ => false,
        }
    }
}
