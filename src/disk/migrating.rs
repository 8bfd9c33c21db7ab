//! Reporting the schema of a stopped store, and migrating it to the newest one.

use std::path::Path;

use pixii_core::store::StoreError;

use super::files::Directory;
use super::files::copy::PrivateCopy;
use super::layout::NEWEST;
use super::{DiskStore, Limits, OpenError, open_sled, refuse_noted, schema};

/// The schema of a stopped store, and the migrations to the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaReport {
    /// The schema number of the store.
    pub found: u32,
    /// The schema that this program reads and writes.
    pub newest: u32,
    /// The migrations between them: the schema that each leads to, and its subject.
    pub steps: Vec<(u32, &'static str)>,
}

/// Reports the schema of the store in `dir`, which no daemon may have open. Nothing in `dir` is
/// changed: a private copy within `scratch` is read. A schema that this program does not know is an
/// error, as at a daemon's start, and so is damage that was noted.
pub fn schema_of(dir: &Path, scratch: &Path, cache_bytes: u64) -> Result<SchemaReport, OpenError> {
    let copy = PrivateCopy::of(dir, scratch)?;
    report(Directory::claim_existing(copy.path())?, dir, cache_bytes)
}

/// The schema of a store that may be opened; `dir` names it in errors.
fn report(directory: Directory, dir: &Path, cache_bytes: u64) -> Result<SchemaReport, OpenError> {
    refuse_noted(&directory, dir)?;
    let sled = open_sled(&directory, dir, cache_bytes)?;
    let found = schema::found(&sled).map_err(|error| OpenError::from_schema(dir, error))?;
    sled.close().map_err(|fault| OpenError::from_fault(dir, fault))?;
    Ok(SchemaReport { found, newest: NEWEST, steps: schema::steps(found) })
}

/// Migrates the store in `dir`, which no daemon may have open, to the newest schema, as a daemon's
/// start does, and syncs it. Returns what there was to do. If it is interrupted, the next call
/// completes it.
pub fn migrate(dir: &Path, cache_bytes: u64) -> Result<SchemaReport, OpenError> {
    let report = report(Directory::claim_existing(dir)?, dir, cache_bytes)?;
    let claimed = Directory::claim_existing(dir)?;
    let limits = Limits::default();
    let store = DiskStore::open_claimed(claimed, dir, cache_bytes, limits, schema::migrate)?;
    let failed = |error: StoreError| OpenError::Io { dir: dir.to_path_buf(), reason: error.0 };
    store.close().map_err(failed)?;
    Ok(report)
}
