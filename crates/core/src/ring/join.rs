//! What two tables come to that were made of one table by two commands at once.

use super::{NodeId, Ring, RingMember};

impl Ring {
    /// The table of this version in which the changes of both tables hold, whichever is asked for
    /// the other one.
    ///
    /// Position by position the node that is not `removed` has the place. Where both are not, two
    /// commands gave the places of one member to two newcomers: the newcomer with the higher id has
    /// all of them. `None` if the two have different sizes, or if that gives a partition less than
    /// n distinct nodes that are not removed, or if one of them is in a change.
    pub fn joined(
        &self,
        other: &Ring,
        version: u64,
        removed: impl Fn(NodeId) -> bool,
    ) -> Option<Ring> {
        let in_change = self.change.is_some() || other.change.is_some();
        if in_change || (self.n, self.owners.len()) != (other.n, other.owners.len()) {
            return None;
        }
        let better = |(one, two): (&NodeId, &NodeId)| match (removed(*one), removed(*two)) {
            (true, false) => *two,
            (false, true) => *one,
            _ => *one.max(two),
        };
        let pairs = self.owners.iter().zip(&other.owners);
        let owners: Vec<Vec<NodeId>> =
            pairs.map(|(one, two)| one.iter().zip(two).map(better).collect()).collect();
        let sound = |owners: &Vec<NodeId>| {
            let mut distinct = owners.clone();
            distinct.sort_unstable();
            distinct.dedup();
            distinct.len() == owners.len() && !owners.iter().any(|owner| removed(*owner))
        };
        if !owners.iter().all(sound) {
            return None;
        }
        let has_places = |id: NodeId| owners.iter().flatten().any(|owner| *owner == id);
        let had_places = |id: NodeId| self.share(id) + other.share(id) > 0;
        let mut members: Vec<RingMember> = [&self.members[..], &other.members].concat();
        members.retain(|member| {
            !removed(member.id) && (has_places(member.id) || !had_places(member.id))
        });
        members.sort_unstable();
        members.dedup_by_key(|member| member.id);
        Some(Ring { version, members, owners, n: self.n, change: None })
    }

    /// The same table under another version.
    #[must_use]
    pub fn of_version(self, version: u64) -> Self {
        Ring { version, ..self }
    }

    /// True if the two tables have the same members and owners, whatever their versions.
    pub fn places_like(&self, other: &Ring) -> bool {
        let parts = |ring: &Ring| (ring.members.clone(), ring.owners.clone(), ring.n);
        parts(self) == parts(other) && self.change == other.change
    }
}
