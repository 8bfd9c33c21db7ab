//! Reading the commit log: which records are there, where it ends, and whether it ends there
//! because a crash tore it or because bytes have changed.
//!
//! A record that is not whole ends the log, unless something behind it says that it was synced:
//! every head names the record up to which the log was synced when the head was made.

use std::collections::BTreeMap;
use std::io;

use super::device::Device;
use super::format::{
    Edit, FILE_HEAD_BYTES, FIRST_SEGMENT_AT, FileHead, RECORD_HEAD_BYTES, RecordHead,
    SEGMENT_HEAD_BYTES, SegmentHead, decode_body,
};
use super::{Limits, UsedSegment};

/// Why a log cannot be read.
#[derive(Debug)]
pub(in crate::disk) enum Problem {
    /// The operating system failed.
    Io(io::Error),
    /// Bytes have changed: what was synced is not there.
    Damaged(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Problem::Io(error)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// The segments with what was read, the oldest first.
    pub(super) used: Vec<UsedSegment>,
    /// The use of a segment in which the log ends, and where.
    pub(super) end: (u64, u32),
    pub(super) next_number: u64,
    /// The last record; 0 without one.
    pub(super) last_seq: u64,
}

/// The head of the file, or `None` if that is damaged or not there.
pub(super) fn file_head(device: &dyn Device) -> io::Result<Option<FileHead>> {
    let mut bytes = [0; FILE_HEAD_BYTES];
    let read = device.read(0, &mut bytes)?;
    Ok(FileHead::decode(&bytes[..read]))
}

/// Segments that the file has.
pub(super) fn segments(device: &dyn Device, head: &FileHead) -> io::Result<u32> {
    let bytes = device.length()?.saturating_sub(FIRST_SEGMENT_AT);
    Ok(u32::try_from(bytes / u64::from(head.segment_bytes)).unwrap_or(u32::MAX))
}

/// The last write that the tree must have, as far as the log knows; `None` without a readable head.
pub(in crate::disk) fn floor(device: &dyn Device) -> io::Result<Option<u64>> {
    let Some(head) = file_head(device)? else { return Ok(None) };
    let applied = heads(device, &head)?.into_values().map(|(_, head)| head.applied);
    Ok(Some(applied.fold(head.base, u64::max)))
}

type Heads = BTreeMap<u64, (u32, SegmentHead)>;

/// The segments that have a head, by the number of their use.
fn heads(device: &dyn Device, head: &FileHead) -> io::Result<Heads> {
    let mut heads = Heads::new();
    for slot in 0..segments(device, head)? {
        let mut bytes = [0; SEGMENT_HEAD_BYTES];
        let read = device.read(place(head, slot), &mut bytes)?;
        if let Some(found) = SegmentHead::decode(head.id, &bytes[..read]) {
            heads.insert(found.number, (slot, found));
        }
    }
    Ok(heads)
}

fn place(head: &FileHead, slot: u32) -> u64 {
    FIRST_SEGMENT_AT + u64::from(slot) * u64::from(head.segment_bytes)
}

/// Reads the log, and shows `visit` each record behind `applied`, the last write that the tree has.
pub(super) fn replay(
    device: &dyn Device,
    head: &FileHead,
    applied: u64,
    visit: &mut dyn FnMut(u64, Vec<Edit>),
) -> Result<Replayed, Problem> {
    let mut heads = heads(device, head)?;
    // Segments may have been begun whose heads a crash kept from the disk, and not their records.
    let newest = heads.last_key_value().map_or(0, |(number, _)| *number);
    let next_number = newest + u64::from(segments(device, head)?) + 1;
    // Of segments that hang in the air: what they say was synced, and the first of them.
    let mut torn = (0, 0);
    loop {
        let (chain, is_whole) = chain(&heads, applied);
        let mut reader = Reader::new(device, *head, &chain);
        if !chain.is_empty() && !is_whole {
            // A segment before it is missing. A crash may have kept it from the disk.
            torn = (torn.0.max(reader.synced_behind(0, 0)?), chain[0].1.number);
            for (_, found) in &chain {
                heads.remove(&found.number);
            }
            continue;
        }
        let mut found = Replayed::default();
        if !chain.is_empty() {
            reader.run(applied, visit)?;
            found = reader.found();
        }
        let (last, (synced, number)) = (found.last_seq.max(applied), torn);
        if synced > last {
            return Err(Problem::Damaged(format!(
                "the commit log lacks the segment before its segment {number}: it reads up to \
                 write {last}, and {synced} was synced"
            )));
        }
        return Ok(Replayed { next_number, ..found });
    }
}

/// The same for the log `id` that is damaged: every record that is whole, in order.
pub(super) fn salvage(
    device: &dyn Device,
    id: u64,
    applied: u64,
    visit: &mut dyn FnMut(u64, Vec<Edit>),
) -> io::Result<()> {
    let known = file_head(device)?.filter(|head| head.id == id);
    let segment_bytes = Limits::default().segment_bytes;
    let head = known.unwrap_or(FileHead { id, segment_bytes, base: 0 });
    let heads: Vec<(u32, SegmentHead)> = heads(device, &head)?.into_values().collect();
    let mut reader = Reader::new(device, head, &heads);
    let mut last = applied;
    for (index, (_, segment)) in heads.iter().enumerate() {
        reader.load(index)?;
        let mut at = SEGMENT_HEAD_BYTES;
        // What is behind the end was torn, and others have taken its numbers.
        let next = heads.iter().rev().find(|(_, later)| later.before == segment.number);
        let end = next.map_or(usize::MAX, |(_, later)| later.ended_at as usize);
        while let Some((begin, found)) = reader.next_head(at).filter(|(begin, _)| *begin < end) {
            at = begin + 1;
            if found.seq > last
                && let Some(body) = reader.body(begin, &found)?
                && let Some(edits) = decode_body(&body)
            {
                last = found.seq;
                visit(found.seq, edits);
            }
            reader.load(index)?;
        }
    }
    Ok(())
}

/// The segments from the newest back to where the tree has all that is before, the oldest first;
/// and whether none is missing.
fn chain(heads: &Heads, applied: u64) -> (Vec<(u32, SegmentHead)>, bool) {
    let mut chain = Vec::new();
    let mut next = heads.last_key_value().map(|(_, found)| *found);
    let mut is_whole = true;
    while let Some(found) = next {
        chain.push(found);
        if found.1.last_seq <= applied {
            break;
        }
        let before = heads.get(&found.1.before).filter(|_| found.1.before < found.1.number);
        is_whole = before.is_some();
        next = before.copied();
    }
    chain.reverse();
    (chain, is_whole)
}

/// Reads the records of a chain of segments, one after the other.
struct Reader<'a> {
    device: &'a dyn Device,
    head: FileHead,
    chain: &'a [(u32, SegmentHead)],
    /// The segment that is loaded, and where the next record begins in it.
    index: usize,
    at: usize,
    bytes: Vec<u8>,
    /// The last record that has bytes in each segment so far.
    last_seqs: Vec<u64>,
    last_seq: u64,
}

impl<'a> Reader<'a> {
    fn new(device: &'a dyn Device, head: FileHead, chain: &'a [(u32, SegmentHead)]) -> Self {
        let last_seqs = Vec::new();
        Reader { device, head, chain, index: 0, at: 0, bytes: Vec::new(), last_seqs, last_seq: 0 }
    }

    /// Reads a segment; one that is not what its head said is empty.
    fn load(&mut self, index: usize) -> io::Result<()> {
        let (slot, head) = self.chain[index];
        self.bytes.resize(self.head.segment_bytes as usize, 0);
        let read = self.device.read(place(&self.head, slot), &mut self.bytes)?;
        self.bytes[read..].fill(0);
        if SegmentHead::decode(self.head.id, &self.bytes) != Some(head) {
            self.bytes.fill(0);
        }
        self.index = index;
        Ok(())
    }

    /// Where the log ends in the segment that is loaded, if it goes on behind it.
    fn ended_at(&self) -> Option<usize> {
        self.chain.get(self.index + 1).map(|(_, next)| next.ended_at as usize)
    }

    fn run(&mut self, applied: u64, visit: &mut dyn FnMut(u64, Vec<Edit>)) -> Result<(), Problem> {
        let first = self.chain[0].1;
        (self.at, self.last_seq) = (first.first as usize, first.last_seq);
        self.load(0)?;
        self.last_seqs.push(first.last_seq);
        loop {
            if self.ended_at() == Some(self.at) {
                let next = self.chain[self.index + 1].1;
                // A record that goes on there was taken with the one before.
                if next.first as usize == SEGMENT_HEAD_BYTES && next.last_seq == self.last_seq {
                    self.load(self.index + 1)?;
                    (self.at, self.last_seqs) = (SEGMENT_HEAD_BYTES, self.pushed());
                    continue;
                }
                return self.torn_or_damaged(self.index, self.at);
            }
            let (index, at) = (self.index, self.at);
            match self.record()? {
                Some((seq, edits)) if seq > applied => visit(seq, edits),
                Some(_) => {}
                None => return self.torn_or_damaged(index, at),
            }
        }
    }

    fn pushed(&mut self) -> Vec<u64> {
        let mut last_seqs = std::mem::take(&mut self.last_seqs);
        last_seqs.push(self.last_seq);
        last_seqs
    }

    /// The record at the present place, if it is whole; the place is behind it then.
    fn record(&mut self) -> io::Result<Option<(u64, Vec<Edit>)>> {
        let (index, at) = (self.index, self.at);
        let number = self.chain[index].1.number;
        let rest = self.bytes.get(at..).unwrap_or_default();
        let head = RecordHead::decode(self.head.id, rest)
            .filter(|head| head.number == number && head.before == self.last_seq);
        let Some(head) = head.filter(|head| head.seq > head.before) else { return Ok(None) };
        let Some(edits) = self.body(at, &head)?.and_then(|body| decode_body(&body)) else {
            return Ok(None);
        };
        self.last_seq = head.seq;
        self.last_seqs[index] = head.seq;
        for _ in index..self.index {
            self.last_seqs = self.pushed();
        }
        Ok(Some((head.seq, edits)))
    }

    /// The content of the record whose head is at `at`, if it is whole. The place is behind it
    /// then.
    fn body(&mut self, at: usize, head: &RecordHead) -> io::Result<Option<Vec<u8>>> {
        let wanted = head.body_bytes as usize;
        let begin = at + RECORD_HEAD_BYTES;
        let end = (begin + wanted).min(self.bytes.len());
        let mut body = self.bytes[begin.min(end)..end].to_vec();
        if body.len() == wanted && self.ended_at().is_some_and(|ended_at| end > ended_at) {
            return Ok(None);
        }
        self.at = end;
        while body.len() < wanted {
            let Some((_, next)) = self.chain.get(self.index + 1) else { return Ok(None) };
            let rest = wanted - body.len();
            let first = (SEGMENT_HEAD_BYTES + rest).min(self.bytes.len());
            let goes_on = next.first as usize == first && next.last_seq == head.seq;
            if !goes_on || self.ended_at() != Some(self.bytes.len()) {
                return Ok(None);
            }
            self.load(self.index + 1)?;
            body.extend_from_slice(&self.bytes[SEGMENT_HEAD_BYTES..first]);
            self.at = first;
        }
        Ok(head.fits(self.head.id, &body).then_some(body))
    }

    /// What is at a place is no record: the log ends there, unless that was synced.
    fn torn_or_damaged(&mut self, index: usize, at: usize) -> Result<(), Problem> {
        let synced = self.synced_behind(index, at)?;
        if synced > self.last_seq {
            let (slot, place) = (self.chain[index].0, place(&self.head, self.chain[index].0));
            return Err(Problem::Damaged(format!(
                "a record at byte {} of the commit log, in segment {slot}, is damaged: the log \
                 reads up to write {}, and {synced} was synced",
                place + at as u64,
                self.last_seq
            )));
        }
        (self.index, self.at) = (index, at);
        self.last_seqs.truncate(index + 1);
        Ok(())
    }

    /// The highest record that a head behind this place says was synced.
    fn synced_behind(&mut self, index: usize, at: usize) -> io::Result<u64> {
        let mut synced = 0;
        for later in index..self.chain.len() {
            self.load(later)?;
            let mut from = if later == index { at } else { SEGMENT_HEAD_BYTES };
            if later > index || at == 0 {
                synced = synced.max(self.chain[later].1.synced);
            }
            while let Some((begin, head)) = self.next_head(from) {
                synced = synced.max(head.synced);
                from = begin + 1;
            }
        }
        Ok(synced)
    }

    /// The next head of a record in the segment that is loaded, from `from` on, and its place.
    fn next_head(&self, from: usize) -> Option<(usize, RecordHead)> {
        let number = self.chain[self.index].1.number;
        let last = self.bytes.len().checked_sub(RECORD_HEAD_BYTES)?;
        (from..=last).find_map(|at| {
            // Most bytes behind the end of a log are zeros.
            if self.bytes[at + 4] == 0 {
                return None;
            }
            let head = RecordHead::decode(self.head.id, &self.bytes[at..])?;
            (head.number == number).then_some((at, head))
        })
    }

    fn found(self) -> Replayed {
        let used = self.chain.iter().zip(&self.last_seqs).map(|((slot, head), last_seq)| {
            UsedSegment { slot: *slot, number: head.number, last_seq: *last_seq }
        });
        let end = (self.chain[self.index].1.number, self.at as u32);
        Replayed { used: used.collect(), end, next_number: 0, last_seq: self.last_seq }
    }
}
