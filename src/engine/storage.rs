//! The store's two threads: the only writer, which also lists, and a reader.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use tokio::sync::mpsc::UnboundedSender;

use crate::node::{Done, Work};
use crate::store::{Change, Store, StoreError};
use crate::types::{Key, Partition};

/// A batch takes no more once it has this many changes or bytes: beyond it, sled gains little.
const BATCH_CHANGES: usize = 128;
const BATCH_BYTES: usize = 1 << 20;

/// What the threads tell the engine. As many as it submitted work, so that the way back needs no bound.
#[derive(Debug)]
pub(super) enum Report {
    /// Work is done.
    Done(Done),
    /// Bytes that the store takes on disk.
    DiskBytes(u64),
    /// The store failed; the thread that saw it has ended.
    Failed(StoreError),
}

enum Lookup {
    Record { token: u64, partition: Partition, key: Key },
    DiskBytes,
}

enum Job {
    Write { mark: u64, changes: Vec<Change> },
    List(List),
}

struct List {
    token: u64,
    partition: Partition,
    after: Option<Key>,
    limit_bytes: usize,
}

/// The threads, and the ways to them.
#[derive(Debug)]
pub(super) struct Storage {
    jobs: Sender<Vec<Job>>,
    lookups: Sender<Lookup>,
    threads: Vec<JoinHandle<Result<(), StoreError>>>,
}

impl Storage {
    /// Starts the threads; they work until [`Storage::finish`] or a failure, which they report.
    pub(super) fn start(
        store: &Arc<dyn Store>,
        reports: UnboundedSender<Report>,
    ) -> io::Result<Self> {
        let (jobs, queued) = channel();
        let (lookups, wanted) = channel();
        let (to_write, to_read) = (store.clone(), store.clone());
        let told = reports.clone();
        let writer = spawn("store-writer", reports, move |out| write(&*to_write, &queued, out))?;
        let reader = spawn("store-reader", told, move |out| read(&*to_read, &wanted, out))?;
        Ok(Storage { jobs, lookups, threads: vec![writer, reader] })
    }

    /// Hands over what the node wants done.
    pub(super) fn submit(&self, works: impl Iterator<Item = Work>) {
        let mut jobs = Vec::new();
        for work in works {
            match work {
                Work::Write { mark, changes } => jobs.push(Job::Write { mark, changes }),
                Work::List { token, partition, after, limit_bytes } => {
                    jobs.push(Job::List(List { token, partition, after, limit_bytes }));
                }
                Work::Read { token, partition, key } => {
                    // A thread that has ended has reported why.
                    let _ = self.lookups.send(Lookup::Record { token, partition, key });
                }
            }
        }
        if !jobs.is_empty() {
            let _ = self.jobs.send(jobs);
        }
    }

    /// Asks for the bytes on disk; one [`Report::DiskBytes`] follows.
    pub(super) fn ask_disk_bytes(&self) {
        let _ = self.lookups.send(Lookup::DiskBytes);
    }

    /// Returns when all that was submitted is done and the threads have ended.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        let Storage { jobs, lookups, threads } = self;
        drop((jobs, lookups));
        for thread in threads {
            thread
                .join()
                .map_err(|_| StoreError("a thread of the store panicked".to_owned()))??;
        }
        Ok(())
    }
}

type Reports = UnboundedSender<Report>;

fn spawn(
    name: &str,
    reports: Reports,
    body: impl FnOnce(&Reports) -> Result<(), StoreError> + Send + 'static,
) -> io::Result<JoinHandle<Result<(), StoreError>>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        let ended = catch_unwind(AssertUnwindSafe(|| body(&reports)));
        let ended = ended.unwrap_or_else(|panic| {
            Err(StoreError(format!("it panicked: {}", panic_text(panic.as_ref()))))
        });
        if let Err(error) = &ended {
            let _ = reports.send(Report::Failed(error.clone()));
        }
        ended
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

/// The writer: everything queued becomes one batch and one sync.
fn write(
    store: &dyn Store,
    queued: &Receiver<Vec<Job>>,
    reports: &Reports,
) -> Result<(), StoreError> {
    let mut ahead = Vec::new().into_iter();
    loop {
        let mut batch = Batch::default();
        let mut lists = Vec::new();
        while !batch.is_full() {
            let Some(job) = ahead.next() else {
                let idle = batch.mark.is_none() && lists.is_empty();
                let more = if idle { queued.recv().ok() } else { queued.try_recv().ok() };
                match more {
                    Some(jobs) => ahead = jobs.into_iter(),
                    None if idle => return Ok(()),
                    None => break,
                }
                continue;
            };
            match job {
                Job::Write { mark, changes } => batch.add(mark, changes),
                Job::List(list) => lists.push(list),
            }
        }
        if let Some(mark) = batch.mark {
            store.apply(&batch.changes)?;
            store.sync()?;
            let _ = reports.send(Report::Done(Done::Synced { mark }));
        }
        for List { token, partition, after, limit_bytes } in lists {
            let listing = store.list(partition, after.as_ref(), limit_bytes)?;
            let _ = reports.send(Report::Done(Done::List { token, listing }));
        }
    }
}

#[derive(Default)]
struct Batch {
    mark: Option<u64>,
    changes: Vec<Change>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, mark: u64, changes: Vec<Change>) {
        self.mark = Some(mark);
        self.bytes += changes.iter().map(size).sum::<usize>();
        self.changes.extend(changes);
    }

    fn is_full(&self) -> bool {
        self.changes.len() >= BATCH_CHANGES || self.bytes >= BATCH_BYTES
    }
}

fn size(change: &Change) -> usize {
    match change {
        Change::Record { key, record, .. } => {
            let values = record.object.values().map(|(_, version)| version.value.0.len());
            key.as_bytes().len() + values.sum::<usize>()
        }
        Change::Meta(_) => 0,
    }
}

fn read(store: &dyn Store, wanted: &Receiver<Lookup>, reports: &Reports) -> Result<(), StoreError> {
    while let Ok(lookup) = wanted.recv() {
        let report = match lookup {
            Lookup::Record { token, partition, key } => {
                Report::Done(Done::Read { token, found: store.read(partition, &key)? })
            }
            Lookup::DiskBytes => Report::DiskBytes(store.disk_bytes()?),
        };
        let _ = reports.send(report);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Found, Listing, Meta, Record};

    /// A store that fails or panics at its n-th sync and counts its batches.
    #[derive(Default)]
    struct Faulty {
        inner: MemoryStore,
        syncs: AtomicUsize,
        fail_at: Option<usize>,
        panic: bool,
    }

    impl Store for Faulty {
        fn meta(&self) -> Result<Option<Meta>, StoreError> {
            self.inner.meta()
        }
        fn read(&self, partition: Partition, key: &Key) -> Result<Found, StoreError> {
            self.inner.read(partition, key)
        }
        fn list(&self, p: Partition, a: Option<&Key>, l: usize) -> Result<Listing, StoreError> {
            self.inner.list(p, a, l)
        }
        fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
            self.inner.apply(changes)
        }
        fn sync(&self) -> Result<(), StoreError> {
            let nth = self.syncs.fetch_add(1, Ordering::Relaxed) + 1;
            if self.fail_at == Some(nth) {
                assert!(!self.panic, "the disk is on fire");
                return Err(StoreError("no space".to_owned()));
            }
            self.inner.sync()
        }
        fn disk_bytes(&self) -> Result<u64, StoreError> {
            Ok(7)
        }
    }

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes().to_vec()).unwrap()
    }

    fn put(mark: u64, name: &str) -> Work {
        let change =
            Change::Record { partition: Partition(1), key: key(name), record: Record::default() };
        Work::Write { mark, changes: vec![change] }
    }

    #[test]
    fn what_is_queued_together_is_one_batch_and_lists_see_it() {
        let store = Arc::new(Faulty::default());
        let as_store: Arc<dyn Store> = store.clone();
        let (reports, mut reported) = unbounded_channel();
        let storage = Storage::start(&as_store, reports).unwrap();
        let list =
            Work::List { token: 9, partition: Partition(1), after: None, limit_bytes: 1 << 20 };
        let puts = (1..=300).map(|mark| put(mark, &format!("{mark:03}")));
        storage.submit(std::iter::once(list).chain(puts));
        storage.ask_disk_bytes();
        storage.finish().unwrap();
        let (mut marks, mut listed, mut disk) = (Vec::new(), 0, 0);
        while let Ok(report) = reported.try_recv() {
            match report {
                Report::Done(Done::Synced { mark }) => marks.push(mark),
                Report::Done(Done::List { token: 9, listing }) => listed = listing.keys.len(),
                Report::DiskBytes(bytes) => disk = bytes,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((marks, listed, disk), (vec![128, 256, 300], 128, 7));
        assert_eq!(store.syncs.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_failed_or_panicking_sync_acknowledges_nothing_and_is_the_last() {
        for (panic, said) in [(false, "no space"), (true, "it panicked: the disk is on fire")] {
            let store = Arc::new(Faulty { fail_at: Some(2), panic, ..Faulty::default() });
            let as_store: Arc<dyn Store> = store.clone();
            let (reports, mut reported) = unbounded_channel();
            let storage = Storage::start(&as_store, reports).unwrap();
            storage.submit((1..=300).map(|mark| put(mark, &format!("{mark:03}"))));
            assert_eq!(storage.finish(), Err(StoreError(said.to_owned())));
            assert!(matches!(reported.try_recv(), Ok(Report::Done(Done::Synced { mark: 128 }))));
            let failed = reported.try_recv();
            assert!(matches!(&failed, Ok(Report::Failed(e)) if e.0 == said), "{failed:?}");
            assert!(reported.try_recv().is_err());
            assert_eq!(store.syncs.load(Ordering::Relaxed), 2, "an fsync is never tried again");
        }
    }
}
