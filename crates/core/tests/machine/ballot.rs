//! Grants: who may make the next ring, and that at most one is made.

use std::collections::BTreeSet;

use pixii_core::members::Member;
use pixii_core::message::Body;
use pixii_core::node::{Config, Hindrance, Input, Output, RingChange, RingOrder};
use pixii_core::ring::{Edit, Ring, RingError, RingId, RingMember};
use pixii_core::store::Record;
use pixii_core::types::NodeId;

use super::bench::Bench;
use super::placement::{fresh, reported, taken};

/// The one message that is sent, and to whom.
pub(super) fn sent(out: &[Output]) -> (&[NodeId], u64, &Body) {
    match out {
        [Output::Send { to, message }] => (to, message.request_id.wire(), &message.body),
        other => panic!("not one message: {other:?}"),
    }
}

/// The order to give the places of a member to the newcomer.
pub(super) fn replace(old: NodeId) -> Input {
    let edits = vec![Edit::Replace { old, new: fresh().id() }];
    Input::Ring(RingOrder::Begin { edits, newcomers: vec![fresh()] })
}

/// The ring that begins with that order.
pub(super) fn replaced(ring: &Ring, old: NodeId) -> Ring {
    ring.begin(&[Edit::Replace { old, new: fresh().id() }]).unwrap()
}

fn query(ring: &Ring, next: u64) -> Body {
    Body::QueryChange { ring: ring.id(), next, newcomers: Vec::new() }
}

fn is_granted(out: &[Output]) -> bool {
    matches!(sent(out).2, Body::RingGranted)
}

fn denied_by(out: &[Output]) -> NodeId {
    match sent(out).2 {
        Body::RingDenied { by } => *by,
        other => panic!("not denied: {other:?}"),
    }
}

fn hindrance(out: &[Output]) -> &Hindrance {
    let ordered = |output| match output {
        &Output::RingOrdered(Err(ref why)) => Some(why),
        _ => None,
    };
    out.iter().find_map(ordered).unwrap_or_else(|| panic!("not refused: {out:?}"))
}

/// All members say which ring their messages are of, and the newcomer is linked.
pub(super) fn speak(bench: &mut Bench) {
    bench.give(Input::Link { peer: fresh().id(), up: true });
    for peer in bench.peers() {
        bench.peer(peer, 1, Body::QueryHints);
    }
}

#[test]
fn a_ring_changes_only_with_the_grants_of_more_than_half_of_the_members() {
    let mut bench = Bench::new();
    speak(&mut bench);
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let out = bench.give(replace(three));
    let (to, request_id, body) = sent(&out);
    let next = replaced(&bench.ring, three).digest();
    let (ring, newcomers) = (bench.ring.id(), vec![fresh()]);
    assert_eq!(
        (to, body),
        (&[one, two][..], &Body::QueryChange { ring, next, newcomers }),
        "all but the one that goes"
    );
    assert!(bench.peer(one, request_id + 1, Body::RingGranted).is_empty(), "for another question");
    assert!(bench.peer(fresh().id(), request_id, Body::RingGranted).is_empty(), "no member");
    // Two of three that stay are more than half of them, and half of all.
    let out = bench.peer(one, request_id, Body::RingGranted);
    assert!(taken(&out).1.has(fresh().id()));
    // From then on it grants nothing, and takes no order.
    assert_eq!(denied_by(&bench.peer(one, 9, query(&bench.ring, 7))), bench.me);
    let edits = vec![Edit::Replace { old: two, new: NodeId::of("n8") }];
    let newcomers = vec![Member::configured("n8", "host:8")];
    let out = bench.give(Input::Ring(RingOrder::Begin { edits, newcomers }));
    assert!(matches!(hindrance(&out), Hindrance::Other(None, _)), "{out:?}");
}

#[test]
fn half_of_all_members_have_to_grant_it_however_many_are_gone() {
    let mut bench = Bench::new();
    speak(&mut bench);
    let [one, two, three] = bench.peers()[..] else { panic!() };
    // With two of four gone, one of the two that stay is not enough, and it alone is half of them.
    let gone = [two, three].into_iter().zip(["n8", "n9"]);
    let edits = gone.clone().map(|(old, new)| Edit::Replace { old, new: NodeId::of(new) });
    let newcomers = gone.map(|(_, new)| Member::configured(new, format!("{new}:1"))).collect();
    let order = RingOrder::Begin { edits: edits.collect(), newcomers };
    let out = bench.give(Input::Ring(order));
    let (to, request_id, _) = sent(&out);
    assert_eq!(to, [one]);
    assert!(bench.tick(1_000).iter().all(|output| !matches!(output, Output::Store(_))));
    for new in ["n8", "n9"] {
        bench.give(Input::Link { peer: NodeId::of(new), up: true });
    }
    taken(&bench.peer(one, request_id, Body::RingGranted));
}

#[test]
fn a_granted_change_is_made_once_its_newcomers_are_linked_or_were_waited_for() {
    let order = || {
        let join = Edit::Join(RingMember::plain(fresh().id()));
        Input::Ring(RingOrder::Begin { edits: vec![join], newcomers: vec![fresh()] })
    };
    let granted = || {
        let mut bench = Bench::new();
        for peer in bench.peers() {
            bench.peer(peer, 1, Body::QueryHints);
        }
        let mut out = Vec::new();
        bench.node.handle(bench.now, order(), &mut out);
        let dials = |output: &Output| match output {
            Output::Members(members) => members.get(fresh().id()).is_some(),
            _ => false,
        };
        assert!(out.iter().any(dials), "the driver hears of them at once: {out:?}");
        assert!(bench.node.members().get(fresh().id()).is_none(), "they are no members yet");
        out.retain(|output| matches!(output, Output::Send { .. }));
        let (to, request_id, _) = sent(&out);
        for from in &to[..2] {
            let out = bench.peer(*from, request_id, Body::RingGranted);
            assert!(out.is_empty(), "nothing is durable before the links are up: {out:?}");
        }
        (bench, to.to_vec(), request_id)
    };
    let (mut bench, ..) = granted();
    taken(&bench.give(Input::Link { peer: fresh().id(), up: true }));
    let (mut bench, ..) = granted();
    assert!(bench.tick(400).iter().all(|output| !matches!(output, Output::Store(_))));
    taken(&bench.tick(100));
    // A grant that is returned meanwhile is none.
    let (mut bench, to, request_id) = granted();
    bench.peer(to[0], request_id, Body::RingDenied { by: to[0] });
    let out = bench.give(Input::Link { peer: fresh().id(), up: true });
    assert!(out.iter().all(|output| !matches!(output, Output::Store(_))), "{out:?}");
}

#[test]
fn a_change_without_enough_grants_is_given_up_and_what_was_granted_is_given_back() {
    let mut bench = Bench::new();
    speak(&mut bench);
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let join = Edit::Join(RingMember::plain(fresh().id()));
    let order = RingOrder::Begin { edits: vec![join], newcomers: vec![fresh()] };
    let out = bench.give(Input::Ring(order));
    let (to, request_id, _) = sent(&out);
    assert_eq!(BTreeSet::from_iter(to), BTreeSet::from([&one, &two, &three]));
    bench.peer(one, request_id, Body::RingGranted);
    let out = bench.tick(1_000);
    let queried = |output: &Output| match output {
        Output::Send { to, message } => {
            matches!(message.body, Body::QueryChange { .. }) && to.len() == 2 && !to.contains(&one)
        }
        _ => false,
    };
    assert!(out.iter().any(queried), "who has not granted it is asked again: {out:?}");
    assert!(!out.iter().any(|output| matches!(output, Output::RingOrdered(_))), "{out:?}");
    let out = bench.tick(2_500);
    assert_eq!(hindrance(&out), &Hindrance::Grants { granted: 2, members: 4, all: 4 });
    let given_back = |output: &Output| match output {
        Output::Send { to, message } => {
            matches!(message.body, Body::RingDenied { .. })
                && to[..] == [one]
                && message.request_id.wire() == request_id
        }
        _ => false,
    };
    assert!(out.iter().any(given_back), "{out:?}");
    // A grant that comes too late changes nothing, and is given back.
    let out = bench.peer(two, request_id, Body::RingGranted);
    assert_eq!((sent(&out).0, denied_by(&out)), (&[two][..], bench.me));
}

#[test]
fn a_member_grants_one_next_ring_at_a_time_to_all_that_would_make_it() {
    let mut bench = Bench::new();
    let [one, two, three] = bench.peers()[..] else { panic!() };
    let ring = bench.ring.clone();
    assert!(is_granted(&bench.peer(one, 7, query(&ring, 3))));
    assert!(is_granted(&bench.peer(one, 7, query(&ring, 3))), "asked again");
    assert_eq!(denied_by(&bench.peer(one, 8, query(&ring, 4))), one, "another ring");
    assert_eq!(denied_by(&bench.peer(two, 7, query(&ring, 4))), one);
    assert!(is_granted(&bench.peer(two, 7, query(&ring, 3))), "the same ring");
    let change = bench.node.ring_change().unwrap();
    assert!(change.next == 3 && [one, two].contains(&change.by));
    let out = bench.give(replace(three));
    assert!(matches!(hindrance(&out), Hindrance::Other(Some(other), _) if *other == change));
    // It is given back by each that has it, and by nobody else.
    bench.peer(three, 7, Body::RingDenied { by: three });
    bench.peer(one, 8, Body::RingDenied { by: one });
    assert_eq!(denied_by(&bench.peer(one, 9, query(&ring, 4))), two, "one still has it");
    bench.peer(two, 7, Body::RingDenied { by: two });
    assert!(is_granted(&bench.peer(two, 8, query(&ring, 4))));
    // Or it ends by itself.
    bench.tick(9_500);
    assert_eq!(denied_by(&bench.peer(one, 9, query(&ring, 3))), two);
    bench.tick(1_000);
    assert!(is_granted(&bench.peer(one, 9, query(&ring, 3))));
    // A member with another ring is answered nothing but no.
    let other = RingId { version: 1, digest: 5 };
    let asked = Body::QueryChange { ring: other, next: 3, newcomers: Vec::new() };
    assert_eq!(denied_by(&bench.peer(two, 9, asked)), bench.me);
}

#[test]
fn of_two_that_query_each_other_the_one_with_the_higher_id_yields() {
    let ids: Vec<NodeId> = (0..4).map(|at| NodeId::of(&format!("n{at}"))).collect();
    let (lowest, highest) = (*ids.iter().min().unwrap(), *ids.iter().max().unwrap());
    let other = |id: NodeId| ids.iter().copied().find(|known| *known != id).unwrap();
    let old = *ids.iter().find(|id| **id != lowest && **id != highest).unwrap();
    let order = |me: NodeId| {
        let mut bench = Bench::configured(1, |config| Config { me, ..config });
        for peer in ids.iter().copied().filter(|id| *id != me) {
            bench.peer(peer, 1, Body::QueryHints);
        }
        let out = bench.give(replace(old));
        assert!(matches!(out[..], [Output::Send { .. }]), "{out:?}");
        bench
    };
    let mut bench = order(lowest);
    let ring = bench.ring.clone();
    assert_eq!(denied_by(&bench.peer(other(lowest), 7, query(&ring, 3))), lowest);
    let mut bench = order(highest);
    let out = bench.peer(other(highest), 7, query(&ring, 3));
    let [Output::RingOrdered(Err(Hindrance::Other(Some(change), by))), rest @ ..] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((*change, *by), (RingChange { next: 3, by: other(highest) }, other(highest)));
    assert!(is_granted(rest));
    // Both would make the same ring: each grants the other.
    let mut bench = order(highest);
    let same = replaced(&ring, old).digest();
    assert!(is_granted(&bench.peer(other(highest), 7, query(&ring, same))));
}

#[test]
fn a_change_that_waits_for_grants_ends_with_the_ring_that_it_was_of() {
    let mut bench = Bench::new();
    speak(&mut bench);
    let [one, two, three] = bench.peers()[..] else { panic!() };
    bench.give(replace(three));
    let other = replaced(&bench.ring, two);
    let out = bench.peer(one, 1, reported(&other));
    assert!(matches!(hindrance(&out), Hindrance::Other(None, by) if *by == one), "{out:?}");
}

#[test]
fn orders_that_make_no_ring_are_refused() {
    let mut bench = Bench::new();
    let [one, ..] = bench.peers()[..] else { panic!() };
    let unknown = NodeId::of("n7");
    let out = bench.give(replace(unknown));
    assert_eq!(hindrance(&out), &Hindrance::Ring(RingError::Stranger(unknown)));
    let out = bench.give(replace(fresh().id()));
    assert_eq!(hindrance(&out), &Hindrance::Ring(RingError::Duplicate));
    let out = bench.give(replace(bench.me));
    assert_eq!(hindrance(&out), &Hindrance::NoPlace, "a node does not replace itself");
    let out = bench.give(Input::Ring(RingOrder::Cancel));
    assert_eq!(hindrance(&out), &Hindrance::NoCancel(None));
    let out = bench.give(Input::Ring(RingOrder::Dismiss(one)));
    assert_eq!(hindrance(&out), &Hindrance::NoGuest(one));
}

#[test]
fn beside_a_member_that_knows_no_ring_in_a_change_the_ring_is_not_changed() {
    let mut bench = Bench::at_start(1);
    let [one, two, three] = bench.peers()[..] else { panic!() };
    for (peer, birth) in bench.peers().into_iter().zip(2..) {
        bench.give(Input::Link { peer, up: true });
        let known = Body::Known { seen: None, birth, cluster: None };
        let out = bench.peer_under(RingId::UNSAID, peer, bench.introduction(), known);
        bench.disk(out, &Record::default());
        bench.peer_under(RingId::UNSAID, peer, 5, Body::Hints(0));
    }
    assert!(bench.node.is_settled());
    bench.peer(one, 1, Body::QueryHints);
    let out = bench.give(replace(three));
    assert_eq!(hindrance(&out), &Hindrance::Protocol(two));
    bench.peer(two, 1, Body::QueryHints);
    let out = bench.give(replace(three));
    assert!(matches!(sent(&out).2, Body::QueryChange { .. }));
}
