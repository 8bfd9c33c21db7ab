//! Bytes: how messages become frames, and how bytes of other programs are recognised. No sockets.
//!
//! A connection begins with a preamble of 12 bytes each way (magic, lowest and highest protocol
//! version, big-endian), then a frame with a [`Hello`] and one with a [`Welcome`]; with a secret,
//! two of each. A frame is `length: u32 | checksum: u64 | payload`, big-endian; the length counts
//! what follows it. The checksum is a [`Checksum`] of the payload, or a [`Seal`] after a handshake
//! with a secret.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::enc::EncoderImpl;
use bincode::enc::write::{SizeWriter, Writer};
use bincode::error::EncodeError;
use bincode::{BorrowDecode, Encode};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::causal::Context;
use crate::members::Incarnation;
use crate::ring::RingId;
use crate::secret::{Nonce, Proof, Seal};
use crate::types::{
    Blob, Key, MAX_KEY_BYTES, MAX_MERGED_BYTES, MAX_N, MAX_OBJECT_BYTES, NodeId, first_u64, hash64,
};

/// The first bytes of every connection.
pub const MAGIC: [u8; 8] = *b"PIXII\r\n\x1a";
/// The newest protocol version that this program speaks.
pub const PROTOCOL: u16 = 9;
/// The oldest one that it speaks: what that says otherwise is in [`crate::message::before`].
pub const OLDEST_PROTOCOL: u16 = 6;
/// The first version with codes for reasons, counters and gauges.
pub const CODED: u16 = 7;
/// The first version with writes that their issuer decides.
pub const DECIDED: u16 = 8;
/// The first version in which messages between nodes say which ring they are of, and rings can be
/// in a change.
pub const RINGED: u16 = 9;
/// In the highest version of a preamble: its sender understands frames with
/// [`Checksum::Crc32`]. A program that does not know it takes the number for a very late version,
/// and goes on with its own highest one.
const READS_CRC32: u16 = 1 << 15;
/// Length of a preamble in bytes.
pub const PREAMBLE_BYTES: usize = 12;
/// Largest frame before the handshake is done, in bytes.
pub const MAX_HELLO_BYTES: usize = 1_024;
/// Largest frame, in bytes. Objects that are written today fit it several times; versions before
/// protocol 6 wrote records of up to 7 times [`MAX_OBJECT_BYTES`], which have to pass as well.
pub const MAX_FRAME_BYTES: usize = MAX_N as usize * MAX_OBJECT_BYTES + (8 << 20);

/// A fallback that was an owner before answers with its own record and with what it keeps for
/// others.
const _: () = assert!(2 * MAX_MERGED_BYTES + MAX_KEY_BYTES + (1 << 20) < MAX_FRAME_BYTES);

const FRAME_HEAD_BYTES: usize = 12;
const CONTEXT_VERSION: u8 = 1;
const SEAL_BYTES: usize = 8;

/// Bytes that a connection cannot go on with: it is closed, and nothing else happens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another protocol, or noise.
    #[error("not a Pixii connection: it begins with \"{0}\"")]
    Magic(String),
    /// No version in common.
    #[error(
        "protocol versions {0} to {1} are offered; this node speaks {OLDEST_PROTOCOL} to \
         {PROTOCOL}"
    )]
    Version(u16, u16),
    /// A frame over the limit.
    #[error("a frame of {0} bytes; the limit here is {1}")]
    FrameLength(usize, usize),
    /// A frame whose checksum does not fit.
    #[error("a frame of {0} bytes fails its checksum")]
    Checksum(usize),
    /// A frame that is not from the node that proved itself, or not in its place.
    #[error("a frame of {0} bytes does not carry the seal of this connection")]
    Seal(usize),
    /// A frame that is no message of the kind expected.
    #[error("a frame of {0} bytes is not a message: {1}")]
    Message(usize, String),
}

/// What guards frames without a seal against damage on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checksum {
    /// The first 64 bits of the payload's blake3 hash: in a handshake, and behind it where one side
    /// does not understand another one.
    #[default]
    Blake3,
    /// The CRC-32 of IEEE 802.3 of the payload, in the lower 32 bits: an order of magnitude
    /// cheaper. It finds every damage of up to 32 bits in a row.
    Crc32,
}

impl Checksum {
    /// The checksum of these bytes.
    pub fn of(self, payload: &[u8]) -> u64 {
        match self {
            Checksum::Blake3 => first_u64(blake3::hash(payload).as_bytes()),
            Checksum::Crc32 => crc32fast::hash(payload).into(),
        }
    }
}

/// The integrity check that a frame carries: a checksum or a seal.
#[derive(Debug)]
pub enum Check<'a> {
    /// A checksum of the payload: it detects damage, not forgery.
    Sum(Checksum),
    /// The next seal of the connection.
    Seal(&'a mut Seal),
}

impl<'a> Check<'a> {
    /// The next seal, if there are any, or else this checksum.
    pub fn of(seal: Option<&'a mut Seal>, checksum: Checksum) -> Self {
        seal.map_or(Check::Sum(checksum), Check::Seal)
    }

    fn of_payload(self, payload: &[u8]) -> u64 {
        match self {
            Check::Seal(seal) => seal.next(payload),
            Check::Sum(checksum) => checksum.of(payload),
        }
    }
}

/// The protocol version and checksum for frames to one side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speech {
    /// The version of the protocol.
    pub protocol: u16,
    /// The checksum of its frames, unless they are sealed.
    pub checksum: Checksum,
}

/// A version of the protocol, with the checksum that every program understands.
impl From<u16> for Speech {
    fn from(protocol: u16) -> Self {
        Speech { protocol, checksum: Checksum::default() }
    }
}

/// The first frame of a connection: the dialer, and the node that it expects.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Hello {
    /// The introduction of protocol 5, which is not spoken any more: refused.
    Peer {
        /// The cluster it belongs to.
        cluster: String,
        /// The version and the digest of its ring.
        ring: RingId,
        /// The id of the dialing node.
        node: NodeId,
        /// The id of the node that it expects here.
        to: NodeId,
        /// The incarnation of its store.
        incarnation: Incarnation,
        /// Drawn at random at each start.
        boot_nonce: u64,
    },
    /// A client that will send calls.
    Client,
    /// A dialer that will prove its role and demands a proof; answered with [`Welcome::Challenge`].
    Challenge(Nonce),
    /// The answer to [`Welcome::Challenge`], with the proof.
    Proven {
        /// The encoded `Member`, `Probe` or `Client`.
        hello: Blob,
        /// Proves that the dialer has the key of its role.
        proof: Proof,
    },
    /// A node that will send messages on this connection.
    Member {
        /// The cluster it belongs to.
        cluster: String,
        /// The version and the digest of its ring.
        ring: RingId,
        /// The id of the dialing node.
        node: NodeId,
        /// The id of the node that it expects here.
        to: NodeId,
        /// The incarnation of its store.
        incarnation: Incarnation,
        /// Drawn at random at each start.
        boot_nonce: u64,
        /// The birth of its store.
        birth: u64,
        /// The address at which it can be dialed, `host:port`.
        address: String,
    },
    /// Asks which daemon listens here, and nothing more.
    Probe {
        /// The name of the prober's cluster.
        cluster: String,
    },
}

/// The answer to a [`Hello`]. A rejection is in words, not a code: whoever reads it may be of any
/// version, also of one that has none in common with this program.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Welcome {
    /// The connection is accepted.
    Accepted {
        /// The name of the cluster that the listener belongs to.
        cluster: String,
        /// The name of the node that answers.
        name: String,
    },
    /// The connection is refused for this reason, and closed after this frame.
    Refused(String),
    /// The connection is refused for good: an operator has removed the dialing node. Its data is
    /// not accepted.
    Removed(String),
    /// To [`Hello::Challenge`]: demands a proof of the dialer.
    Challenge(Nonce),
    /// To [`Hello::Proven`]: the decision, with the listener's proof.
    Proven {
        /// The encoded `Accepted`, `Refused` or `Removed`.
        welcome: Blob,
        /// Proves that the listener has the same key.
        proof: Proof,
    },
    /// To [`Hello::Probe`]: the identity of the daemon that listens here.
    Probed {
        /// The name of the node.
        name: String,
        /// The birth of its store.
        birth: u64,
        /// The boot nonce of the process.
        boot_nonce: u64,
    },
    /// To [`Hello::Member`]: another daemon with the same identity runs, and was probed. The dialer
    /// is a copy and does not serve.
    Duplicate(String),
}

fn codec<const LIMIT: usize>() -> Configuration<LittleEndian, Varint, Limit<LIMIT>> {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Nothing that is appended to memory can fail, and no type of this crate has a value without an
/// encoding. Were it otherwise, a record or a message cut short would do harm: it is a panic.
fn whole(encoded: Result<(), EncodeError>) {
    if let Err(error) = encoded {
        panic!("a message or a record cannot be encoded: {error}");
    }
}

/// A message's bytes. Panics if the type has a value that cannot be encoded, which none of this
/// crate has.
pub fn encode<T: Encode>(message: &T) -> Vec<u8> {
    encode_behind(&[], message, 0)
}

/// The same behind `head`, with room for `tail` bytes more. The space is taken at once: one that
/// grows would be copied, and take twice what is needed.
pub fn encode_behind<T: Encode>(head: &[u8], message: &T, tail: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(head.len() + encoded_len(message) + tail);
    bytes.extend_from_slice(head);
    let mut encoder = EncoderImpl::new(Appended(bytes), bincode::config::standard());
    whole(message.encode(&mut encoder));
    encoder.into_writer().0
}

/// A writer that appends encoded bytes to memory.
struct Appended(Vec<u8>);

impl Writer for Appended {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The message in `bytes`, all of them; values keep borrowing them. The error says what is wrong.
pub fn decode<T: for<'de> BorrowDecode<'de, Bytes>>(bytes: &Bytes) -> Result<T, WireError> {
    let fault = |what: String| WireError::Message(bytes.len(), what);
    let config = codec::<MAX_FRAME_BYTES>();
    let (message, used) =
        bincode::borrow_decode_from_slice_with_context(bytes, config, bytes.clone())
            .map_err(|error| fault(error.to_string()))?;
    if used != bytes.len() {
        return Err(fault(format!("{} bytes too many", bytes.len() - used)));
    }
    Ok(message)
}

/// Appends the message as a frame to `out`, with the next seal of the connection if it has one.
pub fn put_frame<T: Encode>(out: &mut BytesMut, message: &T, seal: Option<&mut Seal>) {
    put_checked(out, message, Check::of(seal, Checksum::default()));
}

/// The same with any check.
pub fn put_checked<T: Encode>(out: &mut BytesMut, message: &T, check: Check<'_>) {
    let payload = encode(message);
    out.reserve(FRAME_HEAD_BYTES + payload.len());
    out.put_slice(&head_of(&payload, check));
    out.put_slice(&payload);
}

fn head_of(payload: &[u8], check: Check<'_>) -> [u8; FRAME_HEAD_BYTES] {
    let mut head = [0; FRAME_HEAD_BYTES];
    let mut out = &mut head[..];
    out.put_u32((payload.len() + FRAME_HEAD_BYTES - 4) as u32);
    out.put_u64(check.of_payload(payload));
    head
}

/// A frame that [`frame`] made, in two parts, with the next seal of a connection. Its payload is
/// not copied.
pub fn sealed(frame: &Bytes, seal: &mut Seal) -> [Bytes; 2] {
    let payload = frame.slice(FRAME_HEAD_BYTES.min(frame.len())..);
    let head = head_of(&payload, Check::Seal(seal));
    [Bytes::copy_from_slice(&head), payload]
}

/// The message as a frame of its own, to be shared by several connections.
pub fn frame<T: Encode>(message: &T) -> Bytes {
    checked_frame(message, Checksum::default())
}

/// The same with any checksum.
pub fn checked_frame<T: Encode>(message: &T, checksum: Checksum) -> Bytes {
    let mut bytes = encode_behind(&[0; FRAME_HEAD_BYTES], message, 0);
    let (head, payload) = bytes.split_at_mut(FRAME_HEAD_BYTES);
    head.copy_from_slice(&head_of(payload, Check::Sum(checksum)));
    bytes.into()
}

/// The length of the message as a frame, without making it.
pub fn frame_len<T: Encode>(message: &T) -> usize {
    FRAME_HEAD_BYTES + encoded_len(message)
}

/// How many bytes [`encode`] makes of a message, without making them.
pub fn encoded_len<T: Encode>(message: &T) -> usize {
    let config = bincode::config::standard();
    let mut encoder = EncoderImpl::new(SizeWriter::default(), config);
    whole(message.encode(&mut encoder));
    encoder.into_writer().bytes_written
}

/// Takes the next frame's payload off `input`; `None` when it is not complete yet. A length over
/// `limit` bytes is refused before it is waited for.
pub fn take_frame(input: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, WireError> {
    take_sealed(input, limit, None)
}

/// The same from a connection whose frames are sealed, if this is one.
pub fn take_sealed(
    input: &mut BytesMut,
    limit: usize,
    seal: Option<&mut Seal>,
) -> Result<Option<Bytes>, WireError> {
    take_checked(input, limit, Check::of(seal, Checksum::default()))
}

/// The same with any check.
pub fn take_checked(
    input: &mut BytesMut,
    limit: usize,
    check: Check<'_>,
) -> Result<Option<Bytes>, WireError> {
    let Some(head) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > limit || length < FRAME_HEAD_BYTES - 4 {
        return Err(WireError::FrameLength(length, limit));
    }
    if input.len() < 4 + length {
        return Ok(None);
    }
    input.advance(4);
    let mut frame = input.split_to(length).freeze();
    let is_sealed = matches!(check, Check::Seal(_));
    let fault = if is_sealed { WireError::Seal } else { WireError::Checksum };
    let checksum = frame.get_u64();
    if checksum != check.of_payload(&frame) {
        return Err(fault(length));
    }
    Ok(Some(frame))
}

/// The bytes that open a connection, each way, of a side that takes [`Checksum::Blake3`] only.
pub fn preamble() -> [u8; PREAMBLE_BYTES] {
    preamble_of(PROTOCOL)
}

/// The same of a side that takes every [`Checksum`].
pub fn offer() -> [u8; PREAMBLE_BYTES] {
    preamble_of(PROTOCOL | READS_CRC32)
}

fn preamble_of(highest: u16) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    let mut out = &mut bytes[..];
    out.put_slice(&MAGIC);
    out.put_u16(OLDEST_PROTOCOL);
    out.put_u16(highest);
    bytes
}

/// What guards the frames that are sent to the side with this preamble, behind the handshake. Both
/// sides that know the cheaper checksum come to the same.
pub fn checksum_for(preamble: &[u8; PREAMBLE_BYTES]) -> Checksum {
    match preamble.last_chunk() {
        Some(highest) if u16::from_be_bytes(*highest) & READS_CRC32 != 0 => Checksum::Crc32,
        _ => Checksum::Blake3,
    }
}

/// Checks the other side's preamble. Returns the highest common version, which both sides use.
pub fn check_preamble(bytes: &[u8; PREAMBLE_BYTES]) -> Result<u16, WireError> {
    let (magic, mut versions) = bytes.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(WireError::Magic(magic.escape_ascii().to_string()));
    }
    let (low, high) = (versions.get_u16(), versions.get_u16() & !READS_CRC32);
    let common = high.min(PROTOCOL);
    if low > high || common < low.max(OLDEST_PROTOCOL) {
        return Err(WireError::Version(low, high));
    }
    Ok(common)
}

/// A context as clients carry it: version, content, and a seal over the content and the key, so
/// that a context that was altered or belongs to another key is noticed. Not a secret: it guards
/// against accidents.
pub fn seal(key: &Key, context: &Context) -> Blob {
    let mut bytes = encode_behind(&[CONTEXT_VERSION], context, SEAL_BYTES);
    let seal = hash64(&[b"context", key.as_bytes(), &bytes]);
    bytes.extend(seal.to_be_bytes());
    Blob(bytes.into())
}

/// The context inside a sealed one, or `None` if it is not one of this key.
pub fn unseal(key: &Key, sealed: &Blob) -> Option<Context> {
    let split = sealed.0.len().checked_sub(SEAL_BYTES)?;
    let (body, seal) = (sealed.0.slice(..split), sealed.0.slice(split..));
    if hash64(&[b"context", key.as_bytes(), &body]).to_be_bytes() != *seal {
        return None;
    }
    if body.first() != Some(&CONTEXT_VERSION) {
        return None;
    }
    decode(&body.slice(1..)).ok()
}
