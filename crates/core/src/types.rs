//! Names, sizes and limits that every floor shares.

use std::fmt;

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;
use smallvec::SmallVec;

pub use crate::time::{MILLI, Micros, Time};

/// Longest key, in bytes. The shortest is 1.
pub const MAX_KEY_BYTES: usize = 1_024;
/// Largest value, in bytes. The smallest is 0.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// Most siblings that one key may have where a write is accepted.
pub const MAX_SIBLINGS: usize = 32;
/// Most entries that the clock of one key may have where a write is accepted: each process run that
/// has issued a dot of the key has one, and each put that was sent to several nodes, until
/// tombstone GC removes it.
pub const MAX_CLOCK_ENTRIES: usize = 1_024;
/// Largest object (clock and all siblings, encoded) that a write may make, in bytes, whatever N is;
/// [`ObjectLimits::of`] has the limit of a cluster.
pub const MAX_OBJECT_BYTES: usize = 8 << 20;
/// Largest object that a merge between nodes may make, in bytes: N owners that each accepted writes
/// up to their limit, apart from each other, merge to no more than this.
pub const MAX_MERGED_BYTES: usize = 16 << 20;
/// Largest replication factor N.
pub const MAX_N: u8 = 7;
/// Most members of a cluster.
pub const MAX_MEMBERS: usize = 1_000;
/// Most partitions Q of the hash space.
pub const MAX_PARTITIONS: u16 = 4_096;
/// Longest name of a node or a cluster, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The event of a put that was sent to several nodes stays in the clocks for at least this time
/// after its value is dead, twice that at most: a copy of the put may be in flight for as long as
/// clients repeat it and connections keep unacknowledged bytes.
pub const REPEAT_WINDOW: Micros = Micros::from_secs(35);
/// Longest deadline that a request may carry, in milliseconds.
pub const MAX_TIMEOUT_MS: u32 = 600_000;

/// How large the object of one key may become in a cluster, in encoded bytes.
/// `docs/reference/limits.md` has the whole table.
///
/// An object that is over a limit already (an older version wrote it, or a limit was passed by
/// merges that each stayed within it) may change and shrink, but not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLimits {
    /// What a client's write may make of an object, and up to which an owner takes hints.
    pub accepted: usize,
    /// What any other merge between nodes may make of an object, what a fallback keeps of one key,
    /// and what a read answers with at once.
    pub merged: usize,
}

impl ObjectLimits {
    /// The limits of a cluster with this replication factor, 1 to [`MAX_N`].
    pub const fn of(n: u8) -> Self {
        let n = if n == 0 { 1 } else { n as usize };
        let share = MAX_MERGED_BYTES / n;
        let accepted = if share < MAX_OBJECT_BYTES { share } else { MAX_OBJECT_BYTES };
        ObjectLimits { accepted, merged: MAX_MERGED_BYTES }
    }
}

/// A write of the largest value under the largest key always fits an empty object, for every N, and
/// what N owners accepted apart from each other always merges.
const _: () = {
    let mut n = 1;
    while n <= MAX_N {
        let limits = ObjectLimits::of(n);
        assert!(limits.accepted > MAX_VALUE_BYTES + MAX_KEY_BYTES + (64 << 10));
        assert!(n as usize * limits.accepted <= limits.merged);
        // What a fallback took up to its limit fits beside what is dead of the key at an owner.
        assert!(2 * limits.accepted <= limits.merged);
        n += 1;
    }
};

/// A few nodes; as many as a message usually goes to are held without an allocation.
pub type Nodes = SmallVec<[NodeId; 2]>;

/// A node's identity: the hash of its name, so that a node may come back under another address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct NodeId(pub u64);

impl NodeId {
    /// The id of the node called `name`.
    pub fn of(name: &str) -> Self {
        NodeId(hash64(&[b"node", name.as_bytes()]))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One of the Q equal parts of the hash space, 0 to Q-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Partition(pub u16);

/// What a client draws at random for a put, 128 bits: a repeated put with the same id happens once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct WriteId(pub u128);

impl fmt::Debug for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "w{:032x}", self.0)
    }
}

/// A value over its limit, reported in one sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum SizeError {
    /// The key was empty or too long; nothing was done.
    #[error("the key has {0} bytes; a key has 1 to {MAX_KEY_BYTES}")]
    Key(u64),
    /// The value was too long; nothing was done.
    #[error("the value has {0} bytes; a value has at most {MAX_VALUE_BYTES}")]
    Value(u64),
}

/// A key: 1 to [`MAX_KEY_BYTES`] bytes, any bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Takes the bytes as a key, or says that there are none or too many.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, SizeError> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.len() > MAX_KEY_BYTES {
            return Err(SizeError::Key(bytes.len() as u64));
        }
        Ok(Key(bytes))
    }

    /// The bytes of the key, 1 to [`MAX_KEY_BYTES`] of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A value's bytes. Decoding borrows them from the frame they came in: nothing is copied.
/// The size limit is enforced where a write is accepted, and not where replicas merge.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Bytes);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(24)];
        write!(f, "\"{}\"[{}]", shown.escape_ascii(), self.0.len())
    }
}

impl Encode for Key {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.as_ref().encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Key {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let Blob(bytes) = Blob::borrow_decode(decoder)?;
        Key::new(bytes).map_err(|error| DecodeError::OtherString(error.to_string()))
    }
}

impl Encode for Blob {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.as_ref().encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Blob {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let slice: &'de [u8] = BorrowDecode::<'de, Bytes>::borrow_decode(decoder)?;
        Ok(Blob(decoder.context().slice_ref(slice)))
    }
}

/// The first 64 bits of the blake3 hash of `parts`, each preceded by its length.
pub fn hash64(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    first_u64(hasher.finalize().as_bytes())
}

/// The first eight bytes of a 32-byte hash as a big-endian number.
pub fn first_u64(hash: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
