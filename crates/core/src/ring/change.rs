//! The rings between two tables. A change of the ring goes through four of them, one after the
//! other, each in force at every member before the next one is made:
//!
//! | ring | a write counts when enough owners have it | reads ask |
//! |---|---|---|
//! | old | of the old table | the old table |
//! | fill | of both tables | the old table |
//! | turn | of both tables | the new table |
//! | target | of the new table | the new table |
//!
//! Of two rings that may be in force at once, each writes the table that the other one reads
//! ([`Ring::meets`]). A cancelled change walks back the same way.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::{Ring, RingError, RingMember};
use crate::types::{NodeId, Partition, hash64};

/// How far the change of a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Step {
    /// Writes go to both tables, reads to the old one: new owners are filled.
    Fill,
    /// Writes go to both tables, reads to the new one.
    Turn,
}

/// An old owner of a partition that goes, and the new owner that takes its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// It has a place in the old table and none in the new one.
    pub old: NodeId,
    /// It has a place in the new table and none in the old one.
    pub new: NodeId,
}

/// What a ring in a change has beside the table that reads ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) step: Step,
    /// True on the way back to the old table.
    pub(super) cancelled: bool,
    /// The members of the table that reads ask.
    pub(super) members: Vec<RingMember>,
    /// The other table: writes go to it too.
    pub(super) other: Table,
    /// Members that the change does not wait for, sorted: they are removed for good.
    pub(super) dead: Vec<NodeId>,
}

/// Members, sorted by id, and the owners of each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) members: Vec<RingMember>,
    pub(super) owners: Vec<Vec<NodeId>>,
}

impl Change {
    /// The same change with other nodes in some places.
    pub(super) fn mapped(
        &self,
        members: impl Fn(&[RingMember]) -> Vec<RingMember>,
        owners: impl Fn(&[Vec<NodeId>]) -> Vec<Vec<NodeId>>,
    ) -> Self {
        let other =
            Table { members: members(&self.other.members), owners: owners(&self.other.owners) };
        Change { members: members(&self.members), other, ..self.clone() }
    }

    /// The digest of a ring in this change.
    pub(super) fn digest(&self, ring: &Ring) -> u64 {
        let table = |members: &[RingMember], owners: &[Vec<NodeId>]| {
            let (members, owners) = (members.to_vec(), owners.to_vec());
            let (version, n) = (ring.version, ring.n);
            Ring { version, members, owners, n, change: None }.table_digest().to_be_bytes()
        };
        let reads = table(&self.members, &ring.owners);
        let other = table(&self.other.members, &self.other.owners);
        let flags = [self.step as u8, u8::from(self.cancelled)];
        let dead: Vec<u8> = self.dead.iter().flat_map(|id| id.0.to_be_bytes()).collect();
        hash64(&[b"ring in a change", &reads, &other, &flags, &dead])
    }
}

/// All members of two tables, sorted by id; what `new` says of one counts.
pub(super) fn union(old: &[RingMember], new: &[RingMember]) -> Vec<RingMember> {
    let gone = old.iter().filter(|member| !new.iter().any(|known| known.id == member.id));
    let mut all: Vec<RingMember> = gone.chain(new).copied().collect();
    all.sort_unstable();
    all
}

impl Ring {
    /// The ring that begins the change to `target`, which [`Ring::next`] or [`Ring::replace`] has
    /// made of this one: nothing is read otherwise yet. `dead` are members that the change goes on
    /// without, for good.
    pub fn fill(&self, target: &Ring, dead: &[NodeId]) -> Result<Ring, RingError> {
        if let Some(ring) = [self, target].into_iter().find(|ring| ring.change.is_some()) {
            return Err(RingError::Changing(ring.version));
        }
        if (self.n, self.owners.len()) != (target.n, target.owners.len()) {
            return Err(RingError::Sizes(self.version, target.version));
        }
        if let Some(stranger) = dead.iter().find(|dead| !self.has(**dead)) {
            return Err(RingError::Stranger(*stranger));
        }
        let mut dead = dead.to_vec();
        dead.sort_unstable();
        dead.dedup();
        let other = Table { members: target.members.clone(), owners: target.owners.clone() };
        let (step, cancelled) = (Step::Fill, false);
        let change = Change { step, cancelled, members: self.members.clone(), other, dead };
        let members = union(&self.members, &target.members);
        let (owners, change) = (self.owners.clone(), Some(change));
        Ok(Ring { version: self.next_version()?, members, owners, n: self.n, change })
    }

    /// The ring behind this one on the way to the new table; of a settled ring there is none. From
    /// a cancelled change there is no way forward.
    pub fn forward(&self) -> Option<Ring> {
        match self.change.as_ref()? {
            change if change.cancelled => None,
            Change { step: Step::Fill, .. } => self.turned(Step::Turn, false),
            Change { step: Step::Turn, .. } => self.settled(),
        }
    }

    /// The ring behind this one on the way back to the old table; of a settled ring there is none.
    pub fn back(&self) -> Option<Ring> {
        match self.change.as_ref()?.step {
            Step::Fill => self.settled(),
            Step::Turn => self.turned(Step::Fill, true),
        }
    }

    /// The same two tables, of which reads ask the other one.
    fn turned(&self, step: Step, cancelled: bool) -> Option<Ring> {
        let version = self.next_version().ok()?;
        let Change { members, other, dead, .. } = self.change.clone()?;
        let Table { members: reads, owners } = other;
        let other = Table { members, owners: self.owners.clone() };
        let change = Some(Change { step, cancelled, members: reads, other, dead });
        Some(Ring { version, owners, change, ..self.clone() })
    }

    /// Only the table that reads ask.
    fn settled(&self) -> Option<Ring> {
        let version = self.next_version().ok()?;
        let members = self.change.as_ref()?.members.clone();
        Some(Ring { version, members, owners: self.owners.clone(), n: self.n, change: None })
    }

    pub(super) fn next_version(&self) -> Result<u64, RingError> {
        self.version.checked_add(1).ok_or(RingError::Version(self.version))
    }

    /// How far its change is; `None` of a settled ring.
    pub fn step(&self) -> Option<Step> {
        self.change.as_ref().map(|change| change.step)
    }

    /// True on the way back to the old table.
    pub fn is_cancelled(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.cancelled)
    }

    /// Members that its change does not wait for, sorted.
    pub fn dead(&self) -> &[NodeId] {
        self.change.as_ref().map_or(&[], |change| &change.dead)
    }

    /// The owners of the other table, which writes go to as well; `None` of a settled ring.
    pub fn also(&self, partition: Partition) -> Option<&[NodeId]> {
        let change = self.change.as_ref()?;
        Some(change.other.owners.get(usize::from(partition.0)).map_or(&[], Vec::as_slice))
    }

    /// Every owner of a partition: those that reads ask, then the others that writes go to.
    pub fn all_owners(&self, partition: Partition) -> Vec<NodeId> {
        let reads = self.owners(partition);
        let others = self.also(partition).unwrap_or(&[]);
        let others = others.iter().filter(|owner| !reads.contains(owner));
        reads.iter().chain(others).copied().collect()
    }

    /// The slots of a partition that move, each with its old and its new owner. An owner that stays
    /// is in none.
    pub fn pairs(&self, partition: Partition) -> Vec<Pair> {
        let Some(also) = self.also(partition) else { return Vec::new() };
        let reads = self.owners(partition);
        let (old, new) = match self.step() {
            Some(Step::Turn) => (also, reads),
            _ => (reads, also),
        };
        pairs(old, new)
    }

    /// True if this ring and `other` may be in force at once, each at some members: each writes the
    /// table that the other one reads, so with R + W > N every write is seen by every read. Where
    /// a change leads over more than one step, its ends do not meet.
    pub fn meets(&self, other: &Ring) -> bool {
        let writes = |ring: &Ring, owners: &[Vec<NodeId>]| {
            let also = ring.change.as_ref().map(|change| &change.other.owners);
            ring.owners == owners || also.is_some_and(|also| also == owners)
        };
        self.n == other.n && writes(self, &other.owners) && writes(other, &self.owners)
    }
}

/// Old owners without a place in the new table, each with a new one.
pub(super) fn pairs(old: &[NodeId], new: &[NodeId]) -> Vec<Pair> {
    let goes = old.iter().filter(|owner| !new.contains(owner));
    let comes = new.iter().filter(|owner| !old.contains(owner));
    goes.zip(comes).map(|(old, new)| Pair { old: *old, new: *new }).collect()
}
