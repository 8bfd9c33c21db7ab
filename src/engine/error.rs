//! Why a daemon could not start, or stopped by itself.

use std::io;
use std::path::PathBuf;

use pixii_core::store::{IncarnationError, StoreError};

use super::origin::Conflict;
use crate::disk::OpenError;

/// Why a daemon could not start, or stopped by itself. Acknowledged writes are on the disk.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data is damaged, and it may be the only copy of this partition, so it was not set aside.
    #[error("{0}; it was not set aside, because no other replica of partition {1} answers for it")]
    Shut(OpenError, u16),
    /// The store in this directory belongs to another node, or failed when the incarnation began.
    #[error("the data in {0} cannot be used: {1}")]
    IncarnationId(PathBuf, IncarnationError),
    /// The store failed: nothing has been acknowledged since.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store failed, and it is the one in this directory.
    #[error("{error} (data in {})", dir.display())]
    StoreIn {
        /// The data directory of the store.
        dir: PathBuf,
        /// The error of the store; nothing was acknowledged after it.
        error: StoreError,
    },
    /// The port is in use, or the address is not one of this machine.
    #[error("cannot listen on {0}: {1}")]
    Listen(String, io::Error),
    /// The operator has removed this node from its cluster; nothing was changed.
    #[error(
        "{0}; {1} is left as it is, and `pixii server --rejoin-empty` begins anew beside it, under \
         another name"
    )]
    Removed(String, PathBuf),
    /// Another daemon runs as this node, or may do so; nothing was changed.
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// The system gave no randomness, threads or descriptors.
    #[error("the system gave no {0}: {1}")]
    System(&'static str, io::Error),
}

impl From<Conflict> for ServeError {
    fn from(conflict: Conflict) -> Self {
        ServeError::Conflict(Box::new(conflict))
    }
}

impl ServeError {
    /// True when the configuration does not fit the data, so that another start fails as well until
    /// somebody changes one of them.
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
