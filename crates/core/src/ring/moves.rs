//! The effect of a change of the ring before it is made: the target, the moves, loads and zones
//! before and after, and the reasons that make it impossible.

use std::collections::{BTreeMap, BTreeSet};

use super::change::pairs;
use super::{Pair, Ring, RingError, RingMember};
use crate::types::{NodeId, Partition, hash64};

/// One thing that an operator wants changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A node becomes a member.
    Join(RingMember),
    /// A member gives all its places to others.
    Leave(NodeId),
    /// A member that is gone for good is removed, and others get its places.
    Remove(NodeId),
    /// A member gets another weight or zone.
    Set(RingMember),
    /// A newcomer, the heir, gets the places, the weight and the zone of a member that is gone for
    /// good.
    Replace {
        /// The member that is removed.
        old: NodeId,
        /// The new member that takes its places.
        new: NodeId,
    },
}

/// The table after these edits, whatever their order: replacements keep their places, and what else
/// moves is the least that there is ([`Ring::next`]). Two edits of one member, an edit of a node
/// without a place, and the join of one that has places are errors.
pub fn target(old: &Ring, edits: &[Edit]) -> Result<Ring, RingError> {
    check_distinct(edits)?;
    let ring = old.with_heirs(edits)?;
    let members = ring.members().iter().map(|member| (member.id, *member));
    let mut members: BTreeMap<NodeId, RingMember> = members.collect();
    for edit in edits {
        match edit {
            Edit::Join(member) if members.contains_key(&member.id) => {
                return Err(RingError::Duplicate);
            }
            Edit::Set(RingMember { id, .. }) | Edit::Leave(id) | Edit::Remove(id)
                if !members.contains_key(id) =>
            {
                return Err(RingError::Stranger(*id));
            }
            Edit::Join(member) | Edit::Set(member) => drop(members.insert(member.id, *member)),
            Edit::Leave(id) | Edit::Remove(id) => drop(members.remove(id)),
            Edit::Replace { .. } => {}
        }
    }
    let members: Vec<RingMember> = members.into_values().collect();
    // Where only replacements are wanted, nothing else moves.
    if members == ring.members() { Ok(ring) } else { ring.next(&members) }
}

/// Refuses two edits of one member.
fn check_distinct(edits: &[Edit]) -> Result<(), RingError> {
    let mut edited = BTreeSet::new();
    for edit in edits {
        let named: &[NodeId] = match edit {
            Edit::Join(member) | Edit::Set(member) => &[member.id],
            Edit::Leave(id) | Edit::Remove(id) => &[*id],
            Edit::Replace { old, new } => &[*old, *new],
        };
        if named.iter().any(|id| !edited.insert(*id)) {
            return Err(RingError::Duplicate);
        }
    }
    Ok(())
}

impl Ring {
    /// The ring that begins the change with these edits. Members that are gone for good have no
    /// place in it, in neither table: others have their places already. Replacements alone can
    /// begin in whatever step a ring is, which stays; nothing else can before the change that it is
    /// in has come to its end.
    pub fn begin(&self, edits: &[Edit]) -> Result<Ring, RingError> {
        check_distinct(edits)?;
        let is_heir = |edit: &Edit| matches!(edit, Edit::Replace { .. });
        let (heirs, others): (Vec<Edit>, Vec<Edit>) = edits.iter().partition(|edit| is_heir(edit));
        if self.step().is_some() {
            if !others.is_empty() || heirs.is_empty() {
                return Err(RingError::Changing(self.version));
            }
            let version = self.next_version()?;
            return Ok(Ring { version, ..self.with_heirs(&heirs)? });
        }
        let base = self.with_heirs(&heirs)?;
        let target = target(&base, &others)?;
        let gone = others.iter().filter_map(|edit| match edit {
            Edit::Remove(id) => Some(*id),
            _ => None,
        });
        let base = gone.fold(base, |base, gone| base.without(gone, &target));
        if heirs.is_empty() && base.places_like(self) && target.places_like(self) {
            return Err(RingError::Unchanged);
        }
        base.fill(&target)
    }

    /// The same ring, of the same version, in which heirs have the places of those they replace.
    fn with_heirs(&self, edits: &[Edit]) -> Result<Ring, RingError> {
        let mut ring = self.clone();
        for edit in edits {
            if let Edit::Replace { old, new } = edit {
                ring = ring.replace(*old, *new)?;
            }
        }
        Ok(Ring { version: self.version, ..ring })
    }

    /// The same ring, of the same version, in which each place of a member that is gone has gone to
    /// one that gets it in `target` anyway.
    fn without(&self, gone: NodeId, target: &Ring) -> Ring {
        let mut owners = self.owners.clone();
        for (at, owners) in owners.iter_mut().enumerate() {
            let moved = pairs(owners, target.owners(Partition(at as u16)));
            let heir = moved.iter().find(|pair| pair.old == gone).map(|pair| pair.new);
            for owner in owners.iter_mut().filter(|owner| **owner == gone) {
                *owner = heir.unwrap_or(gone);
            }
        }
        let has_place = |member: &&RingMember| {
            !self.has(member.id) && owners.iter().flatten().any(|owner| *owner == member.id)
        };
        let heirs = target.members().iter().filter(has_place);
        let mut members: Vec<RingMember> =
            self.members.iter().filter(|member| member.id != gone).chain(heirs).copied().collect();
        members.sort_unstable();
        Ring { members, owners, ..self.clone() }
    }
}

/// The effect of a change of the ring on one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberMoves {
    /// The member, of either table.
    pub id: NodeId,
    /// Partitions that it owns before.
    pub before: usize,
    /// Partitions that it owns after.
    pub after: usize,
    /// Partitions that come to it, and their bytes.
    pub gains: (usize, u64),
    /// Partitions that leave it, and their bytes.
    pub loses: (usize, u64),
}

/// Why a change cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// Both tables are the same.
    #[error("nothing changes")]
    Nothing,
    /// A member's disk has too little room for the data that it gains.
    #[error("{member:?} gets {coming} bytes, and has room for {room}")]
    Room {
        /// The member whose disk is too small.
        member: NodeId,
        /// Bytes of the partitions that it gains.
        coming: u64,
        /// Bytes that its disk has left above its reserve.
        room: u64,
    },
}

/// The effect of a change of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingPlan {
    /// The name of the plan: a digest of both tables.
    pub digest: u64,
    /// Every slot that moves, by partition.
    pub moves: Vec<(Partition, Pair)>,
    /// Every member of either table, sorted by id.
    pub members: Vec<MemberMoves>,
    /// Bytes that move in all.
    pub bytes: u64,
    /// The fewest zones that the owners of some partition are in, before and after.
    pub fewest_zones: (usize, usize),
    /// What makes it impossible; empty if nothing does.
    pub faults: Vec<PlanFault>,
}

impl RingPlan {
    /// The plan that leads from one table to another one of the same size. `bytes` reports what a
    /// partition holds, `room` what a member's disk has left, if that is known.
    pub fn new(
        old: &Ring,
        target: &Ring,
        bytes: impl Fn(Partition) -> u64,
        room: impl Fn(NodeId) -> Option<u64>,
    ) -> Result<Self, RingError> {
        // Whatever the change cannot begin with is found here.
        let fill = old.fill(target)?;
        let start = |id| MemberMoves { id, before: 0, after: 0, gains: (0, 0), loses: (0, 0) };
        let all = fill.members().iter().map(|member| (member.id, start(member.id)));
        let mut members: BTreeMap<NodeId, MemberMoves> = all.collect();
        let mut moves = Vec::new();
        for partition in (0..old.partitions()).map(Partition) {
            let (before, after) = (old.owners(partition), target.owners(partition));
            for owner in before {
                members.entry(*owner).or_insert(start(*owner)).before += 1;
            }
            for owner in after {
                members.entry(*owner).or_insert(start(*owner)).after += 1;
            }
            for pair in pairs(before, after) {
                let held = bytes(partition);
                let gains = &mut members.entry(pair.new).or_insert(start(pair.new)).gains;
                *gains = (gains.0 + 1, gains.1 + held);
                let loses = &mut members.entry(pair.old).or_insert(start(pair.old)).loses;
                *loses = (loses.0 + 1, loses.1 + held);
                moves.push((partition, pair));
            }
        }
        let members: Vec<MemberMoves> = members.into_values().collect();
        let bytes = members.iter().map(|member| member.gains.1).sum();
        let mut faults = Vec::new();
        if old.places_like(target) {
            faults.push(PlanFault::Nothing);
        }
        faults.extend(members.iter().filter_map(|&MemberMoves { id, gains, .. }| {
            let (coming, room) = (gains.1, room(id)?);
            (coming > room).then_some(PlanFault::Room { member: id, coming, room })
        }));
        let fewest_zones = (fewest_zones(old), fewest_zones(target));
        let digest = hash64(&[b"plan", &old.digest().to_be_bytes(), &fill.digest().to_be_bytes()]);
        Ok(RingPlan { digest, moves, members, bytes, fewest_zones, faults })
    }
}

/// The fewest zones that the owners of some partition are in; a member without one is alone in its
/// own.
fn fewest_zones(ring: &Ring) -> usize {
    let zone = |owner: &NodeId| {
        let members = ring.members();
        let place = members.binary_search_by_key(owner, |member| member.id).ok();
        let zone = place.and_then(|at| members[at].zone);
        (zone, zone.is_none().then_some(*owner))
    };
    let zones = |partition: Partition| -> usize {
        ring.owners(partition).iter().map(zone).collect::<BTreeSet<_>>().len()
    };
    (0..ring.partitions()).map(Partition).map(zones).min().unwrap_or(0)
}
