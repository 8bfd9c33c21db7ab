//! How much the store's threads have to do, and what the disk has: recognised by them as they go,
//! so that who asks for it waits for none of them.

use std::sync::atomic::{AtomicU64, Ordering};

use pixii_core::store::{Store, StoreError};

/// Stands for free space that is not known.
const UNKNOWN: u64 = u64::MAX;

/// A number that one thread changes and another one reads.
#[derive(Debug)]
pub(super) struct Level(AtomicU64);

impl Level {
    /// The number now.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// From now on it is this.
    pub(super) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// So many more.
    pub(super) fn more(&self, many: u64) {
        self.0.fetch_add(many, Ordering::Relaxed);
    }

    /// So many less.
    pub(super) fn less(&self, many: u64) {
        self.0.fetch_sub(many, Ordering::Relaxed);
    }
}

/// What the threads have before them, and what the disk has.
#[derive(Debug)]
pub(super) struct Gauges {
    /// Bytes that were submitted and are not synced yet.
    pub(super) unsynced_bytes: Level,
    /// Reads of records, and lists of hints, that wait for the reader or are in progress.
    pub(super) reads: Level,
    /// The same of the background's reads.
    pub(super) scans: Level,
    /// Bytes that the store takes on disk, as of a second ago.
    pub(super) disk_bytes: Level,
    /// What the writer found when it looked last, within seconds.
    pub(super) free_bytes: Level,
}

impl Gauges {
    /// Measures a store that nothing is done with yet.
    pub(super) fn measure(store: &dyn Store) -> Result<Self, StoreError> {
        let level = |number| Level(AtomicU64::new(number));
        Ok(Gauges {
            unsynced_bytes: level(0),
            reads: level(0),
            scans: level(0),
            disk_bytes: level(store.disk_bytes()?),
            free_bytes: level(UNKNOWN),
        })
    }

    /// Bytes that are free on the disk; `None` for a store without one.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        Some(self.free_bytes.get()).filter(|bytes| *bytes != UNKNOWN)
    }
}
