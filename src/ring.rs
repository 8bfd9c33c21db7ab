//! The ring: the hash space in Q equal partitions, and which nodes are home to each.

use crate::types::{Key, MAX_MEMBERS, MAX_N, MAX_PARTITIONS, NodeId, Partition, first_u64, hash64};

/// Why a ring cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// N outside its bounds.
    #[error("n = {0}: every key is kept on 1 to {MAX_N} nodes")]
    Replicas(u8),
    /// Fewer members than replicas.
    #[error("n = {n} replicas need as many members, and there are {members}")]
    TooFewMembers {
        /// Replicas asked for.
        n: u8,
        /// Members there are.
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
}

/// A placement table: the home replicas of every partition. A pure function of its arguments, the
/// same on every node. No member holds more than its share rounded up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    members: Vec<NodeId>,
    homes: Vec<Vec<NodeId>>,
    n: u8,
}

impl Ring {
    /// Places `partitions` partitions, `n` replicas each, on `members` (any order, equal weights).
    ///
    /// Each partition takes the `n` members that hold least so far, which keeps the loads within one of
    /// each other; ties go by rendezvous hashing (Thaler and Ravishankar, 1998), which mixes the
    /// neighbours of every member.
    pub fn new(members: &[NodeId], n: u8, partitions: u16) -> Result<Self, RingError> {
        let mut members = members.to_vec();
        members.sort_unstable();
        if n == 0 || n > MAX_N {
            return Err(RingError::Replicas(n));
        }
        if members.len() < usize::from(n) {
            return Err(RingError::TooFewMembers { n, members: members.len() });
        }
        if members.len() > MAX_MEMBERS {
            return Err(RingError::TooManyMembers(members.len()));
        }
        if members.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(RingError::Duplicate);
        }
        if partitions == 0 || partitions > MAX_PARTITIONS {
            return Err(RingError::Partitions(partitions));
        }
        let mut load = vec![0u32; members.len()];
        let mut homes = Vec::with_capacity(usize::from(partitions));
        for p in 0..partitions {
            let mut order: Vec<(u32, u64, usize)> = members
                .iter()
                .enumerate()
                .map(|(at, member)| (load[at], rank(Partition(p), *member), at))
                .collect();
            order.sort_unstable();
            order.truncate(usize::from(n));
            for (_, _, at) in &order {
                load[*at] += 1;
            }
            order.sort_unstable_by_key(|(_, rank, _)| *rank);
            homes.push(order.into_iter().map(|(_, _, at)| members[at]).collect());
        }
        Ok(Ring { members, homes, n })
    }

    /// The replication factor N.
    pub fn n(&self) -> u8 {
        self.n
    }

    /// The number of partitions Q.
    pub fn partitions(&self) -> u16 {
        self.homes.len() as u16
    }

    /// All members, sorted by id.
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// The partition of a key: the blake3 hash space cut in Q equal parts.
    pub fn partition(&self, key: &Key) -> Partition {
        let hash = first_u64(blake3::hash(key.as_bytes()).as_bytes());
        Partition(((u128::from(hash) * self.homes.len() as u128) >> 64) as u16)
    }

    /// The N home replicas of a partition, the preferred one first; empty for a partition out of range.
    pub fn homes(&self, partition: Partition) -> &[NodeId] {
        self.homes.get(usize::from(partition.0)).map_or(&[], Vec::as_slice)
    }

    /// All members in the order in which they serve the partition: its homes, then the stand-ins.
    pub fn preference_list(&self, partition: Partition) -> Vec<NodeId> {
        let homes = self.homes(partition);
        let mut others: Vec<NodeId> =
            self.members.iter().copied().filter(|member| !homes.contains(member)).collect();
        others.sort_unstable_by_key(|member| rank(partition, *member));
        [homes, &others].concat()
    }

    /// How many partitions a member is home to.
    pub fn share(&self, member: NodeId) -> usize {
        self.homes.iter().filter(|homes| homes.contains(&member)).count()
    }

    /// A digest of the whole table: nodes whose digests differ would place keys differently.
    pub fn digest(&self) -> u64 {
        let ids: Vec<u8> = self.homes.iter().flatten().flat_map(|id| id.0.to_be_bytes()).collect();
        let members: Vec<u8> = self.members.iter().flat_map(|id| id.0.to_be_bytes()).collect();
        hash64(&[b"ring", &[self.n], &members, &ids])
    }
}

/// A member's place in the order of a partition (rendezvous hashing).
fn rank(partition: Partition, member: NodeId) -> u64 {
    hash64(&[b"rank", &partition.0.to_be_bytes(), &member.0.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<NodeId> {
        (0..count).map(|i| NodeId::of(&format!("n{i}"))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn balanced_and_distinct(count in 3usize..=100, n in 1u8..=3, q in 1u16..=512) {
            let mut members = names(count);
            let ring = Ring::new(&members, n, q).unwrap();
            let slots = usize::from(q) * usize::from(n);
            for member in &members {
                prop_assert!(ring.share(*member) <= slots.div_ceil(count));
                prop_assert!(ring.share(*member) >= slots / count);
            }
            for p in 0..q {
                let list = ring.preference_list(Partition(p));
                prop_assert_eq!(&list[..usize::from(n)], ring.homes(Partition(p)));
                let mut distinct = list.clone();
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), count);
            }
            members.reverse();
            prop_assert_eq!(ring, Ring::new(&members, n, q).unwrap());
        }
    }

    #[test]
    fn keys_spread_over_partitions_and_placement_is_golden() {
        let ring = Ring::new(&names(5), 3, 256).unwrap();
        let mut counts = vec![0u32; 256];
        for i in 0..100_000u32 {
            let key = Key::new(i.to_string().into_bytes()).unwrap();
            counts[usize::from(ring.partition(&key).0)] += 1;
        }
        let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*low > 300 && *high < 490, "{low}..{high}, expected about 391");
        // A changed digest moves data between nodes: it is a new version, never an accident.
        assert_eq!(ring.digest(), 13_331_918_423_264_830_840);
    }

    #[test]
    fn neighbours_are_mixed() {
        let ring = Ring::new(&names(10), 3, 256).unwrap();
        for member in ring.members() {
            let mut neighbours: Vec<_> = (0..256)
                .map(|p| ring.homes(Partition(p)))
                .filter(|homes| homes.contains(member))
                .flatten()
                .collect();
            neighbours.sort_unstable();
            neighbours.dedup();
            assert_eq!(neighbours.len(), 10, "every node shares some partition with every other");
        }
    }

    #[test]
    fn bad_rings_are_refused_by_name() {
        let three = names(3);
        assert_eq!(Ring::new(&three, 0, 8), Err(RingError::Replicas(0)));
        assert_eq!(Ring::new(&three, 8, 8), Err(RingError::Replicas(8)));
        let few = RingError::TooFewMembers { n: 5, members: 3 };
        assert_eq!(few.to_string(), "n = 5 replicas need as many members, and there are 3");
        assert_eq!(Ring::new(&three, 5, 8), Err(few));
        assert_eq!(Ring::new(&three, 3, 0), Err(RingError::Partitions(0)));
        assert_eq!(Ring::new(&[three[0]; 3], 3, 8), Err(RingError::Duplicate));
    }
}
