//! Which keys there are while a load inserts some: a key is chosen only once its insertion, and all
//! before it, have ended.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Keys by number, from 0 on.
pub(super) struct Population {
    next: AtomicU64,
    count: AtomicU64,
    /// Ended behind one that has not; no more than are in progress.
    ahead: Mutex<BTreeSet<u64>>,
}

impl Population {
    /// So many are there.
    pub(super) fn new(count: u64) -> Self {
        Population {
            next: AtomicU64::new(count),
            count: AtomicU64::new(count),
            ahead: Mutex::default(),
        }
    }

    /// How many are there.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The next new key.
    pub(super) fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Its insertion has ended, well or not.
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
