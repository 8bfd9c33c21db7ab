//! sled's log as it is on the device, read past sled: where its messages fail their own checksums.
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

use rustix::fs::Advice;

use super::guarded::SEGMENT_BYTES;

const HEADER_BYTES: usize = 20;
/// sled begins no message with less room than this before the end of a segment.
const LONGEST_HEAD_BYTES: usize = 32;
/// sled stores a position as its exclusive or with this.
const MASK: u64 = 0x7fff_ffff_ffff_ffff;
/// The kind of a message that fills the rest of its segment.
const CAP: u8 = 2;
/// The kind of a message that says where a batch ends.
const MANIFEST: u8 = 3;
/// The highest kind that there is.
const LAST_KIND: u8 = 11;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// Nothing was ever written there, or sled has cleared it.
    Blank,
    /// It begins at this position of the log.
    At(u64),
    /// Its checksum fails.
    Broken,
}

/// A segment as it is on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) header: Header,
    /// Where the messages end: at a cap or the end of the segment, if `is_full`; else at the first
    /// byte that begins no message that is whole.
    pub(super) end: usize,
    pub(super) is_full: bool,
    /// The position up to which the last batch that begins here goes.
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

    /// Goes over the messages.
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

    /// True if nothing is missing that must be there, where `newest` is the position of the newest
    /// segment.
    pub(super) fn is_whole(&self, newest: Option<u64>) -> bool {
        match self.header {
            Header::Blank => true,
            Header::Broken => false,
            Header::At(_) if self.is_full => true,
            // A crash may have cut it off anywhere. Whoever knows what was synced looks further.
            Header::At(position) => newest == Some(position),
        }
    }

    /// True if the last batch that begins here ends behind what can be read.
    pub(super) fn lacks_the_end_of_a_batch(&self) -> bool {
        match self.header {
            Header::At(position) => !self.is_full && self.batch_to >= position + self.end as u64,
            _ => false,
        }
    }

    /// True if a message of a later use of the segment is in it, behind the place where those of
    /// its header end.
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

    /// True if one of its messages holds these bytes.
    pub(super) fn holds(&self, wanted: &[u8]) -> bool {
        let messages = self.bytes.get(HEADER_BYTES..self.end).unwrap_or_default();
        messages.windows(wanted.len()).any(|window| window == wanted)
    }
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

/// What the log of a store is like before it is opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    /// Segments that are not whole, by their number, with where their messages end. sled fills one
    /// again from its beginning: where a crash interrupts that, what was in it before ends early,
    /// and harms nobody.
    excused: BTreeMap<u64, (Header, usize)>,
    /// The first place that no crash explains.
    pub(super) damage: Option<String>,
}

impl Survey {
    /// Reads the whole log.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let mut survey = Survey::default();
        let newest = positions(file)?.last_key_value().map(|(position, _)| *position);
        for number in 0..segments(file.metadata()?.len()) {
            let segment = Segment::read(file, number)?;
            if segment.is_whole(newest) {
                continue;
            }
            survey.excused.insert(number, (segment.header, segment.end));
            if !segment.is_filled_again() {
                survey.damage.get_or_insert_with(|| segment.what_is_wrong(number));
            }
        }
        Ok(survey)
    }

    /// True if the segment was found like this when the store was opened.
    pub(super) fn excuses(&self, number: u64, segment: &Segment) -> bool {
        self.excused.get(&number) == Some(&(segment.header, segment.end))
    }
}

/// The positions of the log that segments begin at, and the number of each segment.
pub(super) fn positions(file: &File) -> io::Result<BTreeMap<u64, u64>> {
    let mut positions = BTreeMap::new();
    for number in 0..segments(file.metadata()?.len()) {
        if let Header::At(position) = read_header(file, number)? {
            positions.insert(position, number);
        }
    }
    Ok(positions)
}

/// How many segments a file of so many bytes has.
pub(super) fn segments(length: u64) -> u64 {
    length.div_ceil(SEGMENT_BYTES as u64)
}

/// Has the kernel forget what it keeps of the file, as far as that is on the device.
fn forget(file: &File, from: u64, length: u64) -> io::Result<()> {
    let length = NonZeroU64::new(length);
    Ok(rustix::fs::fadvise(file, from, length, Advice::DontNeed)?)
}

fn header(bytes: &[u8]) -> Header {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Header::Blank };
    if header.iter().all(|byte| *byte == 0) {
        return Header::Blank;
    }
    let (checksum, content) = header.split_at(4);
    if !is_sum_of(checksum, &[content]) {
        return Header::Broken;
    }
    let position = content.first_chunk::<8>().copied().unwrap_or_default();
    match u64::from_le_bytes(position) ^ MASK {
        position if position % SEGMENT_BYTES as u64 == 0 => Header::At(position),
        _ => Header::Broken,
    }
}

/// sled stores the complement of a CRC-32.
fn is_sum_of(checksum: &[u8], parts: &[&[u8]]) -> bool {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    checksum == (!hasher.finalize()).to_le_bytes()
}

/// A message that is whole.
struct Message<'a> {
    kind: u8,
    /// The number of the segment in the log.
    segment: u64,
    body: &'a [u8],
    /// All of its bytes.
    length: usize,
}

impl<'a> Message<'a> {
    /// The message that these bytes begin with.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (checksum, mut rest) = bytes.split_at_checked(4)?;
        let kind = rest.split_off_first().copied()?;
        let (length, segment, _page) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
        let head = &bytes[4..bytes.len() - rest.len()];
        let body = rest.get(..usize::try_from(length).ok()?)?;
        let length = 4 + head.len() + body.len();
        // A kind of 0 is what sled clears with.
        let whole = kind != 0 && is_sum_of(checksum, &[body, head]);
        whole.then_some(Message { kind, segment, body, length })
    }
}

/// A number of sled's, of one to nine bytes (`serialization.rs`).
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
    use super::*;

    fn filled(dir: &std::path::Path, keys: u32) -> Sled {
        let sled = Sled::open(dir, 1 << 20).unwrap();
        for key in 0..keys {
            let mut batch = Batch::default();
            batch.insert(&key.to_be_bytes(), vec![key as u8; 20_000]);
            batch.insert(b"number", key.to_string().as_bytes());
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
        assert!(tail.holds(b"number"));
        assert!(tail.batch_to <= newest + tail.end as u64, "{} {newest}", tail.batch_to);
        println!("the last batch ends at {} of {}", tail.batch_to - newest, tail.end);

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
