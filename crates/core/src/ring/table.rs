//! A ring's bytes, on disk and on the wire. What is decoded is checked: it may come from a peer.

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::change::{Change, Step, Table, union};
use super::{Ring, RingError, RingMember, check};
use crate::types::NodeId;

/// Set in `n` of a ring in a change: its other table follows. A program that does not know ring
/// changes refuses such an n.
const IN_CHANGE: u8 = 0x80;

/// The table that reads ask. Owners are places in the sorted list of members, N for each partition.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Settled {
    version: u64,
    n: u8,
    partitions: u16,
    members: Vec<RingMember>,
    owners: Vec<u16>,
}

/// What follows it in a change.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Other {
    step: Step,
    members: Vec<RingMember>,
    owners: Vec<u16>,
}

/// Owners as places in the list of members.
fn places(members: &[RingMember], owners: &[Vec<NodeId>]) -> Vec<u16> {
    let place = |id: &NodeId| members.binary_search_by_key(id, |member| member.id).ok();
    owners.iter().flatten().filter_map(place).map(|at| at as u16).collect()
}

impl Encode for Ring {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let (version, n, partitions) = (self.version, self.n, self.partitions());
        let Some(change) = &self.change else {
            let (members, owners) = (self.members.clone(), places(&self.members, &self.owners));
            return Settled { version, n, partitions, members, owners }.encode(encoder);
        };
        let (members, owners) = (change.members.clone(), places(&change.members, &self.owners));
        Settled { version, n: n | IN_CHANGE, partitions, members, owners }.encode(encoder)?;
        let Change { step, other: Table { members, owners }, .. } = change.clone();
        let owners = places(&members, &owners);
        Other { step, members, owners }.encode(encoder)
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
    let Settled { version, n, partitions, members, owners } = reads;
    let n = n & !IN_CHANGE;
    let Table { members, owners } = table(version, n, partitions, members, &owners)?;
    let Some(Other { step, members: theirs, owners: their_owners }) = other else {
        return Ok(Ring { version, members, owners, n, change: None });
    };
    let other = table(version, n, partitions, theirs, &their_owners)?;
    let (old, new) = match step.reads_new() {
        true => (&other.members, &members),
        false => (&members, &other.members),
    };
    let all = union(old, new);
    let change = Some(Change { step, members, other });
    Ok(Ring { version, members: all, owners, n, change })
}

/// A table from a disk or a peer, checked.
fn table(
    version: u64,
    n: u8,
    partitions: u16,
    given: Vec<RingMember>,
    owners: &[u16],
) -> Result<Table, RingError> {
    let members = check(&given, n, partitions)?;
    let wrong = RingError::Owners { version, partitions, n };
    if owners.len() != usize::from(n) * usize::from(partitions) || members != given {
        return Err(wrong);
    }
    let id = |at: &u16| members.get(usize::from(*at)).map(|member| member.id);
    let owners = owners
        .chunks(usize::from(n))
        .map(|places| places.iter().map(id).collect::<Option<Vec<NodeId>>>())
        .collect::<Option<Vec<_>>>();
    let distinct = |ids: &Vec<NodeId>| (1..ids.len()).all(|at| !ids[..at].contains(&ids[at]));
    match owners {
        Some(owners) if owners.iter().all(distinct) => Ok(Table { members, owners }),
        _ => Err(wrong),
    }
}
