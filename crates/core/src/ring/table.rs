//! A ring's bytes, on disk and on the wire. What is decoded is checked: it may come from a peer.

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::{Ring, RingError, RingMember, check};
use crate::types::NodeId;

/// Owners are places in the sorted list of members, N for each partition.
#[derive(Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
struct Table {
    version: u64,
    n: u8,
    partitions: u16,
    members: Vec<RingMember>,
    owners: Vec<u16>,
}

impl Encode for Ring {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let place = |id: &NodeId| self.members.binary_search_by_key(id, |member| member.id).ok();
        let owners = self.owners.iter().flatten().filter_map(place).map(|at| at as u16).collect();
        let (version, members) = (self.version, self.members.clone());
        Table { version, n: self.n, partitions: self.partitions(), members, owners }.encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Ring {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let table = Table::borrow_decode(decoder)?;
        Ring::try_from(table).map_err(|error| DecodeError::OtherString(error.to_string()))
    }
}

impl TryFrom<Table> for Ring {
    type Error = RingError;

    fn try_from(table: Table) -> Result<Self, RingError> {
        let Table { version, n, partitions, owners, .. } = table;
        let members = check(&table.members, n, partitions)?;
        let wrong = RingError::Owners { version, partitions, n };
        if owners.len() != usize::from(n) * usize::from(partitions) || members != table.members {
            return Err(wrong);
        }
        let id = |at: &u16| members.get(usize::from(*at)).map(|member| member.id);
        let owners = owners
            .chunks(usize::from(n))
            .map(|places| places.iter().map(id).collect::<Option<Vec<NodeId>>>())
            .collect::<Option<Vec<_>>>();
        let distinct = |ids: &Vec<NodeId>| (1..ids.len()).all(|at| !ids[..at].contains(&ids[at]));
        match owners {
            Some(owners) if owners.iter().all(distinct) => Ok(Ring { version, members, owners, n }),
            _ => Err(wrong),
        }
    }
}
