//! The queues of the store's threads, and the space on the disk. The threads update these numbers
//! as they work, so that reading them waits for no thread.

use std::sync::atomic::{AtomicU64, Ordering};

use pixii_core::store::{Store, StoreError};

/// The value of `free_bytes` while the free space is not known.
const UNKNOWN: u64 = u64::MAX;

/// A number that one thread changes and another one reads.
#[derive(Debug)]
pub(super) struct Level(AtomicU64);

impl Level {
    /// The current value; relaxed, so it may be a moment old.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    pub(super) fn more(&self, many: u64) {
        self.0.fetch_add(many, Ordering::Relaxed);
    }

    /// Lowers the value by an amount that was added before: it must not fall below 0.
    pub(super) fn less(&self, many: u64) {
        self.0.fetch_sub(many, Ordering::Relaxed);
    }
}

/// The work before the threads, and the space on the disk.
#[derive(Debug)]
pub(super) struct Gauges {
    /// Bytes that were submitted and are not synced yet.
    pub(super) unsynced_bytes: Level,
    /// Reads of records, and lists of hints, that wait for the reader or are in progress.
    pub(super) reads: Level,
    /// Reads of background work that wait for the scanner or are in progress.
    pub(super) scans: Level,
    /// Bytes that the store takes on disk, measured once a second.
    pub(super) disk_bytes: Level,
    /// Free bytes when the writer looked last, seconds ago at most; [`UNKNOWN`] before.
    pub(super) free_bytes: Level,
}

impl Gauges {
    /// Measures a store that is not in use yet.
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

    /// Bytes that are free on the disk; `None` if that is not known, or the store has no disk.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        Some(self.free_bytes.get()).filter(|bytes| *bytes != UNKNOWN)
    }
}
