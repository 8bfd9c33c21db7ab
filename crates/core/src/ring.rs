//! The ring: the hash space in Q equal partitions, and which nodes own each.
//!
//! A [`Ring`] is a versioned placement table. [`Ring::new`] and [`Ring::place`] make version 1;
//! every later version is a pure function of the one before and the members ([`Ring::next`]), in
//! whole numbers only, so that all nodes compute the same. Of two tables the one that
//! [`Ring::supersedes`] the other is in force.
//!
//! **Zones come first.** A member without a zone is a zone of its own. Let s be the least number
//! for which the sum of min(s, members) over all zones reaches N ([`Ring::spread`]; 1 if there are
//! N zones). Then every partition has at least min(s-1, members) and at most min(s, members)
//! replicas in every zone: N different zones where there are as many, else as even as the zones'
//! sizes permit.
//!
//! **Balance comes second.** A member's share is proportional to its weight, but at most Q (a node
//! holds a partition once), and the shares of a zone add up to what the rule above leaves it: a
//! small zone that must hold a replica of everything has all of it on its few members, and the rest
//! goes to the others by weight. A member's load is its share rounded down or up. So with equal
//! weights, and zones that are none or large enough, no member holds more than N·Q / members
//! rounded up.
//!
//! **Then as little as possible moves.** The shares are rounded as near as possible to what the
//! members hold (`ring/shares.rs`), and a minimum-cost flow finds the table with these loads that
//! moves least (`ring/flow.rs`). A join must move what the new member then holds, a leave what the
//! old one held; to this may come 15 % or 2 replicas, whichever is more. Where weights or zones
//! make that too little (a member close to Q can take only the few partitions that it lacks), the
//! loads give way instead, no further than needed: up to a quarter of the share, rounded up, on
//! either side of it. Later changes bring them back. A change of a weight or a zone moves what it
//! takes, and then all loads are exact.

mod change;
mod flow;
mod moves;
mod plan;
mod shares;
mod table;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::types::{Key, MAX_MEMBERS, MAX_N, MAX_PARTITIONS, NodeId, Partition, first_u64, hash64};
use change::Change;
pub use change::{Pair, Step};
pub use moves::{Edit, MemberMoves, PlanFault, RingPlan, target};
use plan::Plan;
use shares::Layout;

/// The weight of a member for which none is given.
pub const DEFAULT_WEIGHT: u16 = 100;
/// Largest weight of a member. The smallest is 1.
pub const MAX_WEIGHT: u16 = 1_000;

/// How far a load may be from its share, at most, in parts of [`WHOLE`].
const MAX_SLACK: usize = 16;
const WHOLE: usize = 64;

/// Why a ring cannot be made. No table was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// N outside its bounds.
    #[error("n = {0}: every key is kept on 1 to {MAX_N} nodes")]
    Replicas(u8),
    /// Fewer members than replicas.
    #[error("n = {n} replicas need as many members, and there are {members}")]
    TooFewMembers {
        /// The replication factor that was asked for.
        n: u8,
        /// The number of members that were given.
        members: usize,
    },
    /// More members than a cluster has.
    #[error("{0} members: a cluster has at most {MAX_MEMBERS}")]
    TooManyMembers(usize),
    /// The same member named twice.
    #[error("a member is named twice")]
    Duplicate,
    /// Q outside its bounds.
    #[error("partitions = {0}: the hash space is cut in 1 to {MAX_PARTITIONS}")]
    Partitions(u16),
    /// A weight outside its bounds.
    #[error("weight = {0}: a member's weight is 1 to {MAX_WEIGHT}")]
    Weight(u16),
    /// A change of a member that the ring does not have.
    #[error("{0:?} is not among the members that the ring has")]
    Stranger(NodeId),
    /// No version number is left.
    #[error("the ring has version {0}, and none comes after it")]
    Version(u64),
    /// A change that changes nothing.
    #[error("nothing changes")]
    Unchanged,
    /// A change of a ring that is between two tables.
    #[error("ring version {0} is in a change, which has to end or be cancelled first")]
    Changing(u64),
    /// Two rings of other sizes: n and the number of partitions are fixed.
    #[error("ring versions {0} and {1} have other numbers of replicas or partitions")]
    Sizes(u64, u64),
    /// A table from disk or from a peer that no node could have made.
    #[error(
        "ring version {version}: not every one of {partitions} partitions has {n} distinct members"
    )]
    Owners {
        /// The version that the table claims.
        version: u64,
        /// The number of partitions of the table.
        partitions: u16,
        /// Number of owners that each partition must have.
        n: u8,
    },
}

/// Nodes that fail together (a rack, a room, a site): the hash of the zone's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct Zone(pub u64);

impl Zone {
    /// The zone called `name`.
    pub fn of(name: &str) -> Self {
        Zone(hash64(&[b"zone", name.as_bytes()]))
    }
}

/// A member as the ring sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RingMember {
    /// The id of the member, by which members are sorted.
    pub id: NodeId,
    /// How much of the data it takes beside the others, 1 to [`MAX_WEIGHT`]: one of weight 200 owns
    /// twice as many partitions as one of weight 100. Only the ratios matter.
    pub weight: u16,
    /// The zone that it is in; `None`: a zone of its own.
    pub zone: Option<Zone>,
}

impl RingMember {
    /// A member of the default weight and no zone.
    pub fn plain(id: NodeId) -> Self {
        RingMember { id, weight: DEFAULT_WEIGHT, zone: None }
    }
}

/// Names a placement table. Where two are known, the one with the higher id is in force: the higher
/// version, then the higher digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub struct RingId {
    /// The number of the table, [`Ring::version`].
    pub version: u64,
    /// The digest of its content, [`Ring::digest`].
    pub digest: u64,
}

impl RingId {
    /// Of a message that does not say which ring it is of: its sender speaks a protocol before 9.
    pub const UNSAID: RingId = RingId { version: 0, digest: 0 };
}

/// A placement table: the owners of every partition. A ring in a change has a second one
/// (`ring/change.rs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    version: u64,
    /// All that have a place, in either table.
    members: Vec<RingMember>,
    /// The owners that reads query, by partition.
    owners: Vec<Vec<NodeId>>,
    n: u8,
    change: Option<Change>,
}

impl Ring {
    /// Version 1 for members of equal weight without zones: [`Ring::place`] with the defaults.
    pub fn new(members: &[NodeId], n: u8, partitions: u16) -> Result<Self, RingError> {
        let members: Vec<RingMember> = members.iter().copied().map(RingMember::plain).collect();
        Ring::place(&members, n, partitions)
    }

    /// Version 1: places `partitions` partitions, `n` replicas each, on `members` (any order).
    ///
    /// Partition by partition, the members furthest behind what they are due take it; ties go by
    /// rendezvous hashing (Thaler and Ravishankar, 1998), which mixes the neighbours of every
    /// member. What that leaves over the bounds is repaired as in [`Ring::next`].
    pub fn place(members: &[RingMember], n: u8, partitions: u16) -> Result<Self, RingError> {
        let members = check(members, n, partitions)?;
        let owners = Plan::new(&members, usize::from(n), usize::from(partitions)).first();
        Ok(Ring { version: 1, members, owners, n, change: None })
    }

    /// The next version, for these members (any order): joins, leaves and changes of weight or
    /// zone, one or many at once. N and Q stay. The same members give the same owners.
    pub fn next(&self, members: &[RingMember]) -> Result<Self, RingError> {
        if self.change.is_some() {
            return Err(RingError::Changing(self.version));
        }
        let members = check(members, self.n, self.partitions())?;
        let version = self.version.checked_add(1).ok_or(RingError::Version(self.version))?;
        let place = |id: &NodeId| members.binary_search_by_key(id, |member| member.id).ok();
        let kept = self.owners.iter().map(|owners| owners.iter().filter_map(place).collect());
        let plan = Plan::new(&members, usize::from(self.n), self.owners.len());
        let owners = plan.next(&kept.collect(), &self.members, version);
        Ok(Ring { version, members, owners, n: self.n, change: None })
    }

    /// The next version, in which `new`, which is no member yet, has all places of `old`, its
    /// weight and its zone, in both tables if the ring is in a change. Nothing else moves.
    pub fn replace(&self, old: NodeId, new: NodeId) -> Result<Self, RingError> {
        if !self.has(old) {
            return Err(RingError::Stranger(old));
        }
        if self.has(new) {
            return Err(RingError::Duplicate);
        }
        let version = self.version.checked_add(1).ok_or(RingError::Version(self.version))?;
        let renamed = |members: &[RingMember]| {
            let place = |id: NodeId| if id == old { new } else { id };
            let mut members: Vec<RingMember> =
                members.iter().map(|m| RingMember { id: place(m.id), ..*m }).collect();
            members.sort_unstable();
            members
        };
        let moved = |owners: &[Vec<NodeId>]| {
            let place = |id: &NodeId| if *id == old { new } else { *id };
            owners.iter().map(|owners| owners.iter().map(place).collect()).collect::<Vec<_>>()
        };
        let change = self.change.as_ref().map(|change| change.mapped(renamed, moved));
        let (members, owners) = (renamed(&self.members), moved(&self.owners));
        Ok(Ring { version, members, owners, n: self.n, change })
    }

    /// True if the two have the same members and owners, in both tables, whatever their versions.
    pub fn places_like(&self, other: &Ring) -> bool {
        self.change == other.change
            && (&self.members, &self.owners, self.n) == (&other.members, &other.owners, other.n)
    }

    /// The one of these that is in force.
    pub fn latest(first: Self, others: impl IntoIterator<Item = Self>) -> Self {
        let later = |one: Self, other: Self| if other.supersedes(&one) { other } else { one };
        others.into_iter().fold(first, later)
    }

    /// True if this node has a place in the table.
    pub fn has(&self, member: NodeId) -> bool {
        self.members.binary_search_by_key(&member, |known| known.id).is_ok()
    }

    /// The number of the table: 1 when the cluster is created, one more at each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The name of this table.
    pub fn id(&self) -> RingId {
        RingId { version: self.version, digest: self.digest() }
    }

    /// Whether this table is in force where the other one is known too.
    pub fn supersedes(&self, other: &Ring) -> bool {
        self.id() > other.id()
    }

    /// How many replicas this table puts on nodes that were not owner of the partition in
    /// `previous`.
    pub fn moves_from(&self, previous: &Ring) -> usize {
        let new = |(p, owners): (usize, &Vec<NodeId>)| {
            let before = previous.owners.get(p).map_or(&[][..], Vec::as_slice);
            owners.iter().filter(|id| !before.contains(id)).count()
        };
        self.owners.iter().enumerate().map(new).sum()
    }

    /// Most replicas of one partition that may be in one zone: 1 if there are at least N zones.
    pub fn spread(&self) -> usize {
        Layout::new(&self.members, usize::from(self.n), self.owners.len()).spread
    }

    /// The replication factor N.
    pub fn n(&self) -> u8 {
        self.n
    }

    /// The number of partitions Q.
    pub fn partitions(&self) -> u16 {
        self.owners.len() as u16
    }

    /// All members, sorted by id.
    pub fn members(&self) -> &[RingMember] {
        &self.members
    }

    /// The partition of a key: the blake3 hash space cut in Q equal parts.
    pub fn partition(&self, key: &Key) -> Partition {
        let hash = first_u64(blake3::hash(key.as_bytes()).as_bytes());
        Partition(((u128::from(hash) * self.owners.len() as u128) >> 64) as u16)
    }

    /// The N owners of a partition, the preferred one first; empty for a partition out of range.
    pub fn owners(&self, partition: Partition) -> &[NodeId] {
        self.owners.get(usize::from(partition.0)).map_or(&[], Vec::as_slice)
    }

    /// All members in the order in which they serve the partition: its owners, then the fallbacks.
    pub fn preference_list(&self, partition: Partition) -> Vec<NodeId> {
        let owners = &self.all_owners(partition)[..];
        let ids = self.members.iter().map(|member| member.id);
        let mut others: Vec<NodeId> = ids.filter(|id| !owners.contains(id)).collect();
        others.sort_unstable_by_key(|member| rank(partition, *member));
        [owners, &others].concat()
    }

    /// How many partitions a member owns.
    pub fn share(&self, member: NodeId) -> usize {
        self.owners.iter().filter(|owners| owners.contains(&member)).count()
    }

    /// A digest of the whole table: nodes whose digests differ would place keys differently.
    pub fn digest(&self) -> u64 {
        match &self.change {
            Some(change) => change.digest(self),
            None => self.table_digest(),
        }
    }

    fn table_digest(&self) -> u64 {
        let ids: Vec<u8> = self.owners.iter().flatten().flat_map(|id| id.0.to_be_bytes()).collect();
        let members: Vec<u8> = self.members.iter().flat_map(|m| m.id.0.to_be_bytes()).collect();
        let plain = |member: &RingMember| *member == RingMember::plain(member.id);
        if self.version == 1 && self.members.iter().all(plain) {
            return hash64(&[b"ring", &[self.n], &members, &ids]);
        }
        let mut places = Vec::new();
        for member in &self.members {
            places.extend(member.weight.to_be_bytes());
            places.push(u8::from(member.zone.is_some()));
            places.extend(member.zone.map_or(0, |zone| zone.0).to_be_bytes());
        }
        hash64(&[b"ring", &[self.n], &members, &ids, &self.version.to_be_bytes(), &places])
    }
}

/// The members in the order of their ids, if a ring can be made of them.
fn check(members: &[RingMember], n: u8, partitions: u16) -> Result<Vec<RingMember>, RingError> {
    if n == 0 || n > MAX_N {
        return Err(RingError::Replicas(n));
    }
    if members.len() < usize::from(n) {
        return Err(RingError::TooFewMembers { n, members: members.len() });
    }
    if members.len() > MAX_MEMBERS {
        return Err(RingError::TooManyMembers(members.len()));
    }
    let mut members = members.to_vec();
    members.sort_unstable();
    if members.windows(2).any(|pair| pair[0].id == pair[1].id) {
        return Err(RingError::Duplicate);
    }
    if let Some(member) = members.iter().find(|m| m.weight == 0 || m.weight > MAX_WEIGHT) {
        return Err(RingError::Weight(member.weight));
    }
    if partitions == 0 || partitions > MAX_PARTITIONS {
        return Err(RingError::Partitions(partitions));
    }
    Ok(members)
}

/// A member's place in the order of a partition (rendezvous hashing).
fn rank(partition: Partition, member: NodeId) -> u64 {
    hash64(&[b"rank", &partition.0.to_be_bytes(), &member.0.to_be_bytes()])
}
