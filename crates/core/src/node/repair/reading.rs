//! Reading the partitions from disk: once after a start, to build the trees, and then slowly again
//! and again, to check the trees against the disk.

use super::super::merkle_trees::Verdict;
use crate::message::Counter;
use crate::node::ids::{ScanPurpose, ScanToken};
use crate::node::io::Io;
use crate::store::{Detail, ScanPage, Span};
use crate::types::{Key, Micros, Partition, Time};

/// Bytes of records read at a time, while no client waits for this node and while some do: a page
/// takes the thread that answers them, too.
const PAGE_BYTES: usize = 256 << 10;
const PAGE_BYTES_BESIDE_CLIENTS: usize = 64 << 10;
/// Pause between two pages in a scrub.
const IN_SCRUB: Micros = Micros::from_millis(50);
/// While clients wait, each page is followed by a pause of this many times the time that it took,
/// so that reading takes a tenth of one core.
const PAUSE_PER_READING: u64 = 9;
/// Bounds of such a pause.
const MIN_PAUSE: Micros = Micros::from_millis(5);
const MAX_PAUSE: Micros = Micros::from_millis(500);

/// Reads one partition after the other.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    partitions: Vec<Partition>,
    /// The number of partitions read in this round.
    next: usize,
    /// True while they are read for the first time.
    is_first: bool,
    /// Time from one partition's scrub to the next one's.
    pace: Micros,
    scrub_at: Option<Time>,
    current: Option<Partition>,
    token: Option<ScanToken>,
    /// When the page that is being read was requested.
    queried_at: Time,
    page_at: Time,
}

impl Reader {
    /// All `partitions` are read at once, and then again in the time `round`.
    pub(super) fn new(partitions: Vec<Partition>, round: Micros) -> Self {
        Reader {
            pace: round / partitions.len().max(1) as u64,
            partitions,
            next: 0,
            is_first: true,
            scrub_at: None,
            current: None,
            token: None,
            queried_at: Time::START,
            page_at: Time::START,
        }
    }

    /// These are the partitions from now on: those without a tree are read at once.
    pub(super) fn set_partitions(&mut self, now: Time, partitions: Vec<Partition>) {
        let round = self.pace * self.partitions.len().max(1) as u64;
        if self.current.is_some_and(|current| !partitions.contains(&current)) {
            (self.current, self.token) = (None, None);
        }
        self.partitions = partitions;
        self.next = self.next.min(self.partitions.len());
        self.pace(now, round);
    }

    /// From now on all partitions are read in the time `round`.
    pub(super) fn pace(&mut self, now: Time, round: Micros) {
        self.pace = round / self.partitions.len().max(1) as u64;
        self.scrub_at = self.scrub_at.map(|due| due.min(now + self.pace));
    }

    /// When the next page is due, if one is to be read.
    pub(super) fn next_wake(&self) -> Option<Time> {
        (self.token.is_none() && self.current.is_some()).then_some(self.page_at)
    }

    /// Requests the next page, unless one is being read or a pause has not ended.
    pub(super) fn tick(&mut self, now: Time, io: &mut Io) {
        if self.token.is_some() || now < self.page_at {
            return;
        }
        self.current = self.current.or_else(|| self.choose(now, io));
        let Some(partition) = self.current else { return };
        let after = io.local.trees.begin_page(partition);
        let limit_bytes = if io.local.is_busy() { PAGE_BYTES_BESIDE_CLIENTS } else { PAGE_BYTES };
        let span = Span { after, limit_bytes, detail: Detail::Digests, ..Span::default() };
        self.queried_at = now;
        self.token = Some(io.out.scan(ScanPurpose::Trees, partition, span));
    }

    fn choose(&mut self, now: Time, io: &mut Io) -> Option<Partition> {
        if self.is_first {
            while let Some(partition) = self.partitions.get(self.next) {
                self.next += 1;
                // Trees of a clean stop need not be built.
                if io.local.trees.tree(*partition).is_none() {
                    return Some(*partition);
                }
                io.out.count(Counter::TreesTakenOver);
            }
            self.is_first = false;
            io.out.count(Counter::TreesBuilt);
            // Shown even if it is 0.
            io.out.count_many(Counter::PartitionsReadAtStart, 0);
        }
        // What another ring has brought since, or what may be wrong.
        if let Some(unbuilt) = io.local.trees.first_unbuilt().or(io.local.trees.doubtful()) {
            return Some(unbuilt);
        }
        let due = *self.scrub_at.get_or_insert(now + self.pace);
        if due > now {
            return None;
        }
        self.scrub_at = Some(now + self.pace);
        self.next = (self.next + 1) % self.partitions.len().max(1);
        self.partitions.get(self.next).copied().filter(|partition| io.local.holds(*partition))
    }

    /// A page has been read, if this `token` names one. Returns its partition, and the damaged
    /// keys.
    pub(super) fn scanned(
        &mut self,
        now: Time,
        token: ScanToken,
        page: &ScanPage,
        io: &mut Io,
    ) -> Option<(Partition, Vec<Key>)> {
        let partition = self.current.filter(|_| self.token == Some(token))?;
        self.token = None;
        if !io.local.holds(partition) {
            // It has been released meanwhile.
            self.current = None;
            return None;
        }
        let reads = self.is_first || io.local.trees.first_unbuilt().is_some();
        self.page_at = match (reads, io.local.is_busy()) {
            (true, false) => now,
            (true, true) => {
                let took = now.saturating_since(self.queried_at);
                now + (PAUSE_PER_READING * took).clamp(MIN_PAUSE, MAX_PAUSE)
            }
            (false, _) => now + IN_SCRUB,
        };
        io.out.count_many(Counter::RecordsScrubbed, (page.items.len() + page.damaged.len()) as u64);
        if let Some(verdict) = io.local.trees.page(partition, page) {
            self.current = None;
            match verdict {
                Verdict::Built => io.out.count(Counter::PartitionsReadAtStart),
                Verdict::Confirmed => io.out.count(Counter::TreesConfirmed),
                Verdict::Corrected { known: true } => io.out.count(Counter::TreesReadAnew),
                Verdict::Corrected { known: false } => io.out.count(Counter::TreesWrong),
            }
        }
        self.tick(now, io);
        Some((partition, page.damaged.clone()))
    }
}
