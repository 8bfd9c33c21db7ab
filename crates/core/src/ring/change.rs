//! The rings between two tables. A change of the ring goes through them one after the other, each
//! in force at every member before the next one is made:
//!
//! | ring | a write counts when enough owners have it | reads ask |
//! |---|---|---|
//! | old | of the old table | the old table |
//! | fill | of both tables | the old table |
//! | turn | of both tables | the new table |
//! | end | of both tables | the new table |
//! | target | of the new table | the new table |
//!
//! A cancelled change goes from the fill or the turn to the *undo*, which writes both tables and
//! reads the old one, and from there to the old table. Of two rings that may be in force at once,
//! each writes the table that the other one reads ([`Ring::meets`]). The rings of the middle all
//! write both tables, so any two of them meet: a step forward and a cancellation that are made at
//! once do no harm, and the one with the higher id is in force. The end and the undo are there for
//! this reason: only from them is a table given up, and there is no way from one to the other.

use std::fmt;

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use super::{Ring, RingError, RingMember};
use crate::types::{NodeId, Partition, hash64};

/// How far the change of a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, BorrowDecode)]
#[bincode(decode_context = "Bytes")]
pub enum Step {
    /// Reads ask the old table: new owners are filled.
    Fill,
    /// Reads ask the new table.
    Turn,
    /// Reads ask the new table, and every member has done so: nothing is cancelled any more.
    End,
    /// The change is cancelled, and reads ask the old table.
    Undo,
}

impl Step {
    /// True if reads ask the new table.
    pub fn reads_new(self) -> bool {
        matches!(self, Step::Turn | Step::End)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Fill => "fill",
            Step::Turn => "turn",
            Step::End => "end",
            Step::Undo => "undo",
        })
    }
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
    /// The members of the table that reads ask.
    pub(super) members: Vec<RingMember>,
    /// The other table: writes go to it too.
    pub(super) other: Table,
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
        hash64(&[b"ring in a change", &reads, &other, &[self.step as u8]])
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
    /// The ring that begins the change to `target`, which [`target`](super::target) or
    /// [`Ring::next`] has made of this one: nothing is read otherwise yet.
    pub fn fill(&self, target: &Ring) -> Result<Ring, RingError> {
        if let Some(ring) = [self, target].into_iter().find(|ring| ring.change.is_some()) {
            return Err(RingError::Changing(ring.version));
        }
        if (self.n, self.owners.len()) != (target.n, target.owners.len()) {
            return Err(RingError::Sizes(self.version, target.version));
        }
        let other = Table { members: target.members.clone(), owners: target.owners.clone() };
        let change = Change { step: Step::Fill, members: self.members.clone(), other };
        let members = union(&self.members, &target.members);
        let (owners, change) = (self.owners.clone(), Some(change));
        Ok(Ring { version: self.next_version()?, members, owners, n: self.n, change })
    }

    /// The ring behind this one; of a settled ring there is none.
    pub fn forward(&self) -> Option<Ring> {
        match self.change.as_ref()?.step {
            // Where both tables have the same owners, nothing has to be filled.
            Step::Fill if self.moves_nothing() => {
                let target = self.turned(Step::End)?.of_reads();
                Some(Ring { version: self.next_version().ok()?, ..target })
            }
            Step::Fill => self.turned(Step::Turn),
            Step::Turn => Some(Ring { version: self.next_version().ok()?, ..self.at(Step::End)? }),
            Step::End | Step::Undo => self.settled(),
        }
    }

    /// The ring that cancels the change; `None` if it has none, or one that is cancelled already or
    /// that has come to its end.
    pub fn cancelled(&self) -> Option<Ring> {
        match self.change.as_ref()?.step {
            Step::Fill => Some(Ring { version: self.next_version().ok()?, ..self.at(Step::Undo)? }),
            Step::Turn => self.turned(Step::Undo),
            Step::End | Step::Undo => None,
        }
    }

    /// True if both of its tables have the same owners.
    pub fn moves_nothing(&self) -> bool {
        self.change.as_ref().is_none_or(|change| change.other.owners == self.owners)
    }

    /// The same ring in another step.
    fn at(&self, step: Step) -> Option<Ring> {
        let change = Change { step, ..self.change.clone()? };
        Some(Ring { change: Some(change), ..self.clone() })
    }

    /// The same two tables, of which reads ask the other one.
    fn turned(&self, step: Step) -> Option<Ring> {
        let version = self.next_version().ok()?;
        let Change { members, other, .. } = self.change.clone()?;
        let Table { members: reads, owners } = other;
        let other = Table { members, owners: self.owners.clone() };
        let change = Some(Change { step, members: reads, other });
        Some(Ring { version, owners, change, ..self.clone() })
    }

    /// Only the table that reads ask.
    fn settled(&self) -> Option<Ring> {
        let version = self.next_version().ok()?;
        Some(Ring { version, ..self.of_reads() })
    }

    /// The table that reads ask, as a settled ring of the same version: for a program that knows no
    /// rings in a change.
    pub fn of_reads(&self) -> Ring {
        let members = self.change.as_ref().map_or(&self.members, |change| &change.members);
        let (members, owners) = (members.clone(), self.owners.clone());
        Ring { version: self.version, members, owners, n: self.n, change: None }
    }

    pub(super) fn next_version(&self) -> Result<u64, RingError> {
        self.version.checked_add(1).ok_or(RingError::Version(self.version))
    }

    /// How far its change is; `None` of a settled ring.
    pub fn step(&self) -> Option<Step> {
        self.change.as_ref().map(|change| change.step)
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

    /// True if the node owns the partition in one of the tables.
    pub fn is_owner(&self, partition: Partition, node: NodeId) -> bool {
        self.owners(partition).contains(&node)
            || self.also(partition).is_some_and(|also| also.contains(&node))
    }

    /// The slots of a partition that move, each with its old and its new owner. An owner that stays
    /// is in none.
    pub fn pairs(&self, partition: Partition) -> Vec<Pair> {
        let Some(also) = self.also(partition) else { return Vec::new() };
        let reads = self.owners(partition);
        let (old, new) = match self.step() {
            Some(step) if step.reads_new() => (also, reads),
            _ => (reads, also),
        };
        pairs(old, new)
    }

    /// True if the node joins or leaves with the change: it has places in one table only.
    pub fn is_moving(&self, node: NodeId) -> bool {
        let has = |members: &[RingMember]| {
            members.binary_search_by_key(&node, |member| member.id).is_ok()
        };
        let change = self.change.as_ref();
        change.is_some_and(|change| has(&change.members) != has(&change.other.members))
    }

    /// True if the node has a place in the table that the change leads to; in the only one of a
    /// settled ring.
    pub fn is_kept(&self, node: NodeId) -> bool {
        let Some(change) = &self.change else { return self.has(node) };
        let members = match change.step.reads_new() {
            true => &change.members,
            false => &change.other.members,
        };
        members.binary_search_by_key(&node, |member| member.id).is_ok()
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
