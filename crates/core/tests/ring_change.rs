//! The rings of a change, one step apart: which may be in force at once, and that every write of
//! one is seen by every read of the other.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use pixii_core::quorum::QuorumTracker;
use pixii_core::ring::{Edit, Ring, RingError, RingMember, Step, target};
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

/// The rings of a change, one after the other; the last one is settled.
fn ladder(old: &Ring, target: &Ring) -> Vec<Ring> {
    let mut rings = vec![old.clone(), old.fill(target).unwrap()];
    while let Some(next) = rings.last().unwrap().forward() {
        rings.push(next);
    }
    rings
}

/// Every ring that may come of a change, by steps and cancellations.
fn all_rings(old: &Ring, target: &Ring) -> Vec<Ring> {
    let mut rings = ladder(old, target);
    for ring in rings.clone() {
        let mut undone = ring.cancelled();
        while let Some(ring) = undone {
            undone = ring.forward();
            rings.push(ring);
        }
    }
    rings
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

    /// Neighbours see what each other writes, and so do any two rings in a change.
    #[test]
    fn rings_meet_only_if_every_read_of_one_sees_every_write_of_the_other(
        (members, edits) in (4..8usize).prop_flat_map(|members| (Just(members), edits(members))),
        n in 1..=3u8,
    ) {
        let old = old_ring(members, n, 8);
        let edits: Vec<Edit> =
            edits.into_iter().filter(|edit| !matches!(edit, Edit::Replace { .. })).collect();
        let Ok(new) = target(&old, &edits) else { return Ok(()) };
        let rings = all_rings(&old, &new);
        for one in &rings {
            for other in &rings {
                if one.meets(other) {
                    prop_assert_eq!(missed(one, other), None, "{:?} {:?}", one, other);
                    prop_assert_eq!(missed(other, one), None, "{:?} {:?}", one, other);
                }
                if one.step().is_some() && other.step().is_some() {
                    prop_assert!(one.meets(other), "{:?} {:?}", one.step(), other.step());
                }
            }
            for next in one.forward().into_iter().chain(one.cancelled()) {
                prop_assert!(one.meets(&next), "{:?} {:?}", one.step(), next.step());
                prop_assert!(next.id() > one.id());
            }
        }
        for partition in partitions(&old) {
            let before: BTreeSet<_> = old.owners(partition).iter().copied().collect();
            let after: BTreeSet<_> = new.owners(partition).iter().copied().collect();
            for ring in rings.iter().filter(|ring| ring.step().is_some()) {
                let all: BTreeSet<_> = ring.all_owners(partition).into_iter().collect();
                prop_assert_eq!(&all, &before.union(&after).copied().collect());
                let pairs = ring.pairs(partition);
                let olds: BTreeSet<_> = pairs.iter().map(|pair| pair.old).collect();
                let news: BTreeSet<_> = pairs.iter().map(|pair| pair.new).collect();
                let (goes, comes) = (&before - &after, &after - &before);
                let same = (&olds, &news) == (&goes, &comes) || (&olds, &news) == (&comes, &goes);
                prop_assert!(same, "{:?}", pairs);
            }
        }
    }

    /// The order of edits makes no difference.
    #[test]
    fn edits_in_any_order_make_the_same_ring(edits in edits(5), turn in 0..3usize) {
        let old = old_ring(5, 3, 8);
        let mut turned = edits.clone();
        let turn = turn.min(edits.len());
        turned.rotate_left(turn);
        prop_assert_eq!(old.begin(&edits), old.begin(&turned));
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
fn a_change_goes_on_one_step_at_a_time_and_back_from_the_fill_and_the_turn() {
    let old = old_ring(4, 3, 8);
    let join = [Edit::Join(RingMember::plain(node(9)))];
    let new = target(&old, &join).unwrap();
    let rings = ladder(&old, &new);
    let steps: Vec<_> = rings.iter().map(Ring::step).collect();
    let middle = [Step::Fill, Step::Turn, Step::End].map(Some);
    assert_eq!(steps, [&[None], &middle[..], &[None]].concat());
    let versions: Vec<u64> = rings.iter().map(Ring::version).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5]);
    assert_eq!(old.begin(&join).as_ref(), Ok(&rings[1]));
    for partition in partitions(&old) {
        let reads = |ring: &Ring| ring.owners(partition).to_vec();
        assert_eq!([0, 1].map(|at: usize| reads(&rings[at])), [reads(&old), reads(&old)]);
        assert!((2..5).all(|at| reads(&rings[at]) == reads(&new)));
    }
    assert!(rings[4].has(node(9)));
    for at in [1, 2] {
        let undo = rings[at].cancelled().unwrap();
        assert_eq!((undo.step(), undo.cancelled()), (Some(Step::Undo), None));
        let settled = undo.forward().unwrap();
        assert_eq!((settled.step(), settled.has(node(9))), (None, false));
        for partition in partitions(&old) {
            assert_eq!(settled.owners(partition), old.owners(partition));
        }
        // Begun anew, with the same newcomer.
        assert_eq!(settled.begin(&join).unwrap().version(), settled.version() + 1);
    }
    assert!([0, 3, 4].iter().all(|at: &usize| rings[*at].cancelled().is_none()));
}

#[test]
fn a_ring_in_a_change_takes_no_other_change_but_a_replacement() {
    let old = old_ring(5, 3, 8);
    let join = |number| Edit::Join(RingMember::plain(node(number)));
    let fill = old.begin(&[join(9)]).unwrap();
    assert_eq!(fill.begin(&[join(10)]), Err(RingError::Changing(2)));
    assert_eq!(fill.begin(&[]), Err(RingError::Changing(2)));
    assert_eq!(old.begin(&[]), Err(RingError::Unchanged));
    let small = old_ring(5, 3, 16);
    assert_eq!(old.fill(&small), Err(RingError::Sizes(1, 1)));
    // Whoever is gone meanwhile is replaced in both tables, and the step stays.
    let replace = [Edit::Replace { old: node(1), new: node(8) }];
    let name = |id: &NodeId| if *id == node(1) { node(8) } else { *id };
    for ring in all_rings(&old, &target(&old, &[join(9)]).unwrap()) {
        if ring.step().is_none() {
            continue;
        }
        let replaced = ring.begin(&replace).unwrap();
        assert_eq!((replaced.step(), replaced.version()), (ring.step(), ring.version() + 1));
        assert!(!replaced.has(node(1)) && replaced.has(node(8)));
        for partition in partitions(&old) {
            let expected: Vec<NodeId> = ring.owners(partition).iter().map(name).collect();
            assert_eq!(replaced.owners(partition), expected);
        }
    }
}

#[test]
fn two_gone_of_five_and_the_one_gone_of_two_are_replaced_by_one_change() {
    let replace = |old, new| Edit::Replace { old: node(old), new: node(new) };
    let five = old_ring(5, 3, 16);
    let begun = five.begin(&[replace(0, 7), replace(1, 8)]).unwrap();
    let heir = |id: &NodeId| match *id {
        id if id == node(0) => node(7),
        id if id == node(1) => node(8),
        id => id,
    };
    for partition in partitions(&five) {
        let expected: Vec<NodeId> = five.owners(partition).iter().map(heir).collect();
        assert_eq!(begun.owners(partition), expected);
    }
    assert!(begun.moves_nothing());
    let settled = begun.forward().unwrap();
    assert_eq!((settled.step(), settled.version()), (None, 3));
    let two = old_ring(2, 2, 16);
    let begun = two.begin(&[replace(1, 7)]).unwrap();
    assert!(begun.has(node(7)) && !begun.has(node(1)));
}

#[test]
fn who_is_removed_has_no_place_in_any_ring_of_the_change() {
    let old = old_ring(5, 3, 16);
    for ring in ladder(&old, &target(&old, &[Edit::Remove(node(2))]).unwrap()).into_iter().skip(4) {
        assert!(!ring.has(node(2)));
    }
    let begun = old.begin(&[Edit::Remove(node(2))]).unwrap();
    for partition in partitions(&old) {
        let all = begun.all_owners(partition);
        assert!(!all.contains(&node(2)) && begun.owners(partition).len() == 3, "{all:?}");
    }
    assert!(!begun.has(node(2)));
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
