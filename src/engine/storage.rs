//! The store's three threads: the only writer, which also lists and watches the free space, a
//! reader for clients and one for background work.

mod reading;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use pixii_core::node::{Done, ReadToken, ScanToken, Shortage, SyncSeq, Work};
use pixii_core::store::{Change, Span, Store, StoreError, hint_bytes};
use pixii_core::types::{Key, Micros, NodeId, Partition};
use tokio::sync::mpsc::UnboundedSender;

use super::gauges::Gauges;
use super::space::Space;
use super::stall::{Progress, Threads};
use reading::{Reader, Scanner};

/// A batch takes no more once it has this many changes or bytes: beyond it, sled gains little.
const BATCH_CHANGES: usize = 128;
const BATCH_BYTES: u64 = 1 << 20;
/// Intervals at which an idle writer checks the free space and whether the disk takes writes: while
/// something is wrong, and while nothing is.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
const CALM_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Interval at which the size of the store is measured.
const MEASURE: Duration = Duration::from_secs(1);

/// Reports of the threads to the engine. There are about as many as work was submitted, so the
/// channel back needs no bound.
#[derive(Debug)]
pub(super) enum Report {
    /// The result of one piece of work other than a read.
    Done(Done),
    /// Reads that were submitted together: one wake-up of the engine for all of them.
    Reads(Vec<Done>),
    /// Every write up to `seq` is durable.
    Synced { seq: SyncSeq, changes: usize, took: Duration },
    /// The free space went below the reserve, changed while below, or there is room again.
    Space(Option<Shortage>),
    /// A segment of the log was read off the disk and is as it was written.
    Scrubbed,
    /// The data on the disk is damaged, in a few words.
    Damaged(String),
    /// The store failed; the thread that saw it has ended.
    Failed(StoreError),
}

/// A scan that waits for its thread.
struct Scan {
    token: ScanToken,
    partition: Partition,
    span: Span,
}

enum Lookup {
    Records(Vec<Wanted>),
    Hints { token: ReadToken, target: NodeId, after: Option<Key>, limit_bytes: usize },
}

struct Wanted {
    token: ReadToken,
    partition: Partition,
    key: Key,
    hints_for: Vec<NodeId>,
}

enum Job {
    Write { seq: SyncSeq, changes: Vec<Change>, bytes: u64 },
    List(List),
}

struct List {
    token: ReadToken,
    partition: Partition,
    after: Option<Key>,
    limit_bytes: usize,
}

/// The threads, and the ways to them.
#[derive(Debug)]
pub(super) struct Storage {
    jobs: Sender<Vec<Job>>,
    lookups: Sender<Lookup>,
    scans: Sender<Scan>,
    gauges: Arc<Gauges>,
    /// The current work of the writer and the reader.
    writing: Arc<Progress>,
    reading: Arc<Progress>,
    /// Delay added to every piece of work, in microseconds; 0 without emulation.
    delay: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), StoreError>>>,
}

impl Storage {
    /// Starts the threads; they work until [`Storage::finish`] or a failure, which they report. The
    /// writer first checks whether the disk has less free space than `reserve_bytes`.
    pub(super) fn start(
        store: &Arc<dyn Store>,
        gauges: Gauges,
        reserve_bytes: u64,
        reports: UnboundedSender<Report>,
    ) -> io::Result<Self> {
        let (jobs, queued) = channel();
        let (lookups, wanted) = channel();
        let (scans, spans) = channel();
        let (writing, reading) = (Arc::<Progress>::default(), Arc::<Progress>::default());
        let (gauges, delay) = (Arc::new(gauges), Arc::<AtomicU64>::default());
        let disk = Disk { store: store.clone(), gauges: gauges.clone(), delay: delay.clone() };
        let (of_writer, progress) = (disk.clone(), writing.clone());
        let writer = spawn("store-writer", reports.clone(), move |reports| {
            let (space, ahead) = (Space::new(reserve_bytes), Vec::new().into_iter());
            Writer { disk: of_writer, queued, ahead, progress, space, reports }.run()
        })?;
        let reader = Reader { disk: disk.clone(), wanted, progress: reading.clone() };
        let reader = spawn("store-reader", reports.clone(), move |reports| reader.run(reports))?;
        let scanner = Scanner { disk, spans };
        let scanner = spawn("store-scanner", reports, move |reports| scanner.run(reports))?;
        let threads = vec![writer, reader, scanner];
        Ok(Storage { jobs, lookups, scans, gauges, writing, reading, delay, threads })
    }

    /// From now on every batch, look-up and scan takes this much longer: an emulated slow disk.
    pub(super) fn slow_down(&self, delay: Micros) {
        self.delay.store(delay.0, Ordering::Relaxed);
    }

    /// Hands the node's work over to the threads.
    pub(super) fn submit(&self, works: impl Iterator<Item = Work>) {
        let (mut jobs, mut wanted) = (Vec::new(), Vec::new());
        for work in works {
            match work {
                Work::Write { seq, changes } => {
                    let bytes = changes.iter().map(size).sum::<usize>() as u64;
                    self.gauges.unsynced_bytes.more(bytes);
                    jobs.push(Job::Write { seq, changes, bytes });
                }
                Work::List { token, partition, after, limit_bytes } => {
                    jobs.push(Job::List(List { token, partition, after, limit_bytes }));
                }
                Work::Read { token, partition, key, hints_for } => {
                    wanted.push(Wanted { token, partition, key, hints_for });
                }
                Work::Scan { token, partition, span } => {
                    self.gauges.scans.more(1);
                    let _ = self.scans.send(Scan { token, partition, span });
                }
                Work::Hints { token, target, after, limit_bytes } => {
                    let lookup = Lookup::Hints { token, target, after, limit_bytes };
                    self.gauges.reads.more(1);
                    let _ = self.lookups.send(lookup);
                }
            }
        }
        // A thread that has ended has reported why.
        if !wanted.is_empty() {
            self.gauges.reads.more(wanted.len() as u64);
            let _ = self.lookups.send(Lookup::Records(wanted));
        }
        if !jobs.is_empty() {
            let _ = self.jobs.send(jobs);
        }
    }

    /// How much the threads have to do, and what the disk has.
    pub(super) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// The current work of the threads that write and read.
    pub(super) fn progress(&self) -> Threads<'_> {
        Threads { writer: &self.writing, reader: &self.reading }
    }

    /// Returns when all submitted work is done and the threads have ended.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        let Storage { jobs, lookups, scans, threads, .. } = self;
        drop((jobs, lookups, scans));
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

/// What all threads share.
#[derive(Clone)]
struct Disk {
    store: Arc<dyn Store>,
    gauges: Arc<Gauges>,
    /// Delay added to every piece of work, in microseconds; 0 without emulation.
    delay: Arc<AtomicU64>,
}

impl Disk {
    /// Sleeps for the delay of the emulated disk.
    fn linger(&self) {
        match self.delay.load(Ordering::Relaxed) {
            0 => {}
            delay => thread::sleep(Duration::from_micros(delay)),
        }
    }
}

/// The only one that writes: everything queued becomes one batch and one sync.
struct Writer<'a> {
    disk: Disk,
    queued: Receiver<Vec<Job>>,
    /// Jobs that were taken from the queue and are not done.
    ahead: std::vec::IntoIter<Job>,
    progress: Arc<Progress>,
    space: Space,
    reports: &'a Reports,
}

impl Writer<'_> {
    /// Works until all senders of jobs are gone.
    fn run(mut self) -> Result<(), StoreError> {
        self.look()?;
        while let Some(first) = self.first()? {
            self.progress.begin();
            let (mut batch, mut lists) = (Batch::default(), Vec::new());
            let mut next = Some(first);
            while let Some(job) = next {
                match job {
                    Job::Write { seq, changes, bytes } => batch.add(seq, changes, bytes),
                    Job::List(list) => lists.push(list),
                }
                next = if batch.is_full() { None } else { self.more() };
            }
            if let Some(seq) = batch.seq {
                self.look()?;
                let (begun, changes) = (Instant::now(), batch.changes.len());
                self.disk.linger();
                self.disk.store.apply(&batch.changes)?;
                self.disk.store.sync()?;
                self.disk.gauges.unsynced_bytes.less(batch.bytes);
                let took = begun.elapsed();
                let _ = self.reports.send(Report::Synced { seq, changes, took });
            }
            for List { token, partition, after, limit_bytes } in lists {
                self.progress.begin();
                let listing = self.disk.store.list(partition, after.as_ref(), limit_bytes)?;
                let _ = self.reports.send(Report::Done(Done::List { token, listing }));
            }
        }
        Ok(())
    }

    /// Waits for the next job; `None` when there will be no more.
    fn first(&mut self) -> Result<Option<Job>, StoreError> {
        loop {
            if let Some(job) = self.ahead.next() {
                return Ok(Some(job));
            }
            self.progress.end();
            let calm = !self.space.is_short() && !self.progress.was_slow();
            let timeout = if calm { CALM_CHECK_INTERVAL } else { CHECK_INTERVAL };
            match self.queued.recv_timeout(timeout) {
                Ok(jobs) => self.ahead = jobs.into_iter(),
                Err(RecvTimeoutError::Timeout) => {
                    self.progress.begin();
                    self.disk.linger();
                    self.disk.store.probe()?;
                    self.look()?;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    /// A job that is already queued.
    fn more(&mut self) -> Option<Job> {
        if self.ahead.len() == 0 {
            self.ahead = self.queued.try_recv().ok()?.into_iter();
        }
        self.ahead.next()
    }

    /// Checks the free space, less what is on its way to the disk, and reports changes.
    fn look(&mut self) -> Result<(), StoreError> {
        let coming = self.disk.gauges.unsynced_bytes.get();
        let Some(free) = self.disk.store.free_bytes(coming)? else { return Ok(()) };
        self.disk.gauges.free_bytes.set(free);
        if let Some(news) = self.space.look(free) {
            let _ = self.reports.send(Report::Space(news));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Batch {
    seq: Option<SyncSeq>,
    changes: Vec<Change>,
    bytes: u64,
}

impl Batch {
    fn add(&mut self, seq: SyncSeq, changes: Vec<Change>, bytes: u64) {
        self.seq = Some(seq);
        self.bytes += bytes;
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
        Change::Hint { key, record, .. } => {
            record.as_ref().map_or(0, |record| hint_bytes(key, record) as usize)
        }
        Change::GcState { gc_epoch, .. } => gc_epoch.bytes(),
        Change::Meta(_) | Change::Members(_) | Change::Ring(_) | Change::Forget { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use pixii_core::gc_epoch::GcState;
    use pixii_core::members::Members;
    use pixii_core::store::memory::MemoryStore;
    use pixii_core::store::{Found, HintPage, Kept, Listing, Meta, Record, ScanPage};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    /// A store that fails or panics at its n-th sync and counts its batches.
    #[derive(Default)]
    struct Faulty {
        inner: MemoryStore,
        syncs: AtomicUsize,
        fail_at: Option<usize>,
        panic: bool,
    }

    impl Store for Faulty {
        fn ring(&self) -> Result<Option<pixii_core::ring::Ring>, StoreError> {
            self.inner.ring()
        }

        fn meta(&self) -> Result<Option<Meta>, StoreError> {
            self.inner.meta()
        }
        fn read(&self, partition: Partition, key: &Key) -> Result<Found, StoreError> {
            self.inner.read(partition, key)
        }
        fn list(&self, p: Partition, a: Option<&Key>, l: usize) -> Result<Listing, StoreError> {
            self.inner.list(p, a, l)
        }
        fn scan(&self, partition: Partition, span: &Span) -> Result<ScanPage, StoreError> {
            self.inner.scan(partition, span)
        }
        fn members(&self) -> Result<Option<Members>, StoreError> {
            self.inner.members()
        }
        fn read_hint(&self, target: NodeId, key: &Key) -> Result<Found, StoreError> {
            self.inner.read_hint(target, key)
        }
        fn list_hints(
            &self,
            target: NodeId,
            after: Option<&Key>,
            limit_bytes: usize,
        ) -> Result<HintPage, StoreError> {
            self.inner.list_hints(target, after, limit_bytes)
        }
        fn gc_epochs(&self) -> Result<Vec<(Partition, GcState)>, StoreError> {
            self.inner.gc_epochs()
        }
        fn hint_totals(&self, partition: &dyn Fn(&Key) -> Partition) -> Result<Kept, StoreError> {
            self.inner.hint_totals(partition)
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

    fn put(seq: u64, name: &str) -> Work {
        let change =
            Change::Record { partition: Partition(1), key: key(name), record: Record::default() };
        Work::Write { seq: SyncSeq(seq), changes: vec![change] }
    }

    #[test]
    fn what_is_queued_together_is_one_batch_and_lists_see_it() {
        let store = Arc::new(Faulty::default());
        let as_store: Arc<dyn Store> = store.clone();
        let (reports, mut reported) = unbounded_channel();
        let gauges = Gauges::measure(&*as_store).unwrap();
        let storage = Storage::start(&as_store, gauges, 0, reports).unwrap();
        let list = Work::List {
            token: ReadToken(9),
            partition: Partition(1),
            after: None,
            limit_bytes: 1 << 20,
        };
        let puts = (1..=300).map(|seq| put(seq, &format!("{seq:03}")));
        storage.submit(std::iter::once(list).chain(puts));
        assert_eq!((storage.gauges().disk_bytes.get(), storage.gauges().free_bytes()), (7, None));
        let gauges = storage.gauges.clone();
        storage.finish().unwrap();
        assert_eq!((gauges.unsynced_bytes.get(), gauges.reads.get()), (0, 0));
        let (mut synced, mut listed) = (Vec::new(), 0);
        while let Ok(report) = reported.try_recv() {
            match report {
                Report::Synced { seq, changes, .. } => synced.push((seq.0, changes)),
                Report::Done(Done::List { token: ReadToken(9), listing }) => {
                    listed = listing.keys.len();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((synced, listed), (vec![(128, 128), (256, 128), (300, 44)], 128));
        assert_eq!(store.syncs.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_slow_disk_takes_its_time_for_each_batch_and_look_up_and_is_quick_again() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (reports, mut reported) = unbounded_channel();
        let gauges = Gauges::measure(&*store).unwrap();
        let storage = Storage::start(&store, gauges, 0, reports).unwrap();
        let slow = Duration::from_millis(30);
        let mut took = |delay: Duration, work: &dyn Fn()| {
            storage.slow_down(delay.into());
            let begun = Instant::now();
            work();
            assert!(reported.blocking_recv().is_some());
            begun.elapsed()
        };
        assert!(took(slow, &|| storage.submit(std::iter::once(put(1, "a")))) >= slow);
        let read = || Work::Read {
            token: ReadToken(1),
            partition: Partition(1),
            key: key("a"),
            hints_for: Vec::new(),
        };
        assert!(took(slow, &|| storage.submit(std::iter::once(read()))) >= slow);
        let scan = || {
            let span = Span { limit_bytes: 1, ..Span::default() };
            Work::Scan { token: ScanToken::default(), partition: Partition(1), span }
        };
        assert!(took(slow, &|| storage.submit(std::iter::once(scan()))) >= slow);
        took(Duration::ZERO, &|| storage.submit(std::iter::once(put(2, "b"))));
        storage.finish().unwrap();
    }

    #[test]
    fn a_failed_or_panicking_sync_acknowledges_nothing_and_is_the_last() {
        for (panic, stated) in [(false, "no space"), (true, "it panicked: the disk is on fire")] {
            let store = Arc::new(Faulty { fail_at: Some(2), panic, ..Faulty::default() });
            let as_store: Arc<dyn Store> = store.clone();
            let (reports, mut reported) = unbounded_channel();
            let gauges = Gauges::measure(&*as_store).unwrap();
            let storage = Storage::start(&as_store, gauges, 0, reports).unwrap();
            storage.submit((1..=300).map(|seq| put(seq, &format!("{seq:03}"))));
            assert_eq!(storage.finish(), Err(StoreError(stated.to_owned())));
            assert!(matches!(reported.try_recv(), Ok(Report::Synced { seq: SyncSeq(128), .. })));
            let failed = reported.try_recv();
            assert!(matches!(&failed, Ok(Report::Failed(e)) if e.0 == stated), "{failed:?}");
            assert!(reported.try_recv().is_err());
            assert_eq!(store.syncs.load(Ordering::Relaxed), 2, "an fsync is never tried again");
        }
    }
}
