//! Which table follows from which: the first one, and the one after a change of members.

use super::flow::Flow;
use super::shares::{Bounds, Layout};
use super::{RingMember, rank};
use crate::types::{NodeId, Partition};

/// How far loads may be from their shares, in parts of [`super::WHOLE`], when a join or leave would
/// otherwise move too much. The first that will do is taken, and the last if none will.
const SLACKS: [usize; 5] = [1, 2, 4, 8, super::MAX_SLACK];
/// How much more than the least a join or leave may move: so many percent, or so many replicas.
const MORE_PERCENT: usize = 15;
const MORE_REPLICAS: usize = 2;

/// Places by partition: places in the sorted list of members.
type Places = Vec<Vec<usize>>;

pub(super) struct Plan<'a> {
    members: &'a [RingMember],
    layout: Layout,
}

impl<'a> Plan<'a> {
    /// `members` sorted by id and checked.
    pub fn new(members: &'a [RingMember], n: usize, partitions: usize) -> Self {
        Plan { members, layout: Layout::new(members, n, partitions) }
    }

    /// The owners of version 1.
    pub fn first(&self) -> Vec<Vec<NodeId>> {
        let draft = self.draft();
        self.owners(&self.settle(&draft, &self.stayers(&draft, 1), 0))
    }

    /// The owners of version `version`. `kept`: the owners in the version before that are still
    /// members; `before`: its members, sorted by id.
    pub fn next(&self, kept: &Places, before: &[RingMember], version: u64) -> Vec<Vec<NodeId>> {
        let stayers = self.stayers(kept, version);
        let place = |member: &RingMember| before.binary_search_by_key(&member.id, |old| old.id);
        let old: Vec<Option<&RingMember>> =
            self.members.iter().map(|member| before.get(place(member).ok()?)).collect();
        let reformed = old.iter().zip(self.members).any(|(old, new)| old.is_some_and(|o| o != new));
        let plain = |m: &RingMember| m.zone.is_none() && m.weight == self.members[0].weight;
        let mut table = self.settle(kept, &stayers, 0);
        if reformed || self.members.iter().all(plain) {
            return self.owners(&table);
        }
        let vacant = self.layout.n * self.layout.partitions - stayers.len();
        for slack in SLACKS {
            let joined = table.iter().flatten().filter(|i| old[**i].is_none()).count();
            let least = vacant.max(joined);
            let moved = |(after, before): (&Vec<usize>, &Vec<usize>)| {
                after.iter().filter(|i| !before.contains(i)).count()
            };
            let moves: usize = table.iter().zip(kept).map(moved).sum();
            if moves <= least + (least * MORE_PERCENT / 100).max(MORE_REPLICAS) {
                break;
            }
            table = self.settle(kept, &stayers, slack);
        }
        self.owners(&table)
    }

    /// A table from nothing, near to the shares and right about the zones.
    fn draft(&self) -> Places {
        let layout = &self.layout;
        let (shares, _) = layout.shares();
        let mut load = vec![0; self.members.len()];
        let mut table = Vec::with_capacity(layout.partitions);
        for p in 0..layout.partitions {
            let mut order: Vec<(i64, u64, usize)> = (0..load.len())
                .map(|i| {
                    let due = shares[i].due(p + 1, layout.partitions) as i64;
                    (load[i] - due, rank(Partition(p as u16), self.members[i].id), i)
                })
                .collect();
            order.sort_unstable();
            let mut count = vec![0; layout.zones.len()];
            let mut free = layout.free();
            order.retain(|(_, _, i)| {
                let zone = layout.zone_of[*i];
                let above = count[zone] >= layout.low[zone];
                let fits = count[zone] < layout.high[zone] && !(above && free == 0);
                if fits {
                    count[zone] += 1;
                    free -= usize::from(above);
                    load[*i] += 1;
                }
                fits
            });
            table.push(order.into_iter().map(|(_, _, i)| i).collect());
        }
        table
    }

    /// The replicas of a table as partition and member, in the order in which they stay: as good as
    /// random, so that neighbours are mixed, and another one in each version.
    fn stayers(&self, table: &Places, version: u64) -> Vec<(usize, usize)> {
        let turn = |p: usize, i: usize| mix(mix(version ^ self.members[i].id.0) ^ p as u64);
        let mut order: Vec<(u64, usize, usize)> = table
            .iter()
            .enumerate()
            .flat_map(|(p, places)| places.iter().map(move |i| (turn(p, *i), p, *i)))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, p, i)| (p, i)).collect()
    }

    /// The table with the fewest moves from `kept` of those within the bounds.
    fn settle(&self, kept: &Places, stayers: &[(usize, usize)], slack: usize) -> Places {
        let mut load = vec![0; self.members.len()];
        kept.iter().flatten().for_each(|i| load[*i] += 1);
        let bounds: Bounds = self.layout.bounds(&load, slack);
        Flow::new(&self.layout, &bounds, stayers).run()
    }

    /// The members' ids by partition, in the order of preference.
    fn owners(&self, table: &Places) -> Vec<Vec<NodeId>> {
        let owners = |(p, places): (usize, &Vec<usize>)| {
            let mut owners: Vec<NodeId> = places.iter().map(|i| self.members[*i].id).collect();
            owners.sort_by_cached_key(|id| rank(Partition(p as u16), *id));
            owners
        };
        table.iter().enumerate().map(owners).collect()
    }
}

/// Scatters numbers: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(number: u64) -> u64 {
    let x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
