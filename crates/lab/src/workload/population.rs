//! Which keys exist while a load inserts some: a key can be chosen only once its insertion, and all
//! insertions before it, have ended.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The keys that exist, numbered from 0.
pub(super) struct Population {
    next: AtomicU64,
    count: AtomicU64,
    /// Insertions that have ended behind one that has not; no more than are in flight.
    ahead: Mutex<BTreeSet<u64>>,
}

impl Population {
    /// A population of `count` keys.
    pub(super) fn new(count: u64) -> Self {
        Population {
            next: AtomicU64::new(count),
            count: AtomicU64::new(count),
            ahead: Mutex::default(),
        }
    }

    /// Number of keys that can be chosen: those in `0..count`.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The number of the next key to insert.
    pub(super) fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that the insertion of a key has ended, whatever its outcome.
    pub(super) fn end(&self, index: u64) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.insert(index);
        while ahead.remove(&self.count()) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_there_once_all_before_it_are() {
        let keys = Population::new(3);
        assert_eq!([keys.begin(), keys.begin(), keys.begin()], [3, 4, 5]);
        keys.end(4);
        assert_eq!(keys.count(), 3);
        keys.end(3);
        assert_eq!(keys.count(), 5);
        keys.end(5);
        assert_eq!(keys.count(), 6);
    }
}
