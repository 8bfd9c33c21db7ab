//! What protocol 6 says otherwise: English sentences where there are codes now, and the levels,
//! troubles and rings of a status as counters. A node that speaks protocol 7 with one of protocol 6
//! sends [`Before`] and takes what it gets as [`Before`].
//!
//! A code becomes the sentence that it stands for, and a sentence `Text`. All of this goes when
//! protocol 6 is no longer spoken.

use bincode::de::BorrowDecoder;
use bincode::de::read::Reader;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

mod names;

use names::{CHANGING_RING, of_old_name, old_name};

use super::{
    Blocked, Body, ComparisonFault, Complaint, Counter, DrainRejection, DrainReport,
    EmulateRejection, Gauges, LossRejection, Measure, NotYet, PairStatus, PeerMessage, PeerStatus,
    QuorumName, Rejection, RepairCounts, RepairRejection, RepairReport, RepairStatus,
    ReplaceRejection, Replacement, Reply, ReplyBody, RequestId, Resource, Response, StatusReport,
    TombstoneGcStatus,
};
use crate::members::Incarnation;
use crate::ring::RingId;
use crate::types::{NodeId, Partition};

/// A message as protocol 6 has it on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before<T>(pub T);

/// The numbers of the variants that have changed.
mod variant {
    pub(super) const BODY_COORDINATED: u32 = 1;
    pub(super) const BODY_FAILED: u32 = 18;
    pub(super) const BODY_NOT_YET: u32 = 30;
    pub(super) const RESPONSE_REFUSED: u32 = 3;
    pub(super) const REJECTION_QUORUM: u32 = 2;
    pub(super) const REJECTION_BUSY: u32 = 8;
    pub(super) const REJECTION_LIMIT: u32 = 22;
    pub(super) const REPLY_DATA: u32 = 0;
    pub(super) const REPLY_STATUS: u32 = 2;
    pub(super) const REPLY_EMULATED: u32 = 3;
    pub(super) const REPLY_REPAIR: u32 = 5;
    pub(super) const REPLY_REPLACE: u32 = 6;
    pub(super) const REPLY_DRAIN: u32 = 7;
    pub(super) const REPLY_LOSS_ACCEPTED: u32 = 10;
}

/// The number of the variant that comes next, which stays to be read. Those of all enums here take
/// one byte; what is written with more of them, no program has written.
fn next_variant<'de, D: BorrowDecoder<'de>>(decoder: &mut D) -> Result<u32, DecodeError> {
    match decoder.reader().peek_read(1) {
        Some([byte @ ..251]) => Ok((*byte).into()),
        _ => Err(DecodeError::Other("no variant of protocol 6")),
    }
}

/// What is behind the number of a variant.
fn behind<'de, D, T>(decoder: &mut D) -> Result<T, DecodeError>
where
    D: BorrowDecoder<'de, Context = Bytes>,
    T: BorrowDecode<'de, Bytes>,
{
    u32::borrow_decode(decoder)?;
    T::borrow_decode(decoder)
}

macro_rules! decoded {
    ($type:ty) => {
        impl<'de> BorrowDecode<'de, Bytes> for Before<$type> {
            fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
                decoder: &mut D,
            ) -> Result<Self, DecodeError> {
                <$type as Changed>::decode(decoder).map(Before)
            }
        }

        impl Encode for Before<$type> {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                Changed::encode(&self.0, encoder)
            }
        }
    };
}

/// A type whose encoding in protocol 6 differs from that of protocol 7.
trait Changed: Sized {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError>;

    fn decode<'de, D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError>;
}

decoded!(PeerMessage);
decoded!(Reply);
decoded!(Body);
decoded!(ReplyBody);
decoded!(Response);
decoded!(Rejection);

impl Changed for PeerMessage {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.request_id.encode(encoder)?;
        Changed::encode(&self.body, encoder)
    }

    fn decode<'de, D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let (ring, request_id) = (RingId::UNSAID, RequestId::borrow_decode(decoder)?);
        Ok(PeerMessage { ring, request_id, body: Changed::decode(decoder)? })
    }
}

impl Changed for Reply {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.id.encode(encoder)?;
        Changed::encode(&self.body, encoder)
    }

    fn decode<'de, D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let id = u64::borrow_decode(decoder)?;
        Ok(Reply { id, body: Changed::decode(decoder)? })
    }
}

impl Changed for Body {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        match self {
            Body::Coordinated(response) => {
                variant::BODY_COORDINATED.encode(encoder)?;
                Changed::encode(response, encoder)
            }
            Body::Failed(rejection) => {
                variant::BODY_FAILED.encode(encoder)?;
                Changed::encode(rejection, encoder)
            }
            Body::NotYet(why) => (variant::BODY_NOT_YET, why.to_string()).encode(encoder),
            same => Encode::encode(same, encoder),
        }
    }

    fn decode<'de, D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        match next_variant(decoder)? {
            variant::BODY_COORDINATED => {
                behind(decoder).map(|Before(response)| Body::Coordinated(response))
            }
            variant::BODY_FAILED => {
                behind(decoder).map(|Before(rejection)| Body::Failed(rejection))
            }
            variant::BODY_NOT_YET => behind(decoder).map(|text| Body::NotYet(NotYet::Text(text))),
            _ => Body::borrow_decode(decoder),
        }
    }
}

impl Changed for Response {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        match self {
            Response::Refused(rejection) => {
                variant::RESPONSE_REFUSED.encode(encoder)?;
                Changed::encode(rejection, encoder)
            }
            same => Encode::encode(same, encoder),
        }
    }

    fn decode<'de, D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        match next_variant(decoder)? {
            variant::RESPONSE_REFUSED => {
                behind(decoder).map(|Before(rejection)| Response::Refused(rejection))
            }
            _ => Response::borrow_decode(decoder),
        }
    }
}

impl Changed for Rejection {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        match self {
            Rejection::Quorum { name, given, n } => {
                (variant::REJECTION_QUORUM, name.to_string(), given, n).encode(encoder)
            }
            Rejection::Busy { what, limit } => {
                (variant::REJECTION_BUSY, what.to_string(), limit).encode(encoder)
            }
            Rejection::Limit { what, given, limit } => {
                (variant::REJECTION_LIMIT, what.to_string(), given, limit).encode(encoder)
            }
            same => Encode::encode(same, encoder),
        }
    }

    fn decode<'de, D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        match next_variant(decoder)? {
            variant::REJECTION_QUORUM => behind(decoder).map(|(name, given, n)| {
                Rejection::Quorum { name: QuorumName::Text(name), given, n }
            }),
            variant::REJECTION_BUSY => behind(decoder)
                .map(|(what, limit)| Rejection::Busy { what: Resource::Text(what), limit }),
            variant::REJECTION_LIMIT => behind(decoder).map(|(what, given, limit)| {
                Rejection::Limit { what: Measure::Text(what), given, limit }
            }),
            _ => Rejection::borrow_decode(decoder),
        }
    }
}

/// What was not done, with the reason in words.
fn worded<T: Clone, E: ToString>(done: &Result<T, E>) -> Result<T, String> {
    match done {
        Ok(done) => Ok(done.clone()),
        Err(why) => Err(why.to_string()),
    }
}

impl Changed for ReplyBody {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        match self {
            ReplyBody::Data(response) => {
                variant::REPLY_DATA.encode(encoder)?;
                Changed::encode(response, encoder)
            }
            ReplyBody::Status(report) => {
                (variant::REPLY_STATUS, Status::from(StatusReport::clone(report))).encode(encoder)
            }
            ReplyBody::Emulated(done) => (variant::REPLY_EMULATED, worded(done)).encode(encoder),
            ReplyBody::Repair(done) => {
                let done = worded(done).map(Repair::from);
                (variant::REPLY_REPAIR, done).encode(encoder)
            }
            ReplyBody::Replace(done) => (variant::REPLY_REPLACE, worded(done)).encode(encoder),
            ReplyBody::Drain(done) => (variant::REPLY_DRAIN, worded(done)).encode(encoder),
            ReplyBody::LossAccepted(done) => {
                (variant::REPLY_LOSS_ACCEPTED, worded(done)).encode(encoder)
            }
            same => Encode::encode(same, encoder),
        }
    }

    fn decode<'de, D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        match next_variant(decoder)? {
            variant::REPLY_DATA => {
                behind(decoder).map(|Before(response)| ReplyBody::Data(response))
            }
            variant::REPLY_STATUS => behind::<D, Status>(decoder)
                .map(|report| ReplyBody::Status(Box::new(report.into()))),
            variant::REPLY_EMULATED => {
                let done: Result<Vec<String>, String> = behind(decoder)?;
                Ok(ReplyBody::Emulated(done.map_err(EmulateRejection::Text)))
            }
            variant::REPLY_REPAIR => {
                let done: Result<Repair, String> = behind(decoder)?;
                let done = done.map(RepairReport::from).map_err(RepairRejection::Text);
                Ok(ReplyBody::Repair(done))
            }
            variant::REPLY_REPLACE => {
                let done: Result<Replacement, String> = behind(decoder)?;
                Ok(ReplyBody::Replace(done.map_err(ReplaceRejection::Text)))
            }
            variant::REPLY_DRAIN => {
                let done: Result<DrainReport, String> = behind(decoder)?;
                Ok(ReplyBody::Drain(done.map_err(DrainRejection::Text)))
            }
            variant::REPLY_LOSS_ACCEPTED => {
                let done: Result<u32, String> = behind(decoder)?;
                Ok(ReplyBody::LossAccepted(done.map_err(LossRejection::Text)))
            }
            _ => ReplyBody::borrow_decode(decoder),
        }
    }
}

/// A [`StatusReport`] of protocol 6.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Status {
    cluster: String,
    name: String,
    version: String,
    store: u64,
    incarnation: Incarnation,
    recovered: bool,
    serving: bool,
    read_ineligible: u32,
    uptime_ms: u64,
    partitions: u32,
    disk_bytes: u64,
    peers: Vec<PeerStatus>,
    hint_limit_bytes: u64,
    emulated: Vec<String>,
    /// Levels, troubles and rings among them, under names of their own.
    counters: Vec<(String, u64)>,
    repair: Failing,
    tombstone_gc: Purged,
}

/// A [`RepairStatus`] of protocol 6.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Failing {
    unread: u32,
    damaged: u64,
    pending: u32,
    failing: u32,
    example: Option<(Partition, NodeId, String)>,
}

/// A [`TombstoneGcStatus`] of protocol 6.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Purged {
    keys: u64,
    blocked: u32,
    example: Option<(Partition, String)>,
}

/// The names of levels among the counters of protocol 6. Each is there only while it is not 0.
const DRAINED: &str = "drained";
const OVERSIZED_KEYS: &str = "oversized_keys";
const PARTITIONS_LOST: &str = "partitions_lost";
const STORE_STALLED: &str = "store_stalled_seconds";
const UNSERVABLE: &str = "unservable_partitions";
/// What the names of members begin with that live with another ring: its version is the count.
const RING_VERSION_OF: &str = "ring_version_of_";
/// What a sentence for the operator begins with.
const ERROR: &str = "trouble: ";

impl From<StatusReport> for Status {
    fn from(report: StatusReport) -> Self {
        let gauges = &report.gauges;
        let named = [
            (DRAINED, gauges.drained.into()),
            (CHANGING_RING, gauges.changing_ring.into()),
            (OVERSIZED_KEYS, gauges.oversized_keys),
            (PARTITIONS_LOST, gauges.partitions_lost),
            (STORE_STALLED, gauges.store_stalled_seconds),
            (UNSERVABLE, gauges.unservable_partitions),
        ];
        let gauges = named.into_iter().filter(|(_, level)| *level > 0);
        let named = |counter: &Counter| !matches!(counter, Counter::Other(_));
        let counts = report.counters.iter().filter(|(counter, _)| named(counter));
        let counts = counts.map(|(counter, count)| (old_name(*counter), *count));
        let mut counters: Vec<(String, u64)> =
            counts.chain(gauges).map(|(name, count)| (name.to_owned(), count)).collect();
        let rings = report.other_rings.iter();
        counters
            .extend(rings.map(|(name, version)| (format!("{RING_VERSION_OF}{name}"), *version)));
        counters.extend(report.complaints.iter().map(|what| (format!("{ERROR}{what}"), 1)));
        let RepairStatus { unread, damaged, pending, failing, example } = report.repair;
        let example = example.map(|(partition, peer, why)| (partition, peer, why.to_string()));
        let repair = Failing { unread, damaged, pending, failing, example };
        let TombstoneGcStatus { keys, blocked, example } = report.tombstone_gc;
        let example = example.map(|(partition, why)| (partition, why.to_string()));
        Status {
            cluster: report.cluster,
            name: report.name,
            version: report.version,
            store: report.store,
            incarnation: report.incarnation,
            recovered: report.recovered,
            serving: report.serving,
            read_ineligible: report.read_ineligible,
            uptime_ms: report.uptime_ms,
            partitions: report.partitions,
            disk_bytes: report.disk_bytes,
            peers: report.peers,
            hint_limit_bytes: report.hint_limit_bytes,
            emulated: report.emulated,
            counters,
            repair,
            tombstone_gc: Purged { keys, blocked, example },
        }
    }
}

/// Counts that this program has no name for are left out.
impl From<Status> for StatusReport {
    fn from(before: Status) -> Self {
        let mut gauges = Gauges::default();
        let (mut counters, mut other_rings, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
        for (name, count) in before.counters {
            match name.as_str() {
                DRAINED => gauges.drained = count > 0,
                CHANGING_RING => gauges.changing_ring = count > 0,
                OVERSIZED_KEYS => gauges.oversized_keys = count,
                PARTITIONS_LOST => gauges.partitions_lost = count,
                STORE_STALLED => gauges.store_stalled_seconds = count,
                UNSERVABLE => gauges.unservable_partitions = count,
                name => {
                    if let Some(member) = name.strip_prefix(RING_VERSION_OF) {
                        other_rings.push((member.to_owned(), count));
                    } else if let Some(what) = name.strip_prefix(ERROR) {
                        complaints.push(Complaint::Text(what.to_owned()));
                    } else {
                        counters.extend(of_old_name(name).map(|counter| (counter, count)));
                    }
                }
            }
        }
        let Failing { unread, damaged, pending, failing, example } = before.repair;
        let words = |(partition, peer, why)| (partition, peer, ComparisonFault::Text(why));
        let repair =
            RepairStatus { unread, damaged, pending, failing, example: example.map(words) };
        let Purged { keys, blocked, example } = before.tombstone_gc;
        let example = example.map(|(partition, why)| (partition, Blocked::Text(why)));
        StatusReport {
            cluster: before.cluster,
            name: before.name,
            version: before.version,
            store: before.store,
            incarnation: before.incarnation,
            recovered: before.recovered,
            serving: before.serving,
            read_ineligible: before.read_ineligible,
            uptime_ms: before.uptime_ms,
            partitions: before.partitions,
            disk_bytes: before.disk_bytes,
            peers: before.peers,
            hint_limit_bytes: before.hint_limit_bytes,
            emulated: before.emulated,
            counters,
            repair,
            tombstone_gc: TombstoneGcStatus { keys, blocked, example },
            gauges,
            other_rings,
            complaints,
        }
    }
}

/// A [`RepairReport`] of protocol 6.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Repair {
    name: String,
    pairs: Vec<Pair>,
    unreachable: Vec<NodeId>,
    unread: u32,
    damaged: u64,
    counts: RepairCounts,
}

/// A [`PairStatus`] of protocol 6.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Pair {
    partition: Partition,
    peer: NodeId,
    equal_ms: Option<u64>,
    pending: bool,
    failing: Option<String>,
    pulled: u64,
    pushed: u64,
    bytes: u64,
}

impl From<RepairReport> for Repair {
    fn from(report: RepairReport) -> Self {
        let RepairReport { name, pairs, unreachable, unread, damaged, counts } = report;
        let pair = |pair: PairStatus| {
            let PairStatus { partition, peer, equal_ms, pending, pulled, pushed, bytes, .. } = pair;
            let failing = pair.failing.map(|why| why.to_string());
            Pair { partition, peer, equal_ms, pending, failing, pulled, pushed, bytes }
        };
        let pairs = pairs.into_iter().map(pair).collect();
        Repair { name, pairs, unreachable, unread, damaged, counts }
    }
}

impl From<Repair> for RepairReport {
    fn from(before: Repair) -> Self {
        let Repair { name, pairs, unreachable, unread, damaged, counts } = before;
        let pair = |pair: Pair| {
            let Pair { partition, peer, equal_ms, pending, failing, pulled, pushed, bytes } = pair;
            let failing = failing.map(ComparisonFault::Text);
            PairStatus { partition, peer, equal_ms, pending, failing, pulled, pushed, bytes }
        };
        let pairs = pairs.into_iter().map(pair).collect();
        RepairReport { name, pairs, unreachable, unread, damaged, counts }
    }
}
