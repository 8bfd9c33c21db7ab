//! Schema 4: a commit log. Frozen: this file and its copies of the types never change again.
//!
//! Beside the data lies the file `COMMITS`, with writes that the tree may not have yet. `1 log` is
//! a small record of 8 bytes: the id of that log, which is made when a store of schema 4 is opened
//! that does not have one. `1 write` is the last write that the tree itself has; behind it the log
//! goes on.
//!
//! A store of schema 3 has no log, whether it was stopped cleanly or not, and nothing else has
//! changed: the step writes nothing but the version. It is there so that a program of schema 3,
//! which would not read the log, refuses the data.

use super::{Batch, Sled, StoreFault};

/// Makes a store of schema 3 one of schema 4.
pub(super) fn migrate(_: &Sled) -> Result<Batch, StoreFault> {
    Ok(Batch::default())
}
