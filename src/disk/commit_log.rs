//! The commit log: one append and one `fdatasync` acknowledge a group of writes, before the tree
//! below has any of it.
//!
//! A record is one batch of changes. Records follow each other through segments of one file, which
//! are written over once the tree has all that is in them, synced. The file is written once before
//! it is used, so a sync changes no metadata of the file system. What a record must withstand, and
//! the states of a segment, are in `docs/internals/store.md`.

mod checkpoint;
mod device;
mod format;
mod logged;
mod replay;
mod table;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

pub(super) use self::format::Edit;
pub(super) use self::logged::{LoggedTree, Newer, floor_of, last_write};
use self::replay::Problem;

use self::device::Device;
use self::format::{
    FILE_HEAD_BYTES, FIRST_SEGMENT_AT, FileHead, RECORD_HEAD_BYTES, RecordHead, SEGMENT_HEAD_BYTES,
    SegmentHead, body_bytes, encode_body,
};

/// Bytes that wait in memory for the next sync, at most; more is written without a sync.
const PENDING_BYTES: usize = 1 << 20;
/// Bytes of zeros that are written at once.
const ZEROS: usize = 512 << 10;

/// Sizes of the commit log. [`Limits::default`] is what the daemon uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a segment, from 4 KiB to 64 MiB; those of a log that exists already stay.
    pub segment_bytes: u32,
    /// Segments that a log is created with, at least 4.
    pub min_segments: u32,
    /// Segments that it grows to where the disk has room.
    pub max_segments: u32,
    /// Bytes of memory that changes may take which are in the log only; as much again may be on its
    /// way to the tree.
    pub table_bytes: usize,
    /// Changes that are applied to the tree before it rests.
    pub step_changes: usize,
    /// How many times as long as they took it rests while there is time.
    pub rest: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            segment_bytes: 128 << 10,
            min_segments: 4,
            max_segments: 192,
            table_bytes: 8 << 20,
            step_changes: 64,
            rest: 3,
        }
    }
}

/// A segment that has records which the tree may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UsedSegment {
    slot: u32,
    /// Which use of the segment it is.
    number: u64,
    /// The last record that has bytes in it.
    last_seq: u64,
}

/// Bytes on their way to a place in the file.
#[derive(Debug)]
struct Run {
    at: u64,
    bytes: Vec<u8>,
}

/// The log as its only writer sees it.
#[derive(Debug)]
struct CommitLog {
    device: Arc<dyn Device>,
    head: FileHead,
    /// The oldest first.
    used: VecDeque<UsedSegment>,
    /// Where the next byte goes in the last used segment; `None` if the next record begins a new
    /// one.
    at: Option<usize>,
    /// The use of a segment in which the log ends, and where.
    end: (u64, u32),
    next_number: u64,
    /// The last record, whether it is synced or not.
    seq: u64,
    synced: u64,
    pending: Vec<Run>,
    pending_bytes: usize,
    /// True if something was written since the last sync.
    is_dirty: bool,
}

impl CommitLog {
    /// Makes an empty log in an empty file, whole and synced when this returns.
    fn create(device: &dyn Device, id: u64, limits: &Limits, base: u64) -> io::Result<()> {
        let head = FileHead { id, segment_bytes: limits.segment_bytes, base };
        let bytes = u64::from(limits.segment_bytes) * u64::from(limits.min_segments);
        clear(device, 0, FIRST_SEGMENT_AT + bytes)?;
        device.write(0, &head.encode())?;
        device.sync()
    }

    /// Reads the log with this id, and shows `visit` each record behind `applied`, the last write
    /// that the tree has. `jump` is a random number: this opening numbers its segments so much
    /// further on. Of two openings whose segments all lost their heads in crashes, the second does
    /// not take the records of the first for its own.
    fn open(
        device: Arc<dyn Device>,
        id: u64,
        applied: u64,
        jump: u32,
        visit: &mut dyn FnMut(u64, Vec<Edit>),
    ) -> Result<Self, Problem> {
        let head = replay::file_head(&*device)?;
        let head = head.filter(|head| head.id == id).ok_or_else(|| {
            Problem::Damaged("the head of the commit log is damaged, or of another log".into())
        })?;
        let found = replay::replay(&*device, &head, applied, visit)?;
        // After a kill some of it may be in memory only.
        device.sync()?;
        let seq = found.last_seq.max(applied);
        Ok(CommitLog {
            device,
            head,
            used: found.used.into(),
            // Never behind a torn record: what is left of it could follow a new one of its length.
            at: None,
            end: found.end,
            next_number: found.next_number + u64::from(jump),
            seq,
            synced: seq,
            pending: Vec::new(),
            pending_bytes: 0,
            is_dirty: false,
        })
    }

    fn segment_bytes(&self) -> usize {
        self.head.segment_bytes as usize
    }

    /// Segments that the file has.
    fn segments(&self) -> io::Result<u32> {
        replay::segments(&*self.device, &self.head)
    }

    /// Lets go of segments that hold nothing but what the tree has, synced.
    fn retire(&mut self, applied: u64) {
        let kept = usize::from(self.at.is_some());
        while self.used.len() > kept && self.used.front().is_some_and(|s| s.last_seq <= applied) {
            self.used.pop_front();
        }
    }

    /// Segments that hold records.
    fn live_segments(&self) -> u32 {
        self.used.len() as u32
    }

    /// Segments that a record of these changes begins anew.
    fn wants_segments(&self, edits: &[Edit]) -> u32 {
        let room = self.at.map_or(0, |at| self.segment_bytes() - at);
        let room = if room < RECORD_HEAD_BYTES { 0 } else { room };
        let rest = (RECORD_HEAD_BYTES + body_bytes(edits)).saturating_sub(room);
        rest.div_ceil(self.segment_bytes() - SEGMENT_HEAD_BYTES) as u32
    }

    /// Adds a record; it is in the log after the next [`CommitLog::sync`]. There must be free
    /// segments for it among `segments`.
    fn append(&mut self, edits: &[Edit], seq: u64, applied: u64, segments: u32) -> io::Result<()> {
        debug_assert!(seq > self.seq, "sequence numbers go up");
        if self.at.is_none_or(|at| self.segment_bytes() - at < RECORD_HEAD_BYTES) {
            self.begin_segment(0, self.seq, applied, segments)?;
        }
        let mut record = vec![0; RECORD_HEAD_BYTES];
        let body_checksum = encode_body(self.head.id, edits, &mut record);
        let body_bytes = (record.len() - RECORD_HEAD_BYTES) as u32;
        let (number, before, synced) = (self.end.0, self.seq, self.synced);
        let head = RecordHead { body_checksum, body_bytes, number, seq, before, synced };
        record[..RECORD_HEAD_BYTES].copy_from_slice(&head.encode(self.head.id));
        self.seq = seq;
        let mut rest = &record[..];
        loop {
            let (at, used) = (self.at.unwrap_or_default(), self.used.back_mut());
            let Some(used) = used else { return Err(io::Error::other("no segment is open")) };
            used.last_seq = seq;
            let place =
                FIRST_SEGMENT_AT + u64::from(used.slot) * u64::from(self.head.segment_bytes);
            let piece = rest.len().min(self.segment_bytes() - at);
            self.put(place + at as u64, &rest[..piece]);
            self.at = Some(at + piece);
            self.end.1 = (at + piece) as u32;
            rest = &rest[piece..];
            if rest.is_empty() {
                break;
            }
            self.begin_segment(rest.len(), seq, applied, segments)?;
        }
        if self.pending_bytes >= PENDING_BYTES { self.write() } else { Ok(()) }
    }

    /// Goes on in a free segment, where `rest` bytes of the record `last_seq` come first.
    fn begin_segment(
        &mut self,
        rest: usize,
        last_seq: u64,
        applied: u64,
        segments: u32,
    ) -> io::Result<()> {
        let free = (0..segments).find(|slot| self.used.iter().all(|used| used.slot != *slot));
        let slot = free.ok_or_else(|| io::Error::other("the commit log has no free segment"))?;
        let (number, (before, ended_at)) = (self.next_number, self.end);
        let first = (SEGMENT_HEAD_BYTES + rest).min(self.segment_bytes()) as u32;
        let synced = self.synced;
        let head = SegmentHead { number, before, ended_at, first, last_seq, synced, applied };
        let place = FIRST_SEGMENT_AT + u64::from(slot) * u64::from(self.head.segment_bytes);
        self.put(place, &head.encode(self.head.id));
        self.next_number += 1;
        self.used.push_back(UsedSegment { slot, number, last_seq });
        self.at = Some(SEGMENT_HEAD_BYTES);
        self.end = (number, SEGMENT_HEAD_BYTES as u32);
        Ok(())
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.pending_bytes += bytes.len();
        match self.pending.last_mut() {
            Some(run) if run.at + run.bytes.len() as u64 == at => {
                run.bytes.extend_from_slice(bytes);
            }
            _ => self.pending.push(Run { at, bytes: bytes.to_vec() }),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        for run in self.pending.drain(..) {
            self.device.write(run.at, &run.bytes)?;
            self.is_dirty = true;
        }
        self.pending_bytes = 0;
        Ok(())
    }

    /// Returns when every record survives a power cut. Never called again after an error.
    fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if self.is_dirty {
            self.device.sync()?;
            self.is_dirty = false;
        }
        self.synced = self.seq;
        Ok(())
    }

    /// The next record begins a segment, and the one that is open may be written over.
    fn leave_segment(&mut self) {
        self.at = None;
    }

    /// Notes that the tree has the write `seq`, synced, which is not in the log.
    fn pass_over(&mut self, seq: u64) {
        debug_assert!(self.pending.is_empty() && !self.is_dirty, "the log was synced");
        (self.seq, self.synced) = (seq, seq);
        self.leave_segment();
    }
}

/// Writes zeros from `from` to `to`. They may be whatever was there before; they only have to be
/// written once.
fn clear(device: &dyn Device, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS];
    let mut at = from;
    while at < to {
        let piece = (to - at).min(ZEROS as u64) as usize;
        device.write(at, &zeros[..piece])?;
        at += piece as u64;
    }
    Ok(())
}

const _: () = assert!(FILE_HEAD_BYTES < FIRST_SEGMENT_AT as usize);

#[cfg(test)]
mod tests;
