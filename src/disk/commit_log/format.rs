//! Bytes of the commit log: the head of the file, of a segment and of a record, and the changes
//! that a record holds. All numbers are big-endian; `docs/internals/store.md` has the tables.
//!
//! Every checksum is a CRC-32 that begins with the log's id, so that no log is taken for another
//! one. A record's head names the use of the segment that it begins in, its sequence number and
//! the checksum of its content: bytes of an earlier use of the segment are no record of this one.

use bytes::{Buf, BufMut, Bytes};

/// One change: a place in the tree, and its new value; without one, the place is removed.
pub(in crate::disk) type Edit = (Vec<u8>, Option<Bytes>);

/// Bytes before the first segment.
pub(super) const FIRST_SEGMENT_AT: u64 = 4 << 10;
/// Bytes of the file's head.
pub(super) const FILE_HEAD_BYTES: usize = 36;
/// Bytes of a segment's head.
pub(super) const SEGMENT_HEAD_BYTES: usize = 64;
/// Bytes of a record's head.
pub(super) const RECORD_HEAD_BYTES: usize = 48;

const FILE_MAGIC: [u8; 8] = *b"pixiilog";
const VERSION: u32 = 1;
const SEGMENT_MAGIC: u32 = u32::from_be_bytes(*b"PXLS");
const RECORD_MAGIC: u32 = u32::from_be_bytes(*b"PXLR");
/// The length of a value that is not there.
const REMOVED: u32 = u32::MAX;

/// Segments have between so many bytes, so that a damaged head cannot ask for more memory.
const SEGMENT_BYTES: std::ops::RangeInclusive<u32> = 4 << 10..=64 << 20;

fn checksum(id: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_be_bytes());
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The head of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHead {
    /// Drawn when the log was created; the same for as long as it exists.
    pub(super) id: u64,
    /// Bytes of a segment.
    pub(super) segment_bytes: u32,
    /// The last write of the tree when the log was created.
    pub(super) base: u64,
}

impl FileHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = FILE_MAGIC.to_vec();
        bytes.put_u32(VERSION);
        bytes.put_u32(self.segment_bytes);
        bytes.put_u64(self.id);
        bytes.put_u64(self.base);
        bytes.put_u32(checksum(self.id, &[&bytes]));
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let whole = bytes.first_chunk::<FILE_HEAD_BYTES>()?;
        let (content, mut sum) = whole.split_at(FILE_HEAD_BYTES - 4);
        let mut rest = content.strip_prefix(&FILE_MAGIC)?;
        let (version, segment_bytes) = (rest.get_u32(), rest.get_u32());
        let (id, base) = (rest.get_u64(), rest.get_u64());
        let sound = sum.get_u32() == checksum(id, &[content]);
        let fits = version == VERSION && SEGMENT_BYTES.contains(&segment_bytes);
        (sound && fits).then_some(FileHead { id, segment_bytes, base })
    }
}

/// The head of a segment: which use of it this is, and where the log came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// Counts the segments that were begun; never used twice.
    pub(super) number: u64,
    /// The use before which the log was in, and where it ended there; 0 if there was none.
    pub(super) before: u64,
    pub(super) ended_at: u32,
    /// Where the first record begins that begins in this segment; its end if none does.
    pub(super) first: u32,
    /// The last record that began before that one.
    pub(super) last_seq: u64,
    /// The record up to which the log was synced.
    pub(super) synced: u64,
    /// The record up to which the tree had everything, synced.
    pub(super) applied: u64,
}

impl SegmentHead {
    pub(super) fn encode(&self, id: u64) -> [u8; SEGMENT_HEAD_BYTES] {
        let mut bytes = [0; SEGMENT_HEAD_BYTES];
        let mut rest = &mut bytes[4..];
        rest.put_u32(SEGMENT_MAGIC);
        rest.put_u64(self.number);
        rest.put_u64(self.before);
        rest.put_u32(self.ended_at);
        rest.put_u32(self.first);
        for number in [self.last_seq, self.synced, self.applied] {
            rest.put_u64(number);
        }
        let sum = checksum(id, &[&bytes[4..]]);
        bytes[..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    pub(super) fn decode(id: u64, bytes: &[u8]) -> Option<Self> {
        let whole = bytes.first_chunk::<SEGMENT_HEAD_BYTES>()?;
        let (mut sum, content) = whole.split_at(4);
        let mut rest = content;
        if rest.get_u32() != SEGMENT_MAGIC || sum.get_u32() != checksum(id, &[content]) {
            return None;
        }
        Some(SegmentHead {
            number: rest.get_u64(),
            before: rest.get_u64(),
            ended_at: rest.get_u32(),
            first: rest.get_u32(),
            last_seq: rest.get_u64(),
            synced: rest.get_u64(),
            applied: rest.get_u64(),
        })
    }
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) body_checksum: u32,
    /// Bytes of the content behind the head.
    pub(super) body_bytes: u32,
    /// The use of the segment that it begins in.
    pub(super) number: u64,
    /// The number of the write.
    pub(super) seq: u64,
    /// The record before it.
    pub(super) before: u64,
    /// The record up to which the log was synced when this one was made.
    pub(super) synced: u64,
}

impl RecordHead {
    pub(super) fn encode(&self, id: u64) -> [u8; RECORD_HEAD_BYTES] {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        let mut rest = &mut bytes[4..];
        for number in [RECORD_MAGIC, self.body_checksum, self.body_bytes] {
            rest.put_u32(number);
        }
        for number in [self.number, self.seq, self.before, self.synced] {
            rest.put_u64(number);
        }
        let sum = checksum(id, &[&bytes[4..]]);
        bytes[..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    pub(super) fn decode(id: u64, bytes: &[u8]) -> Option<Self> {
        let whole = bytes.first_chunk::<RECORD_HEAD_BYTES>()?;
        let (mut sum, content) = whole.split_at(4);
        let mut rest = content;
        if rest.get_u32() != RECORD_MAGIC || sum.get_u32() != checksum(id, &[content]) {
            return None;
        }
        Some(RecordHead {
            body_checksum: rest.get_u32(),
            body_bytes: rest.get_u32(),
            number: rest.get_u64(),
            seq: rest.get_u64(),
            before: rest.get_u64(),
            synced: rest.get_u64(),
        })
    }

    /// True if these bytes are the content that belongs to the head.
    pub(super) fn fits(&self, id: u64, body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize && checksum(id, &[body]) == self.body_checksum
    }
}

/// Bytes that the changes take in a record.
pub(super) fn body_bytes(edits: &[Edit]) -> usize {
    let bytes = |(place, value): &Edit| 6 + place.len() + value.as_ref().map_or(0, Bytes::len);
    edits.iter().map(bytes).sum()
}

/// Writes the changes behind `to`, and gives the checksum of their bytes.
pub(super) fn encode_body(id: u64, edits: &[Edit], to: &mut Vec<u8>) -> u32 {
    let from = to.len();
    for (place, value) in edits {
        to.put_u16(place.len() as u16);
        to.put_u32(value.as_ref().map_or(REMOVED, |value| value.len() as u32));
        to.extend_from_slice(place);
        to.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    checksum(id, &[&to[from..]])
}

/// The changes of a record's content; `None` if the bytes are none.
pub(super) fn decode_body(mut body: &[u8]) -> Option<Vec<Edit>> {
    let mut edits = Vec::new();
    while !body.is_empty() {
        let (place, value) = (body.try_get_u16().ok()?, body.try_get_u32().ok()?);
        let place = body.split_off(..usize::from(place))?.to_vec();
        let value = match value {
            REMOVED => None,
            length => Some(Bytes::copy_from_slice(body.split_off(..length as usize)?)),
        };
        edits.push((place, value));
    }
    Some(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn segment() -> SegmentHead {
        SegmentHead {
            number: 5,
            before: 4,
            ended_at: 6,
            first: 64,
            last_seq: 7,
            synced: 8,
            applied: 9,
        }
    }

    fn record(body: &[u8]) -> RecordHead {
        let body_checksum = checksum(1, &[body]);
        let body_bytes = body.len() as u32;
        RecordHead { body_checksum, body_bytes, number: 5, seq: 300, before: 299, synced: 298 }
    }

    #[test]
    fn the_bytes_are_these() {
        let head = FileHead { id: 0x0102_0304_0506_0708, segment_bytes: 1 << 19, base: 9 };
        let bytes = head.encode();
        assert_eq!(hex(&bytes), GOLDEN_FILE);
        assert_eq!(FileHead::decode(&bytes), Some(head));
        let bytes = segment().encode(1);
        assert_eq!(hex(&bytes), GOLDEN_SEGMENT);
        assert_eq!(SegmentHead::decode(1, &bytes), Some(segment()));
        let edits = [(b"place".to_vec(), Some(Bytes::from("value"))), (b"gone".to_vec(), None)];
        let mut body = Vec::new();
        let sum = encode_body(1, &edits, &mut body);
        assert_eq!(hex(&body), "000500000005706c61636576616c75650004ffffffff676f6e65");
        assert_eq!((body.len(), sum), (body_bytes(&edits), record(&body).body_checksum));
        assert_eq!(decode_body(&body), Some(edits.to_vec()));
        let bytes = record(&body).encode(1);
        assert_eq!(hex(&bytes), GOLDEN_RECORD);
        assert_eq!(RecordHead::decode(1, &bytes), Some(record(&body)));
    }

    const GOLDEN_FILE: &str =
        "70697869696c6f6700000001000800000102030405060708000000000000000960316a47";
    const GOLDEN_SEGMENT: &str = "4ca2551450584c53000000000000000500000000000000040000000600000040\
        0000000000000007000000000000000800000000000000090000000000000000";
    const GOLDEN_RECORD: &str = "7b5224d150584c520b2bf78b0000001a0000000000000005000000000000012c\
        000000000000012b000000000000012a";

    #[test]
    fn a_flipped_bit_a_cut_and_another_log_are_noticed() {
        let file = FileHead { id: 7, segment_bytes: 1 << 19, base: 9 }.encode();
        let body = b"\0\x01\0\0\0\x01kv".to_vec();
        let (segment, record) = (segment().encode(1), record(&body));
        let head = record.encode(1);
        for bit in 0..8 * SEGMENT_HEAD_BYTES {
            let flipped = |bytes: &[u8]| {
                let mut bytes = bytes.to_vec();
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                bytes
            };
            assert_eq!(SegmentHead::decode(1, &flipped(&segment)), None, "bit {bit}");
            if bit < 8 * FILE_HEAD_BYTES {
                assert_eq!(FileHead::decode(&flipped(&file)), None, "bit {bit}");
            }
            if bit < 8 * RECORD_HEAD_BYTES {
                assert_eq!(RecordHead::decode(1, &flipped(&head)), None, "bit {bit}");
            }
            assert_eq!(record.fits(1, &flipped(&body)), bit >= 8 * body.len(), "bit {bit}");
        }
        assert_eq!(FileHead::decode(&file[..FILE_HEAD_BYTES - 1]), None);
        assert_eq!(SegmentHead::decode(2, &segment), None);
        assert_eq!(RecordHead::decode(2, &head), None);
        assert!(!record.fits(2, &body) && !record.fits(1, &body[..7]));
        for cut in 1..body.len() {
            assert_eq!(decode_body(&body[..cut]), None, "cut at {cut}");
        }
    }
}
