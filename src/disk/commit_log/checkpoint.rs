//! Bringing the tables to the tree, and room for what comes.
//!
//! Clients come first: a checkpoint applies one change after the other, because a batch of sled's
//! keeps every read waiting, and rests after each few of them for as long as the next table has
//! room. Each change is idempotent, and after each the tree alone is a store that can be read.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, Instant};

use super::device::Device;
use super::format::{Edit, FIRST_SEGMENT_AT};
use super::table::{Frozen, Table, Tables, entry_bytes, memory_of};
use super::{CommitLog, Limits, clear};
use crate::disk::guarded::{Batch, Sled, StoreFault};
use crate::disk::layout::{LAST_WRITE, meta_key, seal};
use crate::disk::space::LOG_PER_BYTE;

/// Bytes of a step beside its number of changes: chunks are long.
const STEP_BYTES: usize = 256 << 10;
/// Groups wait for a checkpoint once the active table is ahead of it by this part of a table: each
/// a little, so that none has to wait for all of it.
const LEAD: f64 = 0.25;
/// How long a group waits for steps of a checkpoint, and how many times.
const STEP_TIMEOUT: Duration = Duration::from_millis(5);
const STEP_WAITS: usize = 8;
/// Changes or bytes after which a checkpoint syncs the tree where sled's files are not written
/// through. There sled writes over a segment of its log once what was in it is written elsewhere,
/// whether that is durable or not.
const SYNC_CHANGES: usize = 128;
const SYNC_BYTES: usize = 256 << 10;
/// Bytes after which it does so where they are written through. Until then sled may have them in
/// memory only, and the space for them is taken before.
const FLUSH_BYTES: usize = 1 << 20;
/// How often a checkpoint that lacks space looks for it.
const SPACE_BACKOFF: Duration = Duration::from_millis(500);
/// How long the free space that was seen last counts, and for how many more bytes in the tables.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const LOOK_BYTES: usize = 128 << 10;
/// A table takes one part in so many of the free space, so that a checkpoint has room enough.
const FREE_PER_TABLE: u64 = 64;
/// But at least so many bytes.
const MIN_TABLE_BYTES: usize = 128 << 10;
/// Segments that the log grows by at once: an append waits until they are written.
const MORE_SEGMENTS: u32 = 16;
/// The log grows only where so many times as much space is free.
const FREE_PER_GROWTH: u64 = 64;

/// What the writer, the readers and the thread of the checkpoints share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) sled: Sled,
    pub(super) device: Arc<dyn Device>,
    log: Mutex<CommitLog>,
    tables: RwLock<Tables>,
    limits: Limits,
    segment_bytes: usize,
    /// The last write up to which the tree has everything, synced.
    applied: AtomicU64,
    /// Segments that the log may use.
    segments: AtomicU32,
    /// A table of so many bytes is full.
    table_bytes: AtomicUsize,
    /// The log was too short for a full table.
    is_log_short: AtomicBool,
    turn: Mutex<Progress>,
    turned: Condvar,
    look: Mutex<Option<Look>>,
}

/// What the checkpoints are at.
#[derive(Debug, Default)]
struct Progress {
    /// There is a frozen table.
    is_due: bool,
    /// The part of it that the tree has, from 0 to 1.
    done: f64,
    /// Somebody waits for it.
    hurries: bool,
    /// The disk has no room for it.
    lacks_space: bool,
    /// The thread is to end, at once.
    stops: bool,
    /// The thread has ended.
    has_ended: bool,
}

/// The free space as it was seen last.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    /// Bytes that the tables had, and that were on their way to them.
    in_tables: usize,
    free: u64,
}

impl Shared {
    /// `table` has the changes that the replay of the log found.
    pub(super) fn new(
        sled: Sled,
        device: Arc<dyn Device>,
        log: CommitLog,
        table: Table,
        limits: Limits,
    ) -> Result<Self, StoreFault> {
        let segments = log.segments().map_err(|error| sled.fail(error.into()))?;
        let segment_bytes = log.segment_bytes();
        let applied = super::last_write(&sled)?;
        Ok(Shared {
            sled,
            device,
            log: Mutex::new(log),
            tables: RwLock::new(Tables { active: table, frozen: None }),
            limits,
            segment_bytes,
            applied: AtomicU64::new(applied),
            segments: AtomicU32::new(segments),
            table_bytes: AtomicUsize::new(limits.table_bytes),
            is_log_short: AtomicBool::new(false),
            turn: Mutex::default(),
            turned: Condvar::new(),
            look: Mutex::default(),
        })
    }

    pub(super) fn log(&self) -> MutexGuard<'_, CommitLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, Progress> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    /// Segments that the log may use.
    pub(super) fn segments(&self) -> u32 {
        self.segments.load(Ordering::SeqCst)
    }

    /// Bytes of the longest record that goes through the log.
    pub(super) fn longest_record(&self) -> usize {
        let of_log = self.segments() as usize * self.segment_bytes / 4;
        of_log.min(self.limits.table_bytes / 2)
    }

    /// Ends the thread of the checkpoints, which may leave one unfinished.
    pub(super) fn stop(&self) {
        self.turn().stops = true;
        self.turned.notify_all();
    }

    /// Waits until log and tables have room for these changes. A full table is frozen before, so
    /// that the next one fills while that is on its way.
    pub(super) fn make_room(&self, log: &mut CommitLog, edits: &[Edit]) -> Result<(), StoreFault> {
        let memory = memory_of(edits);
        self.keep_pace();
        loop {
            log.retire(self.applied());
            let (active, both, is_frozen) = {
                let tables = self.tables();
                (tables.active.bytes(), tables.bytes(), tables.frozen.is_some())
            };
            let segments = self.segments();
            let fits = both == 0 || both + memory <= 2 * self.limits.table_bytes;
            let has_segments = log.wants_segments(edits) + log.live_segments() <= segments;
            let table_is_full = active + memory > self.table_bytes.load(Ordering::SeqCst);
            let log_is_half_full = 2 * log.live_segments() >= segments;
            if active > 0 && !is_frozen && (table_is_full || log_is_half_full) {
                self.is_log_short.fetch_or(!table_is_full, Ordering::SeqCst);
                self.freeze(log)?;
            } else if fits && has_segments {
                return Ok(());
            } else if is_frozen || active > 0 {
                if !is_frozen {
                    self.freeze(log)?;
                }
                self.wait(false)?;
            } else {
                // The segment that is begun is all that is left of the log.
                log.leave_segment();
            }
        }
    }

    /// Waits a little where the active table fills faster than the frozen one gets to the tree.
    fn keep_pace(&self) {
        let filled = self.filled() - LEAD;
        let mut turn = self.turn();
        for _ in 0..STEP_WAITS {
            if !turn.is_due || turn.done >= filled || turn.lacks_space || turn.has_ended {
                return;
            }
            let waited = self.turned.wait_timeout(turn, STEP_TIMEOUT);
            turn = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How full the active table is: 1 when it is.
    fn filled(&self) -> f64 {
        let full = self.table_bytes.load(Ordering::SeqCst).max(1);
        self.tables().active.bytes() as f64 / full as f64
    }

    /// Hands the active table to the thread. The tree gets only what the log has synced.
    pub(super) fn freeze(&self, log: &mut CommitLog) -> Result<(), StoreFault> {
        log.sync().map_err(|error| self.sled.fail(error.into()))?;
        let mut tables = self.tables_mut();
        let table = std::mem::take(&mut tables.active);
        tables.frozen = Some(Arc::new(Frozen { table, seq: log.synced }));
        let mut turn = self.turn();
        (turn.is_due, turn.done) = (true, 0.0);
        drop((turn, tables));
        self.turned.notify_all();
        Ok(())
    }

    /// Waits until no table is frozen; false if the disk has no room for it and that is `enough`.
    fn wait(&self, gives_up: bool) -> Result<bool, StoreFault> {
        let mut turn = self.turn();
        while turn.is_due {
            self.sled.check()?;
            if turn.has_ended {
                return Err(self.sled.fail(StoreFault::Io("the checkpoints have ended".into())));
            }
            if gives_up && turn.lacks_space {
                return Ok(false);
            }
            turn.hurries = true;
            self.turned.notify_all();
            turn = self.turned.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        turn.hurries = false;
        drop(turn);
        self.sled.check().map(|()| true)
    }

    /// Brings everything to the tree, synced; false if the disk has no room for it and the caller
    /// `gives_up` then.
    fn drain(&self, log: &mut CommitLog, gives_up: bool) -> Result<bool, StoreFault> {
        loop {
            if !self.wait(gives_up)? {
                return Ok(false);
            }
            if self.tables().active.is_empty() {
                return Ok(true);
            }
            self.freeze(log)?;
        }
    }

    /// Syncs the log, and brings everything to the tree if the disk has room for that.
    pub(super) fn drain_for_close(&self) -> Result<(), StoreFault> {
        self.sled.check()?;
        let mut log = self.log();
        log.sync().map_err(|error| self.sled.fail(error.into()))?;
        self.drain(&mut log, true).map(|_| ())
    }

    /// A write that is longer than the log can take goes to the tree, which has everything else by
    /// then, and is synced before anything else happens.
    pub(super) fn apply_directly(
        &self,
        log: &mut CommitLog,
        edits: Vec<Edit>,
        seq: u64,
    ) -> Result<(), StoreFault> {
        log.sync().map_err(|error| self.sled.fail(error.into()))?;
        self.drain(log, false)?;
        let mut batch = Batch::default();
        for (place, value) in edits {
            match value {
                Some(value) => batch.insert(place, &value[..]),
                None => batch.remove(place),
            }
        }
        batch.insert(meta_key(LAST_WRITE), seal(LAST_WRITE, &seq.to_be_bytes()));
        self.sled.apply(batch)?;
        self.sled.sync()?;
        log.pass_over(seq);
        self.applied.store(seq, Ordering::SeqCst);
        Ok(())
    }

    /// See [`super::LoggedTree::free_beside`]. Asks the file system only now and then.
    pub(super) fn free_beside(&self, coming_bytes: u64) -> Result<u64, StoreFault> {
        self.sled.check()?;
        let in_tables = self.tables().bytes();
        let coming = usize::try_from(coming_bytes).unwrap_or(usize::MAX);
        let coming = in_tables.saturating_add(coming);
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = *look
            && last.at.elapsed() < LOOK_INTERVAL
            && coming.saturating_sub(last.in_tables) < LOOK_BYTES
            && last.free > 0
        {
            return Ok(last.free);
        }
        let all = self.sled.free_beside(coming_bytes)?;
        let most = self.limits.table_bytes;
        let table = usize::try_from(all / FREE_PER_TABLE).unwrap_or(usize::MAX);
        self.table_bytes.store(table.max(MIN_TABLE_BYTES).min(most), Ordering::SeqCst);
        let free = all.saturating_sub((in_tables as u64).saturating_mul(LOG_PER_BYTE));
        *look = Some(Look { at: Instant::now(), in_tables: coming, free });
        drop(look);
        if free <= all / 2 {
            let mut log = self.log();
            let waits = {
                let tables = self.tables();
                !tables.active.is_empty() && tables.frozen.is_none()
            };
            if waits {
                self.freeze(&mut log)?;
            }
        }
        Ok(free)
    }

    /// The thread of the checkpoints.
    pub(super) fn run_checkpoints(&self) {
        while self.await_turn() {
            let frozen = self.tables().frozen.clone();
            let done = frozen.map_or(Ok(true), |frozen| self.checkpoint(&frozen));
            match done {
                Ok(true) => {}
                // Whoever waits for it finds the fault.
                Ok(false) | Err(_) => break,
            }
            if self.is_log_short.swap(false, Ordering::SeqCst) && self.grow().is_err() {
                break;
            }
        }
        self.turn().has_ended = true;
        self.turned.notify_all();
    }

    /// Waits for a frozen table; false when the thread is to end.
    fn await_turn(&self) -> bool {
        let mut turn = self.turn();
        while !turn.is_due && !turn.stops {
            turn = self.turned.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        !turn.stops
    }

    /// Brings a frozen table to the tree; false if the thread is to end before that is done.
    fn checkpoint(&self, frozen: &Frozen) -> Result<bool, StoreFault> {
        let all = frozen.table.len().max(1);
        let (mut step, mut step_bytes, mut done) = (Vec::new(), 0, 0);
        // What was applied since the last sync.
        let (mut changes, mut bytes) = (0, 0);
        for (place, value) in frozen.table.in_order() {
            step.push((place.as_slice(), value.as_deref()));
            step_bytes += entry_bytes(place, value.as_ref());
            if step.len() < self.limits.step_changes && step_bytes < STEP_BYTES {
                continue;
            }
            done += step.len();
            changes += step.len();
            bytes += std::mem::take(&mut step_bytes);
            if !self.step(std::mem::take(&mut step), bytes, done as f64 / all as f64)? {
                return Ok(false);
            }
            let is_long = match self.sled.writes_through() {
                true => bytes >= FLUSH_BYTES,
                false => changes >= SYNC_CHANGES || bytes >= SYNC_BYTES,
            };
            if is_long {
                self.sled.sync()?;
                (changes, bytes) = (0, 0);
            }
        }
        // The number comes last: with it the tree has all that is before.
        let (place, number) = (meta_key(LAST_WRITE), seal(LAST_WRITE, &frozen.seq.to_be_bytes()));
        step.push((&place, Some(&number)));
        if !self.step(step, bytes + step_bytes, 1.0)? {
            return Ok(false);
        }
        self.sled.sync()?;
        // From here on segments of the log may be written over.
        self.applied.store(frozen.seq, Ordering::SeqCst);
        let mut tables = self.tables_mut();
        let let_go = tables.frozen.take();
        // With the tables locked: the next one may be frozen as soon as there is room for it.
        self.turn().is_due = false;
        drop(tables);
        self.turned.notify_all();
        drop(let_go);
        Ok(true)
    }

    /// Applies a part, and rests while there is time; false if the thread is to end. `bytes` are
    /// those of the part and of what was applied since the last sync.
    fn step(
        &self,
        step: Vec<(&[u8], Option<&[u8]>)>,
        bytes: usize,
        done: f64,
    ) -> Result<bool, StoreFault> {
        // A segment of sled's that is begun must never want space.
        while !self.sled.has_room(bytes as u64)? {
            let mut turn = self.turn();
            turn.lacks_space = true;
            self.turned.notify_all();
            if turn.stops {
                return Ok(false);
            }
            let wait = self.turned.wait_timeout(turn, SPACE_BACKOFF);
            drop(wait.unwrap_or_else(PoisonError::into_inner));
        }
        let begun = Instant::now();
        self.sled.apply_each(step.into_iter())?;
        let filled = self.filled();
        let mut turn = self.turn();
        (turn.lacks_space, turn.done) = (false, done);
        if filled > done {
            // Groups wait for that.
            self.turned.notify_all();
        }
        if !turn.hurries && !turn.stops && filled < done {
            let rest = begun.elapsed() * self.limits.rest;
            let waited = self.turned.wait_timeout(turn, rest);
            turn = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(!turn.stops)
    }

    /// Gives the log more segments, written once and synced, where the disk has room for many more.
    fn grow(&self) -> Result<(), StoreFault> {
        let segments = self.segments();
        let more = self.limits.max_segments.saturating_sub(segments).min(MORE_SEGMENTS);
        let bytes = u64::from(more) * self.segment_bytes as u64;
        if more == 0 || self.sled.free_beside(0)? / FREE_PER_GROWTH < bytes {
            return Ok(());
        }
        let from = FIRST_SEGMENT_AT + u64::from(segments) * self.segment_bytes as u64;
        match clear(&*self.device, from, from + bytes).and_then(|()| self.device.sync()) {
            Ok(()) => {
                self.segments.store(segments + more, Ordering::SeqCst);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
            Err(error) => Err(self.sled.fail(error.into())),
        }
    }
}
