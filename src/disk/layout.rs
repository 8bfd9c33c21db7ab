//! Bytes on disk: the keys of the one tree, the heads of chunked records, the small records of the
//! meta space. `migrations/` holds frozen copies; a change here is a new schema.

use bytes::{Buf, BufMut, Bytes};
use pixii_core::gc_epoch::GcState;
use pixii_core::members::Members;
use pixii_core::ring::Ring;
use pixii_core::store::{
    Found, Meta, Record, decode_hint, decode_record, encode_hint, encode_record,
};
use pixii_core::types::{Key, MAX_MERGED_BYTES, NodeId, Partition, hash64};
use pixii_core::wire::{self, MAX_FRAME_BYTES};

/// Largest value given to sled, in bytes, less a tag. [`super::log::SEGMENT_BYTES`] says why.
pub(super) const CHUNK_BYTES: usize = 32 << 10;
/// Largest encoded record, in bytes: the largest that can be decoded, and its envelope.
pub(super) const MAX_RECORD_BYTES: usize = MAX_FRAME_BYTES + 64;

/// A node at its limits stays far below what the store accepts.
const _: () = assert!(2 * MAX_MERGED_BYTES < MAX_RECORD_BYTES);

/// The name of the store's record of its own identity and incarnation.
pub(super) const INCARNATION: &str = "life";
/// The name of the record of the member list.
pub(super) const MEMBERS: &str = "members";
/// The name of the record of the ring, written once the ring is not that of the configured members.
pub(super) const RING: &str = "ring";
/// The name of the record of the number of the last write.
pub(super) const LAST_WRITE: &str = "write";
/// The name of the record of the commit log's id.
pub(super) const LOG: &str = "log";
/// The schema that this program reads and writes; as many migrations lead to it (see `schema`).
pub const NEWEST: u32 = 4;
/// The name of the record of the schema number.
pub(super) const SCHEMA: &str = "schema";

const META_SPACE: u8 = 1;
const DATA_SPACE: u8 = 2;
const CHUNK_SPACE: u8 = 3;
const HINT_SPACE: u8 = 4;
/// The first place of the records.
pub(super) const DATA: [u8; 1] = [DATA_SPACE];
/// The first place of the chunks.
pub(super) const CHUNKS: [u8; 1] = [CHUNK_SPACE];
/// The first place of the hints, and the end of the chunks.
pub(super) const HINTS: [u8; 1] = [HINT_SPACE];
/// The first place behind all hints.
pub(super) const HINTS_END: [u8; 1] = [HINT_SPACE + 1];

/// First byte of the name of an empty value in the meta space.
const FILLER: u8 = 0xff;

const META_VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
const HEAD_BYTES: usize = 20;

/// Last byte of a value in the data and the hint space whose other bytes are the record.
const INLINE: u8 = 0;
/// Last byte of a value in the data and the hint space whose other bytes are a head.
const CHUNKED: u8 = 1;

/// The place of a small record in the meta space.
pub(super) fn meta_key(name: &str) -> Vec<u8> {
    [&[META_SPACE], name.as_bytes()].concat()
}

/// The place of a key's record or head. Byte order is (partition, key) order.
pub(super) fn data_key(partition: Partition, key: &[u8]) -> Vec<u8> {
    [&[DATA_SPACE], &partition.0.to_be_bytes()[..], key].concat()
}

/// The first place behind a partition's data.
pub(super) fn data_end(partition: Partition) -> Vec<u8> {
    match partition.0.checked_add(1) {
        Some(next) => data_key(Partition(next), &[]),
        None => vec![DATA_SPACE + 1],
    }
}

/// The partitions that have places from `begin` to before `end` (to the last one without it).
pub(super) fn partitions_between(begin: &[u8], end: Option<&[u8]>) -> Vec<Partition> {
    let number = |place: &[u8]| {
        let byte = |at: usize| place.get(at).copied().unwrap_or(0);
        u16::from_be_bytes([byte(1), byte(2)])
    };
    let first = match begin.first() {
        Some(space) if *space > DATA_SPACE => return Vec::new(),
        Some(&DATA_SPACE) => number(begin),
        _ => 0,
    };
    let last = match end.and_then(|end| Some((end, end.first()?))) {
        Some((_, space)) if *space < DATA_SPACE => return Vec::new(),
        Some((end, &DATA_SPACE)) => number(end),
        _ => u16::MAX,
    };
    (first..=last).map(Partition).collect()
}

/// The place of a hint or its head. Byte order is (target, key) order.
pub(super) fn hint_key(target: NodeId, key: &[u8]) -> Vec<u8> {
    [&[HINT_SPACE], &target.0.to_be_bytes()[..], key].concat()
}

/// The first place behind the hints for a member.
pub(super) fn hint_end(target: NodeId) -> Vec<u8> {
    match target.0.checked_add(1) {
        Some(next) => hint_key(NodeId(next), &[]),
        None => HINTS_END.to_vec(),
    }
}

/// The meaning of a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A small record of the store's own, with its name.
    Meta(String),
    /// The record of a key, or its head.
    Data(Partition, Key),
    /// A chunk: the id of its write, and its index.
    Chunk(u64, u32),
    /// A hint for a member, or its head.
    Hint(NodeId, Key),
    /// An empty value that the first schema keeps, see `migrations/`.
    Filler,
}

impl Place {
    /// The meaning of these bytes; `None` if they are no place.
    pub(super) fn decode(place: &[u8]) -> Option<Self> {
        let (space, mut rest) = place.split_first()?;
        match (*space, rest.len()) {
            (META_SPACE, 2) if rest.first() == Some(&FILLER) => Some(Place::Filler),
            (META_SPACE, _) => Some(Place::Meta(String::from_utf8(rest.to_vec()).ok()?)),
            (DATA_SPACE, 2..) => Some(Place::Data(Partition(rest.get_u16()), key_of(place)?)),
            (HINT_SPACE, 9..) => {
                let target = NodeId(rest.get_u64());
                Some(Place::Hint(target, Key::new(Bytes::copy_from_slice(rest)).ok()?))
            }
            (CHUNK_SPACE, 12) => Some(Place::Chunk(rest.get_u64(), rest.get_u32())),
            _ => None,
        }
    }
}

/// The key of a place in the data space.
pub(super) fn key_of(place: &[u8]) -> Option<Key> {
    Key::new(Bytes::copy_from_slice(place.get(3..)?)).ok()
}

/// The place of one chunk of the write `id`.
pub(super) fn chunk_key(id: u64, index: u32) -> Vec<u8> {
    [&[CHUNK_SPACE], &id.to_be_bytes()[..], &index.to_be_bytes()].concat()
}

/// The owner of a record: it determines the record's place, and its checksums cover it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At<'a> {
    /// The record of a key in its partition.
    Data(Partition, &'a Key),
    /// The hint for a member with a record of a key.
    Hint(NodeId, &'a Key),
}

impl At<'_> {
    /// The place of the record or its head.
    pub(super) fn place(self) -> Vec<u8> {
        match self {
            At::Data(partition, key) => data_key(partition, key.as_bytes()),
            At::Hint(target, key) => hint_key(target, key.as_bytes()),
        }
    }

    /// The encoded record, with a checksum that covers this place.
    pub(super) fn encode(self, record: &Record) -> Vec<u8> {
        match self {
            At::Data(partition, key) => encode_record(partition, key, record),
            At::Hint(target, key) => encode_hint(target, key, record),
        }
    }

    /// Decodes the record of these bytes; damaged if there are none.
    pub(super) fn decode(self, bytes: Option<Bytes>) -> Found {
        match (self, bytes) {
            (_, None) => Found::Damaged,
            (At::Data(partition, key), Some(bytes)) => decode_record(partition, key, bytes),
            (At::Hint(target, key), Some(bytes)) => decode_hint(target, key, bytes),
        }
    }

    fn head_checksum(self, body: &[u8]) -> u64 {
        match self {
            At::Data(partition, key) => {
                hash64(&[b"head", &partition.0.to_be_bytes(), key.as_bytes(), body])
            }
            At::Hint(target, key) => {
                hash64(&[b"hint head", &target.0.to_be_bytes(), key.as_bytes(), body])
            }
        }
    }
}

/// Describes the chunks of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The id of the write, which no other write of the store has.
    pub id: u64,
    /// Length of all chunks together, in bytes.
    pub total: usize,
    /// Number of chunks; none of them is empty.
    pub chunks: u32,
}

/// A value of the data space or of the hint space.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The encoded record itself.
    Inline(Bytes),
    /// The head of a record in chunks.
    Chunked(Head),
    /// The last byte is neither tag, or the head's checksum fails.
    Damaged,
}

impl Value {
    /// Decodes a value; a record is not checked here, a head is.
    pub(super) fn decode(at: At<'_>, bytes: &Bytes) -> Self {
        match bytes.split_last() {
            Some((&INLINE, record)) => Value::Inline(bytes.slice(..record.len())),
            Some((&CHUNKED, head)) => Head::decode(at, head).map_or(Value::Damaged, Value::Chunked),
            _ => Value::Damaged,
        }
    }
}

/// The value of a record that is not chunked.
pub(super) fn inline(mut record: Vec<u8>) -> Vec<u8> {
    record.push(INLINE);
    record
}

impl Head {
    /// The head's bytes, with a checksum that also covers its place.
    pub(super) fn encode(&self, at: At<'_>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + CHECKSUM_BYTES + 1);
        bytes.put_u64(self.id);
        bytes.put_u64(self.total as u64);
        bytes.put_u32(self.chunks);
        bytes.put_u64(at.head_checksum(&bytes));
        bytes.put_u8(CHUNKED);
        bytes
    }

    fn decode(at: At<'_>, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != HEAD_BYTES + CHECKSUM_BYTES {
            return None;
        }
        let (mut body, mut checksum) = bytes.split_at(HEAD_BYTES);
        if checksum.get_u64() != at.head_checksum(body) {
            return None;
        }
        let (id, total, chunks) = (body.get_u64(), body.get_u64(), body.get_u32());
        let total = usize::try_from(total).ok().filter(|total| *total <= MAX_RECORD_BYTES)?;
        // Every chunk has at least one byte, so the checked total bounds their number, too.
        (chunks as usize <= total).then_some(Head { id, total, chunks })
    }
}

/// Encodes a small record of the meta space: a version byte, the content, and a checksum that also
/// covers its name.
pub(super) fn seal(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = [&[META_VERSION], content].concat();
    bytes.put_u64(hash64(&[b"meta", name.as_bytes(), &bytes]));
    bytes
}

/// The content of a small record, or `None` if it is damaged.
pub(super) fn unseal(name: &str, bytes: &Bytes) -> Option<Bytes> {
    let split = bytes.len().checked_sub(CHECKSUM_BYTES)?;
    let (body, mut checksum) = (bytes.slice(..split), bytes.slice(split..));
    let sound = checksum.get_u64() == hash64(&[b"meta", name.as_bytes(), &body]);
    (sound && body.first() == Some(&META_VERSION)).then(|| body.slice(1..))
}

/// The sealed bytes of the store's record of its own identity.
pub(super) fn seal_incarnation(meta: &Meta) -> Vec<u8> {
    seal(INCARNATION, &wire::encode(meta))
}

/// The store's record of its own identity; `None` if it is damaged.
pub(super) fn unseal_incarnation(bytes: &Bytes) -> Option<Meta> {
    wire::decode(&unseal(INCARNATION, bytes)?).ok()
}

/// The sealed bytes of the member list.
pub(super) fn seal_members(members: &Members) -> Vec<u8> {
    seal(MEMBERS, &wire::encode(members))
}

/// The member list; `None` if it is damaged.
pub(super) fn unseal_members(bytes: &Bytes) -> Option<Members> {
    wire::decode(&unseal(MEMBERS, bytes)?).ok()
}

/// The sealed bytes of the ring.
pub(super) fn seal_ring(ring: &Ring) -> Vec<u8> {
    seal(RING, &wire::encode(ring))
}

/// The ring; `None` if it is damaged.
pub(super) fn unseal_ring(bytes: &Bytes) -> Option<Ring> {
    wire::decode(&unseal(RING, bytes)?).ok()
}

/// First bytes of the names of the records of GC epochs.
const GC_EPOCH: &str = "generation ";

/// The name of a partition's GC epoch in the meta space.
pub(super) fn gc_epoch_name(partition: Partition) -> String {
    format!("{GC_EPOCH}{:05}", partition.0)
}

/// The partition whose GC epoch has this name; `None` for other names.
pub(super) fn partition_of(name: &str) -> Option<Partition> {
    name.strip_prefix(GC_EPOCH)?.parse().ok().map(Partition)
}

/// The places of all GC epochs: the first one, and the first place behind the last.
pub(super) fn gc_epochs() -> (Vec<u8>, Vec<u8>) {
    (meta_key(GC_EPOCH), meta_key("generation!"))
}

/// The sealed bytes of a partition's GC epoch.
pub(super) fn seal_gc_epoch(partition: Partition, gc_epoch: &GcState) -> Vec<u8> {
    seal(&gc_epoch_name(partition), &wire::encode(gc_epoch))
}

/// The GC epoch of a partition; `None` if it is damaged.
pub(super) fn unseal_gc_epoch(partition: Partition, bytes: &Bytes) -> Option<GcState> {
    wire::decode(&unseal(&gc_epoch_name(partition), bytes)?).ok()
}

/// A number of the meta space; `None` if it is damaged.
pub(super) fn unseal_u64(name: &str, bytes: &Bytes) -> Option<u64> {
    let content = unseal(name, bytes)?;
    Some(u64::from_be_bytes(content.as_ref().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_bound_to_its_place_and_to_every_bit() {
        let key = Key::new("k").unwrap();
        let head = Head { id: 7, total: 100_000, chunks: 4 };
        let bytes = head.encode(At::Data(Partition(1), &key));
        let decode = |p, bytes: &[u8]| {
            Value::decode(At::Data(Partition(p), &key), &Bytes::copy_from_slice(bytes))
        };
        assert_eq!(decode(1, &bytes), Value::Chunked(head));
        assert_eq!(decode(2, &bytes), Value::Damaged);
        for at in 0..bytes.len() - 1 {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(decode(1, &bad), Value::Damaged, "byte {at}");
        }
        assert_eq!(decode(1, &[]), Value::Damaged);
        assert_eq!(decode(1, &[9]), Value::Damaged);
        let hint = |target, key| At::Hint(NodeId(target), key);
        let other = Key::new("l").unwrap();
        let bytes = Bytes::from(head.encode(hint(1, &key)));
        assert_eq!(Value::decode(hint(1, &key), &bytes), Value::Chunked(head));
        for wrong in [hint(2, &key), hint(1, &other), At::Data(Partition(1), &key)] {
            assert_eq!(Value::decode(wrong, &bytes), Value::Damaged, "{wrong:?}");
        }
        let huge = Head { total: MAX_RECORD_BYTES + 1, ..head };
        assert_eq!(decode(1, &huge.encode(At::Data(Partition(1), &key))), Value::Damaged);
    }

    #[test]
    fn places_are_ordered_and_partitions_end() {
        let place = |p: u16, key: &[u8]| data_key(Partition(p), key);
        assert!(place(1, b"\xff\xff") < place(2, b"\0"));
        assert_eq!(data_end(Partition(1)), place(2, b""));
        assert!(place(u16::MAX, &[0xff; 1_024]) < data_end(Partition(u16::MAX)));
        assert_eq!(key_of(&place(3, b"k")), Some(Key::new("k").unwrap()));
        assert_eq!(key_of(&[2, 0]), None);
        assert!(chunk_key(1, u32::MAX) < chunk_key(2, 0));
        assert_eq!(Place::decode(&meta_key(INCARNATION)), Some(Place::Meta(INCARNATION.into())));
        let data = Place::Data(Partition(3), Key::new("k").unwrap());
        assert_eq!(Place::decode(&place(3, b"k")), Some(data));
        assert_eq!(Place::decode(&chunk_key(7, 8)), Some(Place::Chunk(7, 8)));
        assert_eq!(Place::decode(&[1, 0xff, 3]), Some(Place::Filler));
        let hint = |target, key: &[u8]| hint_key(NodeId(target), key);
        assert_eq!(hint(0x0102, b"k"), b"\x04\0\0\0\0\0\0\x01\x02k");
        assert!(hint(1, b"\xff\xff") < hint(2, b"\0") && chunk_key(u64::MAX, 9) < hint(0, b""));
        assert_eq!(hint_end(NodeId(1)), hint(2, b""));
        assert!(hint(u64::MAX, &[0xff; 1_024]) < hint_end(NodeId(u64::MAX)));
        let place = Place::Hint(NodeId(7), Key::new("k").unwrap());
        assert_eq!(Place::decode(&hint(7, b"k")), Some(place));
        assert_eq!(Place::decode(&hint(7, &[0; 1_025])), None);
        for odd in [&[][..], &[2], &[2, 0, 0], &[3, 0], &[1, 0xff], &[4; 9], &[9]] {
            assert_eq!(Place::decode(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_sealed_record_knows_its_name() {
        let bytes = Bytes::from(seal(LAST_WRITE, &7u64.to_be_bytes()));
        assert_eq!(unseal_u64(LAST_WRITE, &bytes), Some(7));
        assert_eq!(unseal_u64(INCARNATION, &bytes), None);
        assert_eq!(unseal_incarnation(&bytes), None);
        assert_eq!(unseal(LAST_WRITE, &bytes.slice(..7)), None);
    }
}
