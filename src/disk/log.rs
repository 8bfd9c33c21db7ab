//! sled's log as it is on the device, read without sled: finds messages that fail their own
//! checksums.
//!
//! sled reads a page once and then keeps it in memory, so what a record shows says little about
//! the disk below it. And a log that is cut off in the middle opens as an older one. So each
//! segment is read here, after the kernel was asked to forget its copy.
//!
//! A segment is a header (CRC-32, its position in the log, a position that is stable) and messages
//! (CRC-32, kind, length, number of the segment, page, body), as sled 0.34.7 writes them
//! (`pagecache/logger.rs`). A segment in use is filled from its beginning; what lies behind its
//! last message is of an earlier use. Only the newest one may end early.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::Advice;

use super::layout::{LAST_WRITE, unseal_u64};

/// Size of a segment of sled's log, in bytes.
///
/// sled moves whatever is longer than a quarter of a segment to a file of its own in `blobs/`,
/// which it never fsyncs. That includes whole pages: a leaf of 17 values is rewritten as one item,
/// so with the default of 512 KiB sixteen values of 8 KiB are enough, and so are 256 keys of 1 KiB
/// in an index page. With 8 MiB the limit is 2 MiB: 62 values of 32 KiB, where a leaf splits above
/// 16. Merges of emptied leaves can in theory pile up more, so [`super::guarded::Sled::sync`] also
/// fsyncs what it finds in `blobs/`.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;

/// Bytes of the header of a segment.
pub(super) const HEADER_BYTES: usize = 20;
/// sled begins no message with less room than this before the end of a segment.
pub(super) const LONGEST_HEAD_BYTES: usize = 32;
/// sled stores a position as its exclusive or with this.
const MASK: u64 = 0x7fff_ffff_ffff_ffff;
/// The kind of a message that fills the rest of its segment.
const CAP: u8 = 2;
/// The kind of a message that has the position at which a batch ends.
const MANIFEST: u8 = 3;
/// Bytes of the sealed number of a write.
const NUMBER_BYTES: usize = 17;
/// The highest kind that exists.
const LAST_KIND: u8 = 11;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// Nothing was ever written there, or sled has cleared it.
    Blank,
    /// The segment begins at this position of the log.
    At(u64),
    /// Its checksum fails, or no segment can begin at its position.
    Broken,
}

/// A segment as it is on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) header: Header,
    /// Where the messages end. If `is_full`, at a cap or the end of the segment; else at the first
    /// byte that begins no whole message.
    pub(super) end: usize,
    pub(super) is_full: bool,
    /// The position at which the last batch that begins here ends.
    pub(super) batch_to: u64,
    bytes: Vec<u8>,
}

impl Segment {
    /// Reads a segment, by its number in the file.
    pub(super) fn read(file: &File, number: u64) -> io::Result<Self> {
        let from = number * SEGMENT_BYTES as u64;
        forget(file, from, SEGMENT_BYTES as u64)?;
        let mut bytes = vec![0; SEGMENT_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], from + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(Segment::of(bytes))
    }

    fn of(bytes: Vec<u8>) -> Self {
        let header = header(&bytes);
        let mut segment = Segment { header, end: HEADER_BYTES, is_full: false, batch_to: 0, bytes };
        if let Header::At(position) = header {
            segment.follow(position / SEGMENT_BYTES as u64);
        }
        segment
    }

    /// Follows the messages from the first to the last whole one.
    fn follow(&mut self, number: u64) {
        while self.end + LONGEST_HEAD_BYTES <= SEGMENT_BYTES {
            let rest = self.bytes.get(self.end..).unwrap_or_default();
            let Some(message) = Message::of(rest).filter(|message| message.segment == number)
            else {
                return;
            };
            if message.kind == MANIFEST
                && let Ok(to) = <[u8; 8]>::try_from(message.body)
            {
                self.batch_to = u64::from_le_bytes(to);
            }
            let (is_cap, length) = (message.kind == CAP, message.length);
            self.end += length;
            if is_cap {
                break;
            }
        }
        self.is_full = true;
    }

    /// True if nothing is missing that must be there; `newest` is the position of the newest
    /// segment.
    pub(super) fn is_whole(&self, newest: Option<u64>) -> bool {
        match self.header {
            Header::Blank => true,
            Header::Broken => false,
            Header::At(_) if self.is_full => true,
            // A crash may have cut it off anywhere. A caller that knows what was synced checks
            // further.
            Header::At(position) => newest == Some(position),
        }
    }

    /// True if the last batch that begins here ends behind the readable messages.
    pub(super) fn lacks_the_end_of_a_batch(&self) -> bool {
        match self.header {
            Header::At(position) => !self.is_full && self.batch_to >= position + self.end as u64,
            _ => false,
        }
    }

    /// True if it contains a message of a later use of the segment, behind the messages of its
    /// header.
    fn is_filled_again(&self) -> bool {
        let Header::At(position) = self.header else { return false };
        let later = |message: &Message| message.segment > position / SEGMENT_BYTES as u64;
        let kinds = 1..=LAST_KIND;
        (self.end..self.bytes.len()).any(|at| {
            let rest = &self.bytes[at..];
            rest.get(4).is_some_and(|kind| kinds.contains(kind))
                && Message::of(rest).as_ref().is_some_and(later)
        })
    }

    /// One sentence about a segment that is not whole.
    pub(super) fn what_is_wrong(&self, number: u64) -> String {
        let at = number * SEGMENT_BYTES as u64;
        match self.header {
            Header::Broken => format!("the header of a segment at byte {at} of sled/db is damaged"),
            _ => format!("a message at byte {} of sled/db is damaged", at + self.end as u64),
        }
    }

    /// True if one of its messages holds the number of this write or of a later one.
    pub(super) fn reaches(&self, write: u64) -> bool {
        let messages = self.bytes.get(HEADER_BYTES..self.end).unwrap_or_default();
        messages.windows(NUMBER_BYTES).any(|window| number_of_write(window, write))
    }
}

/// True for the sealed number of a write that is `write` or a later one. The numbers of one store
/// are near each other, so for others the checksum is not computed.
fn number_of_write(window: &[u8], write: u64) -> bool {
    let number = window.get(1..9).and_then(|bytes| bytes.first_chunk::<8>());
    let number = number.map_or(0, |number| u64::from_be_bytes(*number));
    (write..write.saturating_add(1 << 32)).contains(&number)
        && unseal_u64(LAST_WRITE, &Bytes::copy_from_slice(window)).is_some()
}

/// The header of a segment, without the rest.
pub(super) fn read_header(file: &File, number: u64) -> io::Result<Header> {
    let from = number * SEGMENT_BYTES as u64;
    forget(file, from, HEADER_BYTES as u64)?;
    let mut bytes = [0; HEADER_BYTES];
    match file.read_exact_at(&mut bytes, from) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Header::Blank),
        read => read.map(|()| header(&bytes)),
    }
}

/// The state of the log of a store before it is opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// Segments that are not whole, by number, with where their messages end. sled refills a
    /// segment from its beginning. Where a crash interrupts that, the old contents end early, which
    /// is harmless.
    excused: BTreeMap<u64, (Header, usize)>,
    /// The position of the newest segment, and where its messages end.
    newest: Option<(u64, usize)>,
    /// The first damage that no crash explains.
    pub(super) damage: Option<String>,
}

impl Survey {
    /// Reads the whole log; it must reach the write `mark`, which was synced.
    pub(super) fn of(file: &File, mark: u64) -> io::Result<Self> {
        let mut survey = Survey::default();
        let positions = positions(file)?;
        let newest = positions.last_key_value().map(|(position, _)| *position);
        let all = 0..segments(file.metadata()?.len());
        let known: Vec<u64> = positions.values().rev().copied().collect();
        let others = all.filter(|number| !known.contains(number));
        let mut last = None;
        let mut reaches = mark == 0;
        for number in known.iter().copied().chain(others) {
            let segment = Segment::read(file, number)?;
            reaches = reaches || segment.reaches(mark);
            if let Header::At(position) = segment.header
                && newest == Some(position)
            {
                survey.newest = Some((position, segment.end));
            }
            if segment.is_whole(newest) {
                last.get_or_insert_with(|| segment.what_is_wrong(number));
                continue;
            }
            survey.excused.insert(number, (segment.header, segment.end));
            if !segment.is_filled_again() {
                survey.damage.get_or_insert_with(|| segment.what_is_wrong(number));
            }
        }
        if !reaches {
            let what = last.unwrap_or_else(|| "sled/db has no readable segment".to_owned());
            let behind = format!("{what}: the write {mark}, which was synced, is behind it");
            survey.damage.get_or_insert(behind);
        }
        Ok(survey)
    }

    /// True if the segment was the newest one when the store was opened, and its messages went
    /// further.
    pub(super) fn went_further(&self, segment: &Segment) -> bool {
        self.newest.is_some_and(|(position, end)| {
            segment.header == Header::At(position) && segment.end < end
        })
    }

    /// True if the segment was found in this state when the store was opened.
    pub(super) fn excuses(&self, number: u64, segment: &Segment) -> bool {
        self.excused.get(&number) == Some(&(segment.header, segment.end))
    }
}

/// The positions of the log at which segments begin, with the number of each segment.
pub(super) fn positions(file: &File) -> io::Result<BTreeMap<u64, u64>> {
    let mut positions = BTreeMap::new();
    for number in 0..segments(file.metadata()?.len()) {
        if let Header::At(position) = read_header(file, number)? {
            positions.insert(position, number);
        }
    }
    Ok(positions)
}

/// Number of segments in a file of `length` bytes.
pub(super) fn segments(length: u64) -> u64 {
    length.div_ceil(SEGMENT_BYTES as u64)
}

/// Has the kernel drop its cached pages of the file, as far as they are on the device.
fn forget(file: &File, from: u64, length: u64) -> io::Result<()> {
    let length = NonZeroU64::new(length);
    Ok(rustix::fs::fadvise(file, from, length, Advice::DontNeed)?)
}

/// Decodes the header that these bytes begin with.
pub(super) fn header(bytes: &[u8]) -> Header {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Header::Blank };
    if header.iter().all(|byte| *byte == 0) {
        return Header::Blank;
    }
    let (checksum, content) = header.split_at(4);
    if checksum != sum(&[content]) {
        return Header::Broken;
    }
    let position = content.first_chunk::<8>().copied().unwrap_or_default();
    match u64::from_le_bytes(position) ^ MASK {
        position if position % SEGMENT_BYTES as u64 == 0 => Header::At(position),
        _ => Header::Broken,
    }
}

/// The header of a segment at this position of the log. Its claim about the stable part of the log
/// is the least possible.
pub(super) fn sealed(position: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[4..12].copy_from_slice(&(position ^ MASK).to_le_bytes());
    header[12..].copy_from_slice(&MASK.to_le_bytes());
    let checksum = sum(&[&header[4..]]);
    header[..4].copy_from_slice(&checksum);
    header
}

/// sled stores the complement of a CRC-32.
fn sum(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    (!hasher.finalize()).to_le_bytes()
}

/// The head of a message; it does not show whether the message is whole.
pub(super) struct Head {
    pub(super) kind: u8,
    /// The number of the segment that the message was written to.
    pub(super) segment: u64,
    /// Length of the head itself, in bytes.
    bytes: usize,
    /// Length of the message including the head, in bytes.
    pub(super) length: usize,
}

impl Head {
    /// Decodes the head that these bytes begin with; `None` if they begin no message.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(4..)?;
        let kind = rest.split_off_first().copied()?;
        let (body, segment, _page) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
        let head = bytes.len() - rest.len();
        let length = head.checked_add(usize::try_from(body).ok()?)?;
        // sled clears with a kind of 0.
        let fits = (1..=LAST_KIND).contains(&kind) && length <= bytes.len();
        fits.then_some(Head { kind, segment, bytes: head, length })
    }

    /// The head of a message of no page with a body of `body` bytes, without its checksum.
    pub(super) fn write(kind: u8, body: u64, segment: u64) -> Vec<u8> {
        let mut head = vec![0, 0, 0, 0, kind];
        for part in [body, segment, u64::MAX] {
            write_number(part, &mut head);
        }
        head
    }
}

/// The checksum that the message in these bytes should have.
pub(super) fn check_sum(bytes: &[u8]) -> Option<[u8; 4]> {
    let head = Head::of(bytes)?;
    Some(sum(&[bytes.get(head.bytes..head.length)?, bytes.get(4..head.bytes)?]))
}

/// A message whose checksum is right.
pub(super) struct Message<'a> {
    kind: u8,
    /// The number of the segment that the message was written to.
    pub(super) segment: u64,
    body: &'a [u8],
    /// Length of the message including its head, in bytes.
    pub(super) length: usize,
}

impl<'a> Message<'a> {
    /// Decodes the message that these bytes begin with; `None` if it is not whole.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let Head { kind, segment, bytes: head, length } = Head::of(bytes)?;
        let body = bytes.get(head..length)?;
        let whole = check_sum(bytes).is_some_and(|sum| bytes.starts_with(&sum));
        whole.then_some(Message { kind, segment, body, length })
    }
}

/// Encodes a number as sled does: in nine bytes, or in one.
fn write_number(number: u64, to: &mut Vec<u8>) {
    match u8::try_from(number) {
        Ok(byte) if byte <= 240 => to.push(byte),
        _ => {
            to.push(255);
            to.extend(number.to_le_bytes());
        }
    }
}

/// Decodes a number of sled's, of one to nine bytes (`serialization.rs`).
fn number(rest: &mut &[u8]) -> Option<u64> {
    let first = rest.split_off_first().copied()?;
    Some(match first {
        0..=240 => u64::from(first),
        241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(*rest.split_off_first()?),
        249 => {
            let pair = rest.split_off(..2)?;
            2_288 + 256 * u64::from(*pair.first()?) + u64::from(*pair.last()?)
        }
        _ => {
            let bytes = rest.split_off(..usize::from(first) - 247)?;
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(whole)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::guarded::{Batch, Sled};
    use super::super::layout::seal;
    use super::*;

    fn filled(dir: &std::path::Path, keys: u32) -> Sled {
        let sled = Sled::open(dir, 1 << 20).unwrap();
        for key in 0..keys {
            let mut batch = Batch::default();
            batch.insert(&key.to_be_bytes(), vec![key as u8; 20_000]);
            let number = seal(LAST_WRITE, &u64::from(key + 1).to_be_bytes());
            batch.insert(b"number", number);
            sled.apply(batch).unwrap();
        }
        sled.sync().unwrap();
        sled
    }

    fn all(dir: &std::path::Path) -> (File, Vec<Segment>) {
        let file = File::options().read(true).write(true).open(dir.join("db")).unwrap();
        let count = segments(file.metadata().unwrap().len());
        let read = (0..count).map(|number| Segment::read(&file, number).unwrap());
        let read = read.collect();
        (file, read)
    }

    #[test]
    fn every_segment_is_full_but_the_newest_and_each_flip_shows() {
        let dir = tempfile::tempdir().unwrap();
        let sled = filled(dir.path(), 1_200);
        let (file, before) = all(dir.path());
        assert!(before.len() > 2, "{} segments", before.len());
        let position = |segment: &Segment| match segment.header {
            Header::At(position) => position,
            _ => 0,
        };
        let newest = before.iter().map(position).max().unwrap();
        for segment in &before {
            assert!(matches!(segment.header, Header::At(_)), "{:?}", segment.header);
            assert!(segment.is_full || position(segment) == newest, "ends at {}", segment.end);
        }
        let tail = before.iter().find(|segment| position(segment) == newest).unwrap();
        assert!(tail.reaches(1_200) && tail.reaches(1_100) && !tail.reaches(1_201));
        assert!(tail.batch_to <= newest + tail.end as u64, "{} {newest}", tail.batch_to);
        println!("the last batch ends at {} of {}", tail.batch_to.saturating_sub(newest), tail.end);

        let mut byte = [0];
        for (number, segment) in (0..).zip(&before) {
            for at in [3, 21, segment.end / 2, segment.end - 40] {
                let place = number * SEGMENT_BYTES as u64 + at as u64;
                file.read_exact_at(&mut byte, place).unwrap();
                file.write_all_at(&[byte[0] ^ 4], place).unwrap();
                file.sync_data().unwrap();
                let after = Segment::read(&file, number).unwrap();
                assert!(
                    after.header == Header::Broken || after.end <= at.max(HEADER_BYTES),
                    "byte {at} of {number}: {} after {}",
                    after.end,
                    segment.end
                );
                file.write_all_at(&byte, place).unwrap();
            }
        }
        drop(sled);
    }
}
