//! How a change of the ring comes to its end: what each step waits for, and how it is cancelled.

use pixii_core::members::{Member, Members, MembershipStatus};
use pixii_core::message::{Body, Rejection, RingProgress};
use pixii_core::node::{Done, Hindrance, Input, Output, RingOrder};
use pixii_core::ring::{Edit, Ring, RingId, RingMember, Step};
use pixii_core::types::NodeId;

use super::ballot::speak;
use super::bench::{Bench, put, rejection};
use super::placement::{fresh, introduce, taken};

/// Gives the grants that are asked for; returns the ring that is in force then.
fn grant(bench: &mut Bench, out: &[Output]) -> Ring {
    let asked = |output: &Output| match output {
        Output::Send { to, message } if matches!(message.body, Body::QueryChange { .. }) => {
            Some((to.clone(), message.request_id.wire()))
        }
        _ => None,
    };
    let (to, request_id) = out.iter().find_map(asked).unwrap_or_else(|| panic!("{out:?}"));
    let mut granted = Vec::new();
    for from in to {
        granted.extend(bench.peer(from, request_id, Body::RingGranted));
    }
    let (seq, ring, _) = taken(&granted);
    let ring = ring.clone();
    bench.give(Input::Store(Done::Synced { seq }));
    assert_eq!(bench.node.ring_id(), ring.id());
    ring
}

fn is_asked(out: &[Output], next: &Ring) -> bool {
    let digest = next.digest();
    out.iter().any(|output| match output {
        Output::Send { message, .. } => {
            matches!(message.body, Body::QueryChange { next, .. } if next == digest)
        }
        _ => false,
    })
}

/// A node that has begun the join of a newcomer.
fn filling() -> (Bench, Ring) {
    let mut bench = Bench::new();
    speak(&mut bench);
    let join = Edit::Join(RingMember::plain(fresh().id()));
    let order = RingOrder::Begin { edits: vec![join], newcomers: vec![fresh()] };
    let out = bench.give(Input::Ring(order));
    let fill = grant(&mut bench, &out);
    assert_eq!(fill.step(), Some(Step::Fill));
    (bench, fill)
}

fn others(bench: &Bench) -> Vec<NodeId> {
    bench.peers().into_iter().chain([fresh().id()]).collect()
}

fn confirm(bench: &mut Bench, from: NodeId, ring: RingId) {
    let cluster = bench.node.meta().cluster.as_ref().map(|cluster| cluster.id);
    bench.peer_under(ring, from, 8, introduce(ring, cluster));
}

fn report(bench: &mut Bench, from: NodeId, ring: RingId, ineligible: u32) {
    let progress = RingProgress { ineligible, empty: false };
    bench.peer_under(ring, from, 1, Body::Progress(progress));
}

/// All have confirmed the ring in force, and have all that they should have.
fn all_done(bench: &mut Bench) {
    let ring = bench.node.ring_id();
    bench.give(Input::Link { peer: fresh().id(), up: true });
    for from in others(bench) {
        confirm(bench, from, ring);
        report(bench, from, ring, 0);
    }
}

#[test]
fn readers_turn_to_the_new_owners_when_all_have_confirmed_the_ring_and_have_what_they_should() {
    for missing in 0..4 {
        let (mut bench, fill) = filling();
        let turn = fill.forward().unwrap();
        bench.give(Input::Link { peer: fresh().id(), up: true });
        let all = others(&bench);
        let late = all[missing];
        for from in all.iter().copied() {
            if from != late {
                confirm(&mut bench, from, fill.id());
            }
            report(&mut bench, from, fill.id(), u32::from(from == late));
        }
        assert!(!is_asked(&bench.tick(1_000), &turn), "{late:?} may act on an older ring");
        confirm(&mut bench, late, fill.id());
        assert!(!is_asked(&bench.tick(1_000), &turn), "{late:?} has yet to be filled");
        let before = bench.ring.id();
        bench.peer_under(before, late, 1, Body::Progress(RingProgress::default()));
        assert!(!is_asked(&bench.tick(1_000), &turn), "it had that under another ring");
        report(&mut bench, late, fill.id(), 0);
        let out = bench.tick(1_000);
        assert!(is_asked(&out, &turn), "{out:?}");
        assert_eq!(grant(&mut bench, &out), turn);
    }
}

#[test]
fn a_change_goes_on_to_its_end_and_the_newcomer_is_a_member() {
    let (mut bench, fill) = filling();
    let membership = |bench: &Bench| bench.node.members().get(fresh().id()).unwrap().membership;
    assert_eq!(format!("{:?}", membership(&bench)), "Joining");
    let mut ring = fill;
    while let Some(next) = ring.forward() {
        all_done(&mut bench);
        let out = bench.tick(1_000);
        assert!(is_asked(&out, &next), "behind {:?}: {out:?}", ring.step());
        ring = grant(&mut bench, &out);
        assert_eq!(ring, next);
        assert_eq!(format!("{:?}", membership(&bench)), "Member");
    }
    assert_eq!((ring.step(), ring.version()), (None, 5));
    assert!(ring.has(fresh().id()));
}

#[test]
fn a_change_is_cancelled_in_the_fill_and_in_the_turn_and_not_behind_them() {
    let cancel = |bench: &mut Bench| bench.give(Input::Ring(RingOrder::Cancel));
    for steps in 0..2 {
        let (mut bench, mut ring) = filling();
        for _ in 0..steps {
            all_done(&mut bench);
            let out = bench.tick(1_000);
            ring = grant(&mut bench, &out);
        }
        let out = cancel(&mut bench);
        let undo = grant(&mut bench, &out);
        assert_eq!((undo.step(), &undo), (Some(Step::Undo), &ring.cancelled().unwrap()));
        all_done(&mut bench);
        let out = bench.tick(1_000);
        let settled = grant(&mut bench, &out);
        assert!(settled.step().is_none() && !settled.has(fresh().id()));
        for partition in (0..16).map(pixii_core::types::Partition) {
            assert_eq!(settled.owners(partition), bench.ring.owners(partition));
        }
        // The newcomer may be dismissed.
        let out = bench.give(Input::Ring(RingOrder::Dismiss(fresh().id())));
        let done = |output: &Output| matches!(output, Output::RingOrdered(Ok(_)));
        assert!(out.iter().any(done), "{out:?}");
    }
    let (mut bench, _) = filling();
    for _ in 0..2 {
        all_done(&mut bench);
        let out = bench.tick(1_000);
        grant(&mut bench, &out);
    }
    let out = cancel(&mut bench);
    let refused = |output: &Output| match output {
        Output::RingOrdered(Err(why)) => *why == Hindrance::NoCancel(Some(Step::End)),
        _ => false,
    };
    assert!(out.iter().any(refused), "{out:?}");
}

#[test]
fn nothing_is_compared_or_granted_between_members_with_different_rings() {
    let (mut bench, fill) = filling();
    let [one, ..] = bench.peers()[..] else { panic!() };
    let before = bench.ring.id();
    let out = bench.peer_under(
        before,
        one,
        9,
        Body::QueryChange { ring: before, next: 3, newcomers: vec![] },
    );
    let denied = |output: &Output| match output {
        Output::Send { message, .. } => matches!(message.body, Body::RingDenied { .. }),
        _ => false,
    };
    assert!(out.iter().any(denied), "{out:?}");
    let gc_epoch = pixii_core::gc_epoch::GcEpoch::FIRST;
    let (partition, purgeable) = (pixii_core::types::Partition(0), Vec::new());
    let members = bench.node.members().digest();
    let propose = Body::Propose { partition, gc_epoch, members, purgeable };
    let agrees = |out: &[Output]| {
        let agreed = |output: &Output| match output {
            Output::Send { message, .. } => message.body == Body::Agreed,
            _ => false,
        };
        out.iter().any(agreed)
    };
    assert!(!agrees(&bench.peer_under(before, one, 9, propose)));
    assert_eq!(bench.node.ring_id(), fill.id());
}

#[test]
fn a_node_on_its_way_out_refuses_requests_so_that_they_go_to_others() {
    let mut bench = Bench::new();
    let mut ring = bench.ring.begin(&[Edit::Leave(bench.me)]).unwrap();
    while let Some(next) = ring.forward() {
        let request = put(&bench.key(true), 1);
        let out = bench.query(request);
        assert!(!matches!(&out[..], [Output::Reply { .. }]), "it has its places still: {out:?}");
        let (membership, version) = (MembershipStatus::Leaving, next.version());
        let member = |member: &Member| match next.has(member.id()) {
            true => member.clone(),
            false => Member { membership, version, ..member.clone() },
        };
        let members = Members::new(bench.node.members().iter().map(member).collect());
        let out = bench.peer(bench.peers()[0], 1, Body::Placement { ring: next.clone(), members });
        let seq = taken(&out).0;
        bench.give(Input::Store(Done::Synced { seq }));
        ring = next;
    }
    assert_eq!((ring.step(), bench.node.ring_id()), (None, ring.id()));
    let out = bench.query(put(&bench.key(true), 2));
    assert_eq!(rejection(&out), &Rejection::Stopping);
}
