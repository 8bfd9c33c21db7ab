//! A ring's bytes, on disk and on the wire. What is decoded is checked: it may come from a peer.

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::change::{Change, Step, Table, union};
use super::{Ring, RingError, RingMember, check};
use crate::types::NodeId;

/// Set in `n` of a ring in a change: its other table follows. A program that does not know changes
/// refuses such an n.
const IN_CHANGE: u8 = 0x80;

/// The table that reads ask. Homes are places in the sorted list of members, N for each partition.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Settled {
    version: u64,
    n: u8,
    partitions: u16,
    members: Vec<RingMember>,
    homes: Vec<u16>,
}

/// What follows it in a change.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Other {
    step: Step,
    cancelled: bool,
    members: Vec<RingMember>,
    homes: Vec<u16>,
    dead: Vec<NodeId>,
}

/// Homes as places in the list of members.
fn places(members: &[RingMember], homes: &[Vec<NodeId>]) -> Vec<u16> {
    let place = |id: &NodeId| members.binary_search_by_key(id, |member| member.id).ok();
    homes.iter().flatten().filter_map(place).map(|at| at as u16).collect()
}

impl Encode for Ring {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let (version, n, partitions) = (self.version, self.n, self.partitions());
        let Some(change) = &self.change else {
            let (members, homes) = (self.members.clone(), places(&self.members, &self.homes));
            return Settled { version, n, partitions, members, homes }.encode(encoder);
        };
        let (members, homes) = (change.members.clone(), places(&change.members, &self.homes));
        Settled { version, n: n | IN_CHANGE, partitions, members, homes }.encode(encoder)?;
        let Change { step, cancelled, dead, other: Table { members, homes }, .. } = change.clone();
        let homes = places(&members, &homes);
        Other { step, cancelled, members, homes, dead }.encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Ring {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let reads = Settled::borrow_decode(decoder)?;
        let other = match reads.n & IN_CHANGE {
            0 => None,
            _ => Some(Other::borrow_decode(decoder)?),
        };
        made(reads, other).map_err(|error| DecodeError::OtherString(error.to_string()))
    }
}

fn made(reads: Settled, other: Option<Other>) -> Result<Ring, RingError> {
    let Settled { version, n, partitions, members, homes } = reads;
    let n = n & !IN_CHANGE;
    let Table { members, homes } = table(version, n, partitions, members, &homes)?;
    let Some(Other { step, cancelled, members: theirs, homes: their_homes, dead }) = other else {
        return Ok(Ring { version, members, homes, n, change: None });
    };
    let other = table(version, n, partitions, theirs, &their_homes)?;
    let all = union(
        if step == Step::Fill { &members } else { &other.members },
        if step == Step::Fill { &other.members } else { &members },
    );
    let known = |id: &NodeId| all.binary_search_by_key(id, |member| member.id).is_ok();
    if !dead.is_sorted() || !dead.iter().all(known) {
        return Err(RingError::Homes { version, partitions, n });
    }
    let change = Some(Change { step, cancelled, members, other, dead });
    Ok(Ring { version, members: all, homes, n, change })
}

/// A table from a disk or a peer, checked.
fn table(
    version: u64,
    n: u8,
    partitions: u16,
    given: Vec<RingMember>,
    homes: &[u16],
) -> Result<Table, RingError> {
    let members = check(&given, n, partitions)?;
    let wrong = RingError::Homes { version, partitions, n };
    if homes.len() != usize::from(n) * usize::from(partitions) || members != given {
        return Err(wrong);
    }
    let id = |at: &u16| members.get(usize::from(*at)).map(|member| member.id);
    let homes = homes
        .chunks(usize::from(n))
        .map(|places| places.iter().map(id).collect::<Option<Vec<NodeId>>>())
        .collect::<Option<Vec<_>>>();
    let distinct = |ids: &Vec<NodeId>| (1..ids.len()).all(|at| !ids[..at].contains(&ids[at]));
    match homes {
        Some(homes) if homes.iter().all(distinct) => Ok(Table { members, homes }),
        _ => Err(wrong),
    }
}
