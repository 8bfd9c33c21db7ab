//! The members of a cluster, with their addresses, incarnations and status. The list is a join
//! semilattice: lists merge in any order to the same one, and the configured list is below all
//! others.

use std::fmt;
use std::sync::Arc;

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::types::{MAX_NAME_BYTES, NodeId, hash64};

const MAX_ADDRESS_BYTES: usize = 261;

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Member {
    /// Its name, from which its id follows.
    pub name: String,
    /// Where it listens, `host:port`.
    pub address: String,
    /// The incarnation that announced the address; 0 in the configured list.
    pub incarnation: Incarnation,
    /// The status that the operator's latest command gave it.
    pub membership: MembershipStatus,
    /// The number of the operator's command that set the status; 0 in the configured list.
    pub version: u64,
}

/// The status that an operator's command gives a member. `Removed` is final: such an id never
/// returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum MembershipStatus {
    /// It is joining, and owns no partitions yet.
    Joining,
    /// A valid member, as the configured list has them.
    Member,
    /// On its way out.
    Leaving,
    /// Removed for good: a merge keeps this status over any other.
    Removed,
}

/// What one node holds about another one; it is never gossiped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Liveness {
    /// It is heard from at its usual intervals.
    #[default]
    Up,
    /// It has been silent for surprisingly long.
    Suspect,
    /// It has been silent for so long that nothing is sent to it but gossip.
    Down,
}

/// The number of an incarnation: how often the store of a node has been started, 1 the first time.
/// It never falls on one disk; of two numbers of one node, the higher is that of the later one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode,
)]
#[bincode(decode_context = "Bytes")]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Before the first one, and of what the configuration says.
    pub const NONE: Incarnation = Incarnation(0);

    /// The one that follows. The highest number, which only a peer can have made up, follows
    /// itself.
    #[must_use]
    pub const fn next(self) -> Self {
        Incarnation(self.0.saturating_add(1))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A member's sign of life. One of a later incarnation is greater than all of earlier ones.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode,
)]
#[bincode(decode_context = "Bytes")]
pub struct Heartbeat {
    /// The incarnation of the member that sent it.
    pub incarnation: Incarnation,
    /// Counts up in that incarnation.
    pub count: u64,
}

impl Member {
    /// A member as the configuration names it.
    pub fn configured(name: impl Into<String>, address: impl Into<String>) -> Self {
        let (incarnation, membership, version) = (Incarnation::NONE, MembershipStatus::Member, 0);
        Member { name: name.into(), address: address.into(), incarnation, membership, version }
    }

    /// Takes over what `other`, the same member elsewhere, knows better. The newest incarnation
    /// decides the address, the newest command the status. Ties go by order, so that all merges
    /// agree.
    pub fn merge(&mut self, other: &Member) {
        if other.incarnation() > self.incarnation() {
            self.incarnation = other.incarnation;
            self.address.clone_from(&other.address);
        }
        if other.rank() > self.rank() {
            (self.membership, self.version) = (other.membership, other.version);
        }
    }

    /// True if `other`, the same member elsewhere, knows anything better.
    fn is_behind(&self, other: &Member) -> bool {
        other.incarnation() > self.incarnation() || other.rank() > self.rank()
    }

    fn incarnation(&self) -> (Incarnation, &str) {
        (self.incarnation, &self.address)
    }

    fn rank(&self) -> (bool, u64, MembershipStatus) {
        (self.membership == MembershipStatus::Removed, self.version, self.membership)
    }

    /// The member's id: the hash of its name.
    pub fn id(&self) -> NodeId {
        NodeId::of(&self.name)
    }
}

/// One incarnation of a node's store. It distinguishes a restart from a disk that was rolled back
/// or copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct IncarnationId {
    /// How often the store has been started; higher than any that a peer has seen.
    pub incarnation: Incarnation,
    /// Drawn at random at each start.
    pub nonce: u64,
}

impl IncarnationId {
    /// True if `other` is an incarnation of the same node that this one does not follow: a later
    /// one, or one that began from the same disk.
    pub fn is_outdated_by(self, other: IncarnationId) -> bool {
        other.incarnation > self.incarnation
            || (other.incarnation == self.incarnation && other.nonce != self.nonce)
    }
}

/// A cluster's identity: the stores that founded it. A member whose store is not among them has
/// come later, or has lost its disk.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Cluster {
    /// A hash of the cluster's name and its founders.
    pub id: u64,
    /// Each founding member and the birth of its store, sorted.
    pub founders: Vec<(NodeId, u64)>,
}

impl Cluster {
    /// The cluster called `name` that these members, each with the birth of its store, found.
    pub fn found(name: &str, mut founders: Vec<(NodeId, u64)>) -> Self {
        founders.sort_unstable();
        let numbers = founders.iter().flat_map(|(node, store)| [node.0, *store]);
        let bytes: Vec<u8> = numbers.flat_map(u64::to_be_bytes).collect();
        Cluster { id: hash64(&[b"cluster", name.as_bytes(), &bytes]), founders }
    }
}

/// All members, sorted by name. Copies share the list until one of them learns something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    list: Arc<Vec<Member>>,
    /// Each member's id and its place in the list, sorted: an id is a hash of the name, too
    /// expensive to compute for every member at every search.
    places: Arc<Vec<(NodeId, usize)>>,
}

impl Encode for Members {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.list.encode(encoder)
    }
}

impl<'de> BorrowDecode<'de, Bytes> for Members {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Bytes>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        Vec::borrow_decode(decoder).map(Members::indexed)
    }
}

impl Members {
    /// The members, in any order; names are checked by [`check_name`] before they come here.
    pub fn new(mut members: Vec<Member>) -> Self {
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Members::indexed(members)
    }

    fn indexed(list: Vec<Member>) -> Self {
        let ids = list.iter().map(Member::id);
        let mut places: Vec<(NodeId, usize)> = ids.zip(0..).collect();
        places.sort_unstable();
        Members { list: Arc::new(list), places: Arc::new(places) }
    }

    fn place(&self, id: NodeId) -> Option<usize> {
        let first = self.places.partition_point(|(known, _)| *known < id);
        self.places.get(first).filter(|(known, _)| *known == id).map(|(_, place)| *place)
    }

    /// Every member, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.iter()
    }

    /// Every member's id, in the order of the names.
    pub fn ids(&self) -> Vec<NodeId> {
        self.list.iter().map(Member::id).collect()
    }

    /// The member with this id.
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.place(id).and_then(|place| self.list.get(place))
    }

    /// Takes over newer entries about members of this list; true if there was any.
    pub fn merge<'a>(&mut self, others: impl IntoIterator<Item = &'a Member>) -> bool {
        let mut learnt = false;
        for other in others {
            let Some(place) = self.place(other.id()) else { continue };
            if self.list.get(place).is_some_and(|own| own.is_behind(other)) {
                Arc::make_mut(&mut self.list)[place].merge(other);
                learnt = true;
            }
        }
        learnt
    }

    /// Takes over all of another list, with the members that are not in this one.
    pub fn adopt(&mut self, other: &Members) {
        self.merge(other.iter());
        let mut all: Vec<Member> = self.iter().cloned().collect();
        all.extend(other.iter().filter(|member| self.get(member.id()).is_none()).cloned());
        *self = Members::new(all);
    }

    /// A digest of all that the list says: equal for equal lists.
    pub fn digest(&self) -> u64 {
        let mut parts: Vec<Vec<u8>> = vec![b"members".to_vec()];
        for Member { name, address, incarnation, membership, version } in self.list.iter() {
            parts.push([name.as_bytes(), &[0], address.as_bytes()].concat());
            let numbers = [incarnation.0, *version, *membership as u64];
            parts.push(numbers.into_iter().flat_map(u64::to_be_bytes).collect());
        }
        hash64(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// The member's name, or its id in hex for a stranger.
    pub fn name(&self, id: NodeId) -> String {
        self.get(id).map_or_else(|| format!("{id:?}"), |member| member.name.clone())
    }
}

/// Says what is wrong with the name of a node or a cluster: `what` names the thing.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        return Err(format!(
            "{what} \"{}\": a name has 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.'",
            name.escape_debug()
        ));
    }
    Ok(())
}

/// The host of `host:port`, or what is wrong with it.
pub fn check_address<'a>(key: &str, address: &'a str) -> Result<&'a str, String> {
    let fault = || {
        let shown: String = address.chars().take(80).collect();
        format!("{key} = \"{}\": an address is host:port, port 1 to 65535", shown.escape_debug())
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(fault)?;
    let port: u16 = port.parse().map_err(|_| fault())?;
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if port == 0 || host.is_empty() || host.contains(odd) || address.len() > MAX_ADDRESS_BYTES {
        return Err(fault());
    }
    Ok(host)
}

/// The same for an address that an operator has just written: an IPv6 address needs brackets, so
/// that its last part is not taken for a port.
pub fn check_written<'a>(key: &str, address: &'a str) -> Result<&'a str, String> {
    if address.matches(':').count() > 1 && !address.starts_with('[') {
        let shown: String = address.chars().take(80).collect();
        return Err(format!(
            "{key} = \"{}\": an IPv6 address is in brackets, with the port behind them, \
             as in [fd00::2]:7432",
            shown.escape_debug()
        ));
    }
    check_address(key, address)
}
