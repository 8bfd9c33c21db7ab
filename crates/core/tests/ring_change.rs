//! The rings of a change, one step apart: which may be in force at once, that every write of one is
//! seen by every read of the other, and what a plan says of it.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use pixii_core::quorum::QuorumTracker;
use pixii_core::ring::{
    Edit, PlanFault, Ring, RingError, RingMember, RingPlan, Step, Zone, target,
};
use pixii_core::types::{NodeId, Partition};
use pixii_core::wire::{decode, encode};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn node(number: usize) -> NodeId {
    NodeId::of(&format!("n{number}"))
}

fn old_ring(members: usize, n: u8, partitions: u16) -> Ring {
    Ring::new(&(0..members).map(node).collect::<Vec<_>>(), n, partitions).unwrap()
}

/// The four rings of a change.
fn ladder(old: &Ring, target: &Ring) -> [Ring; 4] {
    let fill = old.fill(target, &[]).unwrap();
    let turn = fill.forward().unwrap();
    let settled = turn.forward().unwrap();
    [old.clone(), fill, turn, settled]
}

fn partitions(ring: &Ring) -> impl Iterator<Item = Partition> + use<> {
    (0..ring.partitions()).map(Partition)
}

/// The owners that a write of this ring is asked of, and how it counts.
fn write_quorum_tracker(ring: &Ring, partition: Partition, needed: u8) -> QuorumTracker {
    let quorum_tracker = QuorumTracker::new(ring.owners(partition), needed, true);
    ring.also(partition).map_or(quorum_tracker.clone(), |also| quorum_tracker.clone().with(also))
}

/// Every set of owners with which a write is acknowledged.
fn write_sets(ring: &Ring, partition: Partition, w: u8) -> Vec<BTreeSet<NodeId>> {
    let owners = ring.all_owners(partition);
    let sets = (0u32..1 << owners.len()).map(|bits| {
        let chosen = owners.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        chosen.map(|(_, owner)| *owner).collect::<BTreeSet<_>>()
    });
    sets.filter(|set| {
        let mut quorum_tracker = write_quorum_tracker(ring, partition, w);
        for owner in set {
            quorum_tracker.count(*owner);
        }
        quorum_tracker.reached()
    })
    .collect()
}

/// The first promise that two rings in force at once break.
fn missed(writer: &Ring, reader: &Ring) -> Option<String> {
    let n = writer.n();
    for partition in partitions(writer) {
        for w in 1..=n {
            let reads: Vec<NodeId> = reader.owners(partition).to_vec();
            for holders in write_sets(writer, partition, w) {
                let blind = reads.iter().filter(|owner| !holders.contains(owner)).count();
                // A read of the R owners that lack it would miss it.
                let r = n - w + 1;
                if blind >= usize::from(r) {
                    return Some(format!("W={w} at {holders:?} and R={r} of {reads:?}"));
                }
            }
        }
    }
    None
}

fn edits(members: usize) -> impl Strategy<Value = Vec<Edit>> {
    let edit = (0..4u8, 0..members, 1..=300u16);
    proptest::collection::vec(edit, 1..=3).prop_map(move |drawn| {
        let mut taken = BTreeSet::new();
        let mut edits = Vec::new();
        for (at, (kind, who, weight)) in drawn.into_iter().enumerate() {
            if !taken.insert(who) {
                continue;
            }
            let new = node(100 + at);
            edits.push(match kind {
                0 => Edit::Join(RingMember { weight, ..RingMember::plain(new) }),
                1 => Edit::Leave(node(who)),
                2 => Edit::Set(RingMember { weight, ..RingMember::plain(node(who)) }),
                _ => Edit::Replace { old: node(who), new },
            });
        }
        edits
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, rng_seed: RngSeed::Fixed(23),
        ..ProptestConfig::default() })]

    /// M2, M3 and M19: only neighbours meet, each sees what the other one writes, and pairs are of
    /// one owner that goes and one that comes.
    #[test]
    fn rings_meet_if_and_only_if_every_read_of_one_sees_every_write_of_the_other(
        (members, edits) in (4..8usize).prop_flat_map(|members| (Just(members), edits(members))),
        n in 1..=3u8,
    ) {
        let old = old_ring(members, n, 8);
        let Ok(new) = target(&old, &edits) else { return Ok(()) };
        let rings = ladder(&old, &new);
        let changes = partitions(&old).any(|p| {
            let set = |ring: &Ring| ring.owners(p).iter().copied().collect::<BTreeSet<_>>();
            set(&old) != set(&new)
        });
        for (a, one) in rings.iter().enumerate() {
            for (b, other) in rings.iter().enumerate() {
                let near = a.abs_diff(b) <= 1;
                prop_assert!(one.meets(other) || !near || !changes);
                if one.meets(other) {
                    prop_assert_eq!(missed(one, other), None);
                } else {
                    prop_assert!(missed(one, other).is_some() || missed(other, one).is_some());
                }
                if changes && !near {
                    prop_assert!(!one.meets(other), "{} steps apart", a.abs_diff(b));
                }
            }
        }
        for partition in partitions(&old) {
            let before: BTreeSet<_> = old.owners(partition).iter().copied().collect();
            let after: BTreeSet<_> = new.owners(partition).iter().copied().collect();
            for ring in &rings[1..3] {
                let pairs = ring.pairs(partition);
                let goes: BTreeSet<_> = pairs.iter().map(|pair| pair.old).collect();
                let comes: BTreeSet<_> = pairs.iter().map(|pair| pair.new).collect();
                prop_assert_eq!(&goes, &before.difference(&after).copied().collect());
                prop_assert_eq!(&comes, &after.difference(&before).copied().collect());
                let all: BTreeSet<_> = ring.all_owners(partition).into_iter().collect();
                prop_assert_eq!(&all, &before.union(&after).copied().collect());
                prop_assert_eq!(ring.all_owners(partition).len(), all.len());
            }
        }
    }

    /// What is on disk and on the wire is the ring, in every step of a change.
    #[test]
    fn a_ring_in_a_change_comes_back_from_its_bytes(
        edits in edits(5),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let old = old_ring(5, 3, 8);
        let Ok(new) = target(&old, &edits) else { return Ok(()) };
        let mut digests = BTreeSet::new();
        for ring in ladder(&old, &new) {
            let bytes = encode(&ring);
            prop_assert_eq!(&decode::<Ring>(&bytes.clone().into()).unwrap(), &ring);
            prop_assert!(digests.insert(ring.digest()));
            let mut bytes = bytes.to_vec();
            let place = at.index(bytes.len());
            bytes[place] = byte;
            if let Ok(ring) = decode::<Ring>(&bytes.into()) {
                for partition in partitions(&ring) {
                    prop_assert_eq!(ring.owners(partition).len(), usize::from(ring.n()));
                    prop_assert!(ring.all_owners(partition).iter().all(|owner| ring.has(*owner)));
                }
            }
        }
    }
}

#[test]
fn a_change_goes_on_or_back_one_step_at_a_time_and_never_down() {
    let old = old_ring(4, 3, 8);
    let new = target(&old, &[Edit::Join(RingMember::plain(node(9)))]).unwrap();
    let [_, fill, turn, settled] = ladder(&old, &new);
    let steps: Vec<_> = [&old, &fill, &turn, &settled].map(|ring| ring.step()).into();
    assert_eq!(steps, [None, Some(Step::Fill), Some(Step::Turn), None]);
    let versions: Vec<u64> = [&old, &fill, &turn, &settled].map(Ring::version).into();
    assert_eq!(versions, [1, 2, 3, 4]);
    assert!(settled.forward().is_none() && settled.back().is_none() && old.back().is_none());
    for partition in partitions(&old) {
        assert_eq!(fill.owners(partition), old.owners(partition));
        assert_eq!(turn.owners(partition), new.owners(partition));
        assert_eq!(settled.owners(partition), new.owners(partition));
    }
    assert_eq!((settled.members(), fill.members().len()), (new.members(), 5));

    // Back from the turn through the fill to the old table, under later versions.
    let filling = turn.back().unwrap();
    assert_eq!((filling.step(), filling.version()), (Some(Step::Fill), 4));
    assert!(filling.is_cancelled() && filling.forward().is_none());
    let cancelled = filling.back().unwrap();
    assert!(cancelled.of_version(1).places_like(&old));
    assert!(turn.meets(&filling) && filling.meets(&old) && !turn.meets(&old));
    // Begun anew, with the same newcomer, twice.
    let mut ring = old.clone();
    for version in [2, 4] {
        let new = target(&ring, &[Edit::Join(RingMember::plain(node(9)))]).unwrap();
        let fill = ring.fill(&new, &[]).unwrap();
        assert_eq!(fill.version(), version);
        ring = fill.back().unwrap();
        assert!(ring.clone().of_version(1).places_like(&old));
    }
}

#[test]
fn a_ring_in_a_change_takes_no_other_change_but_a_replacement() {
    let old = old_ring(5, 3, 8);
    let new = target(&old, &[Edit::Join(RingMember::plain(node(9)))]).unwrap();
    let fill = old.fill(&new, &[node(4)]).unwrap();
    assert_eq!(fill.dead(), [node(4)]);
    assert_eq!(fill.next(new.members()), Err(RingError::Changing(2)));
    assert_eq!(fill.fill(&new, &[]), Err(RingError::Changing(2)));
    assert_eq!(old.fill(&new, &[node(9)]), Err(RingError::Stranger(node(9))));
    let small = old_ring(5, 3, 16);
    assert_eq!(old.fill(&small, &[]), Err(RingError::Sizes(1, 1)));
    // Whoever dies meanwhile is replaced in both tables, and the step stays.
    let replaced = fill.replace(node(1), node(8)).unwrap();
    assert_eq!((replaced.step(), replaced.version()), (Some(Step::Fill), 3));
    assert!(!replaced.has(node(1)) && replaced.has(node(8)));
    let turned = replaced.forward().unwrap();
    let name = |id: &NodeId| if *id == node(1) { node(8) } else { *id };
    for partition in partitions(&old) {
        let expected: Vec<NodeId> = new.owners(partition).iter().map(name).collect();
        assert_eq!(turned.owners(partition), expected);
    }
}

#[test]
fn a_plan_names_what_moves_and_what_makes_it_impossible() {
    let zone = |number: usize| Some(Zone::of(["a", "b", "c"][number % 3]));
    let members: Vec<RingMember> =
        (0..6).map(|at| RingMember { zone: zone(at), ..RingMember::plain(node(at)) }).collect();
    let old = Ring::place(&members, 3, 64).unwrap();
    let newcomer = RingMember { zone: zone(0), ..RingMember::plain(node(9)) };
    let edits = [Edit::Join(newcomer), Edit::Leave(node(1))];
    let new = target(&old, &edits).unwrap();
    let plan = RingPlan::new(&old, &new, &[], |_| 1_000, |_| Some(40_000)).unwrap();
    assert_eq!(plan.moves.len(), new.moves_from(&old));
    assert_eq!(plan.bytes, 1_000 * plan.moves.len() as u64);
    assert_eq!(plan.fewest_zones, (3, 3));
    let of = |id| plan.members.iter().find(|member| member.id == id).unwrap();
    assert_eq!(of(node(1)).after, 0);
    assert_eq!(of(node(1)).loses.0, of(node(1)).before);
    assert_eq!(of(node(9)).gains, (of(node(9)).after, 1_000 * of(node(9)).after as u64));
    let after: BTreeMap<NodeId, usize> = plan.members.iter().map(|m| (m.id, m.after)).collect();
    assert!(new.members().iter().all(|member| after[&member.id] == new.share(member.id)));
    assert_eq!(plan.faults, []);

    let tight =
        RingPlan::new(&old, &new, &[], |_| 1_000, |id| (id == node(9)).then_some(1)).unwrap();
    let coming = of(node(9)).gains.1;
    assert_eq!(tight.faults, [PlanFault::Room { member: node(9), coming, room: 1 }]);
    assert_eq!(tight.digest, plan.digest, "what disks have left does not name another plan");
    let without = RingPlan::new(&old, &new, &[node(1)], |_| 1_000, |_| None).unwrap();
    assert_ne!(without.digest, plan.digest);
    let nothing = RingPlan::new(&old, &old, &[], |_| 1_000, |_| None).unwrap();
    assert_eq!((nothing.faults, nothing.moves.len()), (vec![PlanFault::Nothing], 0));
}

#[test]
fn two_dead_of_five_and_the_dead_one_of_two_are_replaced_by_one_plan() {
    let five = old_ring(5, 3, 16);
    let replace = |old, new| Edit::Replace { old: node(old), new: node(new) };
    let new = target(&five, &[replace(0, 7), replace(1, 8)]).unwrap();
    let plan = RingPlan::new(&five, &new, &[node(0), node(1)], |_| 1, |_| None).unwrap();
    assert!(plan.moves.iter().all(|(_, pair)| {
        let heir = if pair.old == node(0) { node(7) } else { node(8) };
        pair.new == heir
    }));
    assert_eq!(plan.moves.len(), five.share(node(0)) + five.share(node(1)));
    let two = old_ring(2, 2, 16);
    let new = target(&two, &[replace(1, 7)]).unwrap();
    let fill = two.fill(&new, &[node(1)]).unwrap();
    assert_eq!(fill.pairs(Partition(3)).len(), 1);
}

#[test]
fn edits_that_contradict_each_other_or_name_nobody_are_refused() {
    let old = old_ring(3, 3, 8);
    let join = |number| Edit::Join(RingMember::plain(node(number)));
    assert_eq!(target(&old, &[join(0)]), Err(RingError::Duplicate));
    assert_eq!(target(&old, &[join(7), join(7)]), Err(RingError::Duplicate));
    assert_eq!(target(&old, &[Edit::Leave(node(7))]), Err(RingError::Stranger(node(7))));
    let set = Edit::Set(RingMember::plain(node(7)));
    assert_eq!(target(&old, &[set]), Err(RingError::Stranger(node(7))));
    let few = RingError::TooFewMembers { n: 3, members: 2 };
    assert_eq!(target(&old, &[Edit::Leave(node(0))]), Err(few));
    let heavy = RingMember { weight: 0, ..RingMember::plain(node(7)) };
    assert_eq!(target(&old, &[Edit::Join(heavy)]), Err(RingError::Weight(0)));
    let both = [Edit::Leave(node(0)), Edit::Replace { old: node(0), new: node(7) }];
    assert_eq!(target(&old, &both), Err(RingError::Duplicate));
    // One that leaves makes room for one that joins.
    assert!(target(&old, &[Edit::Leave(node(0)), join(7)]).is_ok());
}
